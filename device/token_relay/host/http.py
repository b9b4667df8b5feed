"""The Http port over aiohttp: it sends one request and returns the whole answer, or the reason why there is none.

The border between :class:`NotSent` and :class:`AnswerLost` must be exact. aiohttp tells the moment before it writes the
first byte of the request line. The provider certainly did not process a request that failed before that moment; it
may have processed one that failed later. Connections are never reused, so no request fails on a connection that the
provider closed long before, and none is silently repeated on a new one.

This adapter never uses plain http to another machine, redirects, proxies and netrc from the environment, cookies, or
TLS without verification. It is one of the few places that reveal secrets: into the form body, and into the header
Authorization.

aiohttp is imported at the first request: the commands that never make one should start quickly on slow hardware.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from token_relay.mqtt.tls import client_context
from token_relay.protocol.secret import Secret
from token_relay.provider.http import RESPONSE_BYTES_MAX, AnswerLost, HttpRequest, HttpResponse, NotSent, url_problem
from token_relay.provider.tokens import parse_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    from aiohttp import ClientResponse, ClientSession, TraceConfig, TraceRequestHeadersSentParams
    from aiohttp.abc import AbstractResolver

CONNECTIONS_MAX = 16  # what waits for one has not been sent, and its time has not begun
# Per line; gateways set up to 64 KiB of cookies, and a good answer must not be lost by them. aiohttp takes 128 lines.
HEADER_BYTES_MAX = 131_072
DNS_TTL_S = 10  # an answer may serve the two or three requests of one sign-in; a failure is asked for again


class _Progress:
    """Whether the first byte of a request may have left."""

    __slots__ = ("is_sent",)

    def __init__(self) -> None:
        self.is_sent = False


class AioHttp:
    """The Http port of production. Close it with :meth:`close`; safe to use from many tasks of one loop."""

    def __init__(self, *, ca_file: Path | None = None, route: tuple[str, int] | None = None) -> None:
        """``ca_file`` (PEM) adds a private CA to the system's; it is read at a first request, and after it has changed.

        ``route`` is the host and port that connections really go to. The URL still decides the rest: whether it is
        refused, the Host header, and the name that the certificate must have.
        """
        self._ca_file = ca_file
        self._route = route
        self._session: ClientSession | None = None
        self._ca_seen: tuple[int, ...] = ()
        self._former: list[ClientSession] = []  # a request under way may still need one; it ends with this object
        self._opening = asyncio.Lock()
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._is_closed = False

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        """Send one request and wait at most ``request.timeout_s`` for the whole answer, from when a connection is free.

        Every failure is a value. Cancelling closes the connection; the request may have been processed.
        """
        if (problem := url_problem(request.url)) != "":
            return NotSent(f"refused: the URL {problem}")
        try:
            async with asyncio.timeout(request.timeout_s):
                await self._free.acquire()
        except TimeoutError:
            return NotSent("too many requests are under way")
        try:
            return await self._send(request)
        finally:
            self._free.release()

    async def _send(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        try:
            session = await self._open()
        except OSError:  # ssl.SSLError is one
            return NotSent(f"the CA file {self._ca_file} cannot be read")
        if session is None:
            return NotSent("the HTTP client is closed")
        progress = _Progress()
        try:
            async with asyncio.timeout(request.timeout_s):
                return await _exchange(session, request, progress, self._route)
        except TimeoutError:
            reason = f"no answer within {request.timeout_s:g} s" if progress.is_sent else "no connection in time"
        except Exception as error:
            # aiohttp's own errors, and those below it (OSError, ssl, UnicodeError of a host name, zlib). Unknown
            # errors are caught as well: once bytes have left, only "lost" is true, whatever failed here.
            reason = await self._describe(error, request.url)
        return AnswerLost(reason) if progress.is_sent else NotSent(reason)

    async def _describe(self, error: Exception, url: str) -> str:
        parts = urlsplit(url)
        name = parts.hostname or ""
        cause = getattr(error, "certificate_error", None)  # of aiohttp's ClientConnectorCertificateError
        if not isinstance(cause, ssl.SSLCertVerificationError):
            return _describe(error, name)
        from token_relay.host import peer_certificate  # the X.509 library is read for this alone

        host, port = self._route or (name, parts.port or 443)
        shown = await asyncio.to_thread(peer_certificate.look, host, port, name)
        return f"the certificate of {name} {peer_certificate.why(cause, shown, time.time())}"

    async def close(self) -> None:
        """Close all connections; later requests are answered :class:`NotSent`."""
        self._is_closed = True
        async with self._opening:
            sessions = [*self._former, *([self._session] if self._session is not None else [])]
            self._session, self._former = None, []
        for session in sessions:
            await session.close()

    async def _open(self) -> ClientSession | None:
        async with self._opening:
            seen = _identity(self._ca_file)
            if self._session is not None and seen not in ((), self._ca_seen):
                self._ca_seen = seen
                with suppress(OSError):  # half copied: it changes once more, and until then the former CA counts
                    renewed = await _new_session(self._ca_file)
                    self._former.append(self._session)
                    self._session = renewed
            if self._session is None and not self._is_closed:
                self._session, self._ca_seen = await _new_session(self._ca_file), seen
            return self._session


def _identity(file: Path | None) -> tuple[int, ...]:
    try:
        found = file.stat() if file is not None else None
    except OSError:
        found = None
    return () if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


async def _new_session(ca_file: Path | None) -> ClientSession:
    import aiohttp

    # In a thread, because reading some 140 certificates blocks for a noticeable time on slow hardware.
    context = await asyncio.to_thread(_tls_context, ca_file)
    connector = aiohttp.TCPConnector(
        ssl=context,
        force_close=True,
        limit=0,  # AioHttp counts, before the time of a request begins
        ttl_dns_cache=DNS_TTL_S,
        resolver=_resolver(),
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        trace_configs=[_trace()],
        trust_env=False,
        auto_decompress=False,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = client_context(None)
    if ca_file is not None:
        context.load_verify_locations(cafile=str(ca_file))
    return context


def _trace() -> TraceConfig:
    import aiohttp

    async def headers_sent(
        session: ClientSession, context: SimpleNamespace, params: TraceRequestHeadersSentParams
    ) -> None:
        context.trace_request_ctx.is_sent = True

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(headers_sent)
    return trace


def _resolver() -> AbstractResolver:
    import aiohttp
    from aiohttp.abc import ResolveResult

    class Resolver(aiohttp.ThreadedResolver):
        """The system's resolver, except that ``localhost`` is never asked for (RFC 6761 §6.3).

        Plain http is allowed to that name, so no hosts file and no DNS server may point it elsewhere.
        """

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            if host.lower() != "localhost":
                return await super().resolve(host, port, family)
            known = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))
            return [
                ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)
                for address, kind in known
                if family in (socket.AF_UNSPEC, kind)
            ]

    return Resolver()


async def _exchange(
    session: ClientSession, request: HttpRequest, progress: _Progress, route: tuple[str, int] | None
) -> HttpResponse | AnswerLost:
    from aiohttp import ClientPayloadError
    from yarl import URL

    headers = {"user-agent": "token-relay", "accept-encoding": "identity", **request.headers}
    if request.authorization is not None:
        headers["authorization"] = request.authorization.reveal()
    body: bytes | None = None
    if request.form is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
        body = _encode_form(request.form)
    url = URL(request.url, encoded=True)
    server_hostname = None
    if route is not None:
        headers["Host"] = url.host_port_subcomponent or ""  # the URL was checked to have a host
        server_hostname = url.host if url.scheme == "https" else None
        url = url.with_host(route[0]).with_port(route[1])
    async with session.request(
        request.method,
        url,
        data=body,
        headers=headers,
        allow_redirects=False,
        server_hostname=server_hostname,
        trace_request_ctx=progress,
    ) as response:
        read = bytearray()
        try:
            is_small = await _read_at_most(response, RESPONSE_BYTES_MAX, read)
        except (ClientPayloadError, OSError):
            if not is_whole(bytes(read), response.headers.get("content-encoding", "")):
                raise
            is_small = True
        return take(response.status, _lower(response.headers), bytes(read) if is_small else None)


async def _read_at_most(response: ClientResponse, bytes_max: int, body: bytearray) -> bool:
    async for chunk in response.content.iter_chunked(16_384):
        body += chunk
        if len(body) > bytes_max:
            return False
    return True


def is_whole(raw: bytes, encoding: str) -> bool:
    """Whether a body that was cut off is a whole JSON object all the same: nothing of it can be missing.

    A length that counts too much and a missing last chunk are common mistakes of servers, and the tokens are there.
    """
    unpacked = unpack(raw, encoding)
    return unpacked is not None and parse_object(unpacked) is not None


def take(status: int, headers: Mapping[str, str], raw: bytes | None) -> HttpResponse | AnswerLost:
    """Return the answer with its body unpacked; ``raw`` is None when the body is too large.

    A refusal is then a page without a body. A success is lost: it may have a token in it.
    """
    body = None if raw is None else unpack(raw, headers.get("content-encoding", ""))
    if body is None and 200 <= status < 300:
        return AnswerLost(f"the answer is larger than {RESPONSE_BYTES_MAX} bytes")
    return HttpResponse(status, headers, body or b"")


def unpack(raw: bytes, encoding: str) -> bytes | None:
    """Unpack a body that came packed although nobody asked for it; None if it is then larger than the limit.

    What the header says is a hint only: a body that cannot be unpacked is taken as it is, and whoever reads it finds
    out. Servers say "deflate" for zlib's format and for the raw one, "UTF-8" for a body that is not packed at all, and
    some that unpack and pack again forget to say so. RFC 9110 §8.4.
    """
    is_said = any(name in encoding.lower() for name in ("gzip", "deflate"))
    ways = (47, -15) if is_said else (47,) if raw.startswith(b"\x1f\x8b") else ()  # 15 + 32: zlib or gzip; < 0: raw
    for wbits in ways if not raw.lstrip().startswith(b"{") else ():
        unpacker = zlib.decompressobj(wbits)
        try:
            unpacked = unpacker.decompress(raw, RESPONSE_BYTES_MAX + 1)
        except zlib.error:
            continue
        if len(unpacked) > RESPONSE_BYTES_MAX:
            return None
        if wbits > 0 or (unpacker.eof and not unpacker.unused_data):  # the raw format has no mark to know it by
            return unpacked
    return raw


def _encode_form(form: tuple[tuple[str, str | Secret[str]], ...]) -> bytes:
    return urlencode([(name, value.reveal() if isinstance(value, Secret) else value) for name, value in form]).encode()


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    lowered: dict[str, str] = {}
    for name, value in headers.items():
        lowered.setdefault(name.lower(), value)  # the first one counts when a header came twice
    return lowered


def _describe(error: Exception, host: str) -> str:
    """Name the failure in our words; an exception's own text may hold parts of the request or of the answer."""
    import aiohttp

    match error:
        case aiohttp.ClientConnectorSSLError():
            return f"TLS with {host} failed"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {host} cannot be resolved"
        case aiohttp.ClientConnectorError():
            return f"no connection to {host}: {_errno_text(error.os_error)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError():
            return f"{host} closed the connection before the answer was complete"
        case aiohttp.ClientResponseError():
            return f"{host} did not answer in HTTP"
        case OSError():
            return f"the connection to {host} broke: {_errno_text(error)}"
        case _:
            return f"the exchange with {host} failed ({type(error).__name__})"


def _errno_text(error: OSError) -> str:
    import os

    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else type(error).__name__
