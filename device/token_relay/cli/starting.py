"""Whether an agent or a sandbox is starting: what can be seen of it before it listens, and the wait for it.

An agent locks the directory of its sockets as the first thing that it does, and holds the lock to its end: where the
directory is locked and nobody listens, an agent is starting (or ending). Before that, its process shows what it is by
command line and environment; it hides them only when it has the lock. So no moment of a start is without a sign. A
sandbox hides nothing.

Standard library only; imported when nobody listens, never on the fast path. Source: flock(2), proc(5).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from token_relay.cli.parsing import HTTP_PORT, Parser, UsageError, agent_options
from token_relay.host import paths
from token_relay.protocol.errors import ConfigError
from token_relay.provider.http import is_loopback

WAIT_S_MAX = 10.0  # a start takes 4 to 8 s on the slowest board that was tried
POLL_S = 0.05
MARK_TRIES, MARK_PAUSE_S = 50, 0.002  # a client that looks at the mark holds it for some microseconds
PROC = Path("/proc")


def wait(
    is_absent: Callable[[], bool],
    is_starting: Callable[[], bool],
    say: Callable[[], object],
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> bool:
    """Wait while something absent is starting; return whether it still was when the time was over.

    ``say`` is called once, not at the first look: what is about to listen, or to end, needs no words.
    """
    ends_at = monotonic() + WAIT_S_MAX
    looks = 0
    while is_absent() and is_starting():
        if monotonic() >= ends_at:
            return True
        looks += 1
        if looks == 2:
            say()
        sleep(POLL_S)
    return False


# -- Agents ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def marked(directory: Path) -> Iterator[None]:
    """Hold the mark of an agent on the directory of its sockets, where the file system has such locks."""
    try:
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # there is none: the agent will say so
        yield
        return
    try:
        for _ in range(MARK_TRIES):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(MARK_PAUSE_S)
            except OSError:
                break
            else:
                break
        yield
    finally:
        os.close(held)


def agent(kind: paths.Kind, directory: Path) -> bool:
    """Whether a process is there that will listen in this directory, or did until now."""
    # Last the mark again: a process that hides from the second look has it by then.
    return _is_marked(directory) or _has_young_process(kind, directory) or _is_marked(directory)


def _is_marked(directory: Path) -> bool:
    try:
        looked_at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(looked_at, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two clients do not see each other
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(looked_at)
    return False


def _has_young_process(kind: paths.Kind, directory: Path) -> bool:
    parser = Parser(add_help=False)
    agent_options(parser, kind)
    for place, words in _programs():
        if kind not in words or "run" not in words:
            continue
        with contextlib.suppress(OSError, UsageError, ConfigError):  # it has ended, or is not ours to look at
            known, rest = parser.parse_known_args(words)
            raw = (place / "environ").read_bytes().decode(errors="surrogateescape")
            environment = dict(entry.partition("=")[::2] for entry in raw.split("\0"))
            found = paths.socket_directory(
                kind, environment, home=getattr(known, "home", None), socket=getattr(known, "socket", None)
            )
            there = os.path.realpath(os.path.join((place / "cwd").readlink(), found))  # noqa: PTH118  # absolute wins
            if rest[:2] == [kind, "run"] and there == os.path.realpath(directory):
                return True
    return False


# -- The sandbox -------------------------------------------------------------------------------------------


def wait_for_sandbox(url: str, note: Callable[[str], object]) -> None:
    """Wait for the sandbox at this address, if one is starting there on this machine."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if port and is_loopback(host):
        wait(lambda: _is_refused(host, port), lambda: sandbox(port), lambda: note("the sandbox is starting ..."))


def _is_refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=WAIT_S_MAX).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def sandbox(port: int) -> bool:
    """Whether a process is there that is a sandbox with this port, or becomes one."""
    parser = Parser(add_help=False)
    parser.add_argument("--http-port", type=int, default=HTTP_PORT)
    for _place, words in _programs():
        if words[:1] == ["sandbox"] and "ctl" not in words:
            with contextlib.suppress(UsageError):
                if parser.parse_known_args(words)[0].http_port == port:
                    return True
    return False


# -- Processes ---------------------------------------------------------------------------------------------


def _programs() -> Iterator[tuple[Path, list[str]]]:
    """Yield every ``token-relay`` process that we may look at: its place in /proc and its command line."""
    for place in PROC.glob("[0-9]*"):
        try:
            argv = (place / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
            words = _after_the_program(argv)
            if words and (place / "exe").readlink().name.startswith("python"):  # not: timeout 9 token-relay …
                yield place, words
        except OSError:
            continue


def _after_the_program(argv: list[str]) -> list[str]:
    for index, word in enumerate(argv):
        if word == "token_relay.cli" or word.rpartition("/")[2] == "token-relay":
            return argv[index + 1 :]
    return []
