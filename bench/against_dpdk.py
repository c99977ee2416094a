#!/usr/bin/env python3
"""Causeway against DPDK's net_vhost, both as the back-end of the same driver: testpmd with net_virtio_user.

The driver runs on processor 0, the back-end on processor 1. Both pairs of processes live at the same time and are measured
in turn, the idle one stopped, so that a machine whose speed drifts treats both alike. What counts is the ratio.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/integration"))

from harness.daemon import Causewayd, Port  # noqa: E402
from harness.testpmd import Testpmd, net_vhost, virtio_user  # noqa: E402

# What the driver does, its counter that is measured, the back-end's part on either side.
WORKLOADS = {
    "loopback": ("io", "RX-packets", "reflect", "mac"),
    "guest transmits": ("txonly", "TX-packets", "sink", "rxonly"),
    "guest receives": ("rxonly", "RX-packets", "source", "txonly"),
}
SIZES = (64, 512, 1518)
FRAME_CHECK = 4  # bytes that a size on the wire counts and a virtual frame does not have
SETTLE_SECONDS = 0.3


class Side:
    """A driver with its back-end."""

    def __init__(self, driver, workload, frame_bytes):
        self.driver = driver
        mode, self.counter, _, _ = WORKLOADS[workload]
        self.first_burst = 8 if workload == "loopback" else 0
        self.driver.command(f"set fwd {mode}")
        self.driver.command(f"set txpkts {frame_bytes}")

    def rate(self, seconds):
        """Packets per second and cycles per packet in the back-end, over some seconds."""
        self.before()
        self.driver.start_forwarding(self.first_burst)
        time.sleep(SETTLE_SECONDS)
        begin, first = time.monotonic(), self.driver.stats()[self.counter]
        time.sleep(seconds)
        last, end = self.driver.stats()[self.counter], time.monotonic()
        self.driver.stop_forwarding()
        return (last - first) / (end - begin), self.cycles()


class CausewaySide(Side):
    def __init__(self, folder, workload, frame_bytes):
        socket = folder / "ours.sock"
        connection = WORKLOADS[workload][2]
        if connection == "source":
            connection = f"source:{frame_bytes}"
        self.daemon = Causewayd(folder, [Port("bench", socket, connection=connection)], cpu=1)
        self.daemon.start()
        driver = Testpmd("ours", folder, virtio_user(socket))
        driver.start()
        super().__init__(driver, workload, frame_bytes)

    def worker(self):
        return self.daemon.cli_json("port", "list")["workers"][0]

    def before(self):
        self.start = self.worker()

    def cycles(self):
        now = self.worker()
        items = int(now.get("items", 0)) - int(self.start.get("items", 0))
        return (int(now.get("busy_cycles", 0)) - int(self.start.get("busy_cycles", 0))) / max(items, 1)

    def close(self):
        self.driver.kill()
        self.daemon.program.kill()


class DpdkSide(Side):
    def __init__(self, folder, workload, frame_bytes):
        socket = folder / "dpdk.sock"
        self.backend = Testpmd("dpdk-backend", folder, net_vhost(socket), forward_mode=WORKLOADS[workload][3], core=1)
        self.backend.start()
        self.backend.command("set record-core-cycles on")
        self.backend.command(f"set txpkts {frame_bytes}")
        driver = Testpmd("dpdk", folder, virtio_user(socket))
        driver.start()
        super().__init__(driver, workload, frame_bytes)

    def before(self):
        self.backend.command("clear fwd stats all")
        self.backend.start_forwarding()

    def cycles(self):
        summary = self.backend.stop_forwarding()
        found = re.search(r"CPU cycles/packet=([\d.]+)", summary)
        return float(found[1]) if found else float("nan")

    def close(self):
        self.driver.kill()
        self.backend.kill()


def compare(workload, size, pairs, seconds):
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
        folder = Path(folder)
        sides = []
        try:
            sides = [CausewaySide(folder, workload, size - FRAME_CHECK)]
            sides.append(DpdkSide(folder, workload, size - FRAME_CHECK))
            measured = [[side.rate(seconds) for side in sides] for _ in range(pairs)]
        finally:
            for side in sides:
                side.close()
    ours, theirs = ([pair[which] for pair in measured] for which in (0, 1))
    ratios = [a[0] / b[0] for a, b in measured if b[0]]
    middle = lambda values: statistics.median(values)  # noqa: E731
    print(f"{workload:<16} {size:>5} B  {middle([r for r, _ in ours]) / 1e6:>6.2f}  {middle([r for r, _ in theirs]) / 1e6:>6.2f}"
          f"   {middle(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
          f"   {middle([c for _, c in ours]):>6.0f}  {middle([c for _, c in theirs]):>6.0f}", flush=True)
    return middle(ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="alternating measurements of each entry (7)")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of each (0.4)")
    arguments = parser.parse_args()
    print(f"Causeway against DPDK's net_vhost, same testpmd virtio-user driver, split ring of 256, medians of"
          f" {arguments.pairs} alternating pairs")
    print("workload          frame    Mpps:  DPDK's   ratio (spread)         cycles a packet: DPDK's")
    ratios = [compare(workload, size, arguments.pairs, arguments.seconds) for workload in WORKLOADS for size in SIZES]
    print(f"median of the ratios {statistics.median(ratios):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
