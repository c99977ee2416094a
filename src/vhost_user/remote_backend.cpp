#include "vhost_user/remote_backend.h"

#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// The document's limit of SET_MEM_TABLE; back-ends that take more are few.
constexpr std::size_t kTableRegions = 8;

Result<RegionWithFile> to_send(const memory::Region& region) {
  CW_TRY(auto file, region.file->duplicate());
  return RegionWithFile{.address = {.guest = memory::Gpa(region.iova.value()),
                                    .frontend = region.frontend_va,
                                    .size = region.size,
                                    .offset = region.offset},
                        .file = std::move(file)};
}

/// Without the features of messages that offer descriptors and need what is missing, nor what only those need.
ProtocolFeatures without_idle_offers(ProtocolFeatures agreed) {
  const auto lacks = [&agreed](BackendRequest request) { return !spec_of(request).needs.minus(agreed).is_empty(); };
  const bool lacks_doorbells = lacks(BackendRequest::vring_host_notifier_msg);
  const bool lacks_groups = lacks(BackendRequest::vring_vfio_group_msg);
  if (lacks_doorbells) agreed = agreed.minus({ProtocolFeature::host_notifier});
  if (lacks_groups) agreed = agreed.minus({ProtocolFeature::vfio_group});
  return lacks_doorbells && lacks_groups ? agreed.minus({ProtocolFeature::backend_send_fd}) : agreed;
}

}  // namespace

Result<std::unique_ptr<RemoteBackend>> RemoteBackend::negotiate(Loop& loop, UnixSocket socket, RemoteOptions options,
                                                                RemoteEvents& events) {
  std::unique_ptr<RemoteBackend> backend(new RemoteBackend(loop, std::move(socket), std::move(options), events));
  CW_CHECK(backend->agree());
  RemoteBackend* const self = backend.get();
  self->watch_.emplace(loop.watch(self->requester_.fd(), [self] { self->requester_.look(); }));
  return backend;
}

RemoteBackend::RemoteBackend(Loop& loop, UnixSocket socket, RemoteOptions options, RemoteEvents& events)
    : loop_(loop),
      options_(std::move(options)),
      events_(events),
      requester_(std::move(socket), options_.patience, [this](const Error& why) { on_close(why); }) {}

Result<void> RemoteBackend::agree() {
  CW_TRY(const std::uint64_t offered, ask_u64(GetFeatures{}));
  features_ = virtio::FeatureSet(offered).without(kProtocolFeaturesBit);
  if (features_.bits() == offered) {
    return fail(Errc::not_supported, "the back-end does not speak protocol features (feature bit 30)");
  }
  CW_TRY(const std::uint64_t extensions, ask_u64(GetProtocolFeatures{}));
  ProtocolFeatures agreed(extensions & accepted_protocol_features(options_.configured, options_.in_flight).bits());
  if (!agreed.has(ProtocolFeature::reply_ack) || !agreed.has(ProtocolFeature::backend_req)) {
    agreed = agreed.minus({ProtocolFeature::inband_notifications});
  }
  agreed = without_idle_offers(agreed);
  // With GET_VRING_BASE_INFLIGHT alone every stop would leave requests in flight: a front-end could drain no more.
  const ProtocolFeatures choice{ProtocolFeature::inflight_shmfd, ProtocolFeature::get_vring_base_inflight,
                                ProtocolFeature::get_vring_base_skip_drain};
  if (!choice.minus(agreed).is_empty()) {
    agreed = agreed.minus(choice.minus({ProtocolFeature::inflight_shmfd}));
  }
  CW_CHECK(tell(SetProtocolFeatures{agreed}));
  protocol_ = agreed;
  if (has(ProtocolFeature::mq)) {
    CW_TRY(queue_units_, ask_u64(GetQueueNum{}));
  }
  CW_CHECK(tell(SetOwner{}));
  if (has(ProtocolFeature::configure_mem_slots)) {
    CW_TRY(memory_slots_, ask_u64(GetMaxMemSlots{}));
  }
  if (has(ProtocolFeature::backend_req)) CW_CHECK(open_event_channel());
  return {};
}

Result<void> RemoteBackend::open_event_channel() {
  CW_TRY(auto pair, UnixSocket::make_pair());
  channel_ = std::make_unique<EventChannel>(
      loop_, std::move(pair.first), options_.name, [this](const BackendMessage& message) { return check(message); },
      [this](const BackendMessage& message) { events_.on_message(message); });
  requester_.look_after(channel_->fd(), [this] { return channel_->attend(); });
  return tell(SetBackendReqFd{std::move(pair.second)});
}

void RemoteBackend::on_close(const Error& why) {
  watch_.reset();
  // Whoever made the request that failed hears of it by its result; the end itself is told after that.
  end_soon_.emplace(loop_.after(std::chrono::milliseconds(0), [this, why] { events_.on_end(why); }));
}

Result<std::uint64_t> RemoteBackend::ask_u64(const FrontendMessage& message) {
  CW_TRY(const auto answer, requester_.ask(message));
  return std::get<U64Answer>(answer).value;
}

