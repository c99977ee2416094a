#include "daemon/control_server.h"

#include "base/unix_socket.h"
#include "daemon/test_support.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <control/causeway.grpc.pb.h>
#include <sys/stat.h>

#include <thread>

namespace causeway::daemon {
namespace {

namespace api = control::v1;
using ::testing::HasSubstr;

/// The loop runs on a thread of its own, as it does in the daemon.
class ControlServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto graph = Graph::build(loop_, testing::parsed(testing::two_ports(directory_.path())), Former::restore);
    ASSERT_TRUE(graph.has_value()) << graph.error().text();
    graph_ = std::move(*graph);
    auto server = ControlServer::start(loop_, *graph_, socket_, {.version = "1.2.3", .upgrade = {}, .inherited = {}});
    ASSERT_TRUE(server.has_value()) << server.error().text();
    server_ = std::move(*server);
    control_ = std::jthread([this] { loop_.run(); });
    stub_ = api::Control::NewStub(grpc::CreateChannel("unix:" + socket_.string(), grpc::InsecureChannelCredentials()));
  }

  void TearDown() override {
    if (!server_) return;
    loop_.post([this] { server_->stop([this] { loop_.stop(); }); });
    control_.join();
    EXPECT_FALSE(std::filesystem::exists(socket_));
    server_.reset();
    graph_.reset();
  }

  testing::TemporaryDirectory directory_;
  std::filesystem::path socket_ = directory_.path() / "control.sock";
  Loop loop_;
  std::unique_ptr<Graph> graph_;
  std::unique_ptr<ControlServer> server_;
  std::jthread control_;
  std::unique_ptr<api::Control::Stub> stub_;
};

TEST_F(ControlServerTest, AnswersCallsFromTheControlThread) {
  grpc::ClientContext version_context;
  api::VersionResponse version;
  const auto version_status = stub_->Version(&version_context, {}, &version);
  ASSERT_TRUE(version_status.ok()) << version_status.error_message();
  EXPECT_EQ(version.version(), "1.2.3");

  grpc::ClientContext list_context;
  api::ListPortsResponse list;
  ASSERT_TRUE(stub_->ListPorts(&list_context, {}, &list).ok());
  EXPECT_EQ(list.ports_size(), 2);
}

TEST_F(ControlServerTest, UnknownPortIsNotFound) {
  grpc::ClientContext context;
  api::ShowPortRequest request;
  request.set_name("net9");
  api::ShowPortResponse response;
  const auto status = stub_->ShowPort(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "there is no port 'net9'");
}

TEST_F(ControlServerTest, OnlyOurOwnUserMayOpenTheSocket) {
  struct stat info{};
  ASSERT_EQ(::stat(socket_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
}

TEST_F(ControlServerTest, SocketInUseIsAnError) {
  const auto second =
      ControlServer::start(loop_, *graph_, socket_, {.version = "1.2.3", .upgrade = {}, .inherited = {}});
  ASSERT_FALSE(second.has_value());
  EXPECT_THAT(second.error().text(), HasSubstr("in use"));
  EXPECT_TRUE(std::filesystem::exists(socket_));
}

TEST_F(ControlServerTest, ClientThatSaysNothingDoesNotDelayTheEnd) {
  const auto silent = UnixSocket::connect(socket_);
  ASSERT_TRUE(silent.has_value()) << silent.error().text();
}

}  // namespace
}  // namespace causeway::daemon
