// Post-copy, as far as it is messages.
#include "vhost_user/session.h"

#include <utility>

namespace causeway::vhost_user {

Result<Answer> Session::on(const PostcopyAdvise&) {
  // A front-end that is several devices to itself, as QEMU's with several queue pairs, says so for each: the last one
  // is the one that hears of faults.
  postcopy_.reset();
  CW_TRY(postcopy_, Postcopy::start(line_ ? &*line_ : nullptr));
  return DescriptorAnswer{postcopy_->fd()};
}

Result<Answer> Session::on(const PostcopyListen&) {
  if (!postcopy_) return fail(Errc::peer_violation, "before POSTCOPY_ADVISE");
  postcopy_->listen();
  return Done{};
}

Result<Answer> Session::on(const PostcopyEnd&) {
  // It may be said once for each of such devices, too.
  postcopy_.reset();
  return Done{};
}

/// Nothing may touch the memory before the front-end knows where it lies: until then the old table is in force.
Result<Answer> Session::propose_table(std::vector<memory::Region> regions) {
  regions = port_.memory().with_known(std::move(regions));
  MemTableAnswer answer;
  answer.regions.reserve(regions.size());
  for (const memory::Region& region : regions) {
    answer.regions.push_back({.guest = memory::Gpa(region.iova.value()),
                              .frontend = memory::FrontendVa(region.host_address()),
                              .size = region.size,
                              .offset = region.offset});
  }
  postcopy_->set_table(std::move(regions));
  return answer;
}

/// A refusal has no form there: the front-end waits for the table, or for nothing.
bool Session::is_within_table_exchange(const Header& header) const {
  if (!postcopy_) return false;
  const bool is_table = header.request == std::to_underlying(Request::set_mem_table);
  return postcopy_->awaits_acknowledgement() || (postcopy_->listens() && is_table);
}

Result<Answer> Session::accept_table() {
  CW_TRY(auto regions, postcopy_->take_table());
  CW_CHECK(port_.set_memory(std::move(regions)));
  return Done{};
}

}  // namespace causeway::vhost_user
