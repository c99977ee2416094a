#include "daemon/control_server.h"

#include "base/log.h"
#include "base/unix_socket.h"
#include "daemon/control_handlers.h"
#include "daemon/migration.h"
#include "daemon/slow_path.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include <control/causeway.grpc.pb.h>
#include <sys/stat.h>

#include <chrono>
#include <future>
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
  Service(Loop& loop, Graph& graph, ControlOptions& options) : loop_(loop), graph_(graph), options_(options) {}

  grpc::Status Version(grpc::ServerContext*, const api::VersionRequest*, api::VersionResponse* response) override {
    response->set_version(options_.version);
    return grpc::Status::OK;
  }
  grpc::Status ListPorts(grpc::ServerContext*, const api::ListPortsRequest*,
                         api::ListPortsResponse* response) override {
    refresh({});
    *response = loop_.call([&] { return list_ports(graph_); });
    return grpc::Status::OK;
  }
  grpc::Status ShowPort(grpc::ServerContext*, const api::ShowPortRequest* request,
                        api::ShowPortResponse* response) override {
    refresh(request->name());
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
  grpc::Status MigrationNeeds(grpc::ServerContext*, const api::MigrationNeedsRequest* request,
                              api::MigrationNeedsResponse* response) override {
    return finish(loop_.call([&] { return migration_needs(graph_, *request); }), *response);
  }
  grpc::Status CanTake(grpc::ServerContext*, const api::CanTakeRequest* request,
                       api::CanTakeResponse* response) override {
    return finish(loop_.call([&] { return can_take(graph_, *request); }), *response);
  }
  grpc::Status Inject(grpc::ServerContext*, grpc::ServerReader<api::InjectRequest>* reader,
                      api::InjectResponse* response) override {
    return finish(inject(*reader), *response);
  }
  grpc::Status Capture(grpc::ServerContext* context, const api::CaptureRequest* request,
                       grpc::ServerWriter<api::CaptureBatch>* writer) override {
    api::CaptureBatch none;
    return finish(capture(*context, *request, *writer), none);
  }
  grpc::Status Upgrade(grpc::ServerContext*, const api::UpgradeRequest* request,
                       api::UpgradeResponse* response) override {
    std::promise<Result<daemon::Upgrade::Outcome>> decided;
    loop_.post([&] {
      options_.upgrade(request->binary(),
                       [&](Result<daemon::Upgrade::Outcome> outcome) { decided.set_value(std::move(outcome)); });
    });
    return finish(answer_of(decided.get_future().get()), *response);
  }

 private:
  /// A Device that takes longer is shown as it was.
  static constexpr std::chrono::milliseconds kCounterPatience{200};

  /// Waits, here and not on the control thread, until Devices have fetched their counters.
  void refresh(const std::string& port) {
    auto fresh = std::make_shared<std::promise<void>>();
    const auto refreshed = fresh->get_future();
    loop_.post([&graph = graph_, port, token = std::move(fresh)]() mutable {
      refresh_counters(graph, port, token);
      token.reset();
    });
    // The promise is broken when the last token ends.
    refreshed.wait_for(kCounterPatience);
  }

  Result<api::InjectResponse> inject(grpc::ServerReader<api::InjectRequest>& reader) {
    std::string port;
    std::vector<std::string> frames;
    std::size_t bytes = 0;
    for (api::InjectRequest request; reader.Read(&request);) {
      if (port.empty()) port = request.name();
      for (auto& frame : *request.mutable_frames()) {
        bytes += frame.size();
        frames.push_back(std::move(frame));
      }
      if (bytes > Injection::kMostBytes) {
        return fail(Errc::invalid_value, fmt::format("more than {} bytes of frames at once", Injection::kMostBytes));
      }
    }
    CW_TRY(const auto injection, loop_.call([&] { return Injection::begin(graph_, port, std::move(frames)); }));
    // The guest's buffers are waited for here, not on the control thread.
    while (!loop_.call([&] { return injection->go_on(); })) std::this_thread::sleep_for(Injection::kPause);
    return loop_.call([&] { return Result<api::InjectResponse>(injection->end()); });
  }

  /// Ends when the caller ends it, or the server.
  Result<api::CaptureBatch> capture(const grpc::ServerContext& context, const api::CaptureRequest& request,
                                    grpc::ServerWriter<api::CaptureBatch>& writer) {
    CW_TRY(const auto capture, loop_.call([&] { return PortCapture::begin(graph_, request); }));
    for (bool is_wanted = true; is_wanted && !context.IsCancelled();) {
      for (const auto& batch : loop_.call([&] { return capture->take(); })) {
        is_wanted = is_wanted && writer.Write(batch);
      }
      if (is_wanted) std::this_thread::sleep_for(PortCapture::kPause);
    }
    return loop_.call([&] { return Result<api::CaptureBatch>(capture->end()); });
  }

  static Result<api::UpgradeResponse> answer_of(Result<daemon::Upgrade::Outcome> outcome) {
    if (!outcome) return fail(std::move(outcome).error());
    api::UpgradeResponse response;
    response.set_version(outcome->version);
    response.set_pid(static_cast<std::uint32_t>(outcome->pid));
    response.set_pause_us(static_cast<std::uint64_t>(outcome->pause.count()));
    return response;
  }

  template <class Response>
  static grpc::Status finish(Result<Response> result, Response& response) {
    if (!result) return {code_of(result.error().code), result.error().text()};
    response = std::move(*result);
    return grpc::Status::OK;
  }

  Loop& loop_;
  Graph& graph_;
  ControlOptions& options_;
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

Result<UnixListener> open_listener(const std::filesystem::path& path, std::optional<OwnedFd> inherited) {
  if (inherited) {
    auto listener = UnixListener::adopt(std::move(*inherited), path);
    // Until it is known that all goes well, the path is the other process's.
    if (listener) listener->leave_path();
    return listener;
  }
  const OwnerOnly guard;
  return UnixListener::bind(path);
}

}  // namespace

struct ControlServer::Impl {
  static constexpr std::chrono::milliseconds kAcceptBackOff{200};
  static constexpr std::chrono::seconds kPatience{2};

  Impl(Loop& control, Graph& graph, std::filesystem::path socket_path, ControlOptions some, UnixListener socket)
      : loop(control),
        path(std::move(socket_path)),
        options(std::move(some)),
        service(control, graph, options),
        listener(std::move(socket)) {}

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
  std::filesystem::path path;
  ControlOptions options;
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
                                                            ControlOptions options) {
  const bool is_inherited = options.inherited.has_value();
  auto listener = open_listener(path, std::exchange(options.inherited, std::nullopt));
  if (!listener) return fail(std::move(listener).error().context("control API"));
  auto impl = std::make_unique<Impl>(loop, graph, path, std::move(options), std::move(*listener));
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.RegisterService(&impl->service);
  builder.SetSyncServerOption(grpc::ServerBuilder::SyncServerOption::NUM_CQS, 1);
  impl->server = builder.BuildAndStart();
  if (!impl->server) return fail(Errc::system, "control API: gRPC does not start");
  if (!is_inherited) impl->watch_listener();
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
}

void ControlServer::freeze() {
  impl_->watch.reset();
  impl_->retry.reset();
}

void ControlServer::thaw() {
  impl_->listener->keep_path(impl_->path);
  impl_->watch_listener();
}

const OwnedFd& ControlServer::listener() const {
  return impl_->listener->fd();
}

void ControlServer::leave_path() {
  impl_->listener->leave_path();
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
