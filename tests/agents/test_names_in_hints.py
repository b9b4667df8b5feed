"""A hint names a device as its person knows it, in a form that a shell takes as one word."""

from __future__ import annotations

import shlex

import pytest

from tests.agents.world_kit import running
from token_relay.agents.token_source import TokenRefused
from token_relay.service.actions import ACTIONS, action


@pytest.mark.parametrize("name", ["kitchen", "car 13", "Ann's watch", "$(reboot)", "{host}", "厨房"])
@pytest.mark.parametrize("slug", sorted(slug for slug, text in ACTIONS.items() if "{device}" in text))
def test_a_name_in_a_command_is_one_word(slug: str, name: str) -> None:
    sentence = str(action(slug, name)["sentence"])
    command = sentence[sentence.index("token-relay ") :]
    assert name in shlex.split(command)


def test_a_sentence_without_a_device_says_where_its_name_belongs() -> None:
    assert action("hand_off")["sentence"] == "on the phone: token-relay phone handoff DEVICE"


@pytest.mark.asyncio
async def test_the_companion_says_its_own_name_to_apps_and_not_its_id() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.watch.agent.forget(pairing=False)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused)
        assert refused.action == f"on the phone: token-relay phone handoff {world.watch.name}"
        await world.watch.agent.rename("car 13")
        again = [await world.watch.token()]
        await world.watch.stop()
        await world.watch.start()
        again.append(await world.watch.token())
        for refused in again:
            assert isinstance(refused, TokenRefused)
            assert refused.action == "on the phone: token-relay phone handoff 'car 13'"
