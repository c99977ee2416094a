#include "vfio/kernel_function.h"

#include "base/log.h"
#include "base/mapping.h"
#include "vfio/kernel_call.h"
#include "vfio/region_layout.h"
#include "vfio/structure.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

namespace causeway::vfio {
namespace {

constexpr std::string_view name_of(RegionIndex region) {
  constexpr std::array<std::string_view, kRegions> kNames = {"BAR 0", "BAR 1", "BAR 2",        "BAR 3", "BAR 4",
                                                             "BAR 5", "ROM",   "config space", "VGA"};
  return kNames[number(region)];
}

/// What became of an access: `done` is what pread or pwrite has just returned.
Result<void> judge(ssize_t done, const char* verb, RegionIndex region, std::uint64_t offset, std::size_t size) {
  if (done == static_cast<ssize_t>(size)) return {};
  const std::string what = fmt::format("{} {} bytes at {:#x} of {}", verb, size, offset, name_of(region));
  if (done >= 0) return fail(Errc::invalid_value, fmt::format("{}: only the first {} can be", what, done));
  Error error = system_error(what);
  if (error.sys_errno == EIO) error.what += " (are the function's registers switched on, in its command register?)";
  return fail(std::move(error));
}

}  // namespace

Result<KernelFunction> KernelFunction::make(OwnedFd fd, std::string name) {
  KernelFunction function(std::move(fd), std::move(name));
  CW_TRY(const auto answer,
         ask(function.fd_, VFIO_DEVICE_GET_INFO, bytes_of(vfio_device_info{}), "ask what the function is"));
  const auto info = *load<vfio_device_info>(answer);
  if ((info.flags & VFIO_DEVICE_FLAGS_PCI) == 0) return fail(Errc::not_supported, "not a PCI function");
  function.info_.can_reset = (info.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
  CW_CHECK(function.ask_regions(info.num_regions));
  CW_TRY(function.info_.vectors, function.ask_interrupt_count(VFIO_PCI_MSIX_IRQ_INDEX));
  return function;
}

Result<void> KernelFunction::ask_regions(std::uint32_t count) {
  std::array<RegionAnswer, kRegions> answers;
  for (std::uint32_t index = 0; index < std::min<std::size_t>(count, kRegions); ++index) {
    vfio_region_info question{};
    question.index = index;
    const auto answer =
        ask(fd_, VFIO_DEVICE_GET_REGION_INFO, bytes_of(question), fmt::format("ask for region {}", index));
    if (!answer && answer.error().sys_errno == EINVAL) continue;  // a function that has no VGA
    if (!answer) return fail(answer.error());
    CW_TRY(answers[index], read_region_answer(*answer));
    info_.regions[index] = answers[index].info;
    info_.regions[index].mappable.clear();
    offsets_[index] = answers[index].offset;
  }
  std::array<std::byte, PCI_CFG_SPACE_SIZE> config{};
  CW_CHECK(read(RegionIndex::config, 0, config));
  const auto table = find_msix_table(config);
  for (std::size_t index = 0; index < kRegions; ++index) {
    const auto& [info, offset, msix_is_mappable] = answers[index];
    const bool holds_table = table && number(table->region) == index && !msix_is_mappable;
    info_.regions[index].mappable =
        whole_pages(info.mappable, holds_table ? std::optional(table->area) : std::nullopt, page_size());
  }
  return {};
}

Result<std::uint32_t> KernelFunction::ask_interrupt_count(std::uint32_t index) const {
  vfio_irq_info question{};
  question.index = index;
  CW_TRY(const auto answer,
         ask(fd_, VFIO_DEVICE_GET_IRQ_INFO, bytes_of(question), "ask for the function's interrupts"));
  return load<vfio_irq_info>(answer)->count;
}

Result<void> KernelFunction::check_access(RegionIndex region, std::uint64_t offset, std::size_t size, bool is_allowed,
                                          const char* verb) const {
  const std::uint64_t region_size = info_.region(region).size;
  if (is_allowed && offset <= region_size && size <= region_size - offset) return {};
  return fail(Errc::invalid_value,
              fmt::format("cannot {} {} bytes at {:#x} of {}, which has {:#x} bytes{}", verb, size, offset,
                          name_of(region), region_size, is_allowed ? "" : " that allow no such access"));
}

Result<void> KernelFunction::read(RegionIndex region, std::uint64_t offset, std::span<std::byte> to) const {
  CW_CHECK(check_access(region, offset, to.size(), info_.region(region).readable, "read"));
  const auto at = static_cast<off_t>(offsets_[number(region)] + offset);
  return judge(::pread(fd_.borrow(), to.data(), to.size(), at), "read", region, offset, to.size());
}

Result<void> KernelFunction::write(RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) const {
  CW_CHECK(check_access(region, offset, from.size(), info_.region(region).writable, "write"));
  const auto at = static_cast<off_t>(offsets_[number(region)] + offset);
  return judge(::pwrite(fd_.borrow(), from.data(), from.size(), at), "write", region, offset, from.size());
}

std::optional<RegionFile> KernelFunction::file_of(RegionIndex region, Area area) const {
  if (area.size == 0 || area.offset % page_size() != 0 || area.size % page_size() != 0) return std::nullopt;
  const auto holds = [&area](const Area& pages) {
    return area.offset >= pages.offset && area.size <= pages.size &&
           area.offset - pages.offset <= pages.size - area.size;
  };
  if (!std::ranges::any_of(info_.region(region).mappable, holds)) return std::nullopt;
  return RegionFile{.fd = fd_, .offset = offsets_[number(region)] + area.offset, .size = area.size};
}

Result<void> KernelFunction::set_interrupts(std::uint32_t index, std::uint32_t start,
                                            std::span<const std::int32_t> events) const {
  vfio_irq_set head{};
  const std::size_t size = sizeof head + events.size_bytes();
  head.argsz = static_cast<std::uint32_t>(size);
  head.flags = VFIO_IRQ_SET_ACTION_TRIGGER | (events.empty() ? VFIO_IRQ_SET_DATA_NONE : VFIO_IRQ_SET_DATA_EVENTFD);
  head.index = index;
  head.start = start;
  head.count = static_cast<std::uint32_t>(events.size());
  std::vector<std::byte> request(size);
  std::memcpy(request.data(), &head, sizeof head);
  std::ranges::copy(std::as_bytes(events), request.begin() + sizeof head);
  const int result = ::ioctl(fd_.borrow(), VFIO_DEVICE_SET_IRQS, request.data());
  if (result < 0)
    return fail(system_error(fmt::format("set interrupts {} to {} of kind {}", start, start + events.size(), index)));
  if (result > 0) {
    // Not in the documentation: the kernel had fewer vectors to give, and gave none.
    return fail(Errc::system,
                fmt::format("the kernel has only {} of {} interrupt vectors to give", result, events.size()));
  }
  return {};
}

Result<void> KernelFunction::enable_vectors(std::uint32_t count) {
  if (count > info_.vectors) {
    return fail(Errc::invalid_value, fmt::format("cannot enable {} MSI-X vectors: there are {}", count, info_.vectors));
  }
  // The kernel refuses to disable what is not enabled.
  if (enabled_ != 0) CW_CHECK(set_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0, {}));
  enabled_ = 0;
  if (count != 0) CW_CHECK(set_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, 0, std::vector<std::int32_t>(count, -1)));
  enabled_ = count;
  return {};
}

