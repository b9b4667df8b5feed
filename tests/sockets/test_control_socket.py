"""The control socket: agent's side over real sockets, and the command line's side against it."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import random
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.sockets.sockets_kit import Marks, as_uid, exchange, raw_call, running
from tests.watchdog import HANG_S
from token_relay.cli.client import ClientError, control_call
from token_relay.protocol.errors import (
    ConfigError,
    LocalError,
    PeerError,
    PersonNeededError,
    PolicyError,
    RelayError,
    TransientError,
    VaultError,
)
from token_relay.protocol.secret import Password
from token_relay.service import control
from token_relay.service.control import JSON, ControlServer, Exchange
from token_relay.vault.errors import CorruptVaultError

PASSWORD = "canary-password-0815"
STATUS = b'{"v":1,"command":"status","args":{}}\n'


class World:
    """A server with a handful of commands, and marks of what happened in them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.release = asyncio.Event()
        self.seen = Marks()
        self.error: Exception = RuntimeError("unset")
        self.server = ControlServer(
            {
                "status": self.status,
                "fail": self.fail,
                "sign-in": self.sign_in,
                "hold": self.hold,
                "handoff": self.hold,
                "bad-result": self.bad_result,
                "count": self.count,
            },
            kind="phone",
            owner_uid=os.geteuid(),
            goes_on=("handoff",),
        )

    async def status(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        return {"args": args, "is_attended": exchange.is_attended}

    async def fail(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        raise self.error

    async def sign_in(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        password = await exchange.ask("password", "Password", account="ann")
        await exchange.progress({"step": "code_sent"})
        code = await exchange.ask("code", "Code from the mail")
        return {"password_chars": len(password or ""), "code": code, "is_attended": exchange.is_attended}

    async def hold(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        self.entered.set()
        try:
            self.seen.append(await exchange.ask("confirm", "Go on?"))
            self.seen.append(exchange.is_attended)
            await self.release.wait()
            await exchange.progress({"ignored": True})
            self.seen.append("finished")
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.left.set()
        return {}

    async def bad_result(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        values: dict[str, object] = {
            "secret": Password(PASSWORD),
            "moment": datetime.datetime.now(datetime.UTC),
            "nan": float("nan"),
            "huge": "a" * (control.REPLY_BYTES_MAX + 1),
        }
        return {"value": values[str(args["kind"])]}  # type: ignore[dict-item]  # the bug under test

    async def count(self, args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        for number in range(3):
            await exchange.progress({"number": number})
        return {"total": 3}


@pytest_asyncio.fixture
async def world(place: Path) -> AsyncIterator[World]:
    made = World(place / "control.sock")
    async with running(made.server, made.path):
        yield made


async def call(world: World, command: str, args: dict[str, JSON] | None = None, **more: object) -> dict[str, JSON]:
    """The real client, in a thread as it blocks."""
    run: Callable[..., dict[str, JSON]] = control_call
    return await asyncio.to_thread(run, world.path, command, args, silence_s=HANG_S, **more)


def last(raw: bytes) -> dict[str, dict[str, JSON]]:
    lines = raw.splitlines()
    assert raw.endswith(b"\n")
    return json.loads(lines[-1])  # type: ignore[no-any-return]  # a test's own reading


# -- One command -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_command_gets_its_arguments_and_answers_one_line(world: World) -> None:
    raw = await exchange(world.path, b'{"v":1,"command":"status","args":{"a":[1,null,{"b":"\xc3\xa9"}]}}\n')
    assert raw.count(b"\n") == 1
    assert last(raw) == {"result": {"args": {"a": [1, None, {"b": "é"}]}, "is_attended": True}}


@pytest.mark.asyncio
async def test_client_gets_the_result(world: World) -> None:
    assert await call(world, "status", {"x": 1}) == {"args": {"x": 1}, "is_attended": True}


@pytest.mark.asyncio
async def test_progress_comes_in_order_before_the_result(world: World) -> None:
    steps: list[object] = []
    assert await call(world, "count", on_progress=steps.append) == {"total": 3}
    assert steps == [{"number": 0}, {"number": 1}, {"number": 2}]


@pytest.mark.asyncio
async def test_asks_are_answered_or_declined_and_nothing_of_it_is_logged(world: World) -> None:
    asked: list[dict[str, object]] = []

    def on_ask(ask: dict[str, object]) -> str | None:
        asked.append(ask)
        return PASSWORD if ask["kind"] == "password" else None

    with capture_logs() as logs:
        result = await call(world, "sign-in", on_ask=on_ask)
    assert result == {"password_chars": len(PASSWORD), "code": None, "is_attended": True}
    assert asked == [
        {"id": 1, "kind": "password", "text": "Password", "account": "ann"},
        {"id": 2, "kind": "code", "text": "Code from the mail"},
    ]
    assert PASSWORD not in str(logs)


@pytest.mark.asyncio
async def test_without_somebody_to_ask_every_ask_is_declined(world: World) -> None:
    assert (await call(world, "sign-in"))["password_chars"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (PolicyError("no", hint="set x"), "refused_by_policy", 5),
        (PersonNeededError("no", hint="set x"), "person_needed", 4),
        (ConfigError("no", hint="set x"), "wrong_usage", 2),
        (PeerError("bad_seal", "no", hint="set x"), "bad_seal", 1),
        (TransientError("no", hint="set x"), "try_later", 1),
        (VaultError("no", hint="set x"), "vault", 1),
        (CorruptVaultError("no", hint="set x"), "vault", 1),
        (LocalError("no", hint="set x"), "failed", 1),
        (RelayError("no", hint="set x"), "failed", 1),
    ],
)
async def test_each_error_family_has_its_exit_code(world: World, error: RelayError, code: str, exit_code: int) -> None:
    world.error = error
    with pytest.raises(ClientError) as caught:
        await call(world, "fail")
    assert (caught.value.code, str(caught.value), caught.value.hint, caught.value.exit_code) == (
        code,
        "no",
        "set x",
        exit_code,
    )


@pytest.mark.asyncio
async def test_unexpected_error_tells_neither_client_nor_log_what_it_said(world: World) -> None:
    world.error = KeyError(PASSWORD)
    with capture_logs() as logs, pytest.raises(ClientError) as caught:
        await call(world, "fail")
    assert (caught.value.code, str(caught.value)) == ("internal_error", "internal error, see the log")
    failed = [entry for entry in logs if entry["event"] == "control_command_failed"]
    assert [(entry["command"], entry["error_type"]) for entry in failed] == [("fail", "KeyError")]
    assert PASSWORD not in str(logs)


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["secret", "moment", "nan", "huge"])
async def test_result_that_is_not_json_is_an_internal_error(world: World, kind: str) -> None:
    with pytest.raises(ClientError) as caught:
        await call(world, "bad-result", {"kind": kind})
    assert caught.value.code == "internal_error"


# -- Garbage -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", "not one line of JSON"),
        (b"GET / HTTP/1.1\r\n\r\n", "not one line of JSON"),
        (b"\x00\xff\xfe\n", "not one line of JSON"),
        (b'"status"\n', "not a JSON object"),
        (b'{"command":"status"}\n', "v: field required"),
        (b'{"v":2,"command":"status"}\n', "v: input should be"),
        (b'{"v":true,"command":"status"}\n', "v: input should be"),
        (b'{"v":1,"command":"Status"}\n', "command: "),
        (b'{"v":1,"command":"status","args":[]}\n', "args: "),
        (b'{"v":1,"command":"status","args":{"a":NaN}}\n', "not one line of JSON"),
        (b'{"v":1,"command":"status","x":1}\n', "x: extra inputs"),
        (b'{"v":1,"command":"status","command":"fail"}\n', "not one line of JSON"),
        (b'{"v":1,"command":"status","args":{"a":1,"a":2}}\n', "not one line of JSON"),
        (b'{"v":1,"command":"status","args":{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}}\n", "not one line of JSON"),
        (b'{"v":1,"command":"status","args":{"a":"' + b"a" * 65_536 + b'"}}\n', "longer than 65536 bytes"),
        (b"a" * 200_000, "longer than 65536 bytes"),
    ],
)
async def test_garbage_gets_one_error_line_and_the_connection_is_closed(
    world: World, line: bytes, message: str
) -> None:
    raw = await asyncio.to_thread(raw_call, world.path, line)
    assert raw.count(b"\n") == 1
    error = last(raw)["error"]
    assert (error["code"], error["exit"]) == ("bad_request", 2)
    assert message in str(error["message"])


@pytest.mark.asyncio
async def test_unknown_command_is_wrong_usage_and_names_the_known(world: World) -> None:
    with pytest.raises(ClientError) as caught:
        await call(world, "explode")
    assert (caught.value.code, caught.value.exit_code) == ("unknown_command", 2)
    assert "count, fail, handoff" in str(caught.value)
    assert caught.value.hint == "token-relay phone --help"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"what?\n", "not one line of JSON"),
        (b'{"answer":{"id":1}}\n', "give value, or cancelled"),
        (b'{"answer":{"id":1,"value":"x","cancelled":true}}\n', "give value, or cancelled"),
        (b'{"answer":{"id":1,"cancelled":false}}\n', "give value, or cancelled"),
        (b'{"answer":{"id":1,"cancelled":1}}\n', "answer.cancelled"),
        (b'{"answer":{"id":7,"value":"x"}}\n', "nothing was asked"),
        (b'{"answer":{"id":1,"value":"' + b"a" * 16_385 + b'"}}\n', "answer.value"),
        (STATUS, "answer: field required"),
    ],
)
async def test_garbage_instead_of_an_answer_ends_the_command(world: World, line: bytes, message: str) -> None:
    raw = await exchange(world.path, b'{"v":1,"command":"hold"}\n' + line)
    error = last(raw)["error"]
    assert error["code"] == "bad_request"
    assert message in str(error["message"])
    assert world.seen[-1:] in ([], ["cancelled"])  # empty when it was cancelled before its first step


