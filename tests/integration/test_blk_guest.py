"""A Linux guest on a disk of ours: file systems, discard, resize, reboot, a full image, a dead QEMU."""

import hashlib
import json
import subprocess
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort
from harness.guest import EXT4_MODULES, Disk
from harness.process import find_program, run, wait_for

MIB = 1 << 20


class DiskCase(IntegrationCase):
    """A daemon with one disk over an image file."""

    modules = ()  # of the guest's kernel

    def start_disk(self, image_mib=64, guest=None, cpus=1, properties="", **port_options):
        """Starts the daemon and a guest on its disk."""
        self.image = self.folder / "disk.img"
        self.make_image(image_mib)
        self.port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{self.image}", **port_options)
        self.daemon = self.start_daemon(self.port)
        self.idle_fds = self.daemon.fd_count()
        listen = self.port.role == "client"
        self.guest = self.start_guest(guest or "guest", Disk(self.port.socket, self.port.queues, listen=listen,
                                                             properties=properties), cpus=cpus, modules=self.modules)
        return self.guest

    def make_image(self, mib):
        with self.image.open("wb") as file:
            file.truncate(mib * MIB)

    def counters(self):
        """The disk's counters, summed over its queues."""
        total = {}
        for queue in self.daemon.cli_json("port", "show", "disk0")["queues"]:
            for name, value in queue["counters"].items():
                total[name] = total.get(name, 0) + int(value)
        return total

    def assert_file_system_is_clean(self):
        result = subprocess.run([find_program("e2fsck"), "-fn", self.image], capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def assert_daemon_returns_to_idle(self):
        def is_idle():
            return self.daemon.fd_count() == self.idle_fds and self.daemon.guest_mapping_count() == 0

        wait_for(is_idle, 20, f"causewayd has {self.idle_fds} descriptors and no guest memory", self.daemon.program)

    def check_disk(self, seconds=3, threads=8, blocks=2000, limit=60):
        """Runs blk_check in the guest, which must find nothing wrong; returns its report."""
        output = self.guest.check(f"blk_check soak /dev/vda {threads} {blocks} {seconds}", limit)
        return json.loads(output.splitlines()[-1])


class FileSystem(DiskCase):
    """mkfs, files, their checksums from both sides, e2fsck on the host; then every block of the raw disk."""

    modules = EXT4_MODULES

    def assert_disk_works(self):
        guest = self.guest
        guest.check("mkfs.ext4 -q /dev/vda && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt", 60)
        guest.check("dd if=/dev/urandom of=/mnt/data bs=64k count=200 2>/dev/null; sync", 60)
        before = guest.check("sha256sum </mnt/data")
        guest.check("umount /mnt && mount -t ext4 /dev/vda /mnt")
        guest.check("echo 3 >/proc/sys/vm/drop_caches")
        self.assertEqual(guest.check("sha256sum </mnt/data"), before)
        guest.check("umount /mnt")
        self.assert_file_system_is_clean()
        content = run("debugfs", "-R", "dump /data " + str(self.folder / "data"), self.image)
        self.assertEqual(content, "")
        on_host = hashlib.sha256((self.folder / "data").read_bytes()).hexdigest()
        self.assertEqual(before.split()[0], on_host)
        report = self.check_disk()
        self.assertEqual(report["errors"], 0)
        self.assertGreater(report["writes"], 100)
        counted = self.counters()
        self.assertGreaterEqual(counted["writes"], report["writes"])
        self.assertGreater(counted["flushes"], 0)
        self.assertEqual(counted["errors"], 0)

    def test_one_queue_split_direct(self):
        self.start_disk(more=(("direct", True), ("block-size", 4096), ("serial", "cw-42")))
        self.assertEqual(self.guest.check("cat /sys/block/vda/serial").strip(), "cw-42")
        self.assertEqual(self.guest.check("cat /sys/block/vda/queue/logical_block_size").strip(), "4096")
        self.assert_disk_works()

    def test_one_queue_packed(self):
        self.start_disk(properties="packed=on")
        self.assertIn("ring_packed", self.daemon.cli_json("port", "show", "disk0")["features_negotiated"])
        self.assert_disk_works()

    def test_four_queues_packed_on_two_workers(self):
        self.start_disk(queues=4, cpus=4, properties="packed=on")
        self.assert_disk_works()

    def test_four_queues_as_client(self):
        self.start_disk(queues=4, cpus=4, role="client")
        self.assertEqual(len(self.guest.check("ls /sys/block/vda/mq").split()), 4)
        self.assert_disk_works()


class Operation(DiskCase):
    """What an operator does to a disk while its guest runs."""

    def test_resize_is_seen_by_the_guest(self):
        self.start_disk(image_mib=32)
        self.make_image_larger(48)
        self.assertEqual(self.daemon.cli_json("port", "resize", "disk0")["capacity_bytes"], str(48 * MIB))
        sectors = str(48 * MIB // 512)
        wait_for(lambda: self.guest.check("cat /sys/block/vda/size").strip() == sectors, 20, "the guest sees the new size")
        self.guest.check("dd if=/dev/zero of=/dev/vda bs=1M seek=47 count=1 oflag=direct 2>/dev/null")

    def make_image_larger(self, mib):
        with self.image.open("r+b") as file:
            file.truncate(mib * MIB)

    def test_discard_gives_space_back(self):
        self.start_disk(image_mib=32)
        self.guest.check("dd if=/dev/urandom of=/dev/vda bs=1M count=16 oflag=direct 2>/dev/null", 60)
        full = self.image.stat().st_blocks
        self.guest.check("blkdiscard -l 8M /dev/vda")
        self.assertLess(self.image.stat().st_blocks, full - 8000)
        self.guest.check("discard -z -o 8M -l 8M /dev/vda")
        self.assertEqual(self.guest.check("head -c 16777216 /dev/vda | tr -d '\\0' | wc -c").strip(), "0")

    def test_queues_move_between_devices_under_load(self):
        self.start_disk(queues=2, cpus=2, devices=("a", "b"))
        job = self.guest.spawn("blk_check soak /dev/vda 8 2000 6")
        moves = 0
        while not job.is_done():
            self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "ba"[moves % 2])
            moves += 1
        self.assertEqual(json.loads(job.wait(60).splitlines()[-1])["errors"], 0)
        self.assertGreater(moves, 5)

    def test_read_only_disk_takes_no_write(self):
        self.image = self.folder / "disk.img"
        self.image.write_bytes(b"causeway" * (MIB // 8))
        self.port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{self.image}", more=(("read-only", True),))
        self.daemon = self.start_daemon(self.port)
        self.guest = self.start_guest("guest", Disk(self.port.socket))
        self.assertEqual(self.guest.check("cat /sys/block/vda/ro").strip(), "1")
        self.assertEqual(self.guest.check("head -c 8 /dev/vda"), "causeway")
        self.assertNotEqual(self.guest.run("dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct").code, 0)

    def test_guest_reboots_and_qemu_dies(self):
        self.start_disk()
        self.check_disk(seconds=1)
        self.guest.reboot()
        self.check_disk(seconds=1)
        self.guest.spawn("blk_check soak /dev/vda 8 2000 60")
        wait_for(lambda: self.counters()["writes"] > 5000, 30, "the guest writes", self.daemon.program)
        self.guest.kill()
        self.assert_daemon_returns_to_idle()
        self.guest.start()
        self.check_disk(seconds=1)


class FullImage(DiskCase):
    """The file system under the image has no room left."""

    def test_guest_sees_an_error_and_the_daemon_goes_on(self):
        small = self.folder / "small"
        small.mkdir()
        run("mount", "-t", "tmpfs", "-o", "size=8m", "none", small)
        self.addCleanup(run, "umount", "-l", small)
        self.folder_of_image = small
        image = small / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{image}")
        daemon = self.start_daemon(port)
        guest = self.start_guest("guest", Disk(port.socket))
        full = guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=32 oflag=direct", 60)
        self.assertNotEqual(full.code, 0, full.output)
        self.assertIn("No space left on device", daemon.program.log.read_text())
        guest.check("blkdiscard /dev/vda")
        guest.check("dd if=/dev/zero of=/dev/vda bs=1M count=4 oflag=direct 2>/dev/null")


if __name__ == "__main__":
    unittest.main()
