// The front-end's memory: the whole table at once, or region by region.
#include "vhost_user/session.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {
namespace {

Result<memory::Region> map_region(RegionWithFile region) {
  const RegionAddress& address = region.address;
  return memory::Region::map(memory::untranslated(address.guest), address.frontend, address.size,
                             std::move(region.file), address.offset);
}

}  // namespace

Result<Answer> Session::on(SetMemTable message) {
  std::vector<memory::Region> regions;
  regions.reserve(message.regions.size());
  for (RegionWithFile& region : message.regions) {
    CW_TRY(auto mapped, map_region(std::move(region)));
    regions.push_back(std::move(mapped));
  }
  CW_CHECK(port_.set_memory(std::move(regions)));
  return Done{};
}

Result<Answer> Session::on(AddMemReg message) {
  if (port_.memory().regions().size() >= kMaxMemorySlots) {
    return fail(Errc::peer_violation, fmt::format("all {} memory slots are in use", kMaxMemorySlots));
  }
  CW_TRY(auto region, map_region(std::move(message.region)));
  CW_CHECK(port_.add_memory(std::move(region)));
  return Done{};
}

Result<Answer> Session::on(const RemMemReg& message) {
  const RegionAddress& region = message.region;
  CW_CHECK(port_.remove_memory(memory::untranslated(region.guest), region.frontend, region.size));
  return Done{};
}

Result<Answer> Session::on(const GetMaxMemSlots&) {
  return U64Answer{kMaxMemorySlots};
}

}  // namespace causeway::vhost_user
