// libFuzzer: any text is either a configuration or an error that begins with the file's name and a line.
#include "daemon/config/config.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = causeway::config::parse_config(text, "fuzz.toml");
  if (!config && !config.error().what.starts_with("fuzz.toml:")) std::abort();
  if (config && config->workers.empty()) std::abort();
  return 0;
}
