#!/usr/bin/env python3
"""How long a disk's driver waits while the daemon is killed and started again, and while another process takes over.

bench/load_blk.cpp keeps 32 random writes of 4 KiB under way, on processor 0, and tells when none was completed for a
while; the daemon's worker is on processor 1, its image on a tmpfs. At the end the driver has had each of its requests
completed once, with success, and has read back all that it wrote."""

import argparse
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from sides import ROOT  # noqa: F401 first: it makes the harness known

from harness.daemon import Causewayd, DiskPort, program_folder
from harness.process import ProgramFailed, tail, wait_for

LEAST_US = 100  # shorter gaps are not told
IMAGE_BYTES = 64 << 20
KILL_GOAL_MS, UPGRADE_GOAL_MS = 50, 10
MEMORY = Path("/dev/shm")  # state directories are on a tmpfs too, as /run is


class Driver:
    """bench/load_blk.cpp, which listens and writes without end."""

    def __init__(self, folder, socket):
        self.gaps = []  # (begin, end) on CLOCK_MONOTONIC in nanoseconds, in their order
        self.name, self._log = "load_blk", folder / "load_blk.log"
        self._ready, self._last = threading.Event(), []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program_folder() / "load_blk", socket, "0", "--gaps", str(LEAST_US)],
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            words = line.split()
            if words[0] == "GAP":
                self.gaps.append((int(words[1]), int(words[2])))
            elif words[0] == "ready":
                self._ready.set()
            else:
                self._last = words

    @property
    def exit_code(self):
        return self._process.poll()

    def is_running(self):
        return self.exit_code is None

    def log_tail(self):
        return tail(self._log)

    def await_ready(self):
        wait_for(self._ready.is_set, 20, "the driver has found the daemon", self)

    def await_completion(self, after):
        """Waits until something is completed that was not at that moment."""
        wait_for(lambda: self.gaps and self.gaps[-1][1] > after, 30, "a request is completed", self)

    def longest_gap(self, begin, end):
        """The longest of those that lie in the time from begin to end, or reach into it."""
        there = (gap for gap in self.gaps if gap[0] < end and gap[1] > begin)
        return max(there, key=lambda gap: gap[1] - gap[0], default=(0, 0))

    def finish(self):
        """Ends it; returns how many writes there were, and how many blocks it has read back."""
        self._process.stdin.close()
        self._process.wait(60)
        self._reader.join()
        if self.exit_code != 0 or not self._last:
            raise ProgramFailed(f"the driver says that something went wrong\n{self.log_tail()}")
        return map(int, self._last[1:])

    def kill(self):
        self._process.kill()
        self._process.wait()


class Bench:
    """A daemon and a driver on its disk."""

    def __init__(self, folder, polling):
        self.random = random.Random(1)
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        socket = folder / "disk0.sock"
        self.daemon = Causewayd(folder, [DiskPort("disk0", socket, f"file:{image}", role="client")], polling, cpu=1)
        self.driver = Driver(folder, socket)

    def __enter__(self):
        self.daemon.start()
        self.driver.await_ready()
        time.sleep(1)
        return self

    def __exit__(self, *_):
        self.driver.kill()
        self.daemon.kill()

    def wait_a_little(self):
        time.sleep(self.random.uniform(0.3, 0.6))

    def log_time(self, text=""):
        """When the newest process has first said that, on CLOCK_MONOTONIC in nanoseconds, to a millisecond."""
        offset = time.time_ns() - time.monotonic_ns()
        program = self.daemon.program
        found = wait_for(lambda: next((each for each in program.log.read_text().rpartition("\n$ ")[2].splitlines()[1:]
                                       if text in each), None), 30, f"the daemon says '{text}'", program)
        return int(datetime.fromisoformat(found.split()[0]).timestamp() * 1e9) - offset

    def crash(self):
        """Milliseconds from SIGKILL to exec of the next process, first log line, connection, first completion."""
        killed = time.monotonic_ns()
        self.daemon.program.kill()
        self.daemon.program.start()
        started = time.monotonic_ns()
        spoke, connected = self.log_time(), self.log_time("front-end connected")
        self.driver.await_completion(connected)
        # Not any later one: on a busy machine other programs make gaps that are as long.
        first = self.driver.longest_gap(killed, connected)[1]
        self.wait_a_little()
        return [(moment - killed) / 1e6 for moment in (started, spoke, connected, first)]

    def upgrade(self):
        """Milliseconds: the longest gap meanwhile, the daemon's figure, the longest gap in as long a time before."""
        self.wait_a_little()
        begin = time.monotonic_ns()
        pause = self.daemon.upgrade() / 1e3
        end = time.monotonic_ns()
        time.sleep(0.1)
        gaps = (self.driver.longest_gap(begin, end), self.driver.longest_gap(2 * begin - end, begin))
        seen, before = ((gap[1] - gap[0]) / 1e6 for gap in gaps)
        return seen, pause, before


def percentile(values, which):
    """The value that so many in a hundred do not exceed."""
    return sorted(values)[math.ceil(which / 100 * len(values)) - 1]


def line(name, values, goal=None):
    """Prints one line of a table of milliseconds."""
    p99 = percentile(values, 99)
    verdict = "" if goal is None else f"{goal:>8}  {'met' if p99 <= goal else f'missed by {p99 - goal:.1f} ms'}"
    print(f"{name:<54}{statistics.median(values):>8.2f}{p99:>8.2f}{max(values):>8.2f}{verdict}", flush=True)


def title(text):
    print(f"\n{f'{text}, ms':<54}{'median':>8}{'p99':>8}{'max':>8}{'goal':>8}")


def kills(bench, count, polling):
    started, spoke, connected, first = zip(*(bench.crash() for _ in range(count)))
    title(f"{count} x SIGKILL, worker: {polling}")
    line("from SIGKILL to the first completion after it", first)
    line("  the supervisor's part: until it has started another", started)
    ours = [end - begin for begin, end in zip(started, first)]
    line("  ours: from there to the first completion", ours, KILL_GOAL_MS)
    line("    until its first log line", [end - begin for begin, end in zip(started, spoke)])
    line("    from there until it is connected", [end - begin for begin, end in zip(spoke, connected)])
    line("    from there to the first completion", [end - begin for begin, end in zip(connected, first)])


def upgrades(bench, count, polling):
    seen, pauses, before = zip(*(bench.upgrade() for _ in range(count)))
    title(f"{count} upgrades, worker: {polling}")
    line("the longest gap that the driver has seen", seen, UPGRADE_GOAL_MS)
    line("no queue ran, as the daemon says", pauses)
    line("the longest gap in as long a time without an upgrade", before)


def measure(work, count, polling):
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="cw-") as name, Bench(Path(name), polling) as bench:
        work(bench, count, polling)
        writes, blocks = bench.driver.finish()
        again = sum(map(int, re.findall(r"runs (\d+) requests again", bench.daemon.program.log.read_text())))
        print(f"{writes} writes, each completed once, with success; {blocks} blocks read back;"
              f" {again} requests run again", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--upgrades", type=int, default=100)
    parser.add_argument("--polling", nargs="*", choices=("poll", "adaptive"), default=["poll", "adaptive"])
    options = parser.parse_args()
    print("The gap that a disk's driver sees, 32 random writes of 4 KiB at a time")
    for polling in options.polling:
        for work, count in ((kills, options.kills), (upgrades, options.upgrades)):
            if count:
                measure(work, count, polling)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:  # of the harness
        sys.exit(f"gaps: {error}")
