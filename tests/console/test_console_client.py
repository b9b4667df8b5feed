"""What a console makes of an agent that answers wrongly, slowly or not at all, and of a form that is wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.console.console_kit import console
from tests.sockets.sockets_kit import short_directory
from token_relay.console import agent_client, event_words
from token_relay.console.agent_client import AgentAwayError, AgentClient
from token_relay.console.phone import args_of
from token_relay.pages.columns import ordered
from token_relay.protocol.errors import LocalError, RelayError

DOCS = Path(__file__).parents[2] / "docs" / "spec" / "command-line.md"


@asynccontextmanager
async def agent_that_says(raw: bytes | None, *, name: str = "control.sock") -> AsyncIterator[AgentClient]:
    """An agent that answers each connection with these bytes and closes it, or with None holds it open."""
    ends = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n" if name == "control.sock" else b"\r\n\r\n")
        if raw is None:
            await ends.wait()
        else:
            writer.write(raw)
        writer.close()

    with short_directory() as home:
        async with await asyncio.start_unix_server(serve, home / name):
            yield AgentClient("phone", lambda socket_name: home / socket_name)
            ends.set()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("raw", "error", "words"),
    [
        (b"", AgentAwayError, "closed the connection without an answer"),
        (b'{"result": ', AgentAwayError, "closed the connection without an answer"),
        (b"nonsense\n", LocalError, "not a line of JSON"),
        (b"[" * 100_000 + b"\n", LocalError, "not a line of JSON"),
        (b"a" * (agent_client.LINE_BYTES_MAX + 70_000) + b"\n", LocalError, "not a line of JSON"),
        (b"[]\n", LocalError, "not of this protocol"),
        (b'{"else": 1}\n', LocalError, "not of this protocol"),
        (b'{"error": {"message": "no", "hint": "try"}}\n', RelayError, "no"),
    ],
)
async def test_an_answer_that_is_none_is_said(raw: bytes, error: type[RelayError], words: str) -> None:
    async with agent_that_says(raw) as client:
        with pytest.raises(error, match=words):
            await client.call("status")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nnonsense", "not of this protocol"),
        (b"HTTP/1.1 two\r\n\r\n{}", "not of this protocol"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "not a JSON object"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 300_000, "not of this protocol"),
    ],
)
async def test_a_token_answer_that_is_none_is_said(raw: bytes, words: str) -> None:
    async with agent_that_says(raw, name="token.sock") as client:
        with pytest.raises(LocalError, match=words):
            await client.token({})


@pytest.mark.asyncio
@pytest.mark.parametrize("is_read", [True, False])
async def test_a_token_answer_that_is_missing_is_said(is_read: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if is_read:
            await reader.readuntil(b"\r\n\r\n")
        else:
            writer.transport.abort()  # the connection is reset
        writer.close()

    with short_directory() as home:
        async with await asyncio.start_unix_server(serve, home / "token.sock"):
            with pytest.raises(AgentAwayError, match="without an answer"):
                await AgentClient("phone", lambda name: home / name).token({})


@pytest.mark.asyncio
async def test_an_agent_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_client, "TOKEN_WAIT_S", 0.0)
    async with agent_that_says(None, name="token.sock") as client:
        with pytest.raises(AgentAwayError, match="does not answer"):
            await client.token({})


@pytest.mark.asyncio
async def test_where_nobody_listens_the_reason_is_said() -> None:
    with short_directory() as home:
        (home / "control.sock").touch()
        with pytest.raises(AgentAwayError, match="no connection to the companion's agent"):
            await AgentClient("companion", lambda name: home / name).call("status")


@pytest.mark.asyncio
async def test_without_a_person_each_question_is_declined() -> None:
    said: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(json.loads(await reader.readline()))
        writer.write(b'{"progress": {"message": "m"}}\n{"ask": {"id": 7, "kind": "confirm", "text": "t"}}\n')
        said.append(json.loads(await reader.readline()))
        writer.write(b'{"result": {"done": true}}\n')
        writer.close()

    with short_directory() as home:
        async with await asyncio.start_unix_server(serve, home / "control.sock"):
            assert await AgentClient("phone", lambda name: home / name).call("pair", {"a": 1}) == {"done": True}
    assert said == [
        {"v": 1, "command": "pair", "args": {"a": 1}},
        {"answer": {"id": 7, "cancelled": True}},
    ]


@pytest.mark.asyncio
async def test_an_opaque_token_is_said_to_be_opaque() -> None:
    def serve(token: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps({"access_token": token}).encode())
            writer.close()

        return answer

    with short_directory() as home:
        server = await asyncio.start_unix_server(serve("opaque-and-whole"), home / "token.sock")
        async with server, console("companion", home) as mine:
            page = await mine.get("tokens")
            assert "This token is opaque" in page.text and "opaque-and-whole" not in page.html
            refused = await mine.press(page, "Refresh, and compare")
            assert refused.status == 400 and "opaque" in refused.text
            raw = await mine.press(page, "Show the raw token")
            assert "opaque-and-whole" not in raw.html
            assert "opaque-and-whole" in (await mine.press(raw, "Show the signature too")).html


@pytest.mark.parametrize("days", ["-1", "many", "1000", "٣"])
def test_days_that_are_no_number_are_refused(days: str) -> None:
    with pytest.raises(LocalError, match="whole number"):
        args_of("handoff", {"device": "d", "lease_days": days})


@pytest.mark.parametrize(
    ("command", "fields", "args"),
    [
        ("handoff", {"device": "d", "scope": " ", "lease_days": "0"}, {"device": "d", "lease_days": 0}),
        (
            "handoff",
            {"device": "d", "strategy": "mint", "method": "browser", "username": "u"},
            {
                "device": "d",
                "strategy": "mint",
                "sign_in": {"method": "browser", "open": False},
                "sign_in_options": ["--browser"],
            },
        ),
        (
            "handoff",
            {"device": "d", "method": "native", "username": "u"},
            {"device": "d", "sign_in": {"method": "native", "username": "u"}, "sign_in_options": ["--username"]},
        ),
        ("handoff", {"device": "d", "username": "u"}, {"device": "d"}),
        ("lost", {"device": "d", "called": "n"}, {"device": "d", "lost": True, "wait_s": 2.0}),
        ("revoke", {"device": "d"}, {"device": "d"}),
        ("pair", {"invitation": "RTR1:A", "as": ""}, {"invitation": "RTR1:A"}),
        ("sign_in", {"method": "native", "username": "u"}, {"method": "native", "username": "u"}),
        ("sign_in", {"method": "browser"}, {"method": "browser", "open": False}),
        ("sign_up", {"username": "u", "with_password": "no"}, {"username": "u", "with_password": False}),
        ("reset_password", {"username": "u", "method": "native"}, {"username": "u"}),
        ("sign_out", {"account": "a"}, {"account": "a"}),
    ],
)
def test_a_form_becomes_the_arguments_of_its_command(
    command: str, fields: dict[str, str], args: dict[str, Any]
) -> None:
    assert args_of(command, fields) == args


def test_every_event_of_the_documents_has_words() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("### `phone events`")[2].partition("\n### ")[0]
    named = {
        name.strip("` ")
        for line in text.splitlines()
        if line.startswith("| `")
        for name in line.split("|")[1].split(",")
        if "…" not in name and not name.strip("` ").startswith("--")
    }
    assert len(named) > 30, named
    assert not named - event_words.EVENTS.keys()
    assert not (event_words.REFUSALS | event_words.OF_THE_PROVIDER) - event_words.EVENTS.keys()
    assert event_words.in_words({"name": "of_a_newer_agent", "detail": "d"}) == "of a newer agent: d"
    assert event_words.state_in_words("refused:bad_box") == "refused: bad box"


def test_what_falls_into_one_second_stands_in_the_order_of_its_moments() -> None:
    def at(moment: float, **more: object) -> dict[str, Any]:
        return {"at": moment, "size": 4096, "times": 1, "handoff_id": "h", **more}

    phone = event_words.happenings(
        "phone",
        [
            {"name": "handoff_done", "number": 13, "at": 5, "moment": 5.7, "detail": "branch"},
            {"name": "handoff_offered", "number": 12, "at": 5, "moment": 5.4, "detail": "accepted"},
            {"name": "handoff_offered", "number": 1, "at": 5, "moment": 5.1, "detail": "branch"},
        ],
        [
            at(5.15, number=1, direction="out", type="OFFER", state="at_broker"),
            at(5.4, number=2, direction="in", type="ACCEPT", state="accepted"),
            at(5.5, number=3, direction="out", type="TOKEN", state="queued", times=2),
        ],
    )
    companion = event_words.happenings(
        "companion",
        [
            {"name": "refreshed", "number": 9, "at": 5, "moment": 5.9},
            {"name": "refresh_denied", "number": 10, "at": 6},  # of before the agent was started anew
        ],
        [
            at(5.2, number=1, direction="in", type="OFFER", state="refused:bad_box"),
            at(5.3, number=2, direction="out", type="ACCEPT", state="at_broker"),
        ],
    )
    shown = ordered([*companion, *phone])
    assert [(one.column, one.text, one.state) for one in shown] == [
        ("phone", "The handoff was offered: branch", ""),
        ("phone", "OFFER", "sent"),
        ("broker", "OFFER, for the companion", ""),
        ("companion", "OFFER has come", "refused: bad box"),
        ("companion", "ACCEPT", "sent"),
        ("broker", "ACCEPT, for the phone", ""),
        ("phone", "ACCEPT has come", "accepted"),
        ("phone", "The companion has accepted", ""),
        ("phone", "TOKEN", "sent 2 times"),
        ("phone", "The companion has the grant on its disk: branch", ""),
        ("provider", "The companion: a new access token came", ""),
        ("provider", "The companion: the provider refused to refresh", ""),
    ]
    assert [one.is_bad for one in shown].count(True) == 2
