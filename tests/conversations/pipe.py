"""An end that is a program of its own: a JSON object on each line of its input, an answer on each line of its output.

The program is started when it is first asked, and again after it has died, hung or answered something that is no
answer. Its standard error goes where ours goes.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from typing import Any

ANSWER_S = 30.0  # a request is answered as soon as it has been handled; a program that is compiled first may need some
END_S = 5.0  # so long it may take to end when its input has ended
LINE_BYTES_MAX = 16 * 1024 * 1024  # far more than a state of 4096 handoffs
SHOWN = 200


class ProgramError(Exception):
    """The program did not answer as docs/spec/adapter.md says. The message is for the one who writes it."""


class Pipe:
    """A child process. Close it, or use it as a context manager."""

    def __init__(self, command: list[str], *, answer_s: float = ANSWER_S) -> None:
        self._command = command
        self._answer_s = answer_s
        self._child: subprocess.Popen[bytes] | None = None
        self._read = b""

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the answer. Raises :class:`ProgramError`; the program is then gone."""
        try:
            return self._ask(request)
        except ProgramError:
            self._kill()
            raise

    def close(self) -> None:
        """End the program by ending its input; kill it if it does not go."""
        if self._child is None or self._child.stdin is None:
            return
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            pass
        self._kill()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        child = self._started()
        assert child.stdin is not None
        what = f"the request `{request['do']}`"
        if self._more(0.0) or self._read:
            raise ProgramError(f"it wrote more than one line, or a line that nobody asked for: {self._shown()}")
        try:
            child.stdin.write(json.dumps(request, ensure_ascii=False).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise ProgramError(f"it {self._how_it_ended()} before {what}") from None
        line = self._line(what)
        if self._read:
            raise ProgramError(f"it answered {what} with more than one line; behind the first: {self._shown()}")
        try:
            answer = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            self._read = line
            raise ProgramError(f"it answered {what} with a line that is not JSON: {self._shown()}") from None
        if not isinstance(answer, dict):
            self._read = line
            raise ProgramError(f"it answered {what} with JSON that is no object: {self._shown()}")
        return answer

    def _line(self, what: str) -> bytes:
        end = time.monotonic() + self._answer_s
        while b"\n" not in self._read:
            left = end - time.monotonic()
            if len(self._read) > LINE_BYTES_MAX:
                raise ProgramError(f"it answered {what} with a line of more than {LINE_BYTES_MAX} bytes")
            if left <= 0:
                so_far = f"; so far it wrote {self._shown()}, without an end of line" if self._read else ""
                hint = "; is its output flushed after each line?"
                raise ProgramError(f"it did not answer {what} within {self._answer_s:g} s{so_far or hint}")
            if not self._more(left) and self._is_at_end:
                so_far = f"; it had written {self._shown()}, without an end of line" if self._read else ""
                raise ProgramError(f"it {self._how_it_ended()} instead of answering {what}{so_far}")
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _more(self, seconds: float) -> bool:
        """Read what is there, or comes within this time. False where nothing came."""
        assert self._child is not None and self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return False
        octets = os.read(self._child.stdout.fileno(), 65536)
        self._is_at_end = not octets
        self._read += octets
        return bool(octets)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._read, self._is_at_end = b"", False
            try:
                self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            except OSError as error:
                raise ProgramError(f"it cannot be started: {error}") from None
        return self._child

    def _how_it_ended(self) -> str:
        assert self._child is not None
        try:
            code = self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"died of signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _kill(self) -> None:
        child, self._child, self._read = self._child, None, b""
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                pass

    def _shown(self) -> str:
        text = self._read.decode(errors="replace").rstrip("\n")
        return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
