"""What a log line may hold, and what it never does."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum, StrEnum

import pytest
import structlog

from token_relay.host import logs
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import AccessToken

CANARY = "canary-log-token-1234"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Reason(StrEnum):
    USED = "used"


class Level(Enum):
    HIGH = 3


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_only_listed_types_are_rendered() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={})
    structlog.get_logger().info(
        "grant_stored",
        text="a",
        number=1,
        ratio=0.5,
        flag=True,
        nothing=None,
        moment=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        reason=Reason.USED,
        level_enum=Level.HIGH,
        raw=CANARY.encode(),
        exception=ValueError(CANARY),
        listing=[CANARY],
        mapping={"token": CANARY},
        huge=10**400,
        nan=float("nan"),
        secret=AccessToken(CANARY),
    )
    (entry,) = lines(stream)
    assert entry.pop("timestamp")
    assert entry == {
        "event": "grant_stored",
        "level": "info",
        "text": "a",
        "number": 1,
        "ratio": 0.5,
        "flag": True,
        "nothing": None,
        "moment": "2026-01-02T03:04:05+00:00",
        "reason": "used",
        "level_enum": 3,
        "raw": "<bytes>",
        "exception": "<ValueError>",
        "listing": "<list>",
        "mapping": "<dict>",
        "huge": "<int>",
        "nan": "<float>",
        "secret": "<secret>",
    }


def test_logged_secret_raises_under_test() -> None:
    logs.configure(io.StringIO(), environment={}, strict=True)
    with pytest.raises(TypeError, match="'token'") as caught:
        structlog.get_logger().info("x", token=AccessToken(CANARY))
    assert CANARY not in str(caught.value)


def test_exception_shows_type_and_places_but_neither_text_nor_variables() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={})

    def break_it(token: str) -> None:
        raise ValueError(token)

    try:
        break_it(CANARY)
    except ValueError:
        structlog.get_logger().exception("failed")
    (entry,) = lines(stream)
    assert entry["error_type"] == "ValueError"
    assert "test_agent_logs.py" in str(entry["where"])
    assert "break_it" in str(entry["where"])
    assert CANARY not in stream.getvalue()


def test_our_own_error_is_told() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={})
    structlog.get_logger().error("failed", exc_info=VaultError("disk is full"))
    assert lines(stream)[0]["error"] == "disk is full"


def test_long_text_is_cut_and_control_characters_cannot_fake_a_line() -> None:
    stream = Terminal()
    logs.configure(stream, environment={"NO_COLOR": "1"})
    structlog.get_logger().info("x", long="a" * 600, fake="a\n12:00:00Z error forged\x1b[2J\u202e")
    assert stream.getvalue().count("\n") == 1
    assert "a" * 512 + "…" in stream.getvalue()
    assert "a" * 513 not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()


def test_terminal_gets_plain_text_with_colours_unless_no_color() -> None:
    coloured, plain, piped = Terminal(), Terminal(), io.StringIO()
    logs.configure(coloured, environment={})
    structlog.get_logger().warning("broker_lost", broker="a b", attempt=3)
    logs.configure(plain, environment={"NO_COLOR": "1"})
    structlog.get_logger().warning("broker_lost", broker="a b", attempt=3)
    logs.configure(piped, environment={}, style="console")
    structlog.get_logger().warning("broker_lost", broker="a b", attempt=3)
    assert "\x1b[33mwarning" in coloured.getvalue()
    assert plain.getvalue()[8:] == 'Z warning broker_lost broker="a b" attempt=3\n'
    assert piped.getvalue()[8:] == plain.getvalue()[8:]


def test_journal_gets_its_priority_first() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={}, journal_prefix=True, level="debug")
    log = structlog.get_logger()
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [line[:4] for line in stream.getvalue().splitlines()] == ["<7>{", "<6>{", "<4>{", "<3>{"]


def test_level_holds_back_what_is_below() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={}, level="warning")
    structlog.get_logger().info("quiet")
    assert stream.getvalue() == ""


def test_other_libraries_are_heard_without_their_arguments() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={})
    logging.getLogger("aiohttp.server").warning("odd request %s", CANARY)
    logging.getLogger("asyncio").error(f"Task exception was never retrieved\nfuture: {CANARY}")
    logging.getLogger("mqtt").info("chatter")
    assert [(entry["level"], entry["library"], entry["message"]) for entry in lines(stream)] == [
        ("warning", "aiohttp.server", "odd request %s"),
        ("error", "asyncio", "Task exception was never retrieved"),
    ]
    assert CANARY not in stream.getvalue()


def test_log_that_cannot_be_written_does_not_stop_the_agent() -> None:
    stream = io.StringIO()
    logs.configure(stream, environment={})
    stream.close()
    structlog.get_logger().info("still_here")
