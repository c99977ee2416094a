#include "vhost_user/message_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace causeway::vhost_user {
namespace {

using PF = ProtocolFeature;
using enum ProtocolFeatureSpec::Offer;
using FdRule::exactly_one, FdRule::one_if_flag_0, FdRule::one_per_region, FdRule::one_unless_nofd_bit;
using FdRule::optional_one, FdRule::stray_one;
using Payload::config, Payload::crypto_session, Payload::device_state, Payload::inflight, Payload::iotlb;
using Payload::log_area, Payload::memory_region, Payload::memory_table, Payload::shmem_map, Payload::u64, Payload::uuid;
using Payload::vring_addr, Payload::vring_area, Payload::vring_fd, Payload::vring_group, Payload::vring_state;

constexpr auto kAck = Reply::ack_if_asked;
constexpr auto kValue = Reply::u64_value;
constexpr auto kStatus = Reply::u64_status;
constexpr auto kNoNeed = VirtioNeed::none;
constexpr auto kAny = Phase::any;
constexpr auto kDone = Support::handled;
constexpr auto kLater = Support::later;
constexpr auto kOther = Support::other_device;

constexpr std::uint16_t kTableMax = 8 + 32 * kMaxTableRegions;
constexpr std::uint16_t kConfigMax = 12 + kMaxConfigBytes;
constexpr std::uint16_t kCryptoMax = 4096;  // a session with its keys; the layout differs between peers

// clang-format off
constexpr MessageSpec kFrontend[] = {
//  id  name                        payload         min max         reply               descriptors          protocol features needed             virtio need                    phase                     support
  { 1, "GET_FEATURES",              Payload::none,  0,  0,          kValue,             FdRule::none,        {},                                  kNoNeed,                       kAny,                     kDone },
  { 2, "SET_FEATURES",              u64,            8,  8,          kAck,               FdRule::none,        {},                                  kNoNeed,                       Phase::all_rings_stopped, kDone },
  { 3, "SET_OWNER",                 Payload::none,  0,  0,          kAck,               FdRule::none,        {},                                  kNoNeed,                       kAny,                     kDone },
  { 4, "RESET_OWNER",               Payload::none,  0,  0,          kAck,               FdRule::none,        {},                                  kNoNeed,                       kAny,                     kDone },
  { 5, "SET_MEM_TABLE",             memory_table,   8,  kTableMax,  kAck,               one_per_region,      {},                                  kNoNeed,                       kAny,                     kDone },
  { 6, "SET_LOG_BASE",              log_area,       16, 16,         kStatus,            exactly_one,         {PF::log_shmfd},                     kNoNeed,                       kAny,                     kDone },
  { 7, "SET_LOG_FD",                Payload::none,  0,  8,          kAck,               optional_one,        {},                                  kNoNeed,                       kAny,                     kDone },
  { 8, "SET_VRING_NUM",             vring_state,    8,  8,          kAck,               FdRule::none,        {},                                  kNoNeed,                       Phase::ring_stopped,      kDone },
  { 9, "SET_VRING_ADDR",            vring_addr,     40, 40,         kAck,               FdRule::none,        {},                                  kNoNeed,                       Phase::ring_stopped,      kDone },
  {10, "SET_VRING_BASE",            vring_state,    8,  8,          kAck,               FdRule::none,        {},                                  kNoNeed,                       Phase::ring_stopped,      kDone },
  {11, "GET_VRING_BASE",            vring_state,    8,  8,          Reply::vring_state, FdRule::none,        {},                                  kNoNeed,                       kAny,                     kDone },
  {12, "SET_VRING_KICK",            vring_fd,       8,  8,          kAck,               one_unless_nofd_bit, {},                                  kNoNeed,                       kAny,                     kDone },
  {13, "SET_VRING_CALL",            vring_fd,       8,  8,          kAck,               one_unless_nofd_bit, {},                                  kNoNeed,                       kAny,                     kDone },
  {14, "SET_VRING_ERR",             vring_fd,       8,  8,          kAck,               one_unless_nofd_bit, {},                                  kNoNeed,                       kAny,                     kDone },
  {15, "GET_PROTOCOL_FEATURES",     Payload::none,  0,  0,          kValue,             FdRule::none,        {},                                  kNoNeed,                       kAny,                     kDone },
  {16, "SET_PROTOCOL_FEATURES",     u64,            8,  8,          kAck,               FdRule::none,        {},                                  kNoNeed,                       Phase::all_rings_stopped, kDone },
  {17, "GET_QUEUE_NUM",             Payload::none,  0,  0,          kValue,             FdRule::none,        {PF::mq},                            kNoNeed,                       kAny,                     kDone },
  {18, "SET_VRING_ENABLE",          vring_state,    8,  8,          kAck,               FdRule::none,        {},                                  VirtioNeed::protocol_features, kAny,                     kDone },
  {19, "SEND_RARP",                 u64,            8,  8,          kAck,               FdRule::none,        {PF::rarp},                          kNoNeed,                       kAny,                     kDone },
  {20, "NET_SET_MTU",               u64,            8,  8,          kAck,               FdRule::none,        {PF::mtu},                           kNoNeed,                       kAny,                     kDone },
  {21, "SET_BACKEND_REQ_FD",        Payload::none,  0,  0,          kAck,               exactly_one,         {PF::backend_req},                   kNoNeed,                       kAny,                     kDone },
  {22, "IOTLB_MSG",                 iotlb,          26, 32,         kStatus,            FdRule::none,        {},                                  VirtioNeed::access_platform,   kAny,                     kDone },
  {23, "SET_VRING_ENDIAN",          vring_state,    8,  8,          kAck,               FdRule::none,        {PF::cross_endian},                  kNoNeed,                       Phase::ring_stopped,      kLater },
  {24, "GET_CONFIG",                config,         13, kConfigMax, Reply::config,      FdRule::none,        {PF::config},                        kNoNeed,                       kAny,                     kDone },
  {25, "SET_CONFIG",                config,         13, kConfigMax, kAck,               FdRule::none,        {PF::config},                        kNoNeed,                       kAny,                     kDone },
  {26, "CREATE_CRYPTO_SESSION",     crypto_session, 0,  kCryptoMax, Reply::other,       FdRule::none,        {PF::crypto_session},                kNoNeed,                       kAny,                     kOther },
  {27, "CLOSE_CRYPTO_SESSION",      u64,            8,  8,          kAck,               FdRule::none,        {PF::crypto_session},                kNoNeed,                       kAny,                     kOther },
  {28, "POSTCOPY_ADVISE",           Payload::none,  0,  0,          Reply::descriptor,  FdRule::none,        {PF::pagefault},                     kNoNeed,                       kAny,                     kDone },
  {29, "POSTCOPY_LISTEN",           Payload::none,  0,  0,          kAck,               FdRule::none,        {PF::pagefault},                     kNoNeed,                       kAny,                     kDone },
  {30, "POSTCOPY_END",              Payload::none,  0,  0,          kStatus,            FdRule::none,        {PF::pagefault},                     kNoNeed,                       kAny,                     kDone },
  {31, "GET_INFLIGHT_FD",           inflight,       20, 24,         Reply::inflight,    FdRule::none,        {PF::inflight_shmfd},                kNoNeed,                       kAny,                     kDone },
  {32, "SET_INFLIGHT_FD",           inflight,       20, 24,         kAck,               exactly_one,         {PF::inflight_shmfd},                kNoNeed,                       kAny,                     kDone },
  {33, "GPU_SET_SOCKET",            Payload::none,  0,  0,          kAck,               exactly_one,         {},                                  kNoNeed,                       kAny,                     kOther },
  {34, "RESET_DEVICE",              Payload::none,  0,  0,          kAck,               FdRule::none,        {PF::reset_device},                  kNoNeed,                       kAny,                     kDone },
  {35, "VRING_KICK",                vring_state,    8,  8,          kAck,               FdRule::none,        {PF::inband_notifications},          kNoNeed,                       kAny,                     kDone },
  {36, "GET_MAX_MEM_SLOTS",         Payload::none,  0,  0,          kValue,             FdRule::none,        {PF::configure_mem_slots},           kNoNeed,                       kAny,                     kDone },
  {37, "ADD_MEM_REG",               memory_region,  40, 40,         kAck,               exactly_one,         {PF::configure_mem_slots},           kNoNeed,                       kAny,                     kDone },
  {38, "REM_MEM_REG",               memory_region,  40, 40,         kAck,               stray_one,           {PF::configure_mem_slots},           kNoNeed,                       kAny,                     kDone },
  {39, "SET_STATUS",                u64,            8,  8,          kAck,               FdRule::none,        {PF::status},                        kNoNeed,                       kAny,                     kDone },
  {40, "GET_STATUS",                Payload::none,  0,  0,          kValue,             FdRule::none,        {PF::status},                        kNoNeed,                       kAny,                     kDone },
  {41, "GET_SHARED_OBJECT",         uuid,           16, 16,         Reply::other,       FdRule::none,        {PF::shared_object},                 kNoNeed,                       kAny,                     kOther },
  {42, "SET_DEVICE_STATE_FD",       device_state,   8,  8,          Reply::u64_channel, exactly_one,         {PF::device_state},                  kNoNeed,                       Phase::all_rings_stopped, kDone },
  {43, "CHECK_DEVICE_STATE",        Payload::none,  0,  0,          kStatus,            FdRule::none,        {PF::device_state},                  kNoNeed,                       kAny,                     kDone },
  {44, "GET_SHMEM_CONFIG",          Payload::none,  0,  0,          Reply::other,       FdRule::none,        {PF::shmem},                         kNoNeed,                       kAny,                     kOther },
  {45, "GET_VRING_BASE_SKIP_DRAIN", vring_state,    8,  8,          Reply::vring_state, FdRule::none,        {PF::get_vring_base_skip_drain, PF::get_vring_base_inflight, PF::inflight_shmfd}, kNoNeed, kAny, kDone },
};

constexpr MessageSpec kBackend[] = {
  { 1, "IOTLB_MSG",                 iotlb,          26, 32, kAck,         FdRule::none,        {PF::backend_req},                           VirtioNeed::access_platform, kAny, kDone },
  { 2, "CONFIG_CHANGE_MSG",         Payload::none,  0,  0,  kAck,         FdRule::none,        {PF::backend_req, PF::config},               kNoNeed,                     kAny, kDone },
  { 3, "VRING_HOST_NOTIFIER_MSG",   vring_area,     24, 24, kAck,         one_unless_nofd_bit, {PF::backend_req, PF::backend_send_fd, PF::host_notifier}, kNoNeed,       kAny, kDone },
  { 4, "VRING_CALL",                vring_state,    8,  8,  kAck,         FdRule::none,        {PF::backend_req, PF::inband_notifications}, kNoNeed,                     kAny, kDone },
  { 5, "VRING_ERR",                 vring_state,    8,  8,  kAck,         FdRule::none,        {PF::backend_req, PF::inband_notifications}, kNoNeed,                     kAny, kDone },
  { 6, "SHARED_OBJECT_ADD",         uuid,           16, 16, kAck,         FdRule::none,        {PF::backend_req, PF::shared_object},        kNoNeed,                     kAny, kOther },
  { 7, "SHARED_OBJECT_REMOVE",      uuid,           16, 16, kAck,         FdRule::none,        {PF::backend_req, PF::shared_object},        kNoNeed,                     kAny, kOther },
  { 8, "SHARED_OBJECT_LOOKUP",      uuid,           16, 16, Reply::other, FdRule::none,        {PF::backend_req, PF::shared_object},        kNoNeed,                     kAny, kOther },
  { 9, "SHMEM_MAP",                 shmem_map,      40, 40, kAck,         exactly_one,         {PF::backend_req, PF::backend_send_fd, PF::shmem}, kNoNeed,               kAny, kOther },
  {10, "SHMEM_UNMAP",               shmem_map,      40, 40, kAck,         FdRule::none,        {PF::backend_req, PF::shmem},                kNoNeed,                     kAny, kOther },
  {65537, "VRING_VFIO_GROUP_MSG",   vring_group,    8,  8,  kAck,         one_if_flag_0,       {PF::backend_req, PF::backend_send_fd, PF::vfio_group}, kNoNeed,          kAny, kDone },
};

constexpr ProtocolFeatureSpec kFeatures[] = {
  {PF::mq,                        "MQ",                        yes},
  {PF::log_shmfd,                 "LOG_SHMFD",                 yes},
  {PF::rarp,                      "RARP",                      yes},
  {PF::reply_ack,                 "REPLY_ACK",                 yes},
  {PF::mtu,                       "MTU",                       yes},
  {PF::backend_req,               "BACKEND_REQ",               yes},
  {PF::cross_endian,              "CROSS_ENDIAN",              no},
  {PF::crypto_session,            "CRYPTO_SESSION",            no},
  {PF::pagefault,                 "PAGEFAULT",                 if_configured},
  {PF::config,                    "CONFIG",                    yes},
  {PF::backend_send_fd,           "BACKEND_SEND_FD",           yes},
  {PF::host_notifier,             "HOST_NOTIFIER",             yes},
  {PF::inflight_shmfd,            "INFLIGHT_SHMFD",            yes},
  {PF::reset_device,              "RESET_DEVICE",              yes},
  {PF::inband_notifications,      "INBAND_NOTIFICATIONS",      if_configured},
  {PF::configure_mem_slots,       "CONFIGURE_MEM_SLOTS",       yes},
  {PF::status,                    "STATUS",                    yes},
  {PF::xen_mmap,                  "XEN_MMAP",                  no},
  {PF::shared_object,             "SHARED_OBJECT",             no},
  {PF::device_state,              "DEVICE_STATE",              yes},
  {PF::get_vring_base_inflight,   "GET_VRING_BASE_INFLIGHT",   yes},
  {PF::gpa_addresses,             "GPA_ADDRESSES",             yes},
  {PF::shmem,                     "SHMEM",                     no},
  {PF::get_vring_base_skip_drain, "GET_VRING_BASE_SKIP_DRAIN", yes},
  {PF::vfio_group,                "VFIO_GROUP",                if_configured},
};
// clang-format on

constexpr bool is_in_order(std::span<const MessageSpec> table) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].id != i + 1 || table[i].min_size > table[i].max_size) return false;
  }
  return true;
}
static_assert(std::size(kFrontend) == 45 && is_in_order(kFrontend));
constexpr std::size_t kStandardBackend = 10;
static_assert(std::size(kBackend) == kStandardBackend + 1 && is_in_order(std::span(kBackend).first(kStandardBackend)));
static_assert(kBackend[kStandardBackend].id == std::to_underlying(BackendRequest::vring_vfio_group_msg));
constexpr std::size_t kStandardFeatures = 24;
static_assert(std::size(kFeatures) == kStandardFeatures + 1);
static_assert([] {
  for (std::size_t i = 0; i < kStandardFeatures; ++i) {
    if (static_cast<std::size_t>(kFeatures[i].feature) != i) return false;
  }
  return true;
}());

}  // namespace

