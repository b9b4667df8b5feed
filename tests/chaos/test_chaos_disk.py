"""A full disk and a damaged vault: refused, said plainly, nothing acknowledged that was not stored, nothing lost."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from tests.chaos.small_disk import KINDS, Kind, SmallDisk
from tests.chaos.victims import grants_on_disk
from tests.e2e.kit import Companion, Phone, World, eventually, ready
from token_relay.agents.records import Damaged, Grant, Identity
from token_relay.host.home import open_vault
from token_relay.protocol.errors import VaultError
from token_relay.protocol.identity import device_id
from token_relay.vault.keys import KeyFile

pytestmark = pytest.mark.asyncio

Outcome = Literal["set aside", "loses a row", "unharmed"]
LIFETIME_S = 1.0
POSITIONS = 100
PROGRAMS = 2


async def until_done(phone: Phone, watch: Companion) -> None:
    async def look() -> bool:
        return bool((await phone.handoffs(watch))[-1]["state"] == "done")

    await eventually("the handoff is done", look)


@pytest.mark.parametrize("kind", KINDS)
async def test_companion_on_a_full_disk_refuses_says_so_acknowledges_nothing_and_goes_on_when_there_is_room(
    kind: Kind,
) -> None:
    async with World("strict", "mosquitto", LIFETIME_S) as world:
        assert world.mosquitto is not None
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        async with SmallDisk(watch, kind) as disk:
            await watch.gets_in("--force-refresh")
            disk.fill()
            await asyncio.sleep(2 * LIFETIME_S)  # the cached token ends
            mark = await world.sandbox.mark()
            refused = (await watch("token", "--json")).expect(1).json
            assert "vault cannot be" in refused["detail"], refused
            assert await world.sandbox.count("token_request_received", after=mark) == 0  # no intent, no request
            assert "vault cannot be" in (await watch.grant())["problem"]
            assert "vault cannot be" in (await watch("status")).out
            await watch.running.logged("vault_refused")

            acknowledged = f"Received PUBACK from {watch.device_id}"
            count = world.mosquitto.count(acknowledged)
            sent = world.mosquitto.count(f"Sending PUBLISH to {watch.device_id}")
            (await phone("revoke", "watch", "--yes", "--wait", "0")).expect(6)
            await world.mosquitto.wait_for_log(f"Sending PUBLISH to {watch.device_id}", count=sent + 1)
            assert world.mosquitto.count(acknowledged) == count
            assert (await watch.grant())["state"] == "held"

            disk.make_room()
            await watch.until("revoked", lambda s: s["grants"][-1]["state"] == "dead")
            assert grants_on_disk(watch.home) == []
            await phone.hand_off(watch)
            await watch.until_generation(2)
            await watch.gets_in()
        assert await world.sandbox.count("reuse_detected") == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_rotated_token_that_the_full_disk_refuses_is_kept_until_there_is_room(kind: Kind) -> None:
    async with World("strict", "mosquitto") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        async with SmallDisk(watch, kind) as disk:
            generation = (await watch.grant())["generation"]
            mark = await world.sandbox.hold_refresh("after_commit")
            asking = await watch.begin("token", "--force-refresh", is_permitted=True)
            await world.sandbox.held(mark)
            disk.fill()
            await world.sandbox.release()
            await watch.running.logged("refresh_not_stored")
            disk.make_room()
            await watch.until_generation(generation + 1)
            await asking.ended()
            await watch.gets_in("--force-refresh")
        assert await world.sandbox.count("reuse_detected") == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_phone_on_a_full_disk_refuses_a_handoff_and_gives_it_when_there_is_room(kind: Kind) -> None:
    async with World("entra", "mosquitto") as world:
        phone, watch = await ready(world)
        async with SmallDisk(phone, kind) as disk:
            disk.fill()
            refused = (await phone("handoff", "watch", "--json")).expect(1)
            assert "vault" in refused.err + refused.out and "Traceback" not in refused.err
            (await phone("status")).expect(0)
            assert await phone.handoffs(watch) == []
            disk.make_room()
            await phone.hand_off(watch)
            await watch.until_generation(2)
            await watch.gets_in()
        assert await world.sandbox.count("reuse_detected") == 0


async def test_vault_damaged_at_any_byte_is_set_aside_or_loses_a_row_or_is_unharmed_and_is_never_reset() -> None:
    """Most positions in this process, by the code that ``run`` calls; some of each outcome with the program itself."""
    random = Random(3)
    async with World("entra", "sandbox") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await asyncio.gather(phone.stop(), watch.stop())  # the phone would notice that several companions are one
        size = (watch.home / "vault.db").stat().st_size
        found: dict[Outcome, list[Path]] = {"set aside": [], "loses a row": [], "unharmed": []}
        for number in range(POSITIONS):
            home = damaged_copy(watch, number, random.randrange(size), random.randrange(1, 256))
            found[await outcome(home, watch)].append(home)
        assert len(found["set aside"]) + len(found["loses a row"]) > POSITIONS / 10  # else the bytes were not changed
        for home in found["set aside"][:PROGRAMS]:
            (home / "vault.db").write_bytes(next(home.glob("vault.db.*")).read_bytes())
            (home / "vault.db").chmod(0o600)
            await refuses(world, home)
        for home in (*found["unharmed"][:PROGRAMS], *found["loses a row"][:PROGRAMS]):
            await runs(world, home, watch)


async def test_vault_whose_identity_was_changed_is_set_aside_and_another_row_is_given_up_alone() -> None:
    """What SQLite and the seals do not notice, and what an agent would take for true."""
    changes = [
        "UPDATE identity SET public_key = zeroblob(32)",
        "UPDATE pairings SET peer_key = zeroblob(32)",
        "UPDATE pairings SET state = 'actjve'",
        "UPDATE grants SET state = 'hele'",
        "UPDATE grants SET refreshed = 'yesterday'",
        "UPDATE grants SET refresh_token = zeroblob(90)",
        "UPDATE companion_handoffs SET state = ''",
    ]
    async with World("entra", "sandbox") as world:
        phone, watch = await ready(world)
        await phone.hand_off(watch)
        await watch.until_generation(2)
        await asyncio.gather(phone.stop(), watch.stop())
        for number, change in enumerate(changes):
            home = Path(shutil.copytree(watch.home, world.directory / f"changed-{number}"))
            database = sqlite3.connect(home / "vault.db")
            with database:
                assert database.execute(change).rowcount == 1, change
            database.close()
            expected: Outcome = "set aside" if "identity" in change else "loses a row"
            assert await outcome(home, watch) == expected, change
            if expected == "loses a row":
                await runs(world, home, watch)
        home = Path(shutil.copytree(watch.home, world.directory / "same"))
        assert await outcome(home, watch) == "unharmed"


def damaged_copy(watch: Companion, number: int, position: int, flipped: int) -> Path:
    """Return a home whose vault differs from the companion's in one byte."""
    home = Path(shutil.copytree(watch.home, watch.world.directory / f"damaged-{number}"))
    with (home / "vault.db").open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0] ^ flipped
        file.seek(position)
        file.write(bytes([byte]))
    return home


