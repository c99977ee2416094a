// The `causeway` command: reads its arguments, makes one call, prints the answer.
#include "cli/client.h"
#include "cli/json.h"
#include "cli/migration.h"
#include "cli/pcap_file.h"
#include "cli/qemu_arguments.h"
#include "cli/text.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <control/causeway.pb.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>

namespace {

using causeway::Result;
namespace cli = causeway::cli;
namespace api = causeway::control::v1;

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

struct Options {
  std::string socket = "/run/causeway/control.sock";
  bool json = false;
  std::string port;
  bool qemu = false;
  std::string memory = "1G";
  std::optional<std::uint32_t> queue;
  std::optional<std::uint32_t> queue_pair;
  bool all = false;
  std::string device;
  std::optional<std::uint32_t> device_queue;
  std::string path;
  std::string binary;
  std::string file;
  std::optional<std::uint64_t> count;
  std::optional<unsigned> seconds;
  std::string to;
  std::string other_port;
};

Result<std::string> run_version(const Options& options) {
  CW_TRY(const auto answer, cli::Client(options.socket).version());
  if (options.json) return cli::json(answer);
  return fmt::format("causeway {}\ncausewayd {}\n", CAUSEWAY_VERSION, answer.version());
}

Result<std::string> run_list(const Options& options) {
  CW_TRY(const auto answer, cli::Client(options.socket).list_ports());
  return options.json ? cli::json(answer) : cli::text(answer);
}

Result<std::string> run_show(const Options& options) {
  CW_TRY(const auto port, cli::Client(options.socket).show_port(options.port));
  if (!options.qemu) return options.json ? cli::json(port) : cli::text(port);
  CW_TRY(const auto arguments, cli::qemu_arguments(port, options.memory));
  if (options.json) return cli::json(arguments);
  fmt::print(stderr, "{}", cli::qemu_notes(port, options.memory));
  return cli::shell_line(arguments);
}

Result<std::string> run_rebind(const Options& options) {
  api::RebindRequest request;
  request.set_name(options.port);
  request.set_device(options.device);
  if (options.queue) request.set_queue(*options.queue);
  if (options.queue_pair) request.set_queue_pair(*options.queue_pair);
  if (options.all) request.set_all(true);
  if (options.device_queue) request.set_device_queue(*options.device_queue);
  request.set_path(options.path);
  CW_TRY(const auto answer, cli::Client(options.socket).rebind(request));
  return options.json ? cli::json(answer) : cli::text(answer, request);
}

Result<std::string> run_resize(const Options& options) {
  CW_TRY(const auto answer, cli::Client(options.socket).resize(options.port));
  if (options.json) return cli::json(answer);
  return fmt::format("port {}: {} bytes\n", options.port, answer.capacity_bytes());
}

Result<std::string> run_discard_state(const Options& options) {
  CW_TRY(const auto answer, cli::Client(options.socket).discard_state(options.port));
  return options.json ? cli::json(answer) : fmt::format("port {}: serves, from empty\n", options.port);
}

Result<std::string> run_inject(const Options& options) {
  CW_TRY(const auto frames, cli::read_frames(options.file));
  CW_TRY(const auto answer, cli::Client(options.socket).inject(options.port, frames));
  // Asked for were all of them.
  if (answer.lost() != 0) {
    return causeway::fail(causeway::Errc::gone,
                          fmt::format("{} of {} frames of {} were not delivered; the first: {}", answer.lost(),
                                      frames.size(), options.file, answer.why_lost()));
  }
  if (!answer.not_returned().empty()) fmt::print(stderr, "causeway: {}\n", answer.not_returned());
  return options.json ? cli::json(answer) : cli::text(answer, options.port);
}

/// Takes frames into the file until there are as many as were asked for.
Result<std::string> run_capture(const Options& options) {
  CW_TRY(const auto writer, cli::PcapWriter::create(options.file));
  CW_CHECK(writer->flush());
  api::CaptureRequest request;
  request.set_name(options.port);
  api::CaptureBatch sums;
  std::uint64_t written = 0;
  Result<void> flushed;
  std::string unseen;
  const auto take = [&](const api::CaptureBatch& batch) {
    if (auto now = cli::unseen_queues(batch); now != unseen) fmt::print(stderr, "{}", unseen = std::move(now));
    for (const api::CapturedFrame& frame : batch.frames()) {
      if (options.count && written == *options.count) break;
      writer->write(frame.time_ns(), frame.length(), frame.data());
      ++written;
    }
    sums = batch;
    sums.clear_frames();
    sums.set_captured(written);
    flushed = writer->flush();
    return flushed.has_value() && (!options.count || written < *options.count);
  };
  const auto limit = options.seconds ? std::optional(std::chrono::seconds(*options.seconds)) : std::nullopt;
  CW_CHECK(cli::Client(options.socket).capture(request, limit, take));
  CW_CHECK(flushed);
  return options.json ? cli::json(sums) : cli::text(sums, options.port);
}

Result<std::string> run_upgrade(const Options& options) {
  const auto binary = options.binary.empty() ? std::string() : std::filesystem::absolute(options.binary).string();
  CW_TRY(const auto answer, cli::Client(options.socket).upgrade(binary));
  if (options.json) return cli::json(answer);
  return fmt::format("causewayd {}, process {}, has taken over; no queue ran for {} us\n", answer.version(),
                     answer.pid(), answer.pause_us());
}

/// An obstacle is a failure, in JSON too.
Result<std::string> run_can_migrate(const Options& options) {
  const cli::Destination to{.host = options.to, .port = options.other_port.empty() ? options.port : options.other_port};
  CW_TRY(const auto obstacle, cli::migration_obstacle(options.socket, options.port, to));
  if (options.json) {
    CW_TRY(auto verdict, cli::migration_verdict(obstacle));
    if (obstacle.empty()) return verdict;
    fmt::print("{}", verdict);
  }
  if (obstacle.empty()) return fmt::format("port {} can move to {}\n", options.port, options.to);
  return causeway::fail(causeway::Errc::not_supported,
                        fmt::format("port {} cannot move to {}: {}", options.port, options.to, obstacle));
}

Result<std::string> run_can_take(const Options& options) {
  api::GuestNeeds needs;
  CW_CHECK(cli::read_needs(needs));
  CW_TRY(const auto answer, cli::Client(options.socket).can_take(options.port, needs));
  if (options.json) {
    CW_TRY(auto text, cli::json(answer));
    if (answer.can_take()) return text;
    fmt::print("{}", text);
  }
  if (answer.can_take()) return fmt::format("port {} can take the guest\n", options.port);
  return causeway::fail(causeway::Errc::not_supported, answer.obstacle());
}

using Command = Result<std::string> (*)(const Options&);

/// Adds a subcommand that selects `command`.
CLI::App& add(CLI::App& parent, const char* name, const char* description, Command& selected, Command command) {
  CLI::App* added = parent.add_subcommand(name, description);
  added->callback([&selected, command] { selected = command; });
  return *added;
}

/// What is asked before a live migration.
void declare_migration(CLI::App& port, Options& options, Command& selected) {
  CLI::App& can_migrate =
      add(port, "can-migrate", "say what keeps the port's guest from moving to another host, if anything does",
          selected, run_can_migrate);
  can_migrate.add_option("NAME", options.port, "name of the port")->required();
  can_migrate
      .add_option("--to", options.to,
                  "where to: a host, asked by ssh, or the path (with a '/') of another daemon's control socket")
      ->required();
  can_migrate.add_option("--as", options.other_port, "name of the port there, if it has another one");

  CLI::App& can_take =
      add(port, "can-take",
          "the other side of can-migrate: say what keeps the port from taking a guest, whose needs come "
          "as JSON on standard input",
          selected, run_can_take);
  can_take.add_option("NAME", options.port, "name of the port")->required();
}

void declare(CLI::App& app, Options& options, Command& selected) {
  app.fallthrough();  // inherited: --json and --socket are accepted behind a subcommand too
  app.require_subcommand(1);
  app.set_version_flag("--version", "causeway " CAUSEWAY_VERSION);
  app.add_option("--socket", options.socket, "the daemon's control socket")
      ->capture_default_str()
      ->envname("CAUSEWAY_SOCKET");
  app.add_flag("--json", options.json, "print JSON");
  add(app, "version", "print the versions of this command and of the daemon", selected, run_version);

  CLI::App& upgrade =
      add(app, "upgrade", "have a new process of the daemon take over while guests go on", selected, run_upgrade);
  upgrade.add_option("--binary", options.binary, "the program to start (default: where the running one came from)")
      ->check(CLI::ExistingFile);

  CLI::App& port = *app.add_subcommand("port", "ports: what guests are plugged into");
  port.require_subcommand(1);
  add(port, "list", "list all ports", selected, run_list);

  CLI::App& show = add(port, "show", "show one port and its queues", selected, run_show);
  show.add_option("NAME", options.port, "name of the port")->required();
  CLI::Option* qemu = show.add_flag("--qemu", options.qemu, "print the QEMU arguments that plug a guest in");
  show.add_option("--memory", options.memory, "size of the guest's memory, for --qemu")
      ->capture_default_str()
      ->needs(qemu);

  CLI::App& resize =
      add(port, "resize", "look at the size of a disk's file again and tell the guest", selected, run_resize);
  resize.add_option("NAME", options.port, "name of the port")->required();

  CLI::App& discard = add(port, "discard-state", "start a port that was refused because of what is known of its driver",
                          selected, run_discard_state);
  discard.add_option("NAME", options.port, "name of the port")->required();

  CLI::App& inject = add(port, "inject", "give the guest the frames of a file, as if they came from the network",
                         selected, run_inject);
  inject.add_option("NAME", options.port, "name of the port")->required();
  inject.add_option("FILE", options.file, "the frames, in the pcap format")->required()->check(CLI::ExistingFile);

  CLI::App& capture = add(port, "capture", "write the frames that the guest and the port's software exchange to a file",
                          selected, run_capture);
  capture.add_option("NAME", options.port, "name of the port")->required();
  capture.add_option("FILE", options.file, "where to, in the pcap format")->required();
  capture.add_option("--count", options.count, "end after so many frames")->check(CLI::PositiveNumber);
  capture.add_option("--seconds", options.seconds, "end after so many seconds")->check(CLI::PositiveNumber);

  declare_migration(port, options, selected);

  CLI::App& rebind =
      add(port, "rebind", "move queues to another device while the guest uses them", selected, run_rebind);
  rebind.add_option("NAME", options.port, "name of the port")->required();
  rebind.add_option("--device", options.device, "the device to move to")->required();
  rebind.add_option("--device-queue", options.device_queue,
                    "which of the device's queues it becomes; else the one of the same number");
  rebind.add_option("--path", options.path,
                    "direct: the device works the guest's ring; relay: a ring of ours in its place; else direct where "
                    "the device can");
  CLI::Option_group& target = *rebind.add_option_group("target", "which queues");
  target.add_option("--queue", options.queue, "one queue, by its index");
  target.add_option("--queue-pair", options.queue_pair, "the receive and transmit queue of a pair");
  target.add_flag("--all", options.all, "all data queues");
  target.require_option(1);
}

int run(int argc, char** argv) {
  CLI::App app("Control of a running causewayd", "causeway");
  Options options;
  Command selected = nullptr;
  declare(app, options, selected);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongUsage;
  }
  const auto output = selected(options);
  if (!output) {
    fmt::print(stderr, "causeway: {}\n", output.error().text());
    return kFailed;
  }
  return std::fwrite(output->data(), 1, output->size(), stdout) == output->size() && std::fflush(stdout) == 0 ? 0
                                                                                                              : kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "causeway: {}\n", error.what());
    return kFailed;
  }
}
