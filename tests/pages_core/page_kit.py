"""A page server with pages of its own, and a client that sends what no browser would."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from token_relay.pages.server import IDLE_S_MAX, Look, PageRoute, PageServer
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import LocalError

LOOK = Look(
    templates=[Path(__file__).with_name("templates")],
    statics=[],
    common={"called": "Pages of tests", "nav": [("", "First")]},
)
Headers = Iterable[tuple[str, str]]


async def first(visit: PageRequest) -> Answer:
    return visit.page("page_of_tests.html", value=" ".join(f"{key}={value}" for key, value in visit.fields.items()))


async def refused(visit: PageRequest) -> Answer:
    raise LocalError("not today", hint="try <tomorrow>")


async def broken(visit: PageRequest) -> Answer:
    raise RuntimeError(f"a mistake with {visit.fields or visit.query}")


ROUTES = (PageRoute("", first), PageRoute("refused", refused), PageRoute("broken", broken))


def serving(
    *routes: PageRoute,
    owner: Callable[[tuple[str, int], int], int | None] = lambda client, port: 7,
    uids: Collection[int] = (7,),
    idle_s: float = IDLE_S_MAX,
    look: Look = LOOK,
    port: int = 0,
) -> PageServer:
    """Return a server whose every caller is the person, if nothing else is said."""
    return PageServer([*ROUTES, *routes], look, owner=owner, uids=uids, idle_s=idle_s, port=port)


@dataclass(frozen=True)
class Reply:
    """An answer, as it came."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: str

    def header(self, name: str) -> str:
        """Return the one value of a header, or nothing."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2
        return "".join(found)


def head(server: PageServer, path: str, method: str = "GET", headers: Headers = (), version: str = "1.1") -> bytes:
    """Return a request's head; Host and Connection are put in where ``headers`` has no Host."""
    given = [*headers]
    if not any(name.lower() == "host" for name, _ in given):
        given = [("Host", f"127.0.0.1:{server.port}"), ("Connection", "close"), *given]
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in given)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def ask(
    server: PageServer,
    path: str,
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes = b"",
    sock: socket.socket | None = None,
) -> Reply:
    """Send a request and return what comes until the server closes."""
    given = [*headers, *([("Content-Length", str(len(body)))] if body else []), ("Connection", "close")]
    if not any(name.lower() == "host" for name, _ in given):
        given.append(("Host", f"127.0.0.1:{server.port}"))
    return await send(server, head(server, path, method, given) + body, sock=sock)


async def send(server: PageServer, octets: bytes, *, sock: socket.socket | None = None) -> Reply:
    """Send these octets and return what comes until the server closes."""
    if sock is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    else:
        reader, writer = await asyncio.open_connection(sock=sock)
    try:
        writer.write(octets)
        try:
            await writer.drain()
            got = await reader.read()
        except ConnectionError:
            got = b""
    finally:
        writer.close()
    top, _, content = got.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    pairs = [line.partition(": ") for line in lines[1:]]
    status = int(lines[0].split(" ")[1]) if lines[0] else 0
    return Reply(status, [(name, value) for name, _, value in pairs], content.decode())


async def enter(server: PageServer) -> Headers:
    """Use a key; return the Cookie header."""
    reply = await ask(server, path_of(server, server.address()))
    assert reply.status == 200
    return [("Cookie", reply.header("Set-Cookie").partition(";")[0])]


def path_of(server: PageServer, url: str) -> str:
    """Return an address's path and query."""
    return url.removeprefix(server.origin)


def form(server: PageServer, cookie: Headers, *more: tuple[str, str]) -> Headers:
    """Return the headers of a form of our own page."""
    return [
        *cookie,
        ("Origin", server.origin),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        *more,
    ]


class Stream:
    """One open event stream, event by event."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def head(self) -> int:
        """Return the status."""
        return int((await self._reader.readuntil(b"\r\n\r\n")).split(b" ")[1])

    async def event(self) -> tuple[str, str]:
        """Return the next event and its data. Raises IncompleteReadError: the stream has ended."""
        text = (await self._reader.readuntil(b"\n\n")).decode()
        lines = text.split("\r\n")[-1].strip().split("\n")  # a chunk's length stands before
        return lines[0].removeprefix("event: "), lines[1].removeprefix("data: ")

    async def until(self, name: str) -> list[tuple[str, str]]:
        """Return the events up to the next of this name."""
        found = [await self.event()]
        while found[-1][0] != name:
            found.append(await self.event())
        return found

    async def end(self) -> None:
        """Read to the end of the connection."""
        await self._reader.read()


@asynccontextmanager
async def streaming(server: PageServer, path: str, cookie: Headers) -> AsyncIterator[Stream]:
    """Open an event stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head(server, path, headers=[("Sec-Fetch-Site", "same-origin"), *cookie]))
        yield Stream(reader)
    finally:
        writer.close()


def socket_of(server: PageServer, uid: int, source: tuple[str, int] = ("", 0)) -> socket.socket:
    """Connect as another user, which root alone can. Linux gives a socket the uid of its maker, socket(2)."""
    was = os.geteuid()
    os.seteuid(uid)
    try:
        made = socket.socket()
    finally:
        os.seteuid(was)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(source)
    made.connect(("127.0.0.1", server.port))
    return made
