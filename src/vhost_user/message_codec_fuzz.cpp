// Any header, any payload, any number of descriptors of any kind through the codec.
// Input: number of descriptors (low 4 bits) and their kinds (2 bits each, in the next four bytes), then header and
// payload.
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

void run(std::span<const std::byte> input) {
  if (input.size() < kPreamble + kHeaderSize) return;
  auto fds = make_fds(input.first(kPreamble));
  input = input.subspan(kPreamble);
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
