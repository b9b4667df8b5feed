"""Receives the browser's redirect at the end of a sign-in, on a loopback port. RFC 8252 §7.3.

The listener knows only the ``state`` of the sign-in that it waits for, and ``state`` alone decides: cookies of other
programs on 127.0.0.1, and texts in any encoding, are not read. Every other request (from another local program, from a
page that guesses ports, from the browser for an icon) gets a 400 and changes nothing. The page that it serves is
static: it has no script and repeats nothing of the request, so a code never stands in a page.

Nobody can block it by opening connections: each uid has a few, and the newest pushes out that uid's oldest. So the
agent's own user and root, as one of whom the browser runs, always have room.

Limit: a program of the same user can read the browser's history anyway; PKCE makes a stolen code useless.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from token_relay.agents.phone.person import CodeReceived, NotAccepted, SignInRefused
from token_relay.host.loopback_peer import owner_of
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import SECRET_CHARS_MAX, Code
from token_relay.provider.tokens import find_error

HEAD_BYTES_MAX = 65_536  # request line and headers; browsers keep up to 180 cookies of 4 KiB for 127.0.0.1
DISCARDED_BYTES_MAX = 1 << 20  # read of a larger head, so that the browser gets to see the answer
REQUEST_TIMEOUT_S = 10.0  # browsers open connections in advance and send nothing on them
OWN_CONNECTIONS_MAX = 16  # of the agent's user, and of root; more than the six that a browser opens
OTHER_CONNECTIONS_MAX = 8  # of each other uid (a service's person among them), and of those whose uid is not known
STRANGERS_MAX = 64  # connections of all other uids together
_ROOT_UID = 0

_HEADERS = (
    "Content-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\n"
    "Connection: close\r\n"
)
_OTHER = NotAccepted("")  # not a browser that comes back; nobody is told
_TOO_LARGE = NotAccepted(
    f"its request was larger than {HEAD_BYTES_MAX // 1024} KiB: other programs on 127.0.0.1 have set too many cookies; "
    "delete the cookies of 127.0.0.1, or use a private window"
)


class LoopbackReceiver:
    """The :class:`~token_relay.agents.phone.person.RedirectReceiver` of one sign-in, on a port of this machine.

    Use with ``async with``; the port is free again afterwards.

    It listens on the first of ``ports`` that is free, on a random one when there are none. If the redirect has an
    ``iss``, it must equal ``issuer``, when that is given. RFC 9207 §2.4. ``owner`` returns the uid of a client by its
    address and our port.
    """

    def __init__(
        self,
        state: str,
        *,
        ports: Sequence[int] = (),
        path: str = "/callback",
        issuer: str | None = None,
        owner: Callable[[tuple[str, int], int], int | None] = owner_of,
    ) -> None:
        if len(state) < 22:
            raise ValueError("a state has at least 128 bits: 22 characters of base64url")
        self._state = state.encode()
        self._ports = ports
        self._path = path
        self._issuer = issuer
        self._owner = owner
        self._server: asyncio.Server | None = None
        self._result: CodeReceived | SignInRefused | None = None
        self._refused: dict[str, NotAccepted] = {}  # by reason, each once, until it is told
        self._told: set[str] = set()
        self._news = asyncio.Event()
        self._serving: dict[int | None, list[asyncio.Task[None]]] = {}  # by uid, the oldest first
        self._port = 0

    async def __aenter__(self) -> Self:
        """Begin to listen. Raises LocalError: none of the ports is free."""
        for port in self._ports or (0,):
            try:
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=HEAD_BYTES_MAX)
            except OSError:  # in use, or one that only root may have
                continue
            self._port = self._server.sockets[0].getsockname()[1]
            return self
        tried = ", ".join(map(str, self._ports)) or "any"
        hint = "does another sign-in wait, or another program listen there? see: ss -ltnp"
        raise LocalError(f"no port for the browser to come back to is free on 127.0.0.1: tried {tried}", hint=hint)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [task for tasks in self._serving.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def redirect_uri(self) -> str:
        """The URI for the authorization request: the literal address, not ``localhost`` (RFC 8252 §8.3)."""
        assert self._port, "not listening yet"
        return f"http://127.0.0.1:{self._port}{self._path}"

    @property
    def _registered(self) -> str:
        """The URI as the provider should have it."""
        return self.redirect_uri if self._ports else f"http://127.0.0.1{self._path}"

    async def wait(self) -> CodeReceived | SignInRefused | NotAccepted:
        """Wait for the redirect of this sign-in, or for one that is not accepted, each reason once.

        The caller limits the time. It may be called again: after a cancel, and after :class:`NotAccepted`.
        """
        while True:
            if self._result is not None:
                return self._result
            if self._refused:
                return self._refused.pop(next(iter(self._refused)))
            self._news.clear()
            await self._news.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        uid = self._owner(writer.get_extra_info("peername"), self._port)
        mine = self._room(uid)
        if mine is None:
            writer.close()
            return
        mine.append(task)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await self._answer(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass  # a request that is not complete gets no answer
        finally:
            if task in mine:
                mine.remove(task)
            writer.close()

    def _room(self, uid: int | None) -> list[asyncio.Task[None]] | None:
        """Return the uid's connections, with room for one more; None when strangers have too many."""
        is_own = uid in (os.geteuid(), _ROOT_UID)
        mine = self._serving.setdefault(uid, [])
        if len(mine) >= (OWN_CONNECTIONS_MAX if is_own else OTHER_CONNECTIONS_MAX):
            mine.pop(0).cancel()
        own = {os.geteuid(), _ROOT_UID}
        strangers = sum(len(tasks) for other, tasks in self._serving.items() if other not in own)
        return mine if is_own or strangers < STRANGERS_MAX else None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            result = self._judge(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            result = await self._discard(reader)
        match result:
            case CodeReceived():
                status, text = "200 OK", "You are back at the device. You can close this window."
            case SignInRefused():
                status, text = "200 OK", "The sign-in was refused. You can close this window."
            case NotAccepted(why):
                status = "431 Request Header Fields Too Large" if result == _TOO_LARGE else "400 Bad Request"
                text = f"This is not the answer to the sign-in that is going on{f': {why}' if why else ''}."
        page = f'<!doctype html><html lang="en"><title>Sign-in</title><p>{text}</p></html>\n'.encode()
        writer.write(f"HTTP/1.1 {status}\r\n{_HEADERS}Content-Length: {len(page)}\r\n\r\n".encode() + page)
        try:
            await writer.drain()
        finally:  # the code has arrived even if the browser closed before it read the page
            self._note(result)

    def _note(self, result: CodeReceived | SignInRefused | NotAccepted) -> None:
        if not isinstance(result, NotAccepted):
            self._result = self._result or result
        elif result.why and result.why not in self._told and self._result is None:
            self._told.add(result.why)
            self._refused[result.why] = result
        self._news.set()

    async def _discard(self, reader: asyncio.StreamReader) -> NotAccepted:
        """Read the rest of a head that is too large; say what its sender should do, if it is a browser's."""
        start = await reader.read(HEAD_BYTES_MAX)
        read, tail = len(start), start[-3:]
        while read < DISCARDED_BYTES_MAX and (part := await reader.read(HEAD_BYTES_MAX)):
            read += len(part)
            if b"\r\n\r\n" in tail + part:
                break
            tail = (tail + part)[-3:]
        return _TOO_LARGE if start.startswith(b"GET /") else _OTHER

    def _judge(self, head: bytes) -> CodeReceived | SignInRefused | NotAccepted:
        """Return the redirect's content, or why this is not the redirect of this sign-in."""
        line, *fields = head.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        target, _, version = rest.rpartition(" ")
        try:
            parts = urlsplit(target)
            pairs = parse_qsl(parts.query, keep_blank_values=True, errors="replace")
        except ValueError:
            return _OTHER
        found = dict(pairs)
        is_back = parts.path == self._path or not found.keys().isdisjoint(("code", "error", "state"))
        if self._result is not None or parts.scheme or parts.netloc or not version.startswith("HTTP/1.") or not is_back:
            return _OTHER
        hosts = [field[5:].strip() for field in fields if field.lower().startswith("host:")]
        return NotAccepted(why) if (why := self._fault(method, hosts, parts, pairs)) else self._content(found)

    def _fault(self, method: str, hosts: list[str], parts: SplitResult, pairs: list[tuple[str, str]]) -> str:
        """Say why a request that looks like a redirect is not accepted; the text repeats nothing of it."""
        found = dict(pairs)
        names = [name for name, _ in pairs if name in ("code", "error", "state", "iss")]
        if not hmac.compare_digest(found.get("state", "").encode("utf-8", "replace"), self._state):
            return "its state is not that of this sign-in: open the address that was shown last, in one window"
        if method != "GET":
            return "the provider has it send a form: this client must get its code in the query (response_mode=query)"
        # A page elsewhere may point its own host name at 127.0.0.1; then that name stands in Host.
        if hosts != [f"127.0.0.1:{self._port}"]:
            return f"it came to another name than 127.0.0.1: register {self._registered} as redirect URI"
        if parts.path != self._path:
            return f"it came to another path than {self._path}: register {self._registered} as redirect URI"
        if len(set(names)) < len(names):
            return "a parameter came twice"
        if self._issuer is not None and found.get("iss", self._issuer) != self._issuer:
            return "it comes from another provider (iss) than the one of this sign-in"
        if not found.get("error") and not 0 < len(found.get("code", "")) <= SECRET_CHARS_MAX:
            return "it brought neither a code nor an error"
        return ""

    def _content(self, found: dict[str, str]) -> CodeReceived | SignInRefused:
        if (said := find_error({**found})) is not None:
            return SignInRefused(said.error, said.description, said.codes, said.trace_id, said.correlation_id)
        return CodeReceived(Code(found["code"]))
