"""What of systemd a service sees that keeps descriptors with it: the notification socket and the descriptor store."""

import os
import socket
import sys
import threading
import time
from pathlib import Path

# Gives the descriptors that it was started with the numbers from 3 on, and becomes the program.
LAUNCH = """
import os, sys
numbers, names, program = [int(n) for n in sys.argv[1].split(",") if n], sys.argv[2], sys.argv[3:]
high = [os.dup2(n, 1000 + i) for i, n in enumerate(numbers)]
for i, n in enumerate(high):
    os.dup2(n, 3 + i)
os.closerange(3 + len(high), 5000)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"""


class ServiceManager:
    """Receives what a service says; keeps its descriptors, and gives them to its next process."""

    def __init__(self, folder):
        self.path = Path(folder) / "notify.sock"
        self.stored = []  # of (name, descriptor), oldest first
        self.said = []
        self.delay = 0  # seconds that it takes to let go of a descriptor
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 8)
            self._hear(dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line), descriptors)

    def _hear(self, message, descriptors):
        self.said.append(message)
        if "FDSTORE" in message:
            self.stored += [(message["FDNAME"], descriptor) for descriptor in descriptors]
            return
        if "FDSTOREREMOVE" in message:
            time.sleep(self.delay)
            for _, descriptor in (entry for entry in self.stored if entry[0] == message["FDNAME"]):
                os.close(descriptor)
            self.stored = [entry for entry in self.stored if entry[0] != message["FDNAME"]]
        for descriptor in descriptors:  # of a barrier: closing it is the answer
            os.close(descriptor)

    def environment(self):
        """What the service finds in its environment."""
        return {"NOTIFY_SOCKET": str(self.path)}

    def wrapper(self):
        """The command before the service's own, and the descriptors that must be passed to it."""
        numbers = [descriptor for _, descriptor in self.stored]
        names = ":".join(name for name, _ in self.stored)
        return [sys.executable, "-c", LAUNCH, ",".join(map(str, numbers)), names], numbers
