// An accelerator without hardware: a port's software Device as a virtio-pci function, driven as any other.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "port/port.h"
#include "vfio_user/client.h"
#include "vfio_user/server_connection.h"
#include "virtio_pci/device.h"
#include "virtio_pci/function.h"

#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "support/guest_memory.h"

namespace causeway::testing {

/// The function of a port, which it owns, as a Bus for a driver on the same thread.
class LocalFunction final : public vfio::Bus {
 public:
  LocalFunction(Loop& loop, std::unique_ptr<port::Port> port, virtio_pci::FunctionConfig config)
      : worker_(value_or_die(Worker::start({.name = "accelerator", .cpu = {}}))),
        port_(std::move(port)),
        function_(value_or_die(virtio_pci::Function::make(loop, *port_, *worker_, config))) {}

  virtio_pci::Function& function() { return *function_; }
  port::Port& port() { return *port_; }

  const vfio::BusInfo& info() const override { return function_->info(); }
  void set_observer(vfio::BusObserver* observer) override { observer_ = observer; }
  /// What a kernel does that unplugs it; it works on, if nobody stops it.
  void unplug() {
    observer_->bus_wanted_back();
    observer_->bus_gone({.code = Errc::gone, .what = "unplugged"});
  }
  Result<void> read(vfio::RegionIndex region, std::uint64_t offset, std::span<std::byte> to) override {
    return function_->read(region, offset, to);
  }
  Result<void> write(vfio::RegionIndex region, std::uint64_t offset, std::span<const std::byte> from) override {
    return function_->write(region, offset, from);
  }
  std::optional<vfio::RegionFile> file_of(vfio::RegionIndex region, vfio::Area area) const override {
    return function_->file_of(region, area);
  }
  Result<void> dma_map(const memory::Region& region) override { return function_->dma_map(region); }
  Result<void> dma_unmap(const memory::Region& region) override { return function_->dma_unmap(region); }
  Result<void> enable_vectors(std::uint32_t count) override { return function_->enable_vectors(count); }
  Result<void> set_vector(std::uint32_t vector, const OwnedFd* event) override {
    return function_->set_vector(vector, event);
  }
  Result<void> reset() override { return function_->reset(); }

 private:
  vfio::BusObserver* observer_ = nullptr;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<port::Port> port_;
  std::unique_ptr<virtio_pci::Function> function_;
};

/// The same behind a vfio-user socket, on a thread of its own; `make_port` makes its port there.
class RemoteFunction {
 public:
  template <class MakePort>
  RemoteFunction(MakePort make_port, virtio_pci::FunctionConfig config) {
    auto [ours, theirs] = value_or_die(UnixSocket::make_pair());
    client.emplace(std::move(ours));
    function_ = std::make_unique<LocalFunction>(loop_, make_port(loop_), config);
    connection_.emplace(loop_, *function_, "accelerator", std::move(theirs), [this](Error) { connection_.reset(); });
    thread_ = std::jthread([this] { loop_.run(); });
  }
  RemoteFunction(const RemoteFunction&) = delete;
  RemoteFunction& operator=(const RemoteFunction&) = delete;
  ~RemoteFunction() { loop_.stop(); }

  std::unique_ptr<vfio::Bus> connect(Loop& loop) {
    return value_or_die(vfio_user::Client::make_on(loop, {.path = "accelerator"}, std::move(*client)));
  }
  /// Leaves its client, as a process does that ends.
  void disconnect() {
    loop_.call([this] {
      connection_.reset();
      return true;
    });
  }
  virtio_pci::Function& function() { return function_->function(); }

  std::optional<UnixSocket> client;

 private:
  Loop loop_;
  std::unique_ptr<LocalFunction> function_;
  std::optional<vfio_user::ServerConnection> connection_;
  std::jthread thread_;
};

}  // namespace causeway::testing
