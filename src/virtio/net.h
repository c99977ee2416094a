// The network device's numbers and layouts. Spec: virtio 1.3 section 5.1.
#pragma once

#include <cstddef>
#include <cstdint>

namespace causeway::virtio {

enum class NetFeature : unsigned {
  csum = 0,
  guest_csum = 1,
  ctrl_guest_offloads = 2,
  mtu = 3,
  mac = 5,
  guest_tso4 = 7,
  guest_tso6 = 8,
  guest_ecn = 9,
  guest_ufo = 10,
  host_tso4 = 11,
  host_tso6 = 12,
  host_ecn = 13,
  host_ufo = 14,
  mrg_rxbuf = 15,
  status = 16,
  ctrl_vq = 17,
  ctrl_rx = 18,
  ctrl_vlan = 19,
  ctrl_rx_extra = 20,
  guest_announce = 21,
  mq = 22,
  ctrl_mac_addr = 23,
  device_stats = 50,
  vq_notf_coal = 52,
  notf_coal = 53,
  guest_uso4 = 54,
  guest_uso6 = 55,
  host_uso = 56,
  hash_report = 57,
  guest_hdrlen = 59,
  rss = 60,
  rsc_ext = 61,
  standby = 62,
  speed_duplex = 63,
};

/// Device configuration space (5.1.4), as far as we offer it: hashes of tunnels are not. Little-endian.
struct NetConfig {
  std::uint8_t mac[6];
  std::uint16_t status;
  std::uint16_t max_virtqueue_pairs;
  std::uint16_t mtu;
  std::uint32_t speed;  ///< Mbit/s, or kNetSpeedUnknown
  std::uint8_t duplex;
  std::uint8_t rss_max_key_size;
  std::uint16_t rss_max_indirection_table_length;
  std::uint32_t supported_hash_types;
};
static_assert(sizeof(NetConfig) == 24);
inline constexpr std::uint16_t kNetStatusLinkUp = 1;
inline constexpr std::uint16_t kNetStatusAnnounce = 2;
inline constexpr std::uint32_t kNetSpeedUnknown = 0xffffffff;  ///< known speeds are at most 0x7fffffff
inline constexpr std::uint8_t kNetDuplexHalf = 0;
inline constexpr std::uint8_t kNetDuplexFull = 1;
inline constexpr std::uint8_t kNetDuplexUnknown = 0xff;

/// The header before every packet (5.1.6). Little-endian.
struct NetHeader {
  std::uint8_t flags;
  std::uint8_t gso_type;
  std::uint16_t hdr_len;
  std::uint16_t gso_size;
  std::uint16_t csum_start;
  std::uint16_t csum_offset;
  std::uint16_t num_buffers;  ///< absent without VERSION_1 and MRG_RXBUF
};
static_assert(sizeof(NetHeader) == 12);
inline constexpr std::size_t kLegacyNetHeaderSize = 10;

/// What follows the header once HASH_REPORT is negotiated, in both directions; on transmit it is ignored (5.1.6.4.4).
struct NetHeaderHash {
  std::uint32_t value;
  std::uint16_t report;  ///< a HashReport
  std::uint16_t padding;
};
static_assert(sizeof(NetHeaderHash) == 8);
inline constexpr std::size_t kNetHeaderWithHashSize = sizeof(NetHeader) + sizeof(NetHeaderHash);

/// Which packets are hashed, and over what (5.1.6.4.3): bits of supported_hash_types and of RSS_CONFIG and HASH_CONFIG.
inline constexpr std::uint32_t kHashIpv4 = 1 << 0;
inline constexpr std::uint32_t kHashTcp4 = 1 << 1;
inline constexpr std::uint32_t kHashUdp4 = 1 << 2;
inline constexpr std::uint32_t kHashIpv6 = 1 << 3;
inline constexpr std::uint32_t kHashTcp6 = 1 << 4;
inline constexpr std::uint32_t kHashUdp6 = 1 << 5;
inline constexpr std::uint32_t kHashIpv6Ex = 1 << 6;
inline constexpr std::uint32_t kHashTcp6Ex = 1 << 7;
inline constexpr std::uint32_t kHashUdp6Ex = 1 << 8;
inline constexpr std::uint32_t kHashAll = (1 << 9) - 1;

/// What a hash was calculated over.
enum class HashReport : std::uint16_t {
  none = 0,
  ipv4 = 1,
  tcp4 = 2,
  udp4 = 3,
  ipv6 = 4,
  tcp6 = 5,
  udp6 = 6,
  ipv6_ex = 7,
  tcp6_ex = 8,
  udp6_ex = 9,
};

inline constexpr std::uint8_t kNetHeaderNeedsCsum = 1;
inline constexpr std::uint8_t kNetHeaderDataValid = 2;
inline constexpr std::uint8_t kGsoNone = 0;
inline constexpr std::uint8_t kGsoTcp4 = 1;
inline constexpr std::uint8_t kGsoUdp = 3;
inline constexpr std::uint8_t kGsoTcp6 = 4;
inline constexpr std::uint8_t kGsoUdpL4 = 5;
inline constexpr std::uint8_t kGsoEcn = 0x80;  ///< added to a TCP type

/// Commands of the control virtqueue (5.1.6.5).
inline constexpr std::uint8_t kCtrlOk = 0;
inline constexpr std::uint8_t kCtrlErr = 1;
enum class NetCtrlClass : std::uint8_t {
  rx = 0,
  mac = 1,
  vlan = 2,
  announce = 3,
  mq = 4,
  guest_offloads = 5,
  stats = 8
};
enum class NetCtrlRx : std::uint8_t { promisc = 0, allmulti = 1, alluni = 2, nomulti = 3, nouni = 4, nobcast = 5 };
enum class NetCtrlMac : std::uint8_t { table_set = 0, addr_set = 1 };
enum class NetCtrlVlan : std::uint8_t { add = 0, del = 1 };
enum class NetCtrlAnnounce : std::uint8_t { ack = 0 };
enum class NetCtrlMq : std::uint8_t { vq_pairs_set = 0, rss_config = 1, hash_config = 2 };
enum class NetCtrlOffloads : std::uint8_t { set = 0 };

}  // namespace causeway::virtio
