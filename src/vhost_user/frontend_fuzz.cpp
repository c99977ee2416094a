// The bytes that a back-end answers, against a whole Frontend.
// Input: records. A record is: one byte that says how to answer a request (bits 0-1: kind; bits 2-3: how many
// descriptors come along; bits 4-7: the header's flags, changed), one byte of size, then that many bytes. Kind 0: as a
// good back-end; 1: a reply to what was asked, with these bytes as its payload; 2: these bytes as they are; 3: these
// bytes on the back-end channel, then as a good back-end. When the input ends, the back-end hangs up.
#include "base/log.h"
#include "vhost_user/frontend.h"
#include "vhost_user/test_support.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <span>
#include <thread>

namespace causeway::vhost_user::testing {
namespace {

class FuzzedBackend {
 public:
  FuzzedBackend(UnixSocket socket, std::span<const std::byte> input)
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
  bool read(std::span<std::byte> to) {
    while (!to.empty()) {
      pollfd entry{.fd = socket_.fd().borrow(), .events = POLLIN, .revents = 0};
      ::poll(&entry, 1, 1000);
      auto got = socket_.receive(to);
      if (!got || got->closed || got->bytes == 0) return false;
      for (auto& fd : got->fds) fds_.push_back(std::move(fd));
      to = to.subspan(got->bytes);
    }
    return true;
  }
  void serve() {
    for (;;) {
      Bytes head(kHeaderSize);
      if (!read(head)) return;
      const auto header = value_of<wire::Header>(head);
      Bytes body(header.size);
      if (!read(body)) return;
      if (header.request == std::to_underlying(Request::set_backend_req_fd) && !fds_.empty()) {
        if (auto channel = UnixSocket::adopt(std::move(fds_.back()))) channel_.emplace(std::move(*channel));
      }
      fds_.clear();
      const auto record = next();
      if (!record || !answer(*record, header, body)) return;
    }
  }
  bool answer(const Record& record, const wire::Header& header, const Bytes& body) {
    const std::uint32_t flags = wire::kVersion ^ wire::kReplyFlag ^ (record.how >> 4);
    const bool is_event = (record.how & 3) == 3;
    const std::vector<const OwnedFd*> fds((record.how >> 2) & 3, is_event ? &group_ : &socket_.fd());
    switch (record.how & 3) {
      case 1:
        return socket_.send(message(header.request, flags, record.bytes), fds).has_value();
      case 2:
        return record.bytes.empty() || socket_.send(record.bytes, fds).has_value();
      case 3:
        if (channel_ && !record.bytes.empty() && !channel_->send(record.bytes, fds)) channel_.reset();
        break;
      default:
        break;
    }
    if (header.request == std::to_underlying(Request::get_inflight_fd)) return send_record(body);
    const Bytes reply = good_reply(header, body);
    return reply.empty() || socket_.send(reply).has_value();
  }
  bool send_record(const Bytes& body) const {
    const auto queues = value_of<std::uint16_t>(std::span(body).subspan(16));
    const auto entries = value_of<std::uint16_t>(std::span(body).subspan(18));
    const std::uint64_t size = queues * virtio::InflightArea::size(virtio::Layout::split, entries);
    const auto file = std::make_shared<const OwnedFd>(*make_memfd("record", size));
    const InflightAnswer answer{
        .region = {.size = size, .offset = 0, .queues = queues, .entries = entries}, .payload_size = 24, .file = file};
    const std::vector<const OwnedFd*> fds{file.get()};
    return socket_.send(encode_reply(std::to_underlying(Request::get_inflight_fd), answer), fds).has_value();
  }
  static Bytes good_reply(const wire::Header& header, const Bytes& body) {
    const auto request = static_cast<Request>(header.request);
    switch (request) {
      case Request::get_features:
        return encode_reply(header.request, U64Answer{(1ULL << 32) | (1ULL << kProtocolFeaturesBit)});
      case Request::get_protocol_features:
        return encode_reply(header.request,
                            U64Answer{offered_protocol_features(configured_features(true, true)).bits()});
      case Request::get_queue_num:
      case Request::get_max_mem_slots:
        return encode_reply(header.request, U64Answer{8});
      case Request::get_status:
        return encode_reply(header.request, U64Answer{0xf});
      case Request::get_config:
      case Request::get_vring_base:
      case Request::get_vring_base_skip_drain:
        return message(header.request, wire::kVersion | wire::kReplyFlag, body);
      default:
        return (header.flags & wire::kNeedReplyFlag) != 0 ? encode_reply(header.request, Done{}) : Bytes();
    }
  }

