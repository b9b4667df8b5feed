"""What apps on the device may ask: one access token, over HTTP/1.1 on a Unix socket.

``GET /v1/token?scope=&account=&audience=&min_valid_s=&timeout_s=&force_refresh=``. The peer is who the kernel says it
is, the policy decides by that, the agent behind :class:`~device.token_source.TokenSource` answers. This module knows
HTTP, limits and words; it knows nothing of grants, and a refresh token has no way to get in here.

Invariants:

* *one request per connection*: the connection is closed after the answer, so its limits are the request's limits.
* *every limit is per connection or per uid*: head bytes, time until the head is whole, connections, tokens per
  second; a program that exceeds one hurts only itself, except for the 64 connections that all share.
* *the policy sees the token too*: a provider may grant more scopes than were asked for (RFC 6749 §3.3), so the policy
  is asked again with the scopes that the token has.
* *nothing is cached*: every answer says ``Cache-Control: no-store`` (RFC 6749 §5.1).

aiohttp is imported by :meth:`TokenApi.start`, since the command line reads this module for its constants.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device.logs import where
from device.policy import ROOT_UID, Allowed, DeniedBecause, Peer, Policy, decide
from device.ports import Clock
from device.systemd import UnixListener, open_listener, peer_of
from device.token_source import (
    MIN_VALID_S_DEFAULT,
    TIMEOUT_S_DEFAULT,
    RefusalCode,
    TokenGranted,
    TokenQuery,
    TokenRefused,
    TokenSource,
)
from relay.errors import RelayError

if TYPE_CHECKING:
    from aiohttp import web

log = structlog.get_logger(__name__)

PATH = "/v1/token"
SOCKET_MODE = 0o660

CONNECTIONS_MAX = 64
CONNECTIONS_PER_UID_MAX = 8
HEAD_BYTES_MAX = 16_384
HEAD_DEADLINE_S = 2.0  # a local program has no reason to be slower; slowloris has
TOKENS_PER_S_MAX = 10.0  # per uid; an app that needs more keeps its token until expires_at
UIDS_MAX = 1_024  # rate limits remembered; those that are full again are forgotten first
MIN_VALID_S_MAX = 86_400.0
TIMEOUT_S_MAX = 60.0
SOURCE_GRACE_S = 5.0  # how much longer than timeout_s the agent may take before we answer in its place

STATUS: dict[RefusalCode, int] = {
    "reauth_required": 401,
    "locked": 423,
    "denied": 403,
    "offline": 503,
    "not_found": 404,
    "busy": 429,
}


# -- Query and answer --------------------------------------------------------------------------------------

# RFC 6749 §3.3: scope-token = 1*( %x21 / %x23-5B / %x5D-7E ), separated by single spaces.
_Scope = Annotated[str, Field(max_length=2_048, pattern=r"^([\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*)?$")]
_Name = Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class _QueryModel(BaseModel):
    """The query's parameters as they stand in the URL; numbers are decimal text."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    scope: _Scope = ""
    account: _Name = ""
    audience: _Name = ""
    min_valid_s: Annotated[float, Field(ge=0, le=MIN_VALID_S_MAX, allow_inf_nan=False)] = MIN_VALID_S_DEFAULT
    timeout_s: Annotated[float, Field(ge=0, le=TIMEOUT_S_MAX, allow_inf_nan=False)] = TIMEOUT_S_DEFAULT
    force_refresh: Literal["true", "false", "1", "0"] = "false"


PARAMETERS = tuple(_QueryModel.model_fields)


@dataclass(frozen=True, slots=True)
class BadQuery:
    """Why a query string is refused."""

    detail: str


