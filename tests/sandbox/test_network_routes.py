"""The links in the control interface: a closed schema, clear refusals, and an event for each order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sandbox.sandbox_client import NOON, SandboxClient
from token_relay.sandbox.control.api import control
from token_relay.sandbox.links.network import Network
from token_relay.sandbox.links.orders import Cut, Slow, Whole
from token_relay.sandbox.provider.http_values import Request


@pytest.fixture
def network() -> Network:
    """Links that nobody has started: for orders and reports no socket is needed."""
    place = ("127.0.0.1", 9)
    return Network.between(broker=place, provider=place, wall=lambda: NOON)


def ask(client: SandboxClient, links: Network | None, method: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    request = Request(
        method,
        "/sandbox/links",
        b"" if body is None else json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    response = control(client.server.provider, request, NOON, links=links).response
    return response.status, json.loads(response.body)


@pytest.mark.asyncio
async def test_an_order_changes_the_link_answers_with_it_and_is_an_event(
    strict: SandboxClient, network: Network
) -> None:
    status, answer = ask(strict, network, "POST", {"link": "phone-broker", "do": "slow", "latency_s": 1})
    assert (status, network["phone-broker"].state) == (200, Slow(1.0))
    assert answer["links"] == [
        {
            "name": "phone-broker", "state": "slow", "latency_s": 1.0, "bytes_per_s": None, "since": NOON,
            "address": "127.0.0.1:0", "target": "127.0.0.1:9", "connections": 0, "connections_in_all": 0,
            "bytes_up": 0, "bytes_down": 0, "bytes_lost": 0,
        }
    ]  # fmt: skip
    status, answer = ask(strict, network, "POST", {"link": "all", "do": "cut", "direction": "up"})
    assert status == 200 and {link.state for link in network.values()} == {Cut("drop", "up")}
    assert [(one["how"], one["direction"]) for one in answer["links"]] == [("drop", "up")] * 4
    ask(strict, network, "POST", {"link": "all", "do": "heal"})
    assert ask(strict, network, "GET")[1]["links"][0]["state"] == "whole"
    first, second, third = await strict.events("link_changed")
    assert (first["link"], first["state"]) == ("phone-broker", "slow")
    assert (second["link"], second["how"], second["direction"]) == ("all", "drop", "up")
    assert third["state"] == "whole" and "how" not in third


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "object"),
        ({"link": "all"}, "do"),
        ({"do": "cut"}, "link"),
        ({"link": "phone-brokr", "do": "cut"}, "'companion-provider' or 'all'"),
        ({"link": "all", "do": "burn"}, "'heal'"),
        ({"link": "all", "do": "cut", "how": "rudely"}, "'blackhole'"),
        ({"link": "all", "do": "cut", "direction": "sideways"}, "'up'"),
        ({"link": "all", "do": "cut", "how": "refuse", "direction": "up"}, "only be cut with drop"),
        ({"link": "all", "do": "cut", "latency_s": 1.0}, "go with slow"),
        ({"link": "all", "do": "heal", "how": "drop"}, "go with cut"),
        ({"link": "all", "do": "slow"}, "needs latency_s or bytes_per_s"),
        ({"link": "all", "do": "slow", "latency_s": -1}, "latency_s: from 0 to 600"),
        ({"link": "all", "do": "slow", "latency_s": "1"}, "latency_s"),
        ({"link": "all", "do": "slow", "bytes_per_s": 0.5}, "bytes_per_s: from 1"),
        ({"link": "all", "do": "slow", "bytes_per_s": float("inf")}, "bytes_per_s"),
        ({"link": "all", "do": "heal", "more": 1}, "more"),
    ],
)
async def test_a_wrong_order_is_refused_by_name_and_changes_nothing(
    strict: SandboxClient, network: Network, body: Any, text: str
) -> None:
    status, answer = ask(strict, network, "POST", body)
    assert status == 400 and text in answer["detail"], answer
    assert {link.state for link in network.values()} == {Whole()}
    assert await strict.events("link_changed") == []


@pytest.mark.asyncio
async def test_only_what_exists_can_be_ordered(strict: SandboxClient, network: Network) -> None:
    assert ask(strict, network, "DELETE")[0] == 405
    status, answer = ask(strict, None, "GET")
    assert status == 404 and "links" in answer["paths"]
    without_broker = Network.between(broker=None, provider=("127.0.0.1", 9))
    status, answer = ask(strict, without_broker, "POST", {"link": "phone-broker", "do": "cut"})
    assert status == 400 and "it has phone-provider, companion-provider" in answer["detail"]
    assert ask(strict, without_broker, "POST", {"link": "all", "do": "cut"})[0] == 200
