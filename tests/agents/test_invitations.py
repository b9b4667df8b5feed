"""What a phone hears of an invitation that is over, and what a companion hears of a phone that gives up."""

from __future__ import annotations

import asyncio

import pytest

from tests.agents.world_kit import World, running, settle
from token_relay.agents.companion import invitations as companions
from token_relay.agents.companion.invitations import Invitations, Paired
from token_relay.agents.device_names import is_name
from token_relay.agents.phone.pairing import PAIR1_WAIT_S, NoAnswerError
from token_relay.agents.records import Pairing
from token_relay.protocol import pairing as wire
from token_relay.protocol.errors import LocalError, PeerError, PersonNeededError, TransientError, VaultError
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.topics import mailbox_topic

pytestmark = pytest.mark.asyncio

NONCE = "ab" * 16


async def yes(number: str, name: str) -> bool:
    return True


async def no(number: str, name: str) -> bool:
    return False


def shows(world: World) -> Invitations:
    return world.watch.agent.invitations


def question(text: str, number: int = 1) -> bytes:
    """A PAIR1 of somebody who has seen the invitation."""
    fields = wire.Pair1Fields(v=1, type="PAIR1", static_key="cd" * 32, name="other", nonce=NONCE)
    fresh = KeyPair.from_random(number.to_bytes(32, "big"))
    return wire.seal_pair1(wire.Invitation.from_text(text), fresh=fresh, nonce=bytes(24), fields=fields)


async def ask(world: World, text: str, payload: bytes) -> str:
    """Put it into the mailbox, past the broker; returns the reason why it was refused."""
    try:
        await shows(world).receive(wire.Invitation.from_text(text).mailbox_id, payload)
    except PeerError as exc:
        return exc.reason
    return ""


def answers(world: World) -> list[bytes]:
    return [p.payload for p in world.broker.seen if p.payload.startswith(wire.ENDED_MAGIC)]


async def used(world: World) -> str:
    text = await shows(world).show()
    other = world.add_phone()
    await other.start()
    await world.within(other.agent.pairing.pair(text, yes))
    return text


async def taken(world: World) -> str:
    """Another phone has asked, and its person has not said anything yet."""
    text = await shows(world).show()
    await ask(world, text, question(text))
    return text


async def declined(world: World) -> str:
    text = await shows(world).show()
    with pytest.raises(PersonNeededError, match="not confirmed"):
        await world.within(world.phone.agent.pairing.pair(text, no))
    await world.clock.advance(1)
    return text


async def expired(world: World) -> str:
    text = await shows(world).show()
    await world.clock.advance(wire.INVITATION_LIFETIME_S + 180)
    return text


async def burnt(world: World) -> str:
    text = await shows(world).show()
    for number in range(wire.INVITATION_BAD_TRIES_MAX):
        await ask(world, text, b"RTP1" + bytes([number]) * 4168)
    return text


async def replaced(world: World) -> str:
    text = await shows(world).show()
    await shows(world).show()
    return text


