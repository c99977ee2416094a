// The vhost-user protocol as data: every message, every protocol feature, and the rules each one obeys. The codec, the
// session, log lines, the page docs/wire/vhost-user.md, tests and fuzzers all work from these tables.
// Spec: QEMU docs/interop/vhost-user.rst.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace causeway::vhost_user {

/// Extensions of the protocol, negotiated apart from the virtio features. The value is the bit.
enum class ProtocolFeature : std::uint8_t {
  mq = 0,
  log_shmfd = 1,
  rarp = 2,
  reply_ack = 3,
  mtu = 4,
  backend_req = 5,
  cross_endian = 6,
  crypto_session = 7,
  pagefault = 8,
  config = 9,
  backend_send_fd = 10,
  host_notifier = 11,
  inflight_shmfd = 12,
  reset_device = 13,
  inband_notifications = 14,
  configure_mem_slots = 15,
  status = 16,
  xen_mmap = 17,
  shared_object = 18,
  device_state = 19,
  get_vring_base_inflight = 20,
  gpa_addresses = 21,
  shmem = 22,
  get_vring_base_skip_drain = 23,
  /// Our own, docs/wire/vfio-group.md: a bit that no front-end but ours acknowledges.
  vfio_group = 63,
};

/// A set of protocol features. Value type.
class ProtocolFeatures {
 public:
  constexpr ProtocolFeatures() = default;
  constexpr explicit ProtocolFeatures(std::uint64_t bits) : bits_(bits) {}
  constexpr ProtocolFeatures(std::initializer_list<ProtocolFeature> features) {
    for (const ProtocolFeature feature : features) bits_ |= bit(feature);
  }
  constexpr bool has(ProtocolFeature feature) const { return (bits_ & bit(feature)) != 0; }
  constexpr ProtocolFeatures with(ProtocolFeature feature) const { return ProtocolFeatures(bits_ | bit(feature)); }
  constexpr ProtocolFeatures minus(ProtocolFeatures other) const { return ProtocolFeatures(bits_ & ~other.bits_); }
  constexpr bool is_empty() const { return bits_ == 0; }
  constexpr std::uint64_t bits() const { return bits_; }
  constexpr bool operator==(const ProtocolFeatures&) const = default;

 private:
  static constexpr std::uint64_t bit(ProtocolFeature feature) {
    return std::uint64_t{1} << static_cast<unsigned>(feature);
  }
  std::uint64_t bits_ = 0;
};

/// Messages from the front-end. The value is the number on the wire.
enum class Request : std::uint32_t {
  get_features = 1,
  set_features = 2,
  set_owner = 3,
  reset_owner = 4,
  set_mem_table = 5,
  set_log_base = 6,
  set_log_fd = 7,
  set_vring_num = 8,
  set_vring_addr = 9,
  set_vring_base = 10,
  get_vring_base = 11,
  set_vring_kick = 12,
  set_vring_call = 13,
  set_vring_err = 14,
  get_protocol_features = 15,
  set_protocol_features = 16,
  get_queue_num = 17,
  set_vring_enable = 18,
  send_rarp = 19,
  net_set_mtu = 20,
  set_backend_req_fd = 21,
  iotlb_msg = 22,
  set_vring_endian = 23,
  get_config = 24,
  set_config = 25,
  create_crypto_session = 26,
  close_crypto_session = 27,
  postcopy_advise = 28,
  postcopy_listen = 29,
  postcopy_end = 30,
  get_inflight_fd = 31,
  set_inflight_fd = 32,
  gpu_set_socket = 33,
  reset_device = 34,
  vring_kick = 35,
  get_max_mem_slots = 36,
  add_mem_reg = 37,
  rem_mem_reg = 38,
  set_status = 39,
  get_status = 40,
  get_shared_object = 41,
  set_device_state_fd = 42,
  check_device_state = 43,
  get_shmem_config = 44,
  get_vring_base_skip_drain = 45,
};

/// Messages from the back-end, on the channel of SET_BACKEND_REQ_FD.
enum class BackendRequest : std::uint32_t {
  iotlb_msg = 1,
  config_change_msg = 2,
  vring_host_notifier_msg = 3,
  vring_call = 4,
  vring_err = 5,
  shared_object_add = 6,
  shared_object_remove = 7,
  shared_object_lookup = 8,
  shmem_map = 9,
  shmem_unmap = 10,
  /// Our own, docs/wire/vfio-group.md: numbers from 65536 on are not the standard's.
  vring_vfio_group_msg = 65537,
};

enum class Payload : std::uint8_t {
  none,
  u64,
  vring_state,     ///< index, number
  vring_addr,      ///< index, flags, four addresses
  vring_fd,        ///< u64: index in bits 0-7, bit 8: no descriptor
  memory_table,    ///< count, then regions
  memory_region,   ///< one region
  log_area,        ///< size and offset (u64 without LOG_SHMFD)
  iotlb,           ///< one vhost_iotlb_msg
  config,          ///< offset, size, flags, bytes
  crypto_session,  ///< of the crypto device
  inflight,        ///< size, offset, queues, queue size
  device_state,    ///< direction, phase
  uuid,            ///< of a shared object
  vring_area,      ///< queue and flags, size, offset
  shmem_map,       ///< a range of a shared memory region
  vring_group,     ///< index, flags
};

