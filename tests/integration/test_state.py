"""What survives the daemon: where queues are bound, positions of packed rings; and records that cannot be used."""

import socket
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort, Port
from harness.guest import Nic

MAC = "52:54:00:ca:05:01"
HOST, GUEST = "192.0.2.1", "192.0.2.2"


class PackedRings(IntegrationCase):
    """QEMU keeps no record for a NIC, and where a packed ring stands cannot be read from it: only our own record says."""

    def test_guest_talks_again_after_each_kill(self):
        port = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC, devices=("a", "b"))
        daemon = self.start_daemon(port)
        host = self.start_host_peer(HOST)
        guest = self.start_guest("guest", Nic(port.socket, MAC, reconnect_ms=100, properties="packed=on"))
        guest.set_address(GUEST)
        guest.await_ping(HOST)
        daemon.rebind_queue_pair("net0", 0, "b")
        for _ in range(4):
            self.assertEqual(guest.ping(HOST, count=10), 10)
            daemon.kill()
            daemon.start()
            host.take_interface(self.tap_name(), HOST)
            guest.await_ping(HOST)
        shown = daemon.cli_json("port", "show", "net0")
        self.assertEqual([queue["device"] for queue in shown["queues"][:2]], ["b", "b"])
        self.assertEqual(shown["differences"], [])
        self.assertIn("the driver that it had is back", daemon.program.log.read_text())


class BadRecords(IntegrationCase):
    """A record that cannot be used keeps its port from serving, and no other, until somebody says what to do."""

    def setUp(self):
        super().setUp()
        self.ports = [DiskPort(name, self.folder / f"{name}.sock", "ram:1M") for name in ("disk0", "disk1")]
        self.daemon = self.start_daemon(*self.ports)
        self.daemon.kill()
        self.record = self.folder / "control.state" / "disk0.port"
        self.record.write_bytes(b"no record of ours at all")

    def states(self):
        return [port["state"] for port in self.daemon.cli_json("port", "list")["ports"]]

    @staticmethod
    def is_served(port):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(port.socket)) == 0

    def test_the_port_does_not_serve_until_it_is_told_to(self):
        self.daemon.start()
        self.assertEqual(self.states(), ["refused", "waiting"])
        self.assertFalse(self.is_served(self.ports[0]))
        self.assertTrue(self.is_served(self.ports[1]))
        self.assertIn(str(self.record), self.daemon.cli("port", "show", "disk0"))
        self.assertIn("port disk1 serves", self.daemon.try_cli("port", "discard-state", "disk1").stderr)
        self.daemon.cli("port", "discard-state", "disk0")
        self.assertEqual(self.states(), ["waiting", "waiting"])
        self.assertTrue(self.is_served(self.ports[0]))

    def test_all_can_be_discarded_at_start(self):
        self.daemon.program.add_arguments("--discard-state")
        self.daemon.start()
        self.assertEqual(self.states(), ["waiting", "waiting"])


if __name__ == "__main__":
    unittest.main()
