"""The processes of the demo and the one directory in which all of them live.

Every program is ``token-relay`` itself, started as a person would start it: this interpreter, a command line, an
environment that has nothing of the person's own. Nothing is called in-process.

Invariants: a process is in the list before a signal can reach us (:mod:`.interrupts`); leaving the ``with`` ends every
process (SIGTERM, after ``END_S_MAX`` SIGKILL) and removes the directory, whatever happened inside. Every wait has a
limit. What programs wrote is kept until the end, so that it can be searched for tokens.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from token_relay.cli.demo.checks import StepFailedError, expect
from token_relay.cli.demo.interrupts import Interrupts
from token_relay.sandbox.marked_tokens import find_marked

COMMAND = (sys.executable, "-m", "token_relay.cli")
WITHIN_S = 20.0  # for anything that takes a fraction of a second on a quiet machine
END_S_MAX = 4.0  # agents and sandbox promise two seconds
READ_BYTES = 65_536
OUTPUT_BYTES_MAX = 4_194_304  # of one program; a QR code has 6 KiB
DIRECTORY_BYTES_MAX = 60  # "/phone/control.sock" follows, and a socket's path has 107 bytes at most
LOG_LINES = 6
# Of the person's environment programs get what an interpreter may need to start, nothing that configures an agent.
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT", "PYTHONPYCACHEPREFIX")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    words: str
    code: int
    out: str
    err: str

    def expect(self, code: int) -> Ran:
        """Go on if it ended with this exit code. Raises StepFailedError."""
        expect(self.code == code, f"exit code {code} of: {self.words}", f"exit code {self.code}\n{self.err.strip()}")
        return self

    @property
    def last_line(self) -> str:
        """The last line of standard output."""
        return self.out.rstrip("\n").rpartition("\n")[2]


class Program:
    """One process; what it writes is read while somebody waits for it."""

    def __init__(self, words: tuple[str, ...], popen: subprocess.Popen[bytes]) -> None:
        self.words = "token-relay " + " ".join(words)
        self.popen = popen
        self._selector = selectors.DefaultSelector()
        self._texts: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        for name, stream in (("out", popen.stdout), ("err", popen.stderr)):
            if stream is not None:
                self._selector.register(stream, selectors.EVENT_READ, name)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.popen.pid

    @property
    def written(self) -> bytes:
        """All that has been read of it."""
        return bytes(self._texts["out"] + b"\n" + self._texts["err"])

    def find(self, pattern: str, *, stream: str = "out", within_s: float = WITHIN_S) -> re.Match[str]:
        """Wait for a whole line that matches. Raises StepFailedError."""
        ends_at = time.monotonic() + within_s
        while True:
            for line in self._text(stream).split("\n")[:-1]:
                if match := re.search(pattern, line):
                    return match
            if not self._read(ends_at - time.monotonic()):
                raise StepFailedError(f"a line that matches {pattern!r} from: {self.words}", self._text("err") or "-")

    def finish(self, within_s: float = 2 * WITHIN_S) -> Ran:
        """Wait for its end. Raises StepFailedError."""
        ends_at = time.monotonic() + within_s
        while self._selector.get_map() and self._read(ends_at - time.monotonic()):
            pass
        try:
            code = self.popen.wait(max(0.0, ends_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise StepFailedError(f"an end within {within_s:g} s of: {self.words}", "it still runs") from None
        return Ran(self.words, code, self._text("out"), self._text("err"))

    def end(self, number: signal.Signals, within_s: float = END_S_MAX) -> int:
        """Send a signal and wait for the end; returns the exit code (negative: that signal)."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.finish(within_s).code

    def close(self) -> None:
        """Close its pipes; it has ended."""
        self._selector.close()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()

    def _text(self, name: str) -> str:
        return self._texts[name].decode(errors="replace")

    def _read(self, within_s: float) -> bool:
        """Read once; False when there is nothing more to come, or not in time."""
        if not self._selector.get_map():
            return False
        ready = self._selector.select(max(0.0, within_s))
        for key, _ in ready:
            part = os.read(key.fd, READ_BYTES)
            text = self._texts[str(key.data)]
            if not part:
                self._selector.unregister(key.fileobj)
            elif len(text) < OUTPUT_BYTES_MAX:
                text += part
        return bool(ready)


