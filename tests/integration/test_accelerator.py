"""Guests whose queues an accelerator works: another causewayd, whose ports are virtio-pci functions (vfio-user)."""

import random
import time
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort, Port
from harness.disk_soak import DiskSoak
from harness.guest import BEHIND_IOMMU, Disk, Nic
from harness.process import wait_for
from harness.shared_case import SharedCase
from harness.transfer import ENDLESS, Transfer

ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
MIB = 1 << 20


class AcceleratorCase(IntegrationCase):
    """Two guests on two ports; each port has a function on the accelerator's switch, and software on the daemon's own."""

    moves_doorbells = True

    def start(self, properties="", pairs=1, ring_state=True, **of_guests):
        self.functions = [Port(f"f{n}", self.folder / f"f{n}.sock", mac=mac, queue_pairs=pairs,
                               more=(("transport", "vfio-user"), ("ring-state", ring_state)))
                          for n, mac in enumerate(MACS)]
        self.accelerator_folder = self.folder / "accelerator"
        self.accelerator_folder.mkdir()
        self.accelerator = self.start_daemon(*self.functions, folder=self.accelerator_folder)
        self.ports = [Port(f"net{n}", self.folder / f"net{n}.sock", mac=mac, queue_pairs=pairs,
                           devices=(f"acc{n}", "soft"),
                           functions=((f"acc{n}", {"kind": "vfio-user", "socket": str(function.socket)}),))
                      for n, (mac, function) in enumerate(zip(MACS, self.functions))]
        self.daemon = self.start_daemon(*self.ports)
        self.guests = self.start_guests(
            *(self.make_guest(f"guest{n}", Nic(port.socket, port.mac, queue_pairs=pairs,
                                               properties=f"page-per-vq=on{properties}"), **of_guests)
              for n, port in enumerate(self.ports)))
        for guest, address in zip(self.guests, ADDRESSES):
            guest.set_address(address)
        self.guests[0].await_ping(ADDRESSES[1])

    def queues(self, port):
        """Its data queues, as the control API shows them."""
        return [queue for queue in self.daemon.cli_json("port", "show", port)["queues"]
                if queue["kind"] in ("receive", "transmit")]

    def devices_of(self, port):
        return {queue["device"] for queue in self.queues(port)}

    def await_devices(self, suffixes):
        """Waits until the queues of both ports are on these Devices."""
        for n in range(2):
            wanted = {f"acc{n}" if suffix == "acc" else suffix for suffix in suffixes}
            wait_for(lambda n=n, wanted=wanted: self.devices_of(f"net{n}") == wanted, 30, f"net{n} is on {wanted}",
                     self.daemon.program)

    def received(self, guest=1):
        return int(self.guests[guest].check("cat /sys/class/net/eth0/statistics/rx_bytes"))

    def await_progress(self):
        """Waits until clearly more has come than had."""
        before = self.received()
        wait_for(lambda: self.received() >= before + 4 * MIB, 60, "the stream goes on", self.daemon.program)

    def start_stream(self):
        stream = Transfer(self.guests[0], ADDRESSES[0], self.guests[1], times=ENDLESS)
        self.await_progress()
        return stream

    def finish(self, stream):
        self.assertFalse(stream.is_done(), "the stream has ended before it was told to")
        stream.stop()
        outcome = stream.finish(limit=120)
        print(f"{outcome.mib} MiB in {outcome.seconds:.0f} s", end=" ", flush=True)


class DirectPath(AcceleratorCase):
    """The accelerator works the rings, and the daemon does nothing at all."""

    def test_nobody_of_ours_is_on_the_path(self):
        self.start()
        self.await_devices({"acc"})
        for port in ("net0", "net1"):
            wait_for(lambda port=port: {queue["doorbell"] for queue in self.queues(port)} == {"accepted"}, 30,
                     f"the guest of {port} rings the doorbells itself", self.daemon.program)
        tree = self.guests[0].qmp.execute("human-monitor-command", **{"command-line": "info mtree"})
        self.assertIn("host-notifier", tree)
        stream = self.start_stream()
        kicks = self.kicks()
        time.sleep(2)  # the control API's threads come to rest after the question
        cpu, switches = self.daemon.cpu_seconds(), self.daemon.context_switches()
        before = self.received()
        wait_for(lambda: self.received() >= before + 32 * MIB, 60, "the stream goes on", self.daemon.program)
        spent, switched = self.daemon.cpu_seconds() - cpu, self.daemon.context_switches() - switches
        print(f"{spent:.2f} s of processor time, {switched} context switches", end=" ", flush=True)
        self.assertEqual(spent, 0)
        self.assertEqual(switched, 0)
        self.assertEqual(self.kicks(), kicks)
        self.finish(stream)

    def kicks(self):
        """How many kicks have come to us and were passed on."""
        return [queue["counters"]["kicks_passed_on"] for port in ("net0", "net1") for queue in self.queues(port)]


