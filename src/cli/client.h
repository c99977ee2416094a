// Calls to a running causewayd.
#pragma once

#include "base/result.h"

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace causeway::control::v1 {
class CanTakeResponse;
class CaptureBatch;
class CaptureRequest;
class DiscardStateResponse;
class GuestNeeds;
class InjectResponse;
class ListPortsResponse;
class MigrationNeedsResponse;
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
  Result<api::MigrationNeedsResponse> migration_needs(const std::string& name);
  Result<api::CanTakeResponse> can_take(const std::string& name, const api::GuestNeeds& needs);
  /// `frames`: each from its Ethernet header on.
  Result<api::InjectResponse> inject(const std::string& name, const std::vector<std::string>& frames);
  /// Calls `take` with each batch until that says false or `limit` is over; no limit: until the daemon ends.
  Result<void> capture(const api::CaptureRequest& request, std::optional<std::chrono::seconds> limit,
                       const std::function<bool(const api::CaptureBatch& batch)>& take);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace causeway::cli
