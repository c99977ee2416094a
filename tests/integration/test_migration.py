"""A busy guest moves to another QEMU, whose devices another causewayd serves, from any Device to any other."""

import json
import re
import sys
import unittest
from dataclasses import dataclass
from pathlib import Path

from harness.case import IntegrationCase
from harness.daemon import Causewayd, DiskPort, Port
from harness.disk_soak import DiskSoak
from harness.guest import BEHIND_IOMMU, Disk, Nic
from harness.netns import Host, Namespace
from harness.process import wait_for
from harness.transfer import ENDLESS, Transfer

MIB = 1 << 20
CRAWL = 2 * MIB  # bytes per second: a migration that does not end before it is ended
PING_MS = 10
ANNOUNCEMENTS = Path(__file__).parent / "harness/announcements.py"
NOT_PACKED = (("features-off", ["ring_packed"]),)


@dataclass(frozen=True)
class Side:
    """A host: its daemon, the device of the guest that it serves, and where it is."""

    daemon: Causewayd
    port: str
    device: object
    namespace: Namespace = None
    address: str = None

    def path(self):
        """The path of the port's first queue."""
        return self.daemon.cli_json("port", "show", self.port)["queues"][0]["path"]

    def message_ms(self):
        """How long the daemon has worked for QEMU's messages so far, by its log: a list of their names and milliseconds."""
        return [(name, int(us) / 1000) for name, us in
                re.findall(r"port \w+: (\w+) done in (\d+) us", self.daemon.program.log.read_text())]

    def await_log(self, is_kept):
        """Waits until the pages that are written are logged, or no longer."""
        wait_for(lambda: self.daemon.cli_json("port", "show", self.port)["logging"] == is_kept, 30,
                 f"{self.port} logs" if is_kept else f"{self.port} logs no more", self.daemon.program)


class MigrationCase(IntegrationCase):
    """Doorbell pages are withdrawn where the log begins, and offered again where it ends."""

    moves_doorbells = True

    def accelerate(self, folder, function, namespace=None):
        """Starts an accelerator that is this function; returns what a port takes to have it in front of its software."""
        folder = folder / "accelerator"
        folder.mkdir()
        self.start_daemon(function, folder=folder, namespace=namespace)
        return {"devices": ("acc", "soft"),
                "functions": (("acc", {"kind": "vfio-user", "socket": str(function.socket)}),)}

    def move(self, guest, source, target):
        """Moves the guest from one side to the other, which is asked before."""
        source.daemon.cli("port", "can-migrate", source.port, "--to", target.daemon.control, "--as", target.port)
        before = [len(side.message_ms()) for side in (source, target)]
        answer = guest.migrate([target.device], target.namespace, target.address)
        # The guest stands still while its rings are stopped here, and for what its new QEMU says once it has its state.
        stops = sum(ms for name, ms in source.message_ms()[before[0]:] if name == "GET_VRING_BASE")
        messages = target.message_ms()[before[1]:]
        begin = next(number for number, (name, _) in enumerate(messages) if name == "SET_MEM_TABLE" or name == "ADD_MEM_REG")
        starts = sum(ms for _, ms in messages[begin:])
        print(f"{answer['downtime']} ms of downtime, {stops:.1f} and {starts:.1f} of it ours,", end=" ", flush=True)
        self.assertIn("written pages are logged", source.daemon.program.log.read_text())

    def begin_and_end(self, guest, source, target, end):
        """A migration that comes to nothing: the guest goes on where it is, on an accelerator. `end`: a function of Migration's."""
        migration = guest.begin_migration([target.device], target.namespace, target.address, bytes_per_second=CRAWL)
        source.await_log(True)
        self.assertEqual(source.path(), "relay")
        refused = source.daemon.try_cli("upgrade")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("is being migrated", refused.stderr)
        getattr(migration, end)()
        source.await_log(False)
        self.assertEqual(source.path(), "direct")


