// Any header, any payload, any number of descriptors of any kind through the codec.
// Input: number of descriptors (low 4 bits), bit 7: a message of the back-end; the descriptors' kinds (2 bits each, in
// the next four bytes), then header and payload.
#include "vhost_user/codec.h"
#include "vhost_user/test_support.h"

#include <fcntl.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

namespace causeway::vhost_user::testing {
namespace {

constexpr std::size_t kPreamble = 5;

std::vector<OwnedFd> make_fds(std::span<const std::byte> preamble) {
  static const EventFd event = *EventFd::make();
  static const OwnedFd file = *make_memfd("fuzz", 4096);
  static const auto pair = *UnixSocket::make_pair();
  static const OwnedFd null = OwnedFd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const OwnedFd* const kinds[] = {&event.fd(), &file, &pair.first.fd(), &null};
  const auto count = std::to_integer<unsigned>(preamble[0]) & 0xf;
  std::vector<OwnedFd> fds;
  for (unsigned i = 0; i < count; ++i) {
    const auto packed = std::to_integer<unsigned>(preamble[1 + i / 4]);
    fds.push_back(*kinds[(packed >> (i % 4 * 2)) & 3]->duplicate());
  }
  return fds;
}

/// What we would send as a front-end is what we take as a back-end, and says the same.
void check_round_trip(const FrontendMessage& message) {
  const Outgoing out = encode(message, false);
  std::vector<OwnedFd> fds;
  for (const OwnedFd* fd : out.fds) fds.push_back(*fd->duplicate());
  const std::span<const std::byte> bytes(out.bytes);
  const auto header = decode_header(bytes.first<kHeaderSize>());
  if (!header) std::abort();
  const auto again = decode(*header, bytes.subspan(kHeaderSize), std::move(fds));
  if (!again || encode(*again, false).bytes != out.bytes) std::abort();
}

void run_backend_message(std::span<const std::byte> input, std::vector<OwnedFd> fds) {
  const auto header = decode_header(input.first<kHeaderSize>(), HeaderOf::backend_message);
  input = input.subspan(kHeaderSize);
  if (!header || header->size > input.size()) return;
  ReplyFiles files{.count = fds.size(), .first = {}};
  if (!fds.empty()) files.first = std::make_shared<const OwnedFd>(std::move(fds.front()));
  const auto message = decode_backend_message(*header, input.first(header->size), files);
  if (!message && message.error().what.empty()) std::abort();
  if (!message) return;
  const Outgoing out = encode(*message, false);
  const std::span<const std::byte> bytes(out.bytes);
  const auto again = decode_header(bytes.first<kHeaderSize>(), HeaderOf::backend_message);
  const auto file = message->area ? message->area->fd : message->group;
  if (!again || out.fds.size() != (file ? 1 : 0)) std::abort();
  const ReplyFiles sent{.count = out.fds.size(), .first = file};
  if (*message != *decode_backend_message(*again, bytes.subspan(kHeaderSize), sent)) std::abort();
}

void run(std::span<const std::byte> input) {
  if (input.size() < kPreamble + kHeaderSize) return;
  auto fds = make_fds(input.first(kPreamble));
  const bool is_from_backend = (std::to_integer<unsigned>(input[0]) & 0x80) != 0;
  input = input.subspan(kPreamble);
  if (is_from_backend) return run_backend_message(input, std::move(fds));
  const auto header = decode_header(input.first<kHeaderSize>());
  input = input.subspan(kHeaderSize);
  if (!header || header->size > input.size()) return;
  const auto message = decode(*header, input.first(header->size), std::move(fds));
  // What is refused says why, in words that begin with the message.
  if (!message && message.error().what.empty()) std::abort();
  if (message) check_round_trip(*message);
}

}  // namespace
}  // namespace causeway::vhost_user::testing

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  causeway::vhost_user::testing::run(std::as_bytes(std::span(data, size)));
  return 0;
}
