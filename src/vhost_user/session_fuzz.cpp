// A stream of messages, with descriptors, against a whole session on a real Port.
// Input: records. A record is: one byte of request number, one byte of flags and descriptors (bits 0-3: the header's
// flags beside the version; bits 4-5: how many descriptors; bits 6-7: their kind), one byte of payload size, then that
// payload. Request 0 writes the payload into guest memory instead; request 255 sends the payload as raw bytes.
#include "base/log.h"
#include "vhost_user/connection.h"
#include "vhost_user/test_support.h"

#include <fcntl.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

namespace causeway::vhost_user::testing {
namespace {

struct Record {
  std::uint32_t request;
  std::uint32_t flags;
  std::size_t fd_count;
  unsigned fd_kind;
  std::span<const std::byte> payload;
};

std::optional<Record> next_record(std::span<const std::byte>& input) {
  if (input.size() < 3) return std::nullopt;
  const auto how = std::to_integer<unsigned>(input[1]);
  const auto size = std::min<std::size_t>(std::to_integer<std::size_t>(input[2]), input.size() - 3);
  const Record record{.request = std::to_integer<std::uint32_t>(input[0]),
                      .flags = wire::kVersion ^ (how & 0xf),
                      .fd_count = (how >> 4) & 3,
                      .fd_kind = how >> 6,
                      .payload = input.subspan(3, size)};
  input = input.subspan(3 + size);
  return record;
}

/// Everything lives for one input: nothing of a run may reach the next.
class Target {
 public:
  Target() {
    std::vector<std::unique_ptr<vdpa::Device>> devices;
    auto device = std::make_unique<FakeDevice>(std::uint16_t{2});
    device->doorbells.emplace(*make_memfd("doorbells", 4 * kPage));
    device->group.emplace(OwnedFd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC)));
    devices.push_back(std::move(device));
    port_ = *port::Port::make(loop_, {.name = "fuzz", .features_off = {}, .relay_worker = &relay_worker()},
                              std::move(devices));
    auto [ours, theirs] = *UnixSocket::make_pair();
    peer_.emplace(std::move(theirs));
    connection_ = *Connection::open(loop_, *port_, log_, {.inband_notifications = true, .vfio_groups = true},
                                    std::move(ours), [this] { connection_.reset(); });
  }

  /// The one thing that is there for all of them; a port leaves nothing on it. Rings behind an IOMMU are relayed.
  static Worker& relay_worker() {
    static const auto worker = *Worker::start({.name = "relays", .polling = Polling::sleep, .cpu = {}});
    return *worker;
  }

  void run(std::span<const std::byte> input) {
    while (connection_) {
      const auto record = next_record(input);
      if (!record) return;
      apply(*record);
      for (int i = 0; i < 100 && loop_.run_ready(); ++i) continue;
      Bytes replies(4096);
      if (const auto read = peer_->receive(replies); !read) return;
      if (const auto read = channel_.first.receive(replies); !read) return;
    }
  }

 private:
  void apply(const Record& record) {
    if (record.request == 0) return scribble(record.payload);
    const OwnedFd* const kinds[] = {&memory_.file(), &event_.fd(), &channel_.second.fd(), &stray_.first.fd()};
    const std::vector<const OwnedFd*> fds(record.fd_count, kinds[record.fd_kind]);
    const Bytes payload(record.payload.begin(), record.payload.end());
    const Bytes bytes = record.request == 255 ? payload : message(record.request, record.flags, payload);
    if (bytes.empty()) return;
    // A connection that has ended refuses it: as good an end of the run as any.
    [[maybe_unused]] const auto sent = peer_->send(bytes, fds);
  }

  void scribble(std::span<const std::byte> payload) {
    for (std::size_t i = 0; i + 3 < payload.size(); i += 4) {
      const auto offset = value_of<std::uint16_t>(payload.subspan(i, 2));
      memory_.store16(offset * 2u, value_of<std::uint16_t>(payload.subspan(i + 2, 2)));
    }
  }

  Loop loop_;
  PortLog log_{"fuzz"};
  GuestMemory memory_;
  EventFd event_ = *EventFd::make();
  std::pair<UnixSocket, UnixSocket> channel_ = *UnixSocket::make_pair();
  std::pair<UnixSocket, UnixSocket> stray_ = *UnixSocket::make_pair();
  std::unique_ptr<port::Port> port_;
  std::optional<UnixSocket> peer_;
  std::unique_ptr<Connection> connection_;
};

void check_census(const Census& before) {
  const Census now = Census::take();
  if (now == before) return;
  fmt::print(stderr, "descriptors {} before, {} now; mappings {} before, {} now\n", before.fds.size(), now.fds.size(),
             before.mappings, now.mappings);
  std::abort();
}

}  // namespace
}  // namespace causeway::vhost_user::testing

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway::vhost_user::testing;
  Target::relay_worker();
  static const Census before = Census::take();
  {
    Target target;
    target.run(std::as_bytes(std::span(data, size)));
  }
  // A census of each run would be slow: every so often it must be what it was before the first.
  static unsigned runs = 0;
  if (++runs % 256 == 0) check_census(before);
  return 0;
}
