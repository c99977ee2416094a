"""Another process of the daemon takes over while guests work: no disconnect, nothing lost, nothing run twice."""

import json
import os
import random
import shutil
import time
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort, Port, program_folder
from harness.disk_soak import DiskSoak
from harness.guest import Disk, Nic
from harness.process import wait_for
from harness.shared_case import SharedCase

MIB = 1 << 20
UPGRADES = int(os.environ.get("CAUSEWAY_UPGRADES", "10"))
MAC = "52:54:00:ca:06:01"
HOST, GUEST = "192.0.2.1", "192.0.2.2"


class UpgradeCase(IntegrationCase):
    """Upgrades at random moments."""

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("CAUSEWAY_SEED", time.time_ns() % 1_000_000))
        self.random = random.Random(self.seed)
        print(f"seed {self.seed}", end=" ", flush=True)

    def upgrade_many_times(self, count=UPGRADES, check=lambda: None):
        pauses = []
        for _ in range(count):
            time.sleep(self.random.uniform(0.05, 0.4))
            check()
            pauses.append(self.daemon.upgrade())
        check()
        pauses.sort()
        print(f"{count} upgrades, pause {pauses[len(pauses) // 2]} us, longest {pauses[-1]} us", end=" ", flush=True)

    def assert_no_disconnect(self):
        log = self.daemon.program.log.read_text()
        self.assertEqual(log.count("front-end connected"), 1)
        self.assertNotIn("front-end disconnected", log)
        self.assertNotIn("runs ", log, "requests were run again")


