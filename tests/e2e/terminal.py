"""A person at a terminal: a command on a pseudo-terminal of its own, read and typed into."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests import refusals
from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
# getpass asks the controlling terminal, so the command has to have one.
START = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from tests import refusals; refusals.record(); "
    "from token_relay.cli.main import main; sys.exit(main())"
)


class Terminal:
    """One ``token-relay`` command, or another ``program``, on a terminal.

    What is typed without an echo is not in :attr:`text`.
    """

    def __init__(
        self, *words: str, env: dict[str, str], cwd: Path, program: tuple[str, ...] = (sys.executable, "-c", START)
    ) -> None:
        self._words = words
        self._master, slave = pty.openpty()
        try:
            self._process = subprocess.Popen(
                [*program, *words],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**env, **refusals.inherited(), "PYTHONPATH": str(ROOT), "TERM": "dumb", "NO_COLOR": "1"},
                cwd=cwd,
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self.text = ""
        self._read_to = 0

    @property
    def session(self) -> int:
        """The session of the terminal, whose leader the program is."""
        return self._process.pid

    async def interrupts(self) -> None:
        """Press Ctrl-C: SIGINT for all that runs in the foreground. termios(3), VINTR."""
        await asyncio.to_thread(os.write, self._master, b"\x03")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.to_thread(self._process.wait)
        os.close(self._master)

    async def sees(self, pattern: str) -> re.Match[str]:
        """Wait for text that has not been waited for before."""
        return await asyncio.to_thread(self._sees, pattern)

    async def types(self, line: str) -> None:
        """Type a line and press return."""
        await asyncio.to_thread(os.write, self._master, line.encode(errors="surrogateescape") + b"\n")

    async def ended(self) -> int:
        """Wait for the end; returns the exit code."""
        return await asyncio.to_thread(self._ended)

    def _sees(self, pattern: str) -> re.Match[str]:
        ends_at = time.monotonic() + HANG_S
        while (found := re.compile(pattern).search(self.text, self._read_to)) is None:
            left_s = ends_at - time.monotonic()
            assert left_s > 0 and self._more(left_s), f"{self._words}: no {pattern!r} in\n{self.text[self._read_to :]}"
        self._read_to = found.end()
        return found

    def _more(self, wait_s: float) -> bool:
        """Read what has come; False at the end, or when nothing comes."""
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        try:
            octets = os.read(self._master, 65_536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += octets.decode(errors="replace").replace("\r\n", "\n")
        return bool(octets)

    def _ended(self) -> int:
        ends_at = time.monotonic() + HANG_S
        while self._more(max(0.0, ends_at - time.monotonic())):
            pass
        return self._process.wait(HANG_S)
