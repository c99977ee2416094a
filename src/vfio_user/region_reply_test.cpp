// What is said of a region is what is understood; and replies of servers that contradict themselves.
#include "vfio_user/region_reply.h"

#include "base/mapping.h"
#include "vfio_user/fake_function_fixture.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace causeway::vfio_user::testing {
namespace {

constexpr std::uint32_t kRoom = 4096;

struct RegionReplyTest : ::testing::Test {
  Message reply(Bytes body, std::size_t fds = 1) {
    Message message{.header = {}, .body = std::move(body), .fds = {}};
    for (std::size_t i = 0; i < fds; ++i) message.fds.push_back(value_or_die(file.duplicate()));
    return message;
  }
  static wire::RegionInfo head(std::uint32_t flags, std::uint32_t cap_offset = 0) {
    return {.argsz = kRoom, .flags = flags, .index = 2, .cap_offset = cap_offset, .size = 4 * page_size(), .offset = 0};
  }
  template <class... T>
  static Bytes body(const T&... values) {
    Bytes bytes;
    (append(bytes, values), ...);
    return bytes;
  }
  /// Nothing: it is good.
  std::optional<Errc> error_of(Bytes bytes, std::size_t fds = 1) {
    const auto decoded = decode_region(reply(std::move(bytes), fds));
    return decoded ? std::nullopt : std::optional(decoded.error().code);
  }

  OwnedFd file = value_or_die(make_memfd("region", 4096));
  static constexpr std::uint32_t kMapped = wire::kRegionRead | wire::kRegionMmap | wire::kRegionCaps;
};

TEST_F(RegionReplyTest, WhatIsSaidIsUnderstood) {
  const std::uint64_t page = page_size();
  for (const std::vector<vfio::Area>& areas :
       {std::vector<vfio::Area>{}, {{0, page}}, {{page, page}, {3 * page, page}}, {{0, 4 * page}}}) {
    const RegionReply said{.info = {.size = 4 * page, .readable = true, .writable = areas.empty(), .mappable = areas},
                           .file_offset = 2 * page};
    const auto understood = value_or_die(decode_region(reply(encode_region(vfio::RegionIndex::bar2, said, kRoom))));
    EXPECT_EQ(understood.info.size, said.info.size);
    EXPECT_TRUE(understood.info.readable);
    EXPECT_EQ(understood.info.writable, said.info.writable);
    EXPECT_EQ(understood.info.mappable, areas);
    EXPECT_EQ(understood.file_offset, said.file_offset);
  }
}

TEST_F(RegionReplyTest, AreasThatDidNotFitAreNotTakenForTheWholeRegion) {
  const RegionReply said{.info = {.size = 4 * page_size(),
                                  .readable = true,
                                  .writable = true,
                                  .mappable = {{.offset = page_size(), .size = page_size()}}},
                         .file_offset = 0};
  const Bytes cut = encode_region(vfio::RegionIndex::bar2, said, sizeof(wire::RegionInfo));
  EXPECT_EQ(cut.size(), sizeof(wire::RegionInfo));
  EXPECT_TRUE(value_or_die(decode_region(reply(cut))).info.mappable.empty());
}

TEST_F(RegionReplyTest, NothingSaidIsTheWholeRegionInWholePages) {
  auto said = head(wire::kRegionMmap);
  said.size = 2 * page_size() + 100;
  const std::vector<vfio::Area> whole{{.offset = 0, .size = 2 * page_size()}};
  EXPECT_EQ(value_or_die(decode_region(reply(body(said)))).info.mappable, whole);
  said.flags = 0;
  EXPECT_TRUE(value_or_die(decode_region(reply(body(said)))).info.mappable.empty());
  said.flags = wire::kRegionMmap;
  EXPECT_TRUE(value_or_die(decode_region(reply(body(said), 0))).info.mappable.empty()) << "there is no descriptor";
}

TEST_F(RegionReplyTest, OtherCapabilitiesAreSkipped) {
  const auto said =
      body(head(kMapped, 32), wire::CapHeader{.id = 7, .version = 1, .next = 48}, std::uint64_t{0},
           wire::CapHeader{.id = wire::kCapSparseMmap, .version = 1, .next = 0},
           wire::SparseMmap{.areas = 1, .reserved = 0}, wire::SparseArea{.offset = page_size(), .size = page_size()});
  const std::vector<vfio::Area> areas{{.offset = page_size(), .size = page_size()}};
  EXPECT_EQ(value_or_die(decode_region(reply(said))).info.mappable, areas);
}

TEST_F(RegionReplyTest, BrokenChainsAreRefused) {
  const auto cap = [](std::uint16_t id, std::uint32_t next) {
    return wire::CapHeader{.id = id, .version = 1, .next = next};
  };
  const wire::SparseMmap one{.areas = 1, .reserved = 0};
  const auto sparse = [&](std::uint64_t offset, std::uint64_t size) {
    return body(head(kMapped, 32), cap(wire::kCapSparseMmap, 0), one, wire::SparseArea{.offset = offset, .size = size});
  };
  EXPECT_EQ(error_of(Bytes(31)), Errc::peer_violation) << "no whole structure";
  EXPECT_EQ(error_of(body(head(kMapped, 32))), Errc::peer_violation) << "no capability there";
  EXPECT_EQ(error_of(body(head(kMapped, ~0U))), Errc::peer_violation);
  EXPECT_EQ(error_of(body(head(kMapped, 32), cap(7, 32))), Errc::peer_violation) << "a circle";
  EXPECT_EQ(error_of(body(head(kMapped, 32), cap(7, 8))), Errc::peer_violation) << "backward";
  EXPECT_EQ(error_of(body(head(kMapped, 32), cap(7, 40))), Errc::peer_violation) << "behind the end";
  EXPECT_EQ(error_of(body(head(kMapped, 32), cap(wire::kCapSparseMmap, 0))), Errc::peer_violation);
  EXPECT_EQ(error_of(body(head(kMapped, 32), cap(wire::kCapSparseMmap, 0), one)), Errc::peer_violation);
  EXPECT_EQ(error_of(sparse(4 * page_size(), page_size())), Errc::peer_violation) << "outside the region";
  EXPECT_EQ(error_of(sparse(~0ULL, 2)), Errc::peer_violation) << "it wraps";
  EXPECT_EQ(error_of(sparse(0, page_size())), std::nullopt);
  EXPECT_TRUE(value_or_die(decode_region(reply(sparse(100, page_size())))).info.mappable.empty()) << "no whole page";
}

TEST_F(RegionReplyTest, DescriptorsAndTheirOffsetsMustMakeSense) {
  auto said = head(wire::kRegionMmap);
  EXPECT_EQ(error_of(body(said), 2), Errc::peer_violation);
  said.offset = 100;
  EXPECT_EQ(error_of(body(said)), Errc::peer_violation);
  said.offset = ~0ULL - page_size() + 1;
  EXPECT_EQ(error_of(body(said)), Errc::peer_violation) << "the region wraps in its file";
}

}  // namespace
}  // namespace causeway::vfio_user::testing
