// A function made of plain memory, and a server for it on a thread of its own.
#pragma once

#include "base/loop.h"
#include "vfio/bus.h"
#include "vfio_user/server_connection.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace causeway::vfio_user::testing {

template <class T>
T value_or_die(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

/// Open descriptors of this process; equal before and after means that none leaked. Pipes are the sanitizer's own.
inline std::size_t count_descriptors() {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (!std::filesystem::read_symlink(entry.path(), gone).native().starts_with("pipe:") && !gone) ++count;
  }
  return count;
}

/// BAR 0: 256 bytes of registers. BAR 2: three pages, of which the first is not mappable.
class FakeFunction final : public vfio::Bus {
 public:
  FakeFunction() : registers(256), pages(value_or_die(make_memfd("fake-bar", 3 * page_size()))) {
    info_.name = "fake";
    info_.vectors = 4;
    info_.can_reset = true;
    info_.iovas.push_back({memory::Iova(0), memory::Iova(~0ULL)});
    info_.regions[0] = {.size = 256, .readable = true, .writable = true, .mappable = {}};
    info_.regions[2] = {.size = 3 * page_size(),
                        .readable = true,
                        .writable = true,
                        .mappable = {{page_size(), page_size()}, {2 * page_size(), page_size()}}};
  }
  const vfio::BusInfo& info() const override { return info_; }
  void set_observer(vfio::BusObserver* /*observer*/) override {}
  Result<void> read(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override {
    if (!is_register(region, offset, to.size())) return fail(Errc::invalid_value, "no such register");
    std::copy_n(registers.begin() + static_cast<long>(offset), to.size(), to.begin());
    return {};
  }
  Result<void> write(vfio::RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override {
    if (!is_register(region, offset, from.size())) return fail(Errc::invalid_value, "no such register");
    std::ranges::copy(from, registers.begin() + static_cast<long>(offset));
    return {};
  }
  std::optional<vfio::RegionFile> file_of(vfio::RegionIndex region, vfio::Area area) const override {
    if (region != vfio::RegionIndex::bar2) return std::nullopt;
    return vfio::RegionFile{.fd = pages, .offset = area.offset, .size = area.size};
  }
  Result<void> dma_map(const memory::Region& region) override {
    maps.insert_or_assign(region.iova.value(), region);
    return {};
  }
  Result<void> dma_unmap(const memory::Region& region) override {
    maps.erase(region.iova.value());
    return {};
  }
  Result<void> enable_vectors(std::uint32_t count) override {
    vectors.clear();
    vectors.resize(count);
    return {};
  }
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override {
    vectors.at(vector).reset();
    if (event != nullptr) vectors.at(vector).emplace(value_or_die(EventFd::adopt(value_or_die(event->duplicate()))));
    return {};
  }
  Result<void> reset() override {
    ++resets;
    vectors.clear();
    return {};
  }

  std::vector<std::byte> registers;
  OwnedFd pages;
  std::map<std::uint64_t, memory::Region> maps;
  std::vector<std::optional<EventFd>> vectors;
  int resets = 0;

 private:
  bool is_register(vfio::RegionIndex region, std::uint64_t offset, std::size_t size) const {
    return region == vfio::RegionIndex::bar0 && offset <= registers.size() && size <= registers.size() - offset;
  }
  vfio::BusInfo info_;
};

/// Serves a function on the other end of a socket pair, from a thread.
class ServerThread {
 public:
  ServerThread() {
    auto [ours, theirs] = value_or_die(UnixSocket::make_pair());
    client.emplace(std::move(ours));
    connection_.emplace(loop_, function, "test", std::move(theirs), [this](Error why) {
      ended = why;
      connection_.reset();
    });
    thread_ = std::jthread([this] { loop_.run(); });
  }
  ~ServerThread() { loop_.stop(); }
  ServerThread(const ServerThread&) = delete;
  ServerThread& operator=(const ServerThread&) = delete;

  /// Runs `work` between two messages.
  template <class Work>
  auto look(Work work) {
    return loop_.call(std::move(work));
  }
  void disconnect() {
    loop_.call([this] {
      connection_.reset();
      return true;
    });
  }

  FakeFunction function;
  std::optional<UnixSocket> client;
  std::optional<Error> ended;

 private:
  Loop loop_;
  std::optional<ServerConnection> connection_;
  std::jthread thread_;
};

}  // namespace causeway::vfio_user::testing
