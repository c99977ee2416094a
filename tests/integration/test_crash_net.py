"""causewayd dies by SIGKILL under a TCP stream between two guests, again and again: the stream goes on and is right."""

import os
import random
import time
import unittest

from harness.case import IntegrationCase
from harness.daemon import Port
from harness.guest import Nic
from harness.process import wait_for
from harness.transfer import ENDLESS, Transfer

MIB = 1 << 20
KILLS = int(os.environ.get("CAUSEWAY_KILLS", "5"))
ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
PROGRESS = 4 * MIB  # more than a receive ring of 256 buffers holds: the last of it has come through a daemon that lives


class StreamCrash(IntegrationCase):
    """One guest sends to the other until the last kill is over; the ports of both are the same daemon's."""

    def start(self, role="server", properties=""):
        self.seed = int(os.environ.get("CAUSEWAY_SEED", time.time_ns() % 1_000_000))
        self.random = random.Random(self.seed)
        print(f"seed {self.seed}", end=" ", flush=True)
        ports = [Port(f"net{n}", self.folder / f"net{n}.sock", role=role, mac=mac) for n, mac in enumerate(MACS)]
        self.daemon = self.start_daemon(*ports)
        listen = role == "client"
        self.sender, self.receiver = self.start_guests(
            *(self.make_guest(f"guest{n}", Nic(port.socket, port.mac, listen=listen, reconnect_ms=0 if listen else 100,
                                               properties=properties))
              for n, port in enumerate(ports)))
        self.sender.set_address(ADDRESSES[0])
        self.receiver.set_address(ADDRESSES[1])
        self.sender.await_ping(ADDRESSES[1])

    def received(self):
        """How many bytes the receiver has got."""
        return int(self.receiver.check("cat /sys/class/net/eth0/statistics/rx_bytes"))

    def await_progress(self, received):
        """Waits until the receiver has got clearly more than it had."""
        wait_for(lambda: self.received() >= received + PROGRESS, 60, "the stream goes on", self.daemon.program)

    def kill_daemon(self):
        """Kills the daemon and starts it again; returns the seconds until the stream has gone on."""
        self.daemon.kill()
        killed, received = time.monotonic(), self.received()
        self.daemon.start()
        self.await_progress(received)
        return time.monotonic() - killed

    def assert_no_reset(self, guest):
        """The guest's TCP has neither sent a reset nor been sent one."""
        names, values = (line.split()[1:] for line in guest.check("grep ^Tcp: /proc/net/snmp").splitlines())
        counters = dict(zip(names, values))
        self.assertEqual((counters["EstabResets"], counters["OutRsts"]), ("0", "0"), f"resets in {guest.name}")

    def assert_stream_survives(self):
        stream = Transfer(self.sender, ADDRESSES[0], self.receiver, times=ENDLESS)
        self.await_progress(self.received())
        stalls = []
        for _ in range(KILLS):
            time.sleep(self.random.uniform(0.05, 0.6))
            stalls.append(self.kill_daemon())
        self.assertFalse(stream.is_done(), "the stream has ended before it was told to")
        stream.stop()
        outcome = stream.finish(limit=120 + 10 * KILLS)
        print(f"{KILLS} kills, {outcome.mib} MiB in {outcome.seconds:.0f} s, longest stall {max(stalls):.1f} s",
              end=" ", flush=True)
        for guest in (self.sender, self.receiver):
            self.assert_no_reset(guest)

    def test_qemu_connects_again(self):
        self.start()
        self.assert_stream_survives()

    def test_we_connect_to_qemu_and_rings_are_packed(self):
        self.start(role="client", properties="packed=on")
        self.assert_stream_survives()


if __name__ == "__main__":
    unittest.main()
