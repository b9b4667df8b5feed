"""A device restored to before the pairing: the other end hears it in a retired pairing and says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.guard_kit import count
from tests.agents.world_kit import SimulatedCompanion, SimulatedPhone, World, running
from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing, PhoneHandoff, PrimaryPhone
from token_relay.protocol import messages as m
from token_relay.service.status import Surroundings, companion_status, phone_status

pytestmark = pytest.mark.asyncio

HOUR = 3600.0


def here(end: SimulatedPhone | SimulatedCompanion) -> Surroundings:
    return Surroundings("", end.name, end.id, "", True, "", "", {}, "")


async def phones_action(world: World) -> str:
    phone = world.phone
    status: dict[str, Any] = phone_status(
        here(phone),
        phone.clock.now(),
        pairings=await phone.rows(Pairing),
        outbox=await phone.rows(Outgoing),
        handoffs=await phone.rows(PhoneHandoff),
        grants=await phone.rows(Grant),
        tokens=await phone.rows(CachedToken),
        problems={},
        allow_refresh_token_access=True,
        estranged=phone.agent.link.estranged(),
    )
    return status["action"]["slug"] if status["action"] else ""


async def companions_action(world: World) -> str:
    watch = world.watch
    status: dict[str, Any] = companion_status(
        here(watch),
        watch.clock.now(),
        pairings=await watch.rows(Pairing),
        outbox=await watch.rows(Outgoing),
        primary=await watch.rows(PrimaryPhone),
        grants=await watch.rows(Grant),
        tokens=await watch.rows(CachedToken),
        problems={},
        estranged=watch.agent.link.estranged(),
    )
    return status["action"]["slug"] if status["action"] else ""


@pytest.mark.parametrize("old", ["retired", "deleted"])
async def test_a_companion_restored_to_before_the_pairing_is_to_be_paired_again(old: str) -> None:
    async with running("entra") as world:
        if old == "retired":
            await world.phone.hand_off()  # stays revocable: the phone keeps the pairing
            await world.clock.advance(10)
        image = world.watch.image()
        if old == "deleted":
            await world.phone.forget()
        await world.pair()
        await world.clock.advance(0.9 * HOUR)
        assert len(await world.phone.rows(Pairing)) == (2 if old == "retired" else 1)
        await world.watch.restore(image)
        await world.watch.start()
        await world.phone.hand_off(wait_s=1)  # in the new pairing, which the other end does not have
        await world.clock.advance(120)
        assert await phones_action(world) == "pair_again"
        assert await companions_action(world) == ("" if old == "retired" else "hand_off")
        await world.phone.stop()
        await world.phone.start()  # greets in each pairing that it has; what it knew in memory is gone
        await world.clock.advance(120)
        # In a retired pairing the phone still answers, so the companion cannot know; otherwise it hears messages that
        # it cannot assign.
        assert await companions_action(world) == ("" if old == "retired" else "pair_again")
        assert await phones_action(world) == ("pair_again" if old == "retired" else "bring_device_online")
        await world.watch.stop()
        await world.watch.start()
        await world.clock.advance(120)
        assert await phones_action(world) == "pair_again"
        await world.pair()
        await world.clock.advance(120)
        assert await phones_action(world) != "pair_again" != await companions_action(world)


async def test_a_greeting_from_before_the_pairing_proves_nothing() -> None:
    async with running("entra") as world:
        await world.watch.stop()
        await world.watch.start()
        await world.clock.advance(5)
        greetings = [packet for packet in world.broker.seen if world.type_of(packet) == "HELLO"]
        greeting = [packet for packet in greetings if packet.sender == "watch"][-1]
        await world.phone.forget()
        await world.pair()
        await world.watch.stop()
        await world.clock.advance(HOUR)
        await world.phone.agent.link.receive(greeting.topic, greeting.payload)
        await world.clock.advance(120)
        assert world.phone.agent.turns.rejects["wrong_pairing"] == 1
        assert world.phone.agent.link.estranged() == frozenset()


async def test_a_companion_that_greets_in_both_pairings_is_not_estranged() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.pair()
        await world.phone.hand_off()
        for end in (world.watch, world.phone, world.watch):
            await world.clock.advance(13 * HOUR)
            await end.stop()
            await world.clock.advance(HOUR)
            await end.start()
            await world.clock.advance(5)
            assert world.phone.agent.link._strays == world.watch.agent.link._strays == {}
            await world.clock.advance(120)
            assert await phones_action(world) == "" == await companions_action(world)


async def test_a_greeting_that_was_lost_in_the_active_pairing_is_asked_for() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(10)
        old, new = (await world.watch.one(Pairing)).pairing_id, await world.pair()
        await world.clock.advance(13 * HOUR)
        await world.watch.stop()

        def hold(packet: Any) -> bool:
            message = world.read(packet)
            is_first = message is not None and message.head.pairing_id == new.pairing_id and not world.broker.held
            return packet.sender == "watch" and is_first

        world.broker.hold = hold
        await world.watch.start()
        await world.clock.advance(120)
        assert len(world.broker.held) == 1 and old != new.pairing_id
        assert world.phone.agent.link._strays == {}


async def test_a_word_in_a_retired_pairing_that_is_no_greeting_means_nothing() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.pair()
        await world.clock.advance(14 * HOUR)
        await world.clock.advance(3)
        before = count(world, world.phone, world.watch, m.Hello)
        await world.within(world.phone.agent.revoke("watch", wait_s=5))
        await world.clock.advance(120)
        assert (await world.phone.handoff()).state == "gone"
        assert world.phone.agent.link._strays == {}
        assert count(world, world.phone, world.watch, m.Hello) == before