Result<void> RemoteBackend::tell(const FrontendMessage& message) {
  return requester_.tell(message, has(ProtocolFeature::reply_ack));
}

Result<void> RemoteBackend::need(Request request) const {
  const MessageSpec& spec = spec_of(request);
  const auto missing = spec.needs.minus(protocol_);
  if (missing.is_empty()) return {};
  return fail(Errc::not_supported,
              fmt::format("{}: the back-end has no protocol feature {}", spec.name, text(missing)));
}

Result<void> RemoteBackend::check(const BackendMessage& message) const {
  if (!is_offer(message.request)) return {};
  const MessageSpec& spec = spec_of(message.request);
  if (const auto missing = spec.needs.minus(protocol_); !missing.is_empty()) {
    return fail(Errc::not_supported, fmt::format("{}: needs protocol feature {}", spec.name, text(missing)));
  }
  return events_.check(message);
}

Result<void> RemoteBackend::come_so_far() {
  if (has(ProtocolFeature::reply_ack)) return {};
  CW_TRY([[maybe_unused]] const auto features, ask_u64(GetFeatures{}));
  return {};
}

Result<void> RemoteBackend::set_features(virtio::FeatureSet features) {
  CW_CHECK(tell(SetFeatures{features.with(kProtocolFeaturesBit).bits()}));
  return come_so_far();
}

Result<void> RemoteBackend::set_status(vdpa::Status status) {
  if (!has(ProtocolFeature::status)) return {};
  CW_CHECK(tell(SetStatus{static_cast<std::uint8_t>(status)}));
  if (!vdpa::has(status, vdpa::Status::features_ok)) return {};
  CW_TRY(const std::uint64_t now, ask_u64(GetStatus{}));
  if (vdpa::has(static_cast<vdpa::Status>(now & 0xff), vdpa::Status::features_ok)) return {};
  return fail(Errc::not_supported, "the back-end does not accept the features (FEATURES_OK stays clear)");
}

Result<void> RemoteBackend::reset() {
  if (has(ProtocolFeature::reset_device)) CW_CHECK(tell(ResetDevice{}));
  if (has(ProtocolFeature::status)) CW_CHECK(tell(SetStatus{0}));
  return come_so_far();
}

Result<void> RemoteBackend::read_config(std::uint32_t offset, std::span<std::byte> to) {
  CW_CHECK(need(Request::get_config));
  CW_TRY(const auto answer,
         requester_.ask(GetConfig{
             .offset = offset, .size = static_cast<std::uint32_t>(to.size()), .flags = wire::kConfigWritable}));
  const auto* config = std::get_if<ConfigAnswer>(&answer);
  if (config == nullptr) {
    return fail(Errc::not_supported, fmt::format("GET_CONFIG: the back-end refuses {} bytes at {}", to.size(), offset));
  }
  if (config->offset != offset || config->bytes.size() != to.size()) {
    return requester_.refuse(Request::get_config, fmt::format("{} bytes at {} come for {} at {}", config->bytes.size(),
                                                              config->offset, to.size(), offset));
  }
  std::ranges::copy(config->bytes, to.begin());
  return {};
}

Result<void> RemoteBackend::write_config(std::uint32_t offset, std::span<const std::byte> from) {
  CW_CHECK(need(Request::set_config));
  return tell(SetConfig{.offset = offset, .is_migration = false, .bytes = Bytes(from.begin(), from.end())});
}

Result<void> RemoteBackend::set_mtu(std::uint16_t mtu) {
  CW_CHECK(need(Request::net_set_mtu));
  return tell(NetSetMtu{mtu});
}

Result<void> RemoteBackend::announce(std::span<const std::byte, 6> mac) {
  CW_CHECK(need(Request::send_rarp));
  SendRarp message{};
  std::ranges::copy(mac, message.mac.begin());
  return tell(message);
}

Result<void> RemoteBackend::add_memory(std::span<const memory::Region> added, std::span<const memory::Region> all) {
  if (!has(ProtocolFeature::configure_mem_slots)) return set_table(all);
  if (all.size() > memory_slots_) {
    return fail(Errc::not_supported,
                fmt::format("ADD_MEM_REG: {} memory regions, the back-end takes {}", all.size(), memory_slots_));
  }
  for (std::size_t i = 0; i < added.size(); ++i) {
    CW_TRY(auto region, to_send(added[i]));
    auto done = tell(AddMemReg{std::move(region)});
    if (done) continue;
    // All or nothing: what a back-end has taken before it refused one goes again.
    if (auto undone = remove_memory(added.first(i), all); !undone) return undone;
    return done;
  }
  return come_so_far();
}

Result<void> RemoteBackend::remove_memory(std::span<const memory::Region> removed,
                                          std::span<const memory::Region> all) {
  if (!has(ProtocolFeature::configure_mem_slots)) return set_table(all);
  for (const memory::Region& region : removed) {
    CW_CHECK(tell(RemMemReg{{.guest = memory::Gpa(region.iova.value()),
                             .frontend = region.frontend_va,
                             .size = region.size,
                             .offset = region.offset}}));
  }
  return come_so_far();
}

