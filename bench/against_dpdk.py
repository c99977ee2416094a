#!/usr/bin/env python3
"""Causeway against DPDK's net_vhost, as the back-end of the same driver.

With --driver own the driver is ours, which has no packet pool and so leaves the back-end the slower side; with --driver
stock it is testpmd's net_virtio_user. The driver runs on processor 0, the back-end on processor 1. Both pairs live at
the same time and are measured in turn, the idle one stopped, so that a machine whose speed drifts treats both alike.
What counts is the ratio.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from sides import Causeway, Dpdk, LoadDriver, StockDriver

# What the guest does, and what the back-end does for it.
WORKLOADS = {"transmits": "sink", "receives": "source", "both": "reflect"}
LAYOUTS = {
    "split plain": {"mrg_rxbuf": 0, "in_order": 0},
    "split mergeable": {"mrg_rxbuf": 1, "in_order": 0},
    "split in-order": {"mrg_rxbuf": 0, "in_order": 1},
    "packed plain": {"packed_vq": 1, "mrg_rxbuf": 0, "in_order": 0},
    "packed mergeable": {"packed_vq": 1, "mrg_rxbuf": 1, "in_order": 0},
    "packed in-order": {"packed_vq": 1, "mrg_rxbuf": 0, "in_order": 1},
}
SIZES = (64, 1518)
FRAME_CHECK = 4  # bytes that a size on the wire counts and a virtual frame does not have
DRIVERS = {"own": LoadDriver, "stock": StockDriver}


def measure(driver_class, layout, work, size, pairs, seconds):
    """Alternating (rate, cycles a packet) of ours and theirs."""
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as name:
        folder, sides, opened = Path(name), [], []
        try:
            for backend_class in (Causeway, Dpdk):
                backend = backend_class(folder, work, size - FRAME_CHECK)
                opened.append(backend)
                driver = driver_class(folder, backend, work, size - FRAME_CHECK, layout)
                opened.insert(0, driver)
                sides.append((backend, driver))
            return [[one_rate(*side, seconds) for side in sides] for _ in range(pairs)]
        finally:
            for part in opened:
                part.close()


def one_rate(backend, driver, seconds):
    """Packets per second and cycles per packet in the back-end."""
    backend.begin()
    rate = driver.rate(seconds)
    return rate, backend.end()


def nics_title():
    print(f"\n{'network device':<34}{'ratio':>8}{'least':>8}{'most':>8}{'the second, Mpps':>18}")


def compare_nics(folder, layout, work, size, options, makers):
    """Prints one line: packets per second with the first of two back-ends over the second. `makers` make each, in a folder for
    frames of that many bytes."""
    opened, sides = [], []
    for number, make in enumerate(makers):
        place = folder / f"{work}{size}{layout.replace(' ', '')}{number}"
        place.mkdir()
        backend = make(place, size - FRAME_CHECK)
        driver = LoadDriver(place, backend, work, size - FRAME_CHECK, LAYOUTS[layout])
        opened += [driver, backend]
        sides.append((backend, driver))
    rates = ([], [])
    for pair in range(options.pairs):
        for which in ((0, 1), (1, 0))[pair % 2]:
            rates[which].append(one_rate(*sides[which], options.seconds)[0])
    for part in opened:
        part.close()
    ratios = [first / second for first, second in zip(*rates)]
    print(f"{layout + ', ' + work + f' {size}':<34}{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}"
          f"{statistics.median(rates[1]) / 1e6:>18.2f}", flush=True)


def report(name, work, size, measured):
    """Prints one line of the table; returns the medians of the two ratios."""
    ours, theirs = ([pair[which] for pair in measured] for which in (0, 1))
    ratios = [a[0] / b[0] for a, b in measured if b[0]]
    cycles = [a[1] / b[1] for a, b in measured if b[1]]
    middle = statistics.median
    print(f"{name:<17} {work:<9} {size:>5}  {middle([r for r, _ in ours]) / 1e6:>6.2f} {middle([r for r, _ in theirs]) / 1e6:>6.2f}"
          f"  {middle(ratios):>5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
          f"  {middle([c for _, c in ours]):>6.0f} {middle([c for _, c in theirs]):>6.0f}  {middle(cycles):>5.2f}", flush=True)
    return middle(ratios), middle(cycles)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver", choices=DRIVERS, default="own")
    parser.add_argument("--pairs", type=int, default=9, help="alternating measurements of each entry (9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of each (0.3)")
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    options = parser.parse_args()
    who = {"own": "our own driver", "stock": "testpmd's virtio-user"}[options.driver]
    print(f"Causeway against DPDK's net_vhost, driven by {who}, rings of 256, medians of {options.pairs} alternating pairs")
    print("layout            guest      size    Mpps   DPDK  ratio (spread)         cycles   DPDK  ratio")
    ratios = [report(name, workload, size, measure(DRIVERS[options.driver], LAYOUTS[name], WORKLOADS[workload], size,
                                                   options.pairs, options.seconds))
              for name in options.layouts for workload in options.workloads for size in options.sizes]
    rates, cycles = zip(*ratios)
    print(f"packets/s: median of the ratios {statistics.median(rates):.2f}, least {min(rates):.2f};"
          f" cycles: median {statistics.median(cycles):.2f}, greatest {max(cycles):.2f}")


if __name__ == "__main__":
    main()
