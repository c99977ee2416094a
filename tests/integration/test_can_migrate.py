"""Two daemons are asked, before anyone starts, whether a port's guest can move from one to the other. The guests are drivers of
ours, without a VM."""

import json
import os
import unittest

from harness.case import IntegrationCase
from harness.daemon import DiskPort, Port, program_folder
from harness.own_driver import OwnDriver
from harness.process import wait_for

MAC = "52:54:00:00:04:01"
HOST = "host-b"

# What the tests have in place of ssh: it knows one host, where the command is run by a shell as ssh does it there, but on this
# machine, beside the other daemon.
SSH = """#!/bin/sh
case "$1" in
  {host}) ;;
  *) echo "ssh: Could not resolve hostname $1: Name or service not known" >&2; exit 255 ;;
esac
shift
export CAUSEWAY_SOCKET={socket} PATH={path}
exec /bin/sh -c "$*"
"""


class CanMigrate(IntegrationCase):
    """`causeway port can-migrate` names the first obstacle, or none."""

    def start_side(self, name, *ports, of_port=None):
        """A daemon in a folder of its own, whose port net0 or the ports are."""
        folder = self.folder / name
        folder.mkdir()
        ports = ports or (self.net(name, **(of_port or {})),)
        return self.start_daemon(*ports, folder=folder)

    def net(self, side, name="net0", more=(), **options):
        """A network port that can have a driver of ours for a guest."""
        return Port(name, self.folder / side / f"{name}.sock", "reflect", **{"queue_pairs": 2, "mac": MAC, "more": more, **options})

    def disk(self, side, size, **options):
        """A disk."""
        return DiskPort("disk0", self.folder / side / "disk0.sock", f"ram:{size}", **options)

    def start_driver(self, daemon, **combination):
        """A guest of net0 that sends and receives; with packed rings if `packed_vq`."""
        driver = OwnDriver(daemon.control.parent / "net0.sock", "both", {"queues": 2, **combination})
        self.addCleanup(driver.close)
        wait_for(lambda: daemon.cli_json("port", "show", "net0")["state"] == "running", 20, "net0 is running", daemon.program)
        return driver

    def ask(self, here, there, *arguments, port="net0"):
        """How the command ends when it is asked whether the port's guest can move."""
        return here.try_cli("port", "can-migrate", port, "--to", there.control, *arguments)

    def assert_can(self, here, there, *arguments, port="net0"):
        """It can."""
        result = self.ask(here, there, *arguments, port=port)
        self.assertEqual((result.returncode, result.stdout, result.stderr),
                         (0, f"port {port} can move to {there.control}\n", ""))

    def assert_cannot(self, obstacle, here, there, *arguments, port="net0"):
        """It cannot, for this reason."""
        result = self.ask(here, there, *arguments, port=port)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn(f"port {port} cannot move to {there.control}: ", result.stderr)
        self.assertIn(obstacle, result.stderr)

    def test_a_guest_needs_what_it_uses_and_without_one_what_it_could(self):
        a, b = self.start_side("a"), self.start_side("b", of_port={"more": (("features-off", ["ring_packed"]),)})
        self.assert_cannot("a guest here could use ring_packed, which port net0 there does not offer", a, b)
        driver = self.start_driver(a)
        self.assert_can(a, b)
        self.assertGreater(driver.rate(0.1), 0)
        self.assert_can(a, b, "--as", "net0")
        answer = json.loads(self.ask(a, b, "--json").stdout)
        self.assertEqual(answer, {"can_migrate": True, "obstacle": ""})
        driver.close()
        wait_for(lambda: a.cli_json("port", "show", "net0")["state"] == "waiting", 20, "the driver has gone", a.program)
        self.start_driver(a, packed_vq=1)
        self.assert_cannot("the guest uses ring_packed", a, b)
        result = self.ask(a, b, "--json")
        self.assertEqual(result.returncode, 1)
        answer = json.loads(result.stdout)
        self.assertFalse(answer["can_migrate"])
        self.assertIn("the guest uses ring_packed", answer["obstacle"])

    def test_obstacles_of_a_running_guest(self):
        a = self.start_side("a")
        b = self.start_side("b", self.net("b", "other", mac="52:54:00:00:04:02"), self.net("b", "fewer", mac="", queue_pairs=1),
                            self.net("b", "smaller", mac="", queue_size=256),
                            self.net("b", "function", mac="", more=(("transport", "vfio-user"),)), self.disk("b", "1M"))
        self.start_driver(a, queue_size=1024)
        self.assert_cannot("there is no port 'net0' there", a, b)
        self.assert_can(a, b, "--as", "other")  # the driver has not negotiated `mac`
        self.assert_cannot("mq", a, b, "--as", "fewer")
        self.assert_cannot("a ring of 1024 entries (queue 0), and port smaller there takes 256 at most", a, b, "--as", "smaller")
        self.assert_cannot("port function there is served as vfio-user", a, b, "--as", "function")
        self.assert_cannot("the device is net here and blk there", a, b, "--as", "disk0")
        self.assert_cannot("port net0 there has a running guest already", a, a)
        result = self.ask(a, b, port="net9")
        self.assertEqual((result.returncode, result.stderr), (1, "causeway: there is no port 'net9'\n"))
        result = self.ask(b, a, "--as", "net0", port="function")
        self.assertIn("port function here is served as vfio-user", result.stderr)

    def test_disks(self):
        a = self.start_side("a", self.disk("a", "1M"))
        b = self.start_side("b", self.disk("b", "1M", queues=4))
        c = self.start_side("c", self.disk("c", "2M"))
        self.assert_can(a, b, port="disk0")
        self.assert_cannot("a guest here could use mq", b, a, port="disk0")
        self.assert_cannot("capacity of the configuration space is 2048 here and 4096 there", a, c, port="disk0")

    def test_by_ssh(self):
        a, b = self.start_side("a"), self.start_side("b", of_port={"more": (("features-off", ["in_order"]),)})
        folder = self.folder / "bin"
        folder.mkdir()
        ssh = folder / "ssh"
        path = os.environ["PATH"]

        def ask(host, *arguments, causeway_in=program_folder()):
            ssh.write_text(SSH.format(host=HOST, socket=b.control, path=f"{causeway_in}:/usr/bin:/bin"))
            ssh.chmod(0o755)
            result = a.try_cli("port", "can-migrate", "net0", "--to", host, *arguments, environment={**os.environ, "PATH": f"{folder}:{path}"})
            return result.returncode, result.stdout, result.stderr

        code, output, errors = ask(HOST)
        self.assertEqual((code, output), (1, ""))
        self.assertIn(f"port net0 cannot move to {HOST}: a guest here could use in_order", errors)
        self.start_driver(a)
        self.assertEqual(ask(HOST), (0, f"port net0 can move to {HOST}\n", ""))
        self.assertEqual(json.loads(ask(HOST, "--json")[1]), {"can_migrate": True, "obstacle": ""})
        self.assertIn("there is no port 'it's' there", ask(HOST, "--as", "it's")[2])
        code, output, errors = ask("host-c")
        self.assertEqual((code, output), (1, ""))
        self.assertIn("cannot ask host-c by ssh, which ended with status 255: ssh: Could not resolve hostname host-c", errors)
        code, _, errors = ask(HOST, causeway_in="/nonexistent")
        self.assertEqual(code, 1)
        self.assertIn("ended with status 127", errors)
        b.stop()
        code, _, errors = ask(HOST)
        self.assertEqual(code, 1)
        self.assertIn(f"cannot reach causewayd at {b.control}", errors)
        code, _, errors = ask("-oProxyCommand=true")
        self.assertEqual(code, 1)
        self.assertIn("is no name of a host", errors)
        ssh.unlink()
        result = a.try_cli("port", "can-migrate", "net0", "--to", HOST, environment={**os.environ, "PATH": str(folder)})
        self.assertEqual(result.returncode, 1)
        self.assertIn("start 'ssh'", result.stderr)

    def test_needs_from_standard_input_may_be_anything(self):
        daemon = self.start_side("a")
        for needs in ("", "nonsense", "[]", "{}", '{"device_type": "scsi"}', '{"device_type": "net", "wings": 2}',
                      '{"device_type": "net", "features": "18446744073709551615", "config": "AA=="}',
                      '{"device_type": "net", "features": "8", "config": "AA=="}',
                      '{"device_type": "net", "queues": [{"index": 4294967295, "size": 4294967295}]}', "{" * 100000):
            result = daemon.try_cli("port", "can-take", "net0", stdin=needs)
            self.assertEqual((result.returncode, result.stdout), (1, ""), needs[:80])
            self.assertNotEqual(result.stderr, "", needs[:80])
        result = daemon.try_cli("port", "can-take", "net0", stdin='{"device_type": "net"}')
        self.assertEqual((result.returncode, result.stdout), (0, "port net0 can take the guest\n"))

    def test_no_daemon_there(self):
        a, b = self.start_side("a"), self.start_side("b")
        b.stop()
        result = self.ask(a, b)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"cannot reach causewayd at {b.control}", result.stderr)


if __name__ == "__main__":
    unittest.main()
