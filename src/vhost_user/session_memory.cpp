// The front-end's memory: the whole table at once, or region by region.
#include "vhost_user/session.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {
namespace {

Result<memory::Region> map_region(RegionWithFile region) {
  const RegionAddress& address = region.address;
  return memory::Region::map(memory::untranslated(address.guest), address.frontend, address.size,
                             std::move(region.file), address.offset);
}

}  // namespace

Result<Answer> Session::on(SetMemTable message) {
  if (postcopy_ && postcopy_->awaits_acknowledgement()) {
    if (!message.regions.empty()) return fail(Errc::peer_violation, "the one before it is not acknowledged");
    return accept_table();
  }
  std::vector<memory::Region> regions;
  regions.reserve(message.regions.size());
  for (RegionWithFile& region : message.regions) {
    CW_TRY(auto mapped, map_region(std::move(region)));
    regions.push_back(std::move(mapped));
  }
  if (postcopy_ && postcopy_->listens()) return propose_table(std::move(regions));
  CW_CHECK(port_.set_memory(std::move(regions)));
  return Done{};
}

Result<Answer> Session::on(AddMemReg message) {
  if (port_.memory().regions().size() >= kMaxMemorySlots) {
    return fail(Errc::peer_violation, fmt::format("all {} memory slots are in use", kMaxMemorySlots));
  }
  CW_TRY(auto region, map_region(std::move(message.region)));
  CW_CHECK(port_.add_memory(std::move(region)));
  return Done{};
}

Result<Answer> Session::on(const RemMemReg& message) {
  const RegionAddress& region = message.region;
  CW_CHECK(port_.remove_memory(memory::untranslated(region.guest), region.frontend, region.size));
  return Done{};
}

// --- The log of written pages. It is in use while there is one and VHOST_F_LOG_ALL is set. --------------------------

Result<Answer> Session::on(const SetLogBase& message) {
  CW_TRY(auto log, memory::DirtyLog::map(message.file, message.offset, message.size));
  const auto before = std::exchange(dirty_log_, log->with_event(dirty_log_event_));
  auto done = update_log();
  if (done) return U64Answer{0};
  dirty_log_ = before;
  return fail(std::move(done).error());
}

Result<Answer> Session::on(SetLogFd message) {
  dirty_log_event_ = message.changed ? std::make_shared<const EventFd>(*std::move(message.changed)) : nullptr;
  if (!dirty_log_) return Done{};
  dirty_log_ = dirty_log_->with_event(dirty_log_event_);
  CW_CHECK(update_log());
  return Done{};
}

Result<void> Session::update_log() {
  return port_.set_log(logs_all_ ? dirty_log_ : nullptr);
}

// --- The IOMMU between the driver and us, whose owner the front-end is. ----------------------------------------------

Result<Answer> Session::on(const IotlbMsg& message) {
  const memory::Translation& said = message.translation;
  if (message.is_update) {
    CW_CHECK(port_.update_translation(said));
    return U64Answer{0};
  }
  if (said.size == 0 || said.iova.value() + (said.size - 1) < said.iova.value()) {
    return fail(Errc::peer_violation, fmt::format("invalidation of {}+{:#x} is empty or wraps", said.iova, said.size));
  }
  CW_CHECK(port_.invalidate_translations({.first = said.iova, .size = said.size}));
  return U64Answer{0};
}

void Session::translation_missed(const memory::Miss& miss) {
  if (channel_) channel_->send({.request = BackendRequest::iotlb_msg, .miss = miss});
}

Result<Answer> Session::on(const GetMaxMemSlots&) {
  return U64Answer{kMaxMemorySlots};
}

}  // namespace causeway::vhost_user
