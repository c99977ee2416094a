#!/usr/bin/env python3
"""Our disk against qemu-storage-daemon's vhost-user-blk export, by the same driver side, in alternating pairs.

Back-ends run on processor 1, the driver on processor 0. On the same raw file both use io_uring and direct access; then
our disk in memory against its null-co, which moves no data at all. Prints medians, the ratio of the medians of each pair
with its spread, and the back-end's processor time for a request."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from sides import ROOT  # first: it makes the harness known

from harness.daemon import Causewayd, DiskPort, program_folder
from harness.process import Program, find_program, wait_for

MIB = 1 << 20
FILE_MIB = 1024
ENTRIES = [("read", 4096, 1), ("read", 4096, 32), ("read", 4096, 128), ("write", 4096, 1), ("write", 4096, 32),
           ("write", 4096, 128), ("next-read", 131072, 8), ("next-write", 131072, 8)]


class Driver:
    """bench/load_blk.cpp."""

    def __init__(self, socket):
        self._process = subprocess.Popen([program_folder() / "load_blk", socket, "0"], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline().strip() != "ready":
            sys.exit("against_qsd: the driver does not start")

    def run(self, operation, size, depth, seconds):
        """Requests per second."""
        self._process.stdin.write(f"run {operation} {size} {depth} {seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


class Side:
    """A back-end, and a driver on it."""

    def __init__(self, program, socket, daemon=None):
        self.program = program
        self.daemon = daemon  # where it is one of ours
        self.driver = Driver(socket)

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def measure(self, operation, size, depth, seconds):
        """Requests per second, and microseconds of the back-end's processor time for each."""
        before = self.cpu_seconds()
        rate = self.driver.run(operation, size, depth, seconds)
        return rate, (self.cpu_seconds() - before) / (rate * seconds) * 1e6

    def close(self):
        self.driver.close()
        self.program.kill()


def ours(folder, connection, more=(), state=None):
    folder.mkdir()
    socket = folder / "ours.sock"
    daemon = Causewayd(folder, [DiskPort("disk0", socket, connection, more=more)], cpu=1, state=state)
    daemon.start()
    return Side(daemon.program, socket, daemon)


def theirs(folder, blockdev):
    folder.mkdir()
    socket = folder / "qsd.sock"
    program = Program("qsd", ["taskset", "-c", "1", find_program("qemu-storage-daemon"), "--blockdev", blockdev, "--export",
                              f"type=vhost-user-blk,id=e0,node-name=f0,addr.type=unix,addr.path={socket},writable=on"],
                      folder / "qsd.log")
    program.start()
    wait_for(socket.exists, 20, "qemu-storage-daemon listens", program)
    return Side(program, socket)


def fill(image):
    """Gives the image its size, with every block in place."""
    block = os.urandom(MIB)
    for _ in range(FILE_MIB):
        image.write(block)
    image.flush()
    os.fsync(image.fileno())


def compare(title, sides, options, names=("ours", "qsd"), entries=tuple(ENTRIES)):
    """Measures every entry on both sides, alternately, prints a table, and ends the sides."""
    rates_of, costs_of = ([f"{name}/s" for name in names], [f"us {name}" for name in names])
    print(f"\n{title}\n{'operation':<24}{rates_of[0]:>10}{rates_of[1]:>10}{'ratio':>8}{'least':>7}{'most':>7}"
          f"{costs_of[0]:>12}{costs_of[1]:>12}")
    for operation, size, depth in entries:
        rates, costs = ([], []), ([], [])
        for pair in range(options.pairs):
            for which in ((0, 1), (1, 0))[pair % 2]:
                rate, cost = sides[which].measure(operation, size, depth, options.seconds)
                rates[which].append(rate)
                costs[which].append(cost)
        ratios = [a / b for a, b in zip(*rates)]
        name = f"{operation} {size // 1024} KiB x {depth}"
        print(f"{name:<24}{statistics.median(rates[0]):>10.0f}{statistics.median(rates[1]):>10.0f}"
              f"{statistics.median(ratios):>8.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
              f"{statistics.median(costs[0]):>12.1f}{statistics.median(costs[1]):>12.1f}", flush=True)
    for side in sides:
        side.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--folder", default=ROOT / "build", type=Path, help="where the image on a disk lies")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cw-") as name:
        folder = Path(name)
        for title, place in (("a disk", options.folder), ("tmpfs", Path("/dev/shm"))):
            with tempfile.NamedTemporaryFile(dir=place, prefix="bench-disk-") as image:
                fill(image)
                # Both at once: their locks are of different kinds.
                sides = (ours(folder / f"ours on {title}", f"file:{image.name}", (("direct", True), ("block-size", 4096))),
                         theirs(folder / f"qsd on {title}",
                                f"driver=file,node-name=f0,filename={image.name},cache.direct=on,aio=io_uring"))
                compare(f"raw file of {FILE_MIB} MiB on {title}, direct, io_uring", sides, options)
        sides = (ours(folder / "ours", "ram:256M"), theirs(folder / "qsd", "driver=null-co,node-name=f0,size=268435456"))
        compare("in memory: our RAM disk against null-co", sides, options)


if __name__ == "__main__":
    main()
