"""A pairing that another replaced: it settles open requests, and ends even when the other device does not answer."""

from __future__ import annotations

import pytest

from tests.agents.guard_kit import UNKNOWN
from tests.agents.world_kit import World, running
from token_relay.agents.records import Outgoing, Pairing, PhoneHandoff
from token_relay.protocol import delivery
from token_relay.protocol import messages as m

pytestmark = pytest.mark.asyncio

DAY = 24 * 3600.0


async def retired_with_open_requests(world: World) -> Pairing:
    """Pair again, with a request of each kind open at the watch in the old pairing, which the phone has forgotten."""
    old = await world.watch.one(Pairing)
    await world.phone.forget()
    await world.pair()

    def queue(turn: object) -> None:
        for body in (
            m.Stored(handoff_id=UNKNOWN),
            m.Renew(handoff_id=UNKNOWN, reason="person", generation=1),
            m.Cancel(handoff_id=UNKNOWN),  # a companion has none; here for the phone's own types
            m.Revoke(handoff_id=UNKNOWN),
        ):
            turn.request(old.pairing_id, body, UNKNOWN)  # type: ignore[attr-defined]  # a Turn

    await world.watch.agent.turns.run(queue)
    return old


async def types(world: World) -> list[str]:
    return sorted(row.type for row in await world.watch.rows(Outgoing))


async def test_what_a_companion_wants_to_tell_in_a_retired_pairing_is_given_up_after_30_days() -> None:
    async with running("entra") as world:
        old = await retired_with_open_requests(world)
        assert (await world.watch.rows(Pairing, pairing_id=old.pairing_id))[0].state == "retired"
        await world.clock.advance(29 * DAY)
        assert await types(world) == ["CANCEL", "RENEW", "REVOKE", "STORED"]
        await world.clock.advance(2 * DAY)
        assert await types(world) == ["CANCEL", "REVOKE"]
        before = len(world.broker.seen)
        await world.clock.advance(2 * DAY)
        sent = [world.type_of(packet) for packet in world.broker.seen[before:] if packet.sender == "watch"]
        assert "REVOKE" in sent and not {"STORED", "RENEW"} & set(sent)


async def test_a_connection_gives_up_what_is_too_old_before_it_resends() -> None:
    async with running("entra") as world:
        await retired_with_open_requests(world)
        world.watch.link.cut()
        await world.watch.stop()
        await world.clock.advance(31 * DAY)
        await world.watch.start()
        world.watch.link.heal()
        await world.clock.advance(60)
        assert await types(world) == ["CANCEL", "REVOKE"]


async def test_where_no_clock_can_tell_the_age_nothing_is_given_up() -> None:
    async with running("entra") as world:
        await retired_with_open_requests(world)
        await world.watch.stop()
        world.clock.lose_sync()
        await world.clock.advance(31 * DAY)
        world.watch.clock.reboot()
        await world.watch.start()
        await world.clock.advance(DAY)
        assert await types(world) == ["CANCEL", "RENEW", "REVOKE", "STORED"]


async def test_an_active_pairing_gives_nothing_up() -> None:
    async with running("entra") as world:
        world.broker.hold = lambda packet: world.type_of(packet) == "CLOSED"
        await world.phone.hand_off()
        await world.clock.advance(40 * DAY)
        assert await types(world) == ["STORED"]


async def test_a_receipt_that_was_given_up_is_given_anew_to_a_phone_that_asks() -> None:
    async with running("entra") as world:
        world.broker.hold = lambda packet: world.type_of(packet) in ("STORED", "CANCEL")
        await world.phone.hand_off(wait_s=1)
        await world.pair()  # the phone gives the open handoff up, and does not get through
        assert (await world.phone.handoff()).state == "cancelling"
        await world.clock.advance(delivery.RETIRED_S_MAX + DAY)
        assert await types(world) == []
        world.broker.release()
        world.broker.hold = lambda packet: False
        await world.clock.advance(DAY)
        assert [row.state for row in await world.phone.rows(PhoneHandoff)] == ["done"]
