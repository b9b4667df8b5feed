"""``POST /v1/session-transfer`` over a real socket: a right of its own, a strict body, one answer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.sockets.sockets_kit import Source, StillClock, as_uid, exchange, parse_http, raw_call, running
from token_relay.agents.token_source import Peer, TokenQuery, TokenRefused, TransferGranted, TransferQuery
from token_relay.apps.policy import Allowed, DeniedBecause, Policy, Rule, decide, parse_policy
from token_relay.apps.server import TokenApi
from token_relay.apps.session_transfer import BODY_BYTES_MAX, parse_body
from token_relay.protocol.secret import SessionTransferToken

OWNER = os.geteuid()
APP = Peer(uid=1001, gid=1001, pid=7)
MARK = "S3CRETMARK-st"
GRANTED = TransferGranted(
    SessionTransferToken(MARK), datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), 58.9, "https://idp.example"
)


@dataclass
class Transfers:
    answer: TransferGranted | TokenRefused = GRANTED
    queries: list[TransferQuery] = field(default_factory=list)

    async def get_session_transfer(self, query: TransferQuery) -> TransferGranted | TokenRefused:
        self.queries.append(query)
        return self.answer


def request(body: bytes, *, method: str = "POST", path: str = "/v1/session-transfer") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def api(transfers: Transfers | None, *rules: Rule, head_deadline_s: float = 20.0) -> TokenApi:
    clock = StillClock()
    return TokenApi(Source(), Policy(OWNER, rules), clock=clock, transfers=transfers, head_deadline_s=head_deadline_s)


@pytest.mark.asyncio
async def test_the_owner_gets_a_token_that_no_log_has(place: Path) -> None:
    transfers, path = Transfers(), place / "token.sock"
    with capture_logs() as logs:
        async with running(api(transfers), path):
            said = {
                "account": "ann",
                "audience": "https://api.example",
                "timeout_s": 5,
                "issuer": "https://idp.example",
            }
            body = json.dumps(said).encode()
            status, headers, answer = parse_http(await exchange(path, request(body)))
            assert parse_http(await exchange(path, request(b"{}")))[0] == 200
    assert (status, headers["cache-control"]) == (200, "no-store")
    assert answer == {
        "session_transfer_token": MARK,
        "expires_at": "2030-01-02T03:04:05Z",
        "expires_in_s": 58,
        "issuer": "https://idp.example",
    }
    assert transfers.queries == [
        TransferQuery("ann", "https://api.example", 5.0, "https://idp.example"),
        TransferQuery(),
    ]
    assert MARK not in repr(logs) and [entry["event"] for entry in logs].count("session_transfer_given") == 2


@pytest.mark.asyncio
@pytest.mark.skipif(OWNER != 0, reason="only root can be another uid: the right was tried by the table alone")
async def test_another_uid_needs_the_right_by_name(place: Path) -> None:
    transfers, path = Transfers(), place / "token.sock"
    async with running(api(transfers, Rule(uid=1001)), path):
        path.chmod(0o666)
        status, _, answer = parse_http(await as_uid(1001, lambda: raw_call(path, request(b"{}"))))
        assert status == 403 and "session_transfer = true" in str(answer["action"])
        assert not transfers.queries
        assert (
            parse_http(await as_uid(1001, lambda: raw_call(path, b"GET /v1/token HTTP/1.1\r\nHost: x\r\n\r\n")))[0]
            == 200
        )
    async with running(api(transfers, Rule(uid=1001, session_transfer=True)), path):
        path.chmod(0o666)
        assert parse_http(await as_uid(1001, lambda: raw_call(path, request(b"{}"))))[0] == 200


@pytest.mark.parametrize(
    ("rule", "query", "is_allowed"),
    [
        (Rule(uid=1001), TransferQuery(), False),
        (Rule(uid=1001, session_transfer=True), TransferQuery(), True),
        (Rule(uid=1001, session_transfer=True, scopes=frozenset({"a"})), TransferQuery(), True),
        (Rule(uid=1001, session_transfer=True, scopes=frozenset({"a"})), TokenQuery(), False),
        (Rule(uid=1001, session_transfer=True, accounts=frozenset({"ann"})), TransferQuery("ann"), True),
        (Rule(uid=1001, session_transfer=True, accounts=frozenset({"ann"})), TransferQuery(), False),
        (Rule(uid=1001, session_transfer=True, audiences=frozenset({"x"})), TransferQuery("", "y"), False),
        (Rule(uid=1002, session_transfer=True), TransferQuery(), False),
    ],
)
def test_the_right_is_the_rules_own_within_its_accounts_and_audiences(
    rule: Rule, query: TransferQuery | TokenQuery, is_allowed: bool
) -> None:
    assert isinstance(decide(Policy(OWNER + 5, (rule,)), APP, query), Allowed) is is_allowed


def test_the_denial_has_the_lines_that_would_allow_it() -> None:
    answer = decide(Policy(OWNER + 5), APP, TransferQuery(account="ann"))
    assert isinstance(answer, DeniedBecause)
    policy = parse_policy(answer.line_to_add, file="f", owner_uid=OWNER + 5)
    assert policy.rules == (Rule(uid=1001, accounts=frozenset({"ann"}), session_transfer=True),)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"nul",
        b"\xff",
        b"[" * 4_000,
        b'{"scope": "openid"}',
        b'{"account": 5}',
        b'{"account": "a\\nb"}',
        b'{"account": "a", "account": "b"}',
        b'{"timeout_s": 0}',
        b'{"timeout_s": 61}',
        b'{"timeout_s": "5"}',
        b'{"timeout_s": NaN}',
        b'{"timeout_s": true}',
        b'{"account": "' + b"a" * 600 + b'"}',
        b" " * (BODY_BYTES_MAX + 1),
    ],
)
def test_a_body_that_is_not_of_the_form_is_refused_and_not_quoted(body: bytes) -> None:
    why = parse_body(body)
    assert isinstance(why, str) and 0 < len(why) < 200
    assert "aaaa" not in why


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(b"{}", method="GET"), 400),
        (request(b"", method="GET"), 405),
        (request(b"{}", method="PUT"), 400),
        (request(b"{}", path="/v1/token"), 405),
        (request(b"{}", path="/v1/session-transfer?account=a"), 400),
        (request(b"{}", path="/v1/session-transfer/"), 404),
        (request(b" " * (BODY_BYTES_MAX + 1)), 400),
        (request(b" " * 20_000), 431),  # or no answer, where the head had been read before
    ],
)
async def test_only_a_short_post_reaches_the_agent(place: Path, raw: bytes, status: int | None) -> None:
    transfers, path = Transfers(), place / "token.sock"
    async with running(api(transfers), path):
        answer = await exchange(path, raw)
        assert parse_http(answer)[0] == status if answer else status == 431
        assert not transfers.queries
        assert parse_http(await exchange(path, request(b"{}")))[0] == 200


@pytest.mark.asyncio
async def test_a_body_that_does_not_come_is_not_waited_for(place: Path) -> None:
    transfers, path = Transfers(), place / "token.sock"
    async with running(api(transfers, head_deadline_s=0.2), path):
        status, _, _ = parse_http(await exchange(path, request(b"{}")[:-1]))
        assert status == 400 and not transfers.queries


@pytest.mark.asyncio
async def test_a_refusal_of_the_agent_has_its_status(place: Path) -> None:
    path = place / "token.sock"
    async with running(api(Transfers(TokenRefused("transfer_refused", "no", "ask"))), path):
        status, _, body = parse_http(await exchange(path, request(b"{}")))
    assert (status, body["error"], body["action"]) == (502, "transfer_refused", "ask")


@pytest.mark.asyncio
async def test_without_a_source_the_path_does_not_exist(place: Path) -> None:
    path = place / "token.sock"
    async with running(api(None), path):
        assert parse_http(await exchange(path, request(b"{}")))[0] == 404
