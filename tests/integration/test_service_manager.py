"""systemctl restart: what the daemon leaves in its manager's descriptor store, the next process goes on with."""

import os
import unittest

from harness.case import IntegrationCase
from harness.daemon import Causewayd, DiskPort, Port
from harness.disk_soak import DiskSoak
from harness.guest import Disk, Nic
from harness.process import wait_for
from harness.service_manager import ServiceManager

MAC = "52:54:00:ca:07:01"
HOST, GUEST = "192.0.2.1", "192.0.2.2"
RESTARTS = 5


class Restart(IntegrationCase):
    """A guest with a disk in memory and a NIC on a tap: neither would survive a restart without the store."""

    def setUp(self):
        super().setUp()
        self.manager = ServiceManager(self.folder)
        self.disk = DiskPort("disk0", self.folder / "disk0.sock", "ram:64M")
        self.nic = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC)
        self.daemon = Causewayd(self.folder, [self.disk, self.nic])
        self.daemon.program.manage_by(self.manager)
        self.addCleanup(self.daemon.kill)
        self.daemon.start()
        self.start_host_peer(HOST)
        self.guest = self.start_guest("guest", Nic(self.nic.socket, MAC), Disk(self.disk.socket), cpus=2)
        self.guest.set_address(GUEST)
        self.guest.await_ping(HOST)

    def restart(self):
        self.daemon.stop()
        self.assertIn("causeway-bytes", [name for name, _ in self.manager.stored])
        self.daemon.start()
        wait_for(lambda: not self.manager.stored, 10, "nothing stays in the store")

    def test_guest_sees_no_disconnect(self):
        soak = DiskSoak(self.guest, threads=4, blocks=1000)
        for _ in range(RESTARTS):
            self.restart()
            self.assertEqual(self.guest.ping(HOST, count=5), 5)
        soak.finish()
        log = self.daemon.program.log.read_text()
        self.assertEqual(log.count("front-end connected"), 2)
        self.assertNotIn("front-end disconnected", log)
        self.assertIn({"READY": "1"}, self.manager.said)

    def test_what_does_not_fit_is_not_used(self):
        self.daemon.stop()
        os.close(self.manager.stored.pop(0)[1])  # one descriptor is lost
        self.manager.delay = 0.05  # its copies of the listening sockets are open for a while
        self.daemon.start()
        self.assertIn("descriptors are missing", self.daemon.program.log.read_text())
        self.assertEqual([port["state"] for port in self.daemon.cli_json("port", "list")["ports"]], ["waiting"] * 2)


if __name__ == "__main__":
    unittest.main()
