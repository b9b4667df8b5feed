"""Silence never: whatever is down, an app gets an answer in its time, and each end's status says what it knows.

Known to be down: the answer comes at once, with the state and the one action. Not known yet: within the caller's
time-out.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from token_relay.cli.client import JsonObject, get_token

from tests.chaos.linked import linked
from tests.chaos.victims import Target
from tests.e2e.kit import Agent, Companion, Phone, World, eventually, ready

pytestmark = pytest.mark.asyncio

LIFETIME_S = 1.0
AT_ONCE_S = 1.0  # measured without load: some milliseconds
SLACK_S = 2.0
TIMEOUT_S = 2.0


async def ask(agent: Agent, timeout_s: float) -> tuple[int, JsonObject, float]:
    """Ask the token API as an app; returns status, body and the seconds that it took."""
    began_at = time.monotonic()
    query = {"timeout_s": f"{timeout_s:g}"}
    status, body = await asyncio.to_thread(get_token, agent.home / "token.sock", query, timeout_s=60.0)
    return status, body, time.monotonic() - began_at


async def test_app_is_answered_at_once_when_the_provider_is_known_to_be_down_else_within_its_time_out() -> None:
    async with World("entra", "mosquitto", LIFETIME_S) as world, linked(world) as (network, phone, watch):
        await phone.hand_off(watch)
        await watch.until_generation(2)
        network.cut("companion-provider", how="refuse")
        await watch.until("ended", lambda s: not s["grants"][-1]["access_token_ends_at"])
        answers = [await ask(watch, 30.0) for _ in range(3)]
        for status, body, took_s in answers:
            assert (status, body["error"]) == (503, "offline")
            assert "the provider cannot be reached" in str(body["detail"]) and body["action"]
            assert took_s < AT_ONCE_S, body
        assert (await watch.grant())["problem"].startswith("the provider cannot be reached")

        network.cut("companion-provider", how="drop")  # nobody says no: it is found out by waiting

        async def is_asked() -> bool:
            await ask(watch, 0.2)
            return bool((await watch.grant())["state"] == "refreshing")

        await eventually("a request is out", is_asked)
        status, body, took_s = await ask(watch, TIMEOUT_S)
        assert (status, body["error"]) == (503, "offline") and body["detail"] and body["action"]
        assert took_s < TIMEOUT_S + SLACK_S
        network.heal()
        assert await Target(watch, phone).comes_back(beyond=2)


async def test_app_is_told_at_once_that_a_person_must_act() -> None:
    async with World("strict", "mosquitto", LIFETIME_S) as world:
        phone, watch = await ready_with_grant(world)
        await phone("revoke", "watch")
        status, body, took_s = await ask(watch, 30.0)
        assert (status, body["error"]) == (401, "reauth_required")
        assert "revoked" in str(body["detail"]) and "phone handoff" in str(body["action"])
        assert took_s < AT_ONCE_S


async def test_each_end_says_since_when_it_has_not_heard_the_other_and_what_to_do() -> None:
    async with World("entra", "mosquitto") as world:
        assert world.mosquitto is not None
        phone, watch = await ready_with_grant(world)
        await watch.kill()
        killed_at = int(time.time())
        heard = (await phone.status())["devices"][0]["heard_at"]
        assert killed_at - 30 <= heard <= killed_at + 1
        (await phone("revoke", "watch", "--wait", "0")).expect(6)
        assert (await phone.status())["devices"][0]["unanswered"] == ["REVOKE"]
        assert await phone.action() == "bring_device_online"
        said = (await phone("status")).out
        assert "heard at" in said and "REVOKE" in said and "bring the device online" in said

        await world.mosquitto.kill()
        await watch.run(is_connected=False)
        status = await watch.until("refused", lambda s: s["broker"]["last_error"])
        assert (status["broker"]["connected"], status["action"]["slug"]) == (False, "check_broker")
        assert status["phones"][0]["heard_at"] <= killed_at + 1
        assert status["grants"][-1]["state"] == "held"  # the word has not reached it, and it does not pretend
        status = await phone.until("refused", lambda s: s["broker"]["last_error"])
        assert (status["broker"]["connected"], status["devices"][0]["heard_at"]) == (False, heard)
        code, body, took_s = await ask(watch, 30.0)
        assert code == 200 and body["access_token"] and took_s < AT_ONCE_S  # a broker is not needed for a token

        await world.mosquitto.start()
        await phone.until("told", lambda s: s["devices"][0]["handoffs"][-1]["device_confirmed"])
        assert await watch.action() == "hand_off_again"


async def ready_with_grant(world: World) -> tuple[Phone, Companion]:
    """A phone and a companion that has refreshed once."""
    phone, watch = await ready(world)
    await phone.hand_off(watch)
    await watch.until_generation(2)
    return phone, watch
