#!/usr/bin/env python3
"""What a guest's IOMMU costs with Causeway's switch, and with testpmd between two net_vhost ports.

Two Linux guests (TCG) on each side, the first behind its IOMMU as --mappings says, the other without; all four run at the same time and
the sides are measured in turn. A ping is one mapping each way; a stream of TCP without offloads, from the first guest, is one
for each frame. Linux makes them and takes them back, and QEMU is asked for each."""

import argparse
import re
import statistics
import tempfile
from pathlib import Path

from vm_to_vm import Switch, TwoVhostPorts

from harness.guest import BEHIND_IOMMU, Guest, Nic
from harness.transfer import Transfer

ADDRESSES = ("10.0.0.1", "10.0.0.2")


class Side:
    """A back-end and its two guests."""

    def __init__(self, name, folder, make_backend, mappings):
        folder = folder / name
        folder.mkdir()
        self.backend = make_backend(folder)
        self.backend.begin()
        self.guests = []
        for number, socket in enumerate(self.backend.sockets):
            behind = mappings != "none" and number == 0
            nic = Nic(socket, f"52:54:00:00:00:0{1 + number}", properties=BEHIND_IOMMU if behind else "")
            guest = Guest(f"{name}{number}", folder, (nic,), iommu=behind, mappings=mappings if behind else "lazy")
            guest.start()
            guest.set_address(ADDRESSES[number])
            guest.run("ethtool -K eth0 tx off tso off gso off gro off")
            self.guests.append(guest)
        self.guests[0].await_ping(ADDRESSES[1])
        self.backend.end()

    def measure(self, mib):
        """The time of a ping in milliseconds, and MiB per second."""
        self.backend.begin()
        answer = self.guests[0].check(f"ping -c 200 -i 0.01 {ADDRESSES[1]}", 60)
        stream = Transfer(self.guests[0], ADDRESSES[0], self.guests[1], block_mib=1, times=mib).finish()
        self.backend.end()
        return float(re.search(r"= [\d.]+/([\d.]+)/", answer)[1]), stream.mib_per_second

    def close(self):
        for guest in self.guests:
            guest.kill()
        self.backend.close()


def compare(folder, mappings, pairs, mib):
    """Prints medians of both, and of their ratios."""
    makers = {"ours": Switch, "DPDK": lambda place: TwoVhostPorts(place, "" if mappings == "none" else ",iommu-support=1")}
    sides = {name: Side(f"{name}-{mappings}", folder, make, mappings) for name, make in makers.items()}
    try:
        runs = {name: [] for name in sides}
        for number in range(pairs):
            for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                runs[name].append(sides[name].measure(mib))
    finally:
        for side in sides.values():
            side.close()
    for index, (what, unit) in enumerate((("ping", "ms"), ("TCP", "MiB/s"))):
        own, theirs = ([run[index] for run in runs[name]] for name in ("ours", "DPDK"))
        # How many times as good ours is.
        ratios = [(b / a if unit == "ms" else a / b) for a, b in zip(own, theirs)]
        print(f"{mappings:12} {what:5} ours {statistics.median(own):7.2f} {unit:6} DPDK {statistics.median(theirs):7.2f}   "
              f"ratio {statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--mappings", nargs="*", default=["none", "passthrough", "strict"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cw-") as name:
        for mappings in options.mappings:
            compare(Path(name), mappings, options.pairs, 2 if mappings in ("lazy", "strict") else 8)


if __name__ == "__main__":
    main()