@pytest.mark.asyncio
async def test_refused_answer_is_not_quoted(world: World) -> None:
    with capture_logs() as logs:
        raw = await exchange(
            world.path,
            b'{"v":1,"command":"hold"}\n{"answer":{"id":1,"value":"%s","x":"%s"}}\n' % ((PASSWORD.encode(),) * 2),
        )
    assert last(raw)["error"]["code"] == "bad_request"
    assert PASSWORD.encode() not in raw
    assert PASSWORD not in str(logs)


@pytest.mark.asyncio
async def test_random_bytes_never_break_the_server(world: World) -> None:
    rng = random.Random(20260302)
    for _ in range(100):
        raw = bytearray(STATUS)
        for _ in range(rng.randrange(1, 6)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        with capture_logs() as logs:
            answer = await exchange(world.path, bytes(raw), eof=True)
        assert answer == b"" or set(last(answer)) <= {"result", "error"}
        assert [entry for entry in logs if entry["log_level"] == "error"] == []
    assert await call(world, "status") == {"args": {}, "is_attended": True}


@pytest.mark.asyncio
async def test_client_that_says_nothing_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_DEADLINE_S", 0.05)
    error = last(await exchange(world.path, b'{"v":1,'))["error"]
    assert (error["code"], error["message"]) == ("bad_request", "no request within 0.05 s")


@pytest.mark.asyncio
async def test_unanswered_ask_ends_and_a_late_answer_is_no_offence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ASK_DEADLINE_S", 0.05)
    reader, writer = await asyncio.open_unix_connection(world.path)
    writer.write(b'{"v":1,"command":"hold"}\n')
    async with asyncio.timeout(HANG_S):
        assert json.loads(await reader.readline())["ask"]["id"] == 1
        await world.seen.until(lambda seen: len(seen) > 0)
        writer.write(b'{"answer":{"id":1,"value":"late"}}\n')
        world.release.set()
        assert json.loads(await reader.readline()) == {"progress": {"ignored": True}}
        assert json.loads(await reader.readline()) == {"result": {}}
    writer.close()
    assert world.seen == [None, True, "finished"]


# -- Client gone -------------------------------------------------------------------------------------------


async def _leave_during(world: World, command: str) -> None:
    reader, writer = await asyncio.open_unix_connection(world.path)
    writer.write(b'{"v":1,"command":"%s"}\n' % command.encode())
    async with asyncio.timeout(HANG_S):
        assert b'"ask"' in await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.mark.asyncio
async def test_command_is_cancelled_when_its_client_leaves(world: World) -> None:
    await _leave_during(world, "hold")
    async with asyncio.timeout(HANG_S):
        await world.left.wait()
    assert world.seen[-1] == "cancelled"


@pytest.mark.asyncio
async def test_command_that_goes_on_learns_that_nobody_is_there(world: World) -> None:
    await _leave_during(world, "handoff")
    world.release.set()
    async with asyncio.timeout(HANG_S):
        await world.left.wait()
    assert world.seen == [None, False, "finished"]


@pytest.mark.asyncio
async def test_client_that_does_not_read_counts_as_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SEND_DEADLINE_S", 0.05)
    gone = asyncio.Event()

    async def flood(args: dict[str, JSON], exchange: Exchange) -> dict[str, JSON]:
        try:
            while True:
                await exchange.progress({"text": "a" * 60_000})
                await asyncio.sleep(0)
        finally:
            gone.set()

    world.server._handlers["flood"] = flood
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(world.path))
        sock.sendall(b'{"v":1,"command":"flood"}\n')
        async with asyncio.timeout(HANG_S):
            await gone.wait()


