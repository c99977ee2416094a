#include "vfio/kernel_bus.h"

#include "vfio/kernel_group.h"
#include "vfio/pci_tree.h"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <utility>

namespace causeway::vfio {

Result<std::unique_ptr<KernelBus>> KernelBus::open(Loop& loop, std::string pci_address) {
  CW_TRY(auto files, open_files(PciTree(), pci_address));
  const auto within = [&pci_address](Error error) {
    return fail(std::move(error).context("PCI function " + pci_address));
  };
  auto dma = KernelDma::make(std::move(files.container));
  if (!dma) return within(std::move(dma).error());
  auto function = KernelFunction::make(std::move(files.function), pci_address);
  if (!function) return within(std::move(function).error());
  CW_TRY(auto request, EventFd::make());
  std::unique_ptr<KernelBus> bus(
      new KernelBus(loop, std::move(*dma), std::move(files.group), std::move(*function), std::move(request)));
  if (auto watched = bus->watch_request(); !watched) return within(std::move(watched).error());
  return bus;
}

KernelBus::KernelBus(Loop& loop, KernelDma dma, OwnedFd group, KernelFunction function, EventFd request)
    : loop_(loop),
      info_(function.info()),
      dma_(std::move(dma)),
      group_(std::move(group)),
      function_(std::move(function)),
      request_(std::move(request)) {
  info_.iovas = dma_->limits().iovas;
}

Result<void> KernelBus::watch_request() {
  CW_TRY(const bool is_told, function_.set_request_event(request_.fd()));
  if (is_told) {
    watching_ = loop_.watch(request_.fd(), [this] { give_back(); });
  }
  return {};
}

void KernelBus::set_observer(BusObserver* observer) {
  observer_ = observer;
  report();
}

/// Runs a call of the user's, unless the function has gone, and finds out whether it has when the call fails.
template <class Call>
Result<void> KernelBus::attempt(Call call) {
  if (lost_) return fail(*lost_);
  Result<void> result = call();
  if (result) return result;
  if (means_gone(result.error())) {
    lose(result.error().text());
    return fail(*lost_);
  }
  return fail(std::move(result).error().context("PCI function " + info_.name));
}

bool KernelBus::means_gone(const Error& error) const {
  // The kernel answers EIO for registers that are switched off, too.
  return error.sys_errno == ENODEV || (error.sys_errno == EIO && !function_.is_there());
}

void KernelBus::give_back() {
  if (observer_ != nullptr) observer_->bus_wanted_back();
  if (!lost_) lose("the kernel wants it back: it is being unplugged or unbound");
}

void KernelBus::lose(std::string why) {
  lost_ = Error{.code = Errc::gone, .what = fmt::format("PCI function {} has gone: {}", info_.name, why)};
  watching_.reset();
  function_.end_dma();
  function_.let_go(request_.fd());
  group_.reset();
  dma_.reset();
  report();
}

/// Tells the observer later, as it may be in a call of its own now.
void KernelBus::report() {
  if (!lost_ || is_reported_ || observer_ == nullptr) return;
  reporting_ = loop_.after(std::chrono::milliseconds(0), [this] {
    if (observer_ == nullptr) return;
    is_reported_ = true;
    observer_->bus_gone(*lost_);  // may destroy us
  });
}

Result<void> KernelBus::read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) {
  return attempt([&] { return function_.read(region, offset, to); });
}

Result<void> KernelBus::write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) {
  return attempt([&] { return function_.write(region, offset, from); });
}

std::optional<RegionFile> KernelBus::file_of(RegionIndex region, Area area) const {
  return lost_ ? std::nullopt : function_.file_of(region, area);
}

Result<void> KernelBus::dma_map(const memory::Region& region) {
  return attempt([&] { return dma_->map(region); });
}

Result<void> KernelBus::dma_unmap(const memory::Region& region) {
  return attempt([&] { return dma_->unmap(region); });
}

Result<void> KernelBus::enable_vectors(std::uint32_t count) {
  return attempt([&] { return function_.enable_vectors(count); });
}

Result<void> KernelBus::set_vector(std::uint32_t vector, const OwnedFd* event) {
  return attempt([&] { return function_.set_vector(vector, event); });
}

Result<void> KernelBus::reset() {
  return attempt([&] { return function_.reset(); });
}

}  // namespace causeway::vfio
