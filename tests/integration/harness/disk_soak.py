"""A guest's disk under work that proves what it finds; see tests/guest/blk_check.cpp."""

import itertools
import json

from .process import ProgramFailed, wait_for

LONGEST_SECONDS = 900  # it is told to end before
MORE_WRITES = 300  # more than rings hold: the last of them began when the first was answered


class DiskSoak:
    """A running `blk_check soak` of a guest's /dev/vda, which goes on until finish()."""

    _numbers = itertools.count(1)

    def __init__(self, guest, threads=8, blocks=2000):
        self._guest = guest
        self._stop = f"/tmp/stop-soak{next(self._numbers)}"
        self._job = guest.spawn(f"blk_check soak /dev/vda {threads} {blocks} {LONGEST_SECONDS} {self._stop}")

    def _writes(self):
        """How many writes the guest has had answered."""
        return int(self._guest.check("cat /sys/block/vda/stat").split()[4])

    def await_progress(self, limit=60):
        """Waits until clearly more has been written."""
        goal = self._writes() + MORE_WRITES
        wait_for(lambda: self._writes() >= goal or self._job.is_done(), limit, f"{self._guest.name} goes on writing",
                 self._guest.program)
        if self._job.is_done():
            raise ProgramFailed(f"{self._guest.name}: blk_check has ended before it was told to\n{self._job.output()}")

    def finish(self, limit=120):
        """Has it end, once more has been written, and verify; returns its report, which tells no error."""
        self.await_progress()
        self._guest.check(f"touch {self._stop}")
        report = json.loads(self._job.wait(limit).splitlines()[-1])
        if report["errors"]:
            raise ProgramFailed(f"{self._guest.name}: blk_check reports {report}")
        print(f"{report['writes']} writes, longest request {report['longest_ms']} ms", end=" ", flush=True)
        return report
