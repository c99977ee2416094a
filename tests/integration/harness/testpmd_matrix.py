"""What DPDK's virtio-user can ask of a device, combined; and one run of testpmd for one combination."""

import itertools
import re
import time
from dataclasses import dataclass, field

from .daemon import Port
from .process import ProgramFailed, WaitTimeout, wait_for
from .testpmd import Testpmd, virtio_user

# Every setting of virtio-user that is varied. The first four are asked for, and may be refused.
SETTINGS = {
    "packed_vq": (0, 1),
    "in_order": (0, 1),
    "mrg_rxbuf": (0, 1),
    "vectorized": (0, 1),
    "queue_size": (256, 1024, 4096),
    "queues": (1, 4),
}
# The feature bits that a setting of 1 stands for, by causeway's names. Vectorized is the driver's own affair.
FEATURES = {"packed_vq": "ring_packed", "in_order": "in_order", "mrg_rxbuf": "mrg_rxbuf"}
RX_PATH = re.compile(r"using (.*?) Rx path on port")
BURSTS = 4
PACKETS = 20_000
LINK_SECONDS = 10
IDLE_SECONDS = 10


def all_combinations():
    """Every combination of settings, as dictionaries."""
    return [dict(zip(SETTINGS, values)) for values in itertools.product(*SETTINGS.values())]


def covering(combinations, strength):
    """A few of the combinations in which all values of any `strength` settings meet; always the same few."""
    def meetings(combination):
        return set(itertools.combinations(combination.items(), strength))

    missing = set().union(*map(meetings, combinations))
    chosen = []
    while missing:
        best = max(combinations, key=lambda combination: len(meetings(combination) & missing))
        chosen.append(best)
        missing -= meetings(best)
    return chosen


def reflecting_ports(folder):
    """The ports that the combinations need, each by its number of queue pairs."""
    return {queues: Port(f"net{queues}", folder / f"net{queues}.sock", connection="reflect", queue_pairs=queues,
                         queue_size=max(SETTINGS["queue_size"])) for queues in SETTINGS["queues"]}


def label(combination):
    """A combination as virtio-user is told it."""
    return ",".join(f"{name}={value}" for name, value in combination.items())


@dataclass
class Outcome:
    """What came of one combination. `trouble` is empty when all went well."""

    combination: dict
    negotiated: list = field(default_factory=list)
    rx_path: str = ""
    packets: int = 0
    seconds: float = 0.0
    trouble: str = ""

    def not_granted(self):
        """The settings whose feature was asked for and not negotiated, or negotiated and not asked for."""
        return [name for name, feature in FEATURES.items()
                if bool(self.combination[name]) != (feature in self.negotiated)]


class Matrix:
    """Runs combinations, one after the other, against the reflecting ports of one daemon, which must be idle."""

    def __init__(self, folder, daemon, ports, core=1):
        self._folder = folder
        self._daemon = daemon
        self._ports = ports
        self._core = core
        self._idle_fds = daemon.fd_count()
        self._count = 0

    def run(self, combination):
        """Runs testpmd with one combination to its orderly end, and returns the Outcome."""
        outcome = Outcome(combination)
        began = time.monotonic()
        driver = self._make_driver(combination)
        try:
            driver.start()
            self._observe(driver, outcome)
            driver.quit()
            wait_for(self._is_idle, IDLE_SECONDS, "causewayd is idle again", self._daemon.program)
        except (WaitTimeout, ProgramFailed) as error:
            outcome.trouble = str(error)
        finally:
            driver.kill()
        paths = RX_PATH.findall(driver.program.log.read_text(errors="replace"))
        outcome.rx_path = paths[-1] if paths else ""
        outcome.seconds = time.monotonic() - began
        return outcome

    def _observe(self, driver, outcome):
        driver.await_link(LINK_SECONDS)
        port = self._ports[outcome.combination["queues"]]
        outcome.negotiated = self._daemon.cli_json("port", "show", port.name)["features_negotiated"]
        stats = driver.loop(BURSTS, PACKETS)
        outcome.packets = stats["RX-packets"]
        errors = {name: count for name, count in stats.items() if count and name not in ("RX-packets", "TX-packets",
                                                                                         "RX-bytes", "TX-bytes")}
        if errors:
            outcome.trouble = f"testpmd counts {errors}"

    def _make_driver(self, combination):
        self._count += 1
        queues, size = combination["queues"], combination["queue_size"]
        # Each ring can be full, and as many again be on their way.
        mbufs = 2 * queues * size + 4096
        options = [f"--rxd={size}", f"--txd={size}", f"--total-num-mbufs={mbufs}"]
        eal_options = ["--log-level=pmd.net.virtio.init:info", "--force-max-simd-bitwidth=512"]
        device = virtio_user(self._ports[queues].socket, **combination)
        return Testpmd(f"driver{self._count}", self._folder, device, queue_pairs=queues, core=self._core,
                       options=options, eal_options=eal_options)

    def _is_idle(self):
        return self._daemon.fd_count() == self._idle_fds and self._daemon.guest_mapping_count() == 0
