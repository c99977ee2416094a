// What an IOMMU between driver and port costs, and what a log of written pages costs, without a VMM: packets and
// requests per second with over without. The driver, which is the owner of the IOMMU too, runs in this thread on
// processor 0, the Device on processor 1. All sides live at the same time and are measured in turn, the others at rest.
// "of best" compares the best few milliseconds of each side: on a machine that others use it repeats where medians do
// not.
#include "base/log.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "burst_load.h"

namespace {

using namespace causeway;
using namespace causeway::bench;

constexpr std::uint32_t kFrameCheck = 4;  // bytes that a size on the wire counts and a virtual frame does not have
constexpr std::uint32_t kRequest = 4096;

struct Options {
  int rounds = 7;
  double seconds = 0.15;
  bool is_logged = false;
  std::vector<std::string> what{"iommu", "log"};
  std::vector<std::string> layouts{"split", "packed"};
  std::vector<std::string> work{"transmit", "receive", "read", "write"};
  std::vector<std::string> mappings{"passthrough", "pushed", "asked", "asked-by-page"};
  std::vector<std::uint32_t> bursts{32, 256};
  std::vector<std::uint32_t> sizes{64, 1518};
};

const std::map<std::string, Work> kWork{
    {"transmit", Work::transmit}, {"receive", Work::receive}, {"read", Work::read}, {"write", Work::write}};
const std::map<std::string, Mappings> kMappings{{"passthrough", Mappings::passthrough},
                                                {"pushed", Mappings::pushed},
                                                {"asked", Mappings::asked},
                                                {"asked-by-page", Mappings::asked_by_page}};

void run_on(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::pthread_setaffinity_np(::pthread_self(), sizeof set, &set);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

struct Side {
  std::string name;
  BurstConfig config;
};

void print_title(const char* what, const char* sides) {
  fmt::print("\n{:<32}{:<15}{:>7}{:>8}{:>8}{:>9}{:>12}{:>12}\n", what, sides, "ratio", "least", "most", "of best",
             "none, M/s", "its best");
}

/// Prints a line for each side but the first: its rate over the first one's.
void compare(const std::string& title, const std::vector<Side>& sides, const Options& options) {
  std::vector<std::unique_ptr<BurstLoad>> loads;
  for (const Side& side : sides) loads.push_back(BurstLoad::make(side.config));
  std::vector<std::vector<double>> rates(sides.size());
  std::vector<double> best(sides.size());
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < sides.size(); ++i) {
      const std::size_t which = round % 2 == 0 ? i : sides.size() - 1 - i;
      const Rates measured = loads[which]->rate(options.seconds);
      rates[which].push_back(measured.mean);
      best[which] = std::max(best[which], measured.best);
    }
  }
  for (std::size_t i = 1; i < sides.size(); ++i) {
    std::vector<double> ratios;
    std::ranges::transform(rates[i], rates[0], std::back_inserter(ratios), std::divides());
    const auto [low, high] = std::ranges::minmax(ratios);
    fmt::print("{:<32}{:<15}{:>7.3f}{:>8.3f}{:>8.3f}{:>9.4f}{:>12.3f}{:>12.3f}\n", title, sides[i].name, median(ratios),
               low, high, best[i] / best[0], median(rates[0]) / 1e6, best[0] / 1e6);
  }
  std::fflush(stdout);
}

/// Calls `measure` with everything that is to be measured but for the sides' difference, and a title of it.
template <class Measure>
void for_each_load(const Options& options, Measure measure) {
  for (const std::string& work : options.work) {
    const Work kind = kWork.at(work);
    // A request's size is not a frame's.
    const std::vector<std::uint32_t> sizes = is_disk(kind) ? std::vector{kRequest} : options.sizes;
    for (const std::string& layout : options.layouts) {
      for (const std::uint32_t size : sizes) {
        for (const std::uint32_t burst : options.bursts) {
          const BurstConfig config{.work = kind,
                                   .packed = layout == "packed",
                                   .burst = burst,
                                   .bytes = is_disk(kind) ? size : size - kFrameCheck};
          measure(fmt::format("{}, {} {} in {}s", layout, work, size, burst), config);
        }
      }
    }
  }
}

void measure_iommu(const Options& options) {
  print_title("Behind an IOMMU, over none", "mappings");
  for_each_load(options, [&](const std::string& title, BurstConfig config) {
    config.logs = options.is_logged;
    std::vector<Side> sides{{.name = "none", .config = config}};
    for (const std::string& name : options.mappings) {
      config.mappings = kMappings.at(name);
      sides.push_back({.name = name, .config = config});
    }
    compare(title, sides, options);
  });
}

void measure_log(const Options& options) {
  print_title("With a log, over none", "");
  for_each_load(options, [&](const std::string& title, BurstConfig config) {
    std::vector<Side> sides{{.name = "", .config = config}};
    config.logs = true;
    sides.push_back({.name = "", .config = config});
    compare(title, sides, options);
  });
}

bool parse(int count, char** words, Options& options, int& code) {
  CLI::App app("What an IOMMU, and a log of written pages, cost a driver in this process");
  const auto some = [&](const char* name, std::vector<std::string>& which, const char* text) {
    const std::vector<std::string> all = which;
    app.add_option(name, which, text)->check(CLI::IsMember(all));
  };
  app.add_option("--rounds", options.rounds, "measurements of each side")->check(CLI::PositiveNumber);
  app.add_option("--seconds", options.seconds, "of each measurement")->check(CLI::PositiveNumber);
  app.add_flag("--logged", options.is_logged, "there is a log with and without an IOMMU");
  some("--what", options.what, "iommu, log");
  some("--layouts", options.layouts, "split, packed");
  some("--work", options.work, "transmit, receive, read, write");
  some("--mappings", options.mappings, "passthrough, pushed, asked, asked-by-page");
  app.add_option("--bursts", options.bursts, "packets or requests of a burst")->check(CLI::Range(1, 4096));
  app.add_option("--sizes", options.sizes, "bytes of a frame on the wire")->check(CLI::Range(64, 1518));
  try {
    app.parse(count, words);
  } catch (const CLI::ParseError& error) {
    code = app.exit(error);
    return false;
  }
  return true;
}

}  // namespace

int main(int count, char** words) {
  Options options;
  int code = 0;
  if (!parse(count, words, options, code)) return code;
  log::start("warn");
  run_on(0);
  fmt::print("A driver that maps and unmaps by bursts, in the port's process: medians of {} rounds\n", options.rounds);
  try {
    for (const std::string& what : options.what) (what == "iommu" ? measure_iommu : measure_log)(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
