"""What the host gives a daemon: readiness, sockets, the peer's identity, and protection of its memory.

The service manager's part is two small protocols: a datagram to ``NOTIFY_SOCKET`` (sd_notify(3)) and listening
sockets from descriptor 3 on (sd_listen_fds(3)). The kernel's part is the Unix socket itself: how to bind one without
taking it away from a running agent, and who is at its other end (unix(7)).

The environment is passed in as a mapping. Invariants:

* *a live socket is never taken away*: a socket file is removed only after a connection to it was refused, under a
  lock, so that two agents that start together cannot remove each other's.
* *we remove only what we made*: closing removes the file only if it is still the inode that was bound here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from token_relay.agents.token_source import Peer
from token_relay.host.paths import check_socket_path
from token_relay.protocol.errors import ConfigError

LISTEN_FDS_START = 3  # sd_listen_fds(3)
LISTEN_FDS_MAX = 16  # two are ours; many more mean that the variables are not for us
BACKLOG = 128  # connections that wait to be accepted; beyond it connect(2) says EAGAIN
ACCEPT_TURNS = 4  # of the loop, from an accept to connection_made: its task, the transport, the call
NOTIFY_BYTES_MAX = 4096  # a status line, not a report

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_MCL_ALL_ON_FAULT = 1 | 2 | 4  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT: asm-generic/mman-common.h (x86, arm, riscv)
_SO_PEERGROUPS = 59  # asm-generic/socket.h (x86, arm, riscv); elsewhere the call fails and groups stay unknown
_PEERGROUPS_BYTES = 1024  # the most that Python's getsockopt reads: 256 groups


# -- The service manager -----------------------------------------------------------------------------------


def notify(address: str | None, **state: str | int) -> bool:
    """Send one state such as ``READY=1, STATUS="…"``; return False without a manager or when it did not take it.

    ``address`` is the value of ``NOTIFY_SOCKET``. Best effort, never raises: an agent works without a manager.
    sd_notify(3).
    """
    if not address or address[0] not in "/@":
        return False
    lines = "\n".join(f"{key}={str(value).replace(chr(10), ' ')}" for key, value in state.items())
    # A leading @ stands for the zero byte of an abstract name. unix(7)
    target = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(lines.encode()[:NOTIFY_BYTES_MAX], target)
    except (OSError, ValueError):
        return False
    return True


def watchdog_interval_s(environment: Mapping[str, str], *, pid: int) -> float | None:
    """Return the longest interval between two ``WATCHDOG=1``, or None; send at half of it. sd_watchdog_enabled(3)"""
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and int(text) > 0 else None


def listen_fds(environment: Mapping[str, str], *, pid: int) -> dict[str, int]:
    """Return the listening sockets that the manager passed, by name (``FileDescriptorName=``).

    The descriptors are made close-on-exec. Empty when there are none or they are meant for another process.

    Raises:
        ConfigError: the variables contradict each other, or two sockets have one name.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return {}
    text = environment.get("LISTEN_FDS", "")
    if not (text.isascii() and text.isdigit()) or int(text) > LISTEN_FDS_MAX:
        raise ConfigError(f"LISTEN_FDS is not a number up to {LISTEN_FDS_MAX}")
    count = int(text)
    if count == 0:
        return {}
    names = environment["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environment else ["unknown"] * count
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(
            f"{count} sockets were passed with {len(set(names))} different names",
            hint="give each socket unit its own FileDescriptorName=",
        )
    found = {name: LISTEN_FDS_START + index for index, name in enumerate(names)}
    for name, fd in found.items():
        try:
            os.set_inheritable(fd, False)
        except OSError as exc:
            raise ConfigError(f"the passed socket {name!r} (descriptor {fd}) is not open") from exc
    return found


# -- Unix sockets ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnixListener:
    """A listening Unix stream socket; ``path`` is None when the manager owns the file."""

    sock: socket.socket
    path: Path | None = None
    inode: int = 0

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours."""
        self.sock.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                if self.path.lstat().st_ino == self.inode:
                    self.path.unlink()

    async def stop(self, server: asyncio.Server) -> None:
        """Take no more connections. One that was accepted just now is open when this returns, to be closed."""
        asyncio.get_running_loop().remove_reader(self.sock)
        for _ in range(ACCEPT_TURNS):  # before close(): asyncio leaks a socket that it finds no server for
            await asyncio.sleep(0)
        server.close()
        self.close()


def bind_listener(path: Path, *, mode: int, gid: int | None = None) -> UnixListener:
    """Bind and listen at ``path``; nobody can connect before ``mode`` and group are set.

    It replaces a socket file at which no process listens any more. It leaves a small lock file beside the socket.

    Raises:
        ConfigError: another process listens there, the path is too long or taken by something else, or the
            directory is not writable.
    """
    check_socket_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with _start_lock(path):
            _remove_stale(path)
            sock.bind(os.fspath(path))
            # Between bind and listen a connection is refused, so the mode is in force before the first peer.
            path.chmod(mode)
            if gid is not None:
                os.chown(path, -1, gid)
            inode = path.lstat().st_ino
            sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"cannot listen at {path}: {exc.strerror}", hint="the directory must exist and belong to the agent"
        ) from exc
    except BaseException:
        sock.close()
        raise
    return UnixListener(sock, path, inode)


def inherit_listener(fd: int) -> UnixListener:
    """Take over a listening socket from the manager.

    Raises:
        ConfigError: the descriptor is not a listening Unix stream socket.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as exc:
        raise ConfigError(f"descriptor {fd} is not a socket") from exc
    is_right = (
        sock.family == socket.AF_UNIX
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )
    if not is_right:
        sock.detach()  # not ours to close
        raise ConfigError(
            f"descriptor {fd} is not a listening Unix stream socket", hint="use ListenStream=/path in the socket unit"
        )
    sock.setblocking(False)
    return UnixListener(sock)


def open_listener(where: Path | int, *, mode: int, gid: int | None = None) -> UnixListener:
    """Bind a path, or inherit a descriptor."""
    return inherit_listener(where) if isinstance(where, int) else bind_listener(where, mode=mode, gid=gid)


@contextlib.contextmanager
def _start_lock(path: Path) -> Iterator[None]:
    # A file of its own, mode 0600: everybody who may read the directory could hold a lock on it.
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigError(f"already running: another agent is just starting at {path}") from exc
        yield
    finally:
        os.close(lock)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} is there and is not a socket", hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(os.fspath(path))
    if answer == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif answer != errno.ENOENT:
        # 0: a process listens. EAGAIN: its queue is full. EACCES: we cannot know. The file stays in all three cases.
        raise ConfigError(f"already running: another agent listens at {path}", hint="stop it, or choose another --home")


