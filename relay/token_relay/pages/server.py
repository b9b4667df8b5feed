"""Serves pages on a loopback port: the walls, the key, the headers, the errors, and the end after idle minutes.

:mod:`.walls` decides who is let in. A handler that fails with one of our errors becomes a page that says why and what
to do; any other failure is a page without details, and a line in the log. Nothing of a request is logged.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from token_relay.pages.rendering import environment
from token_relay.pages.visit import Answer, PageRequest
from token_relay.pages.walls import HEADERS, Barred, Caller, cookie_header, has_cookie, refusal
from token_relay.protocol.errors import ConfigError, LocalError, RelayError

log = structlog.get_logger()

IDLE_S_MAX = 1800.0
FORM_BYTES_MAX = 65_536
FIELDS_MAX = 64
HEAD_BYTES_MAX = 262_144  # browsers keep up to 180 cookies of 4 KiB for 127.0.0.1, whichever port has set them
KEYS_MAX = 8
CONNECTIONS_BUSY = 16  # from here on other users get none: a head is read, of up to 32 MiB, before it can be refused
STATIC = Path(__file__).with_name("static")
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Handler = Callable[[PageRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class PageRoute:
    """A page: ``path`` as aiohttp's routes have it, without the root. ``comes_from_elsewhere``: see :mod:`.walls`; such
    a page is open to who has no cookie, and must know its visitor by something else."""

    path: str
    handler: Handler
    comes_from_elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What a set of pages brings along: templates, static files, and what every template of it is given.

    ``hints``: which of the pages a command in a hint is done on, see :func:`token_relay.pages.page_hints.way_on`.
    """

    templates: Sequence[Path]
    statics: Sequence[Path]
    common: Mapping[str, object]
    hints: Mapping[str, str] = field(default_factory=dict)