Result<void> RemoteBackend::set_table(std::span<const memory::Region> all) {
  if (all.size() > kTableRegions) {
    return fail(Errc::not_supported, fmt::format("SET_MEM_TABLE: {} memory regions, a back-end without "
                                                 "CONFIGURE_MEM_SLOTS takes {}",
                                                 all.size(), kTableRegions));
  }
  SetMemTable message;
  for (const memory::Region& region : all) {
    CW_TRY(auto entry, to_send(region));
    message.regions.push_back(std::move(entry));
  }
  CW_CHECK(tell(FrontendMessage(std::move(message))));
  return come_so_far();
}

// --- Rings ----------------------------------------------------------------------------------------------------------

Result<void> RemoteBackend::set_up_ring(const RemoteRing& ring) {
  const QueueIndex queue = ring.queue;
  CW_CHECK(tell(SetVringNum{.queue = queue, .entries = ring.entries}));
  CW_CHECK(tell(SetVringBase{.queue = queue, .position = ring.position}));
  CW_CHECK(tell(SetVringAddr{.queue = queue,
                             .log_used = false,
                             .descriptors = ring.descriptors.value(),
                             .available = ring.available.value(),
                             .used = ring.used.value(),
                             .log = 0}));
  if (has(ProtocolFeature::inband_notifications)) return {};
  if (ring.err) CW_CHECK(tell(SetVringErr{.queue = queue, .err = ring.err}));
  // DPDK's vhost takes a ring for ready only once it has a call descriptor.
  return set_call(queue, ring.call);
}

Result<void> RemoteBackend::start_ring(QueueIndex queue, std::optional<KickFd> kick) {
  if (kick && has(ProtocolFeature::inband_notifications)) {
    CW_CHECK(tell(VringKick{queue}));
  } else {
    CW_CHECK(tell(SetVringKick{.queue = queue, .kick = std::move(kick)}));
  }
  return come_so_far();
}

Result<std::uint32_t> RemoteBackend::stop_ring(QueueIndex queue, vdpa::StopMode mode) {
  const bool leaves = mode == vdpa::StopMode::leave && has(ProtocolFeature::get_vring_base_skip_drain);
  const FrontendMessage message = leaves ? FrontendMessage(GetVringBaseSkipDrain{queue}) : GetVringBase{queue};
  CW_TRY(const auto answer, requester_.ask(message));
  if (channel_) {
    // What it has sent before it stopped the ring is there by now.
    channel_->attend();
    channel_->drop_offers(queue);
  }
  const auto& base = std::get<VringBaseAnswer>(answer);
  if (base.queue != queue) {
    const auto request = leaves ? Request::get_vring_base_skip_drain : Request::get_vring_base;
    return requester_.refuse(request, fmt::format("the position of queue {} comes for queue {}",
                                                  virtio::number(base.queue), virtio::number(queue)));
  }
  return base.position;
}

Result<void> RemoteBackend::enable_ring(QueueIndex queue, bool enabled) {
  CW_CHECK(tell(SetVringEnable{.queue = queue, .enabled = enabled}));
  return come_so_far();
}

Result<void> RemoteBackend::set_call(QueueIndex queue, std::optional<CallFd> call) {
  return tell(SetVringCall{.queue = queue, .call = std::move(call)});
}

Result<void> RemoteBackend::kick(QueueIndex queue) {
  CW_CHECK(need(Request::vring_kick));
  return requester_.tell(VringKick{queue}, false);
}

// --- The record of what is in flight --------------------------------------------------------------------------------

Result<virtio::InflightRegion> RemoteBackend::make_record(virtio::Layout layout, std::uint16_t queues,
                                                          virtio::QueueSize entries) {
  CW_CHECK(need(Request::get_inflight_fd));
  const InflightDescription wanted{.size = 0, .offset = 0, .queues = queues, .entries = entries.entries()};
  CW_TRY(const auto answer, requester_.ask(GetInflightFd{.wanted = wanted, .payload_size = 0}));
  const auto& given = std::get<InflightAnswer>(answer);
  if (given.region.size == 0 || !given.file) {
    return fail(Errc::not_supported, "GET_INFLIGHT_FD: the back-end gives no memory");
  }
  CW_TRY(auto file, given.file->duplicate());
  auto region =
      virtio::InflightRegion::adopt(layout, queues, entries, std::move(file), given.region.offset, given.region.size);
  if (region) return region;
  return fail(Errc::not_supported, fmt::format("GET_INFLIGHT_FD: {}", region.error().text()));
}

Result<void> RemoteBackend::use_record(const virtio::InflightRegion& record) {
  CW_CHECK(need(Request::set_inflight_fd));
  CW_TRY(auto file, record.file()->duplicate());
  CW_CHECK(tell(SetInflightFd{.region = {.size = record.size(),
                                         .offset = record.offset(),
                                         .queues = record.queues(),
                                         .entries = record.entries().entries()},
                              .file = std::move(file)}));
  return come_so_far();
}

}  // namespace causeway::vhost_user
