"""The pages for a bad day: a person does what stands there, step by step, and then what the page promises is looked at.

Every page has a world of its own: a real broker with mutual TLS, the sandbox as provider, real agents. See
:mod:`tests.pages.walk` for what stands for what, and :mod:`tests.pages.numbered_steps` for how a page is read.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.booted.upkeep import OLDER_VAULT
from tests.e2e.kit import Agent, Companion, Program, World, pair, ready
from tests.pages.numbered_steps import steps_of
from tests.pages.walk import DOCS, Walk
from token_relay.agents.ports import Transaction
from token_relay.agents.records import CachedToken, Grant
from token_relay.ca import store as certs
from token_relay.host.config import CompanionConfig
from token_relay.host.config_file import check_config
from token_relay.host.home import key_source, open_vault

pytestmark = pytest.mark.asyncio

LONG_AGO = timedelta(days=200)
WALKED = (
    "lost-phone.md",
    "lost-companion.md",
    "replace-companion.md",
    "another-board.md",
    "give-away.md",
    "updating.md",
    "long-switched-off.md",
)


async def let_time_pass(home: Path) -> None:
    """As if the device had been on for long, without a word from its phone and without an app that asks."""
    config = check_config(CompanionConfig, (home / "config.toml").read_text(), home)
    assert isinstance(config, CompanionConfig), config
    source = key_source(home, config.vault, {})
    async with await open_vault(home, source, "companion", "2026-01-02T03:04:05Z") as vault:

        def step(tx: Transaction) -> None:
            for grant in tx.select(Grant):
                tx.put(replace(grant, lease_used_s=LONG_AGO.total_seconds()))
            for token in tx.select(CachedToken):
                tx.delete(CachedToken, token.grant_id, token.scope)

        await vault.run(step)


async def is_shut_out(agent: Agent) -> None:
    """The broker refuses this agent's certificate."""
    await agent.until("refused by the broker", lambda s: "certificate" in (s["broker"]["last_error"] or ""))


async def test_a_lost_phone() -> None:
    async with World(broker="mutual-tls") as world:
        old, new, tablet, watch = await asyncio.gather(
            world.phone("old-phone"), world.phone("new-phone"), world.phone("tablet"), world.companion("watch")
        )
        await old.sign_in()
        await pair(old, watch)
        await pair(tablet, watch)
        await old.hand_off(watch)
        await Walk(world, {"companion": watch, "new phone": new}, {"PHONE-ID": old.device_id}).page("lost-phone.md")
        (await old("token", "--force-refresh", is_permitted=True)).expect(4)
        await is_shut_out(old)
        status = await watch.status()
        assert [phone["name"] for phone in status["phones"] if phone["is_primary"]] == ["new-phone"]
        assert {phone["name"] for phone in status["phones"]} == {"new-phone", "tablet"}
        await watch.gets_in("--force-refresh")


async def test_a_lost_companion() -> None:
    async with World(broker="mutual-tls") as world:
        (phone, watch), car = await asyncio.gather(ready(world), world.companion("car"))
        await pair(phone, car)
        await phone.hand_off(watch)
        await phone.hand_off(car)
        await watch.until_generation(2)
        await watch.stop()  # out of reach
        await Walk(world, {"phone": phone}, {"DEVICE-ID": watch.device_id}).page("lost-companion.md")
        await watch.run(is_connected=False)
        await is_shut_out(watch)
        (await watch("token", "--force-refresh", is_permitted=True)).expect(4)
        assert [row["name"] for row in (await phone.status())["devices"]] == ["car"]
        await car.gets_in("--force-refresh")


async def test_a_new_companion_for_an_old_one() -> None:
    async with World(broker="mutual-tls") as world:
        (phone, watch), new = await asyncio.gather(ready(world), world.companion("new-watch"))
        await phone.hand_off(watch)
        await Walk(world, {"phone": phone, "new companion": new}).page("replace-companion.md")
        (await watch("token")).expect(4)
        devices = (await phone.status())["devices"]
        assert [(row["device_id"], row["name"]) for row in devices] == [(new.device_id, "watch")]
        await new.gets_in()


