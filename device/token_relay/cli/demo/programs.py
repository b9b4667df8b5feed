"""The processes of the demo, or of ``try``, and their common directory.

Every program is ``token-relay`` itself, started as a person would start it: with this interpreter, a command line and
an environment without the person's own settings. Nothing is called in-process.

Invariants: a process is in the list before a signal can reach us; leaving the ``with`` ends every process (SIGTERM,
after ``END_S_MAX`` SIGKILL) and removes the directory, whatever happened inside, unless a person named it. Programs
write into files of that directory, so that the demo can search their output for tokens at the end.

Limit: SIGKILL ends the demo without a clean-up; its programs then run on and its directory stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from token_relay.cli.demo.checks import StepFailedError, expect
from token_relay.host.paths import CONTROL_SOCKET, check_socket_path
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.marked_tokens import find_marked

COMMAND = (sys.executable, "-m", "token_relay.cli")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal was closed
WITHIN_S = 20.0  # for anything that takes a fraction of a second on a quiet machine
END_S_MAX = 4.0  # agents and sandbox promise two seconds
POLL_S = 0.02  # between two looks at what a program has written
DIRECTORY_BYTES_MAX = 60  # "/companion/control.sock" follows, and a socket's path has 107 bytes at most
LOG_LINES = 6
# From the person's environment, programs get what an interpreter may need to start, nothing that configures an agent.
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT", "PYTHONPYCACHEPREFIX")


class Interrupts:
    """Turns stop signals into exceptions for as long as the ``with`` lasts.

    They are raised in the main thread, but never between the start of a child process and the moment when it is in the
    list, and never into the clean-up itself.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pending: int | None = None
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for number in SIGNALS:
            before = signal.signal(number, self._arrived)
            if before is not None:  # None: the handler was not set by Python and cannot be restored
                self._restore.callback(signal.signal, number, before)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore.close()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        if not self._depth:
            self._raise()

    def _raise(self) -> None:
        number, self._pending = self._pending, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(128 + number)  # as a shell reports it

    @contextlib.contextmanager
    def held(self, *, are_dropped: bool = False) -> Iterator[None]:
        """Hold signals back; afterwards they are raised, or forgotten with ``are_dropped``."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if are_dropped:
                self._pending = None
        if not self._depth and not are_dropped:
            self._raise()


@dataclass(frozen=True, slots=True)
class Program:
    """One process, and the files that it writes to."""

    words: str
    popen: subprocess.Popen[bytes]
    out_file: Path
    err_file: Path

    @property
    def out(self) -> str:
        """Return the standard output so far."""
        return self.out_file.read_text(errors="replace")

    @property
    def err(self) -> str:
        """Return the standard error so far."""
        return self.err_file.read_text(errors="replace")

    def find(self, pattern: str) -> re.Match[str]:
        """Wait for a whole line of its output that matches. Raises StepFailedError."""
        ends_at = time.monotonic() + WITHIN_S
        while True:
            is_over = self.popen.poll() is not None or time.monotonic() > ends_at
            if match := re.search(pattern, self.out.rpartition("\n")[0], re.MULTILINE):
                return match
            if is_over:
                raise StepFailedError(f"a line that matches {pattern!r} from: {self.words}", self.err or "-")
            time.sleep(POLL_S)

    def expect(self, code: int, within_s: float = 2 * WITHIN_S) -> Self:
        """Wait for its end and check the exit code (negative: a signal). Raises StepFailedError."""
        try:
            got = self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            raise StepFailedError(f"an end within {within_s:g} s of: {self.words}", "it still runs") from None
        expect(got == code, f"exit code {code} of: {self.words}", f"exit code {got}\n{self.err.strip()}")
        return self

    def end(self, number: signal.Signals, code: int) -> None:
        """Send a signal and expect that exit code. Raises StepFailedError."""
        self.popen.send_signal(number)  # without effect on a process that has ended
        self.expect(code, END_S_MAX)


class Programs:
    """All processes of one demo, and its directory."""

    directory: Path  # exists inside the ``with``

    def __init__(self, environment: Mapping[str, str], interrupts: Interrupts, named: Path | None = None) -> None:
        """``named``: a new directory, which stays at the end."""
        self._interrupts = interrupts
        self._named = named
        self._kept = {name: environment[name] for name in KEPT if name in environment}
        self._all: list[Program] = []

    def __enter__(self) -> Self:
        """Make the directory. Raises ConfigError: the named one cannot be had, or is in use."""
        if self._named is not None:
            self.directory = _new_directory(self._named.absolute())
            return self
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > DIRECTORY_BYTES_MAX - len("/trd-01234567"):
            base = "/tmp"  # noqa: S108  # mkdtemp below makes a private directory in it
        with self._interrupts.held():
            self.directory = Path(tempfile.mkdtemp(prefix="trd-", dir=base))
        return self

    def __exit__(self, *_: object) -> None:
        with self._interrupts.held(are_dropped=True):  # the clean-up is short and must not stop half-way
            running = [program.popen for program in reversed(self._all) if program.popen.poll() is None]
            for popen in running:
                popen.terminate()
            ends_at = time.monotonic() + END_S_MAX
            for popen in running:
                try:
                    popen.wait(max(0.0, ends_at - time.monotonic()))
                except subprocess.TimeoutExpired:
                    popen.kill()
                    popen.wait()
            for program in self._all:
                if program.popen.stdin is not None:
                    program.popen.stdin.close()
            if self._named is None:
                shutil.rmtree(self.directory, ignore_errors=True)
        if self._named is None and self.directory.exists():
            raise StepFailedError(f"no file is left in {self.directory}", "it could not be removed")

    def start(self, *words: str, stdin: str = "", log: str = "", keeps_stdin: bool = False) -> Program:
        """Start ``token-relay`` with these words; with ``log`` its standard error goes to that file.

        ``keeps_stdin``: its standard input is a pipe that stays open.
        """
        environment = {
            **self._kept,
            "HOME": str(self.directory),
            "TOKEN_RELAY_HOMES": str(self.directory),  # where a lab finds the agents; their own commands name a home
            "LANG": "C.UTF-8",
            "PYTHONUTF8": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),  # also when the package is not installed
        }
        answers = self.directory / "output"
        answers.mkdir(exist_ok=True)
        out = answers / f"{len(self._all)}.out"
        # A restarted program goes on in the same log.
        err = self.directory / log if log else answers / f"{len(self._all)}.err"
        with self._interrupts.held(), out.open("wb") as output, err.open("ab") as errors:
            popen = subprocess.Popen(  # noqa: S603  # our own program, and words without a shell
                (*COMMAND, *words),
                stdin=subprocess.PIPE if stdin or keeps_stdin else subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
                cwd=self.directory,
                bufsize=0,
            )
            program = Program("token-relay " + " ".join(words), popen, out, err)
            self._all.append(program)
        if popen.stdin is not None and not keeps_stdin:
            with popen.stdin, contextlib.suppress(BrokenPipeError):  # it refused before it read
                popen.stdin.write(stdin.encode())  # a line or two: it fits into the pipe
        return program

    def wait_for_an_end(self) -> Program:
        """Wait, without limit, until one of the processes that still run has ended, and return it."""
        while True:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for program in self._all:
                if program.popen.returncode is None and program.popen.poll() is not None:
                    return program

    # -- looking back --------------------------------------------------------------------------------------

    def log_tails(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the last lines of every log, without lines that contain a token."""
        for path in sorted(self.directory.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
            yield path.stem, ["(withheld)" if find_marked(line.encode()) else log_line(line) for line in lines]

    def search(self) -> tuple[int, list[str]]:
        """Search all that the programs wrote (output, logs, homes) for the sandbox's marked tokens.

        Returns the bytes searched, and the places of tokens: a file, or the command that printed it.
        """
        printed = {path: program.words for program in self._all for path in (program.out_file, program.err_file)}
        searched, found = 0, []
        for path in sorted(self.directory.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                searched += len(data)
                if find_marked(data):
                    found.append(printed.get(path, path.name))
        return searched, found

    def count_left(self) -> int:
        """Return how many of the processes still run."""
        return sum(program.popen.poll() is None for program in self._all)


def _new_directory(path: Path) -> Path:
    check_socket_path(path / "companion" / CONTROL_SOCKET)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(path.iterdir())
    except OSError as exc:
        raise ConfigError(f"cannot use {path}: {exc.strerror}", hint="name another directory with --home") from exc
    if not is_empty:
        raise ConfigError(f"{path} is not empty: nothing was changed", hint="name a new directory with --home")
    return path


def log_line(line: str) -> str:
    """Return a JSON log line in words: level, event and the event's fields."""
    try:
        found = json.loads(line)
    except ValueError:
        return line
    if not isinstance(found, dict):
        return line
    level, event = found.pop("level", ""), found.pop("event", "")
    found.pop("timestamp", None)
    return " ".join([str(level), str(event), *(f"{key}={value}" for key, value in found.items())])
