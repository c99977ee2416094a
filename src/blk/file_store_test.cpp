#include "blk/file_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace causeway::blk {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kDisk = 1 << 20;

class FileStoreTest : public ::testing::TestWithParam<bool> {
 protected:
  FileStoreTest() {
    std::string name = "causeway-disk-XXXXXX";  // here, and not in /tmp, which may be a tmpfs without direct access
    const int raw = ::mkstemp(name.data());
    EXPECT_GE(raw, 0);
    const auto file = OwnedFd::adopt(raw);
    EXPECT_EQ(::ftruncate(raw, kDisk), 0);
    path_ = name;
  }
  ~FileStoreTest() override { std::filesystem::remove(path_); }

  FileStoreConfig config() const {
    return {.path = path_, .direct = GetParam(), .lock_patience = std::chrono::milliseconds(0)};
  }
  std::shared_ptr<FileStore> open() const {
    auto store = FileStore::open(config());
    EXPECT_TRUE(store) << store.error().text();
    return *store;
  }

  /// Carries out one operation; returns its error.
  static int run(Channel& channel, Operation& operation) {
    channel.submit(operation);
    while (!channel.flush()) {
    }
    Operation* done = channel.reap();
    while (done == nullptr) {
      channel.wait();
      done = channel.reap();
    }
    EXPECT_EQ(done, &operation);
    return operation.error;
  }
  static Operation transfer(Operation::Kind kind, std::uint64_t offset, std::vector<std::span<std::byte>> parts) {
    Operation operation{.kind = kind, .offset = offset, .length = 0, .data = {}};
    for (const auto part : parts) {
      operation.length += part.size();
      operation.data.push_back(memory::GuestSpan::over(part));
    }
    return operation;
  }

  std::filesystem::path path_;
};

TEST_P(FileStoreTest, ReadsWhatWasWrittenFromBuffersOfAnyAlignment) {
  const auto store = open();
  auto channel = *store->open_channel(8);
  std::vector<std::byte> memory(3 * 4096);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 7 >> 3);
  const std::span<std::byte> from(memory.data() + 3, 8192);
  auto write = transfer(Operation::Kind::write, 4096, {from.first(1000), from.subspan(1000)});
  EXPECT_EQ(run(*channel, write), 0);
  Operation flush{.kind = Operation::Kind::flush, .data = {}};
  EXPECT_EQ(run(*channel, flush), 0);
  std::vector<std::byte> back(8192 + 1);
  const std::span<std::byte> to(back.data() + 1, 8192);
  auto read = transfer(Operation::Kind::read, 4096, {to.first(5), to.subspan(5)});
  EXPECT_EQ(run(*channel, read), 0);
  EXPECT_TRUE(std::ranges::equal(to, from));
  std::ifstream file(path_, std::ios::binary);
  file.seekg(4096);
  std::string on_disk(8192, '\0');
  file.read(on_disk.data(), 8192);
  EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(on_disk)), from));
}

TEST_P(FileStoreTest, ManyOperationsAtOnceAllEnd) {
  const auto store = open();
  auto channel = *store->open_channel(64);
  std::vector<std::byte> memory(64 * 4096, std::byte{7});
  std::vector<Operation> operations;
  operations.reserve(64);
  for (std::size_t i = 0; i < 64; ++i) {
    operations.push_back(transfer(Operation::Kind::write, i * 4096, {std::span(memory).subspan(i * 4096, 4096)}));
    channel->submit(operations.back());
  }
  channel->flush();
  for (std::size_t ended = 0; ended < 64;) {
    if (channel->reap() != nullptr) {
      ++ended;
    } else {
      channel->wait();
    }
  }
  EXPECT_TRUE(std::ranges::all_of(operations, [](const Operation& operation) { return operation.error == 0; }));
}

TEST_P(FileStoreTest, ZeroesAndDiscards) {
  const auto store = open();
  auto channel = *store->open_channel(8);
  std::vector<std::byte> memory(65536, std::byte{0xff});
  auto write = transfer(Operation::Kind::write, 0, {memory});
  ASSERT_EQ(run(*channel, write), 0);
  for (const auto kind : {Operation::Kind::zero, Operation::Kind::unmap, Operation::Kind::discard}) {
    Operation change{.kind = kind, .offset = 16384U * static_cast<unsigned>(kind), .length = 4096, .data = {}};
    if (change.offset >= memory.size()) change.offset = 8192;
    ASSERT_EQ(run(*channel, change), 0);
    if (kind == Operation::Kind::discard) continue;
    auto read = transfer(Operation::Kind::read, change.offset, {std::span(memory).first(4096)});
    ASSERT_EQ(run(*channel, read), 0);
    EXPECT_TRUE(std::ranges::all_of(std::span(memory).first(4096), [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST_P(FileStoreTest, AFileCutShortIsAnError) {
  const auto store = open();
  auto channel = *store->open_channel(8);
  ASSERT_EQ(::truncate(path_.c_str(), 4096), 0);
  std::vector<std::byte> memory(8192);
  auto read = transfer(Operation::Kind::read, 0, {memory});
  EXPECT_EQ(run(*channel, read), EIO);
  EXPECT_EQ(store->bytes(), kDisk);
  ASSERT_TRUE(store->refresh());
  EXPECT_EQ(store->bytes(), 4096U);
}

TEST_P(FileStoreTest, IsUsedByOneProcessAtATime) {
  auto store = open();
  const auto second = FileStore::open(config());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::busy);
  EXPECT_THAT(second.error().text(), HasSubstr(path_.native()));
  // A successor goes on with the descriptor and its lock.
  auto inherited = FileStore::open(config(), *store->descriptor()->duplicate());
  ASSERT_TRUE(inherited);
  store.reset();
  EXPECT_FALSE(FileStore::open(config()));
  inherited->reset();
  EXPECT_TRUE(FileStore::open(config()));
}

TEST_P(FileStoreTest, WhatIsNoDiskIsRefused) {
  const auto directory = FileStore::open({.path = "/dev/null"});
  ASSERT_FALSE(directory);
  EXPECT_THAT(directory.error().text(), HasSubstr("/dev/null"));
  const auto missing = FileStore::open({.path = "no/such/file"});
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().text(), HasSubstr("no/such/file"));
}

INSTANTIATE_TEST_SUITE_P(Access, FileStoreTest, ::testing::Bool(), [](const ::testing::TestParamInfo<bool>& direct) {
  return direct.param ? "direct" : "cached";
});

}  // namespace
}  // namespace causeway::blk
