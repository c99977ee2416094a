// A port as representor of its guest's device: frames given to the guest, and copies of frames, through the port's
// software NIC. Thread: control.
#pragma once

#include "base/result.h"
#include "daemon/graph.h"
#include "net/link.h"

#include <control/causeway.pb.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::daemon {

/// The frames of one call on their way to the guest of one port. Use: `begin`, `go_on` until it says so, `end`. A queue
/// that it has borrowed goes back in `end`, or when it is destroyed.
class Injection {
 public:
  static constexpr std::size_t kMostBytes = std::size_t{64} << 20;
  /// Between two `go_on`.
  static constexpr std::chrono::milliseconds kPause{1};
  /// How long the guest may offer no buffer.
  static constexpr std::chrono::milliseconds kPatience{1000};

  /// Errc::not_found: no such port; Errc::invalid_value: no frame, or one that is none; Errc::not_supported: the port
  /// has no software NIC as its last Device, or what Port::borrow says; Errc::gone: no receive queue runs.
  static Result<std::unique_ptr<Injection>> begin(const Graph& graph, std::string_view port,
                                                  std::vector<std::string> frames);
  Injection(const Injection&) = delete;
  Injection& operator=(const Injection&) = delete;
  ~Injection();

  /// Gives the guest what it has buffers for; true when nothing is left to be done.
  bool go_on();
  control::v1::InjectResponse end();

 private:
  Injection(port::Port& port, net::Link& link, std::vector<std::string> frames)
      : port_(port), link_(link), frames_(std::move(frames)) {}
  Result<void> prepare(const PortEntry& entry);
  void lose(std::string_view why);
  void give_back();

  port::Port& port_;
  net::Link& link_;
  std::vector<std::string> frames_;
  std::size_t next_ = 0;
  std::chrono::steady_clock::time_point progress_ = std::chrono::steady_clock::now();
  std::optional<port::QueueIndex> borrowed_;
  control::v1::InjectResponse response_;
};

/// Copies of the frames of one port. It ends in `end`, or when it is destroyed.
class PortCapture {
 public:
  /// Between two `take`.
  static constexpr std::chrono::milliseconds kPause{20};

  /// Errc::not_found: no such port; Errc::not_supported: it has no software NIC; Errc::busy: it is captured already.
  static Result<std::unique_ptr<PortCapture>> begin(const Graph& graph, const control::v1::CaptureRequest& request);
  PortCapture(const PortCapture&) = delete;
  PortCapture& operator=(const PortCapture&) = delete;
  ~PortCapture();

  /// What has come since, in messages that are not too large for one; none: nothing has, and `unseen` is as it was.
  std::vector<control::v1::CaptureBatch> take();
  /// The sums.
  control::v1::CaptureBatch end();

 private:
  explicit PortCapture(const PortEntry& entry) : entry_(entry) {}
  control::v1::CaptureBatch empty() const;
  std::vector<std::uint32_t> unseen() const;

  const PortEntry& entry_;
  bool is_running_ = true;
  bool is_first_ = true;
  std::vector<std::uint32_t> unseen_;
  std::uint64_t captured_ = 0;
  std::uint64_t lost_ = 0;
};

}  // namespace causeway::daemon
