// Parcels of arbitrary bytes where a connection with its port is due: refused, or taken over and given up again.
#include "vhost_user/connection.h"
#include "vhost_user/test_support.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdint>
#include <span>

namespace causeway::vhost_user::testing {
namespace {

void run(std::span<const std::byte> input) {
  static const GuestMemory memory;
  static const EventFd event = *EventFd::make();
  Loop loop;
  PortLog log("fuzz");
  std::vector<std::unique_ptr<vdpa::Device>> devices;
  devices.push_back(std::make_unique<FakeDevice>(std::uint16_t{2}));
  const auto port = *port::Port::make(loop, {.name = "net0", .features_off = {}}, std::move(devices));
  auto [ours, theirs] = *UnixSocket::make_pair();
  Parcel parcel{.bytes = {input.begin(), input.end()}, .fds = {}};
  for (const OwnedFd* fd : {&ours.fd(), &memory.file(), &event.fd()}) parcel.fds.push_back(*fd->duplicate());
  ParcelReader reader(std::move(parcel));
  const auto connection =
      Connection::take_over(loop, *port, log, {.inband_notifications = true, .vfio_groups = true}, reader, [] {});
  if (!connection) return;
  if (!port->take_over(reader)) return;
  (*connection)->thaw();
  for (int i = 0; i < 10 && loop.run_ready(); ++i) continue;
}

}  // namespace
}  // namespace causeway::vhost_user::testing

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  spdlog::set_level(spdlog::level::off);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  causeway::vhost_user::testing::run(std::as_bytes(std::span(data, size)));
  return 0;
}
