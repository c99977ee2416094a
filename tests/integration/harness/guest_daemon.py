"""causewayd inside a guest, beside the PCI functions that it drives."""

import base64
import json
from itertools import count

from .daemon import render_config
from .process import wait_for

FOLDER = "/tmp/causeway"
CONTROL = f"{FOLDER}/control.sock"
STOP = "/tmp/stop"
PROGRAMS = ("causewayd", "causeway", "front_end_check")  # that the guest must have


class GuestDaemon:
    """A running causewayd with the ports; the paths of their sockets are the guest's."""

    def __init__(self, guest, *ports):
        self._guest = guest
        text = base64.b64encode(render_config(CONTROL, ports).encode()).decode()
        guest.check(f"mkdir {FOLDER} && echo {text} | base64 -d >{FOLDER}/causewayd.toml")
        self._job = guest.spawn(f"causewayd --config {FOLDER}/causewayd.toml")
        wait_for(lambda: self.try_cli("port", "list").code == 0 or self._job.is_done(), 60, "causewayd answers", guest.program)
        self.cli("port", "list")

    def log(self):
        """What the daemon has said."""
        return self._job.output()

    def try_cli(self, *arguments):
        """Runs `causeway` in the guest and returns how it ended."""
        return self._guest.run(f"causeway --socket {CONTROL} {' '.join(arguments)}")

    def cli(self, *arguments):
        """The same, which must succeed; returns what it printed."""
        result = self.try_cli(*arguments)
        assert result.code == 0, f"causeway {' '.join(arguments)}: {result.output}\n{self.log()}"
        return result.output

    def show(self, port):
        """What the control API says of a port."""
        return json.loads(self.cli("port", "show", port, "--json"))

    def devices_of(self, port):
        """On which Devices the port's queues are."""
        return {queue["device"] for queue in self.show(port)["queues"] if queue["kind"] in ("receive", "transmit", "request")}

    def await_devices(self, port, device, limit=60):
        """Waits until all queues of the port are on a Device."""
        wait_for(lambda: self.devices_of(port) == {device}, limit, f"{port} is on {device}", self._guest.program)

    def await_log(self, text, limit=60):
        """Waits until the daemon has said something."""
        wait_for(lambda: text in self.log(), limit, f"causewayd says '{text}'", self._guest.program)


class FrontEnd:
    """A running front_end_check of tests/guest."""

    _numbers = count(1)

    def __init__(self, guest, kind, *words):
        self._guest = guest
        self._stop = f"{STOP}{next(self._numbers)}"
        self._job = guest.spawn(f"front_end_check {kind} {self._stop} {' '.join(map(str, words))}")
        self.await_rounds(1)

    def output(self):
        """What it has said so far."""
        return self._job.output()

    def round(self):
        """The last round that it has done."""
        rounds = [line for line in self._job.output().splitlines() if line.startswith("round ")]
        return int(rounds[-1].split()[1]) if rounds else 0

    def await_rounds(self, more, limit=90):
        """Waits until it has done more rounds."""
        goal = self.round() + more

        def is_there():
            if self._job.is_done():
                raise AssertionError(f"the front-end has ended: {self._job.output()[-2000:]}")
            return self.round() >= goal

        wait_for(is_there, limit, f"the front-end has done {more} more rounds", self._guest.program)

    def finish(self, limit=90):
        """Has it end; returns the number of its last round, and all that it has said."""
        self._guest.check(f"touch {self._stop}")
        output = self._job.wait(limit)
        return int(output.split("ended after round ")[1].split()[0]), output
