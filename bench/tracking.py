#!/usr/bin/env python3
"""What it costs to keep what survives a crash: our daemon with a state directory against itself without one.

The driver keeps no record of what is in flight, so that ours does. A disk in memory shows the most of it, since nothing else takes time;
of network devices only packed rings have a record. Both daemons live at the same time and are measured in turn."""

import argparse
import statistics
import tempfile
from pathlib import Path

from against_dpdk import FRAME_CHECK, LAYOUTS, one_rate
from against_qsd import ENTRIES, compare, ours
from sides import Causeway, LoadDriver

STATES = (None, "")  # where the daemon keeps it by default; nowhere
SMALL = [entry for entry in ENTRIES if entry[1] == 4096]


def compare_nics(folder, layout, work, size, options):
    """Prints one line: packets per second with over without."""
    opened, sides = [], []
    for number, state in enumerate(STATES):
        place = folder / f"{work}{size}{layout.replace(' ', '')}{number}"
        place.mkdir()
        backend = Causeway(place, work, size - FRAME_CHECK, state=state)
        driver = LoadDriver(place, backend, work, size - FRAME_CHECK, LAYOUTS[layout])
        opened += [driver, backend]
        sides.append((backend, driver))
    ratios = []
    for pair in range(options.pairs):
        rates = [0, 0]
        for which in ((0, 1), (1, 0))[pair % 2]:
            rates[which] = one_rate(*sides[which], options.seconds)[0]
        ratios.append(rates[0] / rates[1])
    for part in opened:
        part.close()
    print(f"{layout + ', ' + work + f' {size}':<34}{statistics.median(ratios):>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cw-") as name:
        folder = Path(name)
        sides = [ours(folder / f"disk{number}", "ram:256M", state=state) for number, state in enumerate(STATES)]
        compare("disk in memory", sides, options, ("with", "without"), SMALL)
        print(f"\n{'network device':<34}{'ratio':>8}{'least':>8}{'most':>8}")
        for layout in ("packed plain", "packed in-order"):
            for work in ("sink", "source"):
                compare_nics(folder, layout, work, 64, options)


if __name__ == "__main__":
    main()
