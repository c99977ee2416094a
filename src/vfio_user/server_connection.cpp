#include "vfio_user/server_connection.h"

#include "base/log.h"
#include "base/mapping.h"
#include "vfio_user/region_reply.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace causeway::vfio_user {
namespace {

/// Bytes of a reply that may wait for others.
constexpr std::size_t kLargestHeldBack = 256;

std::uint32_t errno_of(const Error& error) {
  if (error.sys_errno != 0) return static_cast<std::uint32_t>(error.sys_errno);
  switch (error.code) {
    case Errc::not_supported:
      return ENOTSUP;
    case Errc::not_found:
      return ENOENT;
    case Errc::busy:
      return EEXIST;
    case Errc::gone:
      return ENODEV;
    default:
      return EINVAL;
  }
}

Result<vfio::RegionIndex> region_index(std::uint32_t index) {
  if (index < vfio::kRegions) return static_cast<vfio::RegionIndex>(index);
  return fail(Errc::invalid_value, fmt::format("there is no region {}", index));
}

template <memory::WireType T>
Bytes payload(const T& value) {
  Bytes bytes;
  append(bytes, value);
  return bytes;
}

}  // namespace

ServerConnection::ServerConnection(Loop& loop, vfio::Bus& function, std::string name, UnixSocket socket, OnEnd on_end)
    : loop_(loop),
      function_(function),
      name_(std::move(name)),
      socket_(std::move(socket)),
      on_end_(std::move(on_end)),
      watch_(loop_.watch(socket_.fd(), [this] { on_readable(); })) {}

ServerConnection::~ServerConnection() {
  // Reset first: nothing may use the memory any more that goes away then.
  if (auto done = function_.reset(); !done) log::warn("{}: {}", name_, done.error().text());
  disable_vectors();
  unmap_all();
}

void ServerConnection::on_readable() {
  // A turn of the loop serves a bounded number of messages, so that no client keeps it from others.
  Result<bool> taken = true;
  for (int i = 0; i < 64 && taken && *taken; ++i) taken = take_message();
  auto sent = flush();
  if (!taken) return end(std::move(taken).error());  // destroys this: nothing may follow
  if (!sent) end(std::move(sent).error());
}

Result<bool> ServerConnection::take_message() {
  CW_TRY(auto message, inbox_.read(socket_));
  if (!message) return false;
  if (message->is_reply()) return fail(Errc::peer_violation, "a reply that was not asked for");
  const auto reply = handle(*message);
  if (!reply && log_limit_.allow()) log::warn("{}: {}: {}", name_, name_of(message->command()), reply.error().text());
  CW_CHECK(respond(*message, reply));
  if (!reply && message->command() == Command::version) return fail(Errc::not_supported, "no common version");
  return true;
}

Result<void> ServerConnection::respond(const Message& message, const Result<Reply>& reply) {
  if ((message.header.flags & wire::kNoReply) != 0) return {};
  wire::Header header{
      .id = message.header.id, .command = message.header.command, .size = 0, .flags = wire::kReply, .error = 0};
  if (!reply) {
    header.flags |= wire::kError;
    header.error = errno_of(reply.error());
    append(outbox_, header, {});
    return {};
  }
  if (reply->fd == nullptr && reply->body.size() <= kLargestHeldBack) {
    append(outbox_, header, reply->body);
    return {};
  }
  CW_CHECK(flush());
  return send(socket_, header, reply->body, std::span(&reply->fd, reply->fd == nullptr ? 0 : 1));
}

/// A client that has sent several requests need not wake up for each reply.
Result<void> ServerConnection::flush() {
  if (outbox_.empty()) return {};
  return socket_.send(std::exchange(outbox_, {}));
}

void ServerConnection::end(Error why) {
  watch_.reset();
  // The handler destroys this object, so it must not live in it while it runs.
  OnEnd on_end = std::exchange(on_end_, nullptr);
  if (on_end) on_end(std::move(why));
}

