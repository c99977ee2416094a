"""A checksummed TCP stream from one guest to another."""

from dataclasses import dataclass

from .process import wait_for


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


class Transfer:
    """A random block of `block_mib`, sent `times` times over by the guest that has `sender_address`; the receiver is a guest or a
    host."""

    def __init__(self, sender, sender_address, receiver, block_mib=8, times=4, port=5000):
        self._sender = sender
        self._receiver = receiver
        self._block_mib = block_mib
        names = ("block", "stream", "stop", "sent")
        self._block, stream, self._stop, self._sent = (f"{sender.scratch}/{name}{port}" for name in names)
        digest = f"{receiver.scratch}/digest{port}"
        sender.check(f"head -c {block_mib << 20} /dev/urandom >{self._block}; rm -f {self._stop}; "
                     f"echo 'n=0; while test $n -lt {times} && ! test -e {self._stop}; do cat {self._block}; n=$((n+1)); "
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
        expected = self._sender.check(f"for i in $(seq {times}); do cat {self._block}; done | sha256sum", limit).split()[0]
        if received.split()[0] != expected:
            raise ChecksumMismatch(f"{self._sender.name} sent a stream of sha256 {expected}, "
                                   f"{self._receiver.name} received {received.split()[0]}")
        return Outcome(self._block_mib * times, max(float(ended) - float(began), 0.01))
