"""The order of commit, send and request, and each barrier of the link, one test each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.agents.guard_kit import UNKNOWN, an_offer, between, count, deafen, last, say, watching
from tests.agents.world_kit import SimulatedDevice, World, form_value, running
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.ports import Transaction
from token_relay.agents.records import CachedToken, CompanionHandoff, Grant, Outgoing, Pairing, PhoneHandoff, Seen
from token_relay.agents.token_source import TokenGranted, TokenRefused
from token_relay.agents.turn import Turn
from token_relay.protocol import delivery
from token_relay.protocol import messages as m
from token_relay.protocol import pairing as wire
from token_relay.protocol.errors import LocalError, PeerError, TransientError, VaultError
from token_relay.protocol.identity import KeyPair

pytestmark = pytest.mark.asyncio
OTHER = "cd" * 16


def to(end: SimulatedDevice, sender: SimulatedDevice) -> str:
    return f"relay/v1/{end.id}/from/{sender.id}"


async def deliver_one(
    world: World, recipient: SimulatedDevice, sender: SimulatedDevice, kind: str
) -> tuple[str, bytes]:
    """Hold everything from the message of this kind on; returns its topic and envelope, not yet delivered."""
    found = [
        packet
        for packet, message in zip(
            [p for p in world.broker.seen if p.topic == to(recipient, sender)],
            between(world, sender, recipient),
            strict=True,
        )
        if message.body.type == kind
    ]
    return found[-1].topic, found[-1].payload


# -- Commit, then acknowledge, then send -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "answer"), [("OFFER", "ACCEPT"), ("TOKEN", "STORED"), ("ACCEPT", "TOKEN"), ("STORED", "CLOSED")]
)
async def test_nothing_is_acknowledged_or_sent_before_the_commit(kind: str, answer: str) -> None:
    async with running("strict") as world:
        recipient, sender = (world.watch, world.phone) if kind in ("OFFER", "TOKEN") else (world.phone, world.watch)
        world.broker.hold = lambda packet: (
            packet.topic == to(recipient, sender)
            and [message.body.type for message in between(world, sender, recipient)][-1] == kind
        )
        await world.phone.hand_off(strategy="move", wait_s=1)
        topic, envelope = await deliver_one(world, recipient, sender, kind)
        rows = await recipient.rows(CompanionHandoff), await recipient.rows(PhoneHandoff), await recipient.rows(Grant)
        before = [message.body.type for message in between(world, recipient, sender)].count(answer)

        def refuse(tx: Transaction) -> None:
            raise VaultError("the disk is full")

        with watching(recipient, refuse):
            with pytest.raises(VaultError, match="full"):  # so the channel does not acknowledge it
                await recipient.agent.link.receive(topic, envelope)
            await world.clock.advance(0.5)
        assert [message.body.type for message in between(world, recipient, sender)].count(answer) == before
        after = await recipient.rows(CompanionHandoff), await recipient.rows(PhoneHandoff), await recipient.rows(Grant)
        assert after == rows
        world.broker.release()
        await recipient.agent.link.receive(topic, envelope)
        await world.clock.advance(0.5)
        assert [message.body.type for message in between(world, recipient, sender)].count(answer) > before


async def test_the_replay_window_is_in_the_transaction_of_the_effect() -> None:
    async with running("entra") as world:
        gaps: list[int] = []

        def look(tx: Transaction) -> None:
            for pairing in tx.select(Pairing):
                if pairing.seq_high and tx.get(Seen, pairing.pairing_id, pairing.seq_high) is None:
                    gaps.append(pairing.seq_high)

        with watching(world.watch, look), watching(world.phone, look):
            await world.phone.hand_off()
            await world.clock.advance(3)
        assert gaps == []
        seqs = {message.head.seq for message in between(world, world.phone, world.watch)}
        assert seqs <= {seen.seq for seen in await world.watch.rows(Seen)}


async def test_released_is_durable_with_its_token_in_the_outbox_and_the_phones_own_gone() -> None:
    async with running("strict") as world:
        wrong: list[str] = []

        def look(tx: Transaction) -> None:
            tokens = {row.handoff_id for row in tx.select(Outgoing, type="TOKEN")}
            released = {row.handoff_id for row in tx.select(PhoneHandoff, state="released")}
            if tokens != released:
                wrong.append(f"{tokens} {released}")
            if released and any(grant.refresh_token is not None for grant in tx.select(Grant)):
                wrong.append("two holders")

        deafen(world, world.watch)
        with watching(world.phone, look):
            row = await world.phone.hand_off(strategy="move", wait_s=0)
            fields = {"handoff_id": row.handoff_id, "one_time_key": "09" + "00" * 31}
            await say(world.watch, m.Accept(**fields, offer_hash=row.offer_hash.hex()))
        assert wrong == []
        assert (await world.phone.handoff()).state == "released"


async def test_a_resent_request_is_the_same_bytes() -> None:
    async with running("entra") as world:
        deafen(world, world.watch)
        await world.phone.hand_off(wait_s=0)
        before = len(world.broker.seen)
        await world.clock.advance(60)
        again = {p.payload for p in world.broker.seen[before:] if p.topic == to(world.watch, world.phone)}
        assert again == {(await world.phone.one(Outgoing)).envelope}


# -- Intent, request, token, answer ------------------------------------------------------------------------


def on_disk(end: SimulatedDevice) -> tuple[Callable[[Transaction], None], dict[str, Grant]]:
    """Return a look that remembers the grant as the last step would commit it."""
    grants: dict[str, Grant] = {}

    def look(tx: Transaction) -> None:
        grants.update({grant.grant_id: grant for grant in tx.select(Grant)})

    return look, grants


@pytest.mark.parametrize("profile", ["entra", "strict"])
async def test_the_intent_is_durable_before_each_request(profile: str) -> None:
    async with running(profile) as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        grant = await world.watch.grant()
        look, grants = on_disk(world.watch)
        asked: list[tuple[str, int, int, bool]] = []

        def fault(request: Any) -> str:
            if form_value(request, "grant_type") != "refresh_token":
                return ""
            kept = grants[grant.grant_id]
            asked.append((kept.state, kept.intent_attempts, kept.intent_late, bool(kept.intent)))
            return "lost_before" if len(asked) < 2 else ""

        def forget_tokens(tx: Transaction) -> None:
            for token in tx.select(CachedToken):
                tx.delete(CachedToken, token.grant_id, token.scope)

        world.watch.http.fault = fault
        await world.watch.rows(Grant)
        with watching(world.watch, look):
            await world.watch.vault.run(forget_tokens)
            await world.watch.token(force_refresh=True)
            await world.clock.advance(1200)
        assert asked[0] == ("refreshing", 1, 0, True)
        after = await world.watch.grant()
        if profile == "strict":  # nobody knows what reuse would end there
            assert (len(asked), after.state, after.reason) == (1, "needs_handoff", "uncertain")
            assert after.refresh_token == grant.refresh_token
        else:
            assert asked[1:] == [("refreshing", 2, 0, True)]
            assert (after.state, after.generation) == ("held", grant.generation + 1)


async def test_the_rotated_token_is_durable_with_the_access_token_or_before() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        wrong: list[str] = []
        before: dict[str, Any] = {}

        def look(tx: Transaction) -> None:
            (grant,) = tx.select(Grant)
            access = {token.access_token for token in tx.select(CachedToken)}
            if before and access != before["access"] and grant.refresh_token == before["refresh"]:
                wrong.append("an access token before its refresh token")
            if before and grant.refresh_token != before["refresh"] and grant.generation != before["generation"] + 1:
                wrong.append("a new token of the old generation")
            before.update(access=access, refresh=grant.refresh_token, generation=grant.generation)

        with watching(world.watch, look):
            await world.watch.rows(Grant)
            first = await world.watch.token()
            again = await world.watch.token(force_refresh=True)
        assert isinstance(first, TokenGranted) and isinstance(again, TokenGranted)
        assert first.access_token != again.access_token
        assert wrong == []


@pytest.mark.parametrize(
    "changes",
    [
        {"generation": 9},
        {"state": "held"},
        {"state": "locked", "reason": "rollback"},
        {"state": "dead", "reason": "revoked", "refresh_token": None},
    ],
    ids=["another generation", "held", "locked", "dead"],
)
async def test_an_answer_that_comes_too_late_is_neither_stored_nor_served(changes: Any) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        cached = await world.watch.rows(CachedToken)
        grant = await world.watch.grant()
        world.watch.http.gate.clear()
        world.watch.agent.keeper.flights.fly(grant.grant_id, RefreshErrand())
        await world.clock.advance(1)
        begun = await world.watch.grant()
        assert begun.state == "refreshing"
        meanwhile = replace(begun, **changes)
        await world.watch.edit(meanwhile)
        world.watch.http.fault = lambda request: "not_sent"  # whatever is asked from here on
        world.watch.http.gate.set()
        await world.clock.advance(0.5)
        after = await world.watch.grant()
        assert (after.generation, after.refresh_token) == (meanwhile.generation, meanwhile.refresh_token)
        # An intent that is still open without a flight is a lost answer.
        assert (after.state, after.reason) == (changes.get("state", "uncertain"), changes.get("reason", ""))
        assert await world.watch.rows(CachedToken) == cached


async def test_a_deleted_grant_is_not_written_again_by_a_late_answer() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        grant = await world.watch.grant()
        world.watch.http.gate.clear()
        world.watch.agent.keeper.flights.fly(grant.grant_id, RefreshErrand())
        await world.clock.advance(1)
        await world.watch.vault.run(lambda tx: tx.delete(Grant, grant.grant_id))
        world.watch.http.gate.set()
        await world.clock.advance(0.5)
        assert await world.watch.rows(Grant) == []


async def test_a_caller_that_goes_away_ends_no_request() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        grant = await world.watch.grant()
        world.watch.http.gate.clear()
        answer = await world.watch.token(force_refresh=True, timeout_s=0.05)  # served from the cache, in the end
        assert isinstance(answer, TokenGranted)
        assert (await world.watch.grant()).state == "refreshing"
        world.watch.http.gate.set()
        await world.clock.advance(1)
        after = await world.watch.grant()
        assert (after.state, after.generation) == ("held", grant.generation + 1)


# -- The link: who, to whom, which pairing, which number ---------------------------------------------------


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ({"from": "a" * 26}, "id_mismatch"),
        ({"to": "a" * 26}, "id_mismatch"),
        ({"pairing_id": OTHER}, "wrong_pairing"),
        ({"type": "NEWS"}, "unsupported"),
        ({"v": 2}, "unsupported"),
        ({"seq": 0}, "bad_field"),
        ({"seq": 2**52 + 1}, "bad_field"),
        ({"extra": 1}, "bad_field"),
    ],
    ids=str,
)
async def test_a_head_that_is_not_as_it_must_be_is_counted_and_moves_nothing(head: Any, reason: str) -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, an_offer(), head=head)
        assert await world.watch.rows(CompanionHandoff) == []
        assert world.watch.agent.turns.rejects[reason] == 1
        rejected = reason == "unsupported"
        assert count(world, world.watch, world.phone, m.Reject) == int(rejected)
        if rejected:
            assert last(world, world.watch, world.phone, m.Reject).reason == "unsupported"


async def test_a_refusal_that_is_not_understood_is_not_refused() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, m.Reject(handoff_id=None, reason="unsupported"), head={"v": 2})
        assert world.watch.agent.turns.rejects["unsupported"] == 1
        assert count(world, world.watch, world.phone, m.Reject) == 0


async def test_a_message_that_names_another_sender_in_its_topic_is_refused() -> None:
    async with running("entra") as world:
        deafen(world, world.watch)
        await say(world.phone, an_offer())
        topic, envelope = await deliver_one(world, world.watch, world.phone, "OFFER")
        await world.watch.agent.link.receive(topic.replace(world.phone.id, "a" * 26), envelope)
        await world.watch.agent.link.receive(topic.replace(world.watch.id, "a" * 26), envelope)
        assert await world.watch.rows(CompanionHandoff) == []
        assert (world.watch.agent.turns.rejects["wrong_sender"], world.watch.agent.turns.rejects["wrong_topic"]) == (
            1,
            1,
        )


async def test_an_unpaired_sender_is_nobody() -> None:
    async with running("entra") as world:
        deafen(world, world.watch)
        await say(world.phone, an_offer())
        topic, envelope = await deliver_one(world, world.watch, world.phone, "OFFER")
        pairing = await world.watch.one(Pairing)
        await world.watch.vault.run(lambda tx: tx.delete(Pairing, pairing.pairing_id))
        await world.watch.agent.link.receive(topic, envelope)
        assert world.watch.agent.turns.rejects["unknown_sender"] == 1


async def test_a_pending_pairing_takes_nothing_but_its_own_end() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await world.watch.edit(await world.watch.one(Pairing), state="pending")
        before = len(world.broker.seen)
        await say(world.phone, an_offer())
        await say(world.phone, m.Hello(challenge=OTHER, seq_sent=99, seq_accepted=0, handoffs=[]))
        assert await world.watch.rows(CompanionHandoff) == []
        assert world.watch.agent.turns.rejects["not_active"] == 2
        assert [p for p in world.broker.seen[before:] if p.topic == to(world.phone, world.watch)] == []


async def test_a_number_used_again_for_other_bytes_means_a_restored_peer_and_nothing_else() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, m.Cancel(handoff_id=OTHER))
        high = (await world.watch.one(Pairing)).seq_high
        await say(world.phone, an_offer(), head={"seq": high})
        assert [row.handoff_id for row in await world.watch.rows(CompanionHandoff)] == [OTHER]
        claim = last(world, world.watch, world.phone, m.Rollback)
        assert claim.seq_accepted == high
        pairing = await world.watch.one(Pairing)
        assert (pairing.rollback, pairing.seq_high) == ("peer", high)


async def test_a_number_below_the_window_is_answered_by_a_greeting_alone() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        pairing = await world.watch.one(Pairing)
        await world.watch.edit(pairing, seq_high=delivery.WINDOW + 500)
        greetings = count(world, world.watch, world.phone, m.Hello)
        await say(world.phone, an_offer(), head={"seq": 500})
        assert await world.watch.rows(CompanionHandoff) == []
        assert world.watch.agent.turns.rejects["too_old"] == 1
        assert count(world, world.watch, world.phone, m.Hello) == greetings + 1
        await say(world.phone, an_offer(), head={"seq": 501})
        assert [row.state for row in await world.watch.rows(CompanionHandoff)] == ["ready"]


@pytest.mark.parametrize(
    ("sent", "accepted", "accused"),
    [("low", "as known", True), ("high", "less", True), ("high", "as known", False), ("high", "more", False)],
)
async def test_a_greeting_that_claims_less_than_our_disk_knows_is_answered_rollback(
    sent: str, accepted: str, accused: bool
) -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.phone)
        mine = await world.watch.one(Pairing)
        known = mine.seq_sent - 1
        await world.watch.edit(mine, peer_accepted=known)
        body = m.Hello(
            challenge=OTHER,
            seq_sent=mine.seq_high - 1 if sent == "low" else mine.seq_high + 1,
            seq_accepted={"less": known - 1, "as known": known, "more": known + 1}[accepted],
            handoffs=[],
        )
        await say(world.phone, body, head={"seq": mine.seq_high + 1})
        assert count(world, world.watch, world.phone, m.Rollback) == int(accused)
        after = await world.watch.one(Pairing)
        assert after.rollback == ("peer" if accused else "")
        assert after.peer_accepted == body.seq_accepted


async def test_a_peer_that_accepted_what_we_never_sent_proves_our_own_disk_restored() -> None:
    async with running("entra") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        deafen(world, world.phone)
        mine = await world.watch.one(Pairing)
        claimed = mine.seq_sent + 7
        await say(world.phone, m.Hello(challenge=OTHER, seq_sent=mine.seq_high + 1, seq_accepted=claimed, handoffs=[]))
        after = await world.watch.one(Pairing)
        assert after.rollback == "self"
        assert after.seq_sent > claimed + delivery.WINDOW  # past whatever the lost future has used
        grant = await world.watch.grant()
        assert (grant.state, grant.reason) == ("locked", "rollback")


async def test_no_number_is_given_out_twice_whatever_copy_a_step_still_holds() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)

        def careless(turn: Turn) -> None:
            (old,) = turn.tx.select(Pairing)
            turn.answer(old.pairing_id, m.Stored(handoff_id=UNKNOWN))
            changed = turn.change(Pairing, old.pairing_id, renew_denied=True)  # the copy is older than the number
            assert changed.seq_sent == old.seq_sent + 1
            turn.answer(old.pairing_id, m.Stored(handoff_id=UNKNOWN))
            turn.change(Pairing, old.pairing_id, renew_denied=False)

        await world.watch.agent.turns.run(careless)
        await world.watch.agent.turns.run(careless)
        await world.clock.advance(0.5)
        seqs = [message.head.seq for message in between(world, world.watch, world.phone)]
        assert len(seqs) == len(set(seqs)) and seqs == sorted(seqs)
        assert (await world.watch.one(Pairing)).seq_sent == seqs[-1]


async def test_the_outbox_of_a_pairing_has_an_end() -> None:
    async with running("entra") as world:
        pairing = await world.watch.one(Pairing)
        row = Outgoing(pairing.pairing_id, 0, "STORED", UNKNOWN, b"", "boot-1 0.0 0.0 s")

        def fill(tx: Transaction) -> None:
            for seq in range(delivery.OUTBOX_ROWS_MAX):
                tx.put(replace(row, seq=10_000 + seq))

        await world.watch.vault.run(fill)
        with pytest.raises(TransientError, match="unanswered"):
            await world.watch.agent.turns.run(
                lambda turn: turn.request(pairing.pairing_id, m.Stored(handoff_id=UNKNOWN), UNKNOWN)
            )


async def test_an_answer_is_given_once_in_a_pause_however_often_it_is_asked_for() -> None:
    async with running("entra") as world:
        deafen(world, world.phone)
        await say(world.phone, m.Cancel(handoff_id=OTHER))
        packets = [p for p in world.broker.seen if p.topic == to(world.watch, world.phone)]
        for _ in range(5):
            world.broker.deliver(packets[-1])
        await world.clock.advance(0.5)
        answers = count(world, world.watch, world.phone, m.CancelConfirmed)
        assert answers == 2  # the first, and one for the first repetition
        await world.clock.advance(delivery.ANSWER_PAUSE_S + 1)
        world.broker.deliver(packets[-1])
        await world.clock.advance(0.5)
        assert count(world, world.watch, world.phone, m.CancelConfirmed) == 3


# -- Pairing -----------------------------------------------------------------------------------------------


async def yes(number: str, name: str) -> bool:
    return True


async def test_an_invitation_that_was_used_takes_no_second_question() -> None:
    async with running("entra", paired=False) as world:
        text = await world.watch.agent.invitations.show()
        await world.within(world.phone.agent.pairing.pair(text, yes))
        before = await world.watch.rows(Pairing)
        invitation = wire.Invitation.from_text(text)
        fields = wire.Pair1Fields(v=1, type="PAIR1", static_key=OTHER * 2, name="thief", nonce=OTHER)
        fresh = KeyPair.from_random(bytes(range(32)))
        pair1 = wire.seal_pair1(invitation, fresh=fresh, nonce=bytes(24), fields=fields)
        with pytest.raises(PeerError, match="invitation used"):
            await world.watch.agent.invitations.receive(invitation.mailbox_id, pair1)
        assert await world.watch.rows(Pairing) == before


async def test_an_invitation_that_is_too_old_takes_no_question() -> None:
    async with running("entra", paired=False) as world:
        text = await world.watch.agent.invitations.show()
        invitation = wire.Invitation.from_text(text)
        fields = wire.Pair1Fields(v=1, type="PAIR1", static_key=OTHER * 2, name="late", nonce=OTHER)
        fresh = KeyPair.from_random(bytes(range(32)))
        pair1 = wire.seal_pair1(invitation, fresh=fresh, nonce=bytes(24), fields=fields)
        await world.clock.advance(wire.INVITATION_LIFETIME_S + 1)
        with pytest.raises(PeerError, match="expired"):
            await world.watch.agent.invitations.receive(invitation.mailbox_id, pair1)
        assert await world.watch.rows(Pairing) == []


async def test_bad_tries_burn_an_invitation_and_are_counted_one_by_one() -> None:
    async with running("entra", paired=False) as world:
        text = await world.watch.agent.invitations.show()
        mailbox = wire.Invitation.from_text(text).mailbox_id
        for left in (2, 1, 0):
            assert world.watch.agent.invitations.left_s() > 0
            with pytest.raises(PeerError):
                await world.watch.agent.invitations.receive(mailbox, b"RTP1" + bytes([left]) * 4168)
        assert world.watch.agent.invitations.left_s() == 0
        with pytest.raises(LocalError, match="burnt"):
            await world.watch.agent.invitations.wait()


async def half_paired(world: World) -> Pairing:
    """PAIR1 and PAIR2 are done, the person has not confirmed yet: the watch's pending pairing."""
    text = await world.watch.agent.invitations.show()

    async def later(number: str, name: str) -> bool:
        return False

    world.broker.hold = lambda packet: packet.payload.startswith(wire.DECLINED_MAGIC)  # what it says then is lost
    with pytest.raises(Exception, match="not confirmed"):
        await world.within(world.phone.agent.pairing.pair(text, later))
    return await world.watch.one(Pairing)