@pytest.mark.asyncio
async def test_stop_cancels_what_runs_and_removes_the_socket(place: Path) -> None:
    world = World(place / "control.sock")
    async with running(world.server, world.path):
        task = asyncio.create_task(call(world, "handoff", on_ask=lambda ask: "yes"))
        await world.entered.wait()
    assert world.seen[-1] == "cancelled"
    with pytest.raises(ClientError) as caught:
        await task
    assert caught.value.code == "agent_went_away"
    assert not world.path.exists()


# -- Who may -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_socket_is_for_the_owner_alone(world: World) -> None:
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


@pytest.mark.asyncio
async def test_other_uid_is_refused_even_where_the_file_lets_it_in(world: World, other_uid: int) -> None:
    assert b"PermissionError" in await as_uid(other_uid, lambda: raw_call(world.path, STATUS))
    world.path.chmod(0o666)
    error = last(await as_uid(other_uid, lambda: raw_call(world.path, STATUS)))["error"]
    assert (error["code"], error["exit"]) == ("refused_by_policy", 5)
    assert f"uid {other_uid}" in str(error["message"])


@pytest.mark.asyncio
async def test_thirty_third_command_is_told_to_come_again(world: World) -> None:
    writers = []
    async with asyncio.timeout(HANG_S):
        for _ in range(32):
            reader, writer = await asyncio.open_unix_connection(world.path)
            writer.write(b'{"v":1,"command":"hold"}\n')
            assert b'"ask"' in await reader.readline()
            writers.append(writer)
        with pytest.raises(ClientError) as caught:
            await call(world, "status")
        assert caught.value.code == "busy"
        for writer in writers:
            writer.close()
        await asyncio.wait(set(world.server._sessions))
    assert await call(world, "status") == {"args": {}, "is_attended": True}


