"""How commands get into a guest, and one that runs in its background; the other end is guest_init.sh."""

import shlex

from .process import ProgramFailed, WaitTimeout, wait_for

LONGEST_REQUEST = 3500  # bytes; the guest's terminal holds 4096 before it drops some


def escape(command):
    """A command as one line of words that the guest's `read` and `printf %b` turn into the command again."""
    plain = range(0x21, 0x7f)
    text = command.encode()
    last = len(text) - 1
    return "".join(chr(byte) if byte in plain and byte != 0x5c or byte == 0x20 and 0 < at < last else f"\\0{byte:03o}"
                   for at, byte in enumerate(text))


class LineChannel:
    """Lines of text over a connected socket."""

    def __init__(self, connection):
        self._connection = connection
        self._unread = b""

    def send(self, line):
        self._connection.sendall(line.encode())

    def read_line(self, limit, is_wanted):
        """Returns the next line that is wanted; others, left by an earlier boot or a killed command, are dropped."""
        self._connection.settimeout(limit)
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                text = line.decode(errors="replace").strip()
                if is_wanted(text):
                    return text
                continue
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionError("the connection was closed")
            self._unread += received

    def close(self):
        self._connection.close()


class Job:
    """A command that runs in the background of a guest."""

    def __init__(self, guest, folder, command):
        self._guest = guest
        self._folder = folder
        self._command = command
        # Whoever waits for the end reads the pipe, which takes no processor time from the command as asking would.
        guest.check(f"mkdir {folder}; mkfifo {folder}/end; (sh -c {shlex.quote(command)} >{folder}/output 2>&1; "
                    f"echo $? >{folder}/code.new; mv {folder}/code.new {folder}/code; echo >{folder}/end) &")

    def output(self):
        """What the command has printed so far."""
        return self._guest.check(f"cat {self._folder}/output")

    def await_output(self, text, limit):
        """Waits until the command has printed the text."""
        found = wait_for(lambda: "text" if text in self.output() else "end" if self.is_done() else None, limit,
                         f"`{self._command}` in {self._guest.name} prints '{text}'", self._guest.program)
        if found == "end" and text not in self.output():
            raise ProgramFailed(f"guest {self._guest.name}: `{self._command}` did not print '{text}'\n{self.output()}")

    def is_done(self):
        """Whether the command has ended."""
        return self._guest.run(f"test -e {self._folder}/code").code == 0

    def wait(self, limit):
        """Waits for the end of the command, which must succeed, and returns its output."""
        result = self._guest.run(f"cd {self._folder}; test -e code || read -r line <end; cat code output", limit)
        if result.code != 0:
            raise WaitTimeout(f"`{self._command}` in {self._guest.name} ends: not within {limit} s\n{self._guest.logs_tail()}")
        code, output = result.output.split("\n", 1)
        if code != "0":
            raise ProgramFailed(f"guest {self._guest.name}: `{self._command}`: exit code {code}\n{output}")
        return output
