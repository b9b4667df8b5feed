"""MQTT by hand: packets spelled as bytes after the two standards, a raw client, and a broker that follows a script.

Nothing in here uses the code under test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.watchdog import HANG_S


def length(value: int) -> bytes:
    out = b""
    while True:
        value, low = divmod(value, 128)
        out += bytes([low | (128 if value else 0)])
        if not value:
            return out


def packet(first: int, body: bytes = b"") -> bytes:
    return bytes([first]) + length(len(body)) + body


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def connect(
    client_id: str, *, level: int, clean: bool = False, keepalive: int = 60, props: bytes = b"", flags: int = 0
) -> bytes:
    middle = length(len(props)) + props if level == 5 else b""
    head = text("MQTT") + bytes([level, flags | (2 if clean else 0)]) + keepalive.to_bytes(2, "big")
    return packet(0x10, head + middle + text(client_id))


def session_expiry(seconds: int) -> bytes:
    return b"\x11" + seconds.to_bytes(4, "big")


def publish(
    topic: str | bytes,
    payload: bytes,
    *,
    level: int,
    qos: int = 1,
    mid: int = 1,
    dup: bool = False,
    retain: bool = False,
    props: bytes = b"",
) -> bytes:
    body = text(topic) + (mid.to_bytes(2, "big") if qos else b"")
    body += length(len(props)) + props if level == 5 else b""
    return packet(0x30 | dup << 3 | qos << 1 | retain, body + payload)


def subscribe(*filters: str, level: int, mid: int = 1, options: int = 1, props: bytes = b"") -> bytes:
    body = mid.to_bytes(2, "big") + (length(len(props)) + props if level == 5 else b"")
    return packet(0x82, body + b"".join(text(name) + bytes([options]) for name in filters))


def puback(mid: int) -> bytes:
    return packet(0x40, mid.to_bytes(2, "big"))


PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"


@dataclass(frozen=True)
class Raw:
    """One packet off the wire."""

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        return self.first >> 4

    @property
    def mid(self) -> int:
        """Packet id of anything but a PUBLISH."""
        return int.from_bytes(self.body[:2], "big")

    def published(self, level: int) -> tuple[str, bytes, int, bool]:
        """Topic, payload, packet id and DUP of a PUBLISH with QoS 1 (with short properties in MQTT 5)."""
        assert self.kind == 3 and self.first & 0x06 == 0x02
        size = int.from_bytes(self.body[:2], "big")
        topic, rest = self.body[2 : 2 + size].decode(), self.body[2 + size :]
        mid, rest = int.from_bytes(rest[:2], "big"), rest[2:]
        if level == 5:
            rest = rest[1 + rest[0] :]
        return topic, rest, mid, bool(self.first & 0x08)


class Wire:
    """A socket that reads and writes whole packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> Raw:
        """Read one packet; EOFError (IncompleteReadError) when the other end has closed."""
        async with asyncio.timeout(HANG_S):
            first = (await self.reader.readexactly(1))[0]
            size = shift = 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    return Raw(first, await self.reader.readexactly(size))

    async def expect(self, kind: int) -> Raw:
        got = await self.read()
        assert got.kind == kind, got
        return got

    async def end(self) -> bytes:
        """Read what is left until the other end closes, politely or with a reset."""
        rest = b""
        async with asyncio.timeout(HANG_S):
            try:
                while data := await self.reader.read(1 << 16):
                    rest += data
            except ConnectionResetError:
                pass
        return rest

    async def close(self) -> None:
        self.writer.transport.abort()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


Script = Callable[[Wire], Awaitable[None]]


class ScriptedBroker:
    """Accepts connections and plays one script on each; the last script is repeated."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.port = 0
        self.connections = 0
        self.errors: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedBroker:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert not self.errors, self.errors

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        wire = Wire(reader, writer)
        try:
            await script(wire)
        except (EOFError, OSError):
            pass
        except asyncio.CancelledError:
            pass  # the end of the test, and streams would report it
        except Exception as exc:
            self.errors.append(exc)
        finally:
            await wire.close()
            self._tasks.discard(task)


async def welcome(wire: Wire, *, level: int, present: bool = False) -> Raw:
    """Answer CONNECT and the first SUBSCRIBE; returns the CONNECT."""
    hello = await wire.expect(1)
    wire.send(packet(0x20, bytes([present, 0]) + (b"\0" if level == 5 else b"")))
    request = await wire.expect(8)
    wire.send(packet(0x90, request.body[:2] + (b"\0" if level == 5 else b"") + b"\x01"))
    return hello
