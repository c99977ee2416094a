// blk_check: proves, from inside a guest, that a disk loses no write that it has acknowledged.
//
//   blk_check soak DEVICE THREADS BLOCKS SECONDS [STOP]
//                                                   writes and reads, for so long or until there is a file STOP, then
//                                                   verifies; reports what it saw
//   blk_check verify DEVICE THREADS BLOCKS ROUND... every block is whole, and at least as new as its thread's round
//
// Each thread owns the blocks of 4 KiB whose number is its own modulo THREADS, so that it knows what every one must
// hold. A block carries its number, the round of its last write and a checksum over all of it. A round writes each of
// the thread's blocks in an order of its own, reads some back in between, and ends with a flush; then the round is
// printed to the console, which outlives this guest. Access is direct: no page cache of the guest stands in between.
#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kBlock = 4096;
constexpr std::chrono::milliseconds kLook{50};  // between looks for the file that ends it

struct Contents {
  std::uint64_t block;
  std::uint64_t round;
  std::uint64_t checksum;
  std::array<std::uint64_t, kBlock / 8 - 3> filling;

  std::uint64_t sum() const {
    std::uint64_t hash = block * 0x9e3779b97f4a7c15U ^ round;
    for (const std::uint64_t word : filling) hash = (hash ^ word) * 0x100000001b3U;
    return hash;
  }
};
static_assert(sizeof(Contents) == kBlock);

/// One aligned block, as direct access needs.
class Buffer {
 public:
  Buffer() : memory_(static_cast<Contents*>(std::aligned_alloc(kBlock, kBlock)), &std::free) {}
  Contents& contents() const { return *memory_; }

 private:
  std::unique_ptr<Contents, decltype(&std::free)> memory_;
};

/// The round of a block that this run has not written: it holds what was there before.
constexpr std::uint64_t kUnknown = ~0ULL;

/// What all threads share.
struct Run {
  int fd = -1;
  std::uint64_t threads = 1;
  std::uint64_t blocks = 0;
  std::atomic<bool> is_over{false};
  std::atomic<std::uint64_t> writes{0};
  std::atomic<std::uint64_t> reads{0};
  std::atomic<std::uint64_t> flushes{0};
  std::atomic<std::uint64_t> errors{0};
  std::atomic<std::int64_t> longest_us{0};
};

void complain(Run& run, const std::string& what) {
  ++run.errors;
  fmt::print("{}\n", what);
  std::fflush(stdout);
}

/// Remembers the longest time that a request has taken.
class Stopwatch {
 public:
  explicit Stopwatch(Run& run) : run_(run) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    const std::int64_t took = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - start_).count();
    std::int64_t longest = run_.longest_us;
    while (took > longest && !run_.longest_us.compare_exchange_weak(longest, took)) {
    }
  }

 private:
  Run& run_;
  Clock::time_point start_ = Clock::now();
};

void write_block(Run& run, const Buffer& buffer, std::uint64_t block, std::uint64_t round) {
  Contents& contents = buffer.contents();
  contents.block = block;
  contents.round = round;
  for (std::size_t i = 0; i < contents.filling.size(); ++i) contents.filling[i] = block * 31 + round * 7 + i;
  contents.checksum = contents.sum();
  const Stopwatch watch(run);
  const ssize_t done = ::pwrite(run.fd, &contents, kBlock, static_cast<off_t>(block * kBlock));
  if (done != static_cast<ssize_t>(kBlock)) {
    complain(run, fmt::format("write of block {}: {}", block, done < 0 ? std::strerror(errno) : "short"));
  }
  ++run.writes;
}

/// Checks that a block is whole and of a round between `least` and `most`.
void check_block(Run& run, const Buffer& buffer, std::uint64_t block, std::uint64_t least, std::uint64_t most) {
  Contents& contents = buffer.contents();
  ssize_t done = 0;
  {
    const Stopwatch watch(run);
    done = ::pread(run.fd, &contents, kBlock, static_cast<off_t>(block * kBlock));
  }
  ++run.reads;
  if (done != static_cast<ssize_t>(kBlock)) {
    return complain(run, fmt::format("read of block {}: {}", block, done < 0 ? std::strerror(errno) : "short"));
  }
  if (contents.round == 0 && least == 0) return;  // never written
  if (contents.checksum != contents.sum()) return complain(run, fmt::format("block {} is torn", block));
  if (contents.block == block && contents.round >= least && contents.round <= most) return;
  complain(run, fmt::format("block {} holds block {} of round {}, expected round {} to {}", block, contents.block,
                            contents.round, least, most));
}

