"""The library as a front-end: the example driver, and a port of ours with another process as its Device."""

import subprocess
import unittest

from harness.case import IntegrationCase
from harness.daemon import Port, program_folder
from harness.testpmd import net_vhost, virtio_user

FRAMES = 20_000
MANY = 20_000
BURSTS = 4
BACKEND_CORE = 1
DRIVER_CORE = 0


class ExampleDriver(IntegrationCase):
    """Every frame that the example sends to a back-end that reflects comes back."""

    def assert_frames_return(self, socket):
        done = subprocess.run([program_folder() / "virtio_driver", socket, str(FRAMES)], capture_output=True, text=True,
                              timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"sent {FRAMES} frames, {FRAMES} came back", done.stdout)

    def start_dpdk_reflector(self, socket):
        backend = self.make_testpmd("backend", net_vhost(socket), core=BACKEND_CORE, listens_on=socket)
        backend.start()
        backend.start_forwarding()
        return backend

    def test_dpdk(self):
        socket = self.folder / "dpdk.sock"
        backend = self.start_dpdk_reflector(socket)
        for _ in range(3):
            self.assert_frames_return(socket)
        stats = backend.stats()
        self.assertEqual(stats["RX-packets"], 3 * FRAMES)
        self.assertEqual(stats["TX-packets"], 3 * FRAMES)
        backend.quit()

    def test_our_daemon(self):
        port = Port("net0", self.folder / "net0.sock", connection="reflect")
        self.start_daemon(port)
        for _ in range(3):
            self.assert_frames_return(port.socket)


class Chain(IntegrationCase):
    """DPDK drives a port of ours whose Device is DPDK again: packets go through both rings and come back."""

    def start_chain(self, *fallbacks, reconnect=True):
        self.far_socket = self.folder / "far.sock"
        self.backend = self.make_testpmd("backend", net_vhost(self.far_socket), core=BACKEND_CORE,
                                         listens_on=self.far_socket)
        self.backend.start()
        self.backend.start_forwarding()
        self.port = Port("net0", self.folder / "net0.sock", connection="reflect", devices=("far", *fallbacks),
                         remotes=(("far", self.far_socket, reconnect),))
        self.start_daemon(self.port)
        self.driver = self.make_testpmd("driver", virtio_user(self.port.socket), core=DRIVER_CORE)
        self.driver.start()
        self.driver.await_link()

    def assert_packets_go_round(self):
        self.driver.start_forwarding(BURSTS)
        self.driver.await_packets("RX-packets", MANY)
        self.driver.stop_forwarding()

    def test_packets_go_round(self):
        self.start_chain()
        self.assert_packets_go_round()
        self.assertGreaterEqual(self.backend.stats()["RX-packets"], MANY)
        self.driver.quit()

    def test_driver_leaves_and_the_next_one_comes(self):
        self.start_chain()
        for _ in range(3):
            self.assert_packets_go_round()
            self.driver.quit()
            self.driver.start()
            self.driver.await_link()
        self.assert_packets_go_round()
        self.driver.kill()
        self.driver.start()
        self.driver.await_link()
        self.assert_packets_go_round()
        self.driver.quit()

    def test_back_end_is_killed_and_the_port_goes_on_with_its_own(self):
        self.start_chain("soft", reconnect=False)
        self.assert_packets_go_round()
        self.backend.kill()
        self.assert_packets_go_round()
        self.driver.quit()

    def test_back_end_is_killed_and_comes_back(self):
        self.start_chain()
        for _ in range(3):
            self.assert_packets_go_round()
            self.backend.kill()
            self.backend.start()
            self.backend.start_forwarding()
        self.assert_packets_go_round()
        self.driver.quit()


if __name__ == "__main__":
    unittest.main()
