"""A hint names a device as its person knows it, in a form that a shell takes as one word."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import token_relay.service
from tests.agents.world_kit import running
from token_relay.agents.token_source import TokenRefused
from token_relay.protocol.errors import LocalError
from token_relay.service.actions import ACTIONS, action


@pytest.mark.parametrize("name", ["kitchen", "car 13", "Ann's watch", "$(reboot)", "{host}", "厨房"])
@pytest.mark.parametrize("slug", sorted(slug for slug, text in ACTIONS.items() if "{device}" in text))
def test_a_name_in_a_command_is_one_word(slug: str, name: str) -> None:
    sentence = str(action(slug, name)["sentence"])
    command = sentence[sentence.index("token-relay ") :]
    assert name in shlex.split(command)


OURS = {"self._kind", "kind", "self.settings.url", "device_id", "pairing.peer_id", "broker.host"}
"""What a command may hold as it is: words of the program, settings of the person, an id of letters and digits."""


def _in_commands() -> Iterator[tuple[str, str]]:
    """Yield each expression behind the words of a command of ours in an f-string, with its place."""
    package = Path(str(token_relay.service.__file__)).parents[1]
    for path in sorted(file for room in ("agents", "service") for file in (package / room).rglob("*.py")):
        for text in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.JoinedStr)):
            said = ""
            for part in text.values:
                if isinstance(part, ast.Constant):
                    said += str(part.value)
                elif isinstance(part, ast.FormattedValue) and "token-relay " in said:
                    yield f"{path.relative_to(package)}:{text.lineno}", ast.unparse(part.value)


def test_what_a_command_in_a_message_names_is_quoted() -> None:
    found = list(_in_commands())
    assert any("quote(" in expression for _, expression in found)
    bare = [(place, expression) for place, expression in found if "quote" not in expression]
    assert [(place, expression) for place, expression in bare if expression not in OURS] == []


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


@pytest.mark.asyncio
async def test_a_refusal_about_an_open_handoff_names_the_device_as_one_word() -> None:
    async with running("entra") as world:
        await world.phone.agent.rename("watch", "car 13")
        await world.watch.crash()
        await world.phone.hand_off("car 13", wait_s=0)
        with pytest.raises(LocalError, match="is open") as refused:
            await world.phone.hand_off("car 13", strategy="move")
        assert refused.value.hint == "token-relay phone cancel 'car 13'"
        await world.phone.edit(await world.phone.handoff(), state="cancelling")
        with pytest.raises(LocalError, match="did not come about") as refused:
            await world.phone.hand_off("car 13")
        assert refused.value.hint == "token-relay phone devices 'car 13'"