std::span<const MessageSpec> frontend_messages() {
  return kFrontend;
}
std::span<const MessageSpec> backend_messages() {
  return kBackend;
}
std::span<const ProtocolFeatureSpec> protocol_features() {
  return kFeatures;
}

const MessageSpec* find_frontend_message(std::uint32_t id) {
  return id >= 1 && id <= std::size(kFrontend) ? &kFrontend[id - 1] : nullptr;
}

const MessageSpec* find_backend_message(std::uint32_t id) {
  const auto* const found = std::ranges::find(kBackend, id, &MessageSpec::id);
  return found != std::ranges::end(kBackend) ? found : nullptr;
}

const MessageSpec& spec_of(Request request) {
  return kFrontend[std::to_underlying(request) - 1];
}
const MessageSpec& spec_of(BackendRequest request) {
  return *find_backend_message(std::to_underlying(request));
}

std::string name_of_request(std::uint32_t id) {
  const MessageSpec* spec = find_frontend_message(id);
  return spec != nullptr ? std::string(spec->name) : fmt::format("message {}", id);
}

std::string name_of_backend_request(std::uint32_t id) {
  const MessageSpec* spec = find_backend_message(id);
  return spec != nullptr ? std::string(spec->name) : fmt::format("back-end message {}", id);
}

