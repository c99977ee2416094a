// What sysfs says about PCI functions: their IOMMU groups and drivers.
#pragma once

#include "base/result.h"

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::vfio {

/// "0000:01:00.0": domain, bus, device and function in lower-case hexadecimal, as the kernel names them.
bool is_pci_address(std::string_view text);

/// Reads sysfs anew at each call. Thread: any.
class PciTree {
 public:
  explicit PciTree(std::filesystem::path sysfs = "/sys") : sysfs_(std::move(sysfs)) {}

  /// The number of the function's IOMMU group. Errc::invalid_value: that is no address; Errc::not_found: there is no
  /// such function; Errc::not_supported: no IOMMU stands before it.
  Result<std::string> group_of(const std::string& address) const;
  /// Empty when it has none.
  std::string driver_of(const std::string& address) const;
  /// What keeps a group from being used: its functions with a driver that does DMA for the kernel, in order, as
  /// "0000:01:00.1 is bound to virtio-pci".
  std::vector<std::string> hindrances_of(const std::string& group) const;

 private:
  std::filesystem::path folder_of(const std::string& address) const { return sysfs_ / "bus/pci/devices" / address; }
  std::filesystem::path sysfs_;
};

}  // namespace causeway::vfio
