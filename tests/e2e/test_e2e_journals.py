"""What a program that follows an agent is told, over the control socket of real programs: messages and events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.kit import Agent, World, ready
from token_relay.cli.client import ClientError

pytestmark = pytest.mark.asyncio
WAIT_S = 30.0
HANDOFF = ["OFFER", "ACCEPT", "TOKEN", "STORED", "CLOSED"]


async def follow(agent: Agent, after: int, **filters: Any) -> list[dict[str, Any]]:
    """The rows since ``after``, each as it was told last, until a CLOSED is through.

    Each question waits at the agent, and something passes until then: an answer without a row came too early.
    """
    rows: dict[int, dict[str, Any]] = {}
    while not any(row["type"] == "CLOSED" and row["state"] in ("accepted", "at_broker") for row in rows.values()):
        told = await agent.control("messages", after=after, wait_s=WAIT_S, **filters)
        assert told["messages"] and all(after < row["change"] <= told["last"] for row in told["messages"])
        rows |= {row["number"]: row for row in told["messages"]}
        after = told["last"]
    return [rows[number] for number in sorted(rows)]


async def test_both_ends_tell_a_handoff_as_it_happens_and_a_restart_is_noticed() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        before = [(await end.control("messages"))["last"] for end in (phone, watch)]
        following = [
            asyncio.create_task(follow(phone, before[0], device="watch")),
            asyncio.create_task(follow(watch, before[1], device=phone.device_id[:8])),
        ]
        await phone.hand_off(watch)
        mine, theirs = await asyncio.gather(*following)
        handoff_id = (await phone.handoffs(watch))[-1]["handoff_id"]
        for rows, own, device in ((mine, "out", watch), (theirs, "in", phone)):
            about = [row for row in rows if row.get("handoff_id") == handoff_id]
            assert [row["type"] for row in about] == HANDOFF
            assert [row["type"] for row in about if row["direction"] == own] == ["OFFER", "TOKEN", "CLOSED"]
            assert {(row["device"], row["device_name"]) for row in about} == {(device.device_id, device.name)}
        tokens = [{(row["seq"], row["size"]) for row in rows if row["type"] == "TOKEN"} for rows in (mine, theirs)]
        assert tokens[0] == tokens[1] and len(tokens[0]) == 1

        newest = await phone.control("messages", handoff_id=handoff_id, limit=2)
        assert [row["type"] for row in newest["messages"]] == ["STORED", "CLOSED"]
        with pytest.raises(ClientError, match="no paired device is called 'wach'; did you mean watch"):
            await phone.control("messages", device="wach")
        with pytest.raises(ClientError, match="wait_s must be a number from 0 to 30"):
            await phone.control("messages", wait_s=31)

        await phone.stop()
        await phone.run()
        again = await phone.control("messages", after=newest["last"] + 1_000, wait_s=WAIT_S)
        assert again["instance"] != newest["instance"] and again["last"] < newest["last"]


async def test_an_event_is_told_when_it_is_written_and_found_by_device_and_handoff() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        waiting = []
        for end in (phone, watch):
            last = (await end.control("events"))["events"][-1]["number"]
            waiting.append(asyncio.create_task(end.control("events", after=last, wait_s=WAIT_S)))
        await phone.hand_off(watch)
        told = [answer["events"] for answer in await asyncio.gather(*waiting)]
        assert all(told), "each was woken by the handoff, or it would say now that nothing happened"
        handoff_id = (await phone.handoffs(watch))[-1]["handoff_id"]
        for end, first in ((phone, "handoff_offered"), (watch, "handoff_ready")):
            found = (await end.control("events", handoff_id=handoff_id))["events"]
            assert found[0]["name"] == first and len(found) > 1
            assert {row["handoff_id"] for row in found} == {handoff_id}
        assert "signed_in" in [row["name"] for row in (await phone.control("events"))["events"]]
        for end, word, name in (
            (phone, "watch", "watch"),
            (phone, watch.device_id[:8], "watch"),
            (watch, "phone", "phone"),
        ):
            found = (await end.control("events", device=word))["events"]
            assert {"paired"} < {row["name"] for row in found} and {row.get("device_name") for row in found} == {name}
        with pytest.raises(ClientError, match="no paired device is called 'watch 2'"):
            await phone.control("events", device="watch 2")


async def test_a_refusal_is_found_by_its_trace_and_leads_to_both_ends_of_the_handoff() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.token()  # its first refresh is over
        await world.sandbox.fault("refuse", endpoint="token", error="interaction_required", code=53003)
        await watch.token("--force-refresh")  # the one from before, which lives yet
        (denied,) = [row for row in (await watch.control("events"))["events"] if row["name"] == "refresh_denied"]
        assert denied["device_name"] == "phone"  # it is known by the handoff
        for ids in (denied["trace_id"], denied["trace_id"][:8].upper(), denied["correlation_id"]):
            shown = (await watch("events", "--trace", ids, "--device", "phone")).expect(0).out
            assert shown.count("  name  ") == 1 and "refresh_denied" in shown and denied["trace_id"] in shown
        assert (await phone.control("events", trace=denied["trace_id"]))["events"] == []
        (await phone("events", "--trace", denied["trace_id"][:7])).expect(2)
        ends = [(await end.control("events", handoff_id=denied["handoff_id"]))["events"] for end in (phone, watch)]
        names = [[row["name"] for row in rows] for rows in ends]
        assert "handoff_offered" in names[0] and {"grant_stored", "refresh_denied", "handoff_needed"} <= {*names[1]}
