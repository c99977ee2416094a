// An IOMMU between the driver and its Devices: queues are relayed, and wait for the addresses that are not known.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace causeway::port {
namespace {

/// Misses that are remembered as asked: a driver that names more pages than this at once asks some of them twice.
constexpr std::size_t kMaxAsked = 4096;

/// How long a front-end may take to answer before it is asked again.
constexpr std::chrono::milliseconds kPatience{1000};

}  // namespace

bool Port::is_translated() const {
  return side_ != nullptr && features_.has(virtio::Feature::access_platform) && side_->translates();
}

Result<void> Port::update_translation(const memory::Translation& translation) {
  if (!is_translated())
    return fail(Errc::peer_violation, "no address is translated: ACCESS_PLATFORM is not negotiated");
  CW_TRY(const auto forgotten, iotlb_.update(translation, *memory_));
  known_.reset();
  ++translation_counts_.updates;
  const memory::IovaRange range{.first = translation.iova, .size = translation.size};
  forget_asked(range);
  if (forgotten || is_renewal_due(range)) CW_CHECK(renew_translations(forgotten ? &*forgotten : nullptr));
  start_waiting();
  return {};
}

/// A queue that waits for several addresses has no use of some of them: it gets them together.
bool Port::is_renewal_due(const memory::IovaRange& range) {
  bool is_answer = false;
  bool is_due = false;
  for (Queue& state : queues_) {
    if (state.waits) is_due = true;
    if (!state.runs() || state.lacks.empty()) continue;
    is_answer = true;
    std::erase_if(state.lacks, [&](const memory::Miss& miss) {
      return range.overlaps({.first = miss.at, .size = memory::MemoryMap::kIommuPage});
    });
    if (state.lacks.empty()) is_due = true;
  }
  return is_due || !is_answer;
}

Result<void> Port::invalidate_translations(const memory::IovaRange& range) {
  if (!is_translated())
    return fail(Errc::peer_violation, "no address is translated: ACCESS_PLATFORM is not negotiated");
  ++translation_counts_.invalidations;
  iotlb_.invalidate(range);
  known_.reset();
  // Who still waits for something of it asks anew, since the maps are replaced.
  forget_asked(range);
  return renew_translations(&range);
}

void Port::forget_asked(const memory::IovaRange& range) {
  const memory::Iova first(range.first.value() / memory::MemoryMap::kIommuPage * memory::MemoryMap::kIommuPage);
  const auto begin = asked_.lower_bound({first, memory::Access::none});
  auto end = begin;
  while (end != asked_.end() && end->first.first.value() <= range.last()) ++end;
  asked_.erase(begin, end);
}

/// All that is known, which queues may not have yet.
const std::shared_ptr<const memory::MemoryMap>& Port::known_translations() {
  if (!known_) known_ = iotlb_.map(memory_);
  return known_;
}

/// Gives the queues what is known now. Those that use something of what is `gone` are stopped while they still have it,
/// so that all they have done can be told to the driver; a Device that translates sees to that itself, but for its
/// rings.
Result<void> Port::renew_translations(const memory::IovaRange* gone) {
  const auto next = known_translations();
  for (Queue& state : queues_) state.lacks.clear();  // who still lacks something says so again
  auto users = replace_relay_translations({.driver = next, .device = memory_}, gone);
  for (std::uint16_t i = 0; gone != nullptr && i < queues_.size(); ++i) {
    if (!is_translated_by_device(queues_[i])) continue;
    CW_TRY(const auto ring, place_of(QueueIndex{i}, queues_[i]));
    if (virtio::RingAreas::overlap(ring, *gone)) users.push_back(i);
  }
  std::erase_if(users, [&](std::uint16_t queue) { return queues_[queue].failed || !pause(QueueIndex{queue}); });
  translated_ = next;
  tell_translations(gone);
  resume(users);
  return {};
}

/// Returns the queues that must be stopped first.
std::vector<std::uint16_t> Port::replace_relay_translations(const RelayMaps& next, const memory::IovaRange* gone) {
  std::vector<std::uint16_t> users;
  if (std::ranges::none_of(queues_, [](const Queue& state) { return state.relay != nullptr; })) return users;
  std::vector<std::pair<QueueIndex, Error>> failed;
  config_.relay_worker->run_anywhere([&] {
    bool has_work = false;
    for (Queue& state : queues_) {
      if (!state.relay) continue;
      const QueueIndex queue = index_of(state);
      RelayQueue& relayed = state.relay->queue();
      has_work = has_work || relayed.current_wait() != 0;
      if (gone != nullptr && relayed.uses(*gone)) {
        users.push_back(number(queue));
      } else if (auto kept = relayed.replace_maps(next); !kept) {
        failed.emplace_back(queue, std::move(kept).error());
      }
    }
    return has_work;
  });
  for (const auto& [queue, reason] : failed) {
    if (!queues_[number(queue)].failed) fail_queue(queue, reason);
  }
  return users;
}