  UnixSocket socket_;
  std::span<const std::byte> input_;
  const OwnedFd group_ = OwnedFd::adopt(::open("/dev/null", O_RDWR | O_CLOEXEC));  // stands for one
  std::optional<UnixSocket> channel_;
  std::vector<OwnedFd> fds_;
  std::jthread thread_;
};

struct Ignore final : vdpa::DeviceObserver {
  void config_changed() override {}
  void queue_failed(QueueIndex, Error) override {}
  void device_gone(Error) override {}
};

/// What a Port does with a Device, from the first look to the last.
void drive(Loop& loop, Frontend& device, const GuestMemory& guest) {
  const wire::Region wire = GuestMemory::region();
  const std::vector<memory::Region> regions{*memory::Region::map(memory::Iova(wire.guest_address),
                                                                 memory::FrontendVa(wire.user_address), wire.size,
                                                                 *guest.file().duplicate(), wire.mmap_offset)};
  const auto pump = [&loop] {
    for (int i = 0; i < 10 && loop.run_ready(); ++i) continue;
  };
  const auto base = GuestMemory::kGpa;
  const virtio::RingConfig ring{.size = *virtio::QueueSize::split(128),
                                .descriptors = memory::Iova(base + GuestMemory::descriptors(0)),
                                .available = memory::Iova(base + GuestMemory::available(0)),
                                .used = memory::Iova(base + GuestMemory::used(0)),
                                .features = virtio::FeatureSet{virtio::Feature::version_1},
                                .start = {}};
  std::array<std::byte, 4> bytes{};
  const auto done = [](const auto& /*result*/) {};  // whatever came of it
  done(device.set_features(ring.features));
  done(device.map(regions));
  done(device.set_queue(QueueIndex{0}, {.ring = ring, .kick = *KickFd::make(), .call = *CallFd::make()}));
  done(device.enable_queue(QueueIndex{0}, true));
  pump();
  if (const OwnedFd* const group = device.vfio_group(QueueIndex{0}); group != nullptr && !identify(*group))
    std::abort();
  if (const auto area = device.notify_area(QueueIndex{0}); area && area->size == 0) std::abort();
  done(device.read_config(0, bytes));
  done(device.set_mtu(1500));
  done(device.stop_queue(QueueIndex{0}, vdpa::StopMode::leave));
  pump();
  done(device.unmap(regions));
  done(device.set_status(vdpa::Status::reset));
  pump();
}

void run(std::span<const std::byte> input) {
  Loop loop;
  const GuestMemory guest;
  Ignore observer;
  FrontendConfig config;
  config.name = "fuzz";
  config.patience = std::chrono::milliseconds(5);
  const unsigned kind = input.empty() ? 0 : std::to_integer<unsigned>(input.front());
  config.inband_notifications = (kind & 1) != 0;
  config.vfio_groups = (kind & 4) != 0;
  if ((kind & 2) != 0) config.type = virtio::DeviceType::block;
  auto [ours, theirs] = *UnixSocket::make_pair();
  const FuzzedBackend backend(std::move(theirs), input.empty() ? input : input.subspan(1));
  // Declared last: it hangs up first, so that the back-end's thread ends.
  const auto device = Frontend::make_on(loop, config, std::move(ours));
  if (!device) return;
  (*device)->set_observer(&observer);
  drive(loop, **device, guest);
}

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
  static const Census before = Census::take();
  run(std::as_bytes(std::span(data, size)));
  static unsigned runs = 0;
  if (++runs % 256 == 0) check_census(before);
  return 0;
}
