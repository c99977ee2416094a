#!/usr/bin/env python3
"""What 200 idle ports cost: processor time in 10 s, memory and descriptors a port."""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/integration"))

from harness.daemon import Causewayd, Port  # noqa: E402

PORTS = 200
SECONDS = 10


def resident_kib(pid):
    """Private memory of a process, shared libraries left out."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def measure(folder, count):
    daemon = Causewayd(folder, [Port(f"net{i}", folder / f"net{i}.sock") for i in range(count)])
    daemon.start()
    try:
        time.sleep(0.5)
        before = daemon.cpu_seconds()
        time.sleep(SECONDS)
        return daemon.cpu_seconds() - before, resident_kib(daemon.program.pid), daemon.fd_count()
    finally:
        daemon.program.kill()


def main():
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
        _, base_memory, base_fds = measure(Path(folder), 1)
        cpu, memory, fds = measure(Path(folder), PORTS)
    print(f"{PORTS} idle ports: {cpu:.2f} s of processor time in {SECONDS} s,"
          f" {(memory - base_memory) / (PORTS - 1):.1f} KiB and {(fds - base_fds) / (PORTS - 1):.1f} descriptors a port")


if __name__ == "__main__":
    main()
