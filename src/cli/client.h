// Calls to a running causewayd.
#pragma once

#include "base/result.h"

#include <memory>
#include <string>

namespace causeway::control::v1 {
class DiscardStateResponse;
class ListPortsResponse;
class Port;
class RebindRequest;
class RebindResponse;
class ResizeResponse;
class UpgradeResponse;
class VersionResponse;
}  // namespace causeway::control::v1

namespace causeway::cli {

namespace api = control::v1;

/// A connection to the control API. Every call waits for the answer, at most `kPatience`. Thread: one at a time.
class Client {
 public:
  /// `socket` is the path of the daemon's control socket; it is connected to by the first call.
  explicit Client(std::string socket);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  Result<api::VersionResponse> version();
  Result<api::ListPortsResponse> list_ports();
  Result<api::Port> show_port(const std::string& name);
  Result<api::RebindResponse> rebind(const api::RebindRequest& request);
  Result<api::ResizeResponse> resize(const std::string& name);
  /// `binary`: absolute path, or empty. Waits for as long as the daemon does.
  Result<api::UpgradeResponse> upgrade(const std::string& binary);
  Result<api::DiscardStateResponse> discard_state(const std::string& name);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace causeway::cli
