#include "base/loop.h"

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>

namespace causeway {

struct Loop::Impl {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
};

namespace {

// Each state keeps itself alive through the handler it has pending, and calls back only while it is not cancelled.

struct Watch : Loop::Registration::State, std::enable_shared_from_this<Watch> {
  using Wait = asio::posix::stream_descriptor::wait_type;
  Watch(asio::io_context& context, int fd, Wait a_wait, Loop::Callback call)
      : descriptor(context, fd), wait(a_wait), callback(std::move(call)) {}
  ~Watch() override {
    if (descriptor.is_open()) descriptor.release();
  }
  void arm() {
    descriptor.async_wait(wait, [self = shared_from_this()](std::error_code error) {
      if (error || self->cancelled) return;
      self->callback();
      if (!self->cancelled) self->arm();
    });
  }
  void cancel() override {
    cancelled = true;
    // The descriptor is its owner's, who may close it right after: asio must forget it now, without closing it.
    descriptor.release();
  }
  asio::posix::stream_descriptor descriptor;
  Wait wait;
  Loop::Callback callback;
  bool cancelled = false;
};

struct Timer : Loop::Registration::State, std::enable_shared_from_this<Timer> {
  Timer(asio::io_context& context, std::chrono::milliseconds delay, Loop::Callback call)
      : timer(context, delay), callback(std::move(call)) {}
  void arm() {
    timer.async_wait([self = shared_from_this()](std::error_code error) {
      if (!error && !self->cancelled) self->callback();
    });
  }
  void cancel() override {
    cancelled = true;
    timer.cancel();
  }
  asio::steady_timer timer;
  Loop::Callback callback;
  bool cancelled = false;
};

struct SignalWatch : Loop::Registration::State, std::enable_shared_from_this<SignalWatch> {
  SignalWatch(asio::io_context& context, int number, Loop::Callback call)
      : signals(context, number), callback(std::move(call)) {}
  void arm() {
    signals.async_wait([self = shared_from_this()](std::error_code error, int) {
      if (error || self->cancelled) return;
      self->callback();
      if (!self->cancelled) self->arm();
    });
  }
  void cancel() override {
    cancelled = true;
    std::error_code ignored;
    signals.cancel(ignored);
  }
  asio::signal_set signals;
  Loop::Callback callback;
  bool cancelled = false;
};

template <class State, class... Args>
Loop::Registration start(Args&&... args) {
  auto state = std::make_shared<State>(std::forward<Args>(args)...);
  state->arm();
  return Loop::Registration(std::move(state));
}

}  // namespace

Loop::Registration& Loop::Registration::operator=(Registration&& other) noexcept {
  if (this != &other) {
    if (state_) state_->cancel();
    state_ = std::move(other.state_);
  }
  return *this;
}

Loop::Registration::~Registration() {
  if (state_) state_->cancel();
}

Loop::Loop() : impl_(std::make_unique<Impl>()) {}
Loop::~Loop() = default;
void Loop::run() {
  impl_->context.run();
}
bool Loop::run_ready() {
  return impl_->context.poll() > 0;
}
void Loop::stop() {
  impl_->context.stop();
}

void Loop::post(Callback work) {
  // asio 1.22 wants handlers that can be copied.
  asio::post(impl_->context, [shared = std::make_shared<Callback>(std::move(work))] { (*shared)(); });
}

Loop::Registration Loop::watch(const OwnedFd& fd, Callback callback) {
  return start<Watch>(impl_->context, fd.borrow(), Watch::Wait::wait_read, std::move(callback));
}

Loop::Registration Loop::watch_writable(const OwnedFd& fd, Callback callback) {
  return start<Watch>(impl_->context, fd.borrow(), Watch::Wait::wait_write, std::move(callback));
}

Loop::Registration Loop::after(std::chrono::milliseconds delay, Callback callback) {
  return start<Timer>(impl_->context, delay, std::move(callback));
}

Loop::Registration Loop::on_signal(int number, Callback callback) {
  return start<SignalWatch>(impl_->context, number, std::move(callback));
}

}  // namespace causeway
