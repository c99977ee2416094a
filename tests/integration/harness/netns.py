"""Network namespaces: a host side of its own for each test, which leaves the machine's network alone."""

import os
import signal
from pathlib import Path

from .process import Program, ProgramFailed, find_program, run


BRIDGE = "br0"
HOST_MAC = "02:00:00:00:00:01"


class Namespace:
    """One network namespace, by a name that nothing else on the machine uses."""

    def __init__(self, name):
        self.name = f"causeway-{name}-{os.getpid()}"

    def create(self):
        """Makes the namespace; its loopback is up."""
        if os.geteuid() != 0:
            raise ProgramFailed("network namespaces need root")
        run("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def delete(self):
        """Removes the namespace and the interfaces in it."""
        run("ip", "netns", "delete", self.name)

    def take_interface(self, interface, address, mtu=1500):
        """Moves an interface of the machine in here, gives it an address in a /24 and brings it up."""
        run("ip", "link", "set", interface, "netns", self.name)
        self.run("ip", "address", "add", f"{address}/24", "dev", interface)
        # A fixed address: a peer that knows the host keeps knowing it when the interface is made again.
        self.run("ip", "link", "set", interface, "address", HOST_MAC, "mtu", mtu, "up")

    def run(self, *argv, limit=30):
        """Runs a command in here, which must succeed, and returns its output."""
        return run("ip", "netns", "exec", self.name, *argv, limit=limit)

    def wrapper(self):
        """What runs a program in here when it stands before it; `ip` gives way to it, so its pid is the program's."""
        return [find_program("ip"), "netns", "exec", self.name]

    def add_bridge(self, address):
        """Gives the namespace a bridge with an address in a /24."""
        self.run("ip", "link", "add", BRIDGE, "type", "bridge")
        self.run("ip", "address", "add", f"{address}/24", "dev", BRIDGE)
        self.run("ip", "link", "set", BRIDGE, "up")

    def plug(self, interface):
        """Connects an interface that is in here to the bridge."""
        self.run("ip", "link", "set", interface, "master", BRIDGE, "up")

    def connect(self, other, name):
        """Connects the bridges of two namespaces by a cable of this name."""
        self.run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", other.name)
        self.plug(name)
        other.plug(name)

    def program(self, name, argv, log):
        """A background program that will run in here; `ip` gives way to it, so its pid is the program's."""
        program = Program(name, argv, log)
        program.run_under(self.wrapper())
        return program


class Host:
    """Shell commands in a namespace, with the same tools as a guest has; its files are in `folder`. Used as a guest is."""

    def __init__(self, namespace, folder):
        self.name = namespace.name
        self.scratch = Path(folder)
        self._namespace = namespace
        self._tools = self.scratch / "bin"
        self._tools.mkdir(parents=True)
        run("busybox", "--install", "-s", self._tools)
        self._jobs = []

    def spawn(self, command):
        """Starts a command in the background."""
        log = self.scratch / f"job{len(self._jobs)}.log"
        job = HostJob(Program(self.name, ["busybox", "sh", "-c", command], log, {"PATH": str(self._tools)}), log)
        self._jobs.append(job)
        job.start(self._namespace.wrapper())
        return job

    def kill(self):
        """Ends all that still runs."""
        for job in self._jobs:
            job.kill()


class HostJob:
    """A command that runs in the background of a host."""

    def __init__(self, program, log):
        self._program = program
        self._output = log.with_suffix(".output")

    def start(self, wrapper):
        """Starts it in the namespace of the wrapper."""
        self._program.run_under(wrapper)
        with self._output.open("wb") as output:
            self._program.start(stdout=output)

    def is_done(self):
        """Whether the command has ended."""
        return not self._program.is_running()

    def output(self):
        """What the command has printed so far."""
        return self._output.read_text()

    def wait(self, limit):
        """Waits for the end of the command, which must succeed, and returns its output."""
        code = self._program.wait(limit)
        if code != 0:
            raise ProgramFailed(f"{self._program.name}: exit code {code}\n{self.output()}\n{self._program.log_tail()}")
        return self.output()

    def interrupt(self, limit=20):
        """Ends the command as Ctrl-C would, and returns its output."""
        self._program.stop(limit, signal.SIGINT)
        return self.output()

    def kill(self):
        """Ends the command, if it runs."""
        self._program.kill()