def parse_query(text: str) -> TokenQuery | BadQuery:
    """Read the part of the URL after ``?``. Unknown and repeated parameters are refused, never ignored."""
    try:
        pairs = (
            urllib.parse.parse_qsl(
                text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=2 * len(PARAMETERS)
            )
            if text
            else []
        )
    except ValueError:
        return BadQuery("the query is not name=value&… in percent-encoded UTF-8")
    given = dict(pairs)
    if len(given) != len(pairs):
        return BadQuery("a parameter is given twice")
    try:
        model = _QueryModel.model_validate(given)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        return BadQuery(f"{str(first['loc'][0])[:64]!r}: {first['msg'].lower()}")
    return TokenQuery(
        model.scope,
        model.account,
        model.audience,
        model.min_valid_s,
        model.timeout_s,
        model.force_refresh in ("true", "1"),
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. ``body`` may hold an access token: it is sent and never shown."""

    status: int
    body: dict[str, str | float | None] = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)

    def octets(self) -> bytes:
        """Return the body as it is sent."""
        return json.dumps(self.body).encode()

    def raw(self) -> bytes:
        """Return the whole response, for connections that never get as far as a request."""
        body = self.octets()
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        head += [f"{name}: {value}" for name, value in self.all_headers().items()]
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        return "\r\n".join([*head, "", ""]).encode("ascii") + body

    def all_headers(self) -> dict[str, str]:
        """Return the headers that every answer has, and this one's own."""
        return {"Content-Type": "application/json", "Cache-Control": "no-store", **self.headers}


def granted(answer: TokenGranted) -> Reply:
    """Spell a token; ``expires_at`` is RFC 3339 in UTC, rounded down to the second."""
    assert answer.expires_at.tzinfo is not None, "a moment is aware"
    return Reply(
        200,
        {
            "access_token": answer.access_token.reveal(),
            "token_type": answer.token_type,
            "expires_at": answer.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": answer.scope,
            "issuer": answer.issuer,
        },
    )


def refused(status: int, error: str, detail: str, action: str = "", retry_after_s: float | None = None) -> Reply:
    """Spell a refusal; ``Retry-After`` (RFC 9110 §10.2.3) goes with every ``retry_after_s``, rounded up."""
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    return Reply(status, {"error": error, "detail": detail, "action": action, "retry_after_s": retry_after_s}, headers)


def _refusal(answer: TokenRefused) -> Reply:
    retry_after_s = 1.0 if answer.error == "busy" and answer.retry_after_s is None else answer.retry_after_s
    return refused(STATUS[answer.error], answer.error, answer.detail, answer.action, retry_after_s)


def _denial(because: DeniedBecause) -> Reply:
    action = f"to allow it, add to the policy:\n{because.line_to_add}" if because.line_to_add else ""
    return refused(STATUS["denied"], "denied", because.detail, action)


def _bad_request(detail: str) -> Reply:
    return refused(400, "bad_request", detail, f"use GET {PATH} with any of: {', '.join(PARAMETERS)}")


class RateLimit:
    """A token bucket per uid: ``per_s`` requests a second, and ``burst`` at once after a quiet time."""

    def __init__(self, per_s: float = TOKENS_PER_S_MAX, burst: float | None = None) -> None:
        self._per_s = per_s
        self._burst = per_s if burst is None else burst
        self._buckets: dict[int, tuple[float, float]] = {}  # uid → requests left, when that was (seconds)

    def take(self, uid: int, now_s: float) -> float:
        """Take one request; 0.0 when there was one, else the seconds until there is."""
        left, since_s = self._buckets.pop(uid, (self._burst, now_s))
        left = min(self._burst, left + max(0.0, now_s - since_s) * self._per_s)
        wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._per_s
        self._buckets[uid] = (left if wait_s else left - 1.0, now_s)
        if len(self._buckets) > UIDS_MAX:
            # The least recently seen comes first in the dict; forgetting it can give it at most one full bucket.
            del self._buckets[next(iter(self._buckets))]
        return wait_s


# -- Server ------------------------------------------------------------------------------------------------


class TokenApi:
    """Serves one agent's tokens on one socket. ``policy`` may be replaced while it runs (a reload)."""

    def __init__(
        self, source: TokenSource, policy: Policy, *, clock: Clock, head_deadline_s: float = HEAD_DEADLINE_S
    ) -> None:
        self.policy = policy
        self._source = source
        self._clock = clock
        self._head_deadline_s = head_deadline_s
        self._rate = RateLimit()
        self._policy_rates: dict[int, RateLimit] = {}  # by requests a minute, as many as the policy has numbers
        self._connections: dict[int, int] = {}  # uid → open connections
        self._requests: set[asyncio.Task[object]] = set()
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None
        self._http: web.Server | None = None

    async def start(self, at: Path | int, *, gid: int | None = None) -> None:
        """Listen at a path (mode 0660, group ``gid`` if given) or on a passed descriptor.

        Raises:
            ConfigError: somebody else listens there, or the place is not usable.
        """
        from aiohttp import web

        protocol_type = _protocol_type()
        listener = open_listener(at, mode=SOCKET_MODE, gid=gid)
        # Cancelled with its client: a caller who went away must not hold a place. A refresh that he started goes on
        # in the agent's own task.
        http = web.Server(self._serve, handler_cancellation=True)
        try:
            # Not create_unix_server: since Python 3.13 that removes the socket's file on closing, the manager's too.
            self._server = await asyncio.get_running_loop().create_server(
                lambda: protocol_type(self, http), sock=listener.sock
            )
        except BaseException:
            listener.close()
            raise
        self._listener, self._http = listener, http
        log.info("token_api_started", path=None if listener.path is None else str(listener.path))

    async def stop(self) -> None:
        """Stop listening, end requests in flight without an answer, remove the socket."""
        if self._server is None or self._listener is None or self._http is None:
            return
        self._server.close()
        self._listener.close()
        for connection in self._http.connections:
            connection.force_close()
        tasks = set(self._requests)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SOURCE_GRACE_S)
        self._server = self._listener = self._http = None

    async def answer(self, peer: Peer, method: str, target: str) -> Reply:
        """Answer one request; ``target`` is the request line's, as it came."""
        path, _, query_text = target.partition("?")
        if path != PATH:
            return refused(404, "unknown_path", f"the only path is {PATH}", f"use GET {PATH}")
        if method != "GET":
            return replace(refused(405, "method_not_allowed", "only GET is served"), headers={"Allow": "GET"})
        wait_s = self._rate.take(peer.uid, self._clock.now().boot_s)
        if wait_s:
            return _refusal(
                TokenRefused(
                    "busy",
                    f"uid {peer.uid} asks for more than {TOKENS_PER_S_MAX:.0f} tokens a second",
                    "keep the token until expires_at",
                    wait_s,
                )
            )
        query = parse_query(query_text)
        if isinstance(query, BadQuery):
            return _bad_request(query.detail)
        if query.force_refresh and peer.uid not in (self.policy.owner_uid, ROOT_UID):
            detail = (
                "only the agent's own user and root may force a refresh"  # others could spend the provider's patience
            )
            return refused(403, "denied", detail, "leave force_refresh out")
        decision = decide(self.policy, peer, query)
        if isinstance(decision, DeniedBecause):
            log.warning("token_denied", uid=peer.uid, pid=peer.pid, detail=decision.detail)
            return _denial(decision)
        if decision.per_minute is not None:
            a_minute = decision.per_minute
            rate = self._policy_rates.setdefault(a_minute, RateLimit(a_minute / 60, a_minute))
            if wait_s := rate.take(peer.uid, self._clock.now().boot_s):
                log.warning("token_denied", uid=peer.uid, pid=peer.pid, by=decision.by, detail="rate")
                detail = f"the policy gives uid {peer.uid} {a_minute} tokens a minute"
                return _refusal(TokenRefused("busy", detail, "keep the token until expires_at", wait_s))
        return await self._ask_source(peer, query, decision)

    async def _ask_source(self, peer: Peer, query: TokenQuery, decision: Allowed) -> Reply:
        try:
            async with asyncio.timeout(query.timeout_s + SOURCE_GRACE_S):
                answer = await self._source.get_token(query)
        except TimeoutError:
            answer = TokenRefused("offline", "the agent did not answer in time", "try again", 1.0)
        except RelayError as exc:
            log.error("token_source_failed", error_type=type(exc).__name__, detail=str(exc))
            return refused(500, "internal_error", str(exc), exc.hint)
        except Exception as exc:
            return internal_error(exc)
        if isinstance(answer, TokenRefused):
            return _refusal(answer)
        # Asked again with what the token carries, which a provider may have widened.
        wide = decide(self.policy, peer, replace(query, scope=answer.scope or query.scope))
        if isinstance(wide, DeniedBecause):
            log.warning("token_wider_than_policy", uid=peer.uid, pid=peer.pid, scope=answer.scope)
            return _denial(replace(wide, detail=f"the provider's token carries more scopes than asked; {wide.detail}"))
        log.info("token_given", uid=peer.uid, pid=peer.pid, by=decision.by, scope=answer.scope)
        return granted(answer)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        connection = request.protocol
        peer = connection.head_received()  # type: ignore[attr-defined]  # our subclass, see _protocol_type
        if tuple(request.version) not in ((1, 0), (1, 1)):  # the parser lets a line without a version through as 0.9
            reply = _bad_request("that is not an HTTP/1.1 request")
        elif request.can_read_body:
            reply = _bad_request("a request here has no body")
        else:
            reply = await self.answer(peer, request.method, request.raw_path)
        response = web.Response(status=reply.status, body=reply.octets(), headers=reply.all_headers())
        response.force_close()
        return response

    def admit(self, peer: Peer) -> Reply | None:
        """Count a new connection; a reply when there are too many, and then it is not counted."""
        mine = self._connections.get(peer.uid, 0)
        if mine >= CONNECTIONS_PER_UID_MAX:
            return _refusal(TokenRefused("busy", f"uid {peer.uid} has {mine} connections open", "close some"))
        if sum(self._connections.values()) >= CONNECTIONS_MAX:
            return _refusal(TokenRefused("busy", f"{CONNECTIONS_MAX} connections are open", "try again"))
        self._connections[peer.uid] = mine + 1
        return None

    def dismiss(self, peer: Peer) -> None:
        """Forget a connection that was counted."""
        left = self._connections[peer.uid] - 1
        if left:
            self._connections[peer.uid] = left
        else:
            del self._connections[peer.uid]

    @property
    def head_deadline_s(self) -> float:
        """How long a connection may take to send a whole request head, in seconds."""
        return self._head_deadline_s


