"""What is left when a row of either vault could not be read any more: one grant, one handoff, never the device."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.agents.guard_kit import deafen
from tests.agents.world_kit import SimulatedDevice, World, running
from token_relay.agents.damage import BOARD_LOST
from token_relay.agents.ports import Record, Transaction
from token_relay.agents.records import (
    AuditEvent,
    Board,
    CompanionHandoff,
    Counter,
    Damaged,
    Grant,
    Outgoing,
    Pairing,
    PrimaryPhone,
    Seen,
)
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.service.board_check import check_board

pytestmark = pytest.mark.asyncio


async def lose(end: SimulatedDevice, row: Any, **left: Any) -> None:
    """Give a row up as the vault does, or only these columns of it, and have the agent act on it."""
    key = tuple(getattr(row, name) for name in row.key)

    def step(tx: Transaction) -> None:
        tx.put(replace(row, **left)) if left else tx.delete(type(row), *key)
        tx.put(Damaged(1, row.table, " ".join(map(str, key))))

    end.disk.store.transact(step, lambda: None)
    await end.agent.mend()
    assert await end.rows(Damaged) == []


async def two_phones(world: World) -> Any:
    """A second phone, whose grant must not be touched by what happens to the first one's; return its grant."""
    await world.phone.hand_off()
    phone2 = world.add_phone()
    await phone2.start()
    await world.pair(phone2, world.watch)
    await phone2.sign_in()
    await phone2.hand_off()
    await world.clock.advance(3)
    (theirs,) = await world.watch.rows(Grant, pairing_id=(await phone2.one(Pairing)).pairing_id)
    return theirs


async def first_grant(world: World) -> Grant:
    pairing = await world.phone.one(Pairing)
    return next(row for row in await world.watch.rows(Grant) if row.pairing_id == pairing.pairing_id)


@pytest.mark.parametrize("loses_row", [False, True])
async def test_a_lost_grant_costs_that_grant_and_its_phone_is_told(loses_row: bool) -> None:
    async with running("entra") as world:
        theirs = await two_phones(world)
        grant = await first_grant(world)
        await lose(world.watch, grant, **({} if loses_row else {"refresh_token": None}))
        await world.clock.advance(3)
        after = await first_grant(world)
        assert (after.state, after.reason, after.account) == ("dead", "damaged", grant.account)
        assert await world.watch.rows(Grant, grant_id=theirs.grant_id) == [theirs]
        (handoff,) = await world.watch.rows(CompanionHandoff, pairing_id=grant.pairing_id)
        assert (handoff.state, handoff.reason) == ("dead", "ended")
        row = await world.phone.handoff()
        assert (row.state, row.device_state, row.device_reason) == ("done", "needs_handoff", "person")
        assert {event.detail for event in await world.watch.rows(AuditEvent, name="row_damaged")} == {"grants"}
        await world.phone.hand_off()
        await world.clock.advance(3)
        assert "held" in [row.state for row in await world.watch.rows(Grant, pairing_id=grant.pairing_id)]


async def test_a_lost_grant_says_so_to_the_program_that_asks() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        await lose(world.watch, await world.watch.grant(), refresh_token=None)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused)
        assert (refused.error, refused.detail) == ("reauth_required", "the grant was damaged on this disk")
        assert "phone handoff" in refused.action


async def test_a_grant_without_the_row_of_its_handoff_serves_and_can_be_revoked() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        await lose(world.watch, await world.watch.handoff())
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)
        await world.within(world.phone.agent.revoke("watch", wait_s=5))
        assert (await world.watch.grant()).state == "dead" and (await world.phone.handoff()).state == "gone"


async def test_a_handoff_that_lost_its_one_time_key_is_over_and_the_next_one_works() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await world.phone.hand_off(wait_s=0)
        await world.clock.advance(1)
        row = await world.watch.handoff()
        assert row.state == "ready"
        world.broker.hold = None
        await lose(world.watch, row, one_time_key=None)
        assert (await world.watch.handoff()).reason == "replaced"
        await world.clock.advance(400)
        await world.phone.hand_off()
        await world.clock.advance(10)
        assert (await world.watch.grant()).state == "held"


