// A store in memory whose operations wait until the test lets them go.
#pragma once

#include "base/event_fd.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "blk/ram_store.h"
#include "support/guest_memory.h"

namespace causeway::testing {

/// For one queue: what is let go is not told apart by channel. Thread: any.
class HeldStore final : public blk::Store {
 public:
  explicit HeldStore(std::uint64_t bytes) : memory_(value_or_die(blk::RamStore::make(bytes))) {}

  const std::string& name() const override { return memory_->name(); }
  std::uint64_t bytes() const override { return memory_->bytes(); }
  bool is_read_only() const override { return false; }
  std::uint32_t block_size() const override { return 1; }
  Result<void> refresh() override { return {}; }
  const OwnedFd* descriptor() const override { return nullptr; }
  Result<std::unique_ptr<blk::Channel>> open_channel(std::uint32_t depth) override {
    CW_TRY(auto inner, memory_->open_channel(depth));
    return std::make_unique<HeldChannel>(*this, std::move(inner));
  }

  /// What has begun, in its order, and has not been let go.
  std::vector<std::pair<blk::Operation::Kind, std::uint64_t>> held() {
    const std::scoped_lock lock(mutex_);
    std::vector<std::pair<blk::Operation::Kind, std::uint64_t>> list;
    for (const blk::Operation* operation : held_) list.emplace_back(operation->kind, operation->offset);
    return list;
  }
  /// Lets the oldest operation go on, to fail with `error` unless that is 0.
  void let_one_go(int error = 0) {
    const std::scoped_lock lock(mutex_);
    released_.emplace_back(held_.front(), error);
    held_.pop_front();
    event_.signal();
    changed_.notify_all();
  }
  /// From now on nothing is held.
  void let_all_go() {
    const std::scoped_lock lock(mutex_);
    holds_ = false;
    for (blk::Operation* operation : held_) released_.emplace_back(operation, 0);
    held_.clear();
    event_.signal();
    changed_.notify_all();
  }

 private:
  class HeldChannel final : public blk::Channel {
   public:
    HeldChannel(HeldStore& store, std::unique_ptr<blk::Channel> inner) : store_(store), inner_(std::move(inner)) {}
    void submit(blk::Operation& operation) override {
      const std::scoped_lock lock(store_.mutex_);
      if (store_.holds_) {
        store_.held_.push_back(&operation);
      } else {
        store_.released_.emplace_back(&operation, 0);
      }
    }
    bool flush() override { return true; }
    blk::Operation* reap() override {
      const std::scoped_lock lock(store_.mutex_);
      if (store_.released_.empty()) return nullptr;
      const auto [operation, error] = store_.released_.front();
      store_.released_.pop_front();
      inner_->submit(*operation);
      inner_->reap();
      if (error != 0) operation->error = error;
      return operation;
    }
    void wait() override {
      std::unique_lock lock(store_.mutex_);
      store_.changed_.wait(lock, [this] { return !store_.released_.empty(); });
    }
    const OwnedFd* event() const override { return &store_.event_.fd(); }
    bool arm() override {
      const std::scoped_lock lock(store_.mutex_);
      return !store_.released_.empty();
    }
    void disarm() override {}

   private:
    HeldStore& store_;
    std::unique_ptr<blk::Channel> inner_;
  };

  std::shared_ptr<blk::RamStore> memory_;
  EventFd event_ = value_or_die(EventFd::make());
  std::mutex mutex_;
  std::condition_variable changed_;
  bool holds_ = true;
  std::deque<blk::Operation*> held_;
  std::deque<std::pair<blk::Operation*, int>> released_;
};

}  // namespace causeway::testing
