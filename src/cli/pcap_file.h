// Files of captured frames, in the format of tcpdump and Wireshark, through libpcap.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::cli {

/// The Ethernet frames in a file. Errc::invalid_value: it is no such file, of another link type, holds a frame of which
/// a part was not captured, or none at all; the text says which.
Result<std::vector<std::string>> read_frames(const std::string& path);

/// Writes Ethernet frames to a new file, with nanoseconds.
class PcapWriter {
 public:
  /// Replaces a file that is there. Errc::invalid_value: it cannot be written.
  static Result<std::unique_ptr<PcapWriter>> create(const std::string& path);
  PcapWriter(const PcapWriter&) = delete;
  PcapWriter& operator=(const PcapWriter&) = delete;
  ~PcapWriter();

  /// `time_ns`: since 1970. `length`: of the whole frame, of which `data` is the beginning.
  void write(std::uint64_t time_ns, std::uint32_t length, std::string_view data);
  /// What was written is in the file, for whoever reads it now. Errc::invalid_value: it is not.
  Result<void> flush();

 private:
  struct Impl;
  explicit PcapWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace causeway::cli