class Migrations:
    """The tests of one kind of device. `start(first, second, properties, of_function)` has a guest work on the first of two sides, each
    with an accelerator or not; `await_progress` waits until more has been done; `finish` ends the work, all of which must be right."""

    def assert_migrates(self, first, second, properties="", path="direct", of_function=()):
        """There and back, under load; `path`: of the second side."""
        self.start(first, second, properties, of_function)
        for source, target, wanted in ((*self.sides, path), (*self.sides[::-1], "direct")):
            self.move(self.guest, source, target)
            self.assertEqual(target.path(), wanted)
            self.await_progress()
        self.finish()

    def test_software_to_software(self):
        self.assert_migrates(False, False)

    def test_software_to_accelerator(self):
        self.assert_migrates(False, True)

    def test_accelerator_to_accelerator_packed(self):
        self.assert_migrates(True, True, ",packed=on")

    def test_accelerator_to_one_of_another_ring_layout(self):
        self.assert_migrates(True, True, ",packed=on", path="relay", of_function=NOT_PACKED)

    def test_behind_an_iommu(self):
        """From an accelerator, which is relayed there, to software and back."""
        self.start(True, False, f",{BEHIND_IOMMU}", iommu=True, mappings="strict")
        for source, target, path in ((*self.sides, self.SOFTWARE_BEHIND_IOMMU), (*self.sides[::-1], "relay")):
            self.move(self.guest, source, target)
            self.assertEqual(target.path(), path)
            self.await_progress()
        self.finish()

    def test_cancelled_then_failed_then_done(self):
        self.start(True, False)
        source, target = self.sides
        for end in ("cancel", "fail"):
            self.begin_and_end(self.guest, source, target, end)
            self.await_progress()
        self.move(self.guest, source, target)
        self.await_progress()
        self.finish()


class DiskMigration(Migrations, MigrationCase):
    """The disk is one image that both hosts have."""

    SOFTWARE_BEHIND_IOMMU = "direct"

    def start_side(self, name, accelerated, properties="", of_function=(), of_port=()):
        """A causewayd, and an accelerator for it; `of_function`, `of_port`: further keys of their ports."""
        folder = self.folder / name
        folder.mkdir()
        shared = (("shared", True),)
        devices = {}
        if accelerated:
            devices = self.accelerate(folder, DiskPort("f0", folder / "f0.sock", f"file:{self.image}",
                                                       more=(("transport", "vfio-user"), *shared, *of_function)))
        port = DiskPort("disk0", folder / "disk0.sock", f"file:{self.image}", more=(*shared, *of_port), **devices)
        return Side(self.start_daemon(port, folder=folder, log_level="debug"), port.name,
                    Disk(port.socket, properties=f"page-per-vq=on{properties}"))

    def start(self, first, second, properties="", of_function=(), of_port=(), **of_guest):
        self.image = self.folder / "disk.img"
        with self.image.open("wb") as file:
            file.truncate(64 * MIB)
        self.sides = [self.start_side("a", first, properties),
                      self.start_side("b", second, properties, of_function, of_port)]
        self.guest = self.start_guest("guest", self.sides[0].device, **of_guest)
        self.soak = DiskSoak(self.guest, threads=4, blocks=1000)
        self.await_progress()

    def await_progress(self):
        """Waits until clearly more is on the disk than was."""
        self.soak.await_progress()

    def finish(self):
        self.soak.finish()

    def go_before_memory(self):
        """The guest runs on the other side, while most of its memory is still to come."""
        self.start(True, False, of_port=(("postcopy", True),))
        source, target = self.sides
        migration = self.guest.begin_migration([target.device], bytes_per_second=CRAWL, postcopy=True)
        source.await_log(True)
        migration.go_before_memory(8 * MIB)
        refused = target.daemon.try_cli("upgrade")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("is being migrated", refused.stderr)
        return migration

    def test_before_its_memory(self):
        answer = self.go_before_memory().complete()
        print(f"{answer['downtime']} ms of downtime, {answer['ram']['postcopy-requests']} pages asked for,", end=" ", flush=True)
        self.assertGreater(answer["ram"]["postcopy-requests"], 0)
        self.finish()

    def test_before_its_memory_which_never_comes(self):
        self.go_before_memory().kill_destination()
        daemon = self.sides[1].daemon
        wait_for(lambda: daemon.cli_json("port", "show", "disk0")["state"] == "waiting", 30, "the daemon has noticed", daemon.program)


