// What a client sends, with descriptors, against a connection to a function of plain memory.
// Input: one byte, whose bit 0 says that VERSION has been agreed on; then records. A record is: one byte of command,
// one byte of flags and descriptors (bits 0-1: a command, one without reply, a reply, one whose header says the size in
// the payload's first byte; bits 4-5: how many descriptors; bits 6-7: their kind), one byte of payload size, then that
// payload. Command 255 sends the payload as raw bytes. When the input ends, the client hangs up.
#include "base/log.h"
#include "vfio_user/fake_function_fixture.h"

#include <array>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace causeway::vfio_user::testing {
namespace {

constexpr unsigned kRaw = 255;

void require(bool holds) {
  if (!holds) std::abort();
}

struct Record {
  unsigned command;
  unsigned how;
  std::span<const std::byte> payload;
};

std::optional<Record> next_record(std::span<const std::byte>& input) {
  if (input.size() < 3) return std::nullopt;
  const auto size = std::min<std::size_t>(std::to_integer<std::size_t>(input[2]), input.size() - 3);
  const Record record{.command = std::to_integer<unsigned>(input[0]),
                      .how = std::to_integer<unsigned>(input[1]),
                      .payload = input.subspan(3, size)};
  input = input.subspan(3 + size);
  return record;
}

class Target {
 public:
  Target() {
    auto [ours, theirs] = *UnixSocket::make_pair();
    peer_.emplace(std::move(theirs));
    connection_.emplace(loop_, function_, "fuzz", std::move(ours), [this](const Error&) { connection_.reset(); });
  }

  void run(std::span<const std::byte> input) {
    const bool greets = !input.empty() && (std::to_integer<unsigned>(input[0]) & 1) != 0;
    if (!input.empty()) input = input.subspan(1);
    if (greets) {
      wire::Header header{.id = 0, .command = std::to_underlying(Command::version), .size = 0, .flags = 0, .error = 0};
      require(send(*peer_, header, encode_version({})).has_value());
      turn();
    }
    while (connection_) {
      const auto record = next_record(input);
      if (!record) break;
      say(*record);
      turn();
      check_maps();
    }
    peer_.reset();
    turn();
    require(!connection_);
    require(function_.maps.empty() && function_.vectors.empty());
  }

 private:
  void say(const Record& record) {
    const std::array<const OwnedFd*, 4> kinds{&memory_, &event_.fd(), &stray_.first.fd(), &short_memory_};
    const std::vector<const OwnedFd*> fds((record.how >> 4) & 3, kinds[record.how >> 6]);
    Bytes bytes;
    if (record.command != kRaw) {
      wire::Header header{.id = 7,
                          .command = static_cast<std::uint16_t>(record.command),
                          .size = static_cast<std::uint32_t>(sizeof(wire::Header) + record.payload.size()),
                          .flags = 0,
                          .error = 0};
      const unsigned kind = record.how & 3;
      if (kind == 1) header.flags = wire::kNoReply;
      if (kind == 2) header.flags = wire::kReply;
      if (kind == 3 && !record.payload.empty()) header.size = std::to_integer<std::uint32_t>(record.payload[0]);
      append(bytes, header);
    }
    bytes.insert(bytes.end(), record.payload.begin(), record.payload.end());
    // A connection that has ended refuses it: as good an end of the run as any.
    if (!bytes.empty()) [[maybe_unused]]
      const auto sent = peer_->send(bytes, fds);
  }

  /// Lets the server do all that it has been told, and throws its answers away.
  void turn() {
    for (int i = 0; i < 100 && loop_.run_ready(); ++i) continue;
    Bytes replies(4096);
    while (peer_) {
      const auto read = peer_->receive(replies);
      if (!read || read->closed || read->bytes == 0) return;
    }
  }

  void check_maps() const {
    std::uint64_t free = 0;
    for (const auto& [iova, region] : function_.maps) {
      require(region.size != 0 && iova >= free && region.size - 1 <= ~iova);
      free = iova + (region.size - 1);
    }
  }

  Loop loop_;
  FakeFunction function_;
  OwnedFd memory_ = *make_memfd("guest", 0x10000);
  OwnedFd short_memory_ = *make_memfd("short", 100);
  EventFd event_ = *EventFd::make();
  std::pair<UnixSocket, UnixSocket> stray_ = *UnixSocket::make_pair();
  std::optional<UnixSocket> peer_;
  std::optional<ServerConnection> connection_;
};

}  // namespace
}  // namespace causeway::vfio_user::testing

int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway::vfio_user::testing;
  static const std::size_t before = count_descriptors();
  {
    Target target;
    target.run(std::as_bytes(std::span(data, size)));
  }
  // To count after each run would be slow.
  static unsigned runs = 0;
  if (++runs % 256 == 0) require(count_descriptors() == before);
  return 0;
}
