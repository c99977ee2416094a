"""causewayd drives PCI functions through the kernel's VFIO, in a guest with an IOMMU, for a front-end in the same guest.

The functions are QEMU's own virtio devices: plain ones, that say nothing of their rings."""

import struct
import unittest
from dataclasses import dataclass

from harness.case import IntegrationCase
from harness.daemon import DiskPort, Port
from harness.guest import PciSlot
from harness.guest_daemon import FOLDER, PROGRAMS, FrontEnd, GuestDaemon
from harness.process import wait_for

COMMON = "disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on"
BLOCK = 4096
BLOCKS = 256


@dataclass(frozen=True)
class Extra:
    """Further arguments of QEMU."""

    arguments: tuple

    def qemu_arguments(self, number):
        """These."""
        del number
        return list(self.arguments)


class VfioCase(IntegrationCase):
    """One guest, and functions in it that are bound to vfio-pci."""

    kvm = False  # in the guest

    def guest_options(self):
        """More, or other, options of the guest."""
        return {}

    def start(self, *slots, more):
        # One processor: with two, QEMU 10.0 fails an assertion now and then when a function changes its driver under TCG.
        options = {"memory_mib": 512, **self.guest_options()}
        self.guest = self.start_guest("guest", *slots, Extra(more), iommu=True, kvm=self.kvm, programs=PROGRAMS, **options)
        self.addresses = [self.guest.function_address(slot) for slot in range(len(slots))]
        for address in self.addresses:
            self.guest.bind_function(address, "vfio-pci")

    def start_causeway(self, *ports):
        self.daemon = GuestDaemon(self.guest, *ports)
        self.addCleanup(self.keep_daemon_log)

    def keep_daemon_log(self):
        (self.folder / "guest-causewayd.log").write_text(self.daemon.log())

    def function(self, number):
        return (f"acc{number}", {"kind": "vfio", "address": self.addresses[number]})


class DiskCase(VfioCase):
    """A port whose disk is a function. The function's disk is the software's too: QEMU gives the guest the same image a second time."""

    options = ()  # further keys of the port
    front_end = "disk"

    def setUp(self):
        super().setUp()
        self.image = self.folder / "image"
        self.image.write_bytes(bytes(BLOCK * BLOCKS))
        self.start(PciSlot((f"virtio-blk-pci,drive=image,share-rw=on,num-queues=2,vectors=4,{COMMON}",)),
                   more=("-blockdev", f"driver=file,filename={self.image},node-name=image",
                         "-device", "virtio-blk-pci,drive=image,share-rw=on,addr=0x9,disable-legacy=on"))
        disk = self.guest.check("cd /sys/bus/pci/devices/0000:00:09.0 && echo virtio*/block/*").strip().split("/")[-1]
        self.socket = f"{FOLDER}/disk0.sock"
        self.start_causeway(DiskPort("disk0", self.socket, f"file:/dev/{disk}", queues=2, devices=("acc0", "soft"),
                                     functions=(self.function(0),), more=(("direct", True), *self.options)))


    def start_front_end(self):
        return FrontEnd(self.guest, self.front_end, self.socket, BLOCKS)

    def finish(self, front_end):
        """Ends it, and looks into the image."""
        last, output = front_end.finish()
        wanted = b"".join(struct.pack("<QQ", block, last) * (BLOCK // 16) for block in range(BLOCKS))
        self.assertEqual(self.image.read_bytes(), wanted)
        self.assertGreater(int(output.split("rang ")[1].split()[0]), 0, "no doorbell of the function was rung by the front-end")

    def paths(self):
        return {queue["path"] for queue in self.daemon.show("disk0")["queues"]}

    def devices(self):
        return [item["name"] for item in self.guest.qmp.execute("qom-list", path="/machine/peripheral")]

    def unplug(self):
        """Takes the function out of the guest, and waits until it is out."""
        self.guest.qmp.execute("device_del", id="slot0.0")
        wait_for(lambda: "slot0.0" not in self.devices(), 30, "QEMU has taken the function out", self.guest.program)


class Disk(DiskCase):
    """Moves of a disk's queues."""

    def assert_direct(self, front_end):
        """The front-end rings the function's doorbells itself, and nobody passes kicks on."""
        def queues():
            return self.daemon.show("disk0")["queues"]

        wait_for(lambda: {queue["doorbell"] for queue in queues()} == {"accepted"}, 30, "doorbells are taken", self.guest.program)
        before = [queue["counters"] for queue in queues()]
        front_end.await_rounds(2)
        self.assertEqual([queue["counters"] for queue in queues()], before)

    def test_moves(self):
        front_end = self.start_front_end()
        self.daemon.await_devices("disk0", "acc0")
        self.assert_direct(front_end)
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "soft")
        self.daemon.await_devices("disk0", "soft")
        front_end.await_rounds(2)
        refused = self.daemon.try_cli("port", "rebind", "disk0", "--all", "--device", "acc0", "--path", "direct")
        self.assertNotEqual(refused.code, 0)
        self.assertIn("cannot go on with a ring that is in use", refused.output)
        front_end.await_rounds(2)
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "acc0")
        self.daemon.await_devices("disk0", "acc0")
        self.assertEqual(self.paths(), {"relay"})
        front_end.await_rounds(2)
        self.finish(front_end)
        front_end = self.start_front_end()
        self.daemon.await_devices("disk0", "acc0")
        self.assertEqual(self.paths(), {"direct"})
        front_end.await_rounds(2)
        self.finish(front_end)

    def test_one_queue(self):
        front_end = self.start_front_end()
        self.daemon.await_devices("disk0", "acc0")
        self.daemon.cli("port", "rebind", "disk0", "--queue", "0", "--device", "soft")
        self.daemon.await_log("is back")  # both have left it: the function's disk is reset as a whole
        wait_for(lambda: self.daemon.devices_of("disk0") == {"soft", "acc0"}, 30, "the other queue is back", self.guest.program)
        front_end.await_rounds(2)
        self.finish(front_end)

    def test_unplug(self):
        front_end = self.start_front_end()
        self.daemon.await_devices("disk0", "acc0")
        self.unplug()
        self.daemon.await_devices("disk0", "soft")
        front_end.await_rounds(2)
        self.guest.qmp.execute("device_add", driver="virtio-blk-pci", id="slot0.0", bus="port0", drive="image",
                               **{"share-rw": True, "num-queues": 2, "vectors": 4, "disable-legacy": "on", "iommu_platform": True,
                                  "ats": True, "page-per-vq": True})
        path = f"/sys/bus/pci/devices/{self.addresses[0]}/driver"
        wait_for(lambda: self.guest.run(f"test -e {path}").code == 0, 30, "the function is there again", self.guest.program)
        self.guest.bind_function(self.addresses[0], "vfio-pci")
        self.daemon.await_log("is back")
        self.daemon.await_devices("disk0", "acc0")
        self.assertEqual(self.paths(), {"relay"})
        front_end.await_rounds(2)
        self.finish(front_end)
        front_end = self.start_front_end()
        self.daemon.await_devices("disk0", "acc0")
        front_end.await_rounds(2)
        self.finish(front_end)


