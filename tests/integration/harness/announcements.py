#!/usr/bin/env python3
"""announcements INTERFACE MAC: prints a line for each frame by which that station makes itself known to all: a RARP packet, or an
ARP packet about its own address."""

import socket
import sys

BROADCAST = b"\xff" * 6
ARP, RARP = 0x0806, 0x8035
SENDER_IP, TARGET_IP = slice(28, 32), slice(38, 42)  # in a frame with an ARP packet


def kind_of(frame, mac):
    """What the frame is; None: no announcement of that station."""
    if frame[:6] != BROADCAST or frame[6:12] != mac:
        return None
    protocol = int.from_bytes(frame[12:14], "big")
    if protocol == RARP:
        return "RARP"
    return "ARP" if protocol == ARP and frame[SENDER_IP] == frame[TARGET_IP] else None


def main():
    interface, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as heard:  # ETH_P_ALL
        heard.bind((interface, 0))
        while True:
            kind = kind_of(heard.recv(2048), mac)
            if kind is not None:
                print(kind, flush=True)


if __name__ == "__main__":
    main()
