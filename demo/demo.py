#!/usr/bin/env python3
"""Two Linux guests on one switch of causewayd: a ping and a checksummed stream, while their queues change Devices."""

import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/integration"))

from harness.daemon import Causewayd, Port  # noqa: E402 (the path above comes first)
from harness.guest import Guest, Nic, count_answers  # noqa: E402
from harness.transfer import Transfer  # noqa: E402

ADDRESSES = ("10.0.0.1", "10.0.0.2")
MACS = ("52:54:00:00:00:01", "52:54:00:00:00:02")
DEVICES = ("soft-a", "soft-b")
QUEUE_PAIRS = 2
PINGS = 100
BLOCK_MIB, BLOCKS = 16, 6


def say(text):
    """Prints a step with the time since the start."""
    print(f"[{time.monotonic() - START:5.1f} s] {text}", flush=True)


def start_guest(stack, folder, name, port, address):
    """Boots a guest on a port and gives it an address."""
    guest = Guest(name, folder, [Nic(port.socket, port.mac, port.queue_pairs)], cpus=QUEUE_PAIRS)
    stack.callback(guest.kill)
    guest.start()
    guest.set_address(address)
    say(f"{name} runs Linux {guest.check('uname -r').strip()}, {address} on port {port.name}")
    return guest


def rebind_while(daemon, ports, is_over):
    """Moves every queue pair to the other Device, again and again until is_over(); returns how many moves that were."""
    moves = 0
    while not is_over():
        device = DEVICES[1 - moves // (len(ports) * QUEUE_PAIRS) % 2]
        for port in ports:
            for pair in range(QUEUE_PAIRS):
                daemon.rebind_queue_pair(port.name, pair, device)
                moves += 1
    return moves


def run_ping(daemon, ports, guest, address):
    """Pings while queues are rebound; returns the row of the table."""
    say(f"{PINGS} pings while queues are rebound")
    pings = guest.spawn(f"ping -c {PINGS} -i 0.02 -W 2 {address}")
    moves = rebind_while(daemon, ports, pings.is_done)
    answers = count_answers(pings.wait(30))
    return "ping", f"{answers} of {PINGS} answered", str(moves), str(PINGS - answers)


def run_stream(daemon, ports, sender, sender_address, receiver):
    """Sends a checksummed stream while queues are rebound; returns the row of the table."""
    say(f"{BLOCK_MIB * BLOCKS} MiB over TCP while queues are rebound")
    stream = Transfer(sender, sender_address, receiver, block_mib=BLOCK_MIB, times=BLOCKS)
    moves = rebind_while(daemon, ports, stream.is_done)
    outcome = stream.finish()
    return "TCP stream", f"{outcome.mib} MiB at {outcome.mib_per_second:.0f} MiB/s", str(moves), "0 (sha256 equal)"


def show(folder, stack):
    """Runs the demonstration and returns the rows of its table."""
    ports = [Port(f"net{n}", folder / f"net{n}.sock", queue_pairs=QUEUE_PAIRS, mac=mac, devices=DEVICES)
             for n, mac in enumerate(MACS)]
    daemon = Causewayd(folder, ports)
    stack.callback(daemon.kill)
    daemon.start()
    say(f"causewayd serves {len(ports)} ports on one switch, {QUEUE_PAIRS} queue pairs each")
    guests = [start_guest(stack, folder, f"guest{n}", port, address)
              for n, (port, address) in enumerate(zip(ports, ADDRESSES))]
    guests[0].await_ping(ADDRESSES[1])
    rows = [run_ping(daemon, ports, guests[0], ADDRESSES[1]),
            run_stream(daemon, ports, guests[0], ADDRESSES[0], guests[1])]
    for guest in guests:
        guest.stop()
    daemon.stop()
    say("guests and daemon have ended cleanly")
    return rows


def print_table(rows):
    """Prints rows under their headings, in columns."""
    rows = [("traffic", "moved", "queue pairs rebound", "lost"), *rows]
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
    sys.exit(0 if table[0][-1] == "0" else 1)