Result<void> KernelFunction::set_vector(std::uint32_t vector, const OwnedFd* event) const {
  if (vector >= enabled_) {
    return fail(Errc::invalid_value, fmt::format("MSI-X vector {} is not enabled: {} are", vector, enabled_));
  }
  const std::array<std::int32_t, 1> events = {event == nullptr ? -1 : event->borrow()};
  return set_interrupts(VFIO_PCI_MSIX_IRQ_INDEX, vector, events);
}

Result<bool> KernelFunction::set_request_event(const OwnedFd& event) const {
  CW_TRY(const std::uint32_t count, ask_interrupt_count(VFIO_PCI_REQ_IRQ_INDEX));
  if (count == 0) return false;
  CW_CHECK(set_interrupts(VFIO_PCI_REQ_IRQ_INDEX, 0, std::array<std::int32_t, 1>{event.borrow()}));
  return true;
}

Result<void> KernelFunction::reset() {
  if (!info_.can_reset) return fail(Errc::not_supported, "the kernel knows no way to reset this function alone");
  // The kernel's reset would restore the interrupts.
  CW_CHECK(enable_vectors(0));
  if (::ioctl(fd_.borrow(), VFIO_DEVICE_RESET) < 0) return fail(system_error("reset the function"));
  return {};
}

bool KernelFunction::is_there() const {
  // The kernel makes up the vendor's and device's identity, but not the class, which is never all ones.
  std::array<std::byte, 4> revision_and_class{};
  if (!read(RegionIndex::config, PCI_CLASS_REVISION, revision_and_class)) return false;
  return std::ranges::any_of(revision_and_class, [](std::byte byte) { return byte != std::byte{0xff}; });
}

void KernelFunction::end_dma() const {
  // Its registers stay switched on: who has mapped a doorbell and rings it once more must not be killed for that.
  const std::uint16_t command = PCI_COMMAND_MEMORY;
  if (auto done = write(RegionIndex::config, PCI_COMMAND, std::as_bytes(std::span(&command, 1))); !done) {
    log::debug("end DMA: {}", done.error().text());  // of one that is not there any more
  }
}

void KernelFunction::let_go(const OwnedFd& replacement) const {
  // Cannot fail: both are open.
  [[maybe_unused]] const int same = ::dup3(replacement.borrow(), fd_.borrow(), O_CLOEXEC);
}

}  // namespace causeway::vfio