def internal_error(exc: BaseException) -> Reply:
    """Log where it happened, not what was said: an exception's text may quote anything."""
    log.error("token_api_failed", error_type=type(exc).__name__, where=where(exc.__traceback__))
    return refused(500, "internal_error", "internal error, see the log")


def _protocol_type() -> Callable[[TokenApi, web.Server], asyncio.Protocol]:
    """Make the connection class; in a function because its base comes from aiohttp.

    Limit: a client that closes its sending half before the answer is taken for one that went away.
    """
    from aiohttp import web
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp.web_protocol import RequestHandler

    class Connection(RequestHandler):
        """One connection of one peer: admitted or not, then at most one request."""

        __slots__ = ("_api", "_deadline", "_head_bytes", "_is_admitted", "_peer", "_raw", "_tail")

        def __init__(self, api: TokenApi, http: web.Server) -> None:
            super().__init__(
                http,
                loop=asyncio.get_running_loop(),
                keepalive_timeout=0,
                tcp_keepalive=False,
                access_log=None,  # type: ignore[arg-type]  # None means "no log"; the annotation forgot it
                lingering_time=0,
                # Ours is the smaller limit, so that one too long line and many short ones meet the same answer.
                max_line_size=HEAD_BYTES_MAX,
                max_field_size=HEAD_BYTES_MAX,
            )
            self._api = api
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
            busy = self._api.admit(self._peer)
            if busy is not None:
                transport.write(busy.raw())
                transport.close()
                return
            self._is_admitted = True
            self._deadline = self._loop.call_later(self._api.head_deadline_s, self._head_is_late)
            super().connection_made(transport)

        def connection_lost(self, exc: BaseException | None) -> None:
            if self._is_admitted and self._peer is not None:
                self._cancel_deadline()
                self._api.dismiss(self._peer)
                super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._is_admitted:
                return
            self._head_bytes += len(data)
            if self._head_bytes <= HEAD_BYTES_MAX:
                # Here already: the deadline must not fall between parsing and the handler's first step.
                if b"\r\n\r\n" in self._tail + data:
                    self._cancel_deadline()
                self._tail = (self._tail + data)[-3:]
                super().data_received(data)
            elif self._deadline is None:
                self.force_close()  # the head is long here; nobody who speaks to us has that much to add
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
            """Answer garbage in our own words; the parser's would quote it."""
            self._cancel_deadline()
            if isinstance(exc, HttpProcessingError):
                reply = _bad_request("that is not an HTTP/1.1 request")
            else:
                reply = internal_error(exc or RuntimeError("unknown"))
            response = web.Response(status=reply.status, body=reply.octets(), headers=reply.all_headers())
            response.force_close()
            return response

        def _head_is_late(self) -> None:
            self._deadline = None
            self._end(refused(408, "bad_request", f"no whole request head within {self._api.head_deadline_s:g} s"))

        def _end(self, reply: Reply) -> None:
            self._cancel_deadline()
            if self._raw is not None and not self._raw.is_closing():
                self._raw.write(reply.raw())
            self.force_close()

        def _cancel_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Connection
