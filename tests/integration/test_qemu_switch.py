"""Two Linux guests talk to each other through the switch of causewayd."""

import unittest

from harness.case import IntegrationCase
from harness.daemon import Port
from harness.guest import Nic
from harness.shared_case import SharedCase
from harness.transfer import Transfer

ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
LEAST_REBINDS = 50


class SwitchCase(IntegrationCase):
    """Two guests that reach each other."""

    def start_pair(self, queue_pairs=1, cpus=1, devices=("soft",), properties=("", "")):
        """Starts the daemon and two guests that reach each other; sets self.daemon and self.guests."""
        ports = [Port(f"net{n}", self.folder / f"net{n}.sock", queue_pairs=queue_pairs, mac=mac, devices=devices)
                 for n, mac in enumerate(MACS)]
        self.daemon = self.start_daemon(*ports)
        self.guests = self.start_guests(
            *(self.make_guest(f"guest{n}", Nic(port.socket, port.mac, queue_pairs, properties=of_nic), cpus=cpus)
              for n, (port, of_nic) in enumerate(zip(ports, properties))))
        for guest, address in zip(self.guests, ADDRESSES):
            guest.set_address(address)
            if queue_pairs > 1:
                guest.run(f"ethtool -L eth0 combined {queue_pairs}")  # fails when that is so already
        self.guests[0].await_ping(ADDRESSES[1])

    def transfer(self, sender, **options):
        """A stream from guest `sender` to the other one."""
        return Transfer(self.guests[sender], ADDRESSES[sender], self.guests[1 - sender], **options)

    def assert_stream_survives_rebinds(self, sender):
        """A stream arrives unchanged while all queues are moved to and fro."""
        stream, rebinds = self.transfer(sender, times=8), 0
        while rebinds < LEAST_REBINDS or not stream.is_done():
            for port in ("net0", "net1"):
                self.daemon.rebind_queue_pair(port, 0, ("soft-b", "soft-a")[rebinds % 2])
            rebinds += 1
        stream.finish()
        for port in ("net0", "net1"):
            self.daemon.rebind_queue_pair(port, 0, "soft-a")
        self.assertEqual(self.guests[0].ping(ADDRESSES[1], count=20), 20)


class TwoGuestsOnASwitch(SharedCase, SwitchCase):
    """Every byte that one guest sends arrives at the other, whatever happens to the queues meanwhile."""

    def share(self):
        self.start_pair(devices=("soft-a", "soft-b"))

    def assert_as_found(self):
        self.assertEqual(self.guests[0].ping(ADDRESSES[1]), 5)
        for port in ("net0", "net1"):
            shown = self.daemon.cli_json("port", "show", port)
            self.assertEqual(shown["state"], "running")
            self.assertEqual([queue["device"] for queue in shown["queues"][:2]], ["soft-a", "soft-a"])

    def test_no_ping_is_lost(self):
        self.assertEqual(self.guests[0].ping(ADDRESSES[1], count=100, interval=0.02), 100)
        self.assertEqual(self.guests[1].ping(ADDRESSES[0], count=20, size=1472), 20)

    def test_stream_arrives_unchanged_both_ways(self):
        self.transfer(sender=0, times=8).finish()
        self.transfer(sender=1, times=8).finish()

    def test_stream_survives_rebinds_of_its_queues(self):
        self.assert_stream_survives_rebinds(sender=0)


class RingsOnASwitch(SwitchCase):
    """The same with several queue pairs, and with rings of two layouts."""

    def test_streams_over_four_queue_pairs_arrive_unchanged(self):
        self.start_pair(queue_pairs=4, cpus=4)
        streams = [self.transfer(sender=n % 2, block_mib=4, port=5000 + n) for n in range(8)]
        for stream in streams:
            stream.finish()
        for guest in self.guests:
            counters = guest.check("ethtool -S eth0")
            used = [n for n in range(4) if f"tx_queue_{n}_packets: 0\n" not in counters]
            self.assertGreater(len(used), 1, f"{guest.name} sent on one queue only:\n{counters}")

    def test_packed_and_split_rings_meet(self):
        self.start_pair(devices=("soft-a", "soft-b"), properties=("packed=on", ""))
        self.assertIn("ring_packed", self.daemon.cli_json("port", "show", "net0")["features_negotiated"])
        self.assertNotIn("ring_packed", self.daemon.cli_json("port", "show", "net1")["features_negotiated"])
        for sender in (0, 1):
            self.assert_stream_survives_rebinds(sender)


if __name__ == "__main__":
    unittest.main()
