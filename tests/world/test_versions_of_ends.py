"""An old phone with a new companion, and the reverse: the whole story between real programs over mosquitto.

The old program is the last one that knew version 1 of each message alone, the last one before a device said its name in
HELLO 3, or the last one before LOST said why. In the middle of the story its end is updated in place: the new program
opens the home that the old one wrote, and the story goes on.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import PASSWORD_USER, Agent, Companion, Phone, World, eventually, pair
from tests.world import old_program
from token_relay.protocol.messages import SPEAKS
from token_relay.provider.profile import PROFILES

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[str, ...]]:
    """The commands of the old programs, by the version of HELLO that they know."""
    return {version: old_program.unpack(tmp_path_factory.mktemp("old"), version) for version in old_program.OLD_COMMITS}


def column(agent: Agent, table: str, name: str) -> Any:
    """A column of the one row of a table, as it lies in clear in this agent's vault."""
    with closing(sqlite3.connect(f"file:{agent.home / 'vault.db'}?mode=ro", uri=True, timeout=30)) as vault:
        ((value,),) = vault.execute(f"SELECT {name} FROM {table}").fetchall()
    return value


async def comes(what: str, look: Callable[[], bool]) -> None:
    """Wait until it is so."""

    async def ask() -> bool:
        return look()

    await eventually(what, ask)


async def gets_a_lease(watch: Companion) -> None:
    """Greet anew: the challenge is gone when LEASE has answered it."""
    await watch.stop()
    before = column(watch, "pairings", "challenged")
    await watch.run()
    await comes(
        "a lease that answers a new challenge",
        lambda: column(watch, "pairings", "challenged") != before and not column(watch, "pairings", "challenge"),
    )


async def hand_off(phone: Phone, watch: Companion) -> str:
    """Hand a grant over and use it; returns the handoff."""
    made = await phone.hand_off(watch, "--lease-days", "30", "--json")
    handoff_id = str(json.loads(made.last_line)["handoff_id"])
    await watch.until_generation(2)  # the value that travelled is spent
    assert (await watch.grant())["handoff_id"] == handoff_id
    await watch.gets_in()
    await watch.gets_in("--force-refresh")
    assert (await watch.grant())["generation"] > 2
    return handoff_id


async def take_away(phone: Phone, watch: Companion, *, asks: bool) -> None:
    """Revoke, and see that the companion has nothing any more."""
    yes = ("--yes",) if asks else ()  # an old program asks nothing
    (await phone("revoke", "watch", *yes, "--wait", "20")).expect()
    (await watch("token")).expect(4)
    newest = (await phone.handoffs(watch))[-1]
    assert (newest["state"], newest["reason"], newest["device_state"]) == ("gone", "revoked", "erased"), newest


@pytest.mark.parametrize("which", ["phone", "watch"])
@pytest.mark.parametrize(("version", "profile"), [(1, "entra"), (1, "strict"), (2, "entra"), (3, "entra")])
async def test_an_old_end_and_a_new_one_have_the_whole_story_and_the_old_one_is_updated_in_it(
    version: int, profile: str, which: str, old: dict[int, tuple[str, ...]]
) -> None:
    async with World(profile, broker="mosquitto", commands={which: old[version]}) as world:
        allowed = ("--provider-host", "127.0.0.1") if which == "watch" and version > 1 else ()
        phone, watch = await world.phone(), await world.companion("watch", *allowed)
        aged, new = (phone, watch) if which == "phone" else (watch, phone)
        await phone.sign_in(PASSWORD_USER)
        await pair(phone, watch)
        first = await hand_off(phone, watch)
        await gets_a_lease(watch)
        await comes("the new end knows that the other is old", lambda: column(new, "pairings", "speaks") == version)
        await hand_off(phone, watch)  # it takes the other's place
        await take_away(phone, watch, asks=which == "watch" or version > 2)
        last = await hand_off(phone, watch)
        assert first != last
        refused = (await aged.status())["counters"].get("unsupported", 0)
        assert refused <= (2 if version == 1 else 0), "a HELLO of each start, and nothing else"
        if (version, which) == (1, "phone"):
            assert column(watch, "grants", "behaviour") == ""

        await aged.stop()
        del world.commands[which]
        if (version, which) == (1, "watch"):  # the provider of this test is at loopback, which has to be allowed by now
            watch.edit_config("[provider]", '[provider]\nhosts = ["127.0.0.1"]')
        await aged.run()
        await aged.running.logged("vault_updated")
        await comes(
            "both know that both are new",
            lambda: column(phone, "pairings", "speaks") == column(watch, "pairings", "speaks") == SPEAKS,
        )
        assert (await watch.grant())["handoff_id"] == last
        await watch.gets_in("--force-refresh")
        await gets_a_lease(watch)
        await hand_off(phone, watch)
        behaviour = PROFILES[profile].behaviour.model_dump(mode="json")
        assert json.loads(column(watch, "grants", "behaviour")) == behaviour
        for end in (phone, watch):
            assert "unsupported" not in (await end.status())["counters"], "of what was said since the update"

        await take_away(phone, watch, asks=True)
        (await watch("rename", "wrist")).expect()
        await comes("the new name", lambda: column(phone, "pairings", "peer_name") == "wrist")


async def test_without_the_history_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_program, "OLD_COMMITS", {1: "0" * 40})
    with pytest.raises(old_program.NoHistoryError, match="git fetch --unshallow"):
        old_program.unpack(tmp_path, 1)
