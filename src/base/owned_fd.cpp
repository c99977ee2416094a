#include "base/owned_fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace causeway {

OwnedFd& OwnedFd::operator=(OwnedFd&& other) noexcept {
  if (this != &other) {
    if (raw_ != kMoved) ::close(raw_);
    raw_ = other.raw_;
    other.raw_ = kMoved;
  }
  return *this;
}

OwnedFd::~OwnedFd() {
  if (raw_ != kMoved) ::close(raw_);
}

Result<OwnedFd> OwnedFd::duplicate() const {
  const int copy = ::fcntl(raw_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return fail(system_error("duplicate a descriptor"));
  return OwnedFd(copy);
}

int OwnedFd::release() && {
  const int raw = raw_;
  raw_ = kMoved;
  return raw;
}

Result<FileIdentity> identify(const OwnedFd& fd) {
  struct stat status{};
  if (::fstat(fd.borrow(), &status) != 0) return fail(system_error("fstat"));
  return FileIdentity{.device = status.st_dev, .inode = status.st_ino};
}

Result<std::uint64_t> size_of(const OwnedFd& fd) {
  struct stat status{};
  if (::fstat(fd.borrow(), &status) != 0) return fail(system_error("fstat"));
  if (!S_ISREG(status.st_mode)) return fail(Errc::peer_violation, "descriptor is no memory file");
  return static_cast<std::uint64_t>(status.st_size);
}

Result<OwnedFd> make_memfd(const std::string& name, std::uint64_t size) {
  const int raw = ::memfd_create(name.c_str(), MFD_CLOEXEC);
  if (raw < 0) return fail(system_error("memfd_create " + name));
  auto fd = OwnedFd::adopt(raw);
  if (::ftruncate(raw, static_cast<off_t>(size)) != 0) return fail(system_error("ftruncate " + name));
  return fd;
}

}  // namespace causeway
