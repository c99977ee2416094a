// Changes of guest memory under running queues.

#include "port/port.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway::port {
namespace {

using Regions = std::vector<memory::Region>;

/// The regions of `from` that are not in `other` just as they are.
Regions missing_in(const Regions& other, const Regions& from) {
  Regions rest;
  std::ranges::copy_if(from, std::back_inserter(rest), [&](const memory::Region& region) {
    return std::ranges::none_of(other, [&](const memory::Region& known) { return known.same_as(region); });
  });
  return rest;
}

bool overlap_in_iova(const Regions& a, const Regions& b) {
  return std::ranges::any_of(a, [&](const memory::Region& x) {
    return std::ranges::any_of(b, [&](const memory::Region& y) {
      return x.iova.value() <= y.iova.value() + (y.size - 1) && y.iova.value() <= x.iova.value() + (x.size - 1);
    });
  });
}

}  // namespace

Result<void> Port::set_memory(Regions regions) {
  return change_memory(memory_->with_known(std::move(regions)));
}

Result<void> Port::add_memory(memory::Region region) {
  Regions regions = memory_->regions();
  regions.push_back(std::move(region));
  return change_memory(std::move(regions));
}

Result<void> Port::remove_memory(memory::Iova iova, memory::FrontendVa frontend_va, std::uint64_t size) {
  Regions regions = memory_->regions();
  const auto removed = std::erase_if(regions, [&](const memory::Region& region) {
    return region.iova == iova && region.frontend_va == frontend_va && region.size == size;
  });
  if (removed == 0) {
    return fail(Errc::peer_violation,
                fmt::format("no memory region {}+{:#x} (front-end address {}) to remove", iova, size, frontend_va));
  }
  return change_memory(std::move(regions));
}

Result<void> Port::change_memory(Regions regions) {
  CW_TRY(auto next, memory::MemoryMap::make(std::move(regions)));
  if (log_ && !log_->covers(*next)) {
    return fail(Errc::peer_violation, "the log of written pages has no room for this memory");
  }
  const Regions added = missing_in(memory_->regions(), next->regions());
  const Regions removed = missing_in(next->regions(), memory_->regions());
  const auto refusing = without_memory();
  // Behind an IOMMU rings may lie in what is removed, and be elsewhere afterwards.
  if (!overlap_in_iova(added, removed) && !is_translated()) {
    CW_CHECK(map_everywhere(added, memory_->regions()));
    memory_ = std::move(next);
    known_.reset();
    translated_ = known_translations();
    if (control_queue_) {
      if (auto kept = control_queue_->replace_map(memory_); !kept) {
        const auto queue = *fallback().device->control_queue(features_);
        fail_queue(queue, kept.error());
      }
    }
    replace_relay_maps();
    unmap_everywhere(removed);
    offer_memory_again(refusing);
    save();
    return {};
  }
  // Other memory comes to lie at an address in use: no queue may run in between.
  const auto paused = pause_all();
  unmap_everywhere(removed);
  const Regions kept = missing_in(removed, memory_->regions());
  auto mapped = map_everywhere(added, kept);
  if (mapped) {
    memory_ = std::move(next);
    iotlb_.keep_within(*memory_);
    known_.reset();
    translated_ = known_translations();
    offer_memory_again(refusing);
  } else if (auto back = map_everywhere(removed, kept); !back) {
    log::error("port {}: memory cannot be mapped back: {}", name(), back.error().text());
  }
  resume(paused);
  save();
  return mapped;
}

std::vector<std::uint16_t> Port::pause_all() {
  std::vector<std::uint16_t> paused;
  for (std::uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].started && !queues_[i].failed && pause(QueueIndex{i})) paused.push_back(i);
  }
  return paused;
}

/// False: it has failed instead.
bool Port::pause(QueueIndex queue) {
  Queue& state = queues_[number(queue)];
  auto position = halt(queue, state, vdpa::StopMode::leave);
  if (position) {
    state.start = std::move(*position);
  } else {
    state.started = true;
    fail_queue(queue, position.error());
  }
  return position.has_value();
}

void Port::resume(std::span<const std::uint16_t> queues) {
  for (const std::uint16_t index : queues) {
    Queue& queue = queues_[index];
    if (auto running = run(QueueIndex{index}, queue); !running) {
      queue.started = true;
      fail_queue(QueueIndex{index}, running.error());
    }
  }
}

/// `mapped` is what the Devices have already. One that refuses more of it keeps nothing, and its queues go elsewhere;
/// it is the last one that must not refuse.
Result<void> Port::map_everywhere(std::span<const memory::Region> regions, std::span<const memory::Region> mapped) {
  if (regions.empty()) return {};
  if (fallback().gone.empty()) {
    if (auto taken = fallback().device->map(regions); !taken) {
      return fail(std::move(taken).error().context("device " + info().name));
    }
  }
  for (std::size_t i = 0; i + 1 < slots_.size(); ++i) {
    if (!slots_[i].has_memory()) continue;
    const auto taken = slots_[i].device->map(regions);
    if (taken) continue;
    make_unusable(i, &Slot::memory, taken.error());
    if (mapped.empty()) continue;
    if (auto unmapped = slots_[i].device->unmap(mapped); !unmapped) {
      log::error("port {}: device {}: {}", name(), slots_[i].device->info().name, unmapped.error().text());
    }
  }
  return {};
}

void Port::unmap_everywhere(std::span<const memory::Region> regions) {
  if (regions.empty()) return;
  for (const Slot& slot : slots_) {
    if (!slot.has_memory()) continue;
    if (auto unmapped = slot.device->unmap(regions); !unmapped) {
      log::error("port {}: device {}: {}", name(), slot.device->info().name, unmapped.error().text());
    }
  }
}

/// The Devices that have refused the memory.
std::vector<std::size_t> Port::without_memory() const {
  std::vector<std::size_t> slots;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].memory.empty()) slots.push_back(i);
  }
  return slots;
}

void Port::offer_memory_again(std::span<const std::size_t> slots) {
  for (const std::size_t index : slots) {
    Slot& slot = slots_[index];
    if (!memory_->regions().empty()) {
      if (auto taken = slot.device->map(memory_->regions()); !taken) {
        slot.memory = taken.error().text();
        continue;
      }
    }
    slot.memory.clear();
    log::info("port {}: device {} takes the guest's memory again", name(), slot.device->info().name);
    if (slot.is_usable()) fail_back(index);
  }
}

void Port::check_memory() {
  if (!memory_->is_lost()) return;
  log::error("port {}: its memory file was truncated; the port stops", name());
  stop_all();
  status_ = status_ | Status::needs_reset;
  if (side_ != nullptr) side_->memory_lost();
}

}  // namespace causeway::port
