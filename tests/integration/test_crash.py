"""causewayd dies by SIGKILL under a guest's disk, again and again: no acknowledged write is lost, no error is seen."""

import json
import os
import random
import re
import time
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort
from harness.guest import Disk
from harness.process import wait_for

MIB = 1 << 20
KILLS = int(os.environ.get("CAUSEWAY_KILLS", "20"))
THREADS, BLOCKS = 8, 2000


class DiskCrash(IntegrationCase):
    """A guest writes what it can prove; see tests/guest/blk_check.cpp."""

    def start(self, properties="", queues=1, role="server", **more):
        self.seed = int(os.environ.get("CAUSEWAY_SEED", time.time_ns() % 1_000_000))
        self.random = random.Random(self.seed)
        print(f"seed {self.seed}", end=" ", flush=True)
        image = self.folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        self.port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{image}", role=role, queues=queues,
                             more=tuple(more.items()))
        self.daemon = self.start_daemon(self.port)
        listen = role == "client"
        self.disk = Disk(self.port.socket, queues, listen=listen, reconnect_ms=0 if listen else 100, properties=properties)
        self.guest = self.start_guest("guest", self.disk, cpus=2)

    def soak(self, kills):
        """Kills the daemon at random moments while the guest writes; returns the guest's report."""
        job = self.guest.spawn(f"blk_check soak /dev/vda {THREADS} {BLOCKS} {2 + kills}")
        for _ in range(kills):
            time.sleep(self.random.uniform(0.05, 0.6))
            self.daemon.kill()
            self.daemon.start()
        return json.loads(job.wait(120 + 10 * kills).splitlines()[-1])

    def requests_run_again(self):
        """What the daemon's log says of requests in flight."""
        return sum(int(count) for count in re.findall(r"runs (\d+) requests again", self.daemon.program.log.read_text()))

    def flushed_rounds(self):
        """The last round that each thread has flushed, as the guest's console says."""
        rounds = dict.fromkeys(range(THREADS), 0)
        for thread, number in re.findall(r"flushed (\d+) (\d+)", self.guest.console.read_text()):
            rounds[int(thread)] = max(rounds[int(thread)], int(number))
        return rounds

    def assert_nothing_is_lost(self, kills=KILLS):
        report = self.soak(kills)
        self.assertEqual(report["errors"], 0)
        again = self.requests_run_again()
        print(f"{kills} kills, {report['writes']} writes, {again} requests run again, longest request "
              f"{report['longest_ms']} ms", end=" ", flush=True)
        self.assertGreater(again, 0, "no request was in flight at any kill: the test has shown nothing")
        return report

    def test_one_queue_split(self):
        self.start()
        self.assert_nothing_is_lost(max(1, KILLS // 2))

    def test_four_queues_packed(self):
        self.start(properties="packed=on", queues=4)
        self.assert_nothing_is_lost()

    def test_we_connect_to_qemu(self):
        self.start(role="client")
        self.assert_nothing_is_lost(max(1, KILLS // 4))

    def test_daemon_and_qemu_are_killed(self):
        self.start(properties="packed=on")
        self.guest.spawn(f"blk_check soak /dev/vda {THREADS} {BLOCKS} 600")
        for _ in range(3):
            time.sleep(self.random.uniform(0.5, 1.5))
            self.daemon.kill()
            self.daemon.start()
        wait_for(lambda: min(self.flushed_rounds().values()) > 0, 60, "every thread has flushed", self.guest.program)
        self.daemon.kill()
        self.guest.kill()
        rounds = self.flushed_rounds()
        self.daemon.start()
        self.guest.start()
        least = " ".join(str(rounds[thread]) for thread in range(THREADS))
        output = self.guest.check(f"blk_check verify /dev/vda {THREADS} {BLOCKS} {least}", 60)
        self.assertEqual(json.loads(output.splitlines()[-1])["errors"], 0)


if __name__ == "__main__":
    unittest.main()
