#!/usr/bin/env python3
"""VM to VM: Causeway's switch between two ports against testpmd in io mode between two net_vhost ports.

The same driver, ours, has both ends on processor 0: it sends on one and receives on the other. The back-end runs on
processor 1. Both pairs live at the same time and are measured in turn.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from sides import SETTLE_SECONDS, Causewayd, OwnDriver, Port, Testpmd, net_vhost

LAYOUTS = {"split": {}, "split mergeable": {"mrg_rxbuf": 1}, "packed": {"packed_vq": 1}, "packed mergeable": {"packed_vq": 1, "mrg_rxbuf": 1}}
SIZES = (64, 512, 1518)
FRAME_CHECK = 4  # bytes that a size on the wire counts and a virtual frame does not have


class Switch:
    """Our daemon with two ports on one switch."""

    def __init__(self, folder):
        self.sockets = [folder / f"ours{n}.sock" for n in (0, 1)]
        ports = [Port(f"port{n}", socket, mac=f"52:54:00:00:00:0{2 - n}") for n, socket in enumerate(self.sockets)]
        self._daemon = Causewayd(folder, ports, cpu=1)
        self._daemon.start()

    def begin(self):
        """Nothing: the daemon serves at once."""

    def end(self):
        """Nothing: its worker sleeps."""

    def close(self):
        self._daemon.program.kill()


class TwoVhostPorts:
    """testpmd that forwards between two net_vhost ports."""

    def __init__(self, folder, more=""):
        self.sockets = [folder / f"dpdk{n}.sock" for n in (0, 1)]
        first, second = (net_vhost(socket, number=n, more=more) for n, socket in enumerate(self.sockets))
        self._testpmd = Testpmd("dpdk-backend", folder, first, core=1, eal_options=["--vdev", second])
        self._testpmd.start()

    def begin(self):
        self._testpmd.start_forwarding()

    def end(self):
        self._testpmd.stop_forwarding()

    def close(self):
        self._testpmd.kill()


def measure(layout, size, pairs, seconds):
    """Alternating rates of ours and theirs."""
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as name:
        sides, opened = [], []
        try:
            for backend_class in (Switch, TwoVhostPorts):
                backend = backend_class(Path(name))
                opened.append(backend)
                driver = OwnDriver(backend.sockets[0], "both", layout, size - FRAME_CHECK, to=backend.sockets[1])
                opened.insert(0, driver)
                sides.append((backend, driver))
            return [[one_rate(*side, seconds) for side in sides] for _ in range(pairs)]
        finally:
            for part in opened:
                part.close()


def one_rate(backend, driver, seconds):
    """Packets per second that arrive."""
    backend.begin()
    driver.rate(SETTLE_SECONDS / 3)
    rate = driver.rate(seconds)
    backend.end()
    return rate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="alternating measurements of each entry (9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of each (0.3)")
    options = parser.parse_args()
    print(f"VM to VM, our driver at both ends: Causeway's switch against testpmd io between two net_vhost ports, medians of"
          f" {options.pairs} alternating pairs")
    print("layout             size    Mpps   DPDK  ratio (spread)")
    ratios = []
    for name, layout in LAYOUTS.items():
        for size in SIZES:
            measured = measure(layout, size, options.pairs, options.seconds)
            each = [ours / theirs for ours, theirs in measured if theirs]
            ours, theirs = (statistics.median(pair[which] for pair in measured) / 1e6 for which in (0, 1))
            ratios.append(statistics.median(each))
            print(f"{name:<17} {size:>5}  {ours:>6.2f} {theirs:>6.2f}  {ratios[-1]:>5.2f} ({min(each):.2f} to {max(each):.2f})", flush=True)
    print(f"median of the ratios {statistics.median(ratios):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
