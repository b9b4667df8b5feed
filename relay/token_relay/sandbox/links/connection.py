"""One connection through a link: two sockets, and between them a pipe for each direction.

Driven by the loop's callbacks alone; no task and no await, so an order to the link acts on every connection before
it returns. :mod:`token_relay.sandbox.links.network` describes the rules that it keeps (no holes, order, back-pressure).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Mapping
from typing import Literal, Protocol

from token_relay.sandbox.links.orders import Cut, LinkState, Slow

IN_FLIGHT_BYTES_MAX = 262_144  # delayed bytes of one direction of one connection; then its sender is not read
PIECES_PER_S = 20  # pieces of one second on a slow link: fine enough to look like a stream
PIECES_MAX = 1_000  # of one read, however slow the link is: each costs memory

Way = Literal["up", "down"]  # up: from the device


class Line(Protocol):
    """What a connection knows about its link."""

    state: LinkState
    passed: dict[Way, int]
    bytes_lost: int

    def loses(self, way: Way) -> bool:
        """Say whether bytes that go this way vanish now."""
        ...

    def forget(self, connection: ProxiedConnection) -> None:
        """Take a connection that has ended off the list."""
        ...


class _Side(asyncio.Protocol):
    """One socket of a connection, which makes all decisions."""

    def __init__(self, connection: ProxiedConnection, way: Way) -> None:
        self.connection = connection
        self.way = way  # in which its bytes go: "up" for the device's socket
        self.transport: asyncio.Transport | None = None
        self.is_full = False  # its own send buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.connection.is_over:
            self.reset()
        else:
            self.connection.joined()

    def data_received(self, data: bytes) -> None:
        self.connection.pipe(self.way).feed(data)

    def eof_received(self) -> bool:
        self.connection.pipe(self.way).feed_end()
        return True  # the other direction may go on: TCP closes each by itself

    def pause_writing(self) -> None:
        self.is_full = True
        self.connection.pipe_to(self).pace()

    def resume_writing(self) -> None:
        self.is_full = False
        self.connection.pipe_to(self).flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.connection.lost(self)

    def reset(self) -> None:
        """End without a FIN: the peer gets a RST."""
        if self.transport is None:
            return
        set_to_reset(self.transport.get_extra_info("socket"))
        self.transport.abort()


class _Pipe:
    """One direction of one connection: what has come from the source and not yet gone to the sink."""

    def __init__(self, link: Line, connection: ProxiedConnection, way: Way, source: _Side, sink: _Side) -> None:
        self._link, self._connection, self._way = link, connection, way
        self._source, self._sink = source, sink
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()  # with the loop's time at which each is due
        self._waiting_bytes = 0
        self._is_ended = False  # the source sends no more
        self._free_at = 0.0  # when the slow line has sent what it was given
        self._timer: asyncio.TimerHandle | None = None
        self.is_done = False  # the end has been passed on
        self.has_hole = False  # something of this direction has vanished, and nothing may follow it

    def feed(self, data: bytes) -> None:
        if self._link.loses(self._way) or self._connection.is_silent:
            self._lose(len(data))
            return
        match self._link.state:
            case Slow(latency_s, bytes_per_s):
                size = (
                    len(data)
                    if bytes_per_s is None
                    else max(1, int(bytes_per_s / PIECES_PER_S), len(data) // PIECES_MAX)
                )
                for start in range(0, len(data), size):
                    piece = data[start : start + size]
                    self._free_at = max(self._free_at, self._loop.time())
                    self._free_at += 0 if bytes_per_s is None else len(piece) / bytes_per_s
                    self._put(self._free_at + latency_s, piece)
            case _:
                self._put(0.0, data)
        self.flush()

    def feed_end(self) -> None:
        if self._connection.is_silent:
            self._connection.reset()  # there is no server side to tell
        elif self._link.loses(self._way):
            self.has_hole = True
        else:
            self._is_ended = True
            self.flush()

    def flush(self) -> None:
        """Pass on what is due; called whenever that may have changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link.loses(self._way):
            if self._is_ended and not self.is_done:
                self.has_hole = True
            self._lose(self._waiting_bytes)
            self._waiting.clear()
            self._waiting_bytes = 0
        is_slow = isinstance(self._link.state, Slow)
        if not is_slow:
            self._free_at = 0.0
        transport = self._sink.transport
        while self._waiting and transport is not None and not self._sink.is_full:
            due_at, piece = self._waiting[0]
            if is_slow and due_at > self._loop.time():
                self._timer = self._loop.call_at(due_at, self.flush)
                break
            self._waiting.popleft()
            self._waiting_bytes -= len(piece)
            transport.write(piece)
            self._link.passed[self._way] += len(piece)
        if self._is_ended and not self._waiting and transport is not None and not self.has_hole:
            self._finish(transport)
        self.pace()

    def pace(self) -> None:
        """Read from the source only while there is room."""
        transport = self._source.transport
        if transport is None or self._is_ended:
            return
        if self._sink.is_full or self._waiting_bytes >= IN_FLIGHT_BYTES_MAX:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._waiting_bytes = 0

    def _put(self, due_at: float, piece: bytes) -> None:
        self._waiting.append((due_at, piece))
        self._waiting_bytes += len(piece)

    def _lose(self, count: int) -> None:
        if count:
            self._link.bytes_lost += count
            self.has_hole = True

    def _finish(self, transport: asyncio.Transport) -> None:
        if self.is_done:
            return
        self.is_done = True
        if not transport.is_closing():
            transport.write_eof()
        self._connection.finished()


