#include "vhost_user/message_rules.h"

#include "vhost_user/wire.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace causeway::vhost_user {
namespace {

template <class T>
T read(std::span<const std::byte> body) {
  T value;
  std::memcpy(&value, body.first(sizeof value).data(), sizeof value);
  return value;
}

Result<void> check_support(const MessageSpec& spec) {
  switch (spec.support) {
    case Support::handled:
      return {};
    case Support::later:
      return fail(Errc::not_supported, "not implemented by this back-end yet");
    case Support::other_device:
      return fail(Errc::not_supported, "belongs to a device type that this back-end does not serve");
  }
  return {};
}

Result<void> check_size(const MessageSpec& spec, std::size_t size) {
  if (size >= spec.min_size && size <= spec.max_size) return {};
  const auto allowed = spec.min_size == spec.max_size ? fmt::format("{}", spec.min_size)
                                                      : fmt::format("{} to {}", spec.min_size, spec.max_size);
  return fail(Errc::peer_violation, fmt::format("a payload of {} bytes, must be {}", size, allowed));
}

/// How many descriptors this very message must bring: at least, at most.
std::pair<std::size_t, std::size_t> due_descriptors(const MessageSpec& spec, std::span<const std::byte> body) {
  switch (spec.fds) {
    case FdRule::none:
      return {0, 0};
    case FdRule::exactly_one:
      return {1, 1};
    case FdRule::one_unless_nofd_bit: {
      const std::size_t due = (read<std::uint64_t>(body) & wire::kVringFdNone) != 0 ? 0 : 1;
      return {due, due};
    }
    case FdRule::one_per_region: {
      const std::size_t due = read<wire::MemoryTableHead>(body).count;
      return {due, due};
    }
    case FdRule::one_if_flag_0: {
      const std::size_t due = read<wire::VringGroup>(body).flags & wire::kVringGroupComes;
      return {due, due};
    }
    case FdRule::optional_one:
    case FdRule::stray_one:
      return {0, 1};
  }
  return {0, 0};
}

}  // namespace

Result<void> check_rules(const MessageSpec& spec, std::span<const std::byte> body, std::size_t descriptors) {
  CW_CHECK(check_support(spec));
  CW_CHECK(check_size(spec, body.size()));
  const auto [least, most] = due_descriptors(spec, body);
  if (descriptors >= least && descriptors <= most) return {};
  return fail(Errc::peer_violation,
              fmt::format("{} descriptor{}, takes {}", descriptors, descriptors == 1 ? "" : "s", name_of(spec.fds)));
}

}  // namespace causeway::vhost_user
