#!/usr/bin/env python3
"""Instructions per packet of Causeway and of DPDK's net_vhost, as callgrind counts them: they repeat exactly where the clock does
not. Our own driver drives both; under callgrind the back-end is so slow that it never polls in vain.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from against_dpdk import FRAME_CHECK, LAYOUTS, WORKLOADS
from sides import Causeway, Dpdk, LoadDriver

SECONDS = 2.0


def under_callgrind(folder):
    """What comes before a program's name to run it under callgrind, and where the counts go."""
    counts = folder / "callgrind.out"
    return [shutil.which("valgrind"), "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={counts}"], counts


def total(counts):
    """All instructions that were counted."""
    return int(re.search(r"^totals: (\d+)", counts.read_text(errors="replace"), re.MULTILINE)[1])


def count_instructions(backend, switch):
    """Lets callgrind count, or not."""
    subprocess.run(["callgrind_control", f"--instr={switch}", str(backend.program.pid)], capture_output=True, check=True)


def drive(backend, work, frame_bytes, layout):
    """Lets packets flow for some seconds; returns how many."""
    driver = LoadDriver(None, backend, work, frame_bytes, layout)
    # Only now: callgrind runs one thread at a time, and one that forwards would keep the others from answering.
    time.sleep(2)  # testpmd says what its ports do, in the midst of its prompt
    backend.begin()
    try:
        driver.rate(0.2)
        count_instructions(backend, "on")
        before = backend.packets()
        driver.rate(SECONDS)
        packets = backend.packets() - before
        count_instructions(backend, "off")
        return packets
    finally:
        driver.close()


def ours(work, frame_bytes, layout):
    """Instructions a packet in Causeway."""
    with tempfile.TemporaryDirectory(prefix="cw-") as name:
        folder = Path(name)
        wrapper, counts = under_callgrind(folder)
        backend = Causeway(folder, work, frame_bytes, wrapper=wrapper, limit=120)
        try:
            packets = drive(backend, work, frame_bytes, layout)
            backend.daemon.stop(limit=60)
        finally:
            backend.close()
        return total(counts) / packets


def theirs(work, frame_bytes, layout):
    """Instructions a packet in testpmd."""
    with tempfile.TemporaryDirectory(prefix="cw-") as name:
        folder = Path(name)
        wrapper, counts = under_callgrind(folder)
        backend = Dpdk(folder, work, frame_bytes, wrapper=wrapper, limit=120)
        try:
            packets = drive(backend, work, frame_bytes, layout)
            backend.testpmd.quit(limit=60)
        finally:
            backend.close()
        return total(counts) / packets


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[64])
    options = parser.parse_args()
    print("Instructions per packet, by callgrind")
    print("layout            guest      size   ours   DPDK  ratio")
    for name in options.layouts:
        for workload in options.workloads:
            for size in options.sizes:
                work, frame_bytes = WORKLOADS[workload], size - FRAME_CHECK
                mine, other = (count(work, frame_bytes, LAYOUTS[name]) for count in (ours, theirs))
                print(f"{name:<17} {workload:<9} {size:>5} {mine:>6.0f} {other:>6.0f}  {mine / other:>5.2f}", flush=True)


if __name__ == "__main__":
    main()
