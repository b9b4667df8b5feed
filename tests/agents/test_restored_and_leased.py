"""Restored disks, leases, renewals, and two of everything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.agents.world_kit import Nobody, SimulatedCompanion, form_value, running, settle
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.records import CompanionHandoff, Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.protocol.errors import LocalError, PersonNeededError, PolicyError, VaultError
from token_relay.protocol.pairing import Invitation
from token_relay.simulation.ports.http import SimulatedHttp

pytestmark = pytest.mark.asyncio
DAY = 86_400


# -- Restored backups --------------------------------------------------------------------------------------


async def test_a_restored_companion_locks_every_grant_until_a_new_handoff() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        old = world.watch.image()
        for _ in range(4):  # what happens after the backup: messages both ways
            world.watch.channel.cut()
            await world.watch.channel.connect()
            await world.clock.advance(5)
        await world.watch.restore(old)
        await world.watch.start()
        await world.clock.advance(10)
        grant = await world.watch.grant()
        assert (grant.state, grant.reason) == ("locked", "rollback")
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"
        assert (await world.watch.one(Pairing)).rollback == "self"
        assert (await world.phone.hand_off()).state == "done"
        assert isinstance(await world.watch.token(), TokenGranted)
        assert (await world.watch.one(Pairing)).rollback == ""


async def test_a_restored_companion_that_heard_nothing_is_told_again_within_hours() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        old = world.watch.image()
        await world.within(world.phone.agent.revoke("watch", wait_s=5))
        await world.watch.restore(old)
        world.broker.hold = lambda packet: True  # what the two say at the start gets lost for good
        await world.watch.start()
        await world.clock.advance(60)
        world.broker.held.clear()
        world.broker.hold = lambda packet: False
        await world.clock.advance(1800)
        assert (await world.watch.grant()).state == "held"
        await world.clock.advance(2400)
        grant = await world.watch.grant()
        assert grant.state in ("locked", "dead")


async def test_a_restored_companion_that_refreshed_is_noticed_by_its_generation() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        world.watch.channel.cut()
        await world.watch.channel.connect()  # the phone learns generation 2
        await world.clock.advance(5)
        assert (await world.phone.handoff()).generation == 2
        grant = await world.watch.grant()
        await world.watch.edit(grant, generation=1)
        world.watch.channel.cut()
        await world.watch.channel.connect()
        await world.clock.advance(5)
        assert (await world.watch.grant()).reason == "rollback"


async def test_a_restored_phone_jumps_its_numbers_and_gives_moved_tokens_up() -> None:
    async with running("strict") as world:
        old = world.phone.image()  # signed in, nothing handed over yet
        await world.phone.hand_off(strategy="move")
        for _ in range(3):
            world.phone.channel.cut()
            await world.phone.channel.connect()
            await world.clock.advance(5)
        sent = (await world.phone.one(Pairing)).seq_sent
        await world.phone.restore(old)
        await world.phone.start()
        await world.clock.advance(10)
        pairing = await world.phone.one(Pairing)
        assert pairing.seq_sent > sent and pairing.rollback == "self"
        own = await world.phone.one(Grant)
        assert (own.state, own.reason) == ("locked", "rollback")  # its token was moved, or may be spent
        assert isinstance(await world.watch.token(), TokenGranted)
        with pytest.raises(PersonNeededError):
            await world.phone.hand_off(strategy="move")
        await world.phone.sign_in()
        assert (await world.phone.hand_off(strategy="move")).state == "done"


async def test_a_restored_phone_that_moved_its_token_does_not_hold_it_too() -> None:
    async with running("strict") as world:
        begun = len(world.broker.seen)
        world.broker.hold = lambda packet: len(world.broker.seen) - 1 == begun + 1  # ACCEPT is held back
        assert (await world.phone.hand_off(strategy="move", wait_s=1)).state == "offered"
        old = world.phone.image()
        world.broker.release()
        await world.clock.advance(5)
        assert (await world.phone.handoff()).state == "done"
        await world.phone.restore(old)
        await world.phone.start()
        await world.clock.advance(20)
        own = await world.phone.one(Grant)
        assert own.refresh_token is None or own.state == "locked"
        row = await world.phone.handoff()
        assert (row.state, row.reason) in (("gone", "rollback"), ("done", ""))
        await world.within(world.phone.agent.revoke("watch", wait_s=10))
        assert (await world.watch.grant()).state == "dead"


async def test_an_honest_restart_is_not_taken_for_a_rollback() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        for end in (world.watch, world.phone, world.watch):
            await end.stop()
            await end.start()
            await world.clock.advance(10)
        for end in (world.phone, world.watch):
            assert (await end.one(Pairing)).rollback == ""


async def test_late_hellos_prove_nothing() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        world.broker.hold = lambda packet: packet.topic.endswith(world.watch.id) and bool(len(world.broker.held) < 1)
        world.watch.channel.cut()
        await world.watch.channel.connect()  # this HELLO is held back
        world.watch.channel.cut()
        await world.watch.channel.connect()  # this one overtakes it
        await world.clock.advance(5)
        world.broker.release()
        await world.clock.advance(5)
        assert (await world.phone.one(Pairing)).rollback == ""
        assert (await world.watch.grant()).state == "held"


# -- Leases ------------------------------------------------------------------------------------------------


async def test_the_lease_ends_and_a_fresh_word_renews_it() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.phone.stop()
        await world.clock.advance(2 * DAY + 3600)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"
        requests = len(world.watch.http.requests)
        await world.clock.advance(DAY)
        assert len(world.watch.http.requests) == requests  # no refresh either
        await world.phone.start()
        world.watch.channel.cut()
        await world.watch.channel.connect()
        await world.clock.advance(5)
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_only_the_answer_to_the_fresh_challenge_renews_a_lease() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        world.watch.channel.cut()
        await world.watch.channel.connect()
        await world.clock.advance(5)
        recorded = list(world.broker.seen)
        await world.phone.stop()
        await world.clock.advance(2 * DAY + 3600)
        for packet in recorded:  # every message that the phone ever sent
            world.broker.deliver(packet)
        await world.clock.advance(60)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"


async def test_a_lease_held_back_by_the_broker_gains_nothing() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.clock.advance(5)
        before = len(world.broker.seen)
        world.broker.hold = lambda packet: f"/{world.watch.id}/from/" in packet.topic
        world.watch.channel.cut()
        await world.watch.channel.connect()
        await world.clock.advance(5)
        assert len(world.broker.seen) > before
        await world.phone.stop()
        await world.clock.advance(1.9 * DAY)
        world.broker.release()  # the LEASE arrives almost two days late: it counts from its challenge
        await world.clock.advance(0.2 * DAY)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"


async def test_once_revoke_is_queued_no_lease_is_given() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        world.broker.hold = lambda packet: f"/{world.watch.id}/from/" in packet.topic
        await world.within(world.phone.agent.revoke("watch", wait_s=0))
        held = len(world.broker.held)
        world.watch.channel.cut()
        await world.watch.channel.connect()  # its HELLO arrives, the answers are held
        await world.clock.advance(5)
        revokes, world.broker.held = world.broker.held[:held], world.broker.held[held:]
        assert revokes
        sizes = {len(packet.payload) for packet in world.broker.held}
        assert sizes == {4172}
        world.broker.release()  # a broker that withholds the first REVOKE and delivers the rest
        await world.clock.advance(5)
        assert (await world.watch.grant()).state == "dead"  # the answer to HELLO was REVOKE again


async def test_turning_the_clock_back_does_not_lengthen_a_lease() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.phone.stop()
        await world.clock.advance(DAY)
        world.clock.jump(-400 * DAY)
        await world.clock.advance(DAY + 3600)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"


async def test_an_ended_lease_survives_a_start_without_a_clock() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.phone.stop()
        await world.watch.stop()
        await world.clock.advance(3 * DAY)  # powered off, but the wall clock went on
        world.clock.reboot()
        await world.watch.start()
        await world.clock.advance(120)
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"
        await world.watch.stop()
        world.clock.lose_sync()
        world.clock.reboot()
        await world.watch.start()
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"


# -- Renewal without the person ----------------------------------------------------------------------------


async def _make_uncertain(watch: SimulatedCompanion) -> None:
    """Plant the one state that may be renewed silently."""

    def step(turn: object) -> None:
        (grant,) = turn.tx.select(Grant, state="held")  # type: ignore[attr-defined]  # a Turn
        after = replace(grant, state="needs_handoff", reason="uncertain", refresh_token=None)
        turn.tx.put(after)  # type: ignore[attr-defined]  # a Turn
        watch.agent.steps.on_grant_changed(turn, grant, after)  # type: ignore[arg-type]  # a Turn

    await watch.agent.turns.run(step)


async def test_uncertain_is_renewed_by_branch_without_the_person_three_times_a_day() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        renewed = 0
        for _ in range(6):
            await world.clock.advance(3700)
            if (await world.watch.grant()).state == "held":
                await _make_uncertain(world.watch)
                await world.clock.advance(20)
                renewed += (await world.watch.grant()).state == "held"
        assert renewed == 3
        assert (await world.phone.handoff(state="done")).device_state == "needs_handoff"


async def test_no_silent_renewal_after_revoke_or_for_another_reason() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        await world.phone.edit(await world.phone.one(Pairing), renew_denied=True)
        await _make_uncertain(world.watch)
        await world.clock.advance(20)
        assert (await world.watch.grant()).state == "needs_handoff"
        assert len(await world.phone.rows(PhoneHandoff)) == 1
        assert await world.watch.rows(Outgoing) == []  # REJECT has settled RENEW


async def test_mint_is_never_renewed_without_the_person() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        await _make_uncertain(world.watch)
        await world.clock.advance(20)
        assert (await world.watch.grant()).state == "needs_handoff"
        assert (await world.phone.handoff()).device_reason == "uncertain"


async def test_a_replayed_renew_opens_no_second_handoff() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(5)
        before = len(world.broker.seen)
        await _make_uncertain(world.watch)
        await world.clock.advance(20)
        count = len(await world.phone.rows(PhoneHandoff))
        for packet in world.broker.seen[before:]:
            world.broker.deliver(packet)
        await world.clock.advance(20)
        assert len(await world.phone.rows(PhoneHandoff)) == count == 2


# -- Obtaining the token on the phone ----------------------------------------------------------------------


async def test_a_crash_while_branching_counts_an_orphan_and_goes_on() -> None:
    async with running("entra") as world:
        hung: list[int] = []

        def fault(request: object) -> str:
            if form_value(request, "grant_type") == "refresh_token" and not hung:  # type: ignore[arg-type]  # a request
                hung.append(1)
                world.phone.http.gate.clear()
            return ""

        world.phone.http.fault = fault
        assert (await world.phone.hand_off(wait_s=2)).state == "offered"
        assert (await world.phone.handoff()).is_obtaining
        await world.phone.stop()
        world.phone.http.gate.set()
        await world.phone.start()
        await world.clock.advance(10)
        row = await world.phone.handoff()
        assert (row.state, row.orphans) == ("done", 1)
        assert isinstance(await world.watch.token(), TokenGranted)


async def test_branch_waits_for_a_refresh_in_flight() -> None:
    async with running("entra") as world:
        own = await world.phone.one(Grant)
        in_flight: list[int] = []
        most: list[int] = []
        request = SimulatedHttp.request

        async def counted(asked: object) -> object:
            in_flight.append(1)
            most.append(len(in_flight))
            try:
                await world.clock.sleep(3)
                return await request(world.phone.http, asked)  # type: ignore[arg-type]  # a request
            finally:
                in_flight.pop()

        world.phone.http.request = counted  # type: ignore[method-assign, assignment]  # to count what overlaps
        world.phone.agent.keeper.flights.fly(own.grant_id, RefreshErrand())
        assert (await world.phone.hand_off()).state == "done"
        assert max(most) == 1


async def test_the_gate_of_the_application_is_held() -> None:
    async with running("entra") as world:
        await world.phone.stop()
        world.phone.allow = False
        await world.phone.start()
        with pytest.raises(PolicyError, match="allow_refresh_token_access"):
            await world.phone.hand_off()
        with pytest.raises(PolicyError):
            await world.phone.agent.accounts.get_access_token(return_refresh_token=True)
        assert (await world.phone.agent.accounts.get_access_token()).refresh_token is None


async def test_an_unsafe_strategy_is_refused_with_the_reason() -> None:
    async with running("auth0") as world:
        with pytest.raises(PolicyError, match="invalidates"):
            await world.phone.hand_off(strategy="branch")


async def test_a_narrower_scope_stays_narrow() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(scope="openid offline_access")
        await world.clock.advance(5)
        grant = await world.watch.grant()
        assert grant.scope == "offline_access openid"
        asked = [form_value(r, "scope") for r in world.watch.http.requests if form_value(r, "grant_type")]
        assert asked and all(scope == "offline_access openid" for scope in asked)


# -- Two of everything, full disks, strangers --------------------------------------------------------------


async def test_two_phones_and_two_watches_do_not_mix() -> None:
    async with running("entra") as world:
        phone2, watch2 = world.add_phone(), world.add_companion()
        for end in (phone2, watch2):
            await end.start()
        await phone2.sign_in()
        for phone in (world.phone, phone2):
            for watch in (world.watch, watch2):
                if (phone, watch) != (world.phone, world.watch):
                    await world.pair(phone, watch)
        for phone in (world.phone, phone2):
            for name in ("watch", "watch2"):
                assert (await phone.hand_off(name if name == "watch2" else world.watch.id)).state == "done"
        for watch in (world.watch, watch2):
            assert len(await watch.rows(Grant)) == 2
        await world.within(phone2.agent.revoke("watch2", wait_s=5))
        assert sorted(grant.state for grant in await watch2.rows(Grant)) == ["dead", "held"]
        assert [grant.state for grant in await world.watch.rows(Grant)] == ["held", "held"]
        strangers = [row.handoff_id for row in await phone2.rows(PhoneHandoff)]
        assert not set(strangers) & {row.handoff_id for row in await world.phone.rows(PhoneHandoff)}


async def test_a_grant_belongs_to_the_pairing_that_brought_it() -> None:
    async with running("entra") as world:
        row = await world.phone.hand_off()
        phone2 = world.add_phone()
        await phone2.start()
        await world.pair(phone2, world.watch)
        other = await phone2.one(Pairing)

        def revoke_foreign(turn: object) -> None:
            from token_relay.protocol.messages import Revoke

            turn.request(other.pairing_id, Revoke(handoff_id=row.handoff_id), row.handoff_id)  # type: ignore[attr-defined]  # a Turn

        await phone2.agent.turns.run(revoke_foreign)
        await world.clock.advance(3)
        assert (await world.watch.grant()).state == "held"
        (tombstone,) = await world.watch.rows(CompanionHandoff, pairing_id=other.pairing_id)
        assert (tombstone.handoff_id, tombstone.state) == (row.handoff_id, "dead")


async def test_a_full_disk_loses_nothing() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        before = await world.watch.grant()
        world.watch.vault.failure = VaultError("disk full")
        refused = await world.watch.token(force_refresh=True)
        assert isinstance(refused, TokenRefused)
        assert len([r for r in world.watch.http.requests if form_value(r, "grant_type")]) == 1  # intent first
        world.watch.vault.failure = None
        await world.clock.advance(120)
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)
        assert (await world.watch.grant()).generation > before.generation


async def test_an_answer_that_the_disk_refuses_is_kept_until_it_takes_it() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        before = await world.watch.grant()

        def fault(request: object) -> str:
            world.watch.vault.failure = VaultError("disk full")
            return ""

        world.watch.http.fault = fault
        world.watch.agent.keeper.flights.fly(before.grant_id, RefreshErrand())
        await world.clock.advance(30)
        world.watch.vault.failure = None
        world.watch.http.fault = lambda request: ""
        await world.clock.advance(3)
        after = await world.watch.grant()
        assert (after.state, after.generation) == ("held", before.generation + 1)
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)


async def test_an_invitation_works_once_and_three_bad_tries_burn_it() -> None:
    async with running("entra", paired=False) as world:
        text = await world.watch.agent.invitations.show()
        mailbox = Invitation.from_text(text).mailbox_id
        for _ in range(3):
            await world.watch.agent.link.receive(f"relay/v1/pair/{mailbox.hex()}", b"RTP1" + bytes(4168))
        assert world.watch.agent.invitations.left_s() == 0
        with pytest.raises(LocalError, match="burnt"):
            await world.watch.agent.invitations.wait()
        pairing = await world.pair()
        assert pairing.state == "active"
        used = await world.watch.agent.invitations.show()

        async def yes(number: str, name: str) -> bool:
            return True

        phone2 = world.add_phone()
        await phone2.start()
        await world.within(world.phone.agent.pairing.pair(used, yes))
        assert [p.peer_id for p in await world.watch.rows(Pairing, state="active")] == [world.phone.id]
        assert await phone2.rows(Pairing) == []


async def test_an_invitation_ends_after_ten_minutes() -> None:
    async with running("entra", paired=False) as world:
        await world.watch.agent.invitations.show()
        await world.clock.advance(601)
        with pytest.raises(LocalError, match="expired"):
            await world.watch.agent.invitations.wait()


async def test_nothing_is_active_before_the_person_has_confirmed() -> None:
    async with running("entra", paired=False) as world:
        text = await world.watch.agent.invitations.show()

        states: list[str] = []

        async def no(number: str, name: str) -> bool:
            states.extend(p.state for p in await world.watch.rows(Pairing))
            return False

        with pytest.raises(PersonNeededError):
            await world.within(world.phone.agent.pairing.pair(text, no))
        assert states == ["pending"]
        assert await world.phone.rows(Pairing) == []
        await world.clock.advance(1)
        assert await world.watch.rows(Pairing) == []


@pytest.mark.parametrize("size", [0, 1, 59, 60, 4171, 4172, 4173, 16459, 16460, 16461])
async def test_noise_is_counted_and_changes_nothing(size: int) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(2)
        image = world.watch.image()
        noise = (b"RTR1" + world.watch.random.bytes(size))[:size]
        for topic in (f"relay/v1/{world.watch.id}/from/{world.phone.id}", f"relay/v1/{world.watch.id}/from/x", "a/b"):
            await world.watch.agent.link.receive(topic, noise)
        assert world.watch.image() == image
        assert sum(world.watch.agent.turns.rejects.values()) >= 3


async def test_reflected_and_readdressed_envelopes_are_refused() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await settle()
        to_watch = [p for p in world.broker.seen if f"/{world.watch.id}/from/" in p.topic][-1]
        to_phone = [p for p in world.broker.seen if f"/{world.phone.id}/from/" in p.topic][-1]
        images = world.watch.image(), world.phone.image()
        await world.watch.agent.link.receive(to_watch.topic, to_phone.payload)  # the watch's own, sent back to it
        await world.phone.agent.link.receive(to_phone.topic, to_watch.payload)
        await world.phone.agent.link.receive(to_watch.topic, to_watch.payload)  # another's topic
        assert (world.watch.image(), world.phone.image()) == images
        assert world.watch.agent.turns.rejects["wrong_sender"] == 1
        assert world.phone.agent.turns.rejects["wrong_topic"] == 1


async def test_forget_ends_everything_with_a_device() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        assert await world.phone.agent.forget("watch") == 1
        assert await world.phone.rows(Pairing) == [] and await world.phone.rows(Outgoing) == []
        with pytest.raises(LocalError, match="no paired device"):
            await world.phone.hand_off()


async def test_the_companion_forgets_and_says_so() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        assert (await world.watch.agent.forget(pairing=False))["grants"] == 1
        await world.clock.advance(3)
        assert (await world.phone.handoff()).device_reason == "forgotten"
        assert (await world.watch.one(CompanionHandoff)).state == "dead"


async def test_sign_in_with_a_wrong_password_ends_after_three_tries() -> None:
    async with running("entra", paired=False) as world:
        from token_relay.agents.phone.person import SignInOptions

        with pytest.raises(PersonNeededError, match="password"):
            await world.phone.agent.accounts.sign_in(
                Nobody(password="wrong"), SignInOptions(username="password@contoso.example")
            )
        assert await world.phone.rows(Grant) == []
