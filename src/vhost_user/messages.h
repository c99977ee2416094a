// The messages we handle, decoded: plain values and owned descriptors. Each says which entry of the table it is.
// Spec: QEMU docs/interop/vhost-user.rst, "Front-end message types".
#pragma once

#include "base/event_fd.h"
#include "base/unix_socket.h"
#include "memory/address.h"
#include "memory/iotlb.h"
#include "vhost_user/message_table.h"
#include "virtio/ring.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

namespace causeway::vhost_user {

using virtio::QueueIndex;

/// A message that has nothing but its number.
template <Request kNumber>
struct Bare {
  static constexpr Request kRequest = kNumber;
};
using GetFeatures = Bare<Request::get_features>;
using SetOwner = Bare<Request::set_owner>;
using ResetOwner = Bare<Request::reset_owner>;
using GetProtocolFeatures = Bare<Request::get_protocol_features>;
using GetQueueNum = Bare<Request::get_queue_num>;
using ResetDevice = Bare<Request::reset_device>;
using GetMaxMemSlots = Bare<Request::get_max_mem_slots>;
using GetStatus = Bare<Request::get_status>;
using PostcopyAdvise = Bare<Request::postcopy_advise>;
using PostcopyListen = Bare<Request::postcopy_listen>;
using PostcopyEnd = Bare<Request::postcopy_end>;
using CheckDeviceState = Bare<Request::check_device_state>;

struct SetFeatures {
  static constexpr auto kRequest = Request::set_features;
  std::uint64_t features;  ///< virtio features and kProtocolFeaturesBit
};

struct SetProtocolFeatures {
  static constexpr auto kRequest = Request::set_protocol_features;
  ProtocolFeatures features;
};

/// Where a region lies. Not checked yet: memory::Region::map does that.
struct RegionAddress {
  memory::Gpa guest;
  memory::FrontendVa frontend;
  std::uint64_t size;    ///< bytes
  std::uint64_t offset;  ///< of its first byte in the file
  bool operator==(const RegionAddress&) const = default;
};

struct RegionWithFile {
  RegionAddress address;
  OwnedFd file;
};

/// In post-copy also the acknowledgement of the table before, with no region.
struct SetMemTable {
  static constexpr auto kRequest = Request::set_mem_table;
  std::vector<RegionWithFile> regions;
};

struct AddMemReg {
  static constexpr auto kRequest = Request::add_mem_reg;
  RegionWithFile region;
};

struct RemMemReg {
  static constexpr auto kRequest = Request::rem_mem_reg;
  RegionAddress region;  ///< the offset means nothing
};

/// The log of written pages.
struct SetLogBase {
  static constexpr auto kRequest = Request::set_log_base;
  std::uint64_t size;    ///< bytes
  std::uint64_t offset;  ///< of its first byte in the file
  OwnedFd file;
};

struct SetLogFd {
  static constexpr auto kRequest = Request::set_log_fd;
  std::optional<EventFd> changed;  ///< absent: it wants no news
};

/// What the owner of the IOMMU says of the driver's addresses: a translation, or that there is none any more.
struct IotlbMsg {
  static constexpr auto kRequest = Request::iotlb_msg;
  bool is_update;  ///< else an invalidation: then only iova and size mean something
  memory::Translation translation;
};

struct SetVringNum {
  static constexpr auto kRequest = Request::set_vring_num;
  QueueIndex queue;
  std::uint32_t entries;
};

struct SetVringAddr {
  static constexpr auto kRequest = Request::set_vring_addr;
  QueueIndex queue;
  bool log_used;  ///< VHOST_VRING_F_LOG
  std::uint64_t descriptors;
  std::uint64_t available;
  std::uint64_t used;
  std::uint64_t log;
};

struct SetVringBase {
  static constexpr auto kRequest = Request::set_vring_base;
  QueueIndex queue;
  std::uint32_t position;  ///< split ring: the available index
};

struct GetVringBase {
  static constexpr auto kRequest = Request::get_vring_base;
  QueueIndex queue;
};

struct SetVringKick {
  static constexpr auto kRequest = Request::set_vring_kick;
  QueueIndex queue;
  std::optional<KickFd> kick;  ///< absent: we poll
};

struct SetVringCall {
  static constexpr auto kRequest = Request::set_vring_call;
  QueueIndex queue;
  std::optional<CallFd> call;  ///< absent: the driver polls
};

struct SetVringErr {
  static constexpr auto kRequest = Request::set_vring_err;
  QueueIndex queue;
  std::optional<ErrFd> err;
};

struct SetVringEnable {
  static constexpr auto kRequest = Request::set_vring_enable;
  QueueIndex queue;
  bool enabled;
};

struct VringKick {
  static constexpr auto kRequest = Request::vring_kick;
  QueueIndex queue;
};

struct SendRarp {
  static constexpr auto kRequest = Request::send_rarp;
  std::array<std::byte, 6> mac;
};

struct NetSetMtu {
  static constexpr auto kRequest = Request::net_set_mtu;
  std::uint16_t mtu;  ///< bytes
};

struct SetBackendReqFd {
  static constexpr auto kRequest = Request::set_backend_req_fd;
  UnixSocket channel;
};

struct GetConfig {
  static constexpr auto kRequest = Request::get_config;
  std::uint32_t offset;
  std::uint32_t size;   ///< bytes, at most kMaxConfigBytes
  std::uint32_t flags;  ///< to be sent back as they came
};

struct SetConfig {
  static constexpr auto kRequest = Request::set_config;
  std::uint32_t offset;
  bool is_migration;  ///< read-only fields may be written
  std::vector<std::byte> bytes;
};

/// What both messages about in-flight memory say of it. Not checked yet: virtio::InflightRegion does that.
struct InflightDescription {
  std::uint64_t size;    ///< bytes
  std::uint64_t offset;  ///< of its first byte in the file
  std::uint16_t queues;
  std::uint16_t entries;  ///< of each ring
};

struct GetInflightFd {
  static constexpr auto kRequest = Request::get_inflight_fd;
  InflightDescription wanted;  ///< size and offset mean nothing
  std::size_t payload_size;    ///< front-ends differ in the padding at the end; the reply has the same
};

struct SetInflightFd {
  static constexpr auto kRequest = Request::set_inflight_fd;
  InflightDescription region;
  OwnedFd file;
};

struct GetVringBaseSkipDrain {
  static constexpr auto kRequest = Request::get_vring_base_skip_drain;
  QueueIndex queue;
};

struct SetStatus {
  static constexpr auto kRequest = Request::set_status;
  std::uint8_t status;
};

/// Which way a device's state goes.
enum class StateDirection : std::uint8_t {
  save,  ///< to the front-end
  load,  ///< from it
};

struct SetDeviceStateFd {
  static constexpr auto kRequest = Request::set_device_state_fd;
  StateDirection direction;
  OwnedFd channel;
};

using FrontendMessage =
    std::variant<GetFeatures, SetFeatures, SetOwner, ResetOwner, SetMemTable, SetLogBase, SetLogFd, SetVringNum,
                 SetVringAddr, SetVringBase, GetVringBase, SetVringKick, SetVringCall, SetVringErr, GetProtocolFeatures,
                 SetProtocolFeatures, GetQueueNum, SetVringEnable, SendRarp, NetSetMtu, SetBackendReqFd, GetConfig,
                 SetConfig, ResetDevice, VringKick, GetMaxMemSlots, AddMemReg, RemMemReg, SetStatus, GetStatus,
                 GetInflightFd, SetInflightFd, GetVringBaseSkipDrain, PostcopyAdvise, PostcopyListen, PostcopyEnd,
                 SetDeviceStateFd, CheckDeviceState, IotlbMsg>;

/// What a message is answered with. Which one is due stands in the table.
struct Done {};
struct U64Answer {
  std::uint64_t value;
};
struct VringBaseAnswer {
  QueueIndex queue;
  std::uint32_t position;
};
struct ConfigAnswer {
  std::uint32_t offset;
  std::uint32_t flags;
  std::vector<std::byte> bytes;
};
struct InflightAnswer {
  InflightDescription region;
  std::size_t payload_size;
  std::shared_ptr<const OwnedFd> file;  ///< goes with the reply
};
/// With no payload.
struct DescriptorAnswer {
  std::shared_ptr<const OwnedFd> file;  ///< goes with the reply
};
/// The table that came, in post-copy: with our addresses of the regions in place of the front-end's.
struct MemTableAnswer {
  std::vector<RegionAddress> regions;
};
using Answer =
    std::variant<Done, U64Answer, VringBaseAnswer, ConfigAnswer, InflightAnswer, DescriptorAnswer, MemTableAnswer>;

}  // namespace causeway::vhost_user
