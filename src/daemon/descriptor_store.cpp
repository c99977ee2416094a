#include "daemon/descriptor_store.h"

#include "base/log.h"

#include <fmt/format.h>

#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <utility>

namespace causeway::daemon {
namespace {

constexpr std::string_view kBytes = "causeway-bytes";
constexpr std::string_view kDescriptor = "causeway-fd-";  // and the number

Result<void> put(const OwnedFd& fd, const std::string& name) {
  const int raw = fd.borrow();
  // FDPOLL=0: a socket whose peer has gone must come back too, in its place.
  const auto message = fmt::format("FDSTORE=1\nFDPOLL=0\nFDNAME={}", name);
  const int outcome = ::sd_pid_notify_with_fds(0, 0, message.c_str(), &raw, 1);
  if (outcome > 0) return {};
  return fail(system_error("give a descriptor to the service manager", outcome < 0 ? -outcome : ENOTSUP));
}

Result<OwnedFd> file_with(std::span<const std::byte> bytes) {
  CW_TRY(auto file, make_memfd("causeway-parcel", bytes.size()));
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::pwrite(file.borrow(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count <= 0) return fail(system_error("write a parcel"));
    done += static_cast<std::size_t>(count);
  }
  return file;
}

Result<std::vector<std::byte>> contents_of(const OwnedFd& file) {
  CW_TRY(const auto size, size_of(file));
  std::vector<std::byte> bytes(size);
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::pread(file.borrow(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count <= 0) return fail(system_error("read a parcel"));
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

/// Messages are dealt with in their order: when this one has been, all before it have.
bool await_manager() {
  constexpr std::uint64_t kPatienceUs = 5'000'000;
  return ::sd_notify_barrier(0, kPatienceUs) >= 0;
}

/// All descriptors that the manager has passed, by name; they are ours from here on.
std::multimap<std::string, OwnedFd> passed() {
  std::multimap<std::string, OwnedFd> found;
  char** names = nullptr;
  const int count = ::sd_listen_fds_with_names(1, &names);
  for (int i = 0; i < count; ++i) {
    found.emplace(names[i], OwnedFd::adopt(SD_LISTEN_FDS_START + i));
    std::free(names[i]);
  }
  std::free(names);
  return found;
}

/// Has the manager close its copies, which would keep sockets open that we close; returns when it has.
void forget(const std::multimap<std::string, OwnedFd>& found) {
  if (found.empty()) return;
  for (auto entry = found.begin(); entry != found.end(); entry = found.upper_bound(entry->first)) {
    ::sd_notify(0, fmt::format("FDSTOREREMOVE=1\nFDNAME={}", entry->first).c_str());
  }
  if (!await_manager()) log::warn("the service manager says nothing; it may keep sockets open that it was given");
}

}  // namespace

bool has_descriptor_store() {
  return std::getenv("NOTIFY_SOCKET") != nullptr;
}

Result<void> deposit(const ParcelWriter& parcel) {
  std::size_t number = 0;
  for (const OwnedFd* fd : parcel.descriptors()) CW_CHECK(put(*fd, fmt::format("{}{}", kDescriptor, number++)));
  // Last: without it, what is there is no parcel.
  CW_TRY(const auto file, file_with(parcel.contents()));
  CW_CHECK(put(file, std::string(kBytes)));
  if (!await_manager()) return fail(Errc::gone, "the service manager says nothing");
  return {};
}

Result<std::optional<Parcel>> withdraw() {
  auto found = passed();
  forget(found);
  auto bytes = found.extract(std::string(kBytes));
  if (bytes.empty()) return std::optional<Parcel>();
  Parcel parcel;
  CW_TRY(parcel.bytes, contents_of(bytes.mapped()));
  while (auto fd = found.extract(fmt::format("{}{}", kDescriptor, parcel.fds.size()))) {
    parcel.fds.push_back(std::move(fd.mapped()));
  }
  if (found.empty()) return std::optional(std::move(parcel));
  return fail(Errc::peer_violation, fmt::format("descriptors are missing: {} came, and {} that belong to nothing",
                                                parcel.fds.size(), found.size()));
}

}  // namespace causeway::daemon
