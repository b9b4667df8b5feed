"""Receives the browser's redirect at the end of a sign-in, on a loopback port. RFC 8252 §7.3.

The listener knows only the ``state`` of the sign-in that it waits for. Every other request (from another local
program, from a page that guesses ports, from the browser for an icon) gets a 400 and changes nothing. The page that it
serves is static: it has no script and repeats nothing of the request, so a code never stands in a page.

Limit: a program of the same user can read the browser's history anyway; PKCE makes a stolen code useless.
"""

from __future__ import annotations

import asyncio
import hmac
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from token_relay.agents.phone.person import CodeReceived, SignInRefused
from token_relay.protocol.secret import SECRET_CHARS_MAX, Code
from token_relay.provider.tokens import slug

REQUEST_BYTES_MAX = 16_384  # request line and headers; a code is some 100 to 2 000 characters
REQUEST_TIMEOUT_S = 10.0  # browsers open connections in advance and send nothing on them
CONNECTIONS_MAX = 16
PARAMETERS_MAX = 32
PATH = "/callback"

_HEADERS = (
    "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n"
)


class LoopbackReceiver:
    """The :class:`~token_relay.agents.phone.person.RedirectReceiver` of one sign-in, on a port of this machine.

    Use with ``async with``; the port is free again afterwards.

    If the redirect has an ``iss``, it must equal ``issuer``, when that is given. RFC 9207 §2.4.
    """

    def __init__(self, state: str, *, issuer: str | None = None) -> None:
        if len(state) < 22:
            raise ValueError("a state has at least 128 bits: 22 characters of base64url")
        self._state = state.encode()
        self._issuer = issuer
        self._server: asyncio.Server | None = None
        self._result: asyncio.Future[CodeReceived | SignInRefused] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._port = 0

    async def __aenter__(self) -> Self:
        self._result = asyncio.get_running_loop().create_future()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=REQUEST_BYTES_MAX)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def redirect_uri(self) -> str:
        """The URI for the authorization request: the literal address, not ``localhost`` (RFC 8252 §8.3)."""
        assert self._port, "not listening yet"
        return f"http://127.0.0.1:{self._port}{PATH}"

    async def wait(self) -> CodeReceived | SignInRefused:
        """Wait for the redirect of this sign-in; the caller limits the time. May be called again after a cancel."""
        assert self._result is not None, "not listening yet"
        return await asyncio.shield(self._result)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._serving) >= CONNECTIONS_MAX:
            writer.close()
            return
        self._serving.add(task)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a request that is not complete gets no answer
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            result = self._judge(head)
        except asyncio.LimitOverrunError:
            result = None
        if result is None:
            status, text = "400 Bad Request", "This is not the answer to the sign-in that is going on."
        elif isinstance(result, CodeReceived):
            status, text = "200 OK", "You are back at the device. You can close this window."
        else:
            status, text = "200 OK", "The sign-in was refused. You can close this window."
        page = f'<!doctype html><html lang="en"><title>Sign-in</title><p>{text}</p></html>\n'.encode()
        writer.write(f"HTTP/1.1 {status}\r\n{_HEADERS}Content-Length: {len(page)}\r\n\r\n".encode() + page)
        try:
            await writer.drain()
        finally:  # the code has arrived even if the browser closed before it read the page
            if result is not None and self._result is not None and not self._result.done():
                self._result.set_result(result)

    def _judge(self, head: bytes) -> CodeReceived | SignInRefused | None:
        """Return the redirect's content, or None for anything that is not the redirect of this sign-in."""
        assert self._result is not None
        if self._result.done():
            return None
        try:
            lines = head.decode("ascii").split("\r\n")
            method, target, version = lines[0].split(" ")
            hosts = [line[5:].strip() for line in lines[1:] if line.lower().startswith("host:")]
            parts = urlsplit(target)
            pairs = parse_qsl(
                parts.query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=PARAMETERS_MAX
            )
        except ValueError:
            return None
        parameters = dict(pairs)
        # A page elsewhere may point its own host name at 127.0.0.1; then that name stands in Host.
        if method != "GET" or not version.startswith("HTTP/1.") or hosts != [f"127.0.0.1:{self._port}"]:
            return None
        if parts.scheme or parts.netloc or parts.path != PATH or len(parameters) < len(pairs):
            return None
        if not hmac.compare_digest(parameters.get("state", "").encode(), self._state):
            return None
        if self._issuer is not None and parameters.get("iss", self._issuer) != self._issuer:
            return None
        if error := parameters.get("error"):
            return SignInRefused(slug(error))
        code = parameters.get("code", "")
        return CodeReceived(Code(code)) if 0 < len(code) <= SECRET_CHARS_MAX else None
