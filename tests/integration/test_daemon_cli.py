"""What an operator sees of causewayd: its configuration errors, its command line, its end."""

import shlex
import subprocess
import time
import unittest

from harness.case import IntegrationCase
from harness.daemon import Causewayd, Port, program_folder
from harness.process import wait_for

OBSERVED_SECONDS = 3


class ConfigurationErrors(IntegrationCase):
    """An error names the file, the line, the key and what was expected there."""

    def assert_refused(self, wrong, right, key, hint="expected"):
        """Replaces a line of a good configuration by a wrong one, and expects an error with a hint about it."""
        daemon = Causewayd(self.folder, [Port("net0", self.folder / "net0.sock")])
        lines = daemon.config.read_text().splitlines()
        number = lines.index(right)
        lines[number] = wrong
        daemon.config.write_text("\n".join(lines) + "\n")
        result = subprocess.run([program_folder() / "causewayd", "--config", daemon.config], capture_output=True,
                                text=True, timeout=20, check=False)
        output = result.stdout + result.stderr
        self.assertGreater(result.returncode, 0, output)
        self.assertIn(f"{daemon.config}:{number + 1}", output)
        self.assertIn(key, output)
        self.assertIn(hint, output)
        self.assertFalse((self.folder / "net0.sock").exists())

    def test_number_out_of_range(self):
        self.assert_refused("queue-pairs = 17", "queue-pairs = 1", "queue-pairs")

    def test_wrong_type(self):
        self.assert_refused('mtu = "big"', "mtu = 1500", "mtu")

    def test_unknown_key(self):
        self.assert_refused("mtuu = 1500", "mtu = 1500", "mtuu", hint="did you mean 'mtu'")

    def test_word_that_is_no_choice(self):
        self.assert_refused('role = "listener"', 'role = "server"', "role")

    def test_worker_that_is_not_there(self):
        self.assert_refused('worker = "w9"', 'worker = "w0"', "worker")

    def test_switch_that_is_not_there(self):
        self.assert_refused('connection = "switch:sw9"', 'connection = "switch:sw0"', "connection")

    def test_file_that_is_not_there(self):
        missing = self.folder / "missing.toml"
        result = subprocess.run([program_folder() / "causewayd", "--config", missing], capture_output=True, text=True,
                                timeout=20, check=False)
        self.assertGreater(result.returncode, 0)
        self.assertIn(str(missing), result.stdout + result.stderr)


class CommandLine(IntegrationCase):
    """`causeway` shows the ports and changes them."""

    def setUp(self):
        super().setUp()
        self.ports = [Port(f"net{n}", self.folder / f"net{n}.sock", queue_pairs=n + 1, devices=("soft-a", "soft-b"))
                      for n in range(3)]
        self.daemon = self.start_daemon(*self.ports)

    def test_list_names_every_port(self):
        listing = self.daemon.cli("port", "list")
        for port in self.ports:
            self.assertIn(port.name, listing)

    def test_list_as_json(self):
        ports = self.daemon.cli_json("port", "list")["ports"]
        self.assertEqual([port["name"] for port in ports], [port.name for port in self.ports])

    def test_show_as_json(self):
        port = self.daemon.cli_json("port", "show", "net2")
        self.assertEqual(port["name"], "net2")

    def test_show_qemu_arguments_plug_a_guest_in(self):
        words = self.daemon.cli_json("port", "show", "net2", "--qemu", "--memory", "256M")
        self.assertEqual(shlex.split(self.daemon.cli("port", "show", "net2", "--qemu", "--memory", "256M")), words)
        guest = self.start_guest("guest", plug=words)
        self.assertIn("Combined:\t3", guest.check("ethtool -l eth0"))
        guest.set_address("10.0.3.1")
        wait_for(lambda: self.daemon.cli_json("port", "show", "net2")["state"] == "running", 20, "net2 is running")
        guest.stop()

    def test_port_that_is_not_there(self):
        result = self.daemon.try_cli("port", "show", "net9")
        self.assertGreater(result.returncode, 0)
        self.assertIn("net9", result.stderr)

    def test_rebind_to_a_device_that_is_not_there(self):
        result = self.daemon.try_cli("port", "rebind", "net0", "--queue-pair", "0", "--device", "soft-c")
        self.assertGreater(result.returncode, 0)
        self.assertIn("soft-c", result.stderr)

    def test_rebind_of_a_queue_that_is_not_there(self):
        result = self.daemon.try_cli("port", "rebind", "net0", "--queue-pair", "1", "--device", "soft-b")
        self.assertGreater(result.returncode, 0)
        self.assertIn("net0", result.stderr)

    def test_no_daemon(self):
        self.daemon.stop()
        result = self.daemon.try_cli("port", "list")
        self.assertGreater(result.returncode, 0)
        self.assertIn(str(self.daemon.control), result.stderr)


class End(IntegrationCase):
    """SIGTERM ends the daemon cleanly; an idle one costs nothing."""

    def test_sigterm_removes_the_sockets(self):
        port = Port("net0", self.folder / "net0.sock")
        daemon = self.start_daemon(port)
        self.assertTrue(port.socket.exists())
        daemon.stop()
        self.assertFalse(port.socket.exists())
        self.assertFalse(daemon.control.exists())

    def test_start_after_a_crash(self):
        daemon = self.start_daemon(Port("net0", self.folder / "net0.sock"))
        daemon.kill()
        daemon.start()
        daemon.stop()

    def test_idle_ports_use_no_cpu(self):
        daemon = self.start_daemon(*(Port(f"net{n}", self.folder / f"net{n}.sock") for n in range(20)))
        before = daemon.cpu_seconds()
        time.sleep(OBSERVED_SECONDS)  # what is measured is this very time
        self.assertLessEqual(daemon.cpu_seconds() - before, 0.02)


if __name__ == "__main__":
    unittest.main()