class _HasOptions(Protocol):
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_of(sock: _HasOptions) -> Peer:
    """Return who connected, as the kernel recorded it at that moment (SO_PEERCRED, unix(7)).

    Supplementary groups are empty where the kernel does not tell them: fewer rights, not more.
    """
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEERGROUPS_BYTES)
    except OSError:
        raw = b""
    return Peer(uid, gid, pid, struct.unpack(f"{len(raw) // 4}I", raw))


# -- Less exposure -----------------------------------------------------------------------------------------


def harden_process() -> tuple[str, ...]:
    """Keep the process's memory from others of the same uid and from disks: not dumpable (prctl(2)), no core, no swap.

    All memory is locked, since Python copies secrets to where it likes; pages are locked when they are first used, so
    it takes no more of it (mlockall(2)). That needs RLIMIT_MEMLOCK without a limit, for it counts addresses: the units
    give it, and with less nothing is locked. What a hibernating machine writes is not kept from its disk.

    Best effort; returns what could not be done, for the log. A debugger run by root still reads everything.
    """
    failed: list[str] = []
    is_unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            failed.append("PR_SET_DUMPABLE")
        if is_unlimited and libc.mlockall(_MCL_ALL_ON_FAULT) != 0:
            failed.append("MCL_ONFAULT")
    except (OSError, AttributeError):
        failed.append("PR_SET_DUMPABLE")
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        failed.append("RLIMIT_CORE")
    return tuple(failed)
