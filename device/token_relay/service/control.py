"""The control socket: how the command line speaks to a running agent.

One request per connection, newline-delimited JSON over a Unix stream socket (mode 0600, agent's user and root only).
The client says ``{"v":1,"command":"status","args":{}}``; the agent answers any number of ``{"progress":{}}`` and
``{"ask":{"id":1,"kind":"password","text":"…"}}`` lines and one last ``{"result":{}}`` or ``{"error":{"code","message",
"hint","exit"}}``. An ask is answered by ``{"answer":{"id":1,"value":"…"}}`` or by
``{"answer":{"id":1,"cancelled":true}}``.

Invariants:

* *the last line comes once*, and then the connection is closed; a client without a last line does not know the outcome.
* *a client that went away is noticed at once*: asks come back empty, and the command is cancelled unless it is one
  of those that go on by themselves.
* *answers are secrets until a handler says otherwise*: no answer, no argument and no foreign exception text is logged.

The handlers decide what a command does; this module refuses to know any command.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from token_relay.agents.failures import where
from token_relay.agents.token_source import Peer
from token_relay.apps.policy import ROOT_UID
from token_relay.host.paths import Kind
from token_relay.host.systemd import UnixListener, open_listener, peer_of
from token_relay.protocol.errors import (
    ConfigError,
    PeerError,
    PersonNeededError,
    PolicyError,
    RelayError,
    TransientError,
    VaultError,
)

log = structlog.get_logger(__name__)

JSON = JsonValue
AskKind = Literal[
    "password",
    "new_password",
    "code",
    "choice",
    "contact",
    "attribute",
    "browser",
    "confirm",
    "invitation",
    "device_name",
    "refresh_token",
]

SOCKET_MODE = 0o600
CONNECTIONS_MAX = 32
LINE_BYTES_MAX = 65_536  # what a client may send in one line
REPLY_BYTES_MAX = 4_194_304  # what an agent may answer in one line: a thousand audit rows fit
REQUEST_DEADLINE_S = 10.0  # from connecting to the end of the request line
SEND_DEADLINE_S = 10.0  # a client that does not read for so long counts as gone
ASK_DEADLINE_S = 600.0  # a person fetches a code from a mailbox within ten minutes, or starts again
ASKS_MAX = 64  # per command; a sign-up asks for attributes one by one

EXIT_FAILED, EXIT_USAGE, EXIT_PERSON, EXIT_POLICY = 1, 2, 4, 5


class Exchange(Protocol):
    """A running command's view of its client."""

    @property
    def is_attended(self) -> bool:
        """Whether the client is still there."""
        ...

    async def progress(self, step: dict[str, JSON]) -> None:
        """Tell the client the progress; without effect when the client is gone."""
        ...

    async def ask(self, kind: AskKind, text: str, **extra: JSON) -> str | None:
        """Ask the person; None when the client is gone, the person declined, or ten minutes passed.

        The answer to ``password``, ``new_password`` and ``code`` is a secret: wrap it at once
        (:mod:`token_relay.protocol.secret`).
        """
        ...


Handler = Callable[[dict[str, JSON], Exchange], Awaitable[dict[str, JSON]]]


# -- Lines -------------------------------------------------------------------------------------------------

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Request(BaseModel):
    model_config = _STRICT

    v: Annotated[int, Field(ge=1, le=1)]  # not Literal[1], which takes true and 1.0 as well
    command: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    args: dict[str, JsonValue] = {}


class _Answer(BaseModel):
    model_config = _STRICT

    id: int
    value: Annotated[str, Field(max_length=16_384)] | None = Field(default=None, repr=False)
    cancelled: bool | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> _Answer:
        if (self.value is None) == (self.cancelled is None) or self.cancelled is False:
            raise ValueError("give value, or cancelled: true")
        return self


class _AnswerLine(BaseModel):
    model_config = _STRICT

    answer: _Answer


class _BadLineError(Exception):
    """The client broke the protocol; the text may be sent back."""


def _parse_object(line: bytes) -> dict[str, object]:
    """Read one JSON object; duplicate keys, NaN and absurd nesting are refused."""
    try:
        value = json.loads(line.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # "from None": the decoder's error holds the whole line, which may be a password.
        raise _BadLineError("that is not one line of JSON") from None
    if not isinstance(value, dict):
        raise _BadLineError("that is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _complaint(exc: ValidationError) -> str:
    first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:64] for part in first["loc"]) or "line"
    return f"{place}: {first['msg'].lower()}"


