"""The terminal from which pages were started: each Enter there prints a fresh address, for as long as it is read.

Standard input is only read while its terminal is ours to read: a program in the background that reads would be stopped
(SIGTTIN), and its pages with it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

BACKGROUND_PAUSE_S = 1.0  # between two looks at whether the terminal is ours again
READ_BYTES = 4096


def viewers(environment: Mapping[str, str], uid: int) -> frozenset[int]:
    """Return whose browsers may look at pages of this user: the user's own, and those of a person who used sudo."""
    person = environment.get("SUDO_UID", "")
    is_sudo = uid == 0 and person.isascii() and person.isdigit() and len(person) < 11
    return frozenset({uid, int(person)} if is_sudo else {uid})


def _is_ours(fd: int) -> bool:
    """Whether reading stops nobody: in the foreground, or no terminal of ours at all."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True


@contextmanager
def on_enter(fd: int, tell: Callable[[], object]) -> Iterator[None]:
    """Call ``tell`` for each Enter on this terminal or pipe, until it ends."""
    loop = asyncio.get_running_loop()
    again: asyncio.TimerHandle | None = None

    def listen() -> None:
        loop.add_reader(fd, read)

    def read() -> None:
        nonlocal again
        if not _is_ours(fd):
            loop.remove_reader(fd)
            again = loop.call_later(BACKGROUND_PAUSE_S, listen)
            return
        try:
            typed = os.read(fd, READ_BYTES)
        except OSError:
            typed = b""
        if not typed:
            loop.remove_reader(fd)
        elif b"\n" in typed:
            tell()

    listen()
    try:
        yield
    finally:
        if again is not None:
            again.cancel()
        loop.remove_reader(fd)
