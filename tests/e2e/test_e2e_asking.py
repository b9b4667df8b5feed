"""Before a device loses something the person is asked: which device, and what follows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest

from tests.e2e.kit import OTP_USER, Agent, World, pair, ready
from tests.e2e.terminal import Terminal

pytestmark = pytest.mark.asyncio


def typed(agent: Agent, *words: str) -> Terminal:
    return Terminal(agent.kind, *words, "--home", str(agent.home), env=agent.world.env, cwd=agent.world.directory)


async def declines(agent: Agent, words: Sequence[str], question: str) -> None:
    """Ask without a terminal, and at one where the person says no: neither does anything."""
    ran = (await agent(*words)).expect(4)
    assert "nobody is there to answer" in ran.err and "--yes" in ran.err, ran.err
    for answer in ("n", "", "no way"):
        async with typed(agent, *words) as terminal:
            await terminal.sees(question)
            await terminal.types(answer)
            assert await terminal.ended() == 4
            assert "nothing was changed" in terminal.text


async def test_each_command_that_takes_something_away_asks_first_and_does_nothing_without_a_yes() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        device, handset = rf"watch \({watch.device_id[:6]}\)", rf"phone \({phone.device_id[:6]}\)"
        grant = f"the grant of {OTP_USER}"
        await declines(phone, ["revoke", "watch"], rf"revoke {device}\? it loses {grant}; another handoff .* \[y/N\]")
        await declines(phone, ["unpair", "watch"], rf"unpair {device}\? it loses {grant}; it must be paired again")
        await declines(phone, ["forget", "watch"], rf"forget {device} without .* {grant} goes on .* for up to 90 days")
        await declines(watch, ["forget"], rf"erase {grant}\? apps get no token")
        await declines(watch, ["forget", "--pairing"], rf"erase {grant} and the pairing with {handset}\?")
        await declines(watch, ["forget", "--phone", "phone"], rf"erase {grant} and the pairing with {handset}\?")
        await watch.token("--force-refresh")
        assert await phone.action() == await watch.action() == ""

        async with typed(phone, "revoke", "watch", "--lost") as terminal:
            await terminal.sees(r"\[y/N\]")
            await terminal.types("y")
            assert await terminal.ended() == 0
            steps = [line for line in terminal.text.splitlines() if line.startswith("  - ")]
            (object_id,) = re.findall(r"/v1.0/users/([0-9a-f-]{36})/revokeSignInSessions", "\n".join(steps))
            own = (await phone("token", "--inspect", is_permitted=True)).expect(0).out
            assert object_id == json.loads(own)["claims"]["oid"]
            assert len(steps) == 5 and f"certs revoke {watch.device_id}" in steps[3], "each step is one line"
        (await watch("token")).expect(4)


async def test_what_takes_nothing_away_asks_nothing_and_a_mistyped_name_is_guessed_at() -> None:
    async with World() as world:
        phone, watch = await ready(world)
        assert "holds nothing" in (await phone("revoke", "watch")).expect(0).out
        ran = (await phone("revoke", "wach")).expect(1)
        assert "did you mean watch?" in ran.err and "token-relay phone devices" in ran.err
        (await phone("forget", "watch", "--yes")).expect(0)
        await pair(phone, watch)
        (await phone("unpair", "watch", "--yes")).expect(0)
