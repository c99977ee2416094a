#include "cli/client.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <control/causeway.grpc.pb.h>

#include <chrono>

namespace causeway::cli {
namespace {

constexpr std::chrono::seconds kPatience{30};
constexpr std::chrono::seconds kUpgradePatience{60};
constexpr std::size_t kMessageBytes = std::size_t{1} << 20;

Error error_of(const grpc::Status& status, const std::string& socket) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return {Errc::gone, 0,
              fmt::format("cannot reach causewayd at {}: {}; is it running, and may you open the socket?", socket,
                          status.error_message())};
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return {Errc::busy, 0, fmt::format("causewayd at {} did not answer within {} s", socket, kPatience.count())};
    case grpc::StatusCode::NOT_FOUND:
      return {Errc::not_found, 0, status.error_message()};
    case grpc::StatusCode::UNIMPLEMENTED:
      // gRPC's own answer to a call that the server does not have.
      if (!status.error_message().empty()) return {Errc::not_supported, 0, status.error_message()};
      return {Errc::not_supported, 0, fmt::format("causewayd at {} is older than this call", socket)};
    default:
      return {Errc::invalid_value, 0, status.error_message()};
  }
}

}  // namespace

struct Client::Impl {
  explicit Impl(std::string path)
      : socket(std::move(path)),
        stub(api::Control::NewStub(grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()))) {}

  /// Runs one call, for example `&api::Control::Stub::Version`.
  template <class Request, class Response>
  Result<Response> call(grpc::Status (api::Control::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request, std::chrono::seconds patience = kPatience) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + patience);
    Response response;
    const grpc::Status status = (*stub.*method)(&context, request, &response);
    if (!status.ok()) return fail(error_of(status, socket));
    return response;
  }

  std::string socket;
  std::unique_ptr<api::Control::Stub> stub;
};

Client::Client(std::string socket) : impl_(std::make_unique<Impl>(std::move(socket))) {}
Client::~Client() = default;

Result<api::VersionResponse> Client::version() {
  return impl_->call(&api::Control::Stub::Version, api::VersionRequest());
}

Result<api::ListPortsResponse> Client::list_ports() {
  return impl_->call(&api::Control::Stub::ListPorts, api::ListPortsRequest());
}

Result<api::Port> Client::show_port(const std::string& name) {
  api::ShowPortRequest request;
  request.set_name(name);
  CW_TRY(auto response, impl_->call(&api::Control::Stub::ShowPort, request));
  return std::move(*response.mutable_port());
}

Result<api::RebindResponse> Client::rebind(const api::RebindRequest& request) {
  return impl_->call(&api::Control::Stub::Rebind, request);
}

Result<api::ResizeResponse> Client::resize(const std::string& name) {
  api::ResizeRequest request;
  request.set_name(name);
  return impl_->call(&api::Control::Stub::Resize, request);
}

Result<api::UpgradeResponse> Client::upgrade(const std::string& binary) {
  api::UpgradeRequest request;
  request.set_binary(binary);
  return impl_->call(&api::Control::Stub::Upgrade, request, kUpgradePatience);
}

Result<api::DiscardStateResponse> Client::discard_state(const std::string& name) {
  api::DiscardStateRequest request;
  request.set_name(name);
  return impl_->call(&api::Control::Stub::DiscardState, request);
}

Result<api::MigrationNeedsResponse> Client::migration_needs(const std::string& name) {
  api::MigrationNeedsRequest request;
  request.set_name(name);
  return impl_->call(&api::Control::Stub::MigrationNeeds, request);
}

Result<api::CanTakeResponse> Client::can_take(const std::string& name, const api::GuestNeeds& needs) {
  api::CanTakeRequest request;
  request.set_name(name);
  *request.mutable_needs() = needs;
  return impl_->call(&api::Control::Stub::CanTake, request);
}

Result<api::InjectResponse> Client::inject(const std::string& name, const std::vector<std::string>& frames) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  api::InjectResponse response;
  const auto writer = impl_->stub->Inject(&context, &response);
  api::InjectRequest request;
  request.set_name(name);
  std::size_t bytes = 0;
  bool is_heard = true;
  for (const std::string& frame : frames) {
    request.add_frames(frame);
    bytes += frame.size();
    if (bytes < kMessageBytes) continue;
    is_heard = is_heard && writer->Write(request);
    request.clear_frames();
    bytes = 0;
  }
  if (is_heard) writer->Write(request);
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  if (!status.ok()) return fail(error_of(status, impl_->socket));
  return response;
}

Result<void> Client::capture(const api::CaptureRequest& request, std::optional<std::chrono::seconds> limit,
                             const std::function<bool(const api::CaptureBatch& batch)>& take) {
  grpc::ClientContext context;
  if (limit) context.set_deadline(std::chrono::system_clock::now() + *limit);
  const auto reader = impl_->stub->Capture(&context, request);
  bool is_enough = false;
  for (api::CaptureBatch batch; !is_enough && reader->Read(&batch);) is_enough = !take(batch);
  if (is_enough) context.TryCancel();
  const grpc::Status status = reader->Finish();
  const bool is_over = limit && status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  if (status.ok() || is_enough || is_over) return {};
  return fail(error_of(status, impl_->socket));
}

}  // namespace causeway::cli