async def test_a_lost_pairing_locks_its_grants_which_stay_sealed() -> None:
    async with running("entra") as world:
        theirs = await two_phones(world)
        grant = await first_grant(world)
        (pairing,) = await world.watch.rows(Pairing, pairing_id=grant.pairing_id)
        await lose(world.watch, pairing)
        after = await first_grant(world)
        assert (after.state, after.reason) == ("locked", "damaged") and after.refresh_token == grant.refresh_token
        assert await world.watch.rows(Grant, grant_id=theirs.grant_id) == [theirs]
        assert {row.pairing_id for row in await world.watch.rows(Seen)} == {theirs.pairing_id}
        assert not await world.watch.rows(CompanionHandoff, pairing_id=grant.pairing_id)
        await lose(world.watch, theirs, refresh_token=None)  # and damage goes on to be met
        assert (await first_grant(world)).reason == "damaged"


@pytest.mark.parametrize("state", ["offered", "released", "cancelling", "revoking"])
async def test_a_handoff_whose_open_message_is_lost_comes_to_an_end(state: str) -> None:
    async with running("strict") as world:
        begun = len(world.broker.seen)
        if state == "revoking":
            await world.phone.hand_off()
            await world.clock.advance(3)
        let_through = {"offered": 0, "released": 2, "cancelling": 0, "revoking": 10**9}[state]
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + let_through
        if state == "revoking":
            world.broker.hold = lambda packet: True
            await world.within(world.phone.agent.revoke("watch", wait_s=0))
        else:
            await world.phone.hand_off(strategy="move" if state == "released" else "mint", wait_s=0)
            await world.clock.advance(1)
        if state == "cancelling":
            await world.within(world.phone.agent.cancel("watch"))
        row = await world.phone.handoff()
        assert row.state == state
        (request,) = await world.phone.rows(Outgoing)
        world.broker.held.clear()
        world.broker.hold = None
        await lose(world.phone, request)
        await world.clock.advance(600)
        after = await world.phone.handoff()
        assert after.state == {"revoking": "gone"}.get(state, "cancelled")
        assert await world.phone.rows(Outgoing) == []
        if state == "released":  # `move`: nobody took it, so it is the phone's again
            assert (await world.phone.one(Grant)).state == "held"


async def test_a_phone_without_the_pairing_forgets_its_handoffs_and_keeps_its_own_grant() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        own = await world.phone.one(Grant)
        await lose(world.phone, await world.phone.one(Pairing))
        row = await world.phone.handoff()
        assert (row.state, row.reason) == ("gone", "forgotten")
        assert await world.phone.one(Grant) == own
        assert await world.phone.rows(Seen) == []


async def test_a_phone_that_lost_its_own_grant_asks_for_a_sign_in() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        await lose(world.phone, await world.phone.one(Grant), refresh_token=None)
        own = await world.phone.one(Grant)
        assert (own.state, own.reason) == ("dead", "damaged")
        assert [event.detail for event in await world.phone.rows(AuditEvent, name="sign_in_needed")] == ["damaged"]
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)


async def test_events_keep_their_numbers_when_the_counter_is_lost() -> None:
    async with running("entra") as world:
        before = [event.number for event in await world.watch.rows(AuditEvent)]
        await lose(world.watch, await world.watch.one(Counter))
        assert [event.number for event in await world.watch.rows(AuditEvent)] == [*before, before[-1] + 1]


LOST: list[tuple[Record, Record]] = [
    (Board("self", "{}", 0), Board("self", BOARD_LOST, 0)),
    (PrimaryPhone("self", "phone", 0), PrimaryPhone("self", "", 0)),
]


@pytest.mark.parametrize(("row", "after"), LOST, ids=lambda row: row.table)
async def test_a_lost_record_of_board_or_primary_phone_opens_no_door(row: Any, after: Any) -> None:
    async with running("entra") as world:
        await lose(world.watch, row)
        (found,) = await world.watch.rows(type(row))
        assert replace(found, **{type(row).__slots__[-1]: 0}) == after


async def test_any_board_is_another_one_when_the_record_was_lost() -> None:
    async with running("entra") as world:
        await lose(world.watch, Board("self", "{}", 0))
        for name in ("device-tree", "dmi", "machine-id"):
            assert await world.watch.vault.run(partial(check_board, here={name: "a hash"}, now_s=1))