class Moves(AcceleratorCase):
    """Between accelerator and software, by wish and by death, under a stream that checks what comes."""

    def move_both(self, suffix):
        for n in range(2):
            self.daemon.cli("port", "rebind", f"net{n}", "--all", "--device", f"acc{n}" if suffix == "acc" else suffix)

    def assert_moves(self, **options):
        self.start(**options)
        self.await_devices({"acc"})
        stream = self.start_stream()
        for suffix in ("soft", "acc") * 3:
            self.move_both(suffix)
            self.await_devices({suffix})
            self.await_progress()
        self.finish(stream)

    def test_split(self):
        self.assert_moves()

    def test_packed(self):
        self.assert_moves(properties=",packed=on")

    def test_behind_an_iommu(self):
        self.assert_moves(properties=f",{BEHIND_IOMMU}", iommu=True, mappings="strict")
        for n in range(2):
            shown = self.daemon.cli_json("port", "show", f"net{n}")
            self.assertEqual({queue["path"] for queue in self.queues(f"net{n}")}, {"relay"})
            self.assertGreater(int(shown["translation"]["invalidations"]), 100)

    def test_plain_function_works_packed_rings_by_relay(self):
        self.start(properties=",packed=on", ring_state=False)
        self.await_devices({"acc"})
        stream = self.start_stream()
        for suffix in ("soft", "acc") * 2:
            self.move_both(suffix)
            self.await_devices({suffix})
            self.assertEqual({queue["path"] for queue in self.queues("net0")},
                             {"relay" if suffix == "acc" else "direct"})
            self.await_progress()
        self.finish(stream)

    def test_accelerator_is_killed_and_comes_back(self):
        self.start(properties=",packed=on")
        self.await_devices({"acc"})
        stream = self.start_stream()
        for _ in range(3):
            self.accelerator.kill()
            self.await_devices({"soft"})
            self.assertEqual(set(self.daemon.cli_json("port", "show", "net0")["unusable"]), {"acc0"})
            self.await_progress()
            self.accelerator.start()
            self.await_devices({"acc"})
            self.await_progress()
        self.finish(stream)

    def test_accelerator_that_is_not_there_at_first(self):
        self.start()
        self.daemon.stop()
        self.accelerator.stop()
        self.daemon.start()
        self.accelerator.start()
        self.await_devices({"acc"})


class DiskMovesCase(IntegrationCase):
    """A guest's disk, moved between an accelerator and software over the same image, by wish and by death."""

    moves_doorbells = True
    ROUNDS = 6

    def start(self, queues=1, properties="", reconnect_ms=0, **of_guest):
        image = self.folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        folder = self.folder / "accelerator"
        folder.mkdir()
        function = DiskPort("f0", self.folder / "f0.sock", f"file:{image}", queues=queues,
                            more=(("transport", "vfio-user"), ("shared", True)))
        self.accelerator = self.start_daemon(function, folder=folder)
        self.port = DiskPort("disk0", self.folder / "disk0.sock", f"file:{image}", queues=queues,
                             devices=("acc", "soft"), more=(("shared", True),),
                             functions=(("acc", {"kind": "vfio-user", "socket": str(function.socket)}),))
        self.daemon = self.start_daemon(self.port)
        disk = Disk(self.port.socket, queues, reconnect_ms=reconnect_ms, properties=f"page-per-vq=on{properties}")
        self.guest = self.start_guest("guest", disk, cpus=2, **of_guest)
        self.random = random.Random()

    def await_device(self, name):
        def devices():
            return {queue["device"] for queue in self.daemon.cli_json("port", "show", "disk0")["queues"]}
        wait_for(lambda: devices() == {name}, 30, f"the disk is on {name}", self.daemon.program)

    def soak(self, step):
        self.await_device("acc")
        soak = DiskSoak(self.guest)
        for number in range(self.ROUNDS):
            time.sleep(self.random.uniform(0.05, 0.5))
            step(number)
        soak.finish()

    def move(self, number):
        name = ("soft", "acc")[number % 2]
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", name)
        self.await_device(name)

    def kill(self, _number):
        self.accelerator.kill()
        self.await_device("soft")
        self.accelerator.start()
        self.await_device("acc")

    def kill_daemon(self, _number):
        self.daemon.kill()
        self.daemon.start()
        self.await_device("acc")

    def relay(self, number):
        name, path = (("acc", "relay"), ("soft", "relay"), ("acc", "direct"))[number % 3]
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", name, "--path", path)
        self.await_device(name)

    def kill_relayed(self, number):
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "acc", "--path", "relay")
        if number % 2 == 0:
            self.kill(number)
        else:
            self.kill_daemon(number)
        paths = {queue["path"] for queue in self.daemon.cli_json("port", "show", "disk0")["queues"]}
        self.assertEqual(paths, {"relay"})

    def move_back(self):
        """To where the queues are at first."""
        self.daemon.cli("port", "rebind", "disk0", "--all", "--device", "acc", "--path", "direct")

    def assert_as_found(self):
        self.await_device("acc")
        queues = self.daemon.cli_json("port", "show", "disk0")["queues"]
        self.assertEqual({(queue["path"], queue["started"]) for queue in queues}, {("direct", True)})


class DiskMoves(DiskMovesCase):
    """Queues of these layouts each have a test of their own."""

    def test_moved_split(self):
        self.start()
        self.soak(self.move)

    def test_moved_packed_four_queues(self):
        self.start(4, ",packed=on")
        self.soak(self.move)

    def test_killed_split_four_queues(self):
        self.start(4)
        self.soak(self.kill)


class SplitDiskMoves(SharedCase, DiskMovesCase):
    """Two queues with split rings."""

    def share(self):
        self.start(2, reconnect_ms=100)

    def test_relayed(self):
        self.soak(self.relay)
        self.move_back()

    def test_daemon_killed(self):
        self.soak(self.kill_daemon)


class PackedDiskMoves(SharedCase, DiskMovesCase):
    """One queue with a packed ring."""

    def share(self):
        self.start(1, ",packed=on", reconnect_ms=100)

    def test_either_side_killed_under_a_relay(self):
        self.soak(self.kill_relayed)
        self.move_back()

    def test_daemon_killed(self):
        self.soak(self.kill_daemon)

    def test_killed(self):
        self.soak(self.kill)


if __name__ == "__main__":
    unittest.main()
