// Opening a PCI function through its IOMMU group.
// Spec: Linux Documentation/driver-api/vfio.rst.
#pragma once

#include "base/owned_fd.h"
#include "base/result.h"
#include "vfio/pci_tree.h"

#include <string>

namespace causeway::vfio {

/// The three files that a function is used through. The kernel gives the function back once all are closed.
struct KernelFiles {
  OwnedFd container;  ///< takes the DMA maps
  OwnedFd group;
  OwnedFd function;
};

/// Opens a function with a container of its own. Besides the errors of PciTree::group_of: Errc::busy: another process
/// has the group; Errc::invalid_value: the function, or another one of its group, is not bound to vfio-pci;
/// Errc::not_supported: the kernel's VFIO lacks something; Errc::system. Every text says what to do.
Result<KernelFiles> open_files(const PciTree& tree, const std::string& address);

}  // namespace causeway::vfio
