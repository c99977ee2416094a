// The parts of a configuration, each read from its table. Private to this folder.
#pragma once

#include "daemon/config/config.h"
#include "daemon/config/section.h"

namespace causeway::config {

/// Reads a `[[port]]`; `config` holds the workers, the switches and the ports before this one.
Result<PortConfig> read_port(Section section, const Config& config);
/// Reads what only a `[[port]]` with a disk has; the keys of a network port are refused.
Result<DiskPortConfig> read_disk_port(const Section& section, const Config& config);
/// Reads a `[[device]]`; `config` holds those before this one.
Result<DeviceConfig> read_device(Section section, const Config& config);
/// Key "role".
Result<Role> read_role(const Section& section, Role fallback);
/// A path for a unix socket under `key`; nothing when it is not there.
Result<std::optional<std::string>> read_socket(const Section& section, std::string_view key);
/// The worker named by key "worker"; nothing when it is not there; an error when no such worker exists.
Result<std::optional<std::string>> read_worker_name(const Section& section, const Config& config);
/// Reads key "name", which must differ from the names of `others`, and makes it the section's subject.
template <class Others>
Result<std::string> read_new_name(Section& section, std::string_view kind, const Others& others) {
  CW_TRY(auto name, section.name("name"));
  if (!name) return section.missing("name", kNameRule);
  for (const auto& other : others) {
    if (other.name == *name) return section.bad("name", "a name that no other " + std::string(kind) + " has");
  }
  section.rename(std::string(kind) + " '" + *name + "'");
  return std::move(*name);
}

}  // namespace causeway::config
