#include "cli/pcap_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pcap/pcap.h>

#include <filesystem>
#include <fstream>

#include "support/temporary_directory.h"

namespace causeway::cli {
namespace {

using ::testing::HasSubstr;

struct PcapFile : ::testing::Test {
  std::string path(const char* name) const { return (folder.path() / name).string(); }
  std::string refusal(const std::string& file) {
    const auto frames = read_frames(file);
    return frames ? "it was not refused" : frames.error().text();
  }
  testing::TemporaryDirectory folder;
};

TEST_F(PcapFile, IsReadAsItWasWritten) {
  const std::string first(60, 'a'), second(1514, 'b');
  auto writer = PcapWriter::create(path("two"));
  ASSERT_TRUE(writer) << writer.error().text();
  (*writer)->write(1'700'000'000'123'456'789, 60, first);
  (*writer)->write(1'700'000'001'000'000'000, 1514, second);
  ASSERT_TRUE((*writer)->flush());
  const auto frames = read_frames(path("two"));
  ASSERT_TRUE(frames) << frames.error().text();
  EXPECT_EQ(*frames, (std::vector{first, second}));
}

TEST_F(PcapFile, OfAnotherKindIsRefusedWithTheReason) {
  EXPECT_THAT(refusal(path("none")), HasSubstr("No such file"));
  std::ofstream(path("text")) << "this is no capture at all, but a text";
  EXPECT_THAT(refusal(path("text")), HasSubstr("text: "));
  ASSERT_TRUE(PcapWriter::create(path("empty")));
  EXPECT_THAT(refusal(path("empty")), HasSubstr("it holds no frames"));
  pcap_t* const wireless = pcap_open_dead(DLT_IEEE802_11, 100);
  pcap_dump_close(pcap_dump_open(wireless, path("wireless").c_str()));
  pcap_close(wireless);
  EXPECT_THAT(refusal(path("wireless")), HasSubstr("link type IEEE802_11; expected EN10MB"));
}

TEST_F(PcapFile, WithACutFrameIsRefused) {
  auto writer = PcapWriter::create(path("cut"));
  ASSERT_TRUE(writer);
  (*writer)->write(0, 60, std::string(60, 'a'));
  (*writer)->write(0, 1514, std::string(96, 'b'));
  ASSERT_TRUE((*writer)->flush());
  EXPECT_THAT(refusal(path("cut")), HasSubstr("of frame 2, 96 bytes of 1514"));
  // A file that was cut itself.
  std::filesystem::resize_file(path("cut"), 24 + 16 + 60 + 16 + 10);
  EXPECT_THAT(refusal(path("cut")), HasSubstr("behind frame 1: "));
}

TEST_F(PcapFile, ThatCannotBeMadeIsAnError) {
  EXPECT_FALSE(PcapWriter::create(path("no/such/folder")));
}

}  // namespace
}  // namespace causeway::cli
