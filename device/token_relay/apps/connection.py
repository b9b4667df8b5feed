"""One connection of one peer to the token socket: admitted or not, then at most one request.

aiohttp parses and answers; what it has no limit for is here: the bytes of a request head, the time until it is whole,
and how many connections there are. Whatever a client sends that is no request gets an answer in our own text.

Limit: a client that closes its sending half before the answer counts as gone.

:mod:`token_relay.apps.server` imports this module when it starts to serve, because of aiohttp.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from token_relay.agents.token_source import Peer
from token_relay.apps.replies import Reply, refused
from token_relay.host.systemd import peer_of

HEAD_BYTES_MAX = 16_384


class Door(Protocol):
    """What a connection asks of the server that it leads to."""

    @property
    def head_deadline_s(self) -> float:
        """How long a connection may take to send a whole request head, in seconds."""
        ...

    def admit(self, peer: Peer) -> Reply | None:
        """Count a new connection; when there are too many, return a reply and do not count it."""
        ...

    def dismiss(self, peer: Peer) -> None:
        """Forget a connection that was counted."""
        ...

    def malformed(self) -> Reply:
        """Say that this was no HTTP request."""
        ...

    def failed(self, exc: BaseException) -> Reply:
        """Log an error of ours, and say that there was one."""
        ...


class TokenConnection(RequestHandler):
    """One connection of one peer: admitted or not, then at most one request."""

    __slots__ = ("_deadline", "_door", "_head_bytes", "_is_admitted", "_peer", "_raw", "_tail")

    def __init__(self, door: Door, http: web.Server) -> None:
        super().__init__(
            http,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=0,
            tcp_keepalive=False,
            access_log=None,  # type: ignore[arg-type]  # None means "no log"; the annotation forgot it
            lingering_time=0,
            # Our own limit is smaller, so that one too long line and many short ones get the same answer.
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
        )
        self._door = door
        self._is_admitted = False
        self._head_bytes = 0
        self._tail = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._peer: Peer | None = None
        self._raw: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        sock: socket.socket = transport.get_extra_info("socket")
        try:
            self._peer = peer_of(sock)
        except OSError:
            transport.abort()
            return
        busy = self._door.admit(self._peer)
        if busy is not None:
            transport.write(busy.raw())
            transport.close()
            return
        self._is_admitted = True
        self._deadline = self._loop.call_later(self._door.head_deadline_s, self._head_is_late)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._is_admitted and self._peer is not None:
            self._cancel_deadline()
            self._door.dismiss(self._peer)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_admitted:
            return
        self._head_bytes += len(data)
        if self._head_bytes <= HEAD_BYTES_MAX:
            # Empty lines before the request line are no part of the head; the parser skips them (RFC 9112 §2.2).
            head = self._tail + data if self._tail else data.lstrip(b"\r\n")
            # Stopped here: the deadline must not expire between parsing and the handler's first step.
            if b"\r\n\r\n" in head:
                self._cancel_deadline()
            self._tail = head[-3:]
            super().data_received(data)
        elif self._deadline is None:
            self.force_close()  # the head is here already; no proper client sends that much more
        else:
            self._end(refused(431, "bad_request", f"the request head is longer than {HEAD_BYTES_MAX} bytes"))

    def head_received(self) -> Peer:
        """The head is whole and in time; return who sent it."""
        self._cancel_deadline()
        assert self._peer is not None
        return self._peer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer garbage with our own text; the parser's text would quote it."""
        self._cancel_deadline()
        if isinstance(exc, HttpProcessingError):
            return response_of(self._door.malformed())
        return response_of(self._door.failed(exc or RuntimeError("unknown")))

    def _head_is_late(self) -> None:
        self._deadline = None
        self._end(refused(408, "bad_request", f"no whole request head within {self._door.head_deadline_s:g} s"))

    def _end(self, reply: Reply) -> None:
        self._cancel_deadline()
        if self._raw is not None and not self._raw.is_closing():
            self._raw.write(reply.raw())
        self.force_close()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Response(web.Response):
    """An answer that does not say which programs of which versions made it."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


def response_of(reply: Reply) -> web.Response:
    """Return what aiohttp sends for a reply; the connection is closed after it."""
    response = _Response(status=reply.status, body=reply.octets(), headers=reply.all_headers())
    response.force_close()
    return response
