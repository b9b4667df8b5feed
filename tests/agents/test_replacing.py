"""``phone replace``: the new companion has the grant and the name, the old one nothing, whatever is interrupted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.agents.world_kit import World, running
from token_relay.agents.phone.agent import HandoffWish
from token_relay.agents.phone.person import SignInOptions
from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError, PolicyError
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
    yes: Any = False,
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


@pytest.mark.parametrize(
    ("name", "called", "is_given"), [("watch", "watch", True), ("watch2", "watch2", False), ("WATCH3", "watch2", False)]
)
async def test_the_name_that_is_given_away_is_a_persons_unless_the_device_calls_itself_so(
    name: str, called: str, is_given: bool
) -> None:
    async with running("entra", companions=3) as world:
        old, new, third = world.companions
        for watch in (new, third):
            await world.pair(watch=watch)
        assert (new.name, third.name) == ("watch2", "watch3")
        await world.phone.call(world.phone.agent.replace(old_id=old.id, new_id=new.id, name=name, wait_s=5.0))
        row = await world.phone.one(Pairing, peer_id=new.id)
        assert (row.peer_name, row.is_name_given) == (called, is_given), "a third one's name stays the third one's"


async def test_a_person_who_does_not_agree_has_replaced_nothing() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        before = await world.phone.rows(Pairing)
        for yes in (False, "true", 1):
            with pytest.raises(PersonNeededError):
                await replaces(world, person=Person(agrees=False), yes=yes)
        assert (
            [row.replaced_by for row in await world.phone.rows(Pairing)] == [row.replaced_by for row in before] == [""]
        )
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_a_new_one_that_calls_itself_as_the_old_one_does_is_asked_about_no_more_than_another() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        new, person = world.companions[1], Person()
        await new.agent.rename("watch")
        await replaces(world, person=person)
        assert [kind for kind, _ in person.asked] == ["confirm"]
        assert await devices(world) == {new.id: ("watch", "active")}


async def test_nothing_is_paired_where_nothing_could_be_handed_off() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off(strategy="move")
        with pytest.raises(PersonNeededError, match="nobody is signed in"):
            await replaces(world)
        assert len(await devices(world)) == 1


# -- What was begun ----------------------------------------------------------------------------------------


@asynccontextmanager
async def half_done(*, has_grant: bool) -> AsyncIterator[World]:
    """The new companion is paired, and the command was cut off then, or when it had the grant."""
    async with running("entra", companions=2) as world:
        old, new = world.companions
        await world.phone.hand_off()
        await world.pair(watch=new)
        if has_grant:
            await world.phone.hand_off(new.name)
        await world.phone.edit(await world.phone.one(Pairing, peer_id=old.id), replaced_by=new.id)
        yield world


async def test_going_on_is_asked_too_and_says_what_follows() -> None:
    async with half_done(has_grant=False) as world:
        new = world.companions[1]
        before, person = await devices(world), Person(agrees=False)
        with pytest.raises(PersonNeededError, match="nothing was changed"):
            await replaces(world, person=person)
        ((kind, text),) = person.asked
        assert kind == "confirm" and "go on with watch2" in text and "watch" in text and "is unpaired" in text
        assert await devices(world) == before and isinstance(await new.token(), TokenRefused)
        done = await replaces(world, called=new.name)  # the name that it has by now is free for it
        assert (done["device_name"], done["pending"]) == (new.name, False)
        assert await devices(world) == {new.id: (new.name, "active")}


async def test_a_grant_that_the_new_one_has_is_not_given_twice_and_one_that_it_lost_is_given_again() -> None:
    for is_lost in (False, True):
        async with half_done(has_grant=True) as world:
            new = world.companions[1]
            if is_lost:
                await new.agent.forget(pairing=False)
                await world.clock.advance(5)
            await replaces(world)
            pairing_id = (await world.phone.one(Pairing, peer_id=new.id)).pairing_id
            assert len(await world.phone.rows(PhoneHandoff, pairing_id=pairing_id)) == (2 if is_lost else 1)
            assert isinstance(await new.token(), TokenGranted)


async def test_a_new_one_that_was_unpaired_meanwhile_is_paired_again() -> None:
    async with half_done(has_grant=False) as world:
        new = world.companions[1]
        await world.phone.edit(await world.phone.one(Pairing, peer_id=new.id), state="retired")
        assert (await replaces(world))["device_id"] == new.id
        assert isinstance(await new.token(), TokenGranted)


async def test_one_whose_own_successor_is_only_paired_may_take_another_ones_place_no_less() -> None:
    async with running("entra", companions=3) as world:
        await world.phone.hand_off()
        other = world.companions[1]
        await world.pair(watch=other)
        await world.phone.edit(await world.phone.one(Pairing, peer_id=other.id), replaced_by=world.watch.id)
        assert (await replaces(world))["pending"] is False


async def test_one_that_is_being_unpaired_is_not_replaced() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        await world.watch.stop()
        await world.phone.call(world.phone.agent.unpair("watch"))
        with pytest.raises(LocalError, match="is being unpaired"):
            await replaces(world)


async def test_the_new_one_gets_a_grant_of_the_account_that_the_old_one_has() -> None:
    async with running("entra", companions=2) as world:
        row = await world.phone.hand_off()
        await world.phone.sign_in("reset@contoso.example")
        later = replace(row, handoff_id="f" * 32, state="cancelled", account="reset@contoso.example", subject="other")
        await world.phone.vault.run(lambda tx: tx.put(replace(later, created_at=row.created_at + 9)))
        await replaces(world)
        assert (await world.companions[1].grant()).account == row.account


async def test_what_is_left_undone_is_checked_before_the_invitation_is_used_up() -> None:
    async with running("entra", companions=2) as world:
        await world.phone.hand_off()
        agent = world.phone.agent
        wish = HandoffWish(sign_in=SignInOptions(username="password@contoso.example"))
        with pytest.raises(ConfigError, match="does not sign in"):
            await agent.check_wish(wish, Person())
        agent.settings = agent.accounts.settings = replace(agent.settings, allow_refresh_token_access=False)
        with pytest.raises(PolicyError):
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
