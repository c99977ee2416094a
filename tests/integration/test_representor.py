"""A port whose data path is in an accelerator, seen and reached from the switch's side: counters, frames given to the guest,
copies of frames."""

import struct
import threading

from harness.process import wait_for
from harness.shared_case import SharedCase
from test_accelerator import ADDRESSES, MACS, MIB, AcceleratorCase

STRANGER = ("02:00:00:00:00:77", "10.0.0.77")
ARP_REQUEST, ARP_REPLY = 1, 2


def mac_bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def arp(operation, sender, target):
    """An ARP message for IPv4 as a frame; sender and target are (MAC, address)."""
    address_bytes = [bytes(int(part) for part in address.split(".")) for _, address in (sender, target)]
    destination = b"\xff" * 6 if operation == ARP_REQUEST else mac_bytes(target[0])
    message = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac_bytes(sender[0]) + address_bytes[0]
    message += (bytes(6) if operation == ARP_REQUEST else mac_bytes(target[0])) + address_bytes[1]
    return destination + mac_bytes(sender[0]) + b"\x08\x06" + message


def write_pcap(path, frames):
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            file.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)


def read_pcap(path):
    data = path.read_bytes()
    frames, at = [], 24
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        frames.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return frames


class Representor(SharedCase, AcceleratorCase):
    """Two guests whose queues are in the accelerator."""

    def share(self):
        self.start()
        self.await_devices({"acc"})

    def assert_as_found(self):
        self.await_devices({"acc"})
        self.assertEqual(self.guests[0].ping(ADDRESSES[1]), 5)
        self.guests[1].check(f"arp -d {STRANGER[1]} 2>/dev/null; ! grep -q {STRANGER[0]} /proc/net/arp")

    def total(self, name, port="net1"):
        return int(self.daemon.cli_json("port", "show", port)["totals"].get(name, 0))

    def write_request(self):
        """A file with a request of a stranger for the second guest's address."""
        path = self.folder / "request.pcap"
        write_pcap(path, [arp(ARP_REQUEST, STRANGER, (MACS[1], ADDRESSES[1]))])
        return path

    def test_counters_come_from_the_accelerator_and_do_not_go_back(self):
        before = self.total("receive_bytes")
        self.assertEqual(self.daemon.cli_json("port", "show", "net1")["uncounted"], {})
        stream = self.start_stream()
        received = self.total("receive_bytes")
        self.assertGreaterEqual(received, before + 4 * MIB)
        self.assertGreater(self.total("transmit_packets"), 0)
        self.assertGreater(int(self.queues("net1")[0]["counters"]["packets"]), 0)
        self.assertIn("received", self.daemon.cli("port", "show", "net1"))
        for device in ("soft", "acc1"):
            # Both ports, since each accelerator's frames stay on its switch.
            for n in range(2):
                self.daemon.cli("port", "rebind", f"net{n}", "--all", "--device", device.replace("1", str(n)))
            self.await_progress()
            now = self.total("receive_bytes")
            self.assertGreater(now, received)
            received = now
        self.finish(stream)

    def test_a_frame_is_given_to_a_guest_whose_queues_are_in_the_accelerator(self):
        request = self.write_request()
        answer = self.daemon.cli_json("port", "inject", "net1", str(request))
        self.assertEqual((answer["delivered"], answer["borrowed"], answer["not_returned"]), (1, "acc1", ""))
        wait_for(lambda: STRANGER[0] in self.guests[1].check("cat /proc/net/arp"), 30, "the guest knows the stranger",
                 self.daemon.program)
        self.assertEqual(self.devices_of("net1"), {"acc1"})
        stream = self.start_stream()
        for _ in range(20):
            self.daemon.cli("port", "inject", "net1", str(request))
        self.await_progress()
        self.finish(stream)

    def test_a_capture_has_what_is_in_software_and_says_what_is_not(self):
        self.daemon.cli("port", "rebind", "net1", "--queue", "1", "--device", "soft")
        copies = self.folder / "copies.pcap"
        captures = []
        thread = threading.Thread(target=lambda: captures.append(
            self.daemon.try_cli("port", "capture", "net1", str(copies), "--seconds", "5")))
        thread.start()
        request = self.write_request()
        while thread.is_alive():
            self.daemon.cli("port", "inject", "net1", str(request))
            thread.join(0.3)
        self.assertEqual(captures[0].returncode, 0, captures[0].stderr)
        self.assertIn("not seen: queue 0", captures[0].stderr)
        frames = [frame[:42] for frame in read_pcap(copies)]
        self.assertIn(arp(ARP_REPLY, (MACS[1], ADDRESSES[1]), STRANGER), frames)
        self.assertEqual(self.devices_of("net1"), {"acc1", "soft"})
        self.daemon.cli("port", "rebind", "net1", "--queue", "1", "--device", "acc1")

    def test_what_cannot_be_done_is_refused(self):
        cut = self.folder / "runt.pcap"
        write_pcap(cut, [b"too short"])
        for arguments, reason in ((("net1", str(cut)), "frame 1 has 9 bytes"), (("net9", str(cut)), "no port 'net9'")):
            refused = self.daemon.try_cli("port", "inject", *arguments)
            self.assertEqual(refused.returncode, 1)
            self.assertIn(reason, refused.stderr)
