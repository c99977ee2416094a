#include "vhost_user/session.h"

#include "vhost_user/port_offer.h"
#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

namespace causeway::vhost_user {
namespace {

constexpr std::uint64_t kProtocolFeaturesMask = std::uint64_t{1} << kProtocolFeaturesBit;
/// VHOST_F_LOG_ALL: no feature of a device, though it lies among them.
constexpr std::uint64_t kLogAllMask = std::uint64_t{1} << 26;

Failure broken(Error error, const MessageSpec& spec) {
  return fail(std::move(error).context(spec.name));
}

}  // namespace

Result<std::unique_ptr<Session>> Session::open(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                                               std::function<void()> on_memory_lost) {
  std::unique_ptr<Session> session(new Session(loop, port, log, options, std::move(on_memory_lost)));
  if (auto attached = port.attach(*session); !attached) {
    return fail(std::move(attached).error());
  }
  session->is_attached_ = true;
  return session;
}

Session::Session(Loop& loop, port::Port& port, PortLog& log, SessionOptions options,
                 std::function<void()> on_memory_lost)
    : loop_(loop),
      port_(port),
      log_(log),
      options_(options),
      on_memory_lost_(std::move(on_memory_lost)),
      doorbells_(loop, port, log, [this] { return doorbell_channel(); }),
      groups_(options.vfio_groups, log, [this] { return channel_for(BackendRequest::vring_vfio_group_msg); }) {}

Session::~Session() {
  // Workers must not wait for pages that nobody sends, or the port cannot stop them.
  postcopy_.reset();
  // Nobody is there to be told.
  forget_all_offers();
  if (is_attached_) port_.detach();
}

ProtocolFeatures SessionOptions::configured() const {
  const auto features = configured_features(inband_notifications, vfio_groups);
  return postcopy ? features.with(ProtocolFeature::pagefault) : features;
}

Session::Verdict Session::handle(const Header& header, std::span<const std::byte> body,
                                 Result<std::vector<OwnedFd>> fds) {
  const auto began = std::chrono::steady_clock::now();
  auto outcome = answer(header, body, std::move(fds));
  if (outcome) {
    const auto took = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began);
    log::debug("port {}: {} done in {:.0f} us", port_.name(), name_of_request(header.request), took.count());
    return accept(header, *outcome);
  }
  Verdict verdict = refuse(header);
  log_.warn(outcome.error().text() + (verdict.go_on ? "" : "; closing the connection"));
  return verdict;
}

Result<Answer> Session::answer(const Header& header, std::span<const std::byte> body,
                               Result<std::vector<OwnedFd>> fds) {
  if (!fds) return fail(std::move(fds).error().context(name_of_request(header.request)));
  CW_TRY(auto message, decode(header, body, std::move(*fds)));
  const MessageSpec& spec = *find_frontend_message(header.request);
  if (auto allowed = check_negotiated(spec); !allowed) return broken(std::move(allowed).error(), spec);
  if (postcopy_ && postcopy_->awaits_acknowledgement() &&
      header.request != std::to_underlying(Request::set_mem_table)) {
    return broken({.code = Errc::peer_violation, .what = "the memory table before it is not acknowledged"}, spec);
  }
  auto result = std::visit([this](auto& decoded) { return on(std::move(decoded)); }, message);
  if (!result) return broken(std::move(result).error(), spec);
  return result;
}

Result<void> Session::check_negotiated(const MessageSpec& spec) const {
  if (const auto missing = spec.needs.minus(protocol_); !missing.is_empty()) {
    return fail(Errc::not_supported, fmt::format("needs protocol feature {}, which is not negotiated", text(missing)));
  }
  if (spec.virtio_need == VirtioNeed::protocol_features && rings_start_enabled_) {
    return fail(Errc::not_supported, "needs feature bit 30, PROTOCOL_FEATURES, which is not negotiated");
  }
  return {};
}

bool Session::wants_ack(const Header& header) const {
  return header.need_reply && protocol_.has(ProtocolFeature::reply_ack);
}

Session::Verdict Session::accept(const Header& header, const Answer& answer) const {
  const bool may_go_unanswered = find_frontend_message(header.request)->reply == Reply::ack_if_asked;
  if (may_go_unanswered && std::holds_alternative<Done>(answer) && !wants_ack(header)) return {};
  Verdict verdict{.reply = encode_reply(header.request, answer), .file = {}};
  if (const auto* inflight = std::get_if<InflightAnswer>(&answer)) verdict.file = inflight->file;
  if (const auto* descriptor = std::get_if<DescriptorAnswer>(&answer)) verdict.file = descriptor->file;
  return verdict;
}

