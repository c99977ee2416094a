"""The doorbell through everything: a guest inside a guest rings the BAR page of a function that causewayd drives through VFIO.

The outer guest has an IOMMU and QEMU's own virtio-blk function, which causewayd has on its port; the inner one, whose QEMU
runs in the outer, has that port as its disk. Takes some minutes, so it is part of `make soak` alone."""

import json
import re
import struct
import unittest
from pathlib import Path

from harness.guest import Share
from harness.process import wait_for
from harness.vm_parts import custom_initramfs, vm_folder
from test_vfio_accelerator import BLOCK, BLOCKS, DiskCase

QEMU = "qemu/usr/bin/qemu-system-x86_64"
INNER_MIB = 256
SECONDS = 60  # of writes in the inner guest
SECONDS_BETWEEN_LOOKS = 5
BOOT_LIMIT = 500
INNER_MODULES = ("virtio_pci", "virtio_blk")
INIT = Path(__file__).parent / "harness/nested_init.sh"
CONSOLE = "/tmp/inner.console"


class NestedDoorbell(DiskCase):
    """The inner guest's console is a file in the outer one, and its disk's image one of the host's."""

    def guest_options(self):
        share = self.folder / "share"
        share.mkdir()
        custom_initramfs(share / "initramfs", INIT, INNER_MODULES, ("blk_check",))
        return {"memory_mib": 1536, "files": (f"{vm_folder() / QEMU}:/bin/qemu",),
                "shares": (Share("parts", vm_folder().resolve()), Share("inner", share))}

    def start_inner(self):
        words = ["qemu", "-L /parts/qemu/usr/share/qemu -L /parts/qemu/usr/share/seabios", "-accel tcg -cpu qemu64 -machine q35",
                 "-display none -nodefaults -no-reboot", f"-serial file:{CONSOLE}",
                 f"-m {INNER_MIB}M -object memory-backend-memfd,id=ram,size={INNER_MIB}M,share=on -machine memory-backend=ram",
                 "-kernel /parts/vmlinux -initrd /inner/initramfs",
                 f"-append 'console=ttyS0 quiet mitigations=off panic=-1 check_seconds={SECONDS} check_blocks={BLOCKS}'",
                 f"-chardev socket,id=disk,path={self.socket}",
                 "-device vhost-user-blk-pci,chardev=disk,num-queues=1,disable-legacy=on,page-per-vq=on"]
        return self.guest.spawn(" ".join(words))

    def console(self):
        """What the inner guest has said; seconds later, as each look at it takes processor time from it."""
        return self.guest.run(f"sleep {SECONDS_BETWEEN_LOOKS}; cat {CONSOLE}").output

    def rounds(self):
        """How many times the inner guest has written all blocks."""
        return self.console().count("flushed 0 ")

    def await_rounds(self, count, limit):
        wait_for(lambda: self.rounds() >= count, limit, f"the inner guest has done {count} rounds", self.guest.program)

    def queue(self):
        """The queue that the inner guest uses."""
        return self.daemon.show("disk0")["queues"][0]

    def keep_console(self):
        (self.folder / "inner-console.log").write_text(self.console())

    def test_a_guest_in_a_guest_rings_the_function(self):
        inner = self.start_inner()
        self.addCleanup(self.keep_console)
        self.await_rounds(1, BOOT_LIMIT)
        before = self.queue()
        self.assertEqual((before["device"], before["doorbell"]), ("acc0", "accepted"))
        self.await_rounds(self.rounds() + 2, 200)
        self.assertEqual(self.queue()["counters"], before["counters"], "kicks came by way of the daemon")
        self.assertEqual(self.queue()["doorbell"], "accepted")
        wait_for(lambda: "blk_check: {" in self.console(), 300, "the inner guest has verified its disk", self.guest.program)
        inner.wait(60)
        report = json.loads(re.search("blk_check: ({.*})", self.console())[1])
        print(f"{report['writes']} writes, {report['reads']} reads, longest request {report['longest_ms']} ms", end=" ")
        self.assertEqual(report["errors"], 0)
        self.assert_image_has(self.rounds())

    def assert_image_has(self, round_number):
        """Every block in the host's file is the one with its number, of that round or the one that was begun after it."""
        data = self.image.read_bytes()
        for block in range(BLOCKS):
            number, written = struct.unpack_from("<QQ", data, block * BLOCK)
            self.assertEqual(number, block)
            self.assertIn(written, (round_number, round_number + 1))


if __name__ == "__main__":
    unittest.main()