class NetMigration(Migrations, MigrationCase):
    """Two hosts and a third machine on one network: bridges of three network namespaces, one guest on one of the hosts."""

    SOFTWARE_BEHIND_IOMMU = "relay"  # where it receives
    GUEST, MAC, LAN = "10.0.3.10", "52:54:00:00:03:01", "10.0.3.3"

    def start_side(self, number, accelerated, properties="", of_function=()):
        """A host in a namespace of its own: a causewayd, and an accelerator for it, each with a tap on the host's bridge."""
        name = f"host{number}"
        namespace, address = self.create_namespace(name), f"10.0.3.{number}"
        namespace.add_bridge(address)
        namespace.connect(self.lan, f"cable{number}")
        folder = self.folder / name
        folder.mkdir()
        devices = {}
        if accelerated:
            devices = self.accelerate(folder, Port("f0", folder / "f0.sock", "tap:tap1", mac=self.MAC,
                                                   more=(("transport", "vfio-user"), *of_function)), namespace)
            namespace.plug("tap1")
        port = Port("net0", folder / "net0.sock", "tap:tap0", mac=self.MAC, **devices)
        daemon = self.start_daemon(port, folder=folder, namespace=namespace, log_level="debug")
        namespace.plug("tap0")
        return Side(daemon, port.name, Nic(port.socket, self.MAC, properties=f"page-per-vq=on{properties}"), namespace, address)

    def start(self, first, second, properties="", of_function=(), **of_guest):
        self.lan = self.create_namespace("lan")
        self.lan.add_bridge(self.LAN)
        self.sides = [self.start_side(1, first, properties), self.start_side(2, second, properties, of_function)]
        self.guest = self.start_guest("guest", self.sides[0].device, namespace=self.sides[0].namespace, **of_guest)
        self.guest.set_address(self.GUEST)
        self.guest.await_ping(self.LAN)
        self.peer = Host(self.lan, self.folder / "lan")
        self.addCleanup(self.peer.kill)
        self.stream = Transfer(self.guest, self.GUEST, self.peer, times=ENDLESS)
        self.pings = self.peer.spawn(f"/usr/bin/ping -i {PING_MS / 1000} {self.GUEST}")
        self.await_progress()

    def await_progress(self):
        """Waits until clearly more has come from the guest than had."""
        def received():
            return json.loads(self.lan.run("ip", "-s", "-j", "link", "show", "dev", "br0"))[0]["stats64"]["rx"]["bytes"]
        before = received()
        wait_for(lambda: received() >= before + 4 * MIB, 60, "the stream goes on")

    def move(self, guest, source, target):
        heard = self.peer.spawn(f"{sys.executable} {ANNOUNCEMENTS} br0 {self.MAC}")
        super().move(guest, source, target)
        wait_for(heard.output, 30, "the guest makes itself known where it has come", target.daemon.program)
        heard.kill()
        print(f"announced by {heard.output().split()[0]},", end=" ", flush=True)

    def finish(self):
        gap = self.longest_gap_ms(self.pings.interrupt())
        self.assertFalse(self.stream.is_done(), "the stream has ended before it was told to")
        self.stream.stop()
        print(f"{self.stream.finish().mib} MiB, {gap} ms without a ping answered", end=" ", flush=True)

    def longest_gap_ms(self, output):
        """Between answers, to the length of an interval."""
        answered = sorted({int(number) for number in re.findall(r"icmp_seq=(\d+)", output)})
        self.assertGreater(len(answered), 10, output)
        return PING_MS * max(b - a for a, b in zip(answered, answered[1:]))


if __name__ == "__main__":
    unittest.main()
