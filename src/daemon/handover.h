// What two processes of the daemon say to each other when the new one takes over. Over a socket that only they have:
//
//   new                                    old
//   Hello                              ->       (serves all the while)
//                                      <-  Estate: descriptors by name, then every port; hears no front-end any more
//   Answer: is ready, or why not       ->
//                                      <-  Positions: where each queue was paused
//   Answer: serves, or why not         ->       ends
//
// Whatever goes wrong before the last answer, the new process ends, and the old one goes on.
#pragma once

#include "base/owned_fd.h"
#include "base/parcel.h"
#include "base/result.h"
#include "port/record.h"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace causeway::daemon {

/// Changes when an older process could not read the parcels; the records in them have a format of their own.
inline constexpr std::uint32_t kHandoverVersion = 1;
/// For everything that happens while guests' queues run.
inline constexpr std::chrono::milliseconds kHandoverPatience{30'000};
/// For the new process to start the queues.
inline constexpr std::chrono::milliseconds kStartPatience{5'000};

struct Hello {
  std::uint32_t handover_version = kHandoverVersion;
  port::RecordFormat record_format = port::RecordFormat::current;  ///< the newest that it reads
  std::string program_version;
};

/// Descriptors of what is no port's: by name, each taken once.
class Shelf {
 public:
  Shelf() = default;
  static Result<Shelf> read(ParcelReader& parcel);
  /// Nothing when there is none of that name.
  std::optional<OwnedFd> take(const std::string& name);
  /// True when something is there whose name begins so.
  bool has_prefix(const std::string& prefix) const;

 private:
  std::map<std::string, OwnedFd> things_;
};

/// The new process's end. Thread: control.
class Predecessor {
 public:
  /// Says hello and waits for the estate. Errc::gone, Errc::peer_violation: the old process does not go along.
  static Result<std::unique_ptr<Predecessor>> meet(UnixSocket socket, std::string program_version);

  Shelf& shelf() { return shelf_; }
  ParcelReader& ports() { return *estate_; }
  /// Tells the old process that this one is as far as it should be, or why not.
  Result<void> answer(const Result<void>& outcome) const;
  /// Waits for the positions.
  Result<Parcel> positions() const { return receive_parcel(socket_, kHandoverPatience); }

 private:
  explicit Predecessor(UnixSocket socket) : socket_(std::move(socket)) {}
  UnixSocket socket_;
  std::unique_ptr<ParcelReader> estate_;
  Shelf shelf_;
};

}  // namespace causeway::daemon
