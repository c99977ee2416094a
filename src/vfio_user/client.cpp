// Requests and replies; what the server asks of us.
#include "vfio_user/client.h"

#include "base/log.h"

#include <fmt/format.h>

#include <poll.h>

#include <array>
#include <cerrno>
#include <utility>

namespace causeway::vfio_user {

Result<std::unique_ptr<Client>> Client::connect(Loop& loop, ClientConfig config) {
  auto socket = UnixSocket::connect(config.path);
  if (!socket) {
    Error error = std::move(socket).error();
    const bool is_absent = error.sys_errno == ENOENT || error.sys_errno == ECONNREFUSED;
    if (is_absent) error.code = Errc::gone;
    return fail(std::move(error));
  }
  return make_on(loop, std::move(config), std::move(*socket));
}

Result<std::unique_ptr<Client>> Client::make_on(Loop& loop, ClientConfig config, UnixSocket socket) {
  std::unique_ptr<Client> client(new Client(loop, std::move(config), std::move(socket)));
  if (auto learned = client->learn(); !learned) {
    return fail(std::move(learned).error().context(fmt::format("vfio-user '{}'", client->info_.name)));
  }
  client->watch();
  return client;
}

Client::Client(Loop& loop, ClientConfig config, UnixSocket socket)
    : loop_(loop), config_(std::move(config)), socket_(std::move(socket)) {
  info_.name = config_.path.native();
}

void Client::watch() {
  watch_.emplace(loop_.watch(socket_->fd(), [this] { on_readable(); }));
}

Failure Client::gone() const {
  return fail(Errc::gone, fmt::format("'{}' is not connected", info_.name));
}

/// The connection cannot be used any more. Whoever uses the function is told later, not from within its call.
Failure Client::lost(Error why) {
  watch_.reset();
  socket_.reset();
  for (auto& file : files_) file.reset();
  if (observer_ != nullptr) {
    tell_soon_.emplace(loop_.after(std::chrono::milliseconds(0), [this, why] {
      if (observer_ != nullptr) observer_->bus_gone(why);
    }));
  }
  return fail(std::move(why));
}

Result<Message> Client::ask(Command command, std::span<const std::byte> body, Fds fds) {
  if (!socket_) return gone();
  const std::uint16_t id = next_id_++;
  const wire::Header header{.id = id, .command = std::to_underlying(command), .size = 0, .flags = 0, .error = 0};
  Bytes bytes;
  append(bytes, header, body);
  CW_CHECK(post(command, bytes, fds));
  CW_TRY(auto reply, await_reply(command, id));
  CW_CHECK(verdict(reply));
  return reply;
}

/// Sends whole messages; the command is for errors.
Result<void> Client::post(Command command, std::span<const std::byte> bytes, Fds fds) {
  auto sent = socket_->send(bytes, fds);
  if (sent) return {};
  Error error = std::move(sent).error().context(name_of(command));
  if (error.sys_errno == EPIPE || error.sys_errno == ECONNRESET) error.code = Errc::gone;
  return lost(std::move(error));
}

/// What the server says of the request.
Result<void> Client::verdict(const Message& reply) {
  if ((reply.header.flags & wire::kError) == 0) return {};
  const int error = static_cast<int>(reply.header.error);
  return fail(system_error(fmt::format("{}: the server refuses", name_of(reply.command())), error == 0 ? EIO : error));
}

Result<Message> Client::await_reply(Command command, std::uint16_t id) {
  auto reply = receive_reply(command, id);
  if (reply) return reply;
  return lost(std::move(reply).error().context(name_of(command)));
}

Result<Message> Client::receive_reply(Command command, std::uint16_t id) {
  const auto deadline = Clock::now() + config_.patience;
  for (;;) {
    CW_TRY(auto message, inbox_.read(*socket_));
    if (!message) {
      CW_CHECK(wait_readable(deadline));
      continue;
    }
    if (!message->is_reply()) {
      CW_CHECK(serve(*message));
      continue;
    }
    if (message->header.id == id && message->command() == command) return std::move(*message);
    return fail(Errc::peer_violation,
                fmt::format("a reply to {} number {}", name_of(message->command()), message->header.id));
  }
}

Result<void> Client::wait_readable(Clock::time_point deadline) const {
  using std::chrono::milliseconds;
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    if (left <= milliseconds(0)) {
      return fail(Errc::gone, fmt::format("the server has not answered in {} ms", config_.patience.count()));
    }
    pollfd entry{.fd = socket_->fd().borrow(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(left.count()));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return fail(system_error("poll"));
  }
}

void Client::on_readable() {
  // A turn of the loop serves a bounded number of requests, so that no server keeps it from others.
  for (int i = 0; i < 64 && socket_; ++i) {
    auto message = inbox_.read(*socket_);
    if (message && !*message) return;
    Result<void> done;
    if (!message) {
      done = fail(std::move(message).error());
    } else if ((*message)->is_reply()) {
      done = fail(Errc::peer_violation,
                  fmt::format("a reply to {} that was not asked for", name_of((*message)->command())));
    } else {
      done = serve(**message);
    }
    if (done) continue;
    const auto told = lost(std::move(done).error());
    log::warn("vfio-user '{}': {}", info_.name, told.error().text());
  }
}

/// Answers a request of the server's. Fails when the connection does.
Result<void> Client::serve(const Message& command) {
  auto body = answer(command);
  wire::Header header{
      .id = command.header.id, .command = command.header.command, .size = 0, .flags = wire::kReply, .error = 0};
  if (!body) {
    log::warn("vfio-user '{}': {}", info_.name, body.error().text());
    header.flags |= wire::kError;
    header.error = body.error().code == Errc::not_supported ? ENOTSUP : EINVAL;
  }
  if ((command.header.flags & wire::kNoReply) != 0) return {};
  return send(*socket_, header, body ? std::span<const std::byte>(*body) : std::span<const std::byte>());
}

Result<Bytes> Client::answer(const Message& command) const {
  const bool reads = command.command() == Command::dma_read;
  if (!reads && command.command() != Command::dma_write) {
    return fail(Errc::not_supported, fmt::format("the server sends {}", name_of(command.command())));
  }
  CW_TRY(const auto access, command.head<wire::DmaAccess>());
  const auto data = command.tail(sizeof access);
  if (access.count > kMaxTransfer || (!reads && data.size() != access.count)) {
    return fail(Errc::peer_violation, fmt::format("{}: {} bytes", name_of(command.command()), access.count));
  }
  const auto memory = map_->translate(memory::Iova(access.address), access.count);
  if (!memory) {
    return fail(Errc::peer_violation,
                fmt::format("{}: {:#x}+{:#x} is not mapped", name_of(command.command()), access.address, access.count));
  }
  Bytes body;
  append(body, access);
  if (reads) {
    body.resize(sizeof access + access.count);
    memory->read(0, std::span(body).subspan(sizeof access));
  } else {
    memory->write(0, data);
  }
  return body;
}

}  // namespace causeway::vfio_user
