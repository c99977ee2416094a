#!/usr/bin/env python3
"""What a relay costs: a software Device that works a ring of ours, passed on to and from the driver's by the relay, against the
same Device at the driver's ring itself.

Relay and Device share one worker, on processor 1, and the driver has processor 0: with a processor of its own the relay takes
from the rate only where it is the slowest of the three; bench/queue_cycles.cpp prints its cycles a packet."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from against_dpdk import compare_nics, nics_title
from against_qsd import ENTRIES, compare, ours
from sides import Causeway

PATHS = ("relay", "direct")


def put_on(daemon, port, path):
    daemon.cli("port", "rebind", port, "--all", "--device", "soft", "--path", path)


def nic(work, path, folder, frame_bytes):
    backend = Causeway(folder, work, frame_bytes)
    put_on(backend.daemon, "bench", path)
    return backend


def disk(folder, connection, path):
    side = ours(folder, connection, more=(("shared", True),) if connection.startswith("file:") else ())
    put_on(side.daemon, "disk0", path)
    return side


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="cw-") as name:
        folder = Path(name)
        nics_title()
        for layout in ("split plain", "packed plain"):
            for work in ("sink", "source"):
                for size in (64, 1518):
                    compare_nics(folder, layout, work, size, options, [partial(nic, work, path) for path in PATHS])
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        for title, connection in (("disk in memory", "ram:256M"), ("raw file of 256 MiB on tmpfs", f"file:{image}")):
            sides = [disk(folder / f"{title} {path}", connection, path) for path in PATHS]
            compare(title, sides, options, PATHS, ENTRIES)


if __name__ == "__main__":
    main()
