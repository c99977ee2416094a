"""A guest's disk through a port of ours whose Device is another process: qemu-storage-daemon over an image."""

import hashlib
import json
import unittest
from functools import partial

from harness.daemon import DiskPort
from harness.guest import EXT4_MODULES, Disk
from harness.process import run, wait_for
from harness.shared_case import SharedCase
from harness.storage_daemon import StorageDaemon
from test_blk_guest import DiskCase

# The port must name a store of its own, for software Devices; it has none, and this one would keep nothing.
NO_STORE = "null:1M"
KEPT = "bs=1M seek=32 count=4"  # of the disk: behind what blk_check writes
ROUNDS = 3


class Chain(DiskCase):
    """A guest on our port, and qemu-storage-daemon behind that."""

    def start_chain(self, queues=1, cpus=1, properties="", reads_per_second=None, devices=("far",),
                    connection=NO_STORE):
        self.image = self.folder / "disk.img"
        self.make_image(64)
        self.far = self.start_program(StorageDaemon(self.folder, self.image, queues, reads_per_second))
        self.port = DiskPort("disk0", self.folder / "disk0.sock", connection, queues=queues, devices=devices,
                             remotes=(("far", self.far.socket, True),))
        self.daemon = self.start_daemon(self.port)
        self.idle_fds = self.daemon.fd_count()
        disk = Disk(self.port.socket, queues, reconnect_ms=100, properties=properties)
        self.guest = self.start_guest("guest", disk, cpus=cpus, modules=self.modules)

    def requests_under_way(self):
        """How many requests the guest waits for."""
        return sum(int(word) for word in self.guest.check("cat /sys/block/vda/inflight").split())

    def await_guest(self, condition, what):
        wait_for(condition, 20, what, self.guest.program)

    def hold_requests(self):
        """Has the guest ask, in the background, for what comes slowly, then write, which is answered before that."""
        read = "dd if=/dev/vda of=/dev/null bs=4k skip=${i}00 count=1 iflag=direct 2>/dev/null"
        slow = self.guest.spawn(f"for i in $(seq 8); do {read} & done; wait")
        self.await_guest(lambda: self.requests_under_way() >= 4, "the guest waits for several requests")
        self.guest.check("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>/dev/null")
        self.assertGreater(self.requests_under_way(), 0)
        return slow

    def assert_guest_saw_no_error(self):
        self.assertNotIn("I/O error", self.guest.console.read_text())

    def assert_disk_is_sound(self):
        self.assertEqual(self.check_disk(seconds=1)["errors"], 0)


class FileSystem(Chain):
    """mkfs, files, their checksums from the guest and, when all programs have ended, from the image; e2fsck there."""

    modules = EXT4_MODULES
    FILES = 4

    def assert_files_arrive(self):
        guest = self.guest
        guest.check("mkfs.ext4 -q /dev/vda && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt", 60)
        # At once, so that several queues have work.
        write = "dd if=/dev/urandom of=/mnt/$i bs=64k count=64 2>/dev/null"
        guest.check(f"for i in $(seq {self.FILES}); do {write} & done; wait; sync", 60)
        before = self.checksums_in_guest()
        guest.check("umount /mnt && mount -t ext4 /dev/vda /mnt && echo 3 >/proc/sys/vm/drop_caches")
        self.assertEqual(self.checksums_in_guest(), before)
        guest.check("umount /mnt")
        self.assert_guest_saw_no_error()
        guest.stop()
        self.daemon.stop()
        self.assertEqual(self.far.stop(), 0)
        self.assert_file_system_is_clean()
        self.assertEqual(self.checksums_in_image(), before)

    def checksums_in_guest(self):
        return [line.split()[0] for line in self.guest.check("cd /mnt && sha256sum [0-9]*").splitlines()]

    def checksums_in_image(self):
        sums = []
        for number in range(1, self.FILES + 1):
            copy = self.folder / str(number)
            run("debugfs", "-R", f"dump /{number} {copy}", self.image)
            sums.append(hashlib.sha256(copy.read_bytes()).hexdigest())
        return sums

    def test_one_queue(self):
        self.start_chain()
        self.assert_files_arrive()

    def test_four_queues(self):
        self.start_chain(queues=4, cpus=4)
        self.assertEqual(len(self.guest.check("ls /sys/block/vda/mq").split()), 4)
        queues = self.daemon.cli_json("port", "show", "disk0")["queues"]
        self.assertEqual([(queue["device"], queue["started"]) for queue in queues], [("far", True)] * 4)
        self.assert_files_arrive()

    def test_guest_asks_for_packed_rings(self):
        self.start_chain(properties="packed=on")
        port = self.daemon.cli_json("port", "show", "disk0")
        # qemu-storage-daemon 7.2 has none; the guest gets what it has.
        self.assertEqual("ring_packed" in port["features_negotiated"], "ring_packed" in port["features_offered"])
        self.assert_files_arrive()


