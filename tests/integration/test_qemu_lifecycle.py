"""A guest reboots, unbinds its driver, grows its memory, or dies: its port goes on, and the daemon keeps nothing."""

import unittest

from harness.case import IntegrationCase
from harness.daemon import Port
from harness.guest import Nic
from harness.process import wait_for

GUEST, HOST = "10.0.1.2", "10.0.1.1"
MAC = "52:54:00:00:01:01"


class GuestLifecycle(IntegrationCase):
    """The guest talks to the host over a tap, before and after."""

    def setUp(self):
        super().setUp()
        self.port = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC)
        self.daemon = self.start_daemon(self.port)
        self.start_host_peer(HOST)
        self.idle_fds = self.daemon.fd_count()
        self.guest = self.start_guest("guest", Nic(self.port.socket, MAC), memory_slots=2)
        self.assert_traffic()

    def assert_traffic(self):
        self.guest.set_address(GUEST)
        self.guest.await_ping(HOST)
        self.assertEqual(self.guest.ping(HOST, count=30, size=1000), 30)

    def assert_daemon_returns_to_idle(self):
        def is_idle():
            return self.daemon.fd_count() == self.idle_fds and self.daemon.guest_mapping_count() == 0

        wait_for(is_idle, 20, f"causewayd has {self.idle_fds} descriptors and no guest memory", self.daemon.program)

    def test_guest_reboots(self):
        busy_fds, busy_mappings = self.daemon.fd_count(), self.daemon.guest_mapping_count()
        for _ in range(2):
            self.guest.reboot()
            self.assert_traffic()
        self.assertEqual(self.daemon.fd_count(), busy_fds)
        self.assertEqual(self.daemon.guest_mapping_count(), busy_mappings)
        self.guest.stop()
        self.assert_daemon_returns_to_idle()

    def test_driver_is_unbound_and_bound(self):
        device = self.guest.check("basename $(readlink /sys/class/net/eth0/device)").strip()
        for _ in range(3):
            self.guest.check(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/unbind")
            self.assertNotEqual(self.guest.run("test -e /sys/class/net/eth0").code, 0, "eth0 is still there")
            self.guest.check(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/bind")
            self.assert_traffic()

    def test_memory_is_plugged_in(self):
        mappings = self.daemon.guest_mapping_count()
        self.guest.add_memory(128)
        self.assert_traffic()
        self.assertGreater(self.daemon.guest_mapping_count(), mappings)
        self.guest.add_memory(128)
        self.assert_traffic()

    def test_qemu_is_killed_and_started_again(self):
        for _ in range(2):
            self.guest.kill()
            self.assert_daemon_returns_to_idle()
            self.guest.start()
            self.assert_traffic()
        self.guest.stop()
        self.assert_daemon_returns_to_idle()


class DaemonLifecycle(IntegrationCase):
    """The daemon dies under a running guest and comes back: the guest sees a pause."""

    def test_guest_that_reconnects_talks_again(self):
        self.kill_daemon_under_guest("server", listen=False, reconnect_ms=200)

    def test_guest_that_listens_talks_again(self):
        self.kill_daemon_under_guest("client", listen=True)

    def kill_daemon_under_guest(self, role, **nic_options):
        port = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC, role=role)
        daemon = self.start_daemon(port)
        host = self.start_host_peer(HOST)
        guest = self.start_guest("guest", Nic(port.socket, MAC, **nic_options))
        guest.set_address(GUEST)
        guest.await_ping(HOST)
        daemon.kill()
        daemon.start()
        host.take_interface(self.tap_name(), HOST)
        guest.await_ping(HOST)
        self.assertEqual(guest.ping(HOST, count=20), 20)


if __name__ == "__main__":
    unittest.main()
