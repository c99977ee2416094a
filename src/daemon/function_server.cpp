#include "daemon/function_server.h"

#include "base/log.h"

#include <utility>

namespace causeway::daemon {

Result<std::unique_ptr<FunctionServer>> FunctionServer::start(Loop& loop, port::Port& port, Worker& worker,
                                                              const config::PortConfig& config) {
  CW_TRY(auto function, virtio_pci::Function::make(loop, port, worker, {.ring_state = config.ring_state}));
  CW_TRY(auto server,
         vfio_user::Server::start(loop, *function, {.name = "port " + config.name, .path = config.socket}));
  log::info("port {}: serves a virtio-pci function on '{}', worker {}", config.name, config.socket, config.worker);
  return std::unique_ptr<FunctionServer>(new FunctionServer(std::move(function), std::move(server)));
}

}  // namespace causeway::daemon