/// Writes and checks until the run is over; returns how far it got, for the last look.
void soak(Run& run, std::uint64_t thread, std::vector<std::uint64_t>& rounds_of_blocks) {
  const Buffer buffer;
  const std::uint64_t own = run.blocks / run.threads;
  rounds_of_blocks.assign(own, kUnknown);
  const auto block_of = [&](std::uint64_t i) { return i * run.threads + thread; };
  for (std::uint64_t round = 1; !run.is_over && run.errors == 0; ++round) {
    for (std::uint64_t step = 0; step < own && !run.is_over; ++step) {
      const std::uint64_t i = (step * 7919 + round * 13) % own;
      write_block(run, buffer, block_of(i), round);
      rounds_of_blocks[i] = round;
      const std::uint64_t other = (step * 104729 + round) % own;
      const bool is_known = rounds_of_blocks[other] != kUnknown;
      if (step % 4 == 0 && is_known)
        check_block(run, buffer, block_of(other), rounds_of_blocks[other], rounds_of_blocks[other]);
    }
    const bool whole = std::ranges::all_of(rounds_of_blocks, [round](std::uint64_t last) { return last == round; });
    const Stopwatch watch(run);
    if (::fdatasync(run.fd) != 0) complain(run, fmt::format("flush: {}", std::strerror(errno)));
    ++run.flushes;
    if (!whole) break;
    if (std::FILE* const console = std::fopen("/dev/console", "w")) {
      fmt::print(console, "flushed {} {}\n", thread, round);
      std::fclose(console);
    }
  }
}

void verify(Run& run, const std::vector<std::vector<std::uint64_t>>& rounds) {
  const Buffer buffer;
  for (std::uint64_t thread = 0; thread < run.threads; ++thread) {
    for (std::uint64_t i = 0; i < rounds[thread].size(); ++i) {
      if (rounds[thread][i] == kUnknown) continue;
      check_block(run, buffer, i * run.threads + thread, rounds[thread][i], rounds[thread][i]);
    }
  }
}

int report(const Run& run) {
  fmt::print("{{\"writes\": {}, \"reads\": {}, \"flushes\": {}, \"errors\": {}, \"longest_ms\": {}}}\n",
             run.writes.load(), run.reads.load(), run.flushes.load(), run.errors.load(), run.longest_us.load() / 1000);
  return run.errors == 0 ? 0 : 1;
}

int run_soak(Run& run, int seconds, const std::string& stop) {
  const auto end = Clock::now() + std::chrono::seconds(seconds);
  std::vector<std::vector<std::uint64_t>> rounds(run.threads);
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t i = 0; i < run.threads; ++i) {
      threads.emplace_back([&run, &rounds, i] { soak(run, i, rounds[i]); });
    }
    while (Clock::now() < end && run.errors == 0 && (stop.empty() || !std::filesystem::exists(stop))) {
      std::this_thread::sleep_for(kLook);
    }
    run.is_over = true;
  }
  verify(run, rounds);
  return report(run);
}

int run_verify(Run& run, const std::vector<std::uint64_t>& least) {
  const Buffer buffer;
  for (std::uint64_t block = 0; block < run.blocks / run.threads * run.threads; ++block) {
    const std::uint64_t round = least[block % run.threads];
    check_block(run, buffer, block, round, round + 1);
  }
  return report(run);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const bool is_soak = (words.size() == 5 || words.size() == 6) && words[0] == "soak";
  const bool is_verify = words.size() > 4 && words[0] == "verify" && words.size() == 4 + std::stoul(words[2]);
  if (!is_soak && !is_verify) {
    fmt::print(stderr,
               "usage: blk_check soak DEVICE THREADS BLOCKS SECONDS [STOP] | verify DEVICE THREADS BLOCKS ROUND...\n");
    return 2;
  }
  Run run;
  run.fd = ::open(words[1].c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (run.fd < 0) {
    fmt::print(stderr, "blk_check: {}: {}\n", words[1], std::strerror(errno));
    return 2;
  }
  run.threads = std::stoul(words[2]);
  run.blocks = std::stoul(words[3]);
  if (is_soak) return run_soak(run, std::stoi(words[4]), words.size() == 6 ? words[5] : "");
  std::vector<std::uint64_t> rounds;
  for (std::size_t i = 4; i < words.size(); ++i) rounds.push_back(std::stoul(words[i]));
  return run_verify(run, rounds);
}
