// Mappings of memory files, also of files that shrink under us.

#include "base/mapping.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <fstream>

namespace causeway {
namespace {

TEST(Mapping, BeginsAtTheOffsetAskedForAtAnyAlignment) {
  const auto file = make_memfd("unaligned", 3 * page_size());
  ASSERT_TRUE(file);
  const char text[] = "here";
  ASSERT_EQ(::pwrite(file->borrow(), text, sizeof text, static_cast<off_t>(page_size() + 123)),
            static_cast<ssize_t>(sizeof text));
  const auto mapping = Mapping::map(*file, page_size() + 123, page_size());
  ASSERT_TRUE(mapping) << mapping.error().text();
  EXPECT_EQ((*mapping)->size(), page_size());
  EXPECT_EQ((*mapping)->data()[0], std::byte{'h'});
}

TEST(Mapping, RefusesWhatIsNotInsideTheFile) {
  const auto file = make_memfd("short", page_size());
  ASSERT_TRUE(file);
  EXPECT_FALSE(Mapping::map(*file, 0, 0)) << "an empty range";
  EXPECT_FALSE(Mapping::map(*file, 0, page_size() + 1)) << "a range behind the end";
  EXPECT_FALSE(Mapping::map(*file, 2 * page_size(), 1)) << "an offset behind the end";
  EXPECT_FALSE(Mapping::map(*file, ~0ULL, 2)) << "a range that wraps";
  EXPECT_FALSE(Mapping::map(*file, 1, ~0ULL)) << "a huge range";
}

TEST(Mapping, OfATruncatedFileBecomesZerosAndTellsSo) {
  auto made = EventFd::make();
  ASSERT_TRUE(made);
  const auto event = std::make_shared<const EventFd>(std::move(*made));
  ASSERT_TRUE(survive_lost_mappings(event));
  const auto file = make_memfd("shrinks", 4 * page_size());
  const auto other_file = make_memfd("stays", page_size());
  ASSERT_TRUE(file && other_file);
  const auto mapping = Mapping::map(*file, 0, 4 * page_size());
  const auto other = Mapping::map(*other_file, 0, page_size());
  ASSERT_TRUE(mapping && other);
  auto* const data = (*mapping)->data();
  data[2 * page_size()] = std::byte{7};
  (*other)->data()[0] = std::byte{9};
  ASSERT_EQ(::ftruncate(file->borrow(), 0), 0);

  const volatile std::byte* const lost = data + 2 * page_size();
  const std::byte seen = *lost;
  EXPECT_EQ(seen, std::byte{0});
  EXPECT_TRUE((*mapping)->is_lost());
  EXPECT_FALSE((*other)->is_lost());
  EXPECT_EQ((*other)->data()[0], std::byte{9});
  EXPECT_TRUE(event->drain()) << "the control thread must hear of it";
  data[3 * page_size()] = std::byte{1};  // and writing goes nowhere, quietly
}

/// Reserves huge pages for as long as it lives. Needs root.
class HugePages {
 public:
  explicit HugePages(int wanted) {
    std::ifstream(kKnob) >> before_;
    std::ofstream(kKnob) << before_ + wanted;
  }
  ~HugePages() { std::ofstream(kKnob) << before_; }

 private:
  static constexpr const char* kKnob = "/proc/sys/vm/nr_hugepages";
  int before_ = 0;
};

TEST(Mapping, OfHugePagesIsWidenedToWholePages) {
  const HugePages reserved(2);
  const int raw = ::memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
  ASSERT_GE(raw, 0) << "this kernel has no huge pages";
  const auto file = OwnedFd::adopt(raw);
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  ASSERT_EQ(::ftruncate(raw, 2 * kHuge), 0);
  // A region that begins in the middle of one page and ends in the next, as a front-end may describe it.
  const auto mapping = Mapping::map(file, page_size() + 8, kHuge);
  ASSERT_TRUE(mapping) << mapping.error().text();
  (*mapping)->data()[0] = std::byte{5};
  (*mapping)->data()[kHuge - 1] = std::byte{6};
  const auto again = Mapping::map(file, kHuge, kHuge);
  ASSERT_TRUE(again);
  EXPECT_EQ((*again)->data()[page_size() + 8 - 1], std::byte{6});
}

}  // namespace
}  // namespace causeway
