// What a server answers, against a whole Client.
// Input: records. A record is: one byte that says how to answer a request (bits 0-2: kind; bits 3-4: how many
// descriptors come along; bits 5-7: another id, another command, no reply at all in the header), one byte of size, then
// that many bytes. Kind 0: as a good server; 1: with these bytes as payload; 2: these bytes as they are; 3 and 4: first
// DMA_READ and DMA_WRITE with these bytes, then as a good server; 5: an error; 6: as a good server, but with these
// bytes from the place on that the first of them says; 7: as a good server, and at once these bytes, which nobody has
// asked for; not at all when there are none. When the input ends, the server hangs up.
#include "base/log.h"
#include "base/mapping.h"
#include "vfio_user/client.h"
#include "vfio_user/fake_function_fixture.h"
#include "vfio_user/region_reply.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <span>
#include <thread>

extern "C" int LLVMFuzzerInitialize(int*, char***);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace causeway::vfio_user::testing {
namespace {

constexpr std::uint64_t kIova = 0x10000;
constexpr std::uint64_t kGuestBytes = 0x4000;

void require(bool holds) {
  if (!holds) std::abort();
}

class FuzzedServer {
 public:
  FuzzedServer(UnixSocket socket, std::span<const std::byte> input)
      : socket_(std::move(socket)), input_(input), thread_([this] { serve(); }) {}

 private:
  struct Record {
    unsigned how;
    Bytes bytes;
  };
  std::optional<Record> next() {
    if (input_.size() < 2) return std::nullopt;
    const std::size_t size = std::min<std::size_t>(std::to_integer<std::size_t>(input_[1]), input_.size() - 2);
    const auto bytes = input_.subspan(2, size);
    const Record record{std::to_integer<unsigned>(input_[0]), Bytes(bytes.begin(), bytes.end())};
    input_ = input_.subspan(2 + size);
    return record;
  }
  void serve() {
    for (;;) {
      auto message = inbox_.read(socket_);
      if (!message) return hang_up();
      if (!*message) {
        pollfd entry{.fd = socket_.fd().borrow(), .events = POLLIN, .revents = 0};
        ::poll(&entry, 1, 1000);
        continue;
      }
      if ((*message)->is_reply()) continue;
      const auto record = next();
      if (!record || !answer(*record, **message)) return hang_up();
    }
  }
  void hang_up() const { ::shutdown(socket_.fd().borrow(), SHUT_RDWR); }

  bool answer(const Record& record, const Message& request) const {
    wire::Header header{
        .id = request.header.id, .command = request.header.command, .size = 0, .flags = wire::kReply, .error = 0};
    if ((record.how & 0x20) != 0) ++header.id;
    if ((record.how & 0x40) != 0) ++header.command;
    if ((record.how & 0x80) != 0) header.flags = 0;
    const std::vector<const OwnedFd*> fds((record.how >> 3) & 3, &pages_);
    const auto reply_with = [&](const Bytes& body) { return send(socket_, header, body, fds).has_value(); };
    const auto ask_first = [&](Command command) {
      const wire::Header question{.id = 1, .command = std::to_underlying(command), .size = 0, .flags = 0, .error = 0};
      return send(socket_, question, record.bytes).has_value();
    };
    Bytes good = good_reply(request);
    switch (record.how & 7) {
      case 1:
        return reply_with(record.bytes);
      case 2:
        return record.bytes.empty() || socket_.send(record.bytes, fds).has_value();
      case 3:
        return ask_first(Command::dma_read) && reply_with(good);
      case 4:
        return ask_first(Command::dma_write) && reply_with(good);
      case 5:
        header.flags |= wire::kError;
        header.error = record.bytes.empty() ? 0 : std::to_integer<std::uint32_t>(record.bytes[0]);
        return reply_with({});
      case 6:
        patch(good, record.bytes);
        return reply_with(good);
      case 7:
        return record.bytes.empty() || reply_and_more(header, good, record.bytes);
      default:
        return reply_with(good);
    }
  }
  /// In one piece, so that the client finds them when it looks for nothing.
  bool reply_and_more(wire::Header header, const Bytes& body, const Bytes& more) const {
    header.size = static_cast<std::uint32_t>(sizeof header + body.size());
    Bytes bytes;
    append(bytes, header);
    bytes.insert(bytes.end(), body.begin(), body.end());
    bytes.insert(bytes.end(), more.begin(), more.end());
    return socket_.send(bytes).has_value();
  }
  static void patch(Bytes& body, std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    const auto at = std::to_integer<std::size_t>(bytes[0]);
    bytes = bytes.subspan(1);
    if (body.size() < at + bytes.size()) body.resize(at + bytes.size());
    std::ranges::copy(bytes, body.begin() + static_cast<std::ptrdiff_t>(at));
  }
  static Bytes good_reply(const Message& request) {
    Bytes body;
    switch (request.command()) {
      case Command::version:
        return encode_version({});
      case Command::device_get_info:
        append(body, wire::DeviceInfo{.argsz = sizeof(wire::DeviceInfo),
                                      .flags = wire::kDevicePci | wire::kDeviceReset,
                                      .regions = 3,
                                      .irqs = wire::kPciIrqs});
        return body;
      case Command::device_get_region_info:
        return good_region(request);
      case Command::device_get_irq_info:
        append(body,
               wire::IrqInfo{
                   .argsz = sizeof(wire::IrqInfo), .flags = wire::kIrqEventfd, .index = wire::kMsixIndex, .count = 4});
        return body;
      case Command::region_read:
        body = request.body;
        if (const auto access = request.head<wire::RegionAccess>()) body.resize(body.size() + access->count);
        return body;
      default:
        return request.body;
    }
  }
  static Bytes good_region(const Message& request) {
    const auto wanted = request.head<wire::RegionInfo>();
    const auto index = wanted ? static_cast<vfio::RegionIndex>(wanted->index) : vfio::RegionIndex::bar0;
    RegionReply region{.info = {.size = 256, .readable = true, .writable = true, .mappable = {}}, .file_offset = 0};
    if (index == vfio::RegionIndex::bar2) {
      region.info.size = 2 * page_size();
      region.info.mappable.push_back({.offset = page_size(), .size = page_size()});
    }
    return encode_region(index, region, 4096);
  }

  UnixSocket socket_;
  std::span<const std::byte> input_;
  OwnedFd pages_ = *make_memfd("pages", 2 * page_size());
  Inbox inbox_;
  std::jthread thread_;
};

void check(const Client& client) {
  const auto& info = client.info();
  require(!info.iovas.empty() && info.vectors <= 2048);
  for (std::size_t i = 0; i < vfio::kRegions; ++i) {
    const auto index = static_cast<vfio::RegionIndex>(i);
    const auto& region = info.region(index);
    for (const vfio::Area& area : region.mappable) {
      require(area.offset <= region.size && area.size <= region.size - area.offset);
      if (const auto file = client.file_of(index, area); file && file->size != 0) {
        // Whether it can be mapped is the file's affair.
        [[maybe_unused]] const auto mapped = Mapping::map(file->fd, file->offset, std::min(file->size, page_size()));
      }
    }
    require(!client.file_of(index, {.offset = region.size, .size = 1}));
  }
}

struct Observer final : vfio::BusObserver {
  void bus_gone(Error) override { require(++times == 1); }
  int times = 0;
};

/// What a driver does with a function, from the first look to the last.
void drive(Loop& loop, Client& client) {
  const auto pump = [&loop] {
    for (int i = 0; i < 10 && loop.run_ready(); ++i) continue;
  };
  const auto done = [](const auto& /*result*/) {};  // whatever came of it
  const auto guest = *memory::Region::map(memory::Iova(kIova), memory::FrontendVa(kIova), kGuestBytes,
                                          *make_memfd("guest", kGuestBytes), 0);
  const auto event = *EventFd::make();
  std::array<std::byte, 8> bytes{};
  check(client);
  done(client.dma_map(guest));
  done(client.enable_vectors(2));
  done(client.set_vector(0, &event.fd()));
  done(client.read(vfio::RegionIndex::bar0, 8, bytes));
  done(client.write(vfio::RegionIndex::bar0, 252, std::span(bytes).first(4)));
  done(client.read(vfio::RegionIndex::bar2, 0, std::span(bytes).first(1)));
  std::array<vfio::Access, 4> accesses{};
  for (std::size_t i = 0; i < accesses.size(); ++i) accesses[i] = {vfio::RegionIndex::bar0, 4 * i, i % 2 == 0, 4, {}};
  done(client.access(accesses));
  pump();
  done(client.set_vector(1, nullptr));
  done(client.reset());
  done(client.dma_unmap(guest));
  pump();
  done(client.read(vfio::RegionIndex::bar0, 0, bytes));
  check(client);
  pump();
}

void run(std::span<const std::byte> input) {
  Loop loop;
  Observer observer;
  auto [ours, theirs] = *UnixSocket::make_pair();
  const FuzzedServer server(std::move(theirs), input);
  // Declared last: it hangs up first, so that the server's thread ends.
  const auto client =
      Client::make_on(loop, {.path = "fuzz", .patience = std::chrono::milliseconds(5)}, std::move(ours));
  if (!client) return;
  (*client)->set_observer(&observer);
  drive(loop, **client);
}

}  // namespace
}  // namespace causeway::vfio_user::testing

int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace causeway::vfio_user::testing;
  static const std::size_t before = count_descriptors();
  run(std::as_bytes(std::span(data, size)));
  // To count after each run would be slow.
  static unsigned runs = 0;
  if (++runs % 256 == 0) require(count_descriptors() == before);
  return 0;
}