std::string text(ProtocolFeatures features) {
  std::string names;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (((features.bits() >> bit) & 1) == 0) continue;
    if (!names.empty()) names += ' ';
    const auto* const found = std::ranges::find(kFeatures, static_cast<PF>(bit), &ProtocolFeatureSpec::feature);
    names += found != std::ranges::end(kFeatures) ? std::string(found->name) : fmt::format("bit{}", bit);
  }
  return names;
}

std::string_view name_of(Payload payload) {
  static constexpr std::string_view kNames[] = {"none",
                                                "u64",
                                                "vring state",
                                                "vring addresses",
                                                "vring descriptor",
                                                "memory table",
                                                "memory region",
                                                "log area",
                                                "IOTLB",
                                                "config",
                                                "crypto session",
                                                "in-flight",
                                                "device state",
                                                "UUID",
                                                "vring area",
                                                "shared memory map",
                                                "vring group"};
  return kNames[std::to_underlying(payload)];
}

std::string_view name_of(FdRule rule) {
  switch (rule) {
    case FdRule::none:
      return "no descriptor";
    case FdRule::exactly_one:
      return "exactly one descriptor";
    case FdRule::one_unless_nofd_bit:
      return "one descriptor, or none with bit 8 set";
    case FdRule::one_per_region:
      return "one descriptor for each region";
    case FdRule::optional_one:
      return "at most one descriptor";
    case FdRule::one_if_flag_0:
      return "one descriptor with flag 0, else none";
    case FdRule::stray_one:
      return "no descriptor (one is tolerated)";
  }
  return "unknown";
}