class PageServer:
    """The pages on a port of 127.0.0.1, for as long as the ``async with`` lasts.

    ``owner`` says whose a connection is: the client's address and our port to uid. ``uids`` are let in.
    """

    def __init__(
        self,
        routes: Sequence[PageRoute],
        look: Look,
        *,
        owner: Callable[[tuple[str, int], int], int | None],
        uids: Collection[int],
        port: int = 0,
        idle_s: float = IDLE_S_MAX,
    ) -> None:
        self.root = f"/{secrets.token_hex(16)}/"
        self._cookie = secrets.token_urlsafe(32)
        self._keys: list[str] = []
        self._owner, self._uids = owner, frozenset(uids)
        self._look, self._environment = look, environment(look.templates, look.hints)
        self._statics = {
            path.name: path for place in (STATIC, *look.statics) for path in place.iterdir() if path.suffix in TYPES
        }
        self._asked_port, self.port = port, 0
        self._idle_s, self._active_at = idle_s, time.monotonic()
        self._ends = asyncio.Event()
        self._streams: dict[asyncio.Timeout, None] = {}
        app = web.Application(client_max_size=FORM_BYTES_MAX)
        for route in (*routes, PageRoute("static/{name}", self._static)):
            app.router.add_route("*", f"{self.root}{route.path}", self._serving(route))
        app.router.add_route(
            "*", f"{self.root}open", self._serving(PageRoute("open", self._open, comes_from_elsewhere=True))
        )
        app.router.add_route("*", "/{tail:.*}", self._serving(PageRoute("", _nowhere, comes_from_elsewhere=True)))
        self._listener: asyncio.Server | None = None
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=0.5,
            handler_cancellation=True,
            max_line_size=8190,
            max_field_size=HEAD_BYTES_MAX,
        )

    async def __aenter__(self) -> Self:
        """Listen. Raises ConfigError: the port is taken."""
        try:
            sock = socket.create_server(("127.0.0.1", self._asked_port))
        except OSError as exc:
            raise ConfigError(f"cannot listen on 127.0.0.1:{self._asked_port}: {exc.strerror}") from exc
        self.port = sock.getsockname()[1]
        await self._runner.setup()
        self._listener = await asyncio.get_running_loop().create_server(self._connection, sock=sock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._end_streams()
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    @property
    def origin(self) -> str:
        """Return scheme, address and port."""
        return f"http://127.0.0.1:{self.port}"

    def address(self) -> str:
        """Return an address that opens the pages once."""
        key = secrets.token_urlsafe(24)
        self._keys = [*self._keys[1 - KEYS_MAX :], key]
        return f"{self.origin}{self.root}open?key={key}"

    async def until_idle(self) -> None:
        """Return when nothing was asked for ``idle_s``; an open event stream is no activity."""
        while (left_s := self._active_at + self._idle_s - time.monotonic()) > 0 and not self._ends.is_set():
            await self._pause(left_s)

    async def forget_when_idle(self) -> None:
        """After each idle time ask for an address again, for ever; one that was printed and not used still opens."""
        while not self._ends.is_set():
            await self.until_idle()
            self._cookie, self._active_at = secrets.token_urlsafe(32), time.monotonic()
            self._end_streams()

    def _end_streams(self) -> None:
        while self._streams:
            self._streams.popitem()[0].reschedule(0)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ends.wait()
        except TimeoutError:
            return

    def _connection(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        return _Entrance(self._runner.server, lambda client: self._owner(client, self.port) in self._uids)

    # -- requests ----------------------------------------------------------------------------------------------

    def _serving(self, route: PageRoute) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            visit = PageRequest(
                request, self.root, {}, time.time(), self._environment, self._look.common, self._streams, self._pause
            )
            refused = self._refused(route, request)
            if refused is not None:
                return visit.refuse(refused.status, refused.why, is_in=False)
            # What anybody's page may ask for keeps nothing open, nor does a stream.
            if not route.comes_from_elsewhere and not route.path.endswith("stream"):
                self._active_at = time.monotonic()
            try:
                if request.method == "POST":
                    visit.fields = await _form(request)
                return await route.handler(visit)
            except RelayError as exc:
                return visit.refuse(400, str(exc), hint=exc.hint)
            except web.HTTPRequestEntityTooLarge:
                return visit.refuse(413, f"that form is longer than {FORM_BYTES_MAX} bytes")
            except Exception as exc:
                log.error("page_failed", error_type=type(exc).__name__, page=route.path, where=where_of(exc))
                if route.path.endswith("stream"):
                    raise  # it has begun to answer: the connection ends
                return visit.refuse(500, "internal error, see the log")

        return serve

    def _refused(self, route: PageRoute, request: web.Request) -> Barred | None:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        caller = Caller(
            method=request.method,
            uid=None if peer is None else self._owner(peer, self.port),
            host=request.headers.get("Host", ""),
            origin=request.headers.get("Origin"),
            fetch_site=request.headers.get("Sec-Fetch-Site", ""),
        )
        why = refusal(caller, uids=self._uids, comes_from_elsewhere=route.comes_from_elsewhere)
        if why is not None or route.comes_from_elsewhere:
            return why
        if not has_cookie(request.headers.getall("Cookie", []), self._cookie):
            return Barred(403, "open the address that was printed in the terminal; Enter there prints a new one")
        return None

    async def _open(self, visit: PageRequest) -> Answer:
        key = visit.query.get("key", "")
        known = next((one for one in self._keys if secrets.compare_digest(one.encode(), key.encode())), None)
        if known is None or visit.is_post:
            why = "this address was used already, or is an old one; Enter in the terminal prints a new one"
            return visit.refuse(403, why, is_in=False)
        self._keys.remove(known)
        self._active_at = time.monotonic()
        answer = visit.onward("")
        answer.headers["Set-Cookie"] = cookie_header(self._cookie, self.root)
        return answer

    async def _static(self, visit: PageRequest) -> Answer:
        path = self._statics.get(visit.part("name"))
        if path is None:
            return visit.refuse(404, "nothing is here")
        return web.Response(body=path.read_bytes(), content_type=TYPES[path.suffix], headers=HEADERS)


class _Entrance(asyncio.Protocol):
    """Hands a connection on to aiohttp; one of another user only while there are few."""

    def __init__(self, http: web.Server, is_persons: Callable[[tuple[str, int]], bool]) -> None:
        self._http, self._is_persons = http, is_persons

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._http.connections) >= CONNECTIONS_BUSY and not self._is_persons(
            transport.get_extra_info("peername")
        ):
            transport.abort()
            return
        handler = self._http()
        transport.set_protocol(handler)
        handler.connection_made(transport)


async def _nowhere(visit: PageRequest) -> Answer:
    return visit.refuse(404, "nothing is here", is_in=False)


async def _form(request: web.Request) -> dict[str, str]:
    """Return the fields of a form, the last of each name. Raises LocalError: it is none."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise LocalError("a form was expected")
    try:
        body = await request.read()
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise LocalError("that form cannot be read") from None


def where_of(exc: Exception) -> str:
    """Return file and line of a mistake of ours, without any value."""
    last = traceback.extract_tb(exc.__traceback__)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
