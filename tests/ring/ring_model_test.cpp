// The driver side against the device side, over all layouts, features, sizes, shapes and moves of either side to
// another engine, held against a model that is a few plain lists.

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <functional>
#include <vector>

#include "ring_rig.h"

namespace causeway::virtio {
namespace {

using testing::GuestMemory, testing::RingRig, testing::value_or_die;

/// What may happen on a ring, the frequent things more than once.
const std::vector<std::function<void(RingRig&)>> kSteps = {
    [](RingRig& rig) { rig.add(); },
    [](RingRig& rig) { rig.add(); },
    [](RingRig& rig) { rig.add(); },
    [](RingRig& rig) { rig.add(); },
    [](RingRig& rig) { rig.publish(); },
    [](RingRig& rig) { rig.publish(); },
    [](RingRig& rig) { rig.take(); },
    [](RingRig& rig) { rig.take(); },
    [](RingRig& rig) { rig.use(); },
    [](RingRig& rig) { rig.use(); },
    [](RingRig& rig) { rig.use_unwritten(); },
    [](RingRig& rig) { rig.publish_used(); },
    [](RingRig& rig) { rig.publish_used(); },
    [](RingRig& rig) { rig.reap(); },
    [](RingRig& rig) { rig.reap(RingRig::How::all); },
    [](RingRig& rig) { rig.arm_device(); },
    [](RingRig& rig) { rig.disarm_device(); },
    [](RingRig& rig) { rig.arm_driver(); },
    [](RingRig& rig) { rig.disarm_driver(); },
    [](RingRig& rig) { rig.move_device(); },
    [](RingRig& rig) { rig.move_driver(); },
    [](RingRig& rig) { rig.replace_map(); },
};

RC_GTEST_PROP(Rings, EveryChainIsUsedOnceWithItsBytes, ()) {
  const auto shape = testing::any_shape(*rc::gen::element(4U, 16U, 70U, 130U));
  RC_TAG(shape.features.has(Feature::ring_packed) ? "packed" : "split");
  RingRig rig(shape);
  const auto steps = *rc::gen::scale(
      4.0, rc::gen::container<std::vector<std::size_t>>(rc::gen::inRange<std::size_t>(0, kSteps.size())));
  for (const std::size_t step : steps) kSteps[step](rig);
  rig.finish();
}

class Wrapping : public ::testing::TestWithParam<std::tuple<FeatureSet, std::uint32_t>> {};

TEST_P(Wrapping, GoesOnForManyLaps) {
  const auto [features, entries] = GetParam();
  if (layout_of(features) == Layout::split && (entries & (entries - 1)) != 0) return;  // no size of a split ring
  GuestMemory memory(16 << 20);
  const RingConfig config = memory.make_ring(entries, features);
  auto driver = value_or_die(DriverQueue::start(config, memory.map()));
  auto device = value_or_die(DeviceQueue::start(config, memory.map()));
  const DriverBuffer buffer{.address = memory.allocate(64), .length = 64};
  const std::array two{buffer, buffer};
  ChainBatch batch;
  std::uint64_t sent = 0;
  std::uint64_t reaped = 0;
  while (reaped < 200'000) {
    while (driver.add(std::span(two).first(entries > 2 ? 1 + sent % 2 : 1), {}, sent)) ++sent;
    driver.publish();
    batch.clear();
    device.take(batch, 64);
    device.use_unwritten(batch.chains());
    device.publish();
    while (const auto used = driver.reap()) ASSERT_EQ(used->token, reaped++);
    ASSERT_EQ(device.fault(), RingFault::none) << text(device.fault());
    ASSERT_FALSE(driver.is_broken());
  }
}

INSTANTIATE_TEST_SUITE_P(Rings, Wrapping,
                         ::testing::Combine(::testing::Values(FeatureSet{Feature::event_idx},
                                                              FeatureSet{Feature::in_order},
                                                              FeatureSet{Feature::ring_packed},
                                                              FeatureSet{Feature::ring_packed, Feature::in_order}),
                                            ::testing::Values(1U, 3U, 255U, 256U, 32768U)));

}  // namespace
}  // namespace causeway::virtio
