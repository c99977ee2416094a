#include "daemon/control_server.h"

#include "base/log.h"
#include "base/unix_socket.h"
#include "daemon/control_handlers.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include <control/causeway.grpc.pb.h>
#include <sys/stat.h>

#include <chrono>
#include <optional>
#include <thread>

namespace causeway::daemon {
namespace {

namespace api = control::v1;

grpc::StatusCode code_of(Errc code) {
  switch (code) {
    case Errc::not_supported:
      return grpc::StatusCode::UNIMPLEMENTED;
    case Errc::invalid_value:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case Errc::not_found:
      return grpc::StatusCode::NOT_FOUND;
    case Errc::peer_violation:
    case Errc::busy:
    case Errc::gone:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case Errc::system:
      return grpc::StatusCode::INTERNAL;
  }
  return grpc::StatusCode::UNKNOWN;
}

/// Carries each call to the control thread and its result back. Thread: gRPC's.
class Service final : public api::Control::Service {
 public:
  Service(Loop& loop, Graph& graph, std::string version) : loop_(loop), graph_(graph), version_(std::move(version)) {}

  grpc::Status Version(grpc::ServerContext*, const api::VersionRequest*, api::VersionResponse* response) override {
    response->set_version(version_);
    return grpc::Status::OK;
  }
  grpc::Status ListPorts(grpc::ServerContext*, const api::ListPortsRequest*,
                         api::ListPortsResponse* response) override {
    *response = loop_.call([&] { return list_ports(graph_); });
    return grpc::Status::OK;
  }
  grpc::Status ShowPort(grpc::ServerContext*, const api::ShowPortRequest* request,
                        api::ShowPortResponse* response) override {
    return finish(loop_.call([&] { return show_port(graph_, *request); }), *response);
  }
  grpc::Status Rebind(grpc::ServerContext*, const api::RebindRequest* request, api::RebindResponse* response) override {
    return finish(loop_.call([&] { return rebind(graph_, *request); }), *response);
  }
  grpc::Status Resize(grpc::ServerContext*, const api::ResizeRequest* request, api::ResizeResponse* response) override {
    return finish(loop_.call([&] { return resize(graph_, *request); }), *response);
  }
  grpc::Status DiscardState(grpc::ServerContext*, const api::DiscardStateRequest* request,
                            api::DiscardStateResponse* response) override {
    return finish(loop_.call([&] { return discard_state(graph_, *request); }), *response);
  }

 private:
  template <class Response>
  static grpc::Status finish(Result<Response> result, Response& response) {
    if (!result) return {code_of(result.error().code), result.error().text()};
    response = std::move(*result);
    return grpc::Status::OK;
  }

  Loop& loop_;
  Graph& graph_;
  std::string version_;
};

/// Takes away, while it lives, everybody's rights but our own on files that are made.
class OwnerOnly {
 public:
  OwnerOnly() : before_(::umask(S_IXUSR | S_IRWXG | S_IRWXO)) {}
  OwnerOnly(const OwnerOnly&) = delete;
  OwnerOnly& operator=(const OwnerOnly&) = delete;
  ~OwnerOnly() { ::umask(before_); }

 private:
  mode_t before_;
};

Result<UnixListener> bind_for_owner(const std::filesystem::path& path) {
  const OwnerOnly guard;
  return UnixListener::bind(path);
}

}  // namespace

struct ControlServer::Impl {
  static constexpr std::chrono::milliseconds kAcceptBackOff{200};
  static constexpr std::chrono::seconds kPatience{2};

  Impl(Loop& control, Graph& graph, std::string version, UnixListener socket)
      : loop(control), service(control, graph, std::move(version)), listener(std::move(socket)) {}

  void watch_listener() {
    watch.emplace(loop.watch(listener->fd(), [this] { accept(); }));
  }

  void accept() {
    const auto connected = hand_over();
    if (connected || connected.error().code == Errc::busy) return;
    log::warn("control API: {}; trying again in {} ms", connected.error().text(), kAcceptBackOff.count());
    watch.reset();
    retry.emplace(loop.after(kAcceptBackOff, [this] { watch_listener(); }));
  }

  /// Gives the next connection to gRPC, which owns its descriptor from then on.
  Result<void> hand_over() {
    CW_TRY(const auto socket, listener->accept());
    CW_TRY(auto fd, socket.fd().duplicate());
    grpc::AddInsecureChannelFromFd(server.get(), std::move(fd).release());
    return {};
  }

  Loop& loop;
  Service service;
  std::optional<UnixListener> listener;
  std::unique_ptr<grpc::Server> server;
  std::optional<Loop::Registration> watch;
  std::optional<Loop::Registration> retry;
  std::jthread stopper;
};

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlServer::~ControlServer() = default;

Result<std::unique_ptr<ControlServer>> ControlServer::start(Loop& loop, Graph& graph, const std::filesystem::path& path,
                                                            std::string version) {
  auto listener = bind_for_owner(path);
  if (!listener) return fail(std::move(listener).error().context("control API"));
  auto impl = std::make_unique<Impl>(loop, graph, std::move(version), std::move(*listener));
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.RegisterService(&impl->service);
  builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
  impl->server = builder.BuildAndStart();
  if (!impl->server) return fail(Errc::system, "control API: gRPC does not start");
  impl->watch_listener();
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

void ControlServer::stop(Loop::Callback done) {
  impl_->watch.reset();
  impl_->retry.reset();
  impl_->listener.reset();
  // Calls under way wait for the loop, so the loop cannot wait for them.
  impl_->stopper = std::jthread([impl = impl_.get(), done = std::move(done)]() mutable {
    impl->server->Shutdown(std::chrono::system_clock::now() + Impl::kPatience);
    impl->loop.post(std::move(done));
  });
}

}  // namespace causeway::daemon
