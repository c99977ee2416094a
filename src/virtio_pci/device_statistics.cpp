// What the function has counted, asked through a control queue of our own (DEVICE_STATS).
#include "base/log.h"
#include "virtio/net.h"
#include "virtio_pci/device.h"

#include <fmt/format.h>

#include <utility>

namespace causeway::virtio_pci {
namespace {

using virtio::FeatureSet;
using virtio::NetFeature;

constexpr FeatureSet kStatistics{NetFeature::ctrl_vq, NetFeature::device_stats};
/// No more wait for a function that may never answer.
constexpr std::size_t kMostWaiting = 16;

}  // namespace

/// Features that we use of the function, whether its driver does or not: it is asked for no more than it offers, and a
/// driver never hears of them.
FeatureSet Device::own_features() const {
  return control_index_ != 0 && kStatistics.is_subset_of(offered_) ? kStatistics : FeatureSet();
}

/// Queues that the function has for whoever negotiated that (5.1.2).
std::uint16_t Device::queues_with(FeatureSet features) const {
  return features.has(NetFeature::mq) || features.has(NetFeature::rss) ? info_.queues : std::uint16_t{2};
}

void Device::refresh_counters(const std::shared_ptr<void>& token) {
  if (gone_ || !control_ || own_features() == FeatureSet()) return;
  control_->reap();
  if (waiting_for_counters_.size() == kMostWaiting) return;
  waiting_for_counters_.push_back(token);
  // One question at a time: a function that does not answer is not asked for ever.
  if (std::exchange(is_asking_, true)) return;
  if (!(statistics_.has_types() ? ask_counters() : ask_types())) finish_asking();
}

bool Device::ask_types() {
  return control_->ask(Statistics::query(), Statistics::kQueryAnswer, [this](auto answer) {
    if (note_answer(answer ? statistics_.take_types(*answer) : Result<void>(fail(answer.error()))) && ask_counters()) {
      return;
    }
    finish_asking();
  });
}

bool Device::ask_counters() {
  if (gone_ || !negotiated_) return false;  // it has left while it was asked
  const std::uint16_t queues = queues_with(*negotiated_);
  const auto command = statistics_.get(queues);
  if (command.empty()) return false;
  return control_->ask(command, Statistics::get_answer(queues), [this, queues](auto answer) {
    note_answer(answer ? statistics_.take(*answer, queues) : Result<void>(fail(answer.error())));
    finish_asking();
  });
}

/// Remembers what was wrong with an answer, and says it once; true: nothing.
bool Device::note_answer(const Result<void>& answer) {
  const std::string fault = answer ? std::string() : answer.error().text();
  if (!fault.empty() && statistics_fault_.empty()) log::warn("device {}: no counters: {}", info_.name, fault);
  statistics_fault_ = fault;
  return fault.empty();
}

void Device::finish_asking() {
  is_asking_ = false;
  waiting_for_counters_.clear();
}

std::vector<vdpa::Counter> Device::counters(virtio::QueueIndex queue) const {
  auto counters = statistics_.counters(virtio::number(queue));
  const auto passed_on = kicks_.find(queue);
  counters.push_back({.name = "kicks_passed_on", .value = passed_on == kicks_.end() ? 0 : passed_on->second});
  return counters;
}

std::string Device::why_uncounted() const {
  if (gone_) return {};
  if (info_.type != virtio::DeviceType::net) return "the standard has no counters of such a function";
  if (own_features() == FeatureSet()) return "its function has no device_stats";
  if (!statistics_fault_.empty()) return statistics_fault_;
  if (statistics_.has_types() && statistics_.get(info_.queues).empty()) return "its function counts no packets";
  return is_asking_ && !statistics_.has(0) ? "its function does not answer" : std::string();
}

}  // namespace causeway::virtio_pci
