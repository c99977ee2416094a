// Shared memory that outlives us: which requests were in flight when we went.
// Spec: QEMU docs/interop/vhost-user.rst, "Inflight I/O tracking".
#include "vhost_user/session.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::vhost_user {

Result<Answer> Session::on(const GetInflightFd& message) {
  const InflightDescription& wanted = message.wanted;
  CW_TRY(const auto entries, virtio::QueueSize::make(layout_, wanted.entries));
  if (wanted.queues > port_.queue_count()) {
    return fail(Errc::peer_violation, fmt::format("{} queues, the device has {}", wanted.queues, port_.queue_count()));
  }
  CW_TRY(const auto region, virtio::InflightRegion::make(layout_, wanted.queues, entries));
  return InflightAnswer{.region = {.size = region.size(),
                                   .offset = region.offset(),
                                   .queues = region.queues(),
                                   .entries = region.entries().entries()},
                        .payload_size = message.payload_size,
                        .file = region.file()};
}

Result<Answer> Session::on(SetInflightFd message) {
  const InflightDescription& region = message.region;
  CW_TRY(const auto entries, virtio::QueueSize::make(layout_, region.entries));
  CW_TRY(auto kept, virtio::InflightRegion::adopt(layout_, region.queues, entries, std::move(message.file),
                                                  region.offset, region.size));
  CW_CHECK(port_.use_inflight(std::move(kept)));
  return Done{};
}

Result<Answer> Session::on(const GetVringBaseSkipDrain& message) {
  return end_ring(message.queue, vdpa::StopMode::leave);
}

}  // namespace causeway::vhost_user
