"""DPDK's testpmd, driven through its prompt: as virtio-user it is the driver of our device, as net_vhost a back-end."""

import os
import pty
import re
import shutil
import tty
from pathlib import Path

from .process import Program, ProgramFailed, wait_for

PROMPT = b"testpmd> "
COUNTER = re.compile(r"([RT]X-[a-z]+):\s+(\d+)")


def virtio_user(socket, mac="52:54:00:00:0a:01", listen=False, **options):
    """The --vdev argument of a driver side; with listen it is the server of the socket and the back-end connects."""
    options = {"queues": 1, "queue_size": 256, **options}
    server = ",server=1" if listen else ""
    settings = "".join(f",{name}={value}" for name, value in options.items())
    return f"net_virtio_user0,mac={mac},path={socket}{server}{settings}"


def net_vhost(socket, queues=1, number=0, more=""):
    """The --vdev argument of DPDK's own back-end, the number-th one; it is the server of the socket. `more`: further settings."""
    return f"net_vhost{number},iface={socket},queues={queues}{more}"


class Testpmd:
    """One testpmd with one port. `listens_on` is the socket that it is the server of, if it is."""

    def __init__(self, name, folder, device, forward_mode="io", queue_pairs=1, core=0, options=(), eal_options=(),
                 listens_on=None):
        self._listens_on = listens_on
        # Memory without huge pages is one memfd, which is all that a vhost-user peer needs; nothing is to be reserved.
        prefix = f"{name}-{os.getpid()}"
        self._runtime_folder = Path("/var/run/dpdk") / prefix
        argv = ["dpdk-testpmd", "--lcores", f"0@{core},1@{core}", "--no-huge", "--no-shconf", "--no-pci", "-m", "192",
                "--file-prefix", prefix, *eal_options, "--vdev", device, "--",
                "-i", "--nb-cores=1", "--total-num-mbufs=8192", f"--forward-mode={forward_mode}",
                f"--rxq={queue_pairs}", f"--txq={queue_pairs}", *options]
        self.program = Program(name, argv, Path(folder) / f"{name}.log")
        self._terminal = None

    def start(self, limit=30):
        """Starts testpmd and waits for its first prompt."""
        if self._listens_on is not None:
            Path(self._listens_on).unlink(missing_ok=True)  # left by one that was killed; DPDK would not start
        # A terminal, since testpmd keeps its output back when it writes to a pipe.
        self._terminal, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(self._terminal, False)
        self.program.start(stdin=slave, stdout=slave)
        os.close(slave)
        self._read_to_prompt(limit, "testpmd starts")

    def command(self, text, limit=15):
        """Gives a command and returns what testpmd printed for it."""
        os.write(self._terminal, f"{text}\n".encode())
        return self._read_to_prompt(limit, f"testpmd answers `{text}`")

    def start_forwarding(self, first_burst=0):
        """Starts forwarding; with first_burst it sends so many bursts first, which a loop then keeps in flight."""
        self.command(f"start tx_first {first_burst}" if first_burst else "start")

    def stop_forwarding(self):
        """Stops forwarding and returns testpmd's summary."""
        return self.command("stop")

    def stats(self):
        """The counters of the port, by testpmd's names: RX-packets, TX-bytes, ..."""
        return {name: int(value) for name, value in COUNTER.findall(self.command("show port stats 0"))}

    def await_packets(self, counter, more, limit=30):
        """Waits until a counter has grown by `more`."""
        goal = self.stats()[counter] + more
        wait_for(lambda: self.stats()[counter] >= goal, limit, f"{self.program.name}: {counter} grows by {more}", self.program)

    def loop(self, bursts, packets):
        """Lets packets go round and round between the port and a peer that reflects, until `packets` have come, and then
        waits until each that was sent is back. Returns the counters."""
        self.start_forwarding(bursts)
        self.await_packets("RX-packets", packets)
        self.stop_forwarding()
        self.command("set fwd rxonly")
        self.start_forwarding()

        def all_are_back():
            stats = self.stats()
            return stats["RX-packets"] == stats["TX-packets"]

        wait_for(all_are_back, 20, "every packet has come back", self.program)
        self.stop_forwarding()
        return self.stats()

    def is_link_up(self):
        """Whether the port has a link, which for virtio-user means: is connected."""
        return "Link status: up" in self.command("show port info 0")

    def await_link(self, limit=30):
        """Waits for the link."""
        wait_for(self.is_link_up, limit, f"{self.program.name}: link is up", self.program)

    def quit(self, limit=30):
        """Ends testpmd in an orderly way; it closes the port first."""
        os.write(self._terminal, b"quit\n")
        wait_for(self._drain_until_end, limit, f"{self.program.name} ends")
        self._close()
        if self.program.exit_code != 0:
            raise ProgramFailed(f"testpmd ended with exit code {self.program.exit_code}\n{self.program.log_tail()}")

    def kill(self):
        """Ends testpmd with SIGKILL, if it runs."""
        self.program.kill()
        self._close()

    def _close(self):
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        shutil.rmtree(self._runtime_folder, ignore_errors=True)  # testpmd leaves it behind

    def _drain_until_end(self):
        self._read()
        return not self.program.is_running()

    def _read_to_prompt(self, limit, what):
        received = bytearray()

        def is_prompted():
            received.extend(self._read())
            # testpmd says what its port did at any time, after the prompt too.
            return PROMPT in received

        wait_for(is_prompted, limit, what, self.program)
        return received.decode(errors="replace")

    def _read(self):
        received = bytearray()
        try:
            while chunk := os.read(self._terminal, 65536):
                received.extend(chunk)
        except OSError:  # nothing more for now, or testpmd has ended
            pass
        with self.program.log.open("ab") as log:
            log.write(received)
        return received
