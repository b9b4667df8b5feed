"""The command line's end: what it costs to import, where it looks, and what it says when no agent answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sockets.sockets_kit import TOKEN, Source, StillClock, as_uid, running
from tests.watchdog import HANG_S
from token_relay.agents.token_source import TokenRefused
from token_relay.apps.policy import Policy
from token_relay.apps.server import TokenApi
from token_relay.cli.client import ClientError, connect, get_token, locate
from token_relay.host import paths
from token_relay.host.systemd import bind_listener


@pytest.mark.parametrize("module", ["token_relay.cli.client", "token_relay.host.paths"])
def test_client_imports_nothing_heavy(module: str) -> None:
    heavy = ("pydantic", "aiohttp", "structlog", "nacl", "asyncio", "cryptography", "http.client", "dataclasses")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.strip() == "[]"


def test_token_api_imports_no_aiohttp_before_it_starts() -> None:
    code = "import sys, token_relay.apps.server; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.strip() == "False"


# -- locate ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = bind_listener(path, mode=0o600)
    try:
        yield
    finally:
        listener.close()


@pytest.fixture
def system(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for /run/token-relay."""
    monkeypatch.setattr(paths, "SYSTEM_SOCKET_DIRECTORY", place / "run")
    return place / "run"


def test_agent_at_home_comes_before_the_service(place: Path, system: Path) -> None:
    environment = {"XDG_STATE_HOME": str(place)}
    home_socket, service_socket = place / "token-relay/phone/control.sock", system / "phone/control.sock"
    with listening(service_socket):
        assert locate("phone", environment) == service_socket
        with listening(home_socket):
            assert locate("phone", environment) == home_socket


def test_file_that_a_killed_agent_left_hides_nothing(place: Path, system: Path) -> None:
    home = place / "token-relay/phone"
    home.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home / "control.sock"))
    with listening(system / "phone/control.sock"):
        assert locate("phone", {"XDG_STATE_HOME": str(place)}) == system / "phone/control.sock"


def test_named_home_never_reaches_the_service(place: Path, system: Path) -> None:
    with listening(system / "phone/control.sock"), pytest.raises(ClientError) as caught:
        locate("phone", {"HOME": str(place)}, home=place / "mine")
    assert (caught.value.code, caught.value.exit_code) == ("not_running", 3)


def test_nobody_there_is_not_running_and_says_where_it_looked(place: Path, system: Path) -> None:
    with pytest.raises(ClientError) as caught:
        locate("companion", {"HOME": str(place)}, name=paths.TOKEN_SOCKET)
    assert (caught.value.code, caught.value.exit_code) == ("not_running", 3)
    assert str(system / "companion") in str(caught.value)
    assert caught.value.hint == "start it: token-relay companion run"


@pytest.mark.asyncio
@pytest.mark.parametrize("directory_mode", [0o700, 0o755])
async def test_closed_socket_of_a_service_is_never_called_not_running(
    place: Path, system: Path, other_uid: int, directory_mode: int
) -> None:
    with listening(system / "phone/control.sock"):
        system.chmod(0o755)
        (system / "phone").chmod(directory_mode)

        def look() -> bytes:
            try:
                locate("phone", {"HOME": "/nonexistent"})
            except ClientError as exc:
                return f"{exc.code}|{exc.exit_code}|{exc.hint}".encode()
            return b"found"

        found = await as_uid(other_uid, look)
    assert found == b"no_access|5|use sudo or join group token-relay"


def test_long_socket_path_is_wrong_usage() -> None:
    with pytest.raises(ClientError) as caught:
        locate("phone", {}, socket_directory="/" + "a" * 100)
    assert (caught.value.code, caught.value.exit_code) == ("bad_path", 2)
    assert "114 bytes, the limit is 107" in str(caught.value)


def test_full_queue_is_busy_and_not_absent(place: Path) -> None:
    path = place / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        stack.enter_context(connect(path))
        with pytest.raises(ClientError) as caught:
            connect(path, timeout_s=0.05)
        assert (caught.value.code, caught.value.exit_code) == ("busy", 1)


# -- get_token ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_token_and_refusal_come_back_with_their_status(place: Path) -> None:
    source = Source()
    path = place / "token.sock"
    async with running(TokenApi(source, Policy(os.geteuid()), clock=StillClock()), path):
        status, body = await asyncio.to_thread(get_token, path, {"scope": "a b", "account": "ann@example.com"})
        assert (status, body["access_token"]) == (200, TOKEN)
        query = source.queries[0]
        assert (query.scope, query.account) == ("a b", "ann@example.com")  # type: ignore[attr-defined]  # Marks hold any
        source.answer = TokenRefused("locked", "the lease ended", "bring the phone", None)
        status, body = await asyncio.to_thread(get_token, path, {})
        assert (status, body["error"], body["action"]) == (423, "locked", "bring the phone")
        status, body = await asyncio.to_thread(get_token, path, {"what": "x"})
        assert (status, body["error"]) == (400, "bad_request")


@pytest.mark.asyncio
async def test_busy_answer_is_read_although_the_agent_hung_up_first(place: Path) -> None:
    source = Source(gate=asyncio.Event())
    path = place / "token.sock"
    async with running(TokenApi(source, Policy(os.geteuid()), clock=StillClock()), path):
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                stack.enter_context(connect(path)).sendall(b"GET /v1/token HTTP/1.1\r\nHost: x\r\n\r\n")
            await source.queries.until(lambda seen: len(seen) == 8)
            status, body = await asyncio.to_thread(get_token, path, {})
    assert (status, body["error"]) == (429, "busy")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"", "agent_went_away"),
        (b"hello\r\n\r\n", "agent_went_away"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", "agent_went_away"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "bad_reply"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "bad_reply"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 262_145, "bad_reply"),
    ],
)
def test_bad_reply_is_a_clear_error(place: Path, reply: bytes, code: str) -> None:
    path = place / "token.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(ConnectionError):
                sock.recv(65_536)
                sock.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ClientError) as caught:
            get_token(path, {}, timeout_s=20.0)
        thread.join()
    assert caught.value.code == code


def test_silent_agent_is_given_up(place: Path) -> None:
    with listening(place / "token.sock"), pytest.raises(ClientError) as caught:
        get_token(place / "token.sock", {}, timeout_s=0.05)
    assert caught.value.code == "no_answer"