class VfioGroups(DiskCase):
    """The function's VFIO group goes to a front-end that gives it to KVM."""

    kvm = True
    options = (("vfio-groups", True),)
    front_end = "kvm"

    def await_said(self, front_end, *lines):
        """Waits until the front-end has said this, and nothing else, of groups."""
        def said():
            return tuple(line for line in front_end.output().splitlines() if line.startswith("group "))

        wait_for(lambda: said() == lines, 60, f"the front-end says {lines}", self.guest.program)

    added = "group added, in use, known to KVM"
    removed = "group removed, unknown to KVM"

    def test_goes_to_kvm_and_back(self):
        front_end = self.start_front_end()
        self.await_said(front_end, self.added)
        front_end.await_rounds(2)
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "soft")
        self.daemon.await_devices("disk0", "soft")
        self.await_said(front_end, self.added, self.removed)
        front_end.await_rounds(2)
        self.finish(front_end)
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "acc0")
        front_end = self.start_front_end()
        self.await_said(front_end, self.added)
        _, output = front_end.finish()
        self.assertIn("queues with a group: 2", output)

    def test_does_not_hold_the_function(self):
        front_end = self.start_front_end()
        self.await_said(front_end, self.added)
        self.unplug()
        self.await_said(front_end, self.added, self.removed)
        front_end.await_rounds(2)
        self.finish(front_end)

    def test_stays_here_unless_the_front_end_asks(self):
        front_end = FrontEnd(self.guest, "disk", self.socket, BLOCKS)
        front_end.await_rounds(2)
        _, output = front_end.finish()
        self.assertIn("queues with a group: 0", output)


class Net(VfioCase):
    """Two functions on a hub of QEMU's; the software of both ports is on a switch."""

    def test_moves(self):
        self.assert_moves()

    def test_moves_of_functions_that_reset_only_as_a_whole(self):
        self.assert_moves(",queue_reset=off")

    def assert_moves(self, properties=""):
        nic = f"virtio-net-pci,romfile=,vectors=4,{COMMON}{properties}"
        hub = tuple(word for n in range(2) for word in ("-netdev", f"hubport,id=hub{n},hubid=0"))
        self.start(*(PciSlot((f"{nic},netdev=hub{n},mac=52:54:00:00:00:0{n + 2}",)) for n in range(2)), more=hub)
        sockets = [f"{FOLDER}/net{n}.sock" for n in range(2)]
        self.start_causeway(*(Port(f"net{n}", socket, mac=f"52:54:00:00:00:0{n + 2}", devices=(f"acc{n}", "soft"),
                                   functions=(self.function(n),)) for n, socket in enumerate(sockets)))
        front_end = FrontEnd(self.guest, "net", *sockets)
        self.assert_on("acc")
        front_end.await_rounds(2)
        self.move("soft")
        self.assert_on("soft")
        front_end.await_rounds(2)
        front_end.finish()
        self.move("acc")
        front_end = FrontEnd(self.guest, "net", *sockets)
        self.assert_on("acc")
        front_end.await_rounds(2)
        front_end.finish()

    def name(self, device, number):
        return f"acc{number}" if device == "acc" else device

    def move(self, device):
        for n in range(2):
            self.daemon.cli("port", "rebind", f"net{n}", "--all", "--device", self.name(device, n))

    def assert_on(self, device):
        for n in range(2):
            self.daemon.await_devices(f"net{n}", self.name(device, n))


if __name__ == "__main__":
    unittest.main()
