#include "base/parcel.h"

#include <fmt/format.h>

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <utility>

namespace causeway {
namespace {

constexpr std::uint32_t kMagic = 0x6c637763;  // "cwcl"
constexpr std::size_t kHeadSize = 12;         // magic, number of descriptors, number of bytes
constexpr std::uint32_t kMostBytes = 64U << 20;
constexpr std::uint32_t kMostDescriptors = 65536;

using Clock = std::chrono::steady_clock;

/// Reads exactly `to.size()` bytes.
Result<void> receive_all(const UnixSocket& socket, std::span<std::byte> to, std::vector<OwnedFd>& fds,
                         Clock::time_point deadline) {
  while (!to.empty()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd entry{.fd = socket.fd().borrow(), .events = POLLIN, .revents = 0};
    const int ready = left.count() > 0 ? ::poll(&entry, 1, static_cast<int>(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return fail(system_error("poll"));
    if (ready == 0) return fail(Errc::gone, "the other process says nothing");
    CW_TRY(auto received, socket.receive(to));
    if (received.closed) return fail(Errc::gone, "the other process has gone");
    if (received.truncated) return fail(Errc::system, "descriptors were lost: this process has no more free");
    std::ranges::move(received.fds, std::back_inserter(fds));
    to = to.subspan(received.bytes);
  }
  return {};
}

}  // namespace

void ParcelWriter::bytes(std::span<const std::byte> value) {
  number(static_cast<std::uint32_t>(value.size()));
  bytes_.insert(bytes_.end(), value.begin(), value.end());
}

void ParcelWriter::descriptor(const OwnedFd& fd) {
  const auto known = std::ranges::find(fds_, fd.borrow(), [](const OwnedFd* other) { return other->borrow(); });
  number(static_cast<std::uint32_t>(known - fds_.begin()));
  if (known == fds_.end()) fds_.push_back(&fd);
}

std::span<const std::byte> ParcelReader::take(std::size_t size) {
  if (has_failed()) return {};
  if (size > rest_.size()) {
    refuse(fmt::format("cut off after {} bytes", parcel_.bytes.size()));
    return {};
  }
  const auto taken = rest_.first(size);
  rest_ = rest_.subspan(size);
  return taken;
}

bool ParcelReader::flag() {
  const auto value = number<std::uint8_t>();
  if (value > 1) refuse(fmt::format("{} where 0 or 1 is due", value));
  return value == 1;
}

std::string ParcelReader::text() {
  const auto value = bytes();
  std::string text;
  for (const std::byte byte : value) text += static_cast<char>(byte);
  return text;
}

std::vector<std::byte> ParcelReader::bytes() {
  const auto value = take(number<std::uint32_t>());
  return {value.begin(), value.end()};
}

std::uint32_t ParcelReader::count(std::size_t least) {
  const auto value = number<std::uint32_t>();
  if (value <= rest_.size() / least) return value;
  refuse(fmt::format("a list of {} entries, where {} bytes follow", value, rest_.size()));
  return 0;
}

Result<OwnedFd> ParcelReader::descriptor() {
  const auto index = number<std::uint32_t>();
  if (!has_failed() && index >= parcel_.fds.size()) {
    refuse(fmt::format("descriptor {} of {}", index, parcel_.fds.size()));
  }
  if (has_failed()) return fail(Errc::peer_violation, failure_);
  return parcel_.fds[index].duplicate();
}

void ParcelReader::refuse(std::string why) {
  if (!has_failed()) failure_ = std::move(why);
}

Result<void> ParcelReader::finish() const {
  if (has_failed()) return fail(Errc::peer_violation, failure_);
  if (!rest_.empty()) return fail(Errc::peer_violation, fmt::format("{} bytes too many", rest_.size()));
  return {};
}

Result<void> send_parcel(const UnixSocket& socket, const ParcelWriter& parcel) {
  const auto fds = parcel.descriptors();
  ParcelWriter head;
  head.number(kMagic);
  head.number(static_cast<std::uint32_t>(fds.size()));
  head.number(static_cast<std::uint32_t>(parcel.contents().size()));
  CW_CHECK(socket.send(head.contents()));
  // Each batch of descriptors travels with one byte.
  for (std::size_t sent = 0; sent < fds.size(); sent += UnixSocket::kMaxFds) {
    const std::array carrier{std::byte{0}};
    CW_CHECK(socket.send(carrier, fds.subspan(sent, std::min(UnixSocket::kMaxFds, fds.size() - sent))));
  }
  return socket.send(parcel.contents());
}

Result<Parcel> receive_parcel(const UnixSocket& socket, std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  Parcel parcel;
  Parcel head;
  head.bytes.resize(kHeadSize);
  CW_CHECK(receive_all(socket, head.bytes, parcel.fds, deadline));
  ParcelReader reader(std::move(head));
  const auto magic = reader.number<std::uint32_t>();
  const auto descriptors = reader.number<std::uint32_t>();
  const auto bytes = reader.number<std::uint32_t>();
  if (magic != kMagic || bytes > kMostBytes || descriptors > kMostDescriptors) {
    return fail(Errc::peer_violation, "the other process sends no parcel");
  }
  for (std::uint32_t got = 0; got < descriptors; got += static_cast<std::uint32_t>(UnixSocket::kMaxFds)) {
    std::array<std::byte, 1> carrier{};
    CW_CHECK(receive_all(socket, carrier, parcel.fds, deadline));
  }
  parcel.bytes.resize(bytes);
  CW_CHECK(receive_all(socket, parcel.bytes, parcel.fds, deadline));
  if (parcel.fds.size() != descriptors) {
    return fail(Errc::peer_violation, fmt::format("{} descriptors came, {} are due", parcel.fds.size(), descriptors));
  }
  return parcel;
}

}  // namespace causeway