@pytest.mark.parametrize("right", [True, False])
async def test_pair3_activates_only_the_transcript_that_both_saw(right: bool) -> None:
    async with running("entra", paired=False) as world:
        pending = await half_paired(world)
        assert pending.state == "pending"
        body = m.Pair3(transcript_hash=pending.transcript_hash.hex() if right else OTHER * 2)

        def step(turn: Any) -> None:
            world.watch.agent.invitations.on_pair3(turn, pending, body)

        if right:
            await world.watch.agent.turns.run(step)
        else:
            with pytest.raises(PeerError, match="wrong transcript"):
                await world.watch.agent.turns.run(step)
        assert (await world.watch.one(Pairing)).state == ("active" if right else "pending")


async def test_pair3_comes_within_the_invitations_life_or_not_at_all() -> None:
    async with running("entra", paired=False) as world:
        pending = await half_paired(world)
        await world.clock.advance(wire.INVITATION_LIFETIME_S + 1)
        body = m.Pair3(transcript_hash=pending.transcript_hash.hex())
        with pytest.raises(PeerError, match="expired"):
            await world.watch.agent.turns.run(lambda turn: world.watch.agent.invitations.on_pair3(turn, pending, body))
        assert (await world.watch.one(Pairing)).state == "pending"


async def test_pair4_activates_only_the_transcript_that_both_saw() -> None:
    async with running("entra") as world:
        pairing = await world.phone.one(Pairing)
        await world.phone.edit(pairing, state="pending")
        await say(world.watch, m.Pair4(transcript_hash=OTHER * 2))
        assert (await world.phone.one(Pairing)).state == "pending"
        assert world.phone.agent.turns.rejects["wrong_transcript"] == 1
        await say(world.watch, m.Pair4(transcript_hash=pairing.transcript_hash.hex()))
        assert (await world.phone.one(Pairing)).state == "active"


