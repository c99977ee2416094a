#include "vfio/capabilities.h"

#include "vfio/structure.h"

#include <fmt/format.h>

#include <linux/vfio.h>

#include <algorithm>

namespace causeway::vfio {

Result<std::vector<Capability>> list_capabilities(std::span<const std::byte> answer, std::uint32_t first) {
  std::vector<Capability> list;
  for (std::uint32_t at = first; at != 0;) {
    const auto header = load<vfio_info_cap_header>(answer, at);
    if (!header) {
      return fail(
          Errc::peer_violation,
          fmt::format("VFIO capability at offset {} is not inside the {} bytes of the answer", at, answer.size()));
    }
    // No more headers than this fit beside each other.
    if (list.size() == answer.size() / sizeof *header) {
      return fail(Errc::peer_violation, "the list of VFIO capabilities goes round");
    }
    list.push_back(
        {.id = header->id, .version = header->version, .contents = answer.subspan(std::size_t{at} + sizeof *header)});
    at = header->next;
  }
  return list;
}

const Capability* find_capability(const std::vector<Capability>& capabilities, std::uint16_t id) {
  const auto found = std::ranges::find(capabilities, id, &Capability::id);
  return found == capabilities.end() ? nullptr : &*found;
}

Result<std::vector<NumberPair>> read_pairs(const Capability& capability) {
  struct Head {
    std::uint32_t count;
    std::uint32_t reserved;
  };
  if (capability.version != 1) {
    return fail(Errc::not_supported,
                fmt::format("VFIO capability {} is of version {}, not 1", capability.id, capability.version));
  }
  const auto head = load<Head>(capability.contents);
  if (!head || head->count > (capability.contents.size() - sizeof *head) / sizeof(NumberPair)) {
    return fail(Errc::peer_violation, fmt::format("VFIO capability {} is cut off", capability.id));
  }
  std::vector<NumberPair> pairs;
  pairs.reserve(head->count);
  for (std::size_t i = 0; i < head->count; ++i) {
    pairs.push_back(*load<NumberPair>(capability.contents, sizeof *head + i * sizeof(NumberPair)));
  }
  return pairs;
}

}  // namespace causeway::vfio
