"""NICs and disks behind a guest's IOMMU: Linux maps what it gives to them, and takes it back."""

import json
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort, Port
from harness.disk_soak import DiskSoak
from harness.guest import BEHIND_IOMMU, Disk, Nic
from harness.transfer import Transfer

ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
MIB = 1 << 20


class IommuCase(IntegrationCase):
    """A guest with an IOMMU."""

    def assert_was_translated(self, daemon, port):
        shown = daemon.cli_json("port", "show", port)
        self.assertIn("access_platform", shown["features_negotiated"])
        known = {name: int(value) for name, value in shown["translation"].items()}
        print(f"{known['hits']} hits, {known['misses']} misses, {known['invalidations']} invalidations,", end=" ", flush=True)
        self.assertGreater(known["hits"], 100)
        self.assertGreater(known["updates"], 0)


class NicBehindIommu(IommuCase):
    """The one guest's NIC is behind its IOMMU, the other's is not."""

    def start_pair(self, mappings, properties=""):
        ports = [Port(f"net{n}", self.folder / f"net{n}.sock", mac=mac, devices=("soft-a", "soft-b")) for n, mac in enumerate(MACS)]
        self.daemon = self.start_daemon(*ports)
        nics = [Nic(port.socket, port.mac, properties=more) for port, more in zip(ports, (BEHIND_IOMMU + properties, ""))]
        self.guests = self.start_guests(self.make_guest("guest0", nics[0], iommu=True, mappings=mappings),
                                        self.make_guest("guest1", nics[1]))
        for guest, address in zip(self.guests, ADDRESSES):
            guest.set_address(address)
        self.guests[0].await_ping(ADDRESSES[1])

    def assert_streams_arrive(self, **options):
        for sender in (0, 1):
            Transfer(self.guests[sender], ADDRESSES[sender], self.guests[1 - sender], **options).finish()
        self.assert_was_translated(self.daemon, "net0")

    def test_strict_packed(self):
        """Rings of so many pages lie anywhere in the guest's memory."""
        self.start_pair("strict", ",packed=on,rx_queue_size=1024,tx_queue_size=1024")
        self.assert_streams_arrive(block_mib=1)

    def test_passthrough(self):
        self.start_pair("passthrough")
        self.assert_streams_arrive()


class DiskBehindIommu(IommuCase):
    """A disk behind its guest's IOMMU."""

    def start_disk(self, mappings, properties="", reconnect_ms=0):
        image = self.folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{image}")
        self.daemon = self.start_daemon(port)
        disk = Disk(port.socket, reconnect_ms=reconnect_ms, properties=BEHIND_IOMMU + properties)
        self.guest = self.start_guest("guest", disk, iommu=True, mappings=mappings)

    def assert_disk_works(self):
        report = json.loads(self.guest.check("blk_check soak /dev/vda 8 2000 3", 60).splitlines()[-1])
        self.assertEqual(report["errors"], 0)
        self.assertGreater(report["writes"], 100)
        print(report["writes"], "writes,", end=" ")
        self.assert_was_translated(self.daemon, "disk0")

    def test_strict(self):
        self.start_disk("strict", ",queue-size=1024")
        self.assert_disk_works()

    def test_lazy(self):
        self.start_disk("lazy")
        self.assert_disk_works()

    def test_daemon_killed(self):
        """What it knew of the IOMMU goes with it; what was in flight does not."""
        self.start_disk("strict", ",packed=on", reconnect_ms=100)
        soak = DiskSoak(self.guest)
        for _ in range(4):
            soak.await_progress()
            self.daemon.kill()
            self.daemon.start()
        soak.finish()

    def test_passthrough(self):
        self.start_disk("passthrough")
        self.assert_disk_works()


if __name__ == "__main__":
    unittest.main()
