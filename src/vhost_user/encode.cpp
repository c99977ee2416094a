// The encoding half of the codec for a front-end's messages: one small function a message.
#include "vhost_user/codec.h"
#include "vhost_user/frame.h"
#include "vhost_user/wire.h"

#include <cstring>
#include <utility>

namespace causeway::vhost_user {
namespace {

/// Builds the payload of one message; `request` and the flags are put in front.
class Encoder {
 public:
  explicit Encoder(bool need_reply) : flags_(need_reply_flag(need_reply)) {}

  template <Request kNumber>
  Outgoing operator()(const Bare<kNumber>&) const {
    return {.bytes = frame(std::to_underlying(kNumber), flags_, 0), .fds = {}};
  }
  Outgoing operator()(const SetFeatures& message) const { return with(message, message.features); }
  Outgoing operator()(const SetProtocolFeatures& message) const { return with(message, message.features.bits()); }
  Outgoing operator()(const SetMemTable& message) const {
    std::vector<RegionAddress> addresses;
    Outgoing out;
    for (const RegionWithFile& region : message.regions) {
      addresses.push_back(region.address);
      out.fds.push_back(&region.file);
    }
    out.bytes = mem_table(std::to_underlying(SetMemTable::kRequest), flags_, addresses);
    return out;
  }
  Outgoing operator()(const AddMemReg& message) const {
    Outgoing out = with(message, wire::MemoryRegion{.padding = 0, .region = wire_region(message.region.address)});
    out.fds.push_back(&message.region.file);
    return out;
  }
  Outgoing operator()(const RemMemReg& message) const {
    return with(message, wire::MemoryRegion{.padding = 0, .region = wire_region(message.region)});
  }
  Outgoing operator()(const SetLogBase& message) const {
    Outgoing out = with(message, wire::LogArea{.size = message.size, .offset = message.offset});
    out.fds.push_back(&message.file);
    return out;
  }
  Outgoing operator()(const IotlbMsg& message) const {
    const memory::Translation& said = message.translation;
    return with(message, wire::Iotlb{.iova = said.iova.value(),
                                     .size = said.size,
                                     .user_address = said.frontend_va.value(),
                                     .access = std::to_underlying(said.access),
                                     .type = message.is_update ? wire::kIotlbUpdate : wire::kIotlbInvalidate,
                                     .padding = {}});
  }
  Outgoing operator()(const SetLogFd& message) const {
    Outgoing out{.bytes = frame(std::to_underlying(SetLogFd::kRequest), flags_, 0), .fds = {}};
    if (message.changed) out.fds.push_back(&message.changed->fd());
    return out;
  }
  Outgoing operator()(const SetVringNum& message) const { return vring(message, message.entries); }
  Outgoing operator()(const SetVringAddr& message) const {
    return with(message, wire::VringAddr{.index = virtio::number(message.queue),
                                         .flags = message.log_used ? wire::kVringAddrLog : 0,
                                         .descriptors = message.descriptors,
                                         .used = message.used,
                                         .available = message.available,
                                         .log = message.log});
  }
  Outgoing operator()(const SetVringBase& message) const { return vring(message, message.position); }
  Outgoing operator()(const GetVringBase& message) const { return vring(message, 0); }
  Outgoing operator()(const SetVringKick& message) const { return event(message, message.kick); }
  Outgoing operator()(const SetVringCall& message) const { return event(message, message.call); }
  Outgoing operator()(const SetVringErr& message) const { return event(message, message.err); }
  Outgoing operator()(const SetVringEnable& message) const { return vring(message, message.enabled ? 1 : 0); }
  Outgoing operator()(const VringKick& message) const { return vring(message, 0); }
  Outgoing operator()(const SendRarp& message) const {
    std::uint64_t mac = 0;
    std::memcpy(&mac, message.mac.data(), message.mac.size());
    return with(message, mac);
  }
  Outgoing operator()(const NetSetMtu& message) const { return with(message, std::uint64_t{message.mtu}); }
  Outgoing operator()(const SetBackendReqFd& message) const {
    return {.bytes = frame(std::to_underlying(SetBackendReqFd::kRequest), flags_, 0), .fds = {&message.channel.fd()}};
  }
  Outgoing operator()(const GetConfig& message) const {
    // The document wants room for the answer in the question.
    return config(message, message.flags, Bytes(message.size));
  }
  Outgoing operator()(const SetConfig& message) const {
    return config(message, message.is_migration ? wire::kConfigMigration : wire::kConfigWritable, message.bytes);
  }
  Outgoing operator()(const GetInflightFd& message) const { return inflight(message, message.wanted); }
  Outgoing operator()(const SetInflightFd& message) const {
    Outgoing out = inflight(message, message.region);
    out.fds.push_back(&message.file);
    return out;
  }
  Outgoing operator()(const GetVringBaseSkipDrain& message) const { return vring(message, 0); }
  Outgoing operator()(const SetDeviceStateFd& message) const {
    Outgoing out =
        with(message, wire::DeviceStateTransfer{
                          .direction = message.direction == StateDirection::save ? wire::kStateSave : wire::kStateLoad,
                          .phase = wire::kStateStopped});
    out.fds.push_back(&message.channel);
    return out;
  }
  Outgoing operator()(const SetStatus& message) const { return with(message, std::uint64_t{message.status}); }

 private:
  template <class Message, class Value>
  Outgoing with(const Message&, const Value& value) const {
    return {.bytes = frame_with(std::to_underlying(Message::kRequest), flags_, value), .fds = {}};
  }
  template <class Message>
  Outgoing vring(const Message& message, std::uint32_t number) const {
    return with(message, wire::VringState{.index = virtio::number(message.queue), .number = number});
  }
  template <class Message, class Event>
  Outgoing event(const Message& message, const std::optional<Event>& fd) const {
    Outgoing out = with(message, std::uint64_t{virtio::number(message.queue)} | (fd ? 0 : wire::kVringFdNone));
    if (fd) out.fds.push_back(&fd->fd());
    return out;
  }
  template <class Message>
  Outgoing config(const Message& message, std::uint32_t flags, const Bytes& bytes) const {
    const auto size = static_cast<std::uint32_t>(bytes.size());
    Outgoing out{.bytes = frame(std::to_underlying(Message::kRequest), flags_, sizeof(wire::ConfigHead) + size),
                 .fds = {}};
    append(out.bytes, wire::ConfigHead{.offset = message.offset, .size = size, .flags = flags});
    out.bytes.insert(out.bytes.end(), bytes.begin(), bytes.end());
    return out;
  }

  template <class Message>
  Outgoing inflight(const Message&, const InflightDescription& region) const {
    Outgoing out{.bytes = frame(std::to_underlying(Message::kRequest), flags_, kInflightPayload), .fds = {}};
    append_inflight(out.bytes, region, kInflightPayload);
    return out;
  }

  static constexpr std::size_t kInflightPayload = 24;  // with padding, as QEMU sends it
  std::uint32_t flags_;
};

}  // namespace

Outgoing encode(const FrontendMessage& message, bool need_reply) {
  return std::visit(Encoder(need_reply), message);
}

}  // namespace causeway::vhost_user
