"""A checksummed TCP stream from one guest to another."""

import hashlib
import random
from dataclasses import dataclass

from .process import wait_for
from .vm_parts import RANDOM_BYTES, random_file


ENDLESS = 1 << 30  # times: the stream goes on until stop()


class ChecksumMismatch(AssertionError):
    """What arrived is not what was sent."""


@dataclass(frozen=True)
class Outcome:
    """What a transfer moved, and how long that took by the receiver's clock."""

    mib: int
    seconds: float

    @property
    def mib_per_second(self):
        """The rate."""
        return self.mib / self.seconds


class Block:
    """A random block of some MiB: the same file once per MiB, each time from a point of its own on, so that no two parts are alike.
    A guest makes it, and we know what it holds."""

    def __init__(self, mib):
        self._starts = [random.randrange(1, RANDOM_BYTES) for _ in range(mib)]

    def command(self):
        """The shell command that prints it in a guest."""
        starts = " ".join(map(str, self._starts))
        return f"for start in {starts}; do tail -c +$((start+1)) /random; head -c $start /random; done"

    def digest(self, times):
        """The sha256 of so many of them."""
        content = random_file().read_bytes()
        block = b"".join(content[start:] + content[:start] for start in self._starts)
        digest = hashlib.sha256()
        for _ in range(times):
            digest.update(block)
        return digest.hexdigest()


class Transfer:
    """A random block of `block_mib`, sent `times` times over by the guest that has `sender_address`; the receiver is a guest or a
    host."""

    def __init__(self, sender, sender_address, receiver, block_mib=8, times=4, port=5000):
        self._sender = sender
        self._receiver = receiver
        self._block_mib = block_mib
        self._content = Block(block_mib)
        names = ("block", "stream", "stop", "sent")
        block, stream, self._stop, self._sent = (f"{sender.scratch}/{name}{port}" for name in names)
        digest = f"{receiver.scratch}/digest{port}"
        sender.check(f"{self._content.command()} >{block}; rm -f {self._stop}; "
                     f"echo 'n=0; while test $n -lt {times} && ! test -e {self._stop}; do cat {block}; n=$((n+1)); "
                     f"done; echo $n >{self._sent}' >{stream}", limit=60)
        # With -e the connection itself is the program's input or output: busybox' nc copies a kilobyte at a time.
        sender.spawn(f"nc -l -p {port} -e sh {stream}")
        wait_for(lambda: sender.run(f"netstat -ltn | grep -q :{port}").code == 0, 20,
                 f"{sender.name} listens on port {port}", sender.program)
        clock = "cut -d' ' -f1 /proc/uptime"
        self._job = receiver.spawn(f"{clock}; nc {sender_address} {port} -e sh -c 'sha256sum >{digest}'; "
                                   f"cat {digest}; {clock}")

    def is_done(self):
        """Whether the stream has ended."""
        return self._job.is_done()

    def stop(self):
        """Ends the stream after the block that is being sent."""
        self._sender.check(f"touch {self._stop}")

    def finish(self, limit=120):
        """Waits for the end of the stream and compares the checksums."""
        began, received, ended = self._job.wait(limit).strip().split("\n")
        times = int(self._sender.check(f"cat {self._sent}"))
        expected = self._content.digest(times)
        if received.split()[0] != expected:
            raise ChecksumMismatch(f"{self._sender.name} sent a stream of sha256 {expected}, "
                                   f"{self._receiver.name} received {received.split()[0]}")
        return Outcome(self._block_mib * times, max(float(ended) - float(began), 0.01))