Result<ServerConnection::Reply> ServerConnection::handle(Message& message) {
  if (!theirs_ && message.command() != Command::version) return fail(Errc::peer_violation, "VERSION has not come yet");
  const bool takes_fds = message.command() == Command::dma_map || message.command() == Command::device_set_irqs;
  if (!takes_fds && !message.fds.empty()) return fail(Errc::peer_violation, "it comes with descriptors");
  switch (message.command()) {
    case Command::version:
      return on_version(message);
    case Command::dma_map:
      return on_dma_map(message);
    case Command::dma_unmap:
      return on_dma_unmap(message);
    case Command::device_get_info:
      return on_get_info(message);
    case Command::device_get_region_info:
      return on_get_region_info(message);
    case Command::device_get_irq_info:
      return on_get_irq_info(message);
    case Command::device_set_irqs:
      return on_set_irqs(message);
    case Command::region_read:
      return on_region_read(message);
    case Command::region_write:
      return on_region_write(message);
    case Command::device_reset:
      return on_reset();
    default:
      return fail(Errc::not_supported, "it is not implemented");
  }
}

Result<ServerConnection::Reply> ServerConnection::on_version(const Message& message) {
  if (theirs_) return fail(Errc::peer_violation, "it has come already");
  CW_TRY(theirs_, decode_version(message));
  return Reply{
      .body = encode_version(
          {.max_fds = kMaxFds, .max_transfer = kMaxTransfer, .max_dma_maps = kMaxDmaMaps, .page_sizes = page_size()})};
}

Result<ServerConnection::Reply> ServerConnection::on_get_info(const Message& message) const {
  CW_CHECK(message.head<wire::DeviceInfo>());
  return Reply{.body = payload(
                   wire::DeviceInfo{.argsz = sizeof(wire::DeviceInfo),
                                    .flags = wire::kDevicePci | (function_.info().can_reset ? wire::kDeviceReset : 0),
                                    .regions = wire::kPciRegions,
                                    .irqs = wire::kPciIrqs})};
}

Result<ServerConnection::Reply> ServerConnection::on_get_region_info(const Message& message) const {
  CW_TRY(const auto wanted, message.head<wire::RegionInfo>());
  CW_TRY(const auto index, region_index(wanted.index));
  RegionReply region{.info = function_.info().region(index), .file_offset = 0};
  Reply reply;
  for (const vfio::Area& area : region.info.mappable) {
    const auto file = function_.file_of(index, area);
    if (!file) continue;
    reply.fd = &file->fd;
    region.file_offset = file->offset - area.offset;
  }
  if (reply.fd == nullptr) region.info.mappable.clear();
  reply.body = encode_region(index, region, wanted.argsz);
  // libvfio-user's client asks for the structure first, and has no room for a descriptor then.
  const bool is_whole = region.info.mappable.empty() || reply.body.size() > sizeof(wire::RegionInfo);
  if (!is_whole) reply.fd = nullptr;
  return reply;
}

Result<ServerConnection::Reply> ServerConnection::on_get_irq_info(const Message& message) const {
  CW_TRY(const auto wanted, message.head<wire::IrqInfo>());
  if (wanted.index >= wire::kPciIrqs)
    return fail(Errc::invalid_value, fmt::format("there is no interrupt {}", wanted.index));
  const bool is_msix = wanted.index == wire::kMsixIndex;
  return Reply{.body = payload(wire::IrqInfo{.argsz = sizeof(wire::IrqInfo),
                                             .flags = is_msix ? wire::kIrqEventfd | wire::kIrqNoResize : 0,
                                             .index = wanted.index,
                                             .count = is_msix ? function_.info().vectors : 0})};
}

Result<ServerConnection::Reply> ServerConnection::on_region_read(const Message& message) {
  CW_TRY(const auto access, message.head<wire::RegionAccess>());
  CW_TRY(const auto region, region_index(access.region));
  if (access.count > std::min(kMaxTransfer, theirs_->max_transfer)) {
    return fail(Errc::invalid_value, fmt::format("{} bytes at once", access.count));
  }
  Reply reply{.body = payload(access)};
  reply.body.resize(sizeof access + access.count);
  CW_CHECK(function_.read(region, access.offset, std::span(reply.body).subspan(sizeof access)));
  return reply;
}

Result<ServerConnection::Reply> ServerConnection::on_region_write(const Message& message) {
  CW_TRY(const auto access, message.head<wire::RegionAccess>());
  CW_TRY(const auto region, region_index(access.region));
  const auto data = message.tail(sizeof access);
  if (data.size() != access.count) {
    return fail(Errc::peer_violation, fmt::format("{} bytes of data, not {}", data.size(), access.count));
  }
  CW_CHECK(function_.write(region, access.offset, data));
  return Reply{.body = payload(access)};
}

Result<ServerConnection::Reply> ServerConnection::on_reset() {
  CW_CHECK(function_.reset());
  vectors_.clear();
  return Reply{};
}

}  // namespace causeway::vfio_user