class DiskUpgrade(UpgradeCase):
    """A guest writes what it can prove."""

    def start(self, store, queues, properties, reconnect_ms=0):
        self.port = DiskPort("disk0", self.folder / "disk0.sock", store, queues=queues)
        self.daemon = self.start_daemon(self.port)
        self.guest = self.start_guest("guest", Disk(self.port.socket, queues, reconnect_ms=reconnect_ms, properties=properties),
                                      cpus=2)

    def image(self):
        image = self.folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        return f"file:{image}"

    def assert_nothing_is_lost(self):
        soak = DiskSoak(self.guest)
        self.upgrade_many_times()
        soak.finish()
        self.assert_no_disconnect()

    def test_file_split(self):
        self.start(self.image(), 1, "")
        self.assert_nothing_is_lost()

    def test_file_packed_four_queues(self):
        self.start(self.image(), 4, "packed=on")
        self.assert_nothing_is_lost()

    def test_what_is_in_memory_stays(self):
        self.start("ram:64M", 2, "")
        self.assert_nothing_is_lost()

    def test_crashes_and_upgrades(self):
        self.start(self.image(), 2, "packed=on", reconnect_ms=100)
        soak = DiskSoak(self.guest)
        for _ in range(max(2, UPGRADES // 2)):
            time.sleep(self.random.uniform(0.05, 0.4))
            self.daemon.upgrade()
            time.sleep(self.random.uniform(0, 0.3))
            self.daemon.kill()
            self.daemon.start()
        soak.finish()


class NicUpgradeCase(UpgradeCase):
    """A guest's NIC on a tap of the host, which the new process must not lose."""

    def start(self, properties, role="server"):
        self.port = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC, role=role,
                         devices=("a", "b"))
        self.daemon = self.start_daemon(self.port)
        self.start_host_peer(HOST)
        self.guest = self.start_guest("guest", Nic(self.port.socket, MAC, listen=role == "client", properties=properties))
        self.guest.set_address(GUEST)
        self.guest.await_ping(HOST)

    def ping(self):
        self.assertEqual(self.guest.ping(HOST, count=5), 5)


class NicUpgrade(NicUpgradeCase, SharedCase):
    """We are the server of the socket."""

    def share(self):
        self.start("")

    def assert_as_found(self):
        self.ping()
        self.assertEqual([queue["device"] for queue in self.daemon.cli_json("port", "show", "net0")["queues"][:2]], ["a", "a"])

    def test_split(self):
        self.upgrade_many_times(check=self.ping)
        self.assert_no_disconnect()

    def test_bindings_and_what_the_driver_said_stay(self):
        self.daemon.rebind_queue_pair("net0", 0, "b")
        before = self.daemon.cli_json("port", "show", "net0")
        self.daemon.upgrade()
        after = self.daemon.cli_json("port", "show", "net0")
        for port in (before, after):
            port["totals"] = {}
            for queue in port["queues"]:
                queue["counters"] = {}
        self.assertEqual(after, before)
        self.ping()
        self.daemon.rebind_queue_pair("net0", 0, "a")


class NicUpgradeAsClient(NicUpgradeCase):
    """QEMU is the server of the socket."""

    def test_packed_where_we_have_connected(self):
        self.start("packed=on", role="client")
        self.upgrade_many_times(check=self.ping)
        self.assert_no_disconnect()


class FailedUpgrade(UpgradeCase, SharedCase):
    """If the new process does not take over, the old one goes on."""

    def share(self):
        self.port = Port("net0", self.folder / "net0.sock", connection=f"tap:{self.tap_name()}", mac=MAC)
        self.daemon = self.start_daemon(self.port)
        self.host = self.start_host_peer(HOST)
        self.guest = self.start_guest("guest", Nic(self.port.socket, MAC, reconnect_ms=100, properties="packed=on"))
        self.guest.set_address(GUEST)
        self.guest.await_ping(HOST)

    def assert_as_found(self):
        self.assertEqual(self.guest.ping(HOST, count=5), 5)
        self.assertEqual(self.daemon.cli_json("port", "show", "net0")["state"], "running")
        self.assertIn('"net0"', self.daemon.config.read_text())

    def assert_goes_on(self, *arguments, reason):
        pid = self.daemon.program.pid
        failed = self.daemon.try_cli("upgrade", *arguments, limit=60)
        self.assertEqual(failed.returncode, 1, failed.stdout)
        self.assertIn("this one goes on", failed.stderr)
        self.assertIn(reason, failed.stderr)
        self.assertEqual(self.daemon.program.pid, pid)
        self.assertTrue(self.daemon.program.is_running())
        self.assertEqual(self.guest.ping(HOST, count=5), 5)
        self.assertEqual(self.daemon.cli_json("port", "show", "net0")["state"], "running")

    def script(self, text):
        """A program that stands for a new daemon."""
        program = self.folder / "causewayd-new"
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
        return program

    def test_a_program_that_is_none_of_ours(self):
        fds = self.daemon.fd_count()
        self.assert_goes_on("--binary", shutil.which("true"), reason="it ended")
        self.assert_goes_on("--binary", self.script("echo this is not what is due >&3; sleep 1"), reason="no parcel")
        wait_for(lambda: self.daemon.fd_count() <= fds, 10, "nothing is left of the attempts")

    def test_a_configuration_without_the_port(self):
        config = self.daemon.config.read_text()
        self.daemon.config.write_text(config.replace('"net0"', '"net9"'))
        self.assert_goes_on(reason="port net0 is no longer in the configuration")
        self.daemon.config.write_text(config)
        self.daemon.upgrade()
        self.assertEqual(self.guest.ping(HOST, count=5), 5)

    def test_one_that_dies_at_any_moment(self):
        # The moments lie close together, from before it says hello to after it serves.
        causewayd = program_folder() / "causewayd"
        served = 0
        for _ in range(max(8, UPGRADES)):
            delay = self.random.uniform(0, 0.025)
            program = self.script(f'(exec 3>&-; sleep {delay:.4f}; kill -KILL $$) &\nexec "{causewayd}" "$@"')
            outcome = self.daemon.try_cli("upgrade", "--json", "--binary", program, limit=60)
            if outcome.returncode == 0:
                served += 1
                self.daemon.program.follow(json.loads(outcome.stdout)["pid"])
                self.daemon.program.wait(20)
                self.daemon.start()
                self.host.take_interface(self.tap_name(), HOST)
            else:
                self.assertIn("this one goes on", outcome.stderr)
            self.guest.await_ping(HOST)
            self.assertEqual(self.guest.ping(HOST, count=3), 3)
        print(f"{served} took over and died then", end=" ", flush=True)


class ChangedConfiguration(UpgradeCase):
    """What an upgrade cannot change is refused, and the old process goes on."""

    def test_another_disk_or_role(self):
        port = DiskPort("disk0", self.folder / "disk0.sock", "ram:64M")
        self.daemon = self.start_daemon(port)
        guest = self.start_guest("guest", Disk(port.socket, reconnect_ms=100), cpus=2)
        config = self.daemon.config.read_text()
        for old, new, reason in (("ram:64M", "ram:32M", "disk"), ('"server"', '"client"', "was server of its socket")):
            self.daemon.config.write_text(config.replace(old, new))
            failed = self.daemon.try_cli("upgrade", limit=60)
            self.assertEqual(failed.returncode, 1, failed.stdout)
            self.assertIn("this one goes on", failed.stderr)
            self.assertIn(reason, failed.stderr)
        self.daemon.config.write_text(config)
        self.daemon.upgrade()
        guest.check("blk_check soak /dev/vda 4 1000 1", limit=60)
        self.assert_no_disconnect()


if __name__ == "__main__":
    unittest.main()