class ProxiedConnection:
    """Both sockets. ``is_silent``: accepted by a link that was cut, and connected to nothing."""

    def __init__(self, link: Line, *, is_silent: bool) -> None:
        self._link = link
        self.is_silent = is_silent
        self.is_over = False
        self.device, self.server = _Side(self, "up"), _Side(self, "down")
        self._pipes: Mapping[Way, _Pipe] = {
            "up": _Pipe(link, self, "up", self.device, self.server),
            "down": _Pipe(link, self, "down", self.server, self.device),
        }

    def pipe(self, way: Way) -> _Pipe:
        return self._pipes[way]

    def pipe_to(self, side: _Side) -> _Pipe:
        return self._pipes["down" if side is self.device else "up"]

    def joined(self) -> None:
        """Start to read once both sockets are there; before that the kernel keeps what comes."""
        sides = (self.device.transport, self.server.transport)
        if all(sides) or self.is_silent:
            self.changed()
        else:
            for transport in sides:
                if transport is not None:
                    transport.pause_reading()

    def changed(self) -> None:
        """Take the link's new state into account."""
        for pipe in self._pipes.values():
            pipe.flush()

    def finished(self) -> None:
        """Close both sockets once both directions have ended."""
        if all(pipe.is_done for pipe in self._pipes.values()):
            for side in (self.device, self.server):
                if side.transport is not None:
                    side.transport.close()  # after the last bytes

    def lost(self, side: _Side) -> None:
        """One socket has ended: so does the other, unless the link loses that news too."""
        other = self.server if side is self.device else self.device
        if other.transport is None:
            self._end()
        elif self._link.loses(side.way) and not self.is_silent and not self.is_over:
            self._pipes[side.way].has_hole = True
        elif not other.transport.is_closing():
            other.reset()

    def survives(self, state: LinkState) -> bool:
        """Say whether this connection stays open when the link changes to this state."""
        if isinstance(state, Cut) and state.how == "refuse":
            return False
        if self.is_silent or (isinstance(state, Cut) and state.how == "blackhole"):
            return self.is_silent and isinstance(state, Cut) and state.direction == "both"
        lost = [way for way, pipe in self._pipes.items() if pipe.has_hole]
        return all(isinstance(state, Cut) and state.loses(way) for way in lost)

    def reset(self) -> None:
        """End both sockets with a RST; what was on its way is lost."""
        self._end()
        for side in (self.device, self.server):
            side.reset()

    def _end(self) -> None:
        self.is_over = True
        for pipe in self._pipes.values():
            pipe.close()
        self._link.forget(self)


def set_to_reset(sock: socket.socket) -> None:
    """Make the next close send a RST, not a FIN."""
    with contextlib.suppress(OSError):  # it may be closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
