// A PCI function through the kernel's VFIO: one that is bound to vfio-pci, behind an IOMMU.
#pragma once

#include "base/event_fd.h"
#include "base/loop.h"
#include "base/owned_fd.h"
#include "base/result.h"
#include "vfio/bus.h"
#include "vfio/kernel_dma.h"
#include "vfio/kernel_function.h"

#include <memory>
#include <optional>
#include <span>
#include <string>

namespace causeway::vfio {

/// Invariants:
/// 1. The IOMMU group is open, and claimed against other processes, from `open` until the function has gone.
/// 2. Once it has gone, it reaches no memory: others may hold descriptors of it still, and so keep it from being
/// closed.
/// 3. Once it has gone, nothing here keeps the kernel from unplugging it. Mappings of its regions do: who made some
/// must
///    unmap them when told that it has gone. What `file_of` gave stays open, but maps nothing any more.
/// Destroying it resets the function, as the kernel does so when the last descriptor is closed.
class KernelBus final : public Bus {
 public:
  /// `pci_address` is one like "0000:01:00.0". Errors: see open_files; the text says what to do. `loop` outlives the
  /// Bus.
  static Result<std::unique_ptr<KernelBus>> open(Loop& loop, std::string pci_address);
  KernelBus(const KernelBus&) = delete;
  KernelBus& operator=(const KernelBus&) = delete;
  ~KernelBus() override = default;

  const BusInfo& info() const override { return info_; }
  /// An observer that is set after the function has gone is told so, once, as well.
  void set_observer(BusObserver* observer) override;

  Result<void> read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override;
  Result<void> write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override;
  std::optional<RegionFile> file_of(RegionIndex region, Area area) const override;

  const OwnedFd* group() const override { return group_ ? &*group_ : nullptr; }

  Result<void> dma_map(const memory::Region& region) override;
  Result<void> dma_unmap(const memory::Region& region) override;

  Result<void> enable_vectors(std::uint32_t count) override;
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override;

  Result<void> reset() override;

 private:
  KernelBus(Loop& loop, KernelDma dma, OwnedFd group, KernelFunction function, EventFd request);
  Result<void> watch_request();

  template <class Call>
  Result<void> attempt(Call call);
  bool means_gone(const Error& error) const;
  void give_back();
  void lose(std::string why);
  void report();

  Loop& loop_;
  BusInfo info_;
  BusObserver* observer_ = nullptr;
  // In the order in which they are opened; the kernel wants them closed the other way round.
  std::optional<KernelDma> dma_;
  std::optional<OwnedFd> group_;
  KernelFunction function_;
  EventFd request_;  // the kernel wants the function back
  std::optional<Error> lost_;
  bool is_reported_ = false;
  std::optional<Loop::Registration> watching_;
  std::optional<Loop::Registration> reporting_;
};

}  // namespace causeway::vfio
