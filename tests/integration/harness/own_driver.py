"""bench/load_driver: our driver side at the end of a vhost-user socket, or of a function's, with no VMM."""

import itertools
import subprocess

from .daemon import program_folder

# What is varied against another's back-end; the names are those of virtio-user.
SETTINGS = {"packed_vq": (0, 1), "in_order": (0, 1), "mrg_rxbuf": (0, 1), "queue_size": (256, 1024, 4096), "queues": (1, 4)}
FLAGS = {"packed_vq": "--packed", "in_order": "--in-order", "mrg_rxbuf": "--mergeable"}


class OwnDriver:
    """A running load_driver. `mode`: transmit, receive, or both; with `to` it transmits and receives there."""

    def __init__(self, socket, mode, combination, frame_bytes=60, core=0, to=None, function=False):
        argv = [program_folder() / "load_driver", str(socket), "--cpu", str(core), "--frame", str(frame_bytes), "--mode", mode,
                "--entries", str(combination.get("queue_size", 256)), "--pairs", str(combination.get("queues", 1)),
                *(flag for name, flag in FLAGS.items() if combination.get(name)), *(("--to", str(to)) if to else ()),
                *(("--function",) if function else ())]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        # What it logs comes before.
        if not any(line.strip() == "ready" for line in iter(self._process.stdout.readline, "")):
            self.close()
            raise RuntimeError(f"load_driver did not start at {socket}")

    def rate(self, seconds):
        """Packets per second over some seconds."""
        self._process.stdin.write(f"run {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("load_driver has ended")
        return float(answer)

    def close(self):
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def all_combinations():
    """Every combination of settings, as dictionaries."""
    return [dict(zip(SETTINGS, values)) for values in itertools.product(*SETTINGS.values())]
