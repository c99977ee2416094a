"""causewayd dies by SIGKILL under a guest's disk, again and again: no acknowledged write is lost, no error is seen."""

import json
import os
import random
import re
import time
import unittest

from harness.case import IntegrationCase
from harness.daemon import Causewayd, DiskPort
from harness.disk_soak import DiskSoak
from harness.guest import Disk
from harness.process import wait_for

MIB = 1 << 20
KILLS = int(os.environ.get("CAUSEWAY_KILLS", "20"))
THREADS, BLOCKS = 8, 2000


class CrashCase(IntegrationCase):
    """A guest writes what it can prove (see tests/guest/blk_check.cpp) while `victim` dies by SIGKILL."""

    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("CAUSEWAY_SEED", time.time_ns() % 1_000_000))
        self.random = random.Random(seed)
        print(f"seed {seed}", end=" ", flush=True)

    def make_image(self, name="disk.img"):
        """A disk of zeros."""
        image = self.folder / name
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        return image

    def soak(self, kills):
        """Kills the victim at random moments while the guest writes; returns the guest's report."""
        soak = DiskSoak(self.guest, THREADS, BLOCKS)
        for _ in range(kills):
            time.sleep(self.random.uniform(0.05, 0.6))
            self.victim.kill()
            self.victim.start()
        return soak.finish()

    def requests_run_again(self):
        """What the victim's log says of requests in flight."""
        return sum(int(count) for count in re.findall(r"runs (\d+) requests again", self.victim.program.log.read_text()))

    def assert_nothing_is_lost(self, kills=KILLS):
        again = 0
        # Kills that all fall between two requests show nothing: then more of them.
        for _ in range(5):
            report = self.soak(kills)
            again = self.requests_run_again()
            print(f"{kills} kills, {again} requests run again", end=" ", flush=True)
            if again:
                break
        self.assertGreater(again, 0, "no request was in flight at any kill: the test has shown nothing")
        return report


class DiskCrash(CrashCase):
    """The daemon that serves the guest dies."""

    def start(self, properties="", queues=1, role="server", **more):
        self.port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{self.make_image()}", role=role, queues=queues,
                             more=tuple(more.items()))
        self.victim = self.daemon = self.start_daemon(self.port)
        listen = role == "client"
        self.disk = Disk(self.port.socket, queues, listen=listen, reconnect_ms=0 if listen else 100, properties=properties)
        self.guest = self.start_guest("guest", self.disk, cpus=2)

    def flushed_rounds(self):
        """The last round that each thread has flushed, as the guest's console says."""
        rounds = dict.fromkeys(range(THREADS), 0)
        for thread, number in re.findall(r"flushed (\d+) (\d+)", self.guest.console.read_text()):
            rounds[int(thread)] = max(rounds[int(thread)], int(number))
        return rounds

    def test_one_queue_split(self):
        self.start(iops=2000)  # less than the guest asks for: something is always in flight
        self.assert_nothing_is_lost(max(1, KILLS // 2))

    def test_four_queues_packed(self):
        self.start(properties="packed=on", queues=4)
        self.assert_nothing_is_lost()

    def test_we_connect_to_qemu(self):
        self.start(role="client", iops=2000)
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


class RemoteDiskCrash(CrashCase):
    """The daemon that serves the guest lives; the process behind its port's Device dies."""

    def start(self, properties="", queues=1):
        folder = self.folder / "far"
        folder.mkdir()
        socket = self.folder / "far.sock"
        self.victim = Causewayd(folder, (DiskPort("far0", socket, f"file:{self.make_image('far.img')}", queues=queues),))
        self.addCleanup(self.victim.kill)
        self.victim.start()
        # The port's own disk is another one: an image has one owner.
        port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{self.make_image('own.img')}", queues=queues,
                        devices=("far",), remotes=(("far", socket, True),))
        self.daemon = self.start_daemon(port)
        self.guest = self.start_guest("guest", Disk(port.socket, queues, properties=properties), cpus=2)

    def test_one_queue_split(self):
        self.start()
        self.assert_nothing_is_lost()

    def test_four_queues_packed(self):
        self.start(properties="packed=on", queues=4)
        self.assert_nothing_is_lost(max(1, KILLS // 2))


if __name__ == "__main__":
    unittest.main()
