"""What a Linux guest's driver can do to its rings while they are in use."""

import unittest

from harness.case import IntegrationCase
from harness.daemon import Port
from harness.guest import Nic

ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")


class RingsOfAGuest(IntegrationCase):
    """Two guests on a switch; the first one's NIC has the properties under test."""

    def start_pair(self, properties):
        """Starts the daemon and two guests that reach each other; sets self.daemon and self.guests."""
        ports = [Port(f"net{n}", self.folder / f"net{n}.sock", mac=mac) for n, mac in enumerate(MACS)]
        self.daemon = self.start_daemon(*ports)
        self.guests = self.start_guests(*(self.make_guest(f"guest{n}", Nic(port.socket, port.mac, properties=of_nic))
                                          for n, (port, of_nic) in enumerate(zip(ports, (properties, "")))))
        for guest, address in zip(self.guests, ADDRESSES):
            guest.set_address(address)
        self.guests[0].await_ping(ADDRESSES[1])

    def test_size_stays_where_qemu_cannot_reset_a_ring(self):
        """Over vhost-user QEMU resets a ring without a word to its back-end, so that it must not be offered."""
        self.start_pair("packed=on")
        self.assertNotEqual(self.guests[0].run("ethtool -G eth0 rx 128 tx 128").code, 0)
        self.assertEqual(self.guests[0].ping(ADDRESSES[1], count=20, interval=0.02), 20)

    def test_platform_addresses_without_an_iommu(self):
        self.start_pair("iommu_platform=on")
        # QEMU keeps the bit to itself where there is no IOMMU.
        self.assertEqual(self.guests[0].check("cut -c34 /sys/class/net/eth0/device/features").strip(), "1")
        self.assertEqual(self.guests[0].ping(ADDRESSES[1], count=20, size=1400, interval=0.02), 20)


if __name__ == "__main__":
    unittest.main()