ENDS = {
    "used": (used, "was used already"),
    "taken": (taken, "was used already"),
    "declined": (declined, "was declined on a phone"),
    "expired": (expired, "expired 3 min ago"),
    "burnt": (burnt, "burnt by three bad tries"),
    "replaced": (replaced, "a newer invitation replaced this one"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_phone_is_told_at_once_why_an_invitation_is_over(end: str) -> None:
    over, said = ENDS[end]
    async with running("entra", paired=False) as world:
        text = await over(world)
        before = await world.watch.rows(Pairing)
        asked = len(world.broker.seen)
        with pytest.raises(PersonNeededError, match=said) as told:
            await world.within(world.phone.agent.pairing.pair(text, yes))
        questions = [p for p in world.broker.seen[asked:] if p.sender == "phone" and p.payload[:4] == wire.PAIR_MAGIC]
        assert len({p.payload for p in questions}) == 1 and len(answers(world)) == 1  # the first answer was enough
        assert "token-relay companion pair" in told.value.hint
        assert await world.watch.rows(Pairing) == before
        assert await world.phone.rows(Pairing) == []
        pairing = await world.pair()  # the next one works
        assert pairing.state == "active"


async def test_an_answer_to_an_older_question_ends_no_new_attempt() -> None:
    async with running("entra", paired=False) as world:
        text = await replaced(world)
        with pytest.raises(PersonNeededError):
            await world.within(world.phone.agent.pairing.pair(text, yes))
        (old,) = set(answers(world))
        fresh = await shows(world).show()
        same = wire.Invitation.from_text(text).mailbox_id  # a broker that says the old answer again, in both mailboxes
        for invitation in (text, fresh):
            mailbox = wire.Invitation.from_text(invitation).mailbox_id
            world.broker.hold = lambda packet: packet.sender == "watch"
            trying = asyncio.create_task(world.phone.agent.pairing.pair(invitation, yes))
            await world.clock.advance(1)
            await world.phone.agent.pairing.receive(mailbox, old)
            await world.clock.advance(1)
            assert not trying.done() and world.phone.agent.turns.rejects["bad_mac"] >= 1
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)
            world.broker.hold = lambda packet: False
        assert same != wire.Invitation.from_text(fresh).mailbox_id


async def test_who_has_not_seen_the_invitation_is_not_answered_and_moves_nothing() -> None:
    async with running("entra", paired=False) as world:
        text = await replaced(world)
        guess = wire.Invitation(world.watch.agent.turns.own.public_key, wire.PairingSecret(bytes(16)))
        assert await ask(world, text, question(guess.text())) == "bad_mac"
        assert await ask(world, text, bytes(4172)) == "bad_magic"
        assert answers(world) == []


async def test_the_answers_of_one_mailbox_are_bounded_and_then_it_is_left() -> None:
    async with running("entra", paired=False) as world:
        text = await replaced(world)
        said = [await ask(world, text, question(text, number)) for number in range(1, companions.LOOKS_MAX + 3)]
        assert said == ["invitation_used"] * companions.LOOKS_MAX + ["wrong_mailbox"] * 2
        assert len(answers(world)) == companions.LOOKS_MAX
        topic = mailbox_topic(wire.Invitation.from_text(text).mailbox_id)
        await world.clock.advance(1)  # its own answers come back, as to everybody there
        before = world.watch.agent.turns.rejects.total()
        await world.phone.agent.turns.channel.publish(topic, question(text, 500))
        await world.clock.advance(1)
        assert world.watch.agent.turns.rejects.total() == before  # the broker brings it no more


async def test_a_question_that_comes_without_end_is_answered_so_often_and_no_more() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        said = [await ask(world, text, question(text)) for _ in range(companions.LOOKS_MAX + 10)]
        assert said == [""] * (companions.LOOKS_MAX + 1) + ["too_often"] * 9
        pair2 = [p for p in world.broker.seen if p.payload.startswith(wire.PAIR_MAGIC) and p.sender == "watch"]
        assert len({p.payload for p in pair2}) == 1 and len(pair2) == companions.LOOKS_MAX + 1


async def test_so_many_ended_invitations_are_remembered_and_no_more() -> None:
    async with running("entra", paired=False) as world:
        texts = [await shows(world).show() for _ in range(companions.ENDED_MAX + 3)]
        said = [await ask(world, text, question(text)) for text in texts[:-1]]
        assert said == ["wrong_mailbox"] * 2 + ["invitation_used"] * companions.ENDED_MAX
        assert await ask(world, texts[-1], question(texts[-1])) == ""


async def test_two_messages_at_once_leave_each_old_mailbox_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("entra", paired=False) as world:
        texts = [await shows(world).show() for _ in range(4)]
        await world.clock.advance(companions.ENDED_S_MAX + 1)
        left: list[str] = []

        async def unsubscribe(topic: str) -> None:
            left.append(topic)
            await settle()  # the broker answers later

        monkeypatch.setattr(world.watch.agent.turns.channel, "unsubscribe", unsubscribe)
        said = await asyncio.gather(*(ask(world, text, question(text)) for text in texts[:2]))
        assert said == ["wrong_mailbox"] * 2
        over = [mailbox_topic(wire.Invitation.from_text(text).mailbox_id) for text in texts[:3]]
        assert sorted(left) == sorted(over)


async def test_a_day_later_an_invitation_is_forgotten() -> None:
    async with running("entra", paired=False) as world:
        text = await expired(world)
        await world.clock.advance(companions.ENDED_S_MAX - 181)
        assert await ask(world, text, question(text)) == "invitation_expired"
        await world.clock.advance(2)
        assert await ask(world, text, question(text, 2)) == "wrong_mailbox"


async def test_an_agent_that_was_started_anew_knows_no_old_invitation_and_the_phone_says_what_it_can() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        await world.watch.stop()
        await world.watch.start()
        with pytest.raises(NoAnswerError) as told:
            await world.within(world.phone.agent.pairing.pair(text, yes))
        assert told.value.broker == "mqtts://broker.example:8883"
        assert "token-relay companion status" in told.value.hint


# -- The phone gives up ------------------------------------------------------------------------------------


async def nameless(problem: str) -> str | None:
    return None


@pytest.mark.parametrize("how", ["no", "interrupted", "name"])
async def test_a_companion_hears_at_once_that_the_phone_gave_up_and_why(how: str) -> None:
    async with running("entra", paired=how == "name") as world:
        companion = world.watch
        if how == "name":
            companion = world.add_companion()
            companion.name = "watch"
            await companion.start()
        text = await companion.agent.invitations.show()
        asked = asyncio.Event()

        async def confirm(number: str, name: str) -> bool:
            asked.set()
            if how == "interrupted":
                await asyncio.Event().wait()
            return how == "name"

        trying = asyncio.create_task(world.phone.agent.pairing.pair(text, confirm, rename=nameless))
        await world.within(asked.wait())
        assert [row.state for row in await companion.rows(Pairing)] == ["pending"]
        step = await companion.agent.invitations.wait(text)
        assert isinstance(step, Paired) and not step.is_active
        if how == "interrupted":
            trying.cancel()
        gone = await asyncio.gather(trying, return_exceptions=True)
        assert isinstance(gone[0], asyncio.CancelledError if how == "interrupted" else LocalError)
        said = {"no": "the check numbers", "interrupted": "command was interrupted", "name": "name means another"}[how]
        with pytest.raises(companions.InvitationEndedError, match=f"the phone declined: .*{said}") as told:
            await world.within(companion.agent.invitations.wait(text))
        assert told.value.reason == "declined" and "companion pair" in told.value.hint
        assert await companion.rows(Pairing) == []


@pytest.mark.parametrize("wrong", ["another exchange", "another secret", "noise"])
async def test_only_the_phone_of_this_exchange_can_decline_it(wrong: str) -> None:
    async with running("entra", paired=False) as world:
        text = await taken(world)
        invitation = wire.Invitation.from_text(text)
        (pairing,) = await world.watch.rows(Pairing)
        said = wire.seal_declined(invitation, pairing.transcript_hash, "not_confirmed")
        if wrong == "another exchange":
            said = wire.seal_declined(invitation, bytes(32), "not_confirmed")
        elif wrong == "another secret":
            guess = wire.Invitation(invitation.public_key, wire.PairingSecret(bytes(16)))
            said = wire.seal_declined(guess, pairing.transcript_hash, "not_confirmed")
        else:
            said = said[:-1]
        assert await ask(world, text, said) == ("bad_length" if wrong == "noise" else "bad_mac")
        assert await world.watch.rows(Pairing) == [pairing]
        right = wire.seal_declined(invitation, pairing.transcript_hash, "not_confirmed")
        assert await ask(world, text, right) == ""
        assert await world.watch.rows(Pairing) == []


async def test_who_was_answered_pairs_no_more_once_a_new_invitation_is_shown() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()

        async def shows_another(number: str, name: str) -> bool:
            await shows(world).show()  # its person saw another number, and did not wait for the ten minutes
            return True

        with pytest.raises(TransientError):
            await world.within(world.phone.agent.pairing.pair(text, shows_another))
        assert await world.watch.rows(Pairing) == []
        assert shows(world).left_s() > 0, "the new one is still to be used"
        await world.pair()
        assert (await world.watch.one(Pairing)).state == "active"


async def test_a_pairing_that_is_active_is_ended_by_no_word_in_the_mailbox() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        pairing = await world.within(world.phone.agent.pairing.pair(text, yes))
        said = wire.seal_declined(wire.Invitation.from_text(text), pairing.transcript_hash, "not_confirmed")
        assert await ask(world, text, said) == "bad_length"
        assert [row.state for row in await world.watch.rows(Pairing)] == ["active"]


async def test_a_phone_drops_what_is_no_answer_and_goes_on_asking() -> None:
    """As an old companion's silence, or a broker's noise."""
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        invitation = wire.Invitation.from_text(text)
        world.broker.hold = lambda packet: packet.sender == "watch"
        trying = asyncio.create_task(world.phone.agent.pairing.pair(text, yes))
        await world.clock.advance(1)
        for noise in (b"", wire.ENDED_MAGIC, wire.ENDED_MAGIC + bytes(37), wire.DECLINED_MAGIC + bytes(37)):
            await world.phone.agent.pairing.receive(invitation.mailbox_id, noise)
        await world.clock.advance(PAIR1_WAIT_S / 2)
        assert not trying.done()
        world.broker.hold = lambda packet: False
        world.broker.release()
        assert (await world.within(trying)).state == "active"


# -- Odds --------------------------------------------------------------------------------------------------


async def test_a_pairing_that_the_disk_refused_is_not_answered_before_it_is_stored() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        world.watch.vault.failure = VaultError("disk full")
        with pytest.raises(VaultError):
            await ask(world, text, question(text))
        assert not [p for p in world.broker.seen if p.payload.startswith(wire.PAIR_MAGIC) and p.sender == "watch"]
        world.watch.vault.failure = None
        assert await ask(world, text, question(text)) == ""
        assert [row.state for row in await world.watch.rows(Pairing)] == ["pending"]


async def test_who_waits_hears_how_long_it_is_valid_and_then_that_it_is_not() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        for _ in range(3):
            assert await shows(world).wait(text, seconds=5) is None
        assert shows(world).left_s() == pytest.approx(wire.INVITATION_LIFETIME_S - 15)
        with pytest.raises(companions.InvitationEndedError, match="expired"):
            await shows(world).wait(text)


async def test_who_waits_for_the_older_of_two_hears_that_it_was_replaced() -> None:
    async with running("entra", paired=False) as world:
        older = await shows(world).show()
        waiting = asyncio.create_task(shows(world).wait(older))
        await world.clock.advance(1)
        newer = await shows(world).show()
        with pytest.raises(companions.InvitationEndedError, match="replaced by a newer one"):
            await waiting
        assert await shows(world).wait(newer, seconds=1) is None


async def test_a_phone_that_does_not_confirm_in_time_is_said_so() -> None:
    async with running("entra", paired=False) as world:
        text = await taken(world)
        assert isinstance(await shows(world).wait(text), Paired)
        with pytest.raises(companions.InvitationEndedError, match="did not confirm the check number in time"):
            await world.within(shows(world).wait(text), seconds=wire.INVITATION_LIFETIME_S + 60)


async def test_pairing_again_leaves_no_retired_row_behind() -> None:
    async with running("entra") as world:
        old = await world.phone.one(Pairing)
        new = await world.pair()
        await world.clock.advance(2)
        assert [row.pairing_id for row in await world.phone.rows(Pairing)] == [new.pairing_id]
        assert new.pairing_id != old.pairing_id


async def test_an_invitation_of_this_very_device_says_so() -> None:
    async with running("entra", paired=False) as world:
        own = wire.Invitation(world.phone.agent.turns.own.public_key, wire.PairingSecret(bytes(16)))
        with pytest.raises(LocalError, match="of this very device") as told:
            await world.within(world.phone.agent.pairing.pair(own.text(), yes))
        assert "token-relay companion pair" in told.value.hint


def told_last(world: World, text: str, payload: bytes) -> wire.Ended:
    return wire.open_ended(wire.Invitation.from_text(text), payload, answers(world)[-1])


async def test_the_time_since_its_end_is_counted_from_its_first_phone_or_from_when_it_ran_out() -> None:
    async with running("entra", paired=False) as world:
        text = await taken(world)
        await world.clock.advance(60)
        assert await ask(world, text, question(text, 2)) == "invitation_used"
        assert told_last(world, text, question(text, 2)) == wire.Ended("used", 60)
        text = await shows(world).show()
        await world.clock.advance(wire.INVITATION_LIFETIME_S + 120)
        await shows(world).show()  # nobody looked until now, and it ran out before
        assert await ask(world, text, question(text)) == "invitation_expired"
        assert told_last(world, text, question(text)) == wire.Ended("expired", 120)


async def test_one_that_has_its_phone_is_used_to_all_others_also_when_a_newer_one_is_shown() -> None:
    async with running("entra", paired=False) as world:
        text = await taken(world)
        waiting = shows(world).wait(text)
        await shows(world).show()
        assert await ask(world, text, question(text, 2)) == "invitation_used"
        assert told_last(world, text, question(text, 2)).reason == "used"
        assert await ask(world, text, question(text)) == "invitation_used", "nor does its own phone get PAIR2 again"
        with pytest.raises(companions.InvitationEndedError, match="replaced by a newer one"):
            await waiting


async def test_its_own_words_that_the_broker_brings_back_are_no_questions() -> None:
    async with running("entra", paired=False) as world:
        text = await taken(world)
        assert await ask(world, text, question(text, 2)) == "invitation_used"
        own = [p.payload for p in world.broker.seen if p.sender == "watch" and p.topic.startswith(topic_of(text))]
        assert [payload[:4] for payload in own] == [wire.PAIR_MAGIC, wire.ENDED_MAGIC]
        for payload in own * companions.LOOKS_MAX:
            assert await ask(world, text, payload) == ""
        assert await ask(world, text, question(text, 3)) == "invitation_used", "they are not counted"
        fresh = await shows(world).show()
        assert [await ask(world, fresh, b"") for _ in range(3)] == ["bad_length"] * 3
        assert await ask(world, fresh, question(fresh)) == "invitation_used", "an empty message is a bad try"


def topic_of(text: str) -> str:
    return mailbox_topic(wire.Invitation.from_text(text).mailbox_id)


async def test_only_the_newest_exchange_is_pending_and_a_name_that_nobody_can_read_is_not_kept() -> None:
    async with running("entra", paired=False) as world:
        await taken(world)
        (first,) = await world.watch.rows(Pairing)
        text = await shows(world).show()
        fields = wire.Pair1Fields(v=1, type="PAIR1", static_key="ef" * 32, name="\u3164", nonce=NONCE)
        fresh = KeyPair.from_random((7).to_bytes(32, "big"))
        invitation = wire.Invitation.from_text(text)
        assert await ask(world, text, wire.seal_pair1(invitation, fresh=fresh, nonce=bytes(24), fields=fields)) == ""
        (second,) = await world.watch.rows(Pairing)
        assert second.pairing_id != first.pairing_id
        assert second.own_name == "" and is_name(second.peer_name) and second.peer_id[:6] in second.peer_name


async def test_a_phone_that_a_person_named_here_keeps_that_name() -> None:
    async with running("entra") as world:
        await world.watch.edit(await world.watch.one(Pairing), peer_name="hers", is_name_given=True)
        await world.pair()
        row = await world.watch.one(Pairing, state="active")
        assert (row.peer_name, row.is_name_given, row.own_name) == ("hers", True, "phone")


async def test_a_pairing_that_is_complete_is_told_to_who_waits_for_it_and_uses_up_what_is_shown() -> None:
    async with running("entra", paired=False) as world:
        shown = await shows(world).show()

        async def agrees(number: str, name: str) -> bool:
            return True

        pairing = await world.within(world.phone.agent.pairing.pair(shown, agrees))
        for text in (shown, ""):
            paired = await shows(world).wait(text)
            assert paired is not None and paired.is_active and paired.device_id == world.phone.id
        assert pairing.state == "active" and shows(world).left_s() == 0


async def test_nobody_waits_longer_than_the_invitation_is_valid() -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        ends_at = world.watch.clock.now().boot_s + wire.INVITATION_LIFETIME_S
        await world.clock.advance(wire.INVITATION_LIFETIME_S - 10)
        with pytest.raises(companions.InvitationEndedError, match="expired"):
            await shows(world).wait(text)
        assert world.watch.clock.now().boot_s == pytest.approx(ends_at) and shows(world).left_s() == 0


@pytest.mark.parametrize("reason", companions.WHY)
async def test_a_fresh_one_follows_unless_another_command_showed_one_or_it_served_its_purpose(
    reason: wire.EndReason,
) -> None:
    ended = companions.InvitationEndedError(reason, "over")
    assert ended.is_others_doing is (reason in ("replaced", "used")) and ended.reason == reason


@pytest.mark.parametrize(
    ("ago_s", "said"), [(59, "less than a minute"), (60, "1 min"), (7199, "119 min"), (7200, "2 h"), (80_000, "22 h")]
)
async def test_how_long_ago_is_said_in_one_unit(ago_s: int, said: str) -> None:
    async with running("entra", paired=False) as world:
        text = await shows(world).show()
        await world.clock.advance(wire.INVITATION_LIFETIME_S + ago_s)
        with pytest.raises(PersonNeededError, match=f"expired {said} ago"):
            await world.within(world.phone.agent.pairing.pair(text, yes))


async def test_a_pairing_without_any_trouble_counts_no_refusal_at_either_end() -> None:
    async with running("entra") as world:
        await world.pair()
        assert [end.agent.turns.rejects.total() for end in (world.phone, world.watch)] == [0, 0]
