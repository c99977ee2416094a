// Our client against our server: what one says the other understands.
#include "vfio_user/client.h"
#include "vfio_user/fake_function_fixture.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <vector>

namespace causeway::vfio_user::testing {
namespace {

using vfio::RegionIndex;

struct ClientServer : ::testing::Test {
  ClientServer() : client(value_or_die(Client::make_on(loop, {.path = "test"}, std::move(*server.client)))) {}

  static memory::Region region(std::uint64_t iova, std::uint64_t size) {
    return value_or_die(memory::Region::map(memory::Iova(iova), memory::FrontendVa(iova), size,
                                            value_or_die(make_memfd("guest", size)), 0));
  }

  Loop loop;
  ServerThread server;
  std::unique_ptr<Client> client;
};

TEST_F(ClientServer, LearnsWhatTheFunctionIs) {
  const auto& info = client->info();
  EXPECT_EQ(info.vectors, 4u);
  EXPECT_TRUE(info.can_reset);
  EXPECT_EQ(info.region(RegionIndex::bar0).size, 256u);
  EXPECT_TRUE(info.region(RegionIndex::bar0).mappable.empty());
  EXPECT_EQ(info.region(RegionIndex::bar1).size, 0u);
  EXPECT_EQ(info.region(RegionIndex::bar2).mappable.size(), 2u);
}

TEST_F(ClientServer, ReadsAndWritesRegisters) {
  const std::array<std::byte, 4> value{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  ASSERT_TRUE(client->write(RegionIndex::bar0, 252, value));
  std::array<std::byte, 4> back{};
  ASSERT_TRUE(client->read(RegionIndex::bar0, 252, back));
  EXPECT_EQ(back, value);
}

vfio::Access access_to(std::uint64_t offset, std::optional<std::uint8_t> written = std::nullopt) {
  return {.region = RegionIndex::bar0,
          .offset = offset,
          .is_write = written.has_value(),
          .size = 1,
          .value = {std::byte{written.value_or(0)}}};
}

TEST_F(ClientServer, DoesManyAccessesInTheirOrder) {
  std::vector<vfio::Access> accesses;
  for (std::uint8_t i = 0; i < 100; ++i) {
    accesses.push_back(access_to(7, i));
    accesses.push_back(access_to(7));
  }
  ASSERT_TRUE(client->access(accesses));
  for (std::size_t i = 0; i < 100; ++i) ASSERT_EQ(accesses[2 * i + 1].value[0], std::byte(i));
  EXPECT_TRUE(client->access({}));
}

TEST_F(ClientServer, OneAccessThatIsRefusedLeavesTheConnectionInOrder) {
  std::array accesses{access_to(7, 1), access_to(0), access_to(7, 2), access_to(7)};
  accesses[1].region = RegionIndex::bar2;  // the server alone knows that nothing can be read there
  EXPECT_EQ(client->access(accesses).error().sys_errno, EINVAL);
  EXPECT_EQ(accesses[3].value[0], std::byte{2});
  accesses[1] = access_to(256);
  accesses[0].value[0] = std::byte{9};
  EXPECT_EQ(client->access(accesses).error().code, Errc::invalid_value);
  std::array<std::byte, 1> now{};
  ASSERT_TRUE(client->read(RegionIndex::bar0, 7, now));
  EXPECT_EQ(now[0], std::byte{2}) << "none of those is done of which one is not in its region";
}

TEST_F(ClientServer, AccessesOfAServerThatHasLeftFail) {
  server.disconnect();
  std::array accesses{access_to(7, 1), access_to(7)};
  EXPECT_EQ(client->access(accesses).error().code, Errc::gone);
  EXPECT_EQ(client->access(accesses).error().code, Errc::gone);
}

TEST_F(ClientServer, RefusesWhatIsOutsideARegion) {
  std::array<std::byte, 4> bytes{};
  EXPECT_EQ(client->read(RegionIndex::bar0, 253, bytes).error().code, Errc::invalid_value);
  EXPECT_EQ(client->read(RegionIndex::bar1, 0, bytes).error().code, Errc::invalid_value);
  // What the server alone knows it refuses by itself, and the connection goes on.
  EXPECT_EQ(client->read(RegionIndex::bar2, 0, bytes).error().sys_errno, EINVAL);
  EXPECT_TRUE(client->read(RegionIndex::bar0, 0, bytes));
}

TEST_F(ClientServer, MapsPagesThatMayBeMapped) {
  EXPECT_FALSE(client->file_of(RegionIndex::bar2, {0, page_size()}));
  EXPECT_FALSE(client->file_of(RegionIndex::bar2, {page_size(), 2 * page_size()}));
  const auto file = client->file_of(RegionIndex::bar2, {2 * page_size(), page_size()});
  ASSERT_TRUE(file);
  EXPECT_EQ(file->offset, 2 * page_size());
  EXPECT_EQ(value_or_die(identify(file->fd)), value_or_die(identify(server.function.pages)));
}

TEST_F(ClientServer, LendsMemoryAndTakesItBack) {
  const auto first = region(0x10000, 0x4000);
  ASSERT_TRUE(client->dma_map(first));
  EXPECT_FALSE(client->dma_map(region(0x12000, 0x4000))) << "they overlap";
  server.look([&] {
    const auto& known = server.function.maps.at(0x10000);
    EXPECT_EQ(known.size, 0x4000u);
    EXPECT_EQ(known.identity, first.identity);
    return true;
  });
  EXPECT_EQ(client->dma_unmap(region(0x20000, 0x1000)).error().code, Errc::not_found);
  ASSERT_TRUE(client->dma_unmap(first));
  EXPECT_TRUE(server.look([&] { return server.function.maps.empty(); }));
}

TEST_F(ClientServer, InterruptsReachTheClientsEventfds) {
  const auto event = value_or_die(EventFd::make());
  EXPECT_FALSE(client->set_vector(1, &event.fd())) << "MSI-X is not enabled";
  EXPECT_FALSE(client->enable_vectors(5));
  ASSERT_TRUE(client->enable_vectors(2));
  ASSERT_TRUE(client->set_vector(1, &event.fd()));
  server.look([&] {
    server.function.vectors.at(1)->signal();
    EXPECT_FALSE(server.function.vectors.at(0));
    return true;
  });
  EXPECT_TRUE(event.drain());
  ASSERT_TRUE(client->set_vector(1, nullptr));
  EXPECT_FALSE(server.look([&] { return server.function.vectors.at(1).has_value(); }));
  ASSERT_TRUE(client->enable_vectors(0));
  EXPECT_TRUE(server.look([&] { return server.function.vectors.empty(); }));
}

TEST_F(ClientServer, ResetsTheFunction) {
  ASSERT_TRUE(client->enable_vectors(2));
  ASSERT_TRUE(client->reset());
  EXPECT_EQ(server.look([&] { return server.function.resets; }), 1);
  const auto event = value_or_die(EventFd::make());
  EXPECT_FALSE(client->set_vector(0, &event.fd()));
}

TEST_F(ClientServer, AClientThatLeavesTakesEverythingAlong) {
  ASSERT_TRUE(client->dma_map(region(0x10000, 0x4000)));
  ASSERT_TRUE(client->enable_vectors(2));
  client.reset();
  const auto is_clean = [&] {
    return server.ended && server.function.maps.empty() && server.function.vectors.empty() &&
           server.function.resets == 1;
  };
  while (!server.look(is_clean)) std::this_thread::yield();
}

TEST_F(ClientServer, AServerThatLeavesIsTold) {
  struct Observer final : vfio::BusObserver {
    void bus_gone(Error why) override { reason = std::move(why); }
    std::optional<Error> reason;
  } observer;
  client->set_observer(&observer);
  server.disconnect();
  while (!observer.reason) loop.run_ready();
  EXPECT_EQ(observer.reason->code, Errc::gone);
  EXPECT_EQ(client->reset().error().code, Errc::gone);
  EXPECT_FALSE(client->file_of(RegionIndex::bar2, {page_size(), page_size()}));
}

TEST_F(ClientServer, AServerThatLeavesDuringARequestIsToldLater) {
  struct Observer final : vfio::BusObserver {
    void bus_gone(Error /*why*/) override { ++times; }
    int times = 0;
  } observer;
  client->set_observer(&observer);
  server.disconnect();
  EXPECT_EQ(client->reset().error().code, Errc::gone);
  EXPECT_EQ(observer.times, 0);
  while (observer.times == 0) loop.run_ready();
  while (loop.run_ready()) {
  }
  EXPECT_EQ(observer.times, 1);
}

}  // namespace
}  // namespace causeway::vfio_user::testing
