#include "daemon/upgrade.h"

#include "base/log.h"
#include "base/parcel.h"
#include "daemon/control_server.h"
#include "daemon/graph.h"
#include "daemon/handover.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::daemon {
namespace {

using Clock = std::chrono::steady_clock;

Result<Hello> read_hello(Parcel parcel) {
  ParcelReader reader(std::move(parcel));
  Hello hello;
  hello.handover_version = reader.number<std::uint32_t>();
  hello.record_format = static_cast<port::RecordFormat>(reader.number<std::uint32_t>());
  hello.program_version = reader.text();
  CW_CHECK(reader.finish());
  if (hello.handover_version != kHandoverVersion) {
    return fail(Errc::not_supported,
                fmt::format("causewayd {} takes over by version {} of the handover, this one knows {}",
                            hello.program_version, hello.handover_version, kHandoverVersion));
  }
  return hello;
}

}  // namespace

Result<std::unique_ptr<Upgrade>> Upgrade::start(Loop& loop, Graph& graph, ControlServer& control, const Launch& launch,
                                                Done done) {
  CW_CHECK(graph.can_hand_over());
  CW_TRY(auto pair, UnixSocket::make_pair());
  CW_TRY(auto child, Child::start(launch.program, launch.arguments, pair.second.fd()));
  log::info("upgrade: started '{}' as process {}", launch.program.native(), child.pid());
  return std::unique_ptr<Upgrade>(
      new Upgrade(loop, graph, control, std::move(child), std::move(pair.first), std::move(done)));
}

Upgrade::Upgrade(Loop& loop, Graph& graph, ControlServer& control, Child child, UnixSocket socket, Done done)
    : graph_(graph), control_(control), child_(std::move(child)), socket_(std::move(socket)), done_(std::move(done)) {
  watch_.emplace(loop.watch(socket_->fd(), [this] { on_message(); }));
  patience_.emplace(loop.after(kHandoverPatience, [this] {
    give_up(
        {.code = Errc::gone, .what = fmt::format("it was not ready within {} s", kHandoverPatience.count() / 1000)});
  }));
}

Upgrade::~Upgrade() {
  give_up({.code = Errc::gone, .what = "this process stops"});
}

void Upgrade::on_message() {
  auto done = stage_ == Stage::hello ? send_estate() : hand_over_queues();
  if (!done) give_up(std::move(done).error());
}

Result<void> Upgrade::send_estate() {
  CW_TRY(auto parcel, receive(kStartPatience));
  CW_TRY(const Hello hello, read_hello(std::move(parcel)));
  version_ = hello.program_version;
  is_frozen_ = true;
  control_.freeze();
  graph_.freeze();
  CW_CHECK(graph_.can_hand_over());  // a guest's migration may have begun since
  ParcelWriter estate;
  graph_.hand_over(estate, control_.listener(), std::min(hello.record_format, port::RecordFormat::current));
  CW_CHECK(send_parcel(*socket_, estate));
  stage_ = Stage::ready;
  return {};
}

Result<Parcel> Upgrade::receive(std::chrono::milliseconds patience) const {
  auto parcel = receive_parcel(*socket_, patience);
  if (parcel || parcel.error().code != Errc::gone) return parcel;
  return fail(Errc::gone, "it ended or fell silent before it took over; what it has printed says why");
}

Result<void> Upgrade::receive_answer(std::chrono::milliseconds patience) const {
  CW_TRY(auto parcel, receive(patience));
  ParcelReader reader(std::move(parcel));
  const std::string problem = reader.text();
  CW_CHECK(reader.finish());
  return problem.empty() ? Result<void>() : fail(Errc::gone, problem);
}

Result<void> Upgrade::hand_over_queues() {
  CW_CHECK(receive_answer(kStartPatience));
  const auto begin = Clock::now();
  is_paused_ = true;
  ParcelWriter positions;
  graph_.pause(positions);
  are_positions_sent_ = true;
  CW_CHECK(send_parcel(*socket_, positions));
  CW_CHECK(receive_answer(kStartPatience));
  const auto pause = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
  stage_ = Stage::decided;
  watch_.reset();
  patience_.reset();
  const pid_t pid = child_->pid();
  child_->let_go();
  graph_.leave_paths();
  control_.leave_path();
  log::info("upgrade: process {}, causewayd {}, has taken over; no queue ran for {} us", pid, version_, pause.count());
  done_(Outcome{.version = version_, .pid = pid, .pause = pause});
  return {};
}

void Upgrade::give_up(Error why) {
  if (std::exchange(stage_, Stage::decided) == Stage::decided) return;
  watch_.reset();
  patience_.reset();
  child_->kill();
  socket_.reset();
  if (is_paused_) graph_.go_on(are_positions_sent_);
  if (is_frozen_) {
    graph_.thaw();
    control_.thaw();
  }
  Error error = std::move(why).context("the new process did not take over, this one goes on");
  log::error("upgrade: {}", error.text());
  done_(fail(std::move(error)));
}

}  // namespace causeway::daemon
