"""A source that answers what it is told, raw sockets, and children under another uid."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.watchdog import HANG_S
from token_relay.agents.ports import Now, Signal
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.secret import AccessToken

TOKEN = "canary-access-token-4711"
GRANTED = TokenGranted(
    AccessToken(TOKEN), "Bearer", datetime(2026, 3, 1, 12, 30, 15, 900_000, UTC), "api.read", "https://idp.example"
)


class Marks(list[object]):
    """A list whose growth can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._grown = asyncio.Event()

    def append(self, mark: object) -> None:
        super().append(mark)
        self._grown.set()

    async def until(self, is_enough: Callable[[list[object]], bool]) -> None:
        """Return as soon as the marks are enough; 20 s are a failure."""
        async with asyncio.timeout(HANG_S):
            while not is_enough(self):
                self._grown.clear()
                await self._grown.wait()


@dataclass
class StillClock:
    """A clock that moves when it is told to."""

    boot_s: float = 1000.0

    def now(self) -> Now:
        return Now("boot", self.boot_s, 1.7e9, True)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps on the clock")

    async def wait(self, event: Signal, seconds: float) -> bool:
        raise AssertionError("nothing here waits on the clock")


@dataclass
class Source:
    """Records the queries; ``answer`` may be an exception to raise; ``gate`` holds answers back until it is set."""

    answer: TokenGranted | TokenRefused | Exception = GRANTED
    gate: asyncio.Event | None = None
    queries: Marks = field(default_factory=Marks)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        self.queries.append(query)
        self.entered.set()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory that other uids may enter, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="rtr-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def exchange(path: Path, raw: bytes, *, eof: bool = False) -> bytes:
    """Send bytes, return all that comes until the other end closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(raw)
            await writer.drain()
            if eof:
                writer.write_eof()
        received = bytearray()
        async with asyncio.timeout(HANG_S):
            # A server that closes with bytes unread resets a Unix connection, after what it wrote was delivered.
            with contextlib.suppress(ConnectionResetError):
                while chunk := await reader.read(65_536):
                    received += chunk
        return bytes(received)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def parse_http(raw: bytes) -> tuple[int, dict[str, str], dict[str, object]]:
    """Split one response into status, headers in lower case, JSON body; fail on anything after it."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert re.match(r"HTTP/[01]\.\d \d\d\d ", first)  # aiohttp repeats the version that it believes to have read
    assert int(headers["content-length"]) == len(body)
    return int(first.split(" ")[1]), headers, json.loads(body)


async def get(path: Path, query: str = "") -> tuple[int, dict[str, str], dict[str, object]]:
    target = "/v1/token" + (f"?{query}" if query else "")
    return parse_http(await exchange(path, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))


async def as_uid(uid: int, call: Callable[[], bytes], *, groups: tuple[int, ...] = ()) -> bytes:
    """Run ``call`` in a forked child with another uid and gid; what it returns comes back through a pipe."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # no event loop, no pytest in here; leaves by _exit in every case
        try:
            os.close(read_end)
            os.setgroups(list(groups))
            os.setgid(uid)
            os.setuid(uid)
            answer = call()
        except BaseException as exc:  # the parent's test shows it
            answer = f"child failed: {exc!r}".encode()
        with contextlib.suppress(BaseException):
            os.write(write_end, answer)
        os._exit(0)
    os.close(write_end)
    reader = asyncio.StreamReader()
    # Not a thread per child: a full pool would keep the child that a test waits for from being read.
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
    )
    try:
        return await reader.read()
    finally:
        pipe.close()
        os.waitpid(child, 0)  # its pipe is closed: it is in _exit


def raw_call(path: Path, request: bytes) -> bytes:
    """The blocking form of :func:`exchange`, for children."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(HANG_S)
        sock.connect(str(path))
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while chunk := sock.recv(65_536):
                received += chunk
        return bytes(received)


@contextlib.asynccontextmanager
async def running(server: object, *args: object) -> AsyncIterator[None]:
    """Start and stop a server."""
    await server.start(*args)  # type: ignore[attr-defined]  # both servers have it
    try:
        yield
    finally:
        await server.stop()  # type: ignore[attr-defined]  # both servers have it
