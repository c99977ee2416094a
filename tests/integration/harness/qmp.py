"""A client of QEMU's machine protocol: one JSON command at a time."""

import json
import socket


class QmpError(AssertionError):
    """QEMU refused a command."""


class Qmp:
    """A connection to the QMP socket of one QEMU."""

    def __init__(self, path, limit=20):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(limit)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._stream.readline()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command, **arguments):
        """Runs one command and returns what QEMU answers; events that arrive meanwhile are skipped."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        for line in self._stream:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
        raise QmpError(f"{command}: QEMU closed the connection")

    def close(self):
        """Closes the connection; QEMU goes on."""
        self._stream.close()
        self._socket.close()
