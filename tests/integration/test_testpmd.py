"""DPDK's virtio-user drives a port of causewayd that reflects what it is sent."""

import unittest

from harness.case import IntegrationCase
from harness.daemon import Port
from harness.process import wait_for
from harness.testpmd import virtio_user

# What virtio-user is told to ask for.
LAYOUTS = {
    "mergeable": {"mrg_rxbuf": 1, "in_order": 0},
    "plain": {"mrg_rxbuf": 0, "in_order": 0},
    "in-order": {"mrg_rxbuf": 0, "in_order": 1},
    "in-order mergeable": {"mrg_rxbuf": 1, "in_order": 1},
    "packed mergeable": {"packed_vq": 1, "mrg_rxbuf": 1, "in_order": 0},
    "packed in-order": {"packed_vq": 1, "mrg_rxbuf": 0, "in_order": 1},
}
BURSTS = 4
MANY = 20_000
DRIVER_CORE = 1


class TestpmdCase(IntegrationCase):
    """One daemon with one reflecting port, and testpmd as its driver."""

    def start_reflector(self, role="server", queue_pairs=1):
        self.port = Port("net0", self.folder / "net0.sock", connection="reflect", role=role, queue_pairs=queue_pairs)
        self.daemon = self.start_daemon(self.port)
        self.idle_fds = self.daemon.fd_count()

    def make_driver(self, name="driver", forward_mode="io", queue_pairs=1, **layout):
        listen = self.port.role == "client"
        device = virtio_user(self.port.socket, listen=listen, queues=queue_pairs, **layout)
        return self.make_testpmd(name, device, forward_mode=forward_mode, queue_pairs=queue_pairs, core=DRIVER_CORE,
                                 listens_on=self.port.socket if listen else None)

    def start_driver(self, **options):
        driver = self.make_driver(**options)
        driver.start()
        driver.await_link()
        return driver

    def assert_loops(self, driver):
        """Packets go round and round between driver and reflector, and in the end each has come back."""
        self.assertEqual(driver.loop(BURSTS, MANY)["RX-errors"], 0)

    def assert_daemon_returns_to_idle(self):
        def is_idle():
            return self.daemon.fd_count() == self.idle_fds and self.daemon.guest_mapping_count() == 0

        wait_for(is_idle, 20, f"causewayd has {self.idle_fds} descriptors and no guest memory", self.daemon.program)


class Forwarding(TestpmdCase):
    """Each ring layout that the driver asks for works in each way of forwarding."""

    def assert_all_layouts(self, forward_mode):
        self.start_reflector()
        for number, (name, layout) in enumerate(LAYOUTS.items()):
            with self.subTest(layout=name):
                driver = self.start_driver(name=f"driver{number}", forward_mode=forward_mode, **layout)
                self.assert_loops(driver)
                driver.quit()
                self.assert_daemon_returns_to_idle()

    def test_io(self):
        self.assert_all_layouts("io")

    def test_mac(self):
        self.assert_all_layouts("mac")

    def test_csum(self):
        self.assert_all_layouts("csum")

    def test_four_queue_pairs(self):
        self.start_reflector(queue_pairs=4)
        driver = self.start_driver(queue_pairs=4, **LAYOUTS["mergeable"])
        self.assert_loops(driver)
        driver.quit()


class Roles(TestpmdCase):
    """Either side may be the server of the socket, and either side may vanish."""

    def kill_driver_and_start_again(self, role):
        self.start_reflector(role)
        driver = self.start_driver(**LAYOUTS["mergeable"])
        for _ in range(3):
            driver.start_forwarding(BURSTS)
            driver.await_packets("RX-packets", MANY)
            driver.kill()
            self.assert_daemon_returns_to_idle()
            driver.start()
            driver.await_link()
        self.assert_loops(driver)
        driver.quit()
        self.assert_daemon_returns_to_idle()

    def test_driver_is_killed_while_we_listen(self):
        self.kill_driver_and_start_again("server")

    def test_driver_is_killed_while_we_connect(self):
        self.kill_driver_and_start_again("client")

    def test_all_layouts_while_we_connect(self):
        self.start_reflector("client")
        for number, (name, layout) in enumerate(LAYOUTS.items()):
            with self.subTest(layout=name):
                driver = self.start_driver(name=f"driver{number}", **layout)
                self.assert_loops(driver)
                driver.quit()

    def test_listening_driver_outlives_the_daemon(self):
        self.start_reflector("client")
        driver = self.start_driver(**LAYOUTS["mergeable"])
        self.assert_loops(driver)
        self.daemon.kill()
        wait_for(lambda: not driver.is_link_up(), 20, "the driver notices", driver.program)
        self.daemon.start()
        driver.await_link()
        driver.command("set fwd io")
        driver.start_forwarding(BURSTS)
        driver.await_packets("RX-packets", MANY)
        driver.quit()


if __name__ == "__main__":
    unittest.main()
