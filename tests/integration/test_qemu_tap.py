"""A Linux guest and its host talk over a tap, in segments far larger than the MTU."""

import json
import unittest

from harness.daemon import Port
from harness.guest import Nic
from harness.process import wait_for
from harness.shared_case import SharedCase

GUEST, HOST = "10.0.2.2", "10.0.2.1"
MAC = "52:54:00:00:02:01"
SECONDS = 3
STREAM_PORT = 5000


class GuestToHost(SharedCase):
    """Checksum and segmentation offloads hold in both directions."""

    def share(self):
        port = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC)
        self.start_daemon(port)
        self.host = self.start_host_peer(HOST)
        self.guest = self.start_guest("guest", Nic(port.socket, MAC))
        self.guest.set_address(GUEST)
        self.guest.await_ping(HOST)

    def assert_as_found(self):
        self.assertEqual(self.guest.ping(HOST), 5)
        self.assertNotIn(f":{STREAM_PORT} ", self.guest.check("netstat -ltn"))

    def tap_counters(self):
        """The kernel's counters of the tap: its "rx" is what the guest sent."""
        statistics = json.loads(self.host.run("ip", "-s", "-j", "link", "show", "dev", self.tap_name()))[0]
        return statistics["stats64"]

    def mean_packet(self, direction, before):
        """The mean size of the packets that crossed the tap since `before`."""
        now = self.tap_counters()[direction]
        packets = now["packets"] - before[direction]["packets"]
        return (now["bytes"] - before[direction]["bytes"]) / packets

    def measure(self, *options):
        """Runs iperf3 from the guest and returns the bits per second that the receiver saw."""
        server = self.host.program("iperf3", ["iperf3", "-s", "-1", "--forceflush"], self.folder / "iperf3.log")
        self.start_program(server)
        wait_for(lambda: "Server listening" in server.log.read_text(), 20, "iperf3 listens", server)
        report = json.loads(self.guest.check(f"iperf3 -c {HOST} -t {SECONDS} -J {' '.join(options)}", limit=60))
        server.wait(20)
        server.log.unlink()
        return report["end"]["sum_received"]["bits_per_second"]

    def test_guest_sends_large_segments(self):
        self.assertIn("tcp-segmentation-offload: on", self.guest.check("ethtool -k eth0"))
        before = self.tap_counters()
        self.assertGreater(self.measure(), 0)
        self.assertGreater(self.mean_packet("rx", before), 3000, "the guest's TCP was cut before it reached the tap")

    def test_guest_receives_large_segments(self):
        before = self.tap_counters()
        self.assertGreater(self.measure("-R"), 0)
        self.assertGreater(self.mean_packet("tx", before), 3000, "the host's TCP was cut before it reached the guest")

    def test_stream_arrives_unchanged_both_ways(self):
        stored = self.folder / "stored"
        self.guest.check("head -c 16777216 /dev/urandom >/tmp/sent")
        self.guest.spawn(f"nc -l -p {STREAM_PORT} -e cat /tmp/sent")
        self.await_listener(self.guest.check)
        self.host.run("sh", "-c", f"busybox nc {GUEST} {STREAM_PORT} </dev/null >{stored}")
        self.assertEqual(self.host.run("sh", "-c", f"sha256sum <{stored}"), self.guest.check("sha256sum </tmp/sent"))

        sender = self.host.program("nc", ["busybox", "nc", "-l", "-p", STREAM_PORT, "-e", "cat", stored], self.folder / "nc.log")
        self.start_program(sender)
        self.await_listener(lambda command: self.host.run("busybox", *command.split()))
        self.guest.check(f"nc {HOST} {STREAM_PORT} -e sh -c 'cat >/tmp/received'", limit=60)
        self.guest.check("cmp /tmp/sent /tmp/received")

    def await_listener(self, run):
        wait_for(lambda: f":{STREAM_PORT} " in run("netstat -ltn"), 20, f"port {STREAM_PORT} is open")


if __name__ == "__main__":
    unittest.main()
