#include "daemon/handover.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::daemon {

Result<Shelf> Shelf::read(ParcelReader& parcel) {
  Shelf shelf;
  const auto count = parcel.count(2 * sizeof(std::uint32_t));
  for (std::uint32_t i = 0; i < count; ++i) {
    auto name = parcel.text();
    CW_TRY(auto fd, parcel.descriptor());
    shelf.things_.emplace(std::move(name), std::move(fd));
  }
  return shelf;
}

std::optional<OwnedFd> Shelf::take(const std::string& name) {
  auto found = things_.extract(name);
  if (found.empty()) return std::nullopt;
  return std::move(found.mapped());
}

bool Shelf::has_prefix(const std::string& prefix) const {
  const auto next = things_.lower_bound(prefix);
  return next != things_.end() && next->first.starts_with(prefix);
}

Result<std::unique_ptr<Predecessor>> Predecessor::meet(UnixSocket socket, std::string program_version) {
  std::unique_ptr<Predecessor> predecessor(new Predecessor(std::move(socket)));
  const Hello hello{.program_version = std::move(program_version)};
  ParcelWriter parcel;
  parcel.number(hello.handover_version);
  parcel.number(static_cast<std::uint32_t>(hello.record_format));
  parcel.text(hello.program_version);
  CW_CHECK(send_parcel(predecessor->socket_, parcel));
  CW_TRY(auto estate, receive_parcel(predecessor->socket_, kHandoverPatience));
  predecessor->estate_ = std::make_unique<ParcelReader>(std::move(estate));
  CW_TRY(predecessor->shelf_, Shelf::read(*predecessor->estate_));
  return predecessor;
}

Result<void> Predecessor::answer(const Result<void>& outcome) const {
  ParcelWriter parcel;
  parcel.text(outcome ? std::string() : outcome.error().text());
  return send_parcel(socket_, parcel);
}

}  // namespace causeway::daemon
