#!/usr/bin/env python3
"""What it costs to keep what survives a crash: our daemon with a state directory against itself without one.

The driver keeps no record of what is in flight, so that ours does. A disk in memory shows the most of it, since nothing else takes time;
of network devices only packed rings have a record. Both daemons live at the same time and are measured in turn."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from against_dpdk import compare_nics, nics_title
from against_qsd import ENTRIES, compare, ours
from sides import Causeway

STATES = (None, "")  # where the daemon keeps it by default; nowhere
SMALL = [entry for entry in ENTRIES if entry[1] == 4096]


def with_state(work, state, folder, frame_bytes):
    return Causeway(folder, work, frame_bytes, state=state)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cw-") as name:
        folder = Path(name)
        sides = [ours(folder / f"disk{number}", "ram:256M", state=state) for number, state in enumerate(STATES)]
        compare("disk in memory", sides, options, ("with", "without"), SMALL)
        nics_title()
        for layout in ("packed plain", "packed in-order"):
            for work in ("sink", "source"):
                compare_nics(folder, layout, work, 64, options,
                             [partial(with_state, work, state) for state in STATES])


if __name__ == "__main__":
    main()
