"""Back-ends and drivers to be compared: each back-end runs on processor 1, each driver on processor 0."""

import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

from harness.daemon import Causewayd, Port  # noqa: E402
from harness.own_driver import OwnDriver  # noqa: E402
from harness.testpmd import Testpmd, net_vhost, virtio_user  # noqa: E402

SETTLE_SECONDS = 0.3


class Causeway:
    """Our daemon, with one port that does `work`: reflect, sink or source."""

    name = "ours"

    def __init__(self, folder, work, frame_bytes, wrapper=(), limit=20, state=None):
        self.socket = folder / "ours.sock"
        connection = f"source:{frame_bytes}" if work == "source" else work
        self.daemon = Causewayd(folder, [Port("bench", self.socket, connection=connection)], cpu=1, state=state)
        self.program = self.daemon.program
        self.program.run_under(wrapper)
        self.daemon.start(limit)

    def _worker(self):
        return self.daemon.cli_json("port", "list")["workers"][0]

    def begin(self):
        self._start = self._worker()

    def packets(self):
        """Packets moved since `begin`."""
        return int(self._worker().get("items", 0)) - int(self._start.get("items", 0))

    def end(self):
        """Cycles per packet since `begin`, in passes that moved some."""
        cycles = int(self._worker().get("busy_cycles", 0)) - int(self._start.get("busy_cycles", 0))
        return cycles / max(self.packets(), 1)

    def close(self):
        self.program.kill()


class Dpdk:
    """testpmd with net_vhost, in the forward mode that does the same work."""

    name = "DPDK"
    MODES = {"reflect": "io", "sink": "rxonly", "source": "txonly"}

    def __init__(self, folder, work, frame_bytes, wrapper=(), limit=30):
        self.socket = folder / "dpdk.sock"
        self._counter = "TX-packets" if work == "source" else "RX-packets"
        self.testpmd = Testpmd("dpdk-backend", folder, net_vhost(self.socket), forward_mode=self.MODES[work], core=1)
        self.program = self.testpmd.program
        self.program.run_under(wrapper)
        self.testpmd.start(limit)
        self.testpmd.command("set record-core-cycles on")
        self.testpmd.command(f"set txpkts {frame_bytes}")

    def begin(self):
        self.testpmd.command("clear fwd stats all")
        self.testpmd.start_forwarding()

    def packets(self):
        """Packets moved since `begin`."""
        return self.testpmd.stats()[self._counter]

    def end(self):
        """Cycles per packet since `begin`, as testpmd counts them."""
        found = re.search(r"CPU cycles/packet=([\d.]+)", self.testpmd.stop_forwarding())
        return float(found[1]) if found else float("nan")

    def close(self):
        self.testpmd.kill()


class StockDriver:
    """testpmd with net_virtio_user."""

    MODES = {"reflect": ("io", "RX-packets", 8), "sink": ("txonly", "TX-packets", 0), "source": ("rxonly", "RX-packets", 0)}

    def __init__(self, folder, backend, work, frame_bytes, layout):
        mode, self._counter, self._first_burst = self.MODES[work]
        self._testpmd = Testpmd(f"driver-{backend.name}", folder, virtio_user(backend.socket, **layout))
        self._testpmd.start()
        self._testpmd.command(f"set fwd {mode}")
        self._testpmd.command(f"set txpkts {frame_bytes}")

    def rate(self, seconds):
        """Packets per second over some seconds."""
        self._testpmd.start_forwarding(self._first_burst)
        time.sleep(SETTLE_SECONDS)
        begin, first = time.monotonic(), self._testpmd.stats()[self._counter]
        time.sleep(seconds)
        last, end = self._testpmd.stats()[self._counter], time.monotonic()
        self._testpmd.stop_forwarding()
        return (last - first) / (end - begin)

    def close(self):
        self._testpmd.kill()


class LoadDriver:
    """Our driver side, with no packet pool behind it."""

    MODES = {"reflect": "both", "sink": "transmit", "source": "receive"}

    def __init__(self, _folder, backend, work, frame_bytes, layout):
        self._driver = OwnDriver(backend.socket, self.MODES[work], layout, frame_bytes)

    def rate(self, seconds):
        """Packets per second over some seconds, after a short run that fills the rings."""
        self._driver.rate(0.05)
        return self._driver.rate(seconds)

    def close(self):
        self._driver.close()
