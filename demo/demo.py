#!/usr/bin/env python3
"""Two Linux guests, their NICs and a disk served by causewayd: a ping, a checksummed stream and a disk that proves what it has,
while their queues move between software and an accelerator, which is another causewayd: its ports are virtio-pci functions."""

import contextlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/integration"))

from harness.daemon import Causewayd, DiskPort, Port  # noqa: E402 (the path above comes first)
from harness.guest import Disk, Guest, Nic, count_answers  # noqa: E402
from harness.process import wait_for  # noqa: E402
from harness.transfer import Transfer  # noqa: E402

ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
SOFTWARE = ("soft-a", "soft-b")
QUEUE_PAIRS = 2
PINGS = 100
BLOCK_MIB, BLOCKS = 16, 6
PAUSE = 0.2  # seconds between moves: guests reach each other only while both are on one switch
DISK_BYTES, DISK_SECONDS = 64 << 20, 8
SERVED, SHARED = ("transport", "vfio-user"), ("shared", True)


def say(text):
    """Prints a step with the time since the start."""
    print(f"[{time.monotonic() - START:5.1f} s] {text}", flush=True)


def start_guest(stack, folder, name, port, address, *disks):
    """Boots a guest on a port and gives it an address."""
    nic = Nic(port.socket, port.mac, port.queue_pairs, properties="page-per-vq=on")
    guest = Guest(name, folder, [nic, *disks], cpus=QUEUE_PAIRS)
    stack.callback(guest.kill)
    guest.start()
    guest.set_address(address)
    say(f"{name} runs Linux {guest.check('uname -r').strip()}, {address} on port {port.name}")
    return guest


def move(daemon, ports, place):
    """Moves every queue of the ports to a Device; "acc" means each port's accelerator."""
    for port in ports:
        daemon.cli("port", "rebind", port.name, "--all", "--device", f"acc-{port.name}" if place == "acc" else place)


def rebind_while(daemon, ports, places, is_over):
    """Moves the ports to the next place, again and again until is_over(); returns how many moves of a port that were."""
    rounds = 0
    while not is_over():
        move(daemon, ports, places[rounds % len(places)])
        rounds += 1
        time.sleep(PAUSE)
    return rounds * len(ports)


def run_ping(daemon, ports, guest, address):
    """Pings while queues are rebound; returns the row of the table."""
    say(f"{PINGS} pings while all queues move between two software Devices on one switch")
    move(daemon, ports, SOFTWARE[0])
    pings = guest.spawn(f"ping -c {PINGS} -i 0.02 -W 2 {address}")
    moves = rebind_while(daemon, ports, SOFTWARE[::-1], pings.is_done)
    answers = count_answers(pings.wait(30))
    return "ping", f"{answers} of {PINGS} answered", str(moves), str(PINGS - answers)


def run_stream(daemon, ports, sender, sender_address, receiver):
    """Sends a checksummed stream while queues move; returns the row of the table."""
    say(f"{BLOCK_MIB * BLOCKS} MiB over TCP while all queues move between accelerator and software")
    stream = Transfer(sender, sender_address, receiver, block_mib=BLOCK_MIB, times=BLOCKS)
    moves = rebind_while(daemon, ports, ("acc", SOFTWARE[0]), stream.is_done)
    outcome = stream.finish()
    return "TCP stream", f"{outcome.mib} MiB at {outcome.mib_per_second:.0f} MiB/s", str(moves), "0 (sha256 equal)"


def run_disk(daemon, port, accelerator, guest):
    """Writes what can be proven while the disk's queue moves and its accelerator is killed; returns the row of the table."""
    say(f"{DISK_SECONDS} s of writes and reads back while the disk's queue moves, and the accelerator is killed")
    job = guest.spawn(f"blk_check soak /dev/vda 8 2000 {DISK_SECONDS}")
    half = time.monotonic() + DISK_SECONDS / 2
    moves = rebind_while(daemon, [port], (SOFTWARE[0], "acc"), lambda: time.monotonic() > half)
    move(daemon, [port], "acc")
    accelerator.kill()
    wait_for(lambda: daemon.cli_json("port", "show", port.name)["queues"][0]["device"] != "acc-disk0", 20,
             "software goes on with the disk", daemon.program)
    accelerator.start()
    report = json.loads(job.wait(60).splitlines()[-1])
    return "disk", f"{report['writes']} writes", str(moves), f"{report['errors']} (all read back)"


def functions_of(ports):
    """The Devices that drive the accelerator's functions, one for each port."""
    return {port.name: ((f"acc-{port.name}", {"kind": "vfio-user", "socket": str(port.socket)}),) for port in ports}


def start_daemons(stack, folder):
    """The accelerator and the daemon; returns both, the daemon's NIC ports and its port with the disk."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    (folder / "accelerator").mkdir()
    served = [Port(f"net{n}", folder / "accelerator" / f"net{n}.sock", queue_pairs=QUEUE_PAIRS, mac=mac, more=(SERVED,))
              for n, mac in enumerate(MACS)]
    served.append(DiskPort("disk0", folder / "accelerator/disk0.sock", f"file:{image}", more=(SERVED, SHARED)))
    accelerator = Causewayd(folder / "accelerator", served)
    functions = functions_of(served)
    ports = [Port(f"net{n}", folder / f"net{n}.sock", queue_pairs=QUEUE_PAIRS, mac=mac,
                  devices=(f"acc-net{n}", *SOFTWARE), functions=functions[f"net{n}"]) for n, mac in enumerate(MACS)]
    disk = DiskPort("disk0", folder / "disk0.sock", f"file:{image}", devices=("acc-disk0", *SOFTWARE), more=(SHARED,),
                    functions=functions["disk0"])
    daemon = Causewayd(folder, [*ports, disk])
    for program in (accelerator, daemon):
        stack.callback(program.kill)
        program.start()
    say(f"an accelerator with {len(served)} functions; causewayd serves {len(ports)} NICs with {QUEUE_PAIRS} queue pairs each, and a disk")
    return accelerator, daemon, ports, disk


def show(folder, stack):
    """Runs the demonstration and returns the rows of its table."""
    accelerator, daemon, ports, disk = start_daemons(stack, folder)
    guests = [start_guest(stack, folder, f"guest{n}", port, address, *disks)
              for n, (port, address, disks) in enumerate(zip(ports, ADDRESSES, ([Disk(disk.socket, properties="page-per-vq=on")], [])))]
    guests[0].await_ping(ADDRESSES[1])
    say("the guests reach each other through the accelerator; the daemon does nothing")
    rows = [run_stream(daemon, ports, guests[0], ADDRESSES[0], guests[1]),
            run_disk(daemon, disk, accelerator, guests[0]),
            run_ping(daemon, ports, guests[0], ADDRESSES[1])]
    for guest in guests:
        guest.stop()
    daemon.stop()
    accelerator.stop()
    say("guests and daemons have ended cleanly")
    return rows


def print_table(rows):
    """Prints rows under their headings, in columns."""
    rows = [("traffic", "moved", "ports rebound", "lost"), *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    print()
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


START = time.monotonic()

if __name__ == "__main__":
    work = Path(tempfile.mkdtemp(prefix="cw-"))
    try:
        with contextlib.ExitStack() as cleanup:
            table = show(work, cleanup)
    except AssertionError as failure:
        sys.exit(f"demo: {failure}\nAll logs are in {work}")
    shutil.rmtree(work)
    print_table(table)
    sys.exit(0 if all(row[-1].split()[0] == "0" for row in table) else 1)
