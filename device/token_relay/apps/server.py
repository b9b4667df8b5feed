"""What apps on the device may ask: an access token or a session transfer token, over HTTP/1.1 on a Unix socket.

``GET /v1/token?scope=&account=&issuer=&phone=&audience=&min_valid_s=&timeout_s=&force_refresh=&claims=`` and ``POST
/v1/session-transfer``, whose body is :mod:`token_relay.apps.session_transfer`'s. The kernel says who the peer is, the
policy decides by that, the agent answers. This module knows HTTP, limits and error texts; no refresh token ever gets
here.

Invariants:

* *one request per connection*: the connection is closed after the answer, so its limits are the request's limits.
* *every limit is per connection or per uid*: head bytes, time until the head is whole, connections, tokens per
  second. A program that exceeds one affects only itself, except for the 64 connections that all callers share.
* *the policy sees the token too*: a provider may grant more scopes than were asked for (RFC 6749 §3.3), so the policy
  decides again with the scopes that the token has.
* *nothing is cached*: every answer says ``Cache-Control: no-store`` (RFC 6749 §5.1).

aiohttp is imported by :meth:`TokenApi.start`, since the command line reads this module for its constants.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.agents.failures import where
from token_relay.agents.ports import Clock
from token_relay.agents.token_source import (
    MIN_VALID_S_DEFAULT,
    TIMEOUT_S_DEFAULT,
    NamedPhone,
    Peer,
    PhoneFinder,
    RefusalCode,
    TokenQuery,
    TokenRefused,
    TokenSource,
    TransferQuery,
    TransferSource,
)
from token_relay.apps.policy import ROOT_UID, Allowed, DeniedBecause, Policy, decide
from token_relay.apps.rate_limit import TOKENS_PER_S_MAX, RateLimit
from token_relay.apps.replies import Reply, granted, refused
from token_relay.apps.session_transfer import BODY_BYTES_MAX, HOW, parse_body, transferred
from token_relay.apps.session_transfer import PATH as TRANSFER_PATH
from token_relay.host.paths import with_path
from token_relay.host.systemd import UnixListener, open_listener
from token_relay.protocol.errors import RelayError
from token_relay.provider.claims import CLAIMS_CHARS_MAX, read_claims

if TYPE_CHECKING:
    from aiohttp import web

log = structlog.get_logger(__name__)

PATH = "/v1/token"
SOCKET_MODE = 0o660

CONNECTIONS_MAX = 64
CONNECTIONS_PER_UID_MAX = 8
HEAD_DEADLINE_S = 2.0  # a local program has no reason to be slower; slowloris has
MIN_VALID_S_MAX = 86_400.0
TIMEOUT_S_MAX = 60.0
SOURCE_GRACE_S = 5.0  # how much longer than timeout_s the agent may take before this server answers instead

NO_PHONES = TokenRefused("not_found", "no phone can be named here", "leave the phone out")
STATUS: dict[RefusalCode, int] = {
    "reauth_required": 401,
    "locked": 423,
    "denied": 403,
    "offline": 503,
    "not_found": 404,
    "ambiguous": 409,
    "refused": 403,
    "busy": 429,
    "transfer_refused": 502,
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
    claims: Annotated[str, Field(max_length=CLAIMS_CHARS_MAX)] = ""
    issuer: _Name = ""
    phone: _Name = ""


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
    claims = read_claims(model.claims) if model.claims else ""
    if claims is None:
        return BadQuery("'claims': must be a claims challenge, as JSON or base64, with access_token alone")
    return TokenQuery(
        model.scope,
        model.account,
        model.audience,
        model.min_valid_s,
        model.timeout_s,
        model.force_refresh in ("true", "1"),
        claims,
        model.issuer,
        model.phone,
    )


def _refusal(answer: TokenRefused) -> Reply:
    retry_after_s = 1.0 if answer.error == "busy" and answer.retry_after_s is None else answer.retry_after_s
    return refused(
        STATUS[answer.error], answer.error, answer.detail, answer.action, retry_after_s, grants=answer.grants
    )


def _bad_request(detail: str) -> Reply:
    return refused(400, "bad_request", detail, f"use GET {PATH} with any of: {', '.join(PARAMETERS)}")


# -- Server ------------------------------------------------------------------------------------------------


class TokenApi:
    """Serves one agent's tokens on one socket. ``policy`` may be replaced while it runs (a reload).

    Without ``transfers`` there is no session transfer here, without ``phones`` none can be named. ``config_file`` is
    what people are told to edit.
    """

    def __init__(
        self,
        source: TokenSource,
        policy: Policy,
        *,
        clock: Clock,
        transfers: TransferSource | None = None,
        phones: PhoneFinder | None = None,
        head_deadline_s: float = HEAD_DEADLINE_S,
        config_file: Path | None = None,
    ) -> None:
        self.policy = policy
        self._source = source
        self._transfers = transfers
        self._phones = phones
        self._clock = clock
        self._head_deadline_s = head_deadline_s
        self._config_file = config_file
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
            ConfigError: another process listens there, or the place is not usable.
        """
        from aiohttp import web

        from token_relay.apps.connection import TokenConnection

        listener = open_listener(at, mode=SOCKET_MODE, gid=gid)
        # Cancelled with its client: a caller that went away must not keep a connection. A refresh that it started
        # goes on in the agent's own task.
        http = web.Server(self._serve, handler_cancellation=True)
        try:
            # Not create_unix_server: since Python 3.13 that removes the socket's file on closing, the manager's too.
            self._server = await asyncio.get_running_loop().create_server(
                lambda: TokenConnection(self, http), sock=listener.sock
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
        await self._listener.stop(self._server)
        for connection in self._http.connections:
            connection.force_close()
        tasks = set(self._requests)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SOURCE_GRACE_S)
        self._server = self._listener = self._http = None

    async def answer(self, peer: Peer, method: str, target: str, body: bytes = b"") -> Reply:
        """Answer one request; ``target`` is the request line's, as it came."""
        path, mark, query_text = target.partition("?")
        transfers = self._transfers if path == TRANSFER_PATH else None
        if path != PATH and transfers is None:
            return refused(404, "unknown_path", f"{path[:64]!r} is not served here", f"use GET {PATH}")
        served = "GET" if transfers is None else "POST"
        if method != served:
            return replace(
                refused(405, "method_not_allowed", f"only {served} is served here"), headers={"Allow": served}
            )
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
        if transfers is not None:
            return await self._transfer(transfers, peer, body if not mark else b"")
        if body:
            return _bad_request("a request here has no body")
        query = parse_query(query_text)
        if isinstance(query, BadQuery):
            return _bad_request(query.detail)
        if query.force_refresh and peer.uid not in (self.policy.owner_uid, ROOT_UID):
            detail = (
                "only the agent's own user and root may force a refresh"  # others could use up the provider's limit
            )
            return refused(403, "denied", detail, "leave force_refresh out")
        decision = await self._decide(peer, query)
        if isinstance(decision, TokenRefused):
            return _refusal(decision)
        if isinstance(decision, DeniedBecause):
            log.warning("token_denied", uid=peer.uid, pid=peer.pid, detail=decision.detail)
            return self._denial(decision)
        if decision.per_minute is not None:
            a_minute = decision.per_minute
            rate = self._policy_rates.setdefault(a_minute, RateLimit(a_minute / 60, a_minute))
            if wait_s := rate.take(peer.uid, self._clock.now().boot_s):
                log.warning("token_denied", uid=peer.uid, pid=peer.pid, by=decision.by, detail="rate")
                detail = f"the policy gives uid {peer.uid} {a_minute} tokens a minute"
                return _refusal(TokenRefused("busy", detail, "keep the token until expires_at", wait_s))
        return await self._ask_source(peer, replace(query, phones=decision.phones), decision)

    async def _decide(self, peer: Peer, query: TokenQuery | TransferQuery) -> Allowed | DeniedBecause | TokenRefused:
        """Ask the policy, of the phone that the query names. Nobody learns of phones without a right to any token."""
        phone: NamedPhone | TokenRefused | None = None
        if query.phone:
            phone = NO_PHONES if self._phones is None else await self._phones.find_phone(query.phone)
        if not isinstance(phone, TokenRefused):
            return decide(self.policy, peer, query, phone)
        without = decide(self.policy, peer, query)
        return without if isinstance(without, DeniedBecause) else phone

    async def _transfer(self, transfers: TransferSource, peer: Peer, body: bytes) -> Reply:
        query = parse_body(body)
        if isinstance(query, str):
            return refused(400, "bad_request", query, HOW)
        decision = await self._decide(peer, query)
        if isinstance(decision, TokenRefused):
            return _refusal(decision)
        if isinstance(decision, DeniedBecause):
            log.warning("session_transfer_denied", uid=peer.uid, pid=peer.pid, detail=decision.detail)
            return self._denial(decision)
        try:
            async with asyncio.timeout(query.timeout_s + SOURCE_GRACE_S):
                answer = await transfers.get_session_transfer(replace(query, phones=decision.phones))
        except TimeoutError:
            answer = TokenRefused("offline", "the agent did not answer in time", "ask again in 1 s", 1.0)
        except Exception as exc:
            return self.failed(exc)
        if isinstance(answer, TokenRefused):
            return _refusal(replace(answer, action=with_path(answer.action, self._config_file)))
        log.info("session_transfer_given", uid=peer.uid, pid=peer.pid, by=decision.by)
        return Reply(200, transferred(answer))

    async def _ask_source(self, peer: Peer, query: TokenQuery, decision: Allowed) -> Reply:
        try:
            async with asyncio.timeout(query.timeout_s + SOURCE_GRACE_S):
                answer = await self._source.get_token(query)
        except TimeoutError:
            answer = TokenRefused("offline", "the agent did not answer in time", "ask again in 1 s", 1.0)
        except RelayError as exc:
            log.error("token_source_failed", error_type=type(exc).__name__, detail=str(exc))
            return refused(500, "internal_error", str(exc), exc.hint)
        except Exception as exc:
            return self.failed(exc)
        if isinstance(answer, TokenRefused):
            return _refusal(replace(answer, action=with_path(answer.action, self._config_file)))
        # Decided again with the token's own phone and scopes, which a provider may have widened.
        wide = decide(self.policy, peer, replace(query, scope=answer.scope or query.scope), answer.phone)
        if isinstance(wide, DeniedBecause):
            log.warning("token_wider_than_policy", uid=peer.uid, pid=peer.pid, scope=answer.scope)
            return self._denial(
                replace(wide, detail=f"the provider's token carries more scopes than asked; {wide.detail}")
            )
        log.info("token_given", uid=peer.uid, pid=peer.pid, by=decision.by, scope=answer.scope)
        return granted(answer)

    def _denial(self, because: DeniedBecause) -> Reply:
        where_to = f"add this to {self.policy.file}"
        if not self.policy.file:
            where_to = "put this in a file, name it as policy_file under [token_api] in config.toml,"
        action = f"to allow it, {where_to} and reload the agent:\n{because.line_to_add}" if because.line_to_add else ""
        return refused(STATUS["denied"], "denied", because.detail, with_path(action, self._config_file))

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        from token_relay.apps.connection import TokenConnection, response_of

        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        connection = request.protocol
        assert isinstance(connection, TokenConnection)
        peer = connection.head_received()
        if tuple(request.version) not in ((1, 0), (1, 1)):  # the parser lets a line without a version through as 0.9
            reply = self.malformed()
        elif not request.can_read_body:
            reply = await self.answer(peer, request.method, request.raw_path)
        elif request.method != "POST":
            reply = _bad_request("a request here has no body")
        elif (body := await self._read_body(request)) is None:
            reply = _bad_request(f"no whole body of at most {BODY_BYTES_MAX} bytes within {self._head_deadline_s:g} s")
        else:
            reply = await self.answer(peer, request.method, request.raw_path, body)
        return response_of(reply)

    async def _read_body(self, request: web.BaseRequest) -> bytes | None:
        """Return the body, None when it is too long, cut short or late."""
        body = b""
        try:
            async with asyncio.timeout(self._head_deadline_s):
                while len(body) <= BODY_BYTES_MAX and (chunk := await request.content.readany()):
                    body += chunk
        except (TimeoutError, ValueError, OSError):
            return None
        return body if len(body) <= BODY_BYTES_MAX else None

    def admit(self, peer: Peer) -> Reply | None:
        """Count a new connection; when there are too many, return a reply and do not count it."""
        mine = self._connections.get(peer.uid, 0)
        if mine >= CONNECTIONS_PER_UID_MAX:
            return _refusal(TokenRefused("busy", f"uid {peer.uid} has {mine} connections open", "close some"))
        if sum(self._connections.values()) >= CONNECTIONS_MAX:
            return _refusal(TokenRefused("busy", f"{CONNECTIONS_MAX} connections are open", "ask again in 1 s"))
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

    def malformed(self) -> Reply:
        """Say that this was no HTTP request."""
        return _bad_request("that is not an HTTP/1.1 request")

    def failed(self, exc: BaseException) -> Reply:
        """Log where it happened, without the exception's text: that may quote anything."""
        log.error("token_api_failed", error_type=type(exc).__name__, where=where(exc.__traceback__))
        return refused(500, "internal_error", "internal error, see the log")
