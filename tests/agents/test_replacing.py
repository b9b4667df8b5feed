"""``phone replace``: the new companion has the grant and the name, the old one nothing, whatever is interrupted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.agents.world_kit import World, running
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol.errors import LocalError, PersonNeededError
from token_relay.protocol.messages import decode
from token_relay.sandbox.provider.world.model import PASSWORD
from token_relay.service.phone import PhoneCommands
from token_relay.service.replace import run_replace
from token_relay.service.status import Surroundings, phone_status
from token_relay.simulation.ports.channel import Packet
from token_relay.simulation.ports.power import PowerCutError

pytestmark = pytest.mark.asyncio
OTHER = "reset@contoso.example"
HERE = Surroundings(
    "phone", "phone", "id", "mqtt://b", is_connected=True, broker_error="", vault_key="", rejects={}, home=""
)


class Person:
    """The person at the command line: agrees to what is asked, or not."""

    def __init__(self, *, agrees: bool = True) -> None:
        self.agrees = agrees
        self.asked: list[tuple[str, str]] = []

    @property
    def is_attended(self) -> bool:
        return True

    async def progress(self, step: dict[str, Any]) -> None:
        return None

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        self.asked.append((str(kind), text))
        return {"confirm": "yes" if self.agrees else "no", "password": PASSWORD}.get(str(kind))


async def replaces(
    world: World,
    *,
    person: Person | None = None,
    called: str = "",
    wait_s: float = 60.0,
    yes: bool = False,
    by: int = -1,
) -> dict[str, Any]:
    """Run the command on the phone with an invitation of the newest companion, or of the one with this number."""
    invitation = await world.companions[by].call(world.companions[by].agent.invitations.show())
    wish = HandoffWish(wait_s=wait_s)
    given: dict[str, Any] = {"device": "watch", "invitation": invitation, "as": called, "yes": yes}
    agent = world.phone.agent
    runtime: Any = SimpleNamespace(channel=agent.turns.channel, clock=world.phone.clock, kind="phone")
    pair = PhoneCommands(runtime, agent, None).pair  # type: ignore[arg-type]  # it sends no request by HTTP
    return await world.phone.call(run_replace(agent, pair, wish, given, person or Person()))


async def action(world: World) -> str:
    rows: dict[str, Any] = {
        "pairings": await world.phone.rows(Pairing),
        "handoffs": await world.phone.rows(PhoneHandoff),
    }
    shown = phone_status(
        HERE, world.clock.now(), **rows, outbox=[], grants=[], tokens=[], problems={}, allow_refresh_token_access=True
    )
    return str((shown["action"] or {}).get("slug", ""))


def is_from(world: World, packet: Packet, kind: str, *, by: int = -1) -> bool:
    new, phone = world.companions[by], world.phone
    if packet.topic != f"relay/v1/{phone.id}/from/{new.id}":
        return False
    plaintext = phone.agent.turns.box(new.agent.turns.own.public_key).open(packet.payload)
    return decode(plaintext).head.type == kind


async def devices(world: World) -> dict[str, tuple[str, str]]:
    """What the phone calls its devices, and their states."""
    return {row.peer_id: (row.peer_name, row.state) for row in await world.phone.rows(Pairing)}


@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_the_new_companion_has_the_grant_and_the_name_and_the_old_one_nothing(profile: str) -> None:
    async with running(profile, companions=2) as world:
        await world.phone.hand_off()
        new, person = world.companions[1], Person()
        done = await replaces(world, person=person)
        assert (done["device_id"], done["device_name"], done["pending"]) == (new.id, "watch", False)
        confirms = [text for kind, text in person.asked if kind == "confirm"]
        assert len(confirms) == 1, "it asks once, and says what follows"
        assert "password@contoso.example" in confirms[0] and "watch" in confirms[0] and "unpaired" in confirms[0]
        assert await devices(world) == {new.id: ("watch", "active")}
        assert isinstance(await new.token(), TokenGranted)
        assert isinstance(await world.watch.token(), TokenRefused)
        assert await action(world) == ""


async def test_an_old_companion_that_is_off_is_revoked_when_it_is_back() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        await world.watch.stop()
        done = await replaces(world)
        assert done["pending"] is True and done["action"]["slug"] == "bring_device_online"
        old, new = world.companions
        assert await devices(world) == {old.id: ("watch (old)", "retired"), new.id: ("watch", "active")}
        assert await action(world) == "bring_device_online"
        again = await replaces(world)
        assert again["pending"] is True and "has taken the place of watch (old)" in again["message"]
        await old.start()
        await world.clock.advance(5)
        assert isinstance(await old.token(), TokenRefused) and isinstance(await new.token(), TokenGranted)
        await world.clock.advance(3601)  # rows of what is over go within the hour
        assert await devices(world) == {new.id: ("watch", "active")}


async def test_the_old_one_keeps_all_it_has_until_the_new_one_has_stored_the_grant() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        old, new = world.companions
        world.broker.hold = lambda packet: is_from(world, packet, "STORED")
        waits = await replaces(world, wait_s=5.0)
        assert (waits["pending"], waits["action"]["slug"]) == (True, "finish_replacement")
        assert await devices(world) == {old.id: ("watch", "active"), new.id: (new.name, "active")}
        assert isinstance(await old.token(), TokenGranted)
        assert await action(world) == "finish_replacement"
        world.broker.release()
        done = await replaces(world)
        assert (done["device_id"], done["device_name"], done["pending"]) == (new.id, "watch", False)


async def test_another_name_may_be_given_and_one_that_means_a_third_is_refused_at_once() -> None:
    async with running("entra", companions=3) as world:
        await world.phone.hand_off()
        await world.pair(watch=world.companions[1])
        third = world.companions[1].name
        with pytest.raises(LocalError, match="can mean"):
            await replaces(world, called=third.upper())
        done = await replaces(world, called="wrist")
        assert done["device_name"] == "wrist" and {name for name, _ in (await devices(world)).values()} == {
            "wrist",
            third,
        }


async def test_a_person_who_does_not_agree_has_replaced_nothing() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        before = await world.phone.rows(Pairing)
        with pytest.raises(PersonNeededError):
            await replaces(world, person=Person(agrees=False))
        assert (
            [row.replaced_by for row in await world.phone.rows(Pairing)] == [row.replaced_by for row in before] == [""]
        )
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_nothing_is_paired_where_nothing_could_be_handed_off() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off(strategy="move")
        with pytest.raises(PersonNeededError, match="nobody is signed in"):
            await replaces(world)
        assert len(await devices(world)) == 1


async def test_who_brings_another_invitation_gives_nothing_to_the_device_of_the_first() -> None:
    async with running("entra", companions=3) as world:
        await world.phone.hand_off()
        _, first, second = world.companions
        world.broker.hold = lambda packet: is_from(world, packet, "ACCEPT", by=1)
        waits = await replaces(world, wait_s=5.0, by=1)
        assert (waits["pending"], waits["device_id"]) == (True, first.id)
        done = await replaces(world, yes=True, by=2)
        assert (done["device_id"], done["device_name"]) == (second.id, "watch")
        assert isinstance(await second.token(), TokenGranted)
        assert await first.rows(Grant) == []


async def test_what_the_new_companion_got_of_another_account_takes_no_place() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        await world.phone.sign_in(OTHER)
        new = world.companions[1]
        world.broker.hold = lambda packet: is_from(world, packet, "ACCEPT")
        await replaces(world, wait_s=0.0)
        await world.within(world.phone.agent.cancel(new.id))
        world.broker.release()
        await world.clock.advance(5)
        assert (await world.phone.hand_off(new.id, account=OTHER)).state == "done"
        done = await replaces(world)
        assert done["device_name"] == "watch"
        assert {row.account for row in await new.rows(Grant)} == {"password@contoso.example", OTHER}


async def test_a_device_is_not_replaced_by_itself() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        with pytest.raises(LocalError, match="an invitation of the device itself"):
            await replaces(world)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("commit", range(1, 15))
async def test_cut_off_anywhere_it_is_completed_when_it_is_run_again(commit: int, moment: Any) -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        world.phone.disk.crash_at(commit, moment)
        is_cut = False
        try:
            await replaces(world, yes=True)
        except PowerCutError:
            is_cut = True
            await world.phone.start()
            await world.clock.advance(10)
        old, new = world.companions
        if is_cut and new.id in (known := await devices(world)) and known.get(old.id, ("", ""))[1] == "active":
            assert await action(world) == "finish_replacement", "status says what is open"
        if (await devices(world)).get(new.id) != ("watch", "active"):
            await replaces(world, yes=True)
        await world.clock.advance(3700)
        assert await devices(world) == {new.id: ("watch", "active")}
        assert isinstance(await new.token(), TokenGranted) and isinstance(await old.token(), TokenRefused)
