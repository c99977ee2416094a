"""A Linux guest in QEMU (TCG), its NICs served over vhost-user, with a way to run commands inside it."""

import base64
import copy
import itertools
import re
import select
import socket
from dataclasses import dataclass
from pathlib import Path

from .guest_commands import LONGEST_REQUEST, Job, LineChannel, escape
from .process import Program, ProgramFailed, WaitTimeout, tail, wait_for
from .qmp import Qmp
from .vm_parts import initramfs, vm_folder

BOOT_LIMIT = 60
FIRST_SLOT = 0x18  # of the root ports; NICs are below
VFIO_MODULES = ("vfio_iommu_type1", "vfio-pci")
EXT4_MODULES = ("crc32c_generic", "ext4")  # a tenth of the time of a boot
SHARE_MODULES = ("9p", "9pnet_virtio")
SHARE_OPTIONS = "ro,trans=virtio,version=9p2000.L,msize=262144"
BEHIND_IOMMU = "iommu_platform=on,ats=on"  # properties that put a virtio device behind the guest's IOMMU
MAPPINGS = {"lazy": " intel_iommu=on", "strict": " intel_iommu=on iommu.strict=1", "passthrough": " intel_iommu=on iommu=pt"}
KVM_MODULES = ("kvm-amd",)  # TCG emulates no other's
# The kernel's tests of its own ciphers, which nothing here uses, are a fifth of the time of a boot.
KERNEL_OPTIONS = "console=ttyS0 quiet mitigations=off cryptomgr.notests"
MIGRATION_PORT = 4444


@dataclass(frozen=True)
class Nic:
    """One virtio-net device of a guest. With listen, QEMU is the server of the socket and the back-end connects."""

    socket: Path
    mac: str
    queue_pairs: int = 1
    listen: bool = False
    reconnect_ms: int = 0
    properties: str = ""  # of QEMU's device, such as "packed=on,in_order=on"

    def qemu_arguments(self, number):
        """The arguments that give QEMU this NIC; it is always the number-th PCI device, hence eth<number>."""
        role = ",server=on,wait=off" if self.listen else ""
        reconnect = f",reconnect-ms={self.reconnect_ms}" if self.reconnect_ms else ""
        multiqueue = f",mq=on,vectors={2 * self.queue_pairs + 2}" if self.queue_pairs > 1 else ""
        properties = f",{self.properties}" if self.properties else ""
        return ["-chardev", f"socket,id=nic{number},path={self.socket}{role}{reconnect}",
                "-netdev", f"vhost-user,id=net{number},chardev=nic{number},queues={self.queue_pairs}",
                "-device", f"virtio-net-pci,netdev=net{number},id=eth{number},addr={0x10 + number:#x},mac={self.mac},"
                           f"disable-legacy=on,romfile={multiqueue}{properties}"]


@dataclass(frozen=True)
class Disk:
    """One virtio-blk device of a guest, its first one being /dev/vda."""

    socket: Path
    queues: int = 1
    listen: bool = False
    reconnect_ms: int = 0
    properties: str = ""

    def qemu_arguments(self, number):
        """The arguments that give QEMU this disk."""
        role = ",server=on,wait=off" if self.listen else ""
        reconnect = f",reconnect-ms={self.reconnect_ms}" if self.reconnect_ms else ""
        properties = f",{self.properties}" if self.properties else ""
        return ["-chardev", f"socket,id=disk{number},path={self.socket}{role}{reconnect}",
                "-device", f"vhost-user-blk-pci,chardev=disk{number},num-queues={self.queues},disable-legacy=on{properties}"]


@dataclass(frozen=True)
class PciSlot:
    """A slot behind a root port of its own, whose functions can be reset, unplugged, and driven by a program in the guest
    through VFIO. A function is a device of QEMU's with its properties; those of one slot share an IOMMU group."""

    functions: tuple

    def qemu_arguments(self, number):
        """The arguments that give QEMU this slot, as the number-th device; its functions are called slot<number>.<function>."""
        arguments = ["-device", f"pcie-root-port,id=port{number},chassis={number + 1},addr={FIRST_SLOT + number:#x}"]
        multifunction = ",multifunction=on" if len(self.functions) > 1 else ""
        for index, function in enumerate(self.functions):
            arguments += ["-device", f"{function},id=slot{number}.{index},bus=port{number},addr=0x0.{index}{multifunction}"]
        return arguments


@dataclass(frozen=True)
class Share:
    """A folder of the host that a guest can read, as /<name>."""

    name: str
    folder: Path

    def qemu_arguments(self):
        """The arguments that give QEMU this folder."""
        return ["-fsdev", f"local,id={self.name},path={self.folder},security_model=none,readonly=on",
                "-device", f"virtio-9p-pci,fsdev={self.name},mount_tag={self.name},disable-legacy=on"]


