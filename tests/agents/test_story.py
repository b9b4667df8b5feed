"""The protocol between two real agents: each test is one of its promises."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from tests.agents.world_kit import running, settle
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.phone.devices import clear_up
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol.identity import KeyPair

pytestmark = pytest.mark.asyncio
EVERY = pytest.mark.parametrize("profile", ["entra", "auth0", "strict"])


@EVERY
async def test_a_grant_travels_and_lives_without_the_phone(profile: str) -> None:
    async with running(profile) as world:
        row = await world.phone.hand_off()
        assert row.state == "done"
        assert row.strategy == ("branch" if profile == "entra" else "mint")
        await world.phone.stop()
        await world.clock.advance(2)
        grant = await world.watch.grant()
        assert (grant.state, grant.generation) == ("held", 2)  # the value that travelled is spent
        for expected in (3, 4, 5):
            await world.clock.advance(90_000)
            assert isinstance(await world.watch.token(), TokenGranted)
            assert (await world.watch.grant()).generation >= expected


@EVERY
async def test_move_signs_the_phone_out(profile: str) -> None:
    async with running(profile) as world:
        assert (await world.phone.hand_off(strategy="move")).state == "done"
        own = await world.phone.one(Grant)
        assert (own.state, own.reason, own.refresh_token) == ("dead", "moved", None)
        assert (await world.phone.handoff()).held_token is None
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_branch_leaves_two_chains_and_no_value_in_two_hands() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(strategy="branch")
        await settle()
        phone, watch = await world.phone.one(Grant), await world.watch.grant()
        assert phone.refresh_token is not None and watch.refresh_token is not None
        assert phone.refresh_token != watch.refresh_token
        await world.phone.agent.keeper.refresh(phone.grant_id)
        assert (await world.phone.one(Grant)).state == "held"


async def test_revoke_reaches_the_device_when_it_comes_back() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        world.watch.channel.cut()
        rows = await world.within(world.phone.agent.revoke("watch", wait_s=5))
        assert [row.state for row in rows] == ["revoking"]
        assert isinstance(await world.watch.token(), TokenGranted)
        await world.watch.channel.connect()
        await world.clock.advance(1)
        answer = await world.watch.token()
        assert isinstance(answer, TokenRefused) and answer.error == "reauth_required"
        row = await world.phone.handoff()
        assert (row.state, row.reason, row.provider_said) == ("gone", "revoked", "accepted")
        assert "token_revoked" in world.provider.kinds()
        assert (await world.watch.grant()).refresh_token is None
        assert await world.phone.rows(Outgoing) == []


async def test_every_message_may_come_twice_and_late_and_again_after_a_restart() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        before = await world.watch.grant()
        packets = list(world.broker.seen)
        for _ in range(2):
            for packet in [*packets, *reversed(packets)]:
                world.broker.deliver(packet)
            await world.clock.advance(5)
            after = await world.watch.grant()
            assert (after.state, after.generation, after.refresh_token) == (
                before.state,
                before.generation,
                before.refresh_token,
            )
            assert world.watch.agent.turns.rejects["duplicate"] > 0
            assert (await world.phone.handoff()).state == "done"
            await world.watch.stop()
            await world.watch.start()


@pytest.mark.parametrize("lost", ["OFFER", "ACCEPT", "TOKEN", "STORED", "CLOSED"])
async def test_any_single_message_may_be_lost(lost: str) -> None:
    async with running("entra") as world:
        numbers = {"OFFER": 0, "ACCEPT": 1, "TOKEN": 2, "STORED": 3, "CLOSED": 4}
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) - 1 - begun == numbers[lost]
        row = await world.phone.hand_off()
        await world.clock.advance(10)
        assert row.state == "done"
        assert len(world.broker.held) == 1
        assert await world.phone.rows(Outgoing) == [] and await world.watch.rows(Outgoing) == []


async def test_cancel_before_the_token_arrives_gives_it_back_for_move_alone() -> None:
    async with running("strict") as world:
        own = await world.phone.one(Grant)
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2  # the watch never sees TOKEN
        assert (await world.phone.hand_off(strategy="move", wait_s=3)).state == "released"
        assert (await world.phone.one(Grant)).state == "dead"
        tokens, world.broker.held = world.broker.held, []
        world.broker.release()
        row = await world.within(world.phone.agent.cancel("watch"))
        assert row.state == "cancelled"
        back = await world.phone.one(Grant)
        assert (back.state, back.refresh_token) == ("held", own.refresh_token)
        for packet in tokens:  # the late TOKEN finds the tombstone
            world.broker.deliver(packet)
        await world.clock.advance(10)
        assert await world.watch.rows(Grant) == []
        assert (await world.phone.handoff()).state == "cancelled"


async def test_cancel_after_stored_stands_as_done() -> None:
    async with running("entra") as world:
        world.watch.channel.cut()
        assert (await world.phone.hand_off(wait_s=2)).state == "offered"
        await world.watch.channel.connect()
        await settle()
        world.phone.channel.cut()
        await world.clock.advance(3)
        await world.phone.channel.connect()
        await world.clock.advance(3)
        assert (await world.phone.handoff()).state == "done"


async def test_nothing_is_taken_back_because_time_passed() -> None:
    async with running("strict") as world:
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) > begun + 2
        assert (await world.phone.hand_off(strategy="move", wait_s=1)).state == "released"
        await world.clock.advance(8 * 86_400)
        row = await world.phone.handoff()
        assert row.state == "released"
        world.broker.release()
        await world.clock.advance(6 * 3600)
        assert (await world.phone.handoff()).state == "done"


async def test_an_offer_is_given_up_after_a_day_through_cancel() -> None:
    async with running("entra") as world:
        world.watch.channel.cut()
        await world.phone.hand_off(wait_s=0)
        await world.clock.advance(90_000)
        await world.phone.agent.turns.run(partial(clear_up, steps=world.phone.agent.steps))
        assert (await world.phone.handoff()).state == "cancelling"
        await world.watch.channel.connect()
        await world.clock.advance(2)
        assert (await world.phone.handoff()).state == "cancelled"


async def test_a_second_handoff_joins_the_open_one() -> None:
    async with running("entra") as world:
        world.watch.channel.cut()
        first = await world.phone.hand_off(wait_s=0)
        second = await world.phone.hand_off(wait_s=0)
        assert first.handoff_id == second.handoff_id
        assert len(await world.phone.rows(PhoneHandoff)) == 1


async def test_a_new_handoff_supersedes_the_older_grant() -> None:
    async with running("entra") as world:
        first = await world.phone.hand_off()
        second = await world.phone.hand_off()
        assert first.handoff_id != second.handoff_id
        grants = await world.watch.rows(Grant)
        assert [grant.handoff_id for grant in grants] == [second.handoff_id]
        old = await world.phone.handoff(handoff_id=first.handoff_id)
        assert (old.state, old.reason) == ("gone", "superseded")


async def test_pairing_again_settles_what_was_open() -> None:
    async with running("entra") as world:
        world.broker.hold = lambda packet: True
        await world.phone.hand_off(wait_s=0)
        world.broker.held.clear()
        world.broker.hold = lambda packet: False
        await world.pair()
        await world.clock.advance(10)
        assert (await world.phone.handoff()).state == "cancelled"
        assert sorted(p.state for p in await world.phone.rows(Pairing)) == ["active", "retired"]
        assert (await world.phone.hand_off()).state == "done"


@EVERY
async def test_a_lost_answer_is_handled_as_the_provider_allows(profile: str) -> None:
    async with running(profile) as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        await world.phone.stop()
        grant = await world.watch.grant()
        fault = iter(["lost_after"])
        world.watch.http.fault = lambda request: next(fault, "")
        answer = await world.watch.token(force_refresh=True)
        assert isinstance(answer, TokenGranted)  # the cached one, or a new one
        await world.clock.advance(5)
        after = await world.watch.grant()
        if profile == "strict":
            assert (after.state, after.reason) == ("needs_handoff", "uncertain")
            assert isinstance(await world.watch.token(), TokenGranted)  # the cached one
            await world.clock.advance(100_000)  # the access token ends; nobody knows what another try would end
            assert (await world.watch.grant()).refresh_token == grant.refresh_token
            refused = await world.watch.token()
            assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
            assert "reuse_detected" not in world.provider.kinds()
            await world.phone.start()
            await world.clock.advance(5)
            assert (await world.phone.handoff()).device_reason == "uncertain"
            assert (await world.phone.hand_off()).state == "done"
            assert isinstance(await world.watch.token(), TokenGranted)
        else:
            assert after.state == "held" and after.generation >= grant.generation
            assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)
            assert "reuse_detected" not in world.provider.kinds()


@EVERY
async def test_a_crash_with_an_open_intent_is_a_lost_answer(profile: str) -> None:
    async with running(profile) as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        grant = await world.watch.grant()
        await world.watch.edit(grant, is_sole=True)  # the phone said so: no other device can suffer
        world.watch.http.gate.clear()
        task = world.watch.agent.keeper.flights.fly(
            grant.grant_id, RefreshErrand()
        )  # the request hangs, then the power goes
        await settle()
        assert (await world.watch.grant()).state == "refreshing"
        await world.watch.stop()
        assert task.done()
        world.watch.http.gate.set()
        await world.watch.start()
        await world.clock.advance(5)
        after = await world.watch.grant()
        assert isinstance(await world.watch.token(), TokenGranted)
        if profile == "strict":
            assert after.state == "uncertain"  # it waits for the end of the access token
            await world.clock.advance(100_000)
            assert (await world.watch.grant()).state == "held"  # nothing had been committed
        else:
            assert after.state == "held"
        assert "reuse_detected" not in world.provider.kinds()


async def test_a_provider_that_revokes_is_obeyed_and_told_to_the_phone() -> None:
    async with running("entra") as world:
        from token_relay.sandbox.provider.memory.refusals import Trace
        from token_relay.sandbox.provider.tokens import families

        await world.phone.hand_off()
        await world.clock.advance(2)
        now = world.provider.time(world.clock.now().wall_s)
        families.revoke_user(world.provider.state, "password@contoso.example", Trace("t", "c", now, "", ""))
        await world.clock.advance(10)
        refused = await world.watch.token(force_refresh=True)
        await world.clock.advance(2)
        grant = await world.watch.grant()
        assert (grant.state, grant.reason, grant.refresh_token) == ("dead", "denied", None)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "reauth_required"
        row = await world.phone.handoff()
        assert (row.device_state, row.device_reason) == ("needs_handoff", "denied")


async def test_callers_share_one_request() -> None:
    import asyncio

    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(100_000)
        before = len(world.watch.http.requests)
        answers = await asyncio.gather(*(world.watch.token() for _ in range(20)))
        assert all(isinstance(answer, TokenGranted) for answer in answers)
        assert len(world.watch.http.requests) == before + 1


async def test_a_device_in_flight_and_revoked_stores_nothing() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        grant = await world.watch.grant()
        world.watch.http.gate.clear()
        world.watch.agent.keeper.flights.fly(grant.grant_id, RefreshErrand())
        await settle()
        await world.within(world.phone.agent.revoke("watch", wait_s=0))
        await settle()
        world.watch.http.gate.set()
        await world.clock.advance(2)
        grant = await world.watch.grant()
        assert (grant.state, grant.refresh_token) == ("dead", None)


@EVERY
async def test_an_accept_with_a_key_of_low_order_costs_no_token(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = KeyPair(bytes(32), KeyPair.from_random(bytes(32)).private_key)
    async with running(profile) as world:
        minted = world.provider.kinds().count("refresh_committed") + world.provider.kinds().count("signed_in")
        monkeypatch.setattr(
            "token_relay.agents.companion.steps.KeyPair", SimpleNamespace(from_random=lambda random: bad)
        )
        row = await world.phone.hand_off(wait_s=60)
        assert (row.state, row.reason, row.orphans) == ("offered", "", 0)
        assert world.phone.agent.turns.rejects["bad_point"] > 0
        assert world.provider.kinds().count("refresh_committed") + world.provider.kinds().count("signed_in") == minted