bool Port::is_translated_by_device(const Queue& state) const {
  return is_translated() && state.runs() && !state.relay && !is_control(index_of(state));
}

/// Also the Devices whose queues have failed: what such a queue had begun is still under way.
void Port::tell_translations(const memory::IovaRange* gone) {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    const auto is_its = [&](const Queue& state) {
      return state.bound.slot == i && is_translated() && state.started && !state.waits && !state.relay &&
             !is_control(index_of(state)) && slot.device->translates(state.bound.queue);
    };
    if (!slot.gone.empty() || std::ranges::none_of(queues_, is_its)) continue;
    const auto told = slot.device->set_translations(translated_, gone);
    if (told) continue;
    for (const Queue& state : queues_) {
      if (is_its(state) && !state.failed) fail_queue(index_of(state), told.error());
    }
  }
}

void Port::on_translations_missed(std::size_t slot, QueueIndex device_queue, std::span<const memory::Miss> misses) {
  // The news may be older than a rebind: then whoever has the queue now asks by itself.
  Queue* const state = find_bound(slot, device_queue);
  if (state != nullptr && is_translated_by_device(*state)) await_translations(*state, misses);
}

/// The answer may have come while the question was on its way here.
void Port::await_translations(Queue& state, std::span<const memory::Miss> misses) {
  if (!is_translated()) return;
  state.lacks.clear();
  for (const memory::Miss& miss : misses) {
    // Of a page that is known in part the rest is due; and so is another answer where the one there is forbids it.
    std::vector<memory::Miss> unknown;
    const bool is_allowed =
        known_translations()->list_missing(miss.at, memory::MemoryMap::kIommuPage, miss.access, unknown);
    if (!is_allowed || !unknown.empty()) state.lacks.push_back(miss);
  }
  ask(state.lacks);
  if (!state.lacks.empty()) return;
  if (auto renewed = renew_translations(nullptr); !renewed) fail_queue(index_of(state), renewed.error());
}

/// Buffers whose addresses were known, of all queues there have been.
std::uint64_t Port::translated_buffers() const {
  std::uint64_t sum = 0;
  for (const Queue& queue : queues_) {
    if (queue.relay) sum += queue.relay->queue().translated();
  }
  for (const Slot& slot : slots_) {
    for (std::uint16_t i = 0; i < slot.device->info().queues; ++i) sum += slot.device->translated(QueueIndex{i});
  }
  return sum;
}

/// Whether the queue must wait for its ring; what it lacks is asked for.
Result<bool> Port::awaits_ring(QueueIndex queue, const Queue& state) {
  if (is_control(queue)) {
    return fail(Errc::not_supported,
                fmt::format("queue {} is the control queue, which cannot lie before an IOMMU", number(queue)));
  }
  CW_TRY(const auto ring, place_of(queue, state));
  std::vector<memory::Miss> misses;
  if (!virtio::RingAreas::list_missing(ring, *known_translations(), misses)) {
    return fail(Errc::peer_violation, fmt::format("queue {}: the IOMMU denies access to its ring", number(queue)));
  }
  ask(misses);
  // Where it is known, the queue must have it.
  if (misses.empty() && translated_ != known_translations()) CW_CHECK(renew_translations(nullptr));
  return !misses.empty();
}

void Port::ask(std::span<const memory::Miss> misses) {
  for (const memory::Miss& miss : misses) {
    if (asked_.size() >= kMaxAsked) asked_.clear();
    if (!asked_.try_emplace({miss.at, miss.access}, translation_counts_.misses).second) continue;
    ++translation_counts_.misses;
    side_->translation_missed(miss);
  }
  if (!asked_.empty() && !ask_timer_) watch_answers();
}

/// A front-end that cannot translate an address says nothing, though it may be able to later.
void Port::watch_answers() {
  ask_timer_.emplace(loop_.after(kPatience, [this, end = translation_counts_.misses] {
    ask_timer_.reset();
    std::vector<memory::Miss> late;
    for (const auto& [page, question] : asked_) {
      if (question < end) late.push_back({.at = page.first, .access = page.second});
    }
    if (!late.empty() && log_limit_.allow()) {
      log::warn("port {}: {} addresses of the driver's are still not translated, the first {}; queues wait", name(),
                late.size(), late.front().at);
    }
    for (const memory::Miss& miss : late) side_->translation_missed(miss);
    if (!asked_.empty()) watch_answers();
  }));
}

/// The rings of some queues may be known by now.
void Port::start_waiting() {
  std::vector<std::uint16_t> waiting;
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].started && queues_[i].waits) waiting.push_back(i);
  }
  resume(waiting);
}

void Port::forget_translations() {
  iotlb_.clear();
  known_.reset();
  asked_.clear();
  ask_timer_.reset();
  translated_ = known_translations();
}

}  // namespace causeway::port