class DepartureFromFourQueues(SharedCase, Chain):
    """qemu-storage-daemon or causewayd leaves a guest that stays, and comes again."""

    def share(self):
        self.start_chain(queues=4, cpus=2)
        self.queues_at_first = self.queues()
        self.assertIn(("far", True), self.queues_at_first)

    def queues(self):
        """On which Device each queue is, and whether the guest uses it."""
        return [(queue["device"], queue["started"]) for queue in self.daemon.cli_json("port", "show", "disk0")["queues"]]

    def assert_as_found(self):
        self.await_idle()
        self.assertTrue(self.far.program.is_running())
        self.assertEqual(self.queues(), self.queues_at_first)

    def requests_done(self):
        """How many reads and writes the guest has had answered."""
        fields = self.guest.check("cat /sys/block/vda/stat").split()
        return int(fields[0]) + int(fields[4])

    def await_idle(self):
        self.await_guest(lambda: self.requests_under_way() == 0, "the guest waits for no request")

    def write_kept(self):
        """Has the guest write random data, in the background."""
        return self.guest.spawn("dd if=/dev/urandom of=/tmp/kept bs=1M count=4 2>/dev/null; "
                                f"dd if=/tmp/kept of=/dev/vda {KEPT} oflag=direct 2>/dev/null")

    def assert_kept(self):
        """What write_kept wrote is on the disk, not in a cache of the guest."""
        on_disk = f"dd if=/dev/vda {KEPT.replace('seek', 'skip')} iflag=direct 2>/dev/null | sha256sum"
        self.assertEqual(self.guest.check(on_disk), self.guest.check("sha256sum </tmp/kept"))

    def test_killed_while_the_disk_is_idle(self):
        self.write_kept().wait(30)
        for _ in range(ROUNDS):
            self.assert_disk_is_sound()
            self.await_idle()
            self.far.kill()
            self.far.start()
            self.assert_kept()
        self.assert_disk_is_sound()
        self.assert_guest_saw_no_error()

    def test_requests_of_the_time_without_it_wait(self):
        for _ in range(ROUNDS):
            self.await_idle()
            self.far.kill()
            job = self.write_kept()
            self.await_guest(self.requests_under_way, "the guest waits for a request")
            self.far.start()
            job.wait(30)
            self.assert_kept()
        self.assert_guest_saw_no_error()

    def test_stopped_in_the_middle_of_io(self):
        """By SIGTERM, upon which it finishes what it has taken; for SIGKILL a record of that would be needed."""
        job = self.guest.spawn("blk_check soak /dev/vda 8 2000 6")

        def has_progressed(before):
            return self.requests_done() > before or job.is_done()

        def is_waiting():
            return self.requests_under_way() > 0 or job.is_done()

        restarts = 0
        while not job.is_done():
            self.await_guest(partial(has_progressed, self.requests_done()), "the guest's requests are answered")
            self.assertEqual(self.far.stop(), 0)
            self.await_guest(is_waiting, "the guest waits for a request")
            restarts += self.requests_under_way() > 0
            self.far.start()
        self.assertEqual(json.loads(job.wait(60).splitlines()[-1])["errors"], 0)
        self.assertGreater(restarts, 0, "nothing was asked for at any restart: the test has shown nothing")
        self.assert_guest_saw_no_error()

    def test_our_daemon_is_killed_while_the_disk_is_idle(self):
        """Idle: qemu-storage-daemon 7.2 aborts if a guest kicks while it finishes what a lost connection left."""
        self.write_kept().wait(30)
        for _ in range(ROUNDS):
            self.assert_disk_is_sound()
            self.await_idle()
            self.daemon.kill()
            self.daemon.start()
            self.assert_kept()
        self.assert_disk_is_sound()
        self.assert_guest_saw_no_error()


class Departure(Chain):
    """A guest, qemu-storage-daemon or causewayd leaves, and another one comes."""

    def test_stopped_with_requests_under_way_that_end_in_another_order(self):
        self.start_chain(reads_per_second=2)
        requests = self.hold_requests()
        self.assertEqual(self.far.stop(), 0)
        self.far.start()
        requests.wait(30)
        self.assert_guest_saw_no_error()

    def test_guest_reboots_and_the_next_one_comes(self):
        self.start_chain()
        self.assert_disk_is_sound()
        self.guest.reboot()
        self.assert_disk_is_sound()
        self.guest.kill()
        self.assert_daemon_returns_to_idle()
        self.guest.start()
        self.assert_disk_is_sound()

    def test_guest_is_killed_with_requests_under_way(self):
        """qemu-storage-daemon finishes requests when a connection ends; with the memory taken away before, it crashes."""
        self.start_chain(reads_per_second=2)
        self.hold_requests()
        self.guest.kill()
        self.assertEqual(self.far.stop(), 0)


class Rebinding(Chain):
    """The guest's queue moves between qemu-storage-daemon and a software disk."""

    def move_to(self, device):
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", device)

    def read_much(self):
        """Reads more than a ring has room for."""
        self.guest.check("dd if=/dev/vda of=/dev/null bs=4k count=1000 iflag=direct 2>/dev/null")

    def test_queue_moves_there_and_back(self):
        self.start_chain(devices=("far", "soft"), connection="null:64M")
        for device in ("soft", "far", "soft"):
            self.read_much()
            self.move_to(device)
        self.read_much()
        self.assert_guest_saw_no_error()


if __name__ == "__main__":
    unittest.main()
