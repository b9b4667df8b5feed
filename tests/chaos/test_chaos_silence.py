"""Silence never: whatever is down, an app gets an answer in its time, and each end's status says what it knows.

Known to be down: the answer comes at once, with the state and the one action: though the caller would wait for far
longer than a test may take. Not known yet: when the caller's time-out is over, and not only when somebody answers.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.linked import linked
from tests.chaos.victims import Target
from tests.e2e.kit import Agent, Companion, Phone, World, eventually, ready
from tests.watchdog import HANG_S
from token_relay.cli.client import JsonObject, get_token

pytestmark = pytest.mark.asyncio

LIFETIME_S = 1.0
TIMEOUT_S = 2.0
PATIENT_S = 60.0  # of a caller: the longest that the token API knows
PATIENT = 3  # such callers one after the other: if they had to wait, the watchdog would fail the test


async def ask(agent: Agent, timeout_s: float) -> tuple[int, JsonObject]:
    """Ask the token API as an app; returns status and body."""
    query = {"timeout_s": f"{timeout_s:g}"}
    status, body = await asyncio.to_thread(get_token, agent.home / "token.sock", query, timeout_s=2 * HANG_S)
    return status, body


async def told_at_once(agent: Agent) -> list[tuple[int, JsonObject]]:
    """Ask as patient callers do, each after the other; returns what each was told."""
    async with asyncio.timeout(HANG_S):
        return [await ask(agent, PATIENT_S) for _ in range(PATIENT)]


async def test_app_is_answered_at_once_when_the_provider_is_known_to_be_down_else_within_its_time_out() -> None:
    async with World("entra", "mosquitto", LIFETIME_S) as world, linked(world) as (network, phone, watch):
        await phone.hand_off(watch)
        await watch.until_generation(2)
        network.cut("companion-provider", how="refuse")
        await watch.until("ended", lambda s: not s["grants"][-1]["access_token_ends_at"])
        for status, body in await told_at_once(watch):
            assert (status, body["error"]) == (503, "offline")
            assert "the provider cannot be reached" in str(body["detail"]) and body["action"]
        assert (await watch.grant())["problem"].startswith("the provider cannot be reached")

        network.cut("companion-provider", how="drop")  # nobody says no: it is found out by waiting

        async def is_asked() -> bool:
            await ask(watch, 0.2)
            return bool((await watch.grant())["state"] == "refreshing")

        await eventually("a request is out", is_asked)
        status, body = await ask(watch, TIMEOUT_S)
        assert (status, body["error"]) == (503, "offline") and body["detail"] and body["action"]
        network.heal()
        assert await Target(watch, phone).comes_back(beyond=2)


async def test_app_is_told_at_once_that_a_person_must_act() -> None:
    async with World("strict", "mosquitto", LIFETIME_S) as world:
        phone, watch = await ready_with_grant(world)
        await phone("revoke", "watch", "--yes")
        for status, body in await told_at_once(watch):
            assert (status, body["error"]) == (401, "reauth_required")
            assert "revoked" in str(body["detail"]) and "phone handoff" in str(body["action"])


async def test_each_end_says_since_when_it_has_not_heard_the_other_and_what_to_do() -> None:
    began_at = int(time.time())
    async with World("entra", "mosquitto") as world:
        assert world.mosquitto is not None
        phone, watch = await ready_with_grant(world)
        await watch.kill()
        killed_at = int(time.time())
        heard = (await phone.status())["devices"][0]["heard_at"]
        assert began_at <= heard <= killed_at + 1
        (await phone("revoke", "watch", "--yes", "--wait", "0")).expect(6)
        assert (await phone.status())["devices"][0]["unanswered"] == ["REVOKE"]
        assert await phone.action() == "bring_device_online"
        assert "bring watch online" in (await phone("status")).last_line
        said = (await phone("devices", "watch")).out
        assert "heard at" in said and "REVOKE" in said and "bring watch online" in said

        await world.mosquitto.kill()
        await watch.run(is_connected=False)
        status = await watch.until("refused", lambda s: s["broker"]["last_error"])
        assert (status["broker"]["connected"], status["action"]["slug"]) == (False, "check_broker")
        assert status["phones"][0]["heard_at"] <= killed_at + 1
        assert status["grants"][-1]["state"] == "held"  # the word has not reached it, and it does not pretend
        status = await phone.until("refused", lambda s: s["broker"]["last_error"])
        assert (status["broker"]["connected"], status["devices"][0]["heard_at"]) == (False, heard)
        for code, body in await told_at_once(watch):
            assert code == 200 and body["access_token"]  # a broker is not needed for a token

        await world.mosquitto.start()
        await phone.until("told", lambda s: s["devices"][0]["handoffs"][-1]["device_confirmed"])
        assert await watch.action() == "hand_off_again"


async def ready_with_grant(world: World) -> tuple[Phone, Companion]:
    """A phone and a companion that has refreshed once."""
    phone, watch = await ready(world)
    await phone.hand_off(watch)
    await watch.until_generation(2)
    return phone, watch
