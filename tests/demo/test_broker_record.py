"""The sandbox's record of its broker: topics and lengths to read, messages to send again, payloads never shown."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from token_relay.sandbox.control.api import control
from token_relay.sandbox.mqtt.broker import SEEN_MAX, Broker
from token_relay.sandbox.mqtt.record import BrokerRecord
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD
from token_relay.sandbox.provider.world.rules import Urls

PAYLOAD = b"payload-that-nobody-may-read"


@pytest.fixture
def provider() -> Provider:
    urls = Urls("strict", "http://127.0.0.1:1", "contoso")
    return Provider(DEFAULT_WORLD, urls, random.Random(1), SharedKeySigner(b"x" * 32), now=0.0)


def asked(
    provider: Provider, broker: BrokerRecord | None, method: str, path: str, value: Mapping[str, object] | None = None
) -> tuple[int, dict[str, Any]]:
    body = b"" if value is None else json.dumps(value).encode()
    request = Request(method, f"/sandbox/{path}", body, {"content-type": "application/json"})
    response = control(provider, request, 0.0, broker=broker).response
    assert PAYLOAD not in response.body
    return response.status, json.loads(response.body)


@pytest.mark.asyncio
async def test_the_record_shows_number_time_topic_and_length(provider: Provider) -> None:
    broker = Broker(record=True, wall=iter([1000.5, 1001.0]).__next__)
    broker.inject("a/b", PAYLOAD)
    broker.inject("a/c", b"")
    status, found = asked(provider, broker, "GET", "broker/messages")
    assert status == 200
    assert found == {
        "messages": [
            {"number": 1, "at": 1000.5, "topic": "a/b", "payload_bytes": len(PAYLOAD)},
            {"number": 2, "at": 1001.0, "topic": "a/c", "payload_bytes": 0},
        ],
        "last_number": 2,
    }
    assert asked(provider, broker, "GET", "broker/messages?after=1")[1]["messages"] == found["messages"][1:]


@pytest.mark.asyncio
async def test_a_long_poll_knows_that_there_is_nothing_yet(provider: Provider) -> None:
    broker = Broker(record=True)
    question = Request("GET", "/sandbox/broker/messages?after=0&wait_s=5")
    answer = control(provider, question, 0.0, broker=broker)
    assert (answer.is_empty, answer.wait_s) == (True, 5.0)
    broker.inject("a/b", PAYLOAD)
    assert not control(provider, question, 0.0, broker=broker).is_empty


@pytest.mark.asyncio
async def test_a_replay_publishes_the_same_bytes_again_in_order(provider: Provider) -> None:
    published: list[tuple[str, bytes]] = []
    broker = Broker(record=True, on_publish=lambda topic, payload: published.append((topic, payload)))
    for topic, payload in (("t/1", b"one"), ("t/2", PAYLOAD), ("t/3", b"three")):
        broker.inject(topic, payload)
    status, found = asked(provider, broker, "POST", "broker/replay", {"after": 1, "until": 3})
    assert (status, found) == (200, {"replayed": 2})
    assert published[3:] == [("t/2", PAYLOAD), ("t/3", b"three")]
    assert [one.number for one in broker.messages()] == [1, 2, 3, 4, 5]


@pytest.mark.asyncio
async def test_messages_that_are_no_longer_recorded_are_refused_and_nothing_is_published(provider: Provider) -> None:
    broker = Broker(record=True)
    for _ in range(SEEN_MAX + 2):
        broker.inject("t", b"x")
    status, found = asked(provider, broker, "POST", "broker/replay", {"after": 0, "until": 4})
    assert status == 400 and f"recorded: 3 to {SEEN_MAX + 2}" in found["detail"]
    assert asked(provider, broker, "GET", "broker/messages")[1]["last_number"] == SEEN_MAX + 2


@pytest.mark.asyncio
async def test_a_broker_that_does_not_record_replays_nothing() -> None:
    broker = Broker()
    broker.inject("t", b"x")
    with pytest.raises(ValueError, match="not recorded"):
        broker.replay([1])
    assert len(broker.messages()) == 1


@pytest.mark.parametrize(
    ("method", "path", "value", "status"),
    [
        ("POST", "broker/messages", {}, 405),
        ("GET", "broker/replay", None, 405),
        ("POST", "broker/replay", {"after": 0}, 400),
        ("POST", "broker/replay", {"after": -1, "until": 1}, 400),
        ("POST", "broker/replay", {"after": "0", "until": 1}, 400),
        ("POST", "broker/replay", {"after": 0, "until": 1, "topic": "x"}, 400),
        ("POST", "broker/replay", {"after": 5, "until": 4}, 400),
        ("GET", "broker/messages?after=x", None, 400),
    ],
)
def test_a_bad_question_is_refused(
    provider: Provider, method: str, path: str, value: Mapping[str, object] | None, status: int
) -> None:
    assert asked(provider, Broker(record=True), method, path, value)[0] == status


def test_without_a_broker_there_is_no_record(provider: Provider) -> None:
    assert asked(provider, None, "GET", "broker/messages")[0] == 404