ProtocolFeatures offered_protocol_features(ProtocolFeatures configured) {
  ProtocolFeatures offered;
  for (const ProtocolFeatureSpec& spec : kFeatures) {
    if (spec.offer == yes || (spec.offer == if_configured && configured.has(spec.feature)))
      offered = offered.with(spec.feature);
  }
  return configured.has(PF::pagefault) ? offered.minus({PF::configure_mem_slots}) : offered;
}

ProtocolFeatures configured_features(bool inband_notifications, bool vfio_groups) {
  ProtocolFeatures features;
  if (inband_notifications) features = features.with(PF::inband_notifications);
  if (vfio_groups) features = features.with(PF::vfio_group);
  return features;
}

ProtocolFeatures accepted_protocol_features(ProtocolFeatures configured, bool in_flight) {
  // As a front-end we speak what we speak as a back-end, but for addresses, since ours are those of the regions' owner,
  // for the log: what a back-end of ours writes is logged by the relay before it; and for the device's state, which the
  // Port keeps, and tells whatever works the queues.
  const auto accepted =
      offered_protocol_features(configured).minus({PF::gpa_addresses, PF::log_shmfd, PF::device_state});
  if (in_flight) return accepted;
  return accepted.minus({PF::inflight_shmfd, PF::get_vring_base_inflight, PF::get_vring_base_skip_drain});
}

std::size_t max_payload() {
  return std::ranges::max(kFrontend, {}, &MessageSpec::max_size).max_size;
}

}  // namespace causeway::vhost_user
