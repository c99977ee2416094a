#include "daemon/config/config.h"

#include "daemon/config/parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>

namespace causeway::config {
namespace {

constexpr Choice<Polling> kPollings[] = {
    {"adaptive", Polling::adaptive}, {"poll", Polling::poll}, {"sleep", Polling::sleep}};
constexpr std::string_view kLogLevels[] = {"trace", "debug", "info", "warn", "err", "off"};

Result<DaemonConfig> read_daemon(const Section& section) {
  CW_CHECK(section.allow_only({"control", "log-level", "state"}));
  DaemonConfig daemon;
  CW_TRY(const auto control, read_socket(section, "control"));
  if (control) daemon.control = *control;
  daemon.state = std::filesystem::path(daemon.control).replace_extension(".state");
  CW_TRY(const auto state, section.text("state", "the path of a directory, or an empty text"));
  if (state) {
    if (state->find('\0') != std::string::npos) return section.bad("state", "the path of a directory");
    daemon.state = *state;
  }
  const std::string levels = Section::one_of(kLogLevels);
  CW_TRY(const auto level, section.text("log-level", levels));
  if (level) {
    if (std::ranges::find(kLogLevels, *level) == std::end(kLogLevels)) return section.bad("log-level", levels);
    daemon.log_level = *level;
  }
  return daemon;
}

Result<WorkerConfig> read_worker(Section section, const Config& config) {
  CW_TRY(auto name, read_new_name(section, "worker", config.workers));
  CW_CHECK(section.allow_only({"name", "cpu", "polling", "spin-us"}));
  WorkerConfig worker{.name = std::move(name), .polling = Polling::adaptive, .spin = {}, .cpu = {}};
  constexpr std::int64_t kMostCpu = 1023;  // of the kernel's fixed-size cpu_set_t
  CW_TRY(const auto cpu, section.whole("cpu", 0, kMostCpu));
  if (cpu) worker.cpu = static_cast<unsigned>(*cpu);
  CW_TRY(worker.polling, section.choice<Polling>("polling", Polling::adaptive, kPollings));
  constexpr std::int64_t kDefaultSpin = 50;
  constexpr std::int64_t kMostSpin = 1'000'000;
  CW_TRY(const auto spin, section.whole("spin-us", 0, kMostSpin));
  worker.spin = std::chrono::microseconds(spin.value_or(kDefaultSpin));
  return worker;
}

Result<SwitchConfig> read_switch(Section section, const Config& config) {
  CW_TRY(auto name, read_new_name(section, "switch", config.switches));
  CW_CHECK(section.allow_only({"name", "worker"}));
  CW_TRY(auto worker, read_worker_name(section, config));
  return SwitchConfig{.name = std::move(name), .worker = worker.value_or(config.workers.front().name)};
}

/// Calls `read` for each table of the array `key` (`[[key]]`), in order.
template <class Read>
Result<void> each_table(std::string_view file, const Table& document, std::string_view key, Read read) {
  const Member* member = document.find(key);
  if (member == nullptr) return {};
  const auto* array = std::get_if<Array>(&member->value.data);
  const auto is_table = [](const Value& value) { return std::holds_alternative<Table>(value.data); };
  if (array == nullptr || !std::ranges::all_of(*array, is_table)) {
    return Section(file, document, "the file").bad(key, fmt::format("tables, each under a header [[{}]]", key));
  }
  std::size_t number = 0;
  for (const Value& value : *array) {
    ++number;
    CW_CHECK(read(Section(file, std::get<Table>(value.data), fmt::format("{} number {}", key, number))));
  }
  return {};
}

/// Appends what `read` returns to `list`.
template <class List, class Read>
auto append_to(List& list, Read read) {
  return [&list, read](Section section) -> Result<void> {
    CW_TRY(auto entry, read(std::move(section)));
    list.push_back(std::move(entry));
    return {};
  };
}

}  // namespace

Result<Role> read_role(const Section& section, Role fallback) {
  constexpr Choice<Role> kRoles[] = {{"server", Role::server}, {"client", Role::client}};
  return section.choice<Role>("role", fallback, kRoles);
}

Result<DeviceConfig> read_device(Section section, const Config& config) {
  using Kind = DeviceConfig::Kind;
  constexpr Choice<Kind> kKinds[] = {
      {"vhost-user", Kind::vhost_user}, {"vfio-user", Kind::vfio_user}, {"vfio", Kind::vfio}};
  DeviceConfig device;
  CW_TRY(device.name, read_new_name(section, "device", config.devices));
  if (!section.has("kind")) return section.missing("kind", "\"vhost-user\", \"vfio-user\" or \"vfio\"");
  CW_TRY(device.kind, section.choice<Kind>("kind", device.kind, kKinds));
  if (device.kind == Kind::vfio) {
    CW_CHECK(section.allow_only({"name", "kind", "address"}));
    CW_TRY(device.address, section.required_text("address", "a PCI address such as \"0000:01:00.0\""));
    return device;
  }
  CW_TRY(auto socket, read_socket(section, "socket"));
  if (!socket) return section.missing("socket", "the path of the other process's socket");
  device.socket = std::move(*socket);
  if (device.kind == Kind::vfio_user) {
    CW_CHECK(section.allow_only({"name", "kind", "socket"}));
    return device;
  }
  CW_CHECK(section.allow_only({"name", "kind", "socket", "role", "reconnect", "vfio-groups"}));
  CW_TRY(device.role, read_role(section, device.role));
  CW_TRY(device.reconnect, section.flag("reconnect", device.reconnect));
  CW_TRY(device.vfio_groups, section.flag("vfio-groups", false));
  return device;
}

Result<std::optional<std::string>> read_socket(const Section& section, std::string_view key) {
  const std::string expected = fmt::format("a path of 1 to {} characters", kMaxSocketPath);
  CW_TRY(auto path, section.text(key, expected));
  if (path && (path->empty() || path->size() > kMaxSocketPath || path->find('\0') != std::string::npos)) {
    return section.bad(key, expected);
  }
  return path;
}

Result<std::optional<std::string>> read_worker_name(const Section& section, const Config& config) {
  CW_TRY(auto name, section.name("worker"));
  if (!name || std::ranges::find(config.workers, *name, &WorkerConfig::name) != config.workers.end()) return name;
  std::vector<std::string_view> names;
  for (const auto& worker : config.workers) names.push_back(worker.name);
  return section.bad("worker", "the name of a worker: " + Section::one_of(names));
}

Result<Config> parse_config(std::string_view text, std::string_view file) {
  CW_TRY(const Table document, parse_toml(text, file));
  const Section whole(file, document, "the file");
  CW_CHECK(whole.allow_only({"daemon", "worker", "switch", "device", "port"}));

  Config config;
  if (const Member* daemon = document.find("daemon")) {
    const auto* table = std::get_if<Table>(&daemon->value.data);
    if (table == nullptr) return whole.bad("daemon", "a table under a header [daemon]");
    CW_TRY(config.daemon, read_daemon(Section(file, *table, "daemon")));
  }
  CW_CHECK(each_table(file, document, "worker",
                      append_to(config.workers, [&](Section s) { return read_worker(std::move(s), config); })));
  if (config.workers.empty())
    config.workers.push_back({.name = "default", .spin = std::chrono::microseconds(50), .cpu = {}});
  CW_CHECK(each_table(file, document, "switch",
                      append_to(config.switches, [&](Section s) { return read_switch(std::move(s), config); })));
  CW_CHECK(each_table(file, document, "device",
                      append_to(config.devices, [&](Section s) { return read_device(std::move(s), config); })));
  CW_CHECK(each_table(file, document, "port",
                      append_to(config.ports, [&](Section s) { return read_port(std::move(s), config); })));
  return config;
}

Result<Config> load_config(const std::filesystem::path& file) {
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return fail(system_error("cannot open the configuration file " + file.string()));
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (stream.bad()) return fail(system_error("cannot read the configuration file " + file.string()));
  return parse_config(text, file.string());
}

}  // namespace causeway::config
