// What the function is, and what it borrows from its client: memory and interrupts.
#include "virtio_pci/function.h"

#include "base/mapping.h"
#include "virtio/inflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

namespace causeway::virtio_pci {
namespace {

// BAR 0.
constexpr std::uint32_t kCommonAt = 0x0;
constexpr std::uint32_t kIsrAt = 0x100;
constexpr std::uint32_t kRingStateAt = 0x200;
constexpr std::uint32_t kDeviceAt = 0x1000;
constexpr std::uint32_t kDeviceBytes = 0x1000;
constexpr std::uint32_t kMsixAt = 0x8000;
constexpr std::uint32_t kPendingAt = 0x18000;
constexpr std::uint32_t kRegisterBytes = 0x20000;
constexpr std::uint32_t kMaxVectors = (kPendingAt - kMsixAt) / kMsixEntryBytes;

constexpr std::uint8_t kRegisterBar = 0;

VirtioCap virtio_cap(CfgType type, std::uint8_t bar, std::uint32_t offset, std::uint32_t bytes,
                     std::uint8_t length = sizeof(VirtioCap)) {
  return {.id = kCapVendor,
          .next = 0,
          .length = length,
          .cfg_type = std::to_underlying(type),
          .bar = bar,
          .instance = 0,
          .padding = {},
          .offset = offset,
          .bytes = bytes};
}

std::uint16_t class_of(virtio::DeviceType type) {
  return type == virtio::DeviceType::net ? 0x0200 : 0x0180;
}

}  // namespace

Result<std::unique_ptr<Function>> Function::make(Loop& loop, port::Port& port, Worker& worker, FunctionConfig config) {
  std::unique_ptr<Function> function(new Function(loop, port, config));
  CW_CHECK(function->lay_out(worker));
  CW_CHECK(port.attach(*function));
  function->is_attached_ = true;
  return function;
}

Function::Function(Loop& loop, port::Port& port, FunctionConfig config)
    : loop_(loop), port_(port), config_(config), queues_(port.queue_count()) {
  // Only a Device that keeps records can say what is in flight in its rings.
  if (!port.info().can.record_in_flight) config_.ring_state = false;
}

Function::~Function() {
  if (!is_attached_) return;
  bells_.reset();
  port_.detach();
}

Result<void> Function::lay_out(Worker& worker) {
  const std::uint64_t bells = queue_count() * page_size();
  if (config_.ring_state) {
    const auto entries = static_cast<std::uint16_t>(port_.info().largest_ring);
    const std::uint64_t largest = virtio::InflightArea::size(virtio::Layout::packed, entries) +
                                  virtio::InflightArea::log_size(virtio::Layout::packed, entries);
    record_offset_ = bells;
    record_bytes_ = (queue_count() * largest + page_size() - 1) / page_size() * page_size();
  }
  const std::uint64_t shared = std::bit_ceil(bells + record_bytes_);
  CW_TRY(shared_, make_memfd("virtio-pci-bar", shared));
  CW_TRY(bells_, Doorbells::make(worker, *shared_, 0, static_cast<std::uint16_t>(queue_count())));
  info_.name = port_.name();
  info_.vectors = std::min<std::uint32_t>(static_cast<std::uint32_t>(queue_count()) + 1, kMaxVectors);
  info_.can_reset = true;
  info_.iovas.push_back({.first = memory::Iova(0), .last = memory::Iova(~0ULL)});
  info_.regions[kRegisterBar] = {.size = kRegisterBytes, .readable = true, .writable = true, .mappable = {}};
  info_.regions[kSharedBar] = {
      .size = shared, .readable = true, .writable = true, .mappable = {{.offset = 0, .size = shared}}};
  info_.regions[vfio::number(vfio::RegionIndex::config)] = {
      .size = kConfigSpaceBytes, .readable = true, .writable = true, .mappable = {}};
  msix_table_.resize(info_.vectors * kMsixEntryBytes);
  describe();
  return {};
}

void Function::describe() {
  const auto type = port_.info().type;
  space_.set(kVendorId, kVirtioVendor);
  space_.set(kDeviceId, static_cast<std::uint16_t>(kModernDevice + std::to_underlying(type)));
  space_.set(kRevision, std::uint8_t{1});
  space_.set(kClass, class_of(type));
  space_.set(kSubsystemVendorId, kVirtioVendor);
  space_.set(kSubsystemId, static_cast<std::uint16_t>(kModernDevice + std::to_underlying(type)));
  space_.allow(kCommand, std::uint16_t{0x0507});
  space_.allow(kInterruptLine, std::uint8_t{0xff});
  space_.set_bar(kRegisterBar, kRegisterBytes);
  space_.set_bar(kSharedBar, info_.regions[kSharedBar].size);
  const auto msix = space_.add_capability(MsixCap{.id = kCapMsix,
                                                  .next = 0,
                                                  .control = static_cast<std::uint16_t>(info_.vectors - 1),
                                                  .table = kMsixAt | kRegisterBar,
                                                  .pending = kPendingAt | kRegisterBar});
  space_.allow(msix + offsetof(MsixCap, control), std::uint16_t{0xc000});
  space_.add_capability(virtio_cap(CfgType::common, kRegisterBar, kCommonAt, sizeof(CommonCfg)));
  space_.add_capability(virtio_cap(CfgType::isr, kRegisterBar, kIsrAt, 1));
  space_.add_capability(virtio_cap(CfgType::device, kRegisterBar, kDeviceAt, std::max(port_.info().config_size, 4U)));
  space_.add_capability(
      NotifyCap{.cap = virtio_cap(CfgType::notify, kSharedBar, 0,
                                  static_cast<std::uint32_t>(queue_count() * page_size()), sizeof(NotifyCap)),
                .multiplier = static_cast<std::uint32_t>(page_size())});
  window_cap_ =
      space_.add_capability(PciCfgCap{.cap = virtio_cap(CfgType::pci, 0, 0, 0, sizeof(PciCfgCap)), .data = {}});
  space_.allow(window_cap_ + offsetof(VirtioCap, bar), std::uint8_t{0xff});
  space_.allow(window_cap_ + offsetof(VirtioCap, offset), std::uint64_t{~0ULL});
  if (!config_.ring_state) return;
  space_.add_capability(RingStateCap{.id = kCapVendor,
                                     .next = 0,
                                     .length = sizeof(RingStateCap),
                                     .cfg_type = std::to_underlying(CfgType::vendor),
                                     .vendor_id = kVirtioVendor,
                                     .version = kRingStateVersion,
                                     .bar = kRegisterBar,
                                     .magic = kRingStateMagic,
                                     .offset = kRingStateAt});
}

virtio::FeatureSet Function::offered() const {
  return port_.offered_features().with(virtio::Feature::ring_reset);
}

Result<void> Function::read(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> to) {
  return transfer(region, offset, to, {});
}

Result<void> Function::write(vfio::RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) {
  return transfer(region, offset, {}, from);
}

Result<void> Function::transfer(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> read,
                                std::span<const std::byte> written) {
  const std::size_t size = read.size() + written.size();
  const std::uint64_t whole = info_.region(region).size;
  if (offset > whole || size > whole - offset) {
    return fail(Errc::invalid_value,
                fmt::format("{:#x}+{:#x} is not in region {}", offset, size, vfio::number(region)));
  }
  if (size == 0) return {};  // nothing below need care about empty accesses
  if (region == vfio::RegionIndex::config) {
    access_config(offset, read, written);
  } else if (vfio::number(region) == kRegisterBar) {
    access_registers(offset, read, written);
  } else if (!written.empty()) {
    ring(offset);
  } else {
    // Doorbells read as nothing, and records are for those who map them.
    std::ranges::fill(read, std::byte{0});
  }
  return {};
}

void Function::access_registers(std::uint64_t offset, std::span<std::byte> read, std::span<const std::byte> written) {
  const auto inside = [&](std::uint64_t at, std::size_t bytes) {
    return offset >= at && offset + read.size() + written.size() <= at + bytes;
  };
  const auto show = [&](const auto& registers, std::uint64_t at) {
    const auto bytes = std::as_bytes(std::span(&registers, 1));
    std::ranges::copy(bytes.subspan(offset - at, read.size()), read.begin());
  };
  std::ranges::fill(read, std::byte{0});
  if (inside(kCommonAt, sizeof(CommonCfg))) {
    if (written.empty()) return show(common(), kCommonAt);
    write_common(offset - kCommonAt, written);
  } else if (inside(kIsrAt, 1)) {
    if (!read.empty()) read[0] = static_cast<std::byte>(std::exchange(isr_, std::uint8_t{0}));
  } else if (config_.ring_state && inside(kRingStateAt, sizeof(RingStateCfg))) {
    if (written.empty()) return show(ring_state(), kRingStateAt);
    write_ring_state(offset - kRingStateAt, written);
  } else if (inside(kDeviceAt, kDeviceBytes)) {
    access_device(offset - kDeviceAt, read, written);
  } else if (inside(kMsixAt, msix_table_.size())) {
    const auto table = std::span(msix_table_).subspan(offset - kMsixAt, read.size() + written.size());
    std::ranges::copy(table.first(read.size()), read.begin());
    std::ranges::copy(written, table.begin());
  }
}

void Function::access_device(std::uint64_t offset, std::span<std::byte> read, std::span<const std::byte> written) {
  const std::uint64_t whole = port_.info().config_size;
  if (offset >= whole) return;
  const auto at = static_cast<std::uint32_t>(offset);
  const auto done =
      written.empty() ? port_.read_config(at, read.first(std::min<std::uint64_t>(read.size(), whole - offset)))
                      : port_.write_config(at, written.first(std::min<std::uint64_t>(written.size(), whole - offset)));
  if (!done && log_limit_.allow()) log::warn("port {}: configuration space: {}", port_.name(), done.error().text());
}

void Function::access_config(std::uint64_t offset, std::span<std::byte> read, std::span<const std::byte> written) {
  const std::uint64_t data = window_cap_ + offsetof(PciCfgCap, data);
  const bool is_window = offset >= data && offset + read.size() + written.size() <= data + sizeof(PciCfgCap::data);
  if (is_window) return through_window(read, written);
  if (written.empty()) {
    space_.read(offset, read);
  } else {
    space_.write(offset, written);
  }
}

/// Access to BARs by whoever cannot map them (4.1.4.9).
void Function::through_window(std::span<std::byte> read, std::span<const std::byte> written) {
  const auto window = space_.get<VirtioCap>(window_cap_);
  const std::size_t size = read.size() + written.size();
  std::ranges::fill(read, std::byte{0});
  if (window.bytes != size || !std::has_single_bit(size) || window.offset % size != 0 || window.bar > 5) return;
  if (auto done = transfer(static_cast<vfio::RegionIndex>(window.bar), window.offset, read, written); !done) {
    if (log_limit_.allow()) log::warn("port {}: {}", port_.name(), done.error().text());
  }
}

std::optional<vfio::RegionFile> Function::file_of(vfio::RegionIndex region, vfio::Area area) const {
  const std::uint64_t whole = info_.region(region).size;
  if (vfio::number(region) != kSharedBar || area.offset > whole || area.size > whole - area.offset) return std::nullopt;
  return vfio::RegionFile{.fd = *shared_, .offset = area.offset, .size = area.size};
}

Result<void> Function::dma_map(const memory::Region& region) {
  return port_.add_memory(region);
}

Result<void> Function::dma_unmap(const memory::Region& region) {
  return port_.remove_memory(region.iova, region.frontend_va, region.size);
}

Result<void> Function::enable_vectors(std::uint32_t count) {
  if (count > info_.vectors) return fail(Errc::invalid_value, fmt::format("{} vectors of {}", count, info_.vectors));
  for (std::uint32_t i = 0; i < vectors_.size(); ++i) {
    vectors_[i].reset();
    use_vector(static_cast<std::uint16_t>(i));
  }
  vectors_.assign(count, std::nullopt);
  return {};
}

Result<void> Function::set_vector(std::uint32_t vector, const OwnedFd* event) {
  if (vector >= vectors_.size()) return fail(Errc::invalid_value, fmt::format("vector {} is not enabled", vector));
  std::optional<CallFd> call;
  if (event != nullptr) {
    CW_TRY(auto duplicate, event->duplicate());
    CW_TRY(auto adopted, EventFd::adopt(std::move(duplicate)));
    call.emplace(std::move(adopted));
  }
  vectors_[vector] = std::move(call);
  use_vector(static_cast<std::uint16_t>(vector));
  return {};
}

void Function::config_changed() {
  ++generation_;
  isr_ |= kIsrConfig;
  if (auto call = call_of(config_vector_)) call->signal();
}

void Function::memory_lost() {
  config_changed();
}

Result<void> Function::reset() {
  reset_device();
  space_.set(kCommand, std::uint16_t{0});
  vectors_.clear();
  return {};
}

}  // namespace causeway::virtio_pci