class Programs:
    """All processes of one demo, and its directory."""

    def __init__(self, environment: Mapping[str, str], interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._kept = {name: environment[name] for name in KEPT if name in environment}
        self._all: list[Program] = []
        self._directory: Path | None = None

    @property
    def directory(self) -> Path:
        """Where everything lives, while it lives."""
        assert self._directory is not None, "use it in a with statement"
        return self._directory

    def __enter__(self) -> Self:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > DIRECTORY_BYTES_MAX - len("/trd-01234567"):
            base = "/tmp"  # noqa: S108  # mkdtemp below makes a private directory in it
        with self._interrupts.held():
            self._directory = Path(tempfile.mkdtemp(prefix="trd-", dir=base))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._interrupts.held(are_dropped=True):  # it takes a few seconds at most, and half of it helps nobody
            self._end_all()
            shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            raise StepFailedError(f"no file is left in {self.directory}", "it could not be removed")

    def _end_all(self) -> None:
        running = [program for program in reversed(self._all) if program.popen.poll() is None]
        for program in running:
            program.popen.terminate()
        ends_at = time.monotonic() + END_S_MAX
        for program in running:
            try:
                program.popen.wait(max(0.0, ends_at - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.popen.kill()
                program.popen.wait()
        for program in self._all:
            program.close()

    # -- starting ------------------------------------------------------------------------------------------

    def start(self, *words: str, stdin: str = "", log: str = "") -> Program:
        """Start ``token-relay`` with these words; with ``log`` its standard error goes to that file."""
        environment = {
            **self._kept,
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "PYTHONUTF8": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),  # also when the package is not installed
        }
        with self._interrupts.held():
            # Opened by us, so that a restart goes on in the same file.
            error = (self.directory / log).open("ab") if log else None
            try:
                popen = subprocess.Popen(  # noqa: S603  # our own program, and words without a shell
                    (*COMMAND, *words),
                    stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=error if error is not None else subprocess.PIPE,
                    env=environment,
                    cwd=self.directory,
                    bufsize=0,
                )
            finally:
                if error is not None:
                    error.close()
            program = Program(words, popen)
            self._all.append(program)
        if popen.stdin is not None:
            try:
                popen.stdin.write(stdin.encode())  # a line or two: it fits into the pipe
            except BrokenPipeError:
                pass  # it has said no before it read
            popen.stdin.close()
        return program

    def run(self, *words: str, stdin: str = "") -> Ran:
        """Run ``token-relay`` with these words to its end."""
        return self.start(*words, stdin=stdin).finish()

    # -- looking back --------------------------------------------------------------------------------------

    def log_tails(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the last lines of every log, without those in which a token would stand."""
        for path in sorted(self.directory.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
            yield path.stem, ["(withheld)" if find_marked(line.encode()) else log_line(line) for line in lines]

    def written(self) -> Iterator[tuple[str, bytes]]:
        """Yield all that the programs wrote: what they printed, their logs, their homes."""
        for program in self._all:
            yield program.words, program.written
        for path in sorted(self.directory.rglob("*")):
            if path.is_file():
                yield path.name, path.read_bytes()

    def count_left(self) -> int:
        """How many of the processes still run."""
        return sum(program.popen.poll() is None for program in self._all)


def log_line(line: str) -> str:
    """Return a JSON log line in words: level, event, and what belongs to it."""
    try:
        found = json.loads(line)
    except ValueError:
        return line
    if not isinstance(found, dict):
        return line
    level, event = found.pop("level", ""), found.pop("event", "")
    found.pop("timestamp", None)
    return " ".join([str(level), str(event), *(f"{key}={value}" for key, value in found.items())])
