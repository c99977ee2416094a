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


# What QEMU 10.0 says under TCG when it trips, now and then, over a doorbell page that comes or goes while the guest uses its device.
QEMU_BUG = "iotlb_to_section: Assertion"


class _Record(unittest.TestResult):
    """Keeps what is said of a test, to be said again or not."""

    def __init__(self):
        super().__init__()
        self.said = []

    def __getattribute__(self, name):
        if name not in ("addError", "addFailure", "addSkip", "addSubTest", "addSuccess"):
            return super().__getattribute__(name)
        said, add = self.said, super().__getattribute__(name)
        return lambda *arguments: (said.append((name, arguments)), add(*arguments))


class IntegrationCase(unittest.TestCase):
    """Gives each test a folder, and starts what the test asks for; all is ended, last started first, when it is over."""

    # Doorbell pages of its guests come and go under traffic, which under TCG may cost a guest an access to a device: what
    # QEMU holds of the page that it is about to access can be another one's by then, and is used unchecked (it has the same cause
    # as the assertion above). A kick lost so, or a write to an interrupt controller, leaves a queue or a whole guest standing.
    moves_doorbells = False

    def run(self, result=None):
        """Runs the test; once more where a QEMU has ended by its own bug, or may have met it."""
        if result is None:
            return super().run(result)
        result.startTest(self)
        for attempt in range(2):
            record = _Record()
            super().run(record)
            self._after_run(record.wasSuccessful())
            if attempt == 1 or record.wasSuccessful() or not (self.moves_doorbells or self._has_met_qemu_bug()):
                break
            last = (record.failures + record.errors)[-1][1].strip().splitlines()[-1]
            print(f"{last[:200]}; once more:", end=" ", flush=True)
        for name, arguments in record.said:
            getattr(result, name)(*arguments)
        result.stopTest(self)
        return result

    def _after_run(self, is_successful):
        """What is to be done when the test and its clean-up are over."""

    def _has_met_qemu_bug(self):
        return any(QEMU_BUG in log.read_text(errors="replace") for log in self._logs_folder().glob("*.qemu.log"))

    def _logs_folder(self):
        return REPOSITORY / "build/integration-logs" / self.id().split(".", 1)[-1]

    def setUp(self):
        # Short, as the path of a unix socket has room for 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="cw-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(self._keep_logs)

    def _keep_logs(self):
        logs = self._logs_folder()
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        for log in [*self.folder.glob("**/*.log"), *self.folder.glob("**/*.toml")]:
            shutil.copy(log, logs / "-".join(log.relative_to(self.folder).parts))

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

    def start_guests(self, *guests):
        """Guests that were made, and boot at the same time; returns them. Those of several processors boot one after the other."""
        # Two of four each, at once, have met an assertion of QEMU's own (msix_table_mmio_write); and there is little to gain.
        if any(guest.cpus > 1 for guest in guests):
            for guest in guests:
                guest.start()
            return guests
        for guest in guests:
            guest.start_qemu()
        for guest in guests:
            guest.finish_boot()
        return guests

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
