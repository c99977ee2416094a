"""Programs that the tests start and stop, each by its own pid, and waiting for a condition instead of sleeping."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

POLL_SECONDS = 0.02
LONGEST_POLL_SECONDS = 0.2


class WaitTimeout(AssertionError):
    """What a test waited for did not come true in time."""


class ProgramFailed(AssertionError):
    """A program is missing, ended early or answered with an error."""


def wait_for(condition, limit, what, program=None):
    """Returns the first true value of condition(); gives up after `limit` seconds, or when `program` has ended. What takes long to
    answer is asked less often: a guest under TCG would do little else than answer."""
    deadline = time.monotonic() + limit
    while True:
        has_ended = program is not None and not program.is_running()
        asked = time.monotonic()
        value = condition()  # asked after, so that it sees the last words of a program that has ended
        if value:
            return value
        if has_ended:
            raise ProgramFailed(f"{program.name} ended (exit code {program.exit_code}) before {what}\n{program.log_tail()}")
        if time.monotonic() > deadline:
            log = f"\n{program.log_tail()}" if program is not None else ""
            raise WaitTimeout(f"{what}: not within {limit} s{log}")
        time.sleep(min(max(POLL_SECONDS, 2 * (time.monotonic() - asked)), LONGEST_POLL_SECONDS))


def find_program(name):
    """The full path of a program; a test that cannot have it fails."""
    path = shutil.which(name)
    if path is None:
        raise ProgramFailed(f"program {name} is missing: run scripts/install-packages")
    return path


def run(*argv, limit=30, stdin=None):
    """Runs a short command to its end and returns its output; a failure raises with everything that it said."""
    command = [find_program(str(argv[0])), *map(str, argv[1:])]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=limit, check=False)
    if result.returncode != 0:
        raise ProgramFailed(f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def tail(path, lines=25):
    """The last lines of a log, under its name."""
    path = Path(path)
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join([f"--- {path}", *text[-lines:]])


class Successor:
    """A process that another one of ours has started and left to us: what subprocess.Popen is for our own children."""

    def __init__(self, pid):
        self.pid = pid
        self.returncode = None

    def poll(self):
        """The exit code; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid != 0:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        """Waits for it to end and returns its exit code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(POLL_SECONDS)
        return self.returncode

    def send_signal(self, number):
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def inherit_orphans():
    """Processes whose parent ends become ours, not init's, so that they can be waited for."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Program:
    """One program in the background, its output in a log file. It dies with the test run, however that ends."""

    def __init__(self, name, argv, log, environment=None):
        self.name = name
        self.log = Path(log)
        # The kernel kills the program should this process go away without a clean-up.
        self._argv = [find_program("setpriv"), "--pdeathsig", "KILL", find_program(str(argv[0])), *map(str, argv[1:])]
        self._environment = {**os.environ, **(environment or {})}
        self._process = None
        self._manager = None

    def run_under(self, wrapper):
        """Has the program started by another one, such as valgrind with its options."""
        self._argv[3:3] = map(str, wrapper)

    def add_arguments(self, *arguments):
        """More arguments for the next start."""
        self._argv += map(str, arguments)

    def manage_by(self, manager):
        """From the next start on it is a service of that service manager (see service_manager.py)."""
        self._manager = manager
        self._environment |= manager.environment()

    def start(self, stdin=subprocess.DEVNULL, stdout=None):
        """Starts the program; its output goes to the end of the log unless stdout names another place."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(self._argv[3:])}\n".encode())
            log.flush()
            wrapper, descriptors = self._manager.wrapper() if self._manager else ([], [])
            self._process = subprocess.Popen([*self._argv[:3], *wrapper, *self._argv[3:]], stdin=stdin,
                                             stdout=log if stdout is None else stdout, stderr=log,
                                             env=self._environment, pass_fds=descriptors)

    @property
    def pid(self):
        """The pid of the program itself: setpriv gives way to it."""
        return self._process.pid

    def follow(self, pid, limit=20):
        """The program has had another process take over from it, and ends; that one is the program from then on."""
        if self.wait(limit) != 0:
            raise ProgramFailed(f"{self.name} handed over and ended with {self.exit_code}\n{self.log_tail()}")
        self._process = Successor(pid)

    @property
    def exit_code(self):
        """The exit code, negative for a signal; None while it runs or before it was started."""
        return self._process.poll() if self._process else None

    def is_running(self):
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self, limit):
        """Waits for the program to end by itself and returns its exit code."""
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            raise WaitTimeout(f"{self.name} did not end within {limit} s\n{self.log_tail()}") from None

    def stop(self, limit=20, signal_number=signal.SIGTERM):
        """Asks the program to end and returns its exit code."""
        if self.is_running():
            self._process.send_signal(signal_number)
        return self.wait(limit)

    def kill(self):
        """Ends the program with SIGKILL, if it runs, and waits until it is gone."""
        if self.is_running():
            self._process.kill()
        if self._process is not None:
            self._process.wait()

    def log_tail(self):
        """The end of its log, for the message of a failed test."""
        return tail(self.log)
