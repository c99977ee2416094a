#include "cli/pcap_file.h"

#include <fmt/format.h>

#include <pcap/pcap.h>

#include <array>
#include <utility>

namespace causeway::cli {
namespace {

constexpr int kSnapLength = 262144;
constexpr std::uint64_t kSecond = 1'000'000'000;

using Pcap = std::unique_ptr<pcap_t, decltype([](pcap_t* pcap) { pcap_close(pcap); })>;
using Dumper = std::unique_ptr<pcap_dumper_t, decltype([](pcap_dumper_t* dumper) { pcap_dump_close(dumper); })>;

Failure refuse(const std::string& path, std::string_view why) {
  return fail(Errc::invalid_value, fmt::format("{}: {}", path, why));
}

std::string link_name(int type) {
  const char* const name = pcap_datalink_val_to_name(type);
  return name != nullptr ? name : fmt::format("number {}", type);
}

}  // namespace

Result<std::vector<std::string>> read_frames(const std::string& path) {
  std::array<char, PCAP_ERRBUF_SIZE> why{};
  const Pcap pcap(pcap_open_offline(path.c_str(), why.data()));
  if (!pcap) return refuse(path, why.data());
  if (const int type = pcap_datalink(pcap.get()); type != DLT_EN10MB) {
    return refuse(path,
                  fmt::format("its frames are of link type {}; expected EN10MB, that is Ethernet", link_name(type)));
  }
  std::vector<std::string> frames;
  pcap_pkthdr* header = nullptr;
  const u_char* data = nullptr;
  int got = 0;
  while ((got = pcap_next_ex(pcap.get(), &header, &data)) == 1) {
    if (header->caplen < header->len) {
      return refuse(path, fmt::format("of frame {}, {} bytes of {} were captured; expected whole frames",
                                      frames.size() + 1, header->caplen, header->len));
    }
    frames.emplace_back(data, data + header->caplen);
  }
  if (got == PCAP_ERROR)
    return refuse(path, fmt::format("behind frame {}: {}", frames.size(), pcap_geterr(pcap.get())));
  if (frames.empty()) return refuse(path, "it holds no frames");
  return frames;
}

struct PcapWriter::Impl {
  std::string path;
  Pcap pcap;
  Dumper dumper;
};

PcapWriter::PcapWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PcapWriter::~PcapWriter() = default;

Result<std::unique_ptr<PcapWriter>> PcapWriter::create(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->pcap.reset(pcap_open_dead_with_tstamp_precision(DLT_EN10MB, kSnapLength, PCAP_TSTAMP_PRECISION_NANO));
  if (!impl->pcap) return refuse(path, "no memory");
  impl->dumper.reset(pcap_dump_open(impl->pcap.get(), path.c_str()));
  if (!impl->dumper) return fail(Errc::invalid_value, pcap_geterr(impl->pcap.get()));
  return std::unique_ptr<PcapWriter>(new PcapWriter(std::move(impl)));
}

void PcapWriter::write(std::uint64_t time_ns, std::uint32_t length, std::string_view data) {
  pcap_pkthdr header{};
  header.ts.tv_sec = static_cast<time_t>(time_ns / kSecond);
  header.ts.tv_usec = static_cast<suseconds_t>(time_ns % kSecond);  // nanoseconds, in a file of that precision
  header.caplen = static_cast<bpf_u_int32>(data.size());
  header.len = length;
  const std::vector<u_char> bytes(data.begin(), data.end());
  // The type of the first argument is what a callback of libpcap gets.
  pcap_dump(static_cast<u_char*>(static_cast<void*>(impl_->dumper.get())), &header, bytes.data());
}

Result<void> PcapWriter::flush() {
  if (pcap_dump_flush(impl_->dumper.get()) == 0) return {};
  return fail(system_error(fmt::format("write {}", impl_->path)));
}

}  // namespace causeway::cli
