#include "vhost_user/postcopy.h"

#include <poll.h>

#include <array>
#include <cerrno>

namespace causeway::vhost_user {

Result<std::unique_ptr<Postcopy>> Postcopy::start(const OwnedFd* line) {
  CW_TRY(auto faults, memory::UserFaults::make());
  CW_TRY(auto stop, EventFd::make());
  std::unique_ptr<Postcopy> postcopy(new Postcopy(std::move(faults), std::move(stop)));
  if (line != nullptr) {
    CW_TRY(auto copy, line->duplicate());
    postcopy->look_out(std::move(copy));
  }
  return postcopy;
}

Postcopy::~Postcopy() {
  faults_->end();
  stop_.signal();
}

void Postcopy::look_out(OwnedFd line) {
  lookout_ = std::jthread([faults = faults_, stop = stop_.fd().borrow(), line = std::move(line)] {
    // The eventfd outlives the thread, which its owner joins.
    std::array<pollfd, 2> polled{
        {{.fd = stop, .events = POLLIN, .revents = 0}, {.fd = line.borrow(), .events = POLLRDHUP, .revents = 0}}};
    while (::poll(polled.data(), polled.size(), -1) < 0 && errno == EINTR) continue;
    faults->end();
  });
}

Result<std::vector<memory::Region>> Postcopy::take_table() {
  std::vector<memory::Region> regions = *std::exchange(table_, std::nullopt);
  for (const memory::Region& region : regions) CW_CHECK(faults_->take(region));
  return regions;
}

}  // namespace causeway::vhost_user
