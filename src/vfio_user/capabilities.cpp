#include "vfio_user/capabilities.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <limits>
#include <string>
#include <string_view>

namespace causeway::vfio_user {
namespace {

using nlohmann::json;

Failure wrong(std::string_view what) {
  return fail(Errc::peer_violation, fmt::format("VERSION: {}", what));
}

/// Reads `name` into `to`, where it is given.
template <class T>
Result<void> read(const json& capabilities, const char* name, T& to) {
  const auto found = capabilities.find(name);
  if (found == capabilities.end()) return {};
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() > std::numeric_limits<T>::max()) {
    return wrong(fmt::format("'{}' is no number from 0 to {}", name, std::numeric_limits<T>::max()));
  }
  to = found->get<T>();
  return {};
}

}  // namespace

Bytes encode_version(const Capabilities& ours) {
  const json data = {{"capabilities",
                      {{"max_msg_fds", ours.max_fds},
                       {"max_data_xfer_size", ours.max_transfer},
                       {"max_dma_maps", ours.max_dma_maps},
                       {"pgsizes", ours.page_sizes}}}};
  Bytes payload;
  append(payload, wire::Version{.major = wire::kMajor, .minor = wire::kMinor});
  const std::string text = data.dump();
  const auto bytes = std::as_bytes(std::span(text));
  payload.insert(payload.end(), bytes.begin(), bytes.end());
  payload.push_back(std::byte{0});
  return payload;
}

Result<Capabilities> decode_version(const Message& message) {
  CW_TRY(const auto version, message.head<wire::Version>());
  if (version.major != wire::kMajor) {
    return fail(Errc::not_supported, fmt::format("VERSION: the peer speaks {}.{}, we speak {}.{}", version.major,
                                                 version.minor, wire::kMajor, wire::kMinor));
  }
  Capabilities theirs;
  const auto tail = message.tail(sizeof version);
  if (tail.empty()) return theirs;
  std::string text(tail.size(), '\0');
  std::memcpy(text.data(), tail.data(), tail.size());
  if (text.back() != '\0') return wrong("its text has no end");
  text.pop_back();
  const json data = json::parse(text, nullptr, false);
  if (!data.is_object()) return wrong("its text is no JSON object");
  const auto found = data.find("capabilities");
  if (found == data.end()) return theirs;
  if (!found->is_object()) return wrong("'capabilities' is no object");
  CW_CHECK(read(*found, "max_msg_fds", theirs.max_fds));
  CW_CHECK(read(*found, "max_data_xfer_size", theirs.max_transfer));
  CW_CHECK(read(*found, "max_dma_maps", theirs.max_dma_maps));
  CW_CHECK(read(*found, "pgsizes", theirs.page_sizes));
  return theirs;
}

}  // namespace causeway::vfio_user