/// What the front-end gets back. Where a failure has no form on the wire, it ends the connection.
enum class Reply : std::uint8_t {
  ack_if_asked,  ///< u64, 0 = done, when need_reply is set and REPLY_ACK negotiated
  u64_value,     ///< always the value asked for; a failure has no form
  u64_status,    ///< always, 0 = done; as ack_if_asked while a protocol feature that it needs is not negotiated
  u64_channel,   ///< always: bits 0-7 0 = done, bit 8 = without a descriptor; else as u64_status
  vring_state,   ///< always; a failure has no form
  config,        ///< always; a failure is an empty payload
  inflight,      ///< always, with a descriptor; a failure has no form
  descriptor,    ///< always, with no payload; a failure has no form
  other,         ///< a payload or descriptor of a message not handled yet; a failure has no form
};

enum class FdRule : std::uint8_t {
  none,
  exactly_one,
  one_unless_nofd_bit,
  one_per_region,
  optional_one,
  one_if_flag_0,
  stray_one,  ///< none is due; one is closed unused, since some front-ends send it
};

enum class Phase : std::uint8_t {
  any,
  all_rings_stopped,  ///< unless it changes nothing
  ring_stopped,       ///< the ring it names, unless it changes nothing
};

/// What must have been negotiated in the virtio features.
enum class VirtioNeed : std::uint8_t {
  none,
  protocol_features,  ///< bit 30; not yet asked for before the first SET_FEATURES, since QEMU enables rings before it
  access_platform,
};

enum class Support : std::uint8_t {
  handled,
  later,         ///< refused by name until we implement it
  other_device,  ///< refused by name: belongs to device types we do not serve
};

/// One message. Sizes are of the payload, in bytes.
struct MessageSpec {
  std::uint32_t id;
  std::string_view name;
  Payload payload;
  std::uint16_t min_size;
  std::uint16_t max_size;
  Reply reply;
  FdRule fds;
  ProtocolFeatures needs;
  VirtioNeed virtio_need;
  Phase phase;
  Support support;
};

struct ProtocolFeatureSpec {
  ProtocolFeature feature;
  std::string_view name;
  enum class Offer : std::uint8_t { yes, if_configured, no } offer;
};

/// Most regions in a SET_MEM_TABLE. The document says 8; rust-vmm's front-ends send up to 32.
inline constexpr std::size_t kMaxTableRegions = 32;
/// Memory slots we offer. A constant: QEMU fails a device whose answer gets smaller over a reconnect.
inline constexpr std::size_t kMaxMemorySlots = 509;
/// Bytes of configuration space in one message.
inline constexpr std::size_t kMaxConfigBytes = 256;
/// A queue index must fit bits 0-7 of SET_VRING_KICK.
inline constexpr std::uint32_t kMaxQueues = 256;
/// VHOST_USER_F_PROTOCOL_FEATURES: the virtio feature bit that says "speaks protocol features".
inline constexpr unsigned kProtocolFeaturesBit = 30;

/// The tables: first those of the standard, in order of number: entry i has number i + 1 (protocol features: bit i);
/// then our own.
std::span<const MessageSpec> frontend_messages();
std::span<const MessageSpec> backend_messages();
std::span<const ProtocolFeatureSpec> protocol_features();

/// The entry of a message; nullptr for a number that no message has.
const MessageSpec* find_frontend_message(std::uint32_t id);
const MessageSpec* find_backend_message(std::uint32_t id);
const MessageSpec& spec_of(Request request);
const MessageSpec& spec_of(BackendRequest request);

/// "SET_VRING_KICK", or "message 99" for a number that no message has.
std::string name_of_request(std::uint32_t id);
std::string name_of_backend_request(std::uint32_t id);
/// Names of the features in the set, separated by blanks; bits without a name as "bit31".
std::string text(ProtocolFeatures features);
std::string_view name_of(Payload payload);
std::string_view name_of(FdRule rule);

/// What we offer. `configured` are those of the features that are offered if configured (INBAND_NOTIFICATIONS, which
/// QEMU accepts without implementing them; PAGEFAULT, in the place of CONFIGURE_MEM_SLOTS, since post-copy and memory
/// slots exclude each other; VFIO_GROUP) that are.
ProtocolFeatures offered_protocol_features(ProtocolFeatures configured = {});

/// The features that both sides' configurations switch on.
ProtocolFeatures configured_features(bool inband_notifications, bool vfio_groups);

/// What we accept as a front-end, of what a back-end offers. `in_flight`: what records requests in flight, too.
ProtocolFeatures accepted_protocol_features(ProtocolFeatures configured, bool in_flight);

/// The largest payload of any message, in bytes; a header that announces more ends the connection.
std::size_t max_payload();

}  // namespace causeway::vhost_user
