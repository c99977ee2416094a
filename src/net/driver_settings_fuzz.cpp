// Any commands of the control virtqueue, for any features: nothing outside a command is read, a command that is refused
// changes nothing, what is accepted is within the device's bounds, and replaying the last command of each topic to
// another device gives the same settings. Input: features (8 bytes), queue pairs (1 byte), then commands, each behind
// its length (2 bytes, least significant first).

#include "net/driver_settings.h"
#include "net/little_endian.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using namespace causeway;
using Bytes = std::span<const std::byte>;

constexpr net::MacAddress kMac{{0x52, 0x54, 0, 0, 0, 1}};

void require(bool holds) {
  if (!holds) std::abort();
}

/// What can be seen of settings: all but the filter's tables, and those by what they let through.
struct Seen {
  std::vector<bool> accepted;
  std::uint16_t active_pairs;
  std::uint32_t types;
  net::HashResult hash;
  std::optional<net::RssSteering> steering;
  virtio::FeatureSet offloads;
  bool operator==(const Seen&) const = default;
};

Seen look(const net::DriverSettings& settings, virtio::FeatureSet negotiated, Bytes probes) {
  Seen seen{.accepted = {},
            .active_pairs = settings.active_pairs(),
            .types = settings.hash().types(),
            .hash = settings.hash().compute(probes),
            .steering = settings.steering(),
            .offloads = settings.effective(negotiated)};
  for (std::size_t at = 0; at + 8 <= probes.size(); ++at) {
    net::EthernetHeader frame{};
    std::memcpy(&frame, probes.data() + at, 6);
    const auto vlan = static_cast<std::uint16_t>(net::le16(probes, at + 6) % 4096);
    seen.accepted.push_back(settings.filter().accepts(frame, std::nullopt));
    seen.accepted.push_back(settings.filter().accepts(frame, vlan));
  }
  return seen;
}

void check_bounds(const net::DriverSettings& settings, std::uint16_t pairs) {
  require(settings.active_pairs() == net::DriverSettings::kAllPairs ||
          (settings.active_pairs() > 0 && settings.active_pairs() <= pairs));
  require((settings.hash().types() & ~net::RssHash::kSupportedTypes) == 0);
  if (!settings.steering()) return;
  require(settings.steering()->pair_for({}) < pairs);
  for (std::uint32_t value = 0; value < 2 * net::RssSteering::kMaxTable; ++value)
    require(settings.steering()->pair_for({.value = value, .report = virtio::HashReport::tcp4}) < pairs);
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes rest = std::as_bytes(std::span(data, size));
  if (rest.size() < 9) return 0;
  const virtio::FeatureSet features(net::le64(rest));
  const auto pairs = static_cast<std::uint16_t>(1 + std::to_integer<unsigned>(rest[8]) % 16);
  rest = rest.subspan(9);
  const Bytes probes = rest.first(std::min<std::size_t>(rest.size(), 64));
  net::DriverSettings settings(kMac, features, pairs);
  std::map<std::uint64_t, Bytes> log;
  while (rest.size() >= 2) {
    const std::size_t length = std::min<std::size_t>(net::le16(rest), rest.size() - 2);
    const Bytes command = rest.subspan(2, length);
    rest = rest.subspan(2 + length);
    // A copy of its own, so that a byte read behind it is noticed.
    const std::vector<std::byte> exact(command.begin(), command.end());
    const Seen before = look(settings, features, probes);
    const auto reply = settings.apply(exact);
    if (reply.ack != virtio::kCtrlOk) {
      require(look(settings, features, probes) == before);
    } else if (reply.is_default) {
      log.erase(reply.topic);
    } else {
      log[reply.topic] = command;
    }
    check_bounds(settings, pairs);
  }
  net::DriverSettings replayed(kMac, features, pairs);
  for (const auto& [topic, command] : log) require(replayed.apply(command).ack == virtio::kCtrlOk);
  require(look(replayed, features, probes) == look(settings, features, probes));
  return 0;
}