async def outcome(home: Path, watch: Companion) -> Outcome:
    """Open a vault as ``run`` does, and say what became of it."""
    before = (home / "vault.db").read_bytes()
    try:
        vault = await open_vault(home, KeyFile(home / "vault.key"), "companion", "2026-01-02T03:04:05Z")
    except VaultError as exc:
        assert "damaged" in str(exc) and "set aside" in str(exc), exc
        (aside,) = home.glob("vault.db.*")
        assert str(aside) in str(exc) and aside.read_bytes() == before
        assert not (home / "vault.db").exists()  # not made anew behind the person's back
        return "set aside"
    try:
        identity, damaged, grants = await vault.run(
            lambda tx: (tx.get(Identity, "self"), tx.select(Damaged), tx.select(Grant))
        )
    finally:
        await vault.close()
    assert identity is not None and device_id(identity.public_key) == watch.device_id
    if damaged:
        assert len(damaged) <= 2, damaged  # a data key is one of a grant and of its access token
        return "loses a row"
    assert [grant.state for grant in grants] == ["held"]
    assert grants[0].refresh_token is not None
    return "unharmed"


async def refuses(world: World, home: Path) -> None:
    """Start the program on a damaged vault, twice."""
    for what in ("damaged", "there is no vault"):
        ran = (await world.run("companion", "run", "--home", str(home))).expect(1)
        assert what in ran.err and "Traceback" not in ran.err, ran.err
        assert not (home / "vault.db").exists()


async def runs(world: World, home: Path, watch: Companion) -> None:
    """Start the program on a vault whose changed byte means nothing, or cost a row."""
    program = await world.start("companion", "run", "--home", str(home))
    await program.logged("agent_started")
    said = (await world.run("companion", "status", "--json", "--home", str(home))).expect(0).json
    assert said["device_id"] == watch.device_id and len(said["grants"]) == 1
    await program.kill()
