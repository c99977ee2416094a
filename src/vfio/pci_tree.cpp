#include "vfio/pci_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

namespace causeway::vfio {
namespace {

/// The last part of where a link of sysfs points to; empty when there is none.
std::string name_behind(const std::filesystem::path& link) {
  std::error_code error;
  return std::filesystem::read_symlink(link, error).filename().native();
}

/// Whether a driver leaves the DMA of its function alone, so that the function's group can be used.
bool is_harmless(std::string_view driver) {
  return driver.empty() || driver == "pcieport" || driver == "pci-stub" ||
         driver.find("vfio") != std::string_view::npos;
}

}  // namespace

bool is_pci_address(std::string_view text) {
  constexpr std::string_view kPattern = "xxxx:xx:xx.o";
  static constexpr std::string_view kHex = "0123456789abcdef";
  return std::ranges::equal(text, kPattern, [](char letter, char pattern) {
    if (pattern == 'x') return kHex.contains(letter);
    return pattern == 'o' ? letter >= '0' && letter <= '7' : letter == pattern;
  });
}

Result<std::string> PciTree::group_of(const std::string& address) const {
  if (!is_pci_address(address)) {
    return fail(Errc::invalid_value, fmt::format("'{}' is no PCI address: expected one like 0000:01:00.0", address));
  }
  std::error_code error;
  if (!std::filesystem::exists(folder_of(address), error)) {
    return fail(Errc::not_found, fmt::format("this machine has no PCI function {} (`lspci -D` lists them)", address));
  }
  std::string group = name_behind(folder_of(address) / "iommu_group");
  if (!group.empty()) return group;
  return fail(
      Errc::not_supported,
      fmt::format("PCI function {} has no IOMMU before it: switch the IOMMU on in the machine's firmware, and in the "
                  "kernel's command line (intel_iommu=on; AMD's is on by itself)",
                  address));
}

std::string PciTree::driver_of(const std::string& address) const {
  return name_behind(folder_of(address) / "driver");
}

std::vector<std::string> PciTree::hindrances_of(const std::string& group) const {
  std::vector<std::string> hindrances;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(sysfs_ / "kernel/iommu_groups" / group / "devices", error)) {
    const std::string address = entry.path().filename().native();
    const std::string driver = driver_of(address);
    if (!is_harmless(driver)) hindrances.push_back(fmt::format("{} is bound to {}", address, driver));
  }
  std::ranges::sort(hindrances);
  return hindrances;
}

}  // namespace causeway::vfio