def _encode(line: dict[str, JSON]) -> bytes:
    # ASCII: UTF-8 cannot encode a lone surrogate, and a result may quote an argument that has one.
    raw = json.dumps(line, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    if len(raw) > REPLY_BYTES_MAX:
        raise ValueError(f"reply is longer than {REPLY_BYTES_MAX} bytes")
    return raw


def error_line(exc: RelayError) -> dict[str, JSON]:
    """Map an error to the last line; ``exit`` is the exit code of the command line."""
    code, exit_code = "failed", EXIT_FAILED
    match exc:
        case PolicyError():
            code, exit_code = "refused_by_policy", EXIT_POLICY
        case PersonNeededError():
            code, exit_code = "person_needed", EXIT_PERSON
        case ConfigError():
            code, exit_code = "wrong_usage", EXIT_USAGE
        case PeerError():
            code = exc.reason
        case TransientError():
            code = "try_later"
        case VaultError():
            code = "vault"
        case _:
            pass
    return _error(code, str(exc), hint=exc.hint, exit_code=exit_code)


def _error(code: str, message: str, *, hint: str = "", exit_code: int = EXIT_FAILED) -> dict[str, JSON]:
    return {"error": {"code": code, "message": message, "hint": hint, "exit": exit_code}}


# -- One connection ----------------------------------------------------------------------------------------


class _Session:
    """One client connection and its single command; an :class:`Exchange` for the handler."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        self._reader = reader
        self._writer = writer
        self._peer = peer
        self._is_attended = True
        self._asked = 0
        self._open_asks: dict[int, asyncio.Future[str | None]] = {}
        self._late_asks: set[int] = set()  # we stopped waiting for these; one late answer each is allowed

    @property
    def is_attended(self) -> bool:
        return self._is_attended

    async def progress(self, step: dict[str, JSON]) -> None:
        await self.send({"progress": step})

    async def ask(self, kind: AskKind, text: str, **extra: JSON) -> str | None:
        if self._asked >= ASKS_MAX:
            raise RuntimeError(f"a command asked more than {ASKS_MAX} times")
        if not self._is_attended:
            return None
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._open_asks[number] = answer
        try:
            await self.send({"ask": {**extra, "id": number, "kind": kind, "text": text}})
            async with asyncio.timeout(ASK_DEADLINE_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            if self._open_asks.pop(number, None) is not None:
                self._late_asks.add(number)

    async def send(self, line: dict[str, JSON]) -> None:
        """Write one line; a client that cannot be written to has gone away.

        Raises:
            ValueError, TypeError: the line is not JSON or too long, a handler's bug.
        """
        await self.send_raw(_encode(line))

    async def send_raw(self, raw: bytes) -> None:
        """Write one encoded line."""
        if not self._is_attended:
            return
        try:
            self._writer.write(raw)
            async with asyncio.timeout(SEND_DEADLINE_S):
                await self._writer.drain()
        except (OSError, TimeoutError):
            self._leave()
            self._writer.transport.abort()  # ends the listener too, and with it the command

    async def read_request(self) -> _Request | None:
        """Return the request, or None when the client left without one."""
        try:
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                line = await self._read_line()
        except TimeoutError:
            raise _BadLineError(f"no request within {REQUEST_DEADLINE_S:g} s") from None
        if line is None:
            return None
        try:
            return _Request.model_validate(_parse_object(line))
        except ValidationError as exc:
            raise _BadLineError(_complaint(exc)) from None

    async def run(self, handler: Handler, request: _Request, *, goes_on: bool) -> None:
        """Run the command beside the listener for the client's lines, and send the last line."""
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(self._work(handler, request))
            listen = tasks.create_task(self._listen())
            await asyncio.wait({work, listen}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                # Sent before the handler learns of it: the client is told its mistake as the last line.
                if complaint := listen.result():
                    await self.send(_error("bad_request", complaint, exit_code=EXIT_USAGE))
                self._leave()
                log.info("control_client_left", command=request.command, goes_on=goes_on)
                if not goes_on:
                    work.cancel()
                await asyncio.wait({work})
            listen.cancel()
        if not work.cancelled():
            await self.send_raw(work.result())

    async def _work(self, handler: Handler, request: _Request) -> bytes:
        """Return the encoded last line. A result that is not JSON (a Secret, a datetime) is a bug, reported here."""
        try:
            return _encode({"result": await handler(request.args, self)})
        except RelayError as exc:
            return _encode(error_line(exc))
        except Exception as exc:
            log.error(
                "control_command_failed",
                command=request.command,
                error_type=type(exc).__name__,
                where=where(exc.__traceback__),
            )
            return _encode(_error("internal_error", "internal error, see the log"))

    async def _listen(self) -> str:
        """Take answers until the client leaves; return what the client did wrong, or an empty string."""
        try:
            while (line := await self._read_line()) is not None:
                self._take_answer(line)
        except _BadLineError as exc:
            return str(exc)
        return ""

    async def _read_line(self) -> bytes | None:
        """Return the next line; None at the end, which drops an incomplete last line."""
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise _BadLineError(f"a line is longer than {LINE_BYTES_MAX} bytes") from None
        except (asyncio.IncompleteReadError, OSError):
            return None

    def _take_answer(self, line: bytes) -> None:
        try:
            answer = _AnswerLine.model_validate(_parse_object(line)).answer
        except ValidationError as exc:
            raise _BadLineError(_complaint(exc)) from None
        waiting = self._open_asks.pop(answer.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.value)
        elif answer.id in self._late_asks:
            self._late_asks.discard(answer.id)
        else:
            raise _BadLineError("answer.id: nothing was asked under this number")

    def _leave(self) -> None:
        self._is_attended = False
        for answer in self._open_asks.values():
            if not answer.done():
                answer.set_result(None)


# -- Server ------------------------------------------------------------------------------------------------


class ControlServer:
    """Serves an agent's commands. ``goes_on`` names those that run to their end without their client."""

    def __init__(
        self, handlers: Mapping[str, Handler], *, owner_uid: int, kind: Kind, goes_on: Collection[str] = ()
    ) -> None:
        unknown = set(goes_on) - set(handlers)
        assert not unknown, f"no handler for {sorted(unknown)}"
        self._handlers = dict(handlers)
        self._goes_on = frozenset(goes_on)
        self._kind = kind
        self._owner_uid = owner_uid
        self._sessions: set[asyncio.Task[object]] = set()
        self._listener: UnixListener | None = None
        self._server: asyncio.Server | None = None

    async def start(self, at: Path | int) -> None:
        """Listen at a path (mode 0600) or on a passed descriptor.

        Raises:
            ConfigError: another agent listens there, or the place is not usable.
        """
        listener = open_listener(at, mode=SOCKET_MODE)
        try:
            # Not start_unix_server: since Python 3.13 that removes the socket's file on closing, the manager's too.
            self._server = await asyncio.start_server(self._connected, sock=listener.sock, limit=LINE_BYTES_MAX)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        log.info("control_started", path=None if listener.path is None else str(listener.path))

    async def drain(self, timeout_s: float) -> None:
        """Wait at most ``timeout_s`` until the running commands have been answered."""
        if self._sessions:
            await asyncio.wait(set(self._sessions), timeout=timeout_s)

    async def stop(self) -> None:
        """Stop listening, cancel the running commands, wait for their end, remove the socket. Not for handlers."""
        if self._server is None or self._listener is None:
            return
        await self._listener.stop(self._server)
        sessions = set(self._sessions)
        for session in sessions:
            session.cancel()
        if sessions:
            await asyncio.wait(sessions)
        self._server = self._listener = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        try:
            await self._converse(reader, writer)
        except asyncio.CancelledError:
            # Only stop() cancels a session, and waits for it; asyncio's streams would log a cancelled one as an error.
            log.info("control_session_stopped")
        finally:
            self._sessions.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        session = _Session(reader, writer, peer)
        if peer.uid not in (self._owner_uid, ROOT_UID):
            log.warning("control_refused", uid=peer.uid, pid=peer.pid)
            await session.send(
                _error(
                    "refused_by_policy",
                    f"uid {peer.uid} may not control this agent",
                    hint=f"run this as uid {self._owner_uid} or with sudo",
                    exit_code=EXIT_POLICY,
                )
            )
            return
        if len(self._sessions) > CONNECTIONS_MAX:
            await session.send(_error("busy", f"{CONNECTIONS_MAX} commands are running", hint="try again in 10 s"))
            return
        try:
            request = await session.read_request()
        except _BadLineError as exc:
            await session.send(_error("bad_request", str(exc), exit_code=EXIT_USAGE))
            return
        if request is None:
            return
        handler = self._handlers.get(request.command)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            message = f"this {self._kind}'s agent has no command {request.command!r}, only {known}"
            hint = f"token-relay {self._kind} --help"
            await session.send(_error("unknown_command", message, hint=hint, exit_code=EXIT_USAGE))
            return
        log.debug("control_command_started", command=request.command, uid=peer.uid, pid=peer.pid)
        await session.run(handler, request, goes_on=request.command in self._goes_on)