Session::Verdict Session::refuse(const Header& header) const {
  if (is_broken_ || is_within_table_exchange(header)) return {.reply = {}, .file = {}, .go_on = false};
  const MessageSpec* spec = find_frontend_message(header.request);
  Reply reply = spec != nullptr ? spec->reply : Reply::ack_if_asked;
  const bool is_status = reply == Reply::u64_status || reply == Reply::u64_channel;
  if (is_status && !spec->needs.minus(protocol_).is_empty()) reply = Reply::ack_if_asked;
  switch (reply) {
    case Reply::ack_if_asked:
      if (!wants_ack(header)) break;
      [[fallthrough]];
    case Reply::u64_status:
      return {.reply = encode_failure(header.request), .file = {}};
    case Reply::u64_channel:
      return {.reply = encode_reply(header.request, U64Answer{wire::kStateNoChannel | 1}), .file = {}};
    case Reply::config:
      return {.reply = encode_empty_reply(header.request), .file = {}};
    case Reply::u64_value:
    case Reply::vring_state:
    case Reply::inflight:
    case Reply::descriptor:
    case Reply::other:
      break;
  }
  return {.reply = {}, .file = {}, .go_on = false};
}

void Session::config_changed() {
  config_change_due_ = true;
  send_due_config_change();
}

void Session::send_due_config_change() {
  if (!config_change_due_ || port_.is_suspended()) return;
  config_change_due_ = false;
  if (channel_ && protocol_.has(ProtocolFeature::config)) {
    channel_->send({.request = BackendRequest::config_change_msg});
  }
}

void Session::memory_lost() {
  is_broken_ = true;
  on_memory_lost_();
}

Result<Answer> Session::on(const GetFeatures&) {
  return U64Answer{offered_features(port_).bits() | kProtocolFeaturesMask | (port_.can_log() ? kLogAllMask : 0)};
}

Result<Answer> Session::on(const SetFeatures& message) {
  const bool logs_all = (message.features & kLogAllMask) != 0;
  if (logs_all && !port_.can_log()) return fail(Errc::not_supported, "LOG_ALL, which was not offered");
  // The log may be turned on and off while rings run, unlike features of the device.
  CW_CHECK(port_.set_features(virtio::FeatureSet(message.features & ~kProtocolFeaturesMask & ~kLogAllMask)));
  const bool logged_all = std::exchange(logs_all_, logs_all);
  if (auto done = update_log(); !done) {
    logs_all_ = logged_all;
    return fail(std::move(done).error());
  }
  layout_ = virtio::layout_of(port_.features());
  rings_start_enabled_ = (message.features & kProtocolFeaturesMask) == 0;
  if (rings_start_enabled_) CW_CHECK(enable_all_rings(true));
  return Done{};
}

Result<Answer> Session::on(const GetProtocolFeatures&) {
  return U64Answer{offered_protocol().bits()};
}

ProtocolFeatures Session::offered_protocol() const {
  const auto offered = offered_protocol_features(options_.configured());
  return port_.can_log() ? offered : offered.minus({ProtocolFeature::log_shmfd});
}

Result<Answer> Session::on(const SetProtocolFeatures& message) {
  if (message.features == protocol_) return Done{};
  if (!port_.is_suspended()) return fail(Errc::peer_violation, "changed while rings run");
  const auto unknown = message.features.minus(offered_protocol());
  if (!unknown.is_empty()) return fail(Errc::not_supported, fmt::format("{} not offered", text(unknown)));
  const ProtocolFeatures inband_needs{ProtocolFeature::backend_req, ProtocolFeature::reply_ack};
  if (message.features.has(ProtocolFeature::inband_notifications)) {
    if (const auto missing = inband_needs.minus(message.features); !missing.is_empty()) {
      is_broken_ = true;  // the document: close, there is no other way to say so
      return fail(Errc::peer_violation, fmt::format("INBAND_NOTIFICATIONS without {}", text(missing)));
    }
  }
  protocol_ = message.features;
  return Done{};
}

Result<Answer> Session::on(const GetQueueNum&) {
  const auto& info = port_.info();
  return U64Answer{static_cast<std::uint64_t>(info.queues / info.queues_per_unit)};
}

Result<Answer> Session::on(const SetOwner&) {
  return Done{};
}

Result<Answer> Session::on(const ResetOwner&) {
  // Deprecated; the document recommends to disable all rings. A front-end that cannot enable them again is spared.
  if (!rings_start_enabled_) CW_CHECK(enable_all_rings(false));
  return Done{};
}

Result<void> Session::enable_all_rings(bool enabled) {
  for (std::uint16_t i = 0; i < port_.queue_count(); ++i) {
    CW_CHECK(port_.enable_queue(QueueIndex{i}, enabled));
    rings_[QueueIndex{i}].enabled = enabled;
  }
  return {};
}

}  // namespace causeway::vhost_user
