#!/usr/bin/env python3
"""An accelerator (another causewayd, whose ports are virtio-pci functions) behind our daemon.

Packet rate: one driver (bench/load_driver.cpp) at a port of ours whose queues are on the accelerator, against the same
driver at another function of the accelerator with nothing of ours in between, alternately.

Pauses: bench/load_blk.cpp keeps 32 random writes of 4 KiB under way while its queue moves between the accelerator and
software over the same image, and while the accelerator is killed. Drivers run on processor 0, the accelerator's worker and
the daemon's on processor 1."""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gaps import IMAGE_BYTES, MEMORY, Driver, line, percentile, title
from sides import ROOT  # noqa: F401 it makes the harness known

from harness.daemon import Causewayd, DiskPort, Port
from harness.own_driver import OwnDriver
from harness.process import wait_for

RATE_GOAL, MOVE_GOAL_MS, DEATH_GOAL_MS = 0.99, 1, 50
SERVED = ("transport", "vfio-user")
LAYOUTS = {"split": {}, "packed": {"packed_vq": 1}}
WORK = {"transmit": "sink", "receive": "source:60"}


def function(name, socket):
    """A Device that drives the function at this socket."""
    return ((name, {"kind": "vfio-user", "socket": str(socket)}),)


class Pair:
    """An accelerator, and our daemon in front of one of its functions."""

    def __init__(self, folder, functions, port, polling):
        (folder / "accelerator").mkdir()
        self.accelerator = Causewayd(folder / "accelerator", functions, polling, cpu=1)
        self.daemon = Causewayd(folder, [port], cpu=1)

    def __enter__(self):
        self.accelerator.start()
        self.daemon.start()
        return self

    def __exit__(self, *_):
        self.daemon.kill()
        self.accelerator.kill()


def packet_rates(pairs, seconds):
    print("\nPackets per second through our daemon, over those of the accelerator alone; goal "
          f"{RATE_GOAL} or better\n{'':<20}{'median':>8}{'least':>8}{'most':>8}{'alone, Mpps':>14}")
    for direction, connection in WORK.items():
        for layout, combination in LAYOUTS.items():
            with tempfile.TemporaryDirectory(dir=MEMORY, prefix="cw-") as name:
                folder = Path(name)
                functions = [Port(f"f{n}", folder / f"f{n}.sock", connection=connection, more=(SERVED,)) for n in range(2)]
                port = Port("net0", folder / "net0.sock", connection="sink", devices=("acc", "soft"),
                            functions=function("acc", functions[0].socket))
                with Pair(folder, functions, port, "poll"):
                    drivers = [OwnDriver(port.socket, direction, combination),
                               OwnDriver(functions[1].socket, direction, combination, function=True)]
                    for driver in drivers:
                        driver.rate(0.3)
                    rates = [[driver.rate(seconds) for driver in (drivers if n % 2 == 0 else drivers[::-1])][::1 if n % 2 == 0 else -1]
                             for n in range(pairs)]
                    for driver in drivers:
                        driver.close()
            ratios = sorted(through / alone for through, alone in rates)
            alone = statistics.median(rate[1] for rate in rates)
            print(f"{f'{direction}, {layout}':<20}{statistics.median(ratios):>8.3f}{ratios[0]:>8.3f}{ratios[-1]:>8.3f}"
                  f"{alone / 1e6:>14.1f}", flush=True)


class DiskPair(Pair):
    """The same with a disk, and a driver on it."""

    def __init__(self, folder, polling):
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        shared = ("shared", True)
        served = DiskPort("f0", folder / "f0.sock", f"file:{image}", more=(SERVED, shared))
        port = DiskPort("disk0", folder / "disk0.sock", f"file:{image}", role="client", devices=("acc", "soft"),
                        more=(shared,), functions=function("acc", served.socket))
        super().__init__(folder, [served], port, polling)
        self.driver = Driver(folder, port.socket)

    def __enter__(self):
        super().__enter__()
        self.driver.await_ready()
        self.await_device("acc")
        time.sleep(1)
        return self

    def __exit__(self, *_):
        self.driver.kill()
        super().__exit__()

    def device(self):
        return self.daemon.cli_json("port", "show", "disk0")["queues"][0]["device"]

    def await_device(self, name):
        wait_for(lambda: self.device() == name, 30, f"the disk is on {name}", self.daemon.program)

    def longest_gap_ms(self, begin, end):
        gap = self.driver.longest_gap(begin, end)
        return (gap[1] - gap[0]) / 1e6

    def command(self, name):
        """Milliseconds: the longest gap while a command asks for that Device, and in as long a time before."""
        time.sleep(0.02)
        begin = time.monotonic_ns()
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", name)
        end = time.monotonic_ns()
        time.sleep(0.02)
        return self.longest_gap_ms(begin, end), self.longest_gap_ms(2 * begin - end, begin)

    def move(self, name, old):
        """The same of a rebind, and the longest gap of the same command when it asks for the Device that there is."""
        nothing, _ = self.command(old)
        return *self.command(name), nothing

    def death(self):
        """Milliseconds from SIGKILL of the accelerator to the first completion in software."""
        killed = time.monotonic_ns()
        self.accelerator.program.kill()
        self.await_device("soft")
        self.driver.await_completion(killed)
        first = self.driver.longest_gap(killed, time.monotonic_ns())[1]
        self.accelerator.start()
        self.await_device("acc")
        time.sleep(0.3)
        return max((first - killed) / 1e6, 0)


def pauses(moves, deaths, polling):
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="cw-") as name, DiskPair(Path(name), polling) as pair:
        seen = {"soft": [], "acc": []}
        for number in range(2 * moves):
            to, old = ("soft", "acc")[number % 2], ("acc", "soft")[number % 2]
            seen[to].append(pair.move(to, old))
        title(f"{moves} rebinds each way, the accelerator's worker: {polling}")
        for to, what in (("soft", "accelerator to software"), ("acc", "software to accelerator")):
            gaps, before, nothing = zip(*seen[to])
            line(f"{what}, the longest gap", gaps, MOVE_GOAL_MS)
            line("  a command that moves nothing", nothing)
            line("  no command", before)
            print(f"  p50 {percentile(gaps, 50):.2f}, p90 {percentile(gaps, 90):.2f}")
        if deaths:
            title(f"{deaths} x SIGKILL of the accelerator")
            line("to the first completion in software", [pair.death() for _ in range(deaths)], DEATH_GOAL_MS)
        writes, blocks = pair.driver.finish()
        print(f"{writes} writes, each completed once, with success; {blocks} blocks read back", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--moves", type=int, default=1000)
    parser.add_argument("--deaths", type=int, default=50)
    parser.add_argument("--polling", choices=("poll", "adaptive"), default="adaptive")
    options = parser.parse_args()
    if options.pairs:
        packet_rates(options.pairs, options.seconds)
    if options.moves:
        pauses(options.moves, options.deaths, options.polling)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:  # of the harness
        sys.exit(f"accelerator: {error}")
