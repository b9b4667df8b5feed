"""The token API over real Unix sockets: its answers, its limits, and what garbage gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.sockets.sockets_kit import (
    GRANTED,
    TOKEN,
    Source,
    StillClock,
    as_uid,
    exchange,
    get,
    parse_http,
    raw_call,
    running,
)
from tests.watchdog import HANG_S
from token_relay.agents.token_source import Peer, RefusalCode, TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy, Rule
from token_relay.apps.rate_limit import RateLimit
from token_relay.apps.server import BadQuery, TokenApi, parse_query
from token_relay.protocol.errors import ConfigError, VaultError

OWNER = os.geteuid()
REQUEST = b"GET /v1/token HTTP/1.1\r\nHost: x\r\n\r\n"


class World:
    """One running API."""

    def __init__(self, path: Path, *, head_deadline_s: float = 20.0) -> None:
        self.path = path
        self.source = Source()
        self.clock = StillClock()
        self.api = TokenApi(
            self.source,
            Policy(OWNER),
            clock=self.clock,
            head_deadline_s=head_deadline_s,
            config_file=Path("/c/config.toml"),
        )


@pytest_asyncio.fixture
async def world(place: Path) -> AsyncIterator[World]:
    made = World(place / "token.sock")
    async with running(made.api, made.path):
        yield made


# -- Answers -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_token_is_given_with_its_end_in_utc_and_never_cached(world: World) -> None:
    status, headers, body = await get(world.path)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "application/json"
    assert body == {
        "access_token": TOKEN,
        "token_type": "Bearer",
        "expires_at": "2026-03-01T12:30:15Z",
        "scope": "api.read",
        "issuer": "https://idp.example",
    }


@pytest.mark.asyncio
async def test_query_reaches_the_agent_as_it_was_asked(world: World) -> None:
    await get(
        world.path,
        "scope=a%20b+c&account=ann%40example.com&audience=https%3A%2F%2Fapi.example&min_valid_s=86400"
        "&timeout_s=0&force_refresh=true&issuer=https%3A%2F%2Fidp.example",
    )
    assert world.source.queries == [
        TokenQuery("a b c", "ann@example.com", "https://api.example", 86400.0, 0.0, True, "", "https://idp.example"),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "status", "retry_after_s", "header"),
    [
        ("reauth_required", 401, None, None),
        ("denied", 403, None, None),
        ("not_found", 404, None, None),
        ("ambiguous", 409, None, None),
        ("locked", 423, None, None),
        ("busy", 429, 2.2, "3"),
        ("busy", 429, None, "1"),
        ("offline", 503, 60.0, "60"),
        ("offline", 503, None, None),
    ],
)
async def test_each_refusal_has_its_status(
    world: World, error: RefusalCode, status: int, retry_after_s: float | None, header: str | None
) -> None:
    world.source.answer = TokenRefused(error, "why", "do this", retry_after_s)
    found, headers, body = await get(world.path)
    assert found == status
    assert headers.get("retry-after") == header
    assert headers["cache-control"] == "no-store"
    expected_s = 1.0 if error == "busy" and retry_after_s is None else retry_after_s
    assert body == {"error": error, "detail": "why", "action": "do this", "retry_after_s": expected_s}


@pytest.mark.asyncio
async def test_agent_that_breaks_is_an_internal_error_and_its_text_stays_inside(world: World) -> None:
    world.source.answer = ValueError(f"cannot parse {TOKEN}")
    with capture_logs() as logs:
        status, _, body = await get(world.path)
    assert (status, body["error"], body["detail"]) == (500, "internal_error", "internal error, see the log")
    assert TOKEN not in str(logs)
    assert [entry["error_type"] for entry in logs if entry["event"] == "token_api_failed"] == ["ValueError"]


@pytest.mark.asyncio
async def test_our_own_errors_are_told(world: World) -> None:
    world.source.answer = VaultError("disk is full", hint="make room")
    status, _, body = await get(world.path)
    assert (status, body["detail"], body["action"]) == (500, "disk is full", "make room")


@pytest.mark.asyncio
async def test_token_is_not_logged(world: World) -> None:
    with capture_logs() as logs:
        assert (await get(world.path))[0] == 200
    assert TOKEN not in str(logs)


# -- Query -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "unknown=1",
        "scope=a&scope=b",
        "scope",
        "&",
        "scope=a&&account=b",
        "scope=a%22b",
        "scope=a%20%20b",
        "scope=%20a",
        "scope=a%0A",
        "scope=a%00",
        "scope=%FF",
        "scope=%C3%A9",
        "account=%1B[2J",
        f"account={'a' * 513}",
        f"scope={'a' * 2049}",
        "min_valid_s=86400.1",
        "min_valid_s=-1",
        "min_valid_s=nan",
        "min_valid_s=inf",
        "min_valid_s=",
        "min_valid_s=ten",
        "timeout_s=60.5",
        "timeout_s=-0.1",
        "timeout_s=1e400",
        "force_refresh=yes",
        "force_refresh=",
        "&".join(f"x{n}=1" for n in range(100)),
    ],
)
@pytest.mark.asyncio
async def test_malformed_query_gets_400_with_the_allowed_names(world: World, text: str) -> None:
    status, headers, body = await get(world.path, text)
    assert (status, body["error"]) == (400, "bad_request")
    assert headers["cache-control"] == "no-store"
    for name in ("scope", "account", "audience", "min_valid_s", "timeout_s", "force_refresh"):
        assert name in str(body["action"])
    assert world.source.queries == []


def test_empty_parameters_mean_not_said() -> None:
    assert parse_query("") == TokenQuery()
    assert parse_query("scope=&account=&audience=") == TokenQuery()
    assert isinstance(parse_query("?"), BadQuery)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("request_line", "status", "error"),
    [
        ("POST /v1/token", 405, "method_not_allowed"),
        ("HEAD /v1/token", 405, "method_not_allowed"),
        ("DELETE /v1/token", 405, "method_not_allowed"),
        ("GET /", 404, "unknown_path"),
        ("GET /v1/token/", 404, "unknown_path"),
        ("GET /v1/%74oken", 404, "unknown_path"),
        ("GET http://x/v1/token", 404, "unknown_path"),
        ("OPTIONS *", 404, "unknown_path"),
    ],
)
async def test_other_methods_and_paths_are_refused(world: World, request_line: str, status: int, error: str) -> None:
    raw = await exchange(world.path, f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    if request_line.startswith("HEAD"):
        assert raw.startswith(b"HTTP/1.1 405 ")
        assert raw.endswith(b"\r\n\r\n")
        return
    found, headers, body = parse_http(raw)
    assert (found, body["error"]) == (status, error)
    assert headers.get("allow") == ("GET" if status == 405 else None)
    assert world.source.queries == []


# -- Policy ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_other_uid_is_denied_by_name_and_allowed_once_the_line_is_there(world: World, other_uid: int) -> None:
    world.path.chmod(0o666)

    def ask() -> bytes:
        return raw_call(world.path, b"GET /v1/token?scope=api.read HTTP/1.1\r\nHost: x\r\n\r\n")

    status, _, body = parse_http(await as_uid(other_uid, ask))
    assert (status, body["error"]) == (403, "denied")
    assert f"uid {other_uid}" in str(body["detail"])
    assert str(body["action"]).endswith(f'\n[[allow]]\nuid = {other_uid}\nscopes = ["api.read"]')
    assert str(body["action"]).startswith(
        "to allow it, put this in a file, name it as policy_file under [token_api] in /c/config.toml, and reload"
    )
    assert world.source.queries == []
    world.api.policy = Policy(OWNER, file="/etc/p.toml")
    _, _, body = parse_http(await as_uid(other_uid, ask))
    assert str(body["action"]).startswith("to allow it, add this to /etc/p.toml and reload the agent:\n[[allow]]")
    world.api.policy = Policy(OWNER, (Rule(uid=other_uid, scopes=frozenset({"api.read"})),))
    assert parse_http(await as_uid(other_uid, ask))[0] == 200


@pytest.mark.asyncio
async def test_policy_says_how_often_and_every_decision_is_logged(world: World) -> None:
    app = Peer(1001, 1001, 7)
    with capture_logs() as logs:
        assert (await world.api.answer(app, "GET", "/v1/token")).status == 403
        world.api.policy = Policy(OWNER, (Rule(uid=1001, per_minute=2),))
        answers = [await world.api.answer(app, "GET", "/v1/token") for _ in range(3)]
        assert (await world.api.answer(Peer(OWNER, 0, 8), "GET", "/v1/token")).status == 200
    assert [answer.status for answer in answers] == [200, 200, 429]
    wait_s = answers[2].body["retry_after_s"]
    assert isinstance(wait_s, int | float)
    assert 0 < wait_s <= 30
    assert "2 tokens a minute" in str(answers[2].body["detail"])
    said = [(line["log_level"], line["event"], line["uid"], line.get("by")) for line in logs if "uid" in line]
    assert said == [
        ("warning", "token_denied", 1001, None),
        ("info", "token_given", 1001, "rule 1"),
        ("info", "token_given", 1001, "rule 1"),
        ("warning", "token_denied", 1001, "rule 1"),
        ("info", "token_given", OWNER, "owner"),
    ]
    assert TOKEN not in str(logs)


@pytest.mark.asyncio
async def test_supplementary_group_counts(world: World, other_uid: int) -> None:
    world.path.chmod(0o666)
    world.api.policy = Policy(OWNER, (Rule(gid=4800),))
    assert parse_http(await as_uid(other_uid, lambda: raw_call(world.path, REQUEST)))[0] == 403
    found = await as_uid(other_uid, lambda: raw_call(world.path, REQUEST), groups=(4799, 4800))
    assert parse_http(found)[0] == 200


@pytest.mark.asyncio
async def test_token_wider_than_the_policy_is_not_given(world: World, other_uid: int) -> None:
    world.path.chmod(0o666)
    world.api.policy = Policy(OWNER, (Rule(uid=other_uid, scopes=frozenset({"api.read"})),))
    world.source.answer = TokenGranted(
        GRANTED.access_token, "Bearer", GRANTED.expires_at, "api.read api.write", GRANTED.issuer
    )
    raw = await as_uid(
        other_uid, lambda: raw_call(world.path, b"GET /v1/token?scope=api.read HTTP/1.1\r\nHost: x\r\n\r\n")
    )
    assert parse_http(raw)[0] == 403
    assert b'scopes = [\\"api.read\\", \\"api.write\\"]' in raw
    assert TOKEN.encode() not in raw


@pytest.mark.asyncio
async def test_other_uid_cannot_even_connect_without_the_group(world: World, other_uid: int) -> None:
    assert b"PermissionError" in await as_uid(other_uid, lambda: raw_call(world.path, REQUEST))


# -- Limits ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_eleventh_token_in_a_second_is_busy_and_says_when(world: World) -> None:
    for _ in range(10):
        assert (await get(world.path))[0] == 200
    status, headers, body = await get(world.path)
    assert (status, headers["retry-after"], body["retry_after_s"]) == (429, "1", 0.1)
    world.clock.boot_s += 0.1
    assert (await get(world.path))[0] == 200
    assert (await get(world.path))[0] == 429
    assert len(world.source.queries) == 11


def test_rate_limit_is_per_uid_and_bounded() -> None:
    limit = RateLimit(per_s=2.0)
    assert [limit.take(1, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert limit.take(2, 0.0) == 0.0
    assert limit.take(1, 0.5) == 0.0
    assert limit.take(1, 0.4) == 0.5  # a clock that steps back gives nothing away
    for uid in range(10_000):
        limit.take(uid, 1.0)
    assert len(limit._buckets) == 1024


@pytest.mark.asyncio
async def test_ninth_connection_of_a_uid_is_busy_and_the_eight_are_served(world: World) -> None:
    world.source.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(get(world.path)) for _ in range(8)]
        await world.source.queries.until(lambda seen: len(seen) == 8)
        status, headers, body = await get(world.path)
        assert (status, body["error"], headers["retry-after"]) == (429, "busy", "1")
        world.source.gate.set()
    assert [task.result()[0] for task in held] == [200] * 8
    world.clock.boot_s += 1
    assert (await get(world.path))[0] == 200


@pytest.mark.asyncio
async def test_hundred_connections_at_once_are_answered_every_one(world: World) -> None:
    world.source.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(get(world.path)) for _ in range(100)]
        pending = set(tasks)
        while len(pending) > 8:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        world.source.gate.set()
    statuses = [task.result()[0] for task in tasks]
    assert (statuses.count(200), statuses.count(429)) == (8, 92)


@pytest.mark.asyncio
async def test_sixty_five_connections_in_all_are_one_too_many(world: World, other_uid: int) -> None:
    world.path.chmod(0o666)
    world.api.policy = Policy(OWNER, tuple(Rule(uid=other_uid + n) for n in range(9)))
    world.source.gate = asyncio.Event()

    def eight() -> bytes:
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(8)]
            for sock in socks:
                sock.settimeout(HANG_S)
                sock.connect(str(world.path))
                sock.sendall(REQUEST)
            return b"".join(sock.recv(12) + b"|" for sock in socks)

    async with asyncio.TaskGroup() as group:
        held = [group.create_task(as_uid(other_uid + n, eight)) for n in range(8)]
        await world.source.queries.until(lambda seen: len(seen) == 64)
        last = await as_uid(other_uid + 8, lambda: raw_call(world.path, REQUEST))
        assert parse_http(last)[0] == 429
        assert "64 connections" in str(parse_http(last)[2]["detail"])
        world.source.gate.set()
    assert {task.result() for task in held} == {b"HTTP/1.1 200|" * 8}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"G",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\n",
    ],
)
async def test_head_that_is_not_whole_in_time_is_ended(place: Path, head: bytes) -> None:
    world = World(place / "token.sock", head_deadline_s=0.05)
    async with running(world.api, world.path):
        status, headers, body = parse_http(await exchange(world.path, head))
    assert (status, body["error"], headers["connection"]) == (408, "bad_request", "close")


@pytest.mark.asyncio
async def test_empty_lines_before_a_head_do_not_put_its_deadline_off(place: Path) -> None:
    """The parser skips them and waits on. A connection that is silent from the start came last, and is ended last."""
    world = World(place / "token.sock", head_deadline_s=0.1)
    starts = (b"\r\n\r\n", b"\r\n\r\nGE", b"\n\r\n\r\r\n\r\n" * 100, b"\r\n\r\nGET /v1/token HTTP/1.1\r\n")
    async with running(world.api, world.path):
        with contextlib.ExitStack() as stack:
            early = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in starts]
            for sock, start in zip(early, starts, strict=True):
                sock.connect(str(world.path))
                sock.sendall(start)
            assert parse_http(await exchange(world.path, b""))[0] == 408
            for sock, start in zip(early, starts, strict=True):
                assert sock.recv(4096, socket.MSG_DONTWAIT).startswith(b"HTTP/1.1 408"), start


@pytest.mark.asyncio
async def test_request_after_empty_lines_is_answered(world: World) -> None:
    for lines in (b"\r\n", b"\r\n\r\n\r\n"):
        assert parse_http(await exchange(world.path, lines + REQUEST))[0] == 200


@pytest.mark.asyncio
async def test_no_answer_says_which_programs_made_it(world: World) -> None:
    for request in (REQUEST, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"garbage\r\n\r\n"):
        _, headers, _ = parse_http(await exchange(world.path, request))
        assert headers.keys().isdisjoint({"server", "x-powered-by", "via"}), request


@pytest.mark.asyncio
async def test_slowloris_does_not_keep_its_connection(place: Path) -> None:
    world = World(place / "token.sock", head_deadline_s=0.1)
    async with running(world.api, world.path):
        assert parse_http(await asyncio.to_thread(_drip, world.path))[0] == 408


def _drip(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET /v1/token HTTP/1.1\r\n")
        # The attack itself is one of pauses: another header whenever the server has been silent for 10 ms.
        for _ in range(2_000):
            if select.select([sock], [], [], 0.01)[0]:
                break
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(b"X: y\r\n")
        return sock.recv(65_536)


@pytest.mark.asyncio
async def test_slow_answer_is_not_a_slow_head(place: Path) -> None:
    world = World(place / "token.sock", head_deadline_s=0.5)
    world.source.gate = asyncio.Event()
    async with running(world.api, world.path):
        task = asyncio.create_task(get(world.path))
        await world.source.entered.wait()
        asyncio.get_running_loop().call_later(0.6, world.source.gate.set)  # after the head's deadline
        assert (await task)[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/token?" + b"a" * 20_000,
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000,
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5_000,
        b"a" * 1_000_000,
    ],
)
async def test_huge_head_is_refused(world: World, head: bytes) -> None:
    status, headers, body = parse_http(await asyncio.to_thread(raw_call, world.path, head))
    assert status in (400, 431)
    assert body["error"] == "bad_request"
    assert headers["cache-control"] == "no-store"


@pytest.mark.asyncio
async def test_head_just_under_the_limit_is_read(world: World) -> None:
    start = b"GET /v1/token HTTP/1.1\r\nHost: x\r\nX: "
    head = start + b"a" * (16_384 - len(start) - 4) + b"\r\n\r\n"
    assert len(head) == 16_384
    assert parse_http(await exchange(world.path, head))[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\n\r\n\x00\x00\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/token\r\n\r\n",
        b"GET /v1/token HTTP/9.9\r\n\r\n",
        b"G\x00T /v1/token HTTP/1.1\r\n\r\n",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nbroken\r\n\r\n",
        b"GET /v1/token HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nhello",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET /v1/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET /\xff\xfe?\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b'{"request":"access_token"}\n',
    ],
)
async def test_garbage_gets_a_clear_refusal_and_no_token(world: World, garbage: bytes) -> None:
    raw = await exchange(world.path, garbage)
    status, headers, body = parse_http(raw)
    assert status in (400, 404, 408)
    assert body["error"] in ("bad_request", "unknown_path")
    assert headers["cache-control"] == "no-store"
    assert world.source.queries == []
    assert (await get(world.path))[0] == 200


@pytest.mark.asyncio
async def test_random_bytes_never_break_the_server(world: World) -> None:
    rng = random.Random(20260301)
    for _ in range(60):
        raw = bytearray(REQUEST)
        for _ in range(rng.randrange(1, 8)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        with capture_logs() as logs:
            answer = await exchange(world.path, bytes(raw), eof=True)
        assert answer == b"" or answer.startswith(b"HTTP/")  # a refusal is in the version that was asked
        assert [entry for entry in logs if entry["event"] == "token_api_failed"] == []
        world.clock.boot_s += 1
    assert (await get(world.path))[0] == 200


@pytest.mark.asyncio
async def test_second_request_on_a_connection_is_not_answered(world: World) -> None:
    parse_http(await exchange(world.path, REQUEST * 3))  # fails on anything behind the first answer
    assert len(world.source.queries) == 1


@pytest.mark.asyncio
async def test_upgrade_is_ignored(world: World) -> None:
    raw = await exchange(
        world.path, b"GET /v1/token HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nabc"
    )
    assert parse_http(raw)[0] == 200


@pytest.mark.asyncio
async def test_client_that_leaves_frees_its_place(world: World) -> None:
    world.source.gate = asyncio.Event()
    _, writer = await asyncio.open_unix_connection(world.path)
    writer.write(REQUEST)
    await world.source.entered.wait()
    writer.close()
    async with asyncio.timeout(HANG_S):
        await world.source.cancelled.wait()
    world.source.gate.set()
    assert (await get(world.path))[0] == 200


# -- Socket ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_socket_is_for_owner_and_group_and_goes_away_at_the_end(place: Path) -> None:
    world = World(place / "token.sock")
    async with running(world.api, world.path):
        assert stat.S_IMODE(world.path.stat().st_mode) == 0o660
    assert not world.path.exists()


@pytest.mark.asyncio
async def test_live_socket_is_refused_and_stays_alive(world: World) -> None:
    second = TokenApi(Source(), Policy(OWNER), clock=StillClock())
    with pytest.raises(ConfigError, match="already running"):
        await second.start(world.path)
    assert (await get(world.path))[0] == 200


@pytest.mark.asyncio
async def test_stale_socket_is_replaced(place: Path) -> None:
    world = World(place / "token.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(world.path))
        dead.listen()
    assert world.path.exists()
    async with running(world.api, world.path):
        assert (await get(world.path))[0] == 200


@pytest.mark.asyncio
async def test_stop_ends_requests_in_flight(place: Path) -> None:
    world = World(place / "token.sock")
    world.source.gate = asyncio.Event()
    async with running(world.api, world.path):
        task = asyncio.create_task(exchange(world.path, REQUEST))
        await world.source.entered.wait()
    assert world.source.cancelled.is_set()
    assert await task == b""


@pytest.mark.asyncio
async def test_passed_descriptor_is_served_and_its_file_left_alone(place: Path) -> None:
    world = World(place / "token.sock")
    manager = socket.socket(socket.AF_UNIX)
    manager.bind(str(world.path))
    manager.listen()
    with manager:
        async with running(world.api, os.dup(manager.fileno())):
            assert (await get(world.path))[0] == 200
        assert world.path.exists()


def test_reply_never_shows_its_token() -> None:
    from token_relay.apps.replies import granted

    assert TOKEN not in repr(granted(GRANTED))
    assert json.loads(granted(GRANTED).octets())["access_token"] == TOKEN