async def test_both_ends_show_the_number_of_the_whole_exchange() -> None:
    async with running("entra", paired=False) as world:
        text = await world.watch.agent.invitations.show()
        seen: list[str] = []

        async def confirm(number: str, name: str) -> bool:
            seen.append(number)
            return True

        pairing = await world.within(world.phone.agent.pairing.pair(text, confirm))
        invitation = wire.Invitation.from_text(text)
        exchange = {p.payload: None for p in world.broker.seen if p.payload.startswith(b"RTP1")}
        pair1, pair2 = exchange
        transcript = wire.transcript_hash(invitation, pair1, pair2)
        assert pairing.transcript_hash == transcript == (await world.watch.one(Pairing)).transcript_hash
        assert seen == [wire.check_number(transcript)]


# -- After the end -----------------------------------------------------------------------------------------


async def test_after_the_lease_nothing_leaves_and_nothing_is_asked() -> None:
    async with running("entra") as world:
        await world.phone.hand_off(lease_days=2)
        await world.clock.advance(3)
        await world.phone.stop()
        await world.clock.advance(2 * 86_400 - 600)
        assert isinstance(await world.watch.token(force_refresh=True), TokenGranted)  # it outlives the lease
        await world.clock.advance(1200)
        grant = await world.watch.grant()
        requests = len(world.watch.http.requests)
        assert (await world.watch.rows(CachedToken))[0].access_token is not None
        refused = await world.watch.token()
        assert isinstance(refused, TokenRefused) and refused.error == "locked"
        await world.watch.agent.keeper.refresh(grant.grant_id)
        await world.clock.advance(3600)
        assert len(world.watch.http.requests) == requests
        assert (await world.watch.grant()).generation == grant.generation


async def test_an_erased_grant_takes_its_access_tokens_along() -> None:
    async with running("strict") as world:
        await world.phone.hand_off()
        await world.clock.advance(3)
        assert len(await world.watch.rows(CachedToken)) == 1
        await world.phone.agent.revoke("watch", wait_s=5)
        assert await world.watch.rows(CachedToken) == []
        (grant,) = await world.watch.rows(Grant)
        assert (grant.state, grant.refresh_token) == ("dead", None)