@pytest.mark.asyncio
async def test_second_server_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="already running"):
        await ControlServer({}, owner_uid=os.geteuid(), kind="phone").start(world.path)
    assert await call(world, "status") == {"args": {}, "is_attended": True}


# -- The client against a bad agent ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"", "agent_went_away"),
        (b'{"result":{}}', "agent_went_away"),
        (b"hello\n", "bad_reply"),
        (b"[1]\n", "bad_reply"),
        (b'{"result":1}\n', "bad_reply"),
        (b'{"surprise":{}}\n', "bad_reply"),
        (b'{"error":{}}\n', "failed"),
        (b'{"error":{"exit":0}}\n', "failed"),
        (b'{"error":{"exit":"x","code":7}}\n', "7"),
    ],
)
def test_client_gives_a_clear_error_for_a_bad_reply(place: Path, reply: bytes, code: str) -> None:
    path = place / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65_536)
                sock.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ClientError) as caught:
            control_call(path, "status", silence_s=HANG_S)
        thread.join()
    assert (caught.value.code, caught.value.exit_code) == (code, 1)


def test_client_gives_up_on_a_silent_agent_when_told_to(place: Path) -> None:
    path = place / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(ClientError) as caught:
            control_call(path, "status", silence_s=0.05)
    assert caught.value.code == "no_answer"