@dataclass
class Board:
    """A machine of its own: a directory, and the name of its board, which the service manager gives."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "etc" / "credstore.encrypted").mkdir(parents=True)
        self.credentials.mkdir()
        (self.credentials / "board-id").write_text(self.root.name)

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"


class OnBoard(Companion):
    """A companion on a board of its own."""

    board: Board

    async def begin(self, *words: str, stdin: str | None = None, is_permitted: bool = False) -> Program:
        """Start one command of this agent, as the service manager of its machine does."""
        line = (self.kind, *words, "--home", str(self.home))
        env = {**self.world.env, "CREDENTIALS_DIRECTORY": str(self.board.credentials)}
        program = await Program.start(*line, env=env, cwd=self.world.directory)
        self.world.programs.append(program)
        return program


def on_board(world: World, name: str) -> OnBoard:
    companion = OnBoard(world, "companion", "watch")
    companion.board = Board(world.directory / name)
    companion.home = companion.board.root / "companion"
    return companion


async def test_another_card_or_board() -> None:
    async with World(broker="mutual-tls") as world:
        phone, made = await asyncio.gather(world.phone(), world.companion("watch", is_running=False))
        old, new = on_board(world, "old-board"), on_board(world, "new-board")
        shutil.move(made.home, old.home)
        (old.board.root / "etc" / "token-relay").mkdir()
        (old.board.root / "etc" / "token-relay" / "policy.toml").write_text("[[allow]]\nuid = 1234\n")
        await asyncio.gather(old.run(), phone.sign_in())
        await pair(phone, old)
        await phone.hand_off(old)
        grant = await old.until_generation(2)

        async def carry() -> None:  # by a way that nobody else reads
            shutil.copy(old.board.root / "companion.tar.gz", new.board.root)

        walk = Walk(world, {"old companion": old, "new companion": new}, before={4: carry})
        await walk.page("another-board.md")
        assert (new.board.root / "etc" / "token-relay" / "policy.toml").is_file()
        after = (await new.status())["grants"][-1]
        assert (after["grant_id"], after["state"]) == (grant["grant_id"], "held")
        assert not [path for path in old.board.root.rglob("*") if path.name == "vault.db" or path.suffix == ".gz"]
        assert not [path for path in new.board.root.rglob("*.gz")]


async def test_before_a_device_is_given_away() -> None:
    async with World(broker="mutual-tls") as world:
        (phone, watch), old, car = await asyncio.gather(ready(world), world.phone("old-phone"), world.companion("car"))
        await phone.hand_off(watch)
        await old.sign_in()
        await pair(old, car)
        await old.hand_off(car)
        etc = world.directory / "etc"
        config = [etc / "token-relay" / name for name in ("companion.toml", "policy.toml")]
        for path in [*config, etc / "credstore.encrypted" / "token-relay-companion"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        places = {"phone": phone, "companion": watch, "old phone": old, "other companion": car}
        ids = {"DEVICE-ID": watch.device_id, "PHONE-ID": old.device_id}
        await Walk(world, places, ids).page("give-away.md")
        assert not watch.home.exists() and not old.home.exists()
        assert [path for path in etc.rglob("*") if path.is_file()] == []
        revoked = {one.name for one in certs.list_issued(world.directory / "ca") if one.revoked_at is not None}
        assert revoked == {watch.device_id, old.device_id}
        assert (await phone.status())["devices"] == (await car.status())["phones"] == []


async def test_an_update_and_the_way_back() -> None:
    async with World(broker="mutual-tls") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)

        async def older_vault() -> None:  # of before step 3, so that the program of this tree has something to update
            await watch.stop()
            command = [sys.executable, "-", str(watch.home / "vault.db")]
            subprocess.run(command, input=OLDER_VAULT, text=True, check=True, capture_output=True)

        await Walk(world, {"phone": phone, "companion": watch}, before={3: older_vault}).page("updating.md")
        assert not watch.home.exists()
        assert (await phone.status())["devices"] == []


async def test_a_device_that_was_off_for_a_long_time() -> None:
    async with World(broker="mutual-tls") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await asyncio.gather(phone.stop(), watch.stop())
        ca = world.directory / "ca"
        shutil.copy(watch.home / "device.csr", world.directory)  # a person carries it
        certs.sign(ca, watch.home / "device.csr", now=datetime.now(UTC) - LONG_AGO)
        await let_time_pass(watch.home)
        await world.sandbox.control("POST", "revoke", {"username": "otp@contoso.example"})
        await watch.run(is_connected=False)
        await is_shut_out(watch)
        assert await watch.action() == "bring_phone_online"

        async def a_moment_later() -> None:
            await watch.until("unlocked", lambda status: status["action"] is None)

        places, ids = {"phone": phone, "companion": watch}, {"DEVICE-ID": watch.device_id}
        await Walk(world, places, ids, {7: a_moment_later}).page("long-switched-off.md")
        await watch.gets_in("--force-refresh")


@pytest.mark.parametrize("name", WALKED)
async def test_a_page_says_who_it_is_for_and_what_others_can_do_meanwhile(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert "For a person who" in text.split("\n##")[0].partition("\n1. ")[0]
    assert re.search(r"^## What (.+) can do until then$", text, re.MULTILINE)
    assert len([step for step in steps_of(text) if step.deeds]) >= 5


async def test_every_page_with_numbered_commands_is_walked() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    with_steps = {name for name, text in pages.items() if re.search(r"^1\. .*\*\*", text, re.MULTILINE)}
    assert with_steps - {"raspberry-pi.md"} == set(WALKED)  # that one is walked by tests/booted