def count_answers(output):
    """How many answers a ping counted, by what it printed."""
    summary = re.search(r"(\d+) packets received", output)
    if summary is None:
        raise ProgramFailed(f"ping did not run: {output}")
    return int(summary[1])


@dataclass(frozen=True)
class Result:
    """How a command in a guest ended."""

    code: int
    output: str


class Guest:
    """A guest; start() boots it, run() works inside it. `folder` takes its sockets and logs, so its path must be short.

    With an IOMMU, programs in the guest can drive its PCI functions through VFIO, and its kernel maps what it gives to devices as
    `mappings` says ("strict", "lazy", "passthrough"; of devices with BEHIND_IOMMU among their properties); with KVM, make virtual machines. `modules` are
    more of its kernel's, `programs` more of ours for its /bin, `files` others (as SOURCE:DESTINATION), `shares` folders of the host that it can read. QEMU runs in
    `namespace`, if there is one."""

    scratch = "/tmp"

    def __init__(self, name, folder, devices=(), memory_mib=256, cpus=1, memory_slots=0, plug=None, iommu=False, kvm=False,
                 mappings="lazy", modules=(), programs=(), files=(), shares=(), namespace=None):
        self.name = name
        self.devices = tuple(devices)
        self.memory_mib = memory_mib
        self.cpus = cpus
        self.memory_slots = memory_slots
        self.iommu = iommu
        self.mappings = mappings
        self.kvm = kvm
        self.modules = tuple(modules)
        self.programs = tuple(programs)
        self.files = tuple(files)
        self.shares = tuple(shares)
        self._plug = plug  # QEMU arguments that bring the memory and the NICs, in place of our own
        self._folder = Path(folder)
        self.console = self._folder / f"{name}.console.log"
        self._settle_in(name, namespace)
        self.qmp = None
        self._channel = None
        self._migration = None
        self._migrations = 0
        self._request_ids = itertools.count(1)

    def _settle_in(self, name, namespace, incoming=()):
        """Takes a QEMU of this name for its own, which does not run yet."""
        self._commands_path = self._folder / f"{name}.cmd"
        self._qmp_path = self._folder / f"{name}.qmp"
        self.program = Program(name, [*self._qemu_command(), *incoming], self._folder / f"{name}.qemu.log")
        if namespace is not None:
            self.program.run_under(namespace.wrapper())

    # Of a machine that can never have a second processor, TCG takes the guest's atomic instructions apart, and with them the
    # barriers that Linux makes of one ("lock; addl"): a store of the guest's may then come after a load behind it. To programs
    # beside QEMU that is a kick lost now and then, and with EVENT_IDX no later one is sent: the queue stands still.
    def _qemu_command(self):
        plug = self._plug if self._plug is not None else self._own_plug()
        # It must come before the devices that it stands before. With 39 bits, IOVAs that are too high are easy to have.
        iommu = ["-device", "intel-iommu,intremap=on,device-iotlb=on,aw-bits=39"] if self.iommu else []
        modules = (*(VFIO_MODULES if self.iommu else ()), *(KVM_MODULES if self.kvm else ()),
                   *(SHARE_MODULES if self.shares else ()), *self.modules)
        shares = [word for share in self.shares for word in share.qemu_arguments()]
        return [vm_folder() / "bin/qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", f"{self.cpus},maxcpus={max(self.cpus, 2)}",
                "-machine", "q35", "-display", "none", "-nodefaults", *iommu,
                "-qmp", f"unix:{self._qmp_path},server=on,wait=off",
                "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
                "-chardev", f"socket,id=commands,path={self._commands_path}",
                "-device", "virtio-serial-pci,addr=0x8", "-device", "virtserialport,chardev=commands",
                "-kernel", vm_folder() / "vmlinux", "-initrd", initramfs(modules, self.programs, self.files),
                "-append", f"{KERNEL_OPTIONS}{MAPPINGS[self.mappings] if self.iommu else ''}", *shares, *plug]

    def _own_plug(self):
        slots = f",slots={self.memory_slots},maxmem={4 * self.memory_mib}M" if self.memory_slots else ""
        memory = ["-m", f"{self.memory_mib}M{slots}", "-machine", "memory-backend=ram",
                  "-object", f"memory-backend-memfd,id=ram,size={self.memory_mib}M,share=on"]
        return memory + [word for number, device in enumerate(self.devices) for word in device.qemu_arguments(number)]

    def start_qemu(self, limit=BOOT_LIMIT):
        """Starts QEMU, which says nothing yet."""
        self._commands_path.unlink(missing_ok=True)
        # We listen and QEMU connects, so that not even the first word of the guest is lost.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._commands_path))
            listener.listen(1)
            self.program.start()
            wait_for(lambda: select.select([listener], [], [], 0)[0], limit, "QEMU connects", self.program)
            connection, _ = listener.accept()
        self._channel = LineChannel(connection)
        self.qmp = Qmp(self._qmp_path)

    def start(self, limit=BOOT_LIMIT):
        """Starts QEMU and waits until the guest takes commands."""
        self.start_qemu(limit)
        self.finish_boot(limit)

    def finish_boot(self, limit=BOOT_LIMIT):
        """Waits, after start_qemu, until the guest takes commands."""
        self._await_ready(limit)
        for share in self.shares:
            self.check(f"mkdir /{share.name} && mount -t 9p -o {SHARE_OPTIONS} {share.name} /{share.name}")

    def _await_ready(self, limit):
        try:
            self._channel.read_line(limit, lambda line: line == "ready")
        except OSError as error:
            raise WaitTimeout(f"guest {self.name} is not up: {error}\n{self.logs_tail()}") from error

    def run(self, command, limit=30):
        """Runs a shell command in the guest; it is killed there when it takes longer than the limit."""
        request = next(self._request_ids)
        line = f"{request} {limit} {escape(command)}\n"
        if len(line) > LONGEST_REQUEST:
            raise ValueError(f"command of {len(line)} bytes: too long for the guest's terminal")
        try:
            self._channel.send(line)
            # The guest keeps the limit by itself; the time added is for its shell.
            answer = self._channel.read_line(limit + 15, lambda text: text.startswith(f"{request} "))
        except OSError as error:
            raise WaitTimeout(f"guest {self.name} does not answer `{command}`: {error}\n{self.logs_tail()}") from error
        _, code, *output = answer.split(" ")
        return Result(int(code), base64.b64decode("".join(output)).decode(errors="replace"))

    def check(self, command, limit=30):
        """Runs a command that must succeed, and returns its output."""
        result = self.run(command, limit)
        if result.code != 0:
            raise ProgramFailed(f"guest {self.name}: `{command}`: exit code {result.code}\n{result.output}\n{self.logs_tail()}")
        return result.output

    def spawn(self, command):
        """Starts a command in the background of the guest."""
        return Job(self, f"/tmp/job{next(self._request_ids)}", command)

    def function_address(self, slot, function=0):
        """The PCI address, in the guest, of a function of its slot-th device, which is a PciSlot."""
        return self.check(f"cd /sys/bus/pci/devices/0000:00:{FIRST_SLOT + slot:02x}.0 && echo 0000:*:00.{function}").strip()

    def bind_function(self, address, driver):
        """Gives a PCI function of the guest to another driver."""
        self.check(f"cd /sys/bus/pci/devices/{address} && if [ -e driver ]; then echo {address} >driver/unbind; fi && "
                   f"echo {driver} >driver_override && echo {address} >/sys/bus/pci/drivers_probe && "
                   f"readlink driver | grep -q '/{driver}$'")

    def set_address(self, address, interface="eth0", mtu=1500):
        """Gives an interface an address in a /24 and brings it up."""
        self.check(f"ifconfig {interface} {address} netmask 255.255.255.0 mtu {mtu} up")

    def ping(self, address, count=5, interval=0.01, size=56, limit=30):
        """Pings and returns how many answers came back."""
        return count_answers(self.run(f"ping -c {count} -i {interval} -s {size} -W 2 {address}", limit).output)

    def await_ping(self, address, limit=30):
        """Waits until an address answers a ping."""
        wait_for(lambda: self.ping(address, count=1), limit, f"{self.name} reaches {address}", self.program)

    def begin_migration(self, devices, namespace=None, address=None, bytes_per_second=1 << 33, limit=60, postcopy=False):
        """Begins to move the guest, while it runs, to another QEMU with these devices in the place of those that it has; over
        TCP where the address of that QEMU's namespace is given. `postcopy`: it may go before its memory."""
        self._migrations += 1
        self._migration = None
        destination = copy.copy(self)
        name = f"{self.name}-{self._migrations}"
        uri = f"unix:{self._folder / name}.mig" if address is None else f"tcp:{address}:{MIGRATION_PORT}"
        destination.devices = tuple(devices)
        destination._settle_in(name, namespace, ["-incoming", "defer"])
        self._migration = Migration(self, destination, uri, bytes_per_second, limit, postcopy)
        return self._migration

    def migrate(self, devices, namespace=None, address=None, limit=60):
        """Moves the guest, and returns what QEMU says of it (query-migrate)."""
        return self.begin_migration(devices, namespace, address, limit=limit).complete(limit)

    def move_into(self, other):
        """The QEMU of another one, which has the guest now, is this one's; its own ends."""
        self.qmp.execute("quit")
        self.program.wait(20)
        self._close()
        self.devices, self.program, self.qmp, self._channel = other.devices, other.program, other.qmp, other._channel
        self._commands_path, self._qmp_path = other._commands_path, other._qmp_path
        self._migration = None

    def reboot(self, limit=BOOT_LIMIT):
        """Reboots the guest, QEMU staying the same process, and waits until it takes commands again."""
        self._channel.send(f"0 {limit} {escape('reboot -f')}\n")
        self._await_ready(limit)

    def add_memory(self, mib, limit=30):
        """Plugs a DIMM in and returns when the guest uses it, for its receive buffers too (hence online_kernel)."""
        before, number = self.total_memory_kib(), next(self._request_ids)
        self.qmp.execute("object-add", **{"qom-type": "memory-backend-memfd", "id": f"dimm-ram{number}",
                                          "size": mib << 20, "share": True})
        self.qmp.execute("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"dimm-ram{number}")
        online = "for state in /sys/devices/system/memory/memory*/state; do " \
                 "grep -q offline $state && echo online_kernel >$state; done; true"

        def has_grown():
            self.check(online)
            return self.total_memory_kib() >= before + (mib << 10)

        wait_for(has_grown, limit, f"{self.name} uses its new memory", self.program)

    def total_memory_kib(self):
        """The memory that the guest's kernel has at hand."""
        return int(self.check("grep MemTotal /proc/meminfo").split()[1])

    def stop(self, limit=20):
        """Ends QEMU in an orderly way, which closes its vhost-user connections after stopping the rings."""
        if self.program.is_running():
            self.qmp.execute("quit")
            code = self.program.wait(limit)
            if code != 0:
                raise ProgramFailed(f"QEMU of {self.name} ended with exit code {code}\n{self.logs_tail()}")
        self._close()

    def kill(self):
        """Ends QEMU with SIGKILL, as if it had crashed; start() may follow."""
        if self._migration is not None:
            self._migration.kill_destination()
        self.program.kill()
        self._close()

    def _close(self):
        for connection in (self._channel, self.qmp):
            if connection is not None:
                connection.close()
        self._channel = self.qmp = None

    def logs_tail(self):
        """The end of the guest's console and of what QEMU said."""
        return f"{tail(self.console)}\n{self.program.log_tail()}"


class Migration:
    """A guest on its way from one QEMU to another."""

    def __init__(self, guest, destination, uri, bytes_per_second, limit, postcopy):
        self._guest = guest
        self._destination = destination
        destination.start_qemu(limit)
        for qmp in (guest.qmp, destination.qmp):
            qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": postcopy}])
        destination.qmp.execute("migrate-incoming", uri=uri)
        guest.qmp.execute("migrate-set-parameters", **{"downtime-limit": 300, "max-bandwidth": bytes_per_second})
        guest.qmp.execute("migrate", uri=uri)

    def status(self):
        """What the QEMU that it leaves says of it."""
        return self._guest.qmp.execute("query-migrate").get("status")

    def _await_end(self, status, limit):
        ends = ("completed", "failed", "cancelled")
        wait_for(lambda: self.status() in ends, limit, f"the migration of {self._guest.name} ends", self._guest.program)
        if self.status() != status:
            raise ProgramFailed(f"guest {self._guest.name}: its migration has {self.status()}, not {status}\n"
                                f"{self._guest.program.log_tail()}\n{self._destination.program.log_tail()}")

    def complete(self, limit=60):
        """Waits until the guest has moved, and returns what QEMU says of it (query-migrate)."""
        self._await_end("completed", limit)
        answer = self._guest.qmp.execute("query-migrate")
        destination = self._destination
        wait_for(lambda: destination.qmp.execute("query-status")["status"] == "running", limit,
                 f"{self._guest.name} runs where it has moved", destination.program)
        self._guest.move_into(destination)
        return answer

    def go_before_memory(self, bytes_per_second, limit=60):
        """Waits until the guest runs where it goes to, while its memory still comes, no faster than that."""
        self._guest.qmp.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": bytes_per_second})
        self._guest.qmp.execute("migrate-start-postcopy")
        wait_for(lambda: self.status() == "postcopy-active", limit, f"{self._guest.name} goes before its memory",
                 self._guest.program)

    def cancel(self, limit=60):
        """Leaves the guest where it is."""
        self._guest.qmp.execute("migrate_cancel")
        self._await_end("cancelled", limit)
        self.kill_destination()

    def fail(self, limit=60):
        """Kills the QEMU that the guest was to move to, and waits until the other one has noticed."""
        self.kill_destination()
        self._await_end("failed", limit)

    def kill_destination(self):
        """Ends the QEMU that the guest was to move to."""
        self._destination.kill()
