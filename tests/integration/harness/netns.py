"""Network namespaces: a host side of its own for each test, which leaves the machine's network alone."""

import os

from .process import Program, ProgramFailed, find_program, run


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

    def program(self, name, argv, log):
        """A background program that will run in here; `ip` gives way to it, so its pid is the program's."""
        return Program(name, ["ip", "netns", "exec", self.name, find_program(str(argv[0])), *argv[1:]], log)
