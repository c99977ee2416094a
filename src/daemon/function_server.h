// A port served as a virtio-pci function by vfio-user: an accelerator to another daemon, a PCI device to a VMM.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "daemon/config/config.h"
#include "port/port.h"
#include "vfio_user/server.h"
#include "virtio_pci/function.h"

#include <memory>

namespace causeway::daemon {

/// Thread: control.
class FunctionServer {
 public:
  /// Errors name the port. Loop, port and worker must outlive it.
  static Result<std::unique_ptr<FunctionServer>> start(Loop& loop, port::Port& port, Worker& worker,
                                                       const config::PortConfig& config);
  bool is_connected() const { return server_->is_connected(); }

 private:
  FunctionServer(std::unique_ptr<virtio_pci::Function> function, std::unique_ptr<vfio_user::Server> server)
      : function_(std::move(function)), server_(std::move(server)) {}
  std::unique_ptr<virtio_pci::Function> function_;
  std::unique_ptr<vfio_user::Server> server_;  // goes first
};

}  // namespace causeway::daemon
