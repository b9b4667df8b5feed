"""One ``token-relay`` process as a test holds it: started, listened to, killed; and the one place that asks again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.forks import Forked, fork
from tests.watchdog import HANG_S

T = TypeVar("T")

POLL_S = 0.03
_SCRIPT = Path(sys.executable).parent / "token-relay"
COMMAND = (str(_SCRIPT),) if _SCRIPT.exists() else (sys.executable, "-m", "token_relay.cli")


async def eventually(what: str, look: Callable[[], Awaitable[T | None]], *, within_s: float = HANG_S) -> T:
    """Ask until the answer is neither false nor None, and return it.

    Raises:
        AssertionError: it did not come; names ``what`` and the last answer.
    """
    ends_at = time.monotonic() + within_s
    while True:
        found = await look()
        if found:
            return found
        assert time.monotonic() < ends_at, f"not within {within_s:g} s: {what}; last answer: {found!r}"
        await asyncio.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left behind."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def expect(self, code: int = 0) -> Ran:
        """Assert the exit code, showing what was said."""
        said = f"{' '.join(self.words)}: exit {self.code}, not {code}\n{self.out}\n{self.err}"
        assert self.code == code, said
        return self

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def last_line(self) -> str:
        """The last line of standard output."""
        return self.out.rstrip("\n").rpartition("\n")[2]


class Program:
    """One process; both its streams are read all the time and kept."""

    def __init__(self, words: tuple[str, ...], process: asyncio.subprocess.Process | Forked) -> None:
        self.words = words
        self.process = process
        self.out, self.err = bytearray(), bytearray()
        self._arrived = asyncio.Condition()
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    @classmethod
    async def start(
        cls, *words: str, env: dict[str, str], cwd: Path, stdin: bool = False, command: tuple[str, ...] = ()
    ) -> Program:
        """Start ``token-relay`` with these words: a fork that has everything imported, or this command."""
        if not command:
            return cls(words, await fork(str(_SCRIPT), *words, env=env, cwd=cwd, stdin=stdin))
        process = await asyncio.create_subprocess_exec(
            *command,
            *words,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
        )
        return cls(words, process)

    async def _read(self, stream: asyncio.StreamReader, into: bytearray) -> None:
        while part := await stream.read(65_536):
            async with self._arrived:
                into += part
                self._arrived.notify_all()
        async with self._arrived:
            self._arrived.notify_all()

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    async def find(self, pattern: str, *, count: int = 1, within_s: float = HANG_S) -> re.Match[str]:
        """Wait for the ``count``-th match in anything that it printed."""
        compiled = re.compile(pattern, re.MULTILINE)

        def found() -> list[re.Match[str]]:
            text = bytes(self.out + b"\n" + self.err).decode(errors="replace")
            return list(compiled.finditer(text))

        try:
            async with asyncio.timeout(within_s), self._arrived:
                while len(found()) < count and not all(reader.done() for reader in self._readers):
                    await self._arrived.wait()
        except TimeoutError:
            pass
        matches = found()
        assert len(matches) >= count, f"{self.words}: no {pattern!r} ({len(matches)} of {count}) in\n{self.text}"
        return matches[count - 1]

    @property
    def text(self) -> str:
        """Both streams, for messages of failed tests."""
        return bytes(self.out + b"\n" + self.err).decode(errors="replace")[-6000:]

    def events(self) -> list[dict[str, Any]]:
        """The log so far: every line of standard error that is JSON."""
        lines = bytes(self.err).decode(errors="replace").split("\n")
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def logged(self, event: str, *, count: int = 1) -> dict[str, Any]:
        """Wait until this event stands in the log for the ``count``-th time."""
        await self.find(rf'"event": "{event}".*\n', count=count)
        return [found for found in self.events() if found["event"] == event][count - 1]

    async def write(self, text: str) -> None:
        """Write to its standard input and close it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has said no before it read
            self.process.stdin.write(text.encode(errors="surrogateescape"))
            await self.process.stdin.drain()
        self.process.stdin.close()

    async def ended(self, within_s: float = HANG_S) -> Ran:
        """Wait for its end."""
        try:
            async with asyncio.timeout(within_s):
                code = await self.process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"{self.words} still runs after {within_s:g} s:\n{self.text}") from None
        return Ran(self.words, code, bytes(self.out).decode(), bytes(self.err).decode())

    async def kill(self) -> None:
        """kill -9: what a power cut leaves behind."""
        if self.is_running:
            self.process.kill()
        await self.ended()

    async def terminate(self) -> None:
        """SIGTERM, and wait for its end, which must be a proper one."""
        self.process.send_signal(signal.SIGTERM)
        (await self.ended()).expect(0)

    def rss_bytes(self) -> int:
        """Resident memory now. proc(5), VmRSS."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def seen_by_others(self) -> bytes:
        """What every local program of the user can read of it: command line and environment."""
        found = b""
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found += Path(f"/proc/{self.process.pid}/{name}").read_bytes()
        return found
