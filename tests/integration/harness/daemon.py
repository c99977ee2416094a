"""causewayd under test: its configuration, its command line client, and what it costs the machine."""

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .process import Program, ProgramFailed, inherit_orphans, wait_for
from .vm_parts import program_folder

SWITCH = "sw0"
WORKER = "w0"
LIBRARY_THREADS = ("grpc", "timer_manager", "default-executo", "resolver-execut")


@dataclass(frozen=True)
class Port:
    """One port of the daemon; `devices` names the Devices that its queues can be rebound between, `remotes` says which of
    them are other processes' back-ends, and on which socket, and `functions` which are virtio-pci functions."""

    name: str
    socket: Path
    connection: str = f"switch:{SWITCH}"
    role: str = "server"
    queue_pairs: int = 1
    queue_size: int = 1024
    mac: str = ""
    mtu: int = 1500
    devices: tuple = ("soft",)
    remotes: tuple = ()  # of (name, socket, whether it is waited for)
    functions: tuple = ()  # of (name, the keys that say where it is)
    more: tuple = ()  # of (key, value): further keys

    def section(self):
        """What its table in the configuration file says."""
        return {"name": self.name, "socket": str(self.socket), "role": self.role, "device": "net",
                "queue-pairs": self.queue_pairs, "queue-size": self.queue_size,
                **({"mac": self.mac} if self.mac else {}), "mtu": self.mtu, "worker": WORKER,
                "connection": self.connection, "devices": list(self.devices), **dict(self.more)}


@dataclass(frozen=True)
class DiskPort:
    """One port with a disk; `more` are further keys of its table."""

    name: str
    socket: Path
    connection: str
    role: str = "server"
    queues: int = 1
    devices: tuple = ("soft",)
    remotes: tuple = ()
    functions: tuple = ()
    more: tuple = ()  # of (key, value)

    def section(self):
        """What its table in the configuration file says."""
        return {"name": self.name, "socket": str(self.socket), "role": self.role, "device": "blk",
                "connection": self.connection, "queues": self.queues, "devices": list(self.devices), **dict(self.more)}


def render_config(control, ports, polling="adaptive", cpu=None, state=None, log_level=None):
    """The text of a configuration file: one worker (on one processor if `cpu` says which), one switch, and the ports."""
    sections = [("[daemon]", {"control": str(control), **({} if state is None else {"state": str(state)}),
                              **({} if log_level is None else {"log-level": log_level})}),
                ("[[worker]]", {"name": WORKER, "polling": polling, **({} if cpu is None else {"cpu": cpu})}),
                ("[[switch]]", {"name": SWITCH, "worker": WORKER})]
    for name, socket, reconnect in [remote for port in ports for remote in port.remotes]:
        sections.append(("[[device]]", {"name": name, "kind": "vhost-user", "socket": str(socket), "reconnect": reconnect}))
    for name, place in [function for port in ports for function in port.functions]:
        sections.append(("[[device]]", {"name": name, **place}))
    for port in ports:
        sections.append(("[[port]]", port.section()))
    # Strings, numbers and lists of strings are written in TOML as in JSON.
    return "\n".join("\n".join([header, *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])
                     for header, values in sections)


class Causewayd:
    """One daemon, with its files in `folder`."""

    def __init__(self, folder, ports=(), polling="adaptive", cpu=None, state=None, namespace=None, log_level=None):
        self.control = Path(folder) / "control.sock"
        self.config = Path(folder) / "causewayd.toml"
        self.config.write_text(render_config(self.control, ports, polling, cpu, state, log_level))
        self.program = Program("causewayd", [program_folder() / "causewayd", "--config", self.config],
                               Path(folder) / "causewayd.log")
        if namespace is not None:
            self.program.run_under(namespace.wrapper())

    def start(self, limit=20):
        """Starts the daemon and waits until it answers its client."""
        self.program.start()
        wait_for(lambda: self.try_cli("port", "list").returncode == 0, limit, "causewayd answers", self.program)

    def try_cli(self, *arguments, limit=20, environment=None, stdin=None):
        """Runs `causeway` with arguments and returns how it ended, whatever that was."""
        command = [program_folder() / "causeway", "--socket", self.control, *arguments]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=limit, check=False,
                              env=environment, input=stdin)

    def cli(self, *arguments):
        """Runs `causeway` with arguments, which must succeed, and returns what it printed."""
        result = self.try_cli(*arguments)
        if result.returncode != 0:
            raise ProgramFailed(f"causeway {' '.join(map(str, arguments))}: exit code {result.returncode}\n"
                                f"{result.stdout}{result.stderr}\n{self.program.log_tail()}")
        return result.stdout

    def cli_json(self, *arguments):
        """The same with --json, parsed."""
        return json.loads(self.cli(*arguments, "--json"))

    def upgrade(self, *arguments):
        """Has a new process take over, which is the daemon from then on; returns for how many microseconds no queue ran."""
        inherit_orphans()
        answer = self.cli_json("upgrade", *arguments)
        self.program.follow(answer["pid"])
        return int(answer["pause_us"])

    def rebind_queue_pair(self, port, pair, device):
        """Moves a queue pair of a port to another Device."""
        self.cli("port", "rebind", port, "--queue-pair", pair, "--device", device)

    def fd_count(self):
        """How many descriptors the daemon has open."""
        return len(os.listdir(f"/proc/{self.program.pid}/fd"))

    def guest_mapping_count(self):
        """How many mappings of guest memory the daemon has; QEMU and DPDK name their memory files."""
        maps = Path(f"/proc/{self.program.pid}/maps").read_text().splitlines()
        return sum("/memfd:" in line for line in maps)

    def cpu_seconds(self):
        """The processor time that the daemon has used."""
        # Fields 14 and 15 of the whole line, the third being the first after the name in parentheses.
        fields = Path(f"/proc/{self.program.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def context_switches(self):
        """How often the control thread and the workers have given up or lost their processors. The library of the control API
        has threads of its own, of which one looks at its timers about once a second."""
        total = 0
        for status in Path(f"/proc/{self.program.pid}/task").glob("*/status"):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if fields["Name"].strip().startswith(LIBRARY_THREADS):
                continue
            total += int(fields["voluntary_ctxt_switches"]) + int(fields["nonvoluntary_ctxt_switches"])
        return total

    def stop(self, limit=20):
        """Ends the daemon with SIGTERM; it must exit with code 0."""
        code = self.program.stop(limit, signal.SIGTERM)
        if code != 0:
            raise ProgramFailed(f"causewayd ended with exit code {code}\n{self.program.log_tail()}")

    def kill(self):
        """Ends the daemon with SIGKILL, if it runs."""
        self.program.kill()
