"""The base of all integration tests: programs that end with the test, and logs that outlive it."""

import os
import shutil
import tempfile
import unittest
from pathlib import Path

from .daemon import Causewayd
from .guest import Guest
from .netns import Namespace
from .testpmd import Testpmd
from .vm_parts import REPOSITORY


class IntegrationCase(unittest.TestCase):
    """Gives each test a folder, and starts what the test asks for; all is ended, last started first, when it is over."""

    def setUp(self):
        # Short, as the path of a unix socket has room for 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="cw-"))
        self.addCleanup(self._keep_logs)

    def _keep_logs(self):
        logs = REPOSITORY / "build/integration-logs" / self.id().split(".", 1)[-1]
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        for log in [*self.folder.glob("**/*.log"), *self.folder.glob("**/*.toml")]:
            shutil.copy(log, logs / "-".join(log.relative_to(self.folder).parts))
        shutil.rmtree(self.folder)

    def start_daemon(self, *ports, folder=None, **options):
        """Starts causewayd with the ports, with its files in a folder that no other daemon has."""
        daemon = Causewayd(folder or self.folder, ports, **options)
        self.addCleanup(daemon.kill)
        daemon.start()
        return daemon

    def make_guest(self, name, *devices, **options):
        """A guest that is not started yet."""
        guest = Guest(name, self.folder, devices, **options)
        self.addCleanup(guest.kill)
        return guest

    def start_guest(self, name, *devices, **options):
        """A guest that takes commands."""
        guest = self.make_guest(name, *devices, **options)
        guest.start()
        return guest

    def make_testpmd(self, name, device, **options):
        """A testpmd that is not started yet."""
        testpmd = Testpmd(name, self.folder, device, **options)
        self.addCleanup(testpmd.kill)
        return testpmd

    def start_testpmd(self, name, device, **options):
        """A testpmd at its prompt."""
        testpmd = self.make_testpmd(name, device, **options)
        testpmd.start()
        return testpmd

    def start_program(self, program):
        """Starts a program."""
        self.addCleanup(program.kill)
        program.start()
        return program

    def create_namespace(self, name):
        """A network namespace."""
        namespace = Namespace(name)
        namespace.create()
        self.addCleanup(namespace.delete)
        return namespace

    def tap_name(self):
        """A name for a tap that nothing else on the machine uses."""
        return f"cw{os.getpid()}"

    def start_host_peer(self, address, mtu=1500):
        """Moves the daemon's tap into a namespace, where the host then has `address`."""
        namespace = self.create_namespace("host")
        namespace.take_interface(self.tap_name(), address, mtu)
        return namespace
