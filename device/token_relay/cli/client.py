"""The command line's end of both sockets, with the standard library only and without an event loop.

A shell calls ``token-relay companion token`` often and on slow hardware, so importing this costs a few milliseconds
and imports nothing else (a test checks that). Every failure is a :class:`ClientError` with the exit code of the
command line. A socket that this user may not open is never reported as an agent that does not run.

It trusts an agent's answer (the socket is under a path that only the agent's user can write), but limits its size.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, Union

from token_relay.host import paths
from token_relay.protocol.errors import RelayError

JSON: TypeAlias = Union[str, int, float, bool, list["JSON"], dict[str, "JSON"], None]  # noqa: UP007  # recursive
JsonObject: TypeAlias = dict[str, JSON]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_POLICY = 5

CONNECT_TIMEOUT_S = 5.0
TOKEN_GRACE_S = 10.0  # beyond the query's own timeout: the agent answers by itself within 5 s of it
LINE_BYTES_MAX = 4_194_304  # the longest line that an agent sends
TOKEN_BYTES_MAX = 262_144


class ClientError(RelayError):
    """A command failed: ``code`` is a slug for programs, ``exit_code`` for shells."""

    def __init__(self, code: str, message: str, *, hint: str = "", exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.exit_code = exit_code


def locate(
    kind: paths.Kind,
    environment: Mapping[str, str],
    *,
    name: str = paths.CONTROL_SOCKET,
    home: str | Path | None = None,
    socket_directory: str | Path | None = None,
) -> Path:
    """Return the path of the socket where the agent listens, best place first.

    A place counts only if a connection is accepted there, so a file that a killed agent left does not hide another.
    Waits for an agent that is starting, and says so on standard error.

    Raises:
        ClientError: ``not_running``, or ``no_access`` when a socket (or its directory) is there but closed to us.
    """
    directories = paths.search_directories(kind, environment, home=home, socket=socket_directory)
    refusal: ClientError | None = None
    for directory in directories:
        error = _refusal(directory / name)
        if error is not None and error.code == "not_running" and os.path.isdir(directory):  # noqa: PTH112  # no raise
            _wait_for_start(kind, directory, name)
            error = _refusal(directory / name)
        if error is None or error.code == "busy":
            return directory / name
        if error.code != "not_running":
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    looked = " or ".join(str(directory) for directory in directories)
    raise ClientError(
        "not_running",
        f"the {kind} agent is not running (looked in {looked})",
        hint=f"start it: token-relay {kind} run",
        exit_code=EXIT_NOT_RUNNING,
    )


def _refusal(path: Path) -> ClientError | None:
    """Return why nobody takes a connection there, None if somebody does."""
    try:
        connect(path).close()
    except ClientError as exc:
        return exc
    return None


def _wait_for_start(kind: paths.Kind, directory: Path, name: str) -> None:
    """Wait while an agent is starting there. Raises ClientError: it does not listen in time."""
    # Imported late: a running agent answers at once.
    from token_relay.cli import starting

    def is_absent() -> bool:
        error = _refusal(directory / name)
        return error is not None and error.code == "not_running"

    def say() -> None:
        sys.stderr.write(f"the {kind} agent is starting ...\n")  # line-buffered

    is_late = starting.wait(is_absent, lambda: starting.agent(kind, directory), say)
    if is_late:
        raise ClientError(
            "not_running",
            f"the {kind} agent in {directory} is starting, and does not listen after {starting.WAIT_S_MAX:g} s",
            hint=f"look at its log, or ask: token-relay {kind} doctor",
            exit_code=EXIT_NOT_RUNNING,
        )


def connect(path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
    """Connect to one of an agent's sockets.

    Raises:
        ClientError: ``not_running``, ``no_access``, ``busy`` or ``bad_path``.
    """
    length = len(os.fsencode(path))
    if length > paths.SOCKET_PATH_BYTES_MAX:
        raise ClientError(
            "bad_path",
            f"socket path has {length} bytes, the limit is {paths.SOCKET_PATH_BYTES_MAX}: {path}",
            hint="choose a shorter directory with --socket",
            exit_code=EXIT_USAGE,
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(os.fspath(path))
    except OSError as exc:
        sock.close()
        raise _connect_error(path, exc) from exc
    return sock


def _connect_error(path: Path, exc: OSError) -> ClientError:
    if exc.errno in (errno.EACCES, errno.EPERM):
        message, hint = _closed(path)
        return ClientError("no_access", message, hint=hint, exit_code=EXIT_POLICY)
    if exc.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        return ClientError("not_running", f"no agent listens at {path}", exit_code=EXIT_NOT_RUNNING)
    if exc.errno == errno.EAGAIN or isinstance(exc, TimeoutError):
        return ClientError("busy", f"the agent at {path} does not accept connections", hint="try again in 10 s")
    return ClientError("failed", f"cannot connect to {path}: {exc.strerror}")


def _closed(path: Path) -> tuple[str, str]:
    """Say to whom a socket that this user may not open belongs, and what to do."""
    if paths.SYSTEM_SOCKET_DIRECTORY in path.parents:
        return f"{path} is closed to this user: the agent runs as a service", "use sudo or join group token-relay"
    import pwd  # only here: the fast path has no error

    place, what = path, "the socket"
    while True:
        try:
            uid = place.stat().st_uid
            break
        except OSError:
            place, what = place.parent, "the directory"
    try:
        owner = pwd.getpwuid(uid).pw_name
    except KeyError:
        owner = f"uid {uid}"
    message = f"{what} {place} is closed to this user: it belongs to {owner}"
    if path.name == paths.TOKEN_SOCKET and place != path:
        return message, f"let {owner} start the agent with --socket DIR, a directory that this user may enter"
    return message, f"run the command as {owner}, or with sudo"


def _log_of(path: Path) -> str:
    """Say where the agent at this socket tells more."""
    if paths.SYSTEM_SOCKET_DIRECTORY in path.parents:
        return f"see its log: journalctl -u token-relay-{path.parent.name}"
    return "see its log, in the terminal or file where it was started"


# -- Control -----------------------------------------------------------------------------------------------


def control_call(
    socket_path: Path,
    command: str,
    args: JsonObject | None = None,
    *,
    on_progress: Callable[[JsonObject], None] | None = None,
    on_ask: Callable[[JsonObject], str | None] | None = None,
    silence_s: float | None = None,
) -> JsonObject:
    """Run one command in the agent and return its result.

    ``on_ask`` gets ``{"id", "kind", "text", …}`` and returns the answer, or None to decline; without it every ask is
    declined. ``silence_s`` is the longest wait for the next line, None for no limit. Leaving early (Ctrl-C) closes the
    connection; for the agent, the client is then gone.

    Raises:
        ClientError: the agent's own error, or ``not_running``, ``no_access``, ``agent_went_away``, ``bad_reply``.
    """
    with connect(socket_path) as sock:
        sock.settimeout(silence_s)
        _send(sock, {"v": 1, "command": command, "args": args or {}})
        with sock.makefile("rb") as lines:
            while True:
                line = _read_line(lines.readline, socket_path)
                match line:
                    case {"progress": dict(step)}:
                        if on_progress is not None:
                            on_progress(step)
                    case {"ask": dict(ask)}:
                        value = None if on_ask is None else on_ask(ask)
                        answer: JsonObject = {"id": ask.get("id")}
                        answer.update({"cancelled": True} if value is None else {"value": value})
                        _send(sock, {"answer": answer})
                    case {"result": dict(result)}:
                        return result
                    case {"error": dict(error)}:
                        raise _agent_error(error)
                    case _:
                        raise ClientError("bad_reply", "the agent's answer is not of this protocol")


def _send(sock: socket.socket, line: JsonObject) -> None:
    try:
        sock.sendall(json.dumps(line).encode() + b"\n")
    except OSError:
        pass  # it hung up on us; its reason, if any, is still to be read


def _read_line(readline: Callable[[int], bytes], path: Path) -> JSON:
    try:
        raw = readline(LINE_BYTES_MAX + 1)
    except TimeoutError as exc:
        raise ClientError("no_answer", "the agent does not answer", hint=_log_of(path)) from exc
    except OSError:
        raw = b""
    if not raw.endswith(b"\n"):
        if len(raw) > LINE_BYTES_MAX:
            raise ClientError("bad_reply", f"the agent's answer is longer than {LINE_BYTES_MAX} bytes")
        raise ClientError(
            "agent_went_away",
            "the agent closed the connection without an answer; what it did is unknown",
            hint=_log_of(path),
        )
    return _parse(raw)


def _parse(raw: bytes) -> JSON:
    try:
        value: JSON = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise ClientError("bad_reply", "the agent's answer is not JSON") from exc
    return value


def _agent_error(error: JsonObject) -> ClientError:
    exit_code = error.get("exit")
    return ClientError(
        str(error.get("code", "failed")),
        str(error.get("message", "the agent gave no reason")),
        hint=str(error.get("hint", "")),
        exit_code=exit_code if isinstance(exit_code, int) and 1 <= exit_code <= 125 else EXIT_FAILED,
    )


# -- Token -------------------------------------------------------------------------------------------------


def get_token(
    socket_path: Path, query: Mapping[str, str], *, timeout_s: float = TOKEN_GRACE_S
) -> tuple[int, JsonObject]:
    """Ask the token API; return the HTTP status and the body. ``timeout_s`` should exceed the query's own.

    Raises:
        ClientError: no answer at all; a refusal is an answer.
    """
    import urllib.parse

    target = "/v1/token"
    if query:
        target += "?" + urllib.parse.urlencode(dict(query))
    return _ask_token_api(socket_path, "GET", target, None, timeout_s)


def get_session_transfer(
    socket_path: Path, wish: JsonObject, *, timeout_s: float = TOKEN_GRACE_S
) -> tuple[int, JsonObject]:
    """Ask for a session transfer token, in the same way as :func:`get_token`."""
    return _ask_token_api(socket_path, "POST", "/v1/session-transfer", json.dumps(wish).encode(), timeout_s)


def _ask_token_api(
    socket_path: Path, method: str, target: str, sent: bytes | None, timeout_s: float
) -> tuple[int, JsonObject]:
    # Imported late: http.client imports the e-mail package, at twice the cost of everything else here.
    import http.client

    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    with connect(socket_path) as sock:
        sock.settimeout(timeout_s)
        connection.sock = sock
        headers = {"Accept": "application/json"}
        if sent is not None:
            headers["Content-Type"] = "application/json"
        try:
            try:
                connection.request(method, target, body=sent, headers=headers)
            except OSError:
                pass  # it hung up on us; its reason, if any, is still to be read
            with connection.getresponse() as response:
                raw = response.read(TOKEN_BYTES_MAX + 1)
                is_cut = len(raw) <= TOKEN_BYTES_MAX and bool(response.length)  # length: what is still to come
        except TimeoutError as exc:
            raise ClientError("no_answer", "the agent does not answer", hint=_log_of(socket_path)) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise ClientError(
                "agent_went_away", "the agent closed the connection without an answer", hint=_log_of(socket_path)
            ) from exc
    if is_cut:
        raise ClientError("agent_went_away", "the agent closed the connection in the middle of its answer")
    if len(raw) > TOKEN_BYTES_MAX:
        raise ClientError("bad_reply", f"the agent's answer is longer than {TOKEN_BYTES_MAX} bytes")
    body = _parse(raw)
    if not isinstance(body, dict):
        raise ClientError("bad_reply", "the agent's answer is not a JSON object")
    return response.status, body
