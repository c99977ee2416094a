// A front-end with an IOMMU: what it is asked for, and what it says.
#pragma once

#include "vhost_user/session_fixture.h"

#include <optional>
#include <utility>
#include <vector>

namespace causeway::vhost_user::testing {

using memory::Access, memory::Iova, memory::Miss;

inline constexpr std::uint64_t kAt = 0x5'0000'0000;    ///< where the driver has the guest's memory
inline constexpr std::uint64_t kBufferPage = 0x20000;  ///< from there on

/// Behind an IOMMU, of which nothing is known.
class Iommu : public ChannelTest {
 protected:
  void SetUp() override {
    SessionTest::SetUp();
    begin();
    exchange(Request::set_features, bytes_of(features_behind_iommu()));
    ASSERT_TRUE(port().is_translated());
  }
  static std::uint64_t features_behind_iommu() {
    return features_with_bit30() | virtio::FeatureSet{virtio::Feature::access_platform}.bits();
  }

  static wire::Iotlb update_of(std::uint64_t offset, std::uint64_t size = kPage, Access access = Access::read_write) {
    return {.iova = kAt + offset,
            .size = size,
            .user_address = GuestMemory::kFrontendVa + offset,
            .access = std::to_underlying(access),
            .type = wire::kIotlbUpdate,
            .padding = {}};
  }
  static wire::Iotlb invalidation_of(std::uint64_t offset, std::uint64_t size = kPage) {
    wire::Iotlb message = update_of(offset, size, Access::none);
    message.type = wire::kIotlbInvalidate;
    message.user_address = 0;
    return message;
  }
  /// The status that is answered, asked for or not.
  std::optional<std::uint64_t> say(const wire::Iotlb& message, std::size_t bytes = sizeof(wire::Iotlb)) {
    Bytes payload = bytes_of(message);
    payload.resize(bytes);
    const auto reply = exchange(Request::iotlb_msg, payload);
    if (!reply || reply->request != std::to_underlying(Request::iotlb_msg)) return std::nullopt;
    EXPECT_EQ(reply->flags, wire::kVersion | wire::kReplyFlag);
    EXPECT_EQ(reply->payload.size(), sizeof(std::uint64_t));
    return reply->u64();
  }

  /// The next miss that comes within `limit`.
  std::optional<Miss> missed(milliseconds limit = milliseconds(0)) {
    const auto message = told(limit);
    if (!message) return std::nullopt;
    EXPECT_EQ(message->request, std::to_underlying(BackendRequest::iotlb_msg));
    EXPECT_EQ(message->flags, wire::kVersion) << "no reply is asked for";
    EXPECT_EQ(message->payload.size(), sizeof(wire::Iotlb));
    const auto iotlb = value_of<wire::Iotlb>(message->payload);
    EXPECT_EQ(iotlb.type, wire::kIotlbMiss);
    EXPECT_EQ(iotlb.size, kPage);
    return Miss{.at = Iova(iotlb.iova), .access = static_cast<Access>(iotlb.access)};
  }
  std::vector<Miss> all_missed() {
    std::vector<Miss> all;
    while (const auto miss = missed()) all.push_back(*miss);
    return all;
  }
  static Miss miss_of(std::uint64_t offset, Access access) { return {.at = Iova(kAt + offset), .access = access}; }
  static std::vector<Miss> ring_pages() {
    return {miss_of(GuestMemory::descriptors(0), Access::read), miss_of(GuestMemory::available(0), Access::read),
            miss_of(GuestMemory::used(0), Access::read_write)};
  }

  void kick_off_ring() {
    set_up_ring(0, kAt);
    kick_off(0);
  }
  void learn_ring() {
    for (const Miss& page : ring_pages()) {
      EXPECT_EQ(say(update_of(page.at.value() - kAt, kPage, page.access)), 0U);
    }
  }
  void start_known_ring() {
    kick_off_ring();
    EXPECT_EQ(all_missed(), ring_pages());
    learn_ring();
    ASSERT_TRUE(device().runs(0));
  }
  /// The driver's chain number `n` from the start: one buffer that the device reads.
  void offer(std::uint16_t n, std::uint64_t buffer) {
    const std::uint64_t address = kAt + buffer;
    for (unsigned i = 0; i < 4; ++i) {
      rig_->memory.store16(GuestMemory::descriptors(0) + 16ULL * n + 2ULL * i,
                           static_cast<std::uint16_t>(address >> (16 * i)));
    }
    rig_->memory.store16(GuestMemory::descriptors(0) + 16ULL * n + 8, 100);
    rig_->memory.store16(GuestMemory::available(0) + 4 + 2ULL * n, n);
    rig_->memory.store16(GuestMemory::available(0) + 2, static_cast<std::uint16_t>(n + 1));
    kick_.signal();
  }
  std::uint32_t position() {
    const auto reply = exchange(Request::get_vring_base, bytes_of(wire::VringState{.index = 0, .number = 0}));
    return reply ? value_of<wire::VringState>(reply->payload).number : ~0U;
  }
  port::QueueReport queue() { return port().report().queues[0]; }
  std::size_t known() { return port().report().translation->entries; }
};

}  // namespace causeway::vhost_user::testing
