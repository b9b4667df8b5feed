"""The companion's side of pairing: invitations, their mailboxes, and the pairing that comes of one.

An invitation lives in memory: after a restart the person shows a new one. It ends with the first phone that is paired,
when that phone declines, with three bad tries, after ten minutes of boot time, or when a newer one is shown. A repeated
PAIR1 (the same bytes) gets the same PAIR2 again.

The companion goes on listening in the mailboxes of those that ended, and answers a PAIR1 there with the reason, so that
the phone need not wait for nothing. What that can cost is bounded: so many mailboxes, so many answers in each.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from token_relay.agents.companion.phones import note_activated
from token_relay.agents.device_names import free_name, is_name
from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.pairings import delete_pairing, names_of, retire_others
from token_relay.agents.records import Pairing
from token_relay.agents.renaming import given_name, own_name
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol import pairing as wire
from token_relay.protocol.errors import PeerError, PersonNeededError, VaultError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import Pair3, Pair4
from token_relay.protocol.topics import mailbox_topic

ENDED_MAX = 16  # that are remembered; more than a person shows in a day
ENDED_S_MAX = 86_400.0  # boot time; who comes later has an old photograph
LOOKS_MAX = 64  # at messages of one mailbox once it has a phone or is over: a phone asks 30 times in its minute

WHY: dict[wire.EndReason, str] = {
    "other": "the invitation is over",
    "used": "the invitation is used",
    "declined": "the phone declined",
    "expired": "the invitation is expired",
    "bad_tries": "the invitation is burnt by three bad tries",
    "replaced": "the invitation is replaced by a newer one",
}
DECLINED: dict[wire.DeclineReason, str] = {
    "other": "it gave the pairing up",
    "not_confirmed": "the check numbers were not confirmed to be the same",
    "name_refused": "this device's name means another one there",
    "interrupted": "its command was interrupted",
}
UNCONFIRMED = "the phone did not confirm the check number in time"


@dataclass(frozen=True, slots=True)
class Paired:
    """PAIR1 and PAIR2 are done (``is_active`` False), or the pairing is active."""

    device_id: str
    device_name: str
    check_number: str
    is_active: bool


OTHERS_DOING: frozenset[wire.EndReason] = frozenset({"replaced", "used"})


class InvitationEndedError(PersonNeededError):
    """An invitation can no longer be used; ``reason`` says why, as a phone is told."""

    def __init__(self, reason: wire.EndReason, message: str) -> None:
        super().__init__(message, hint="show a new one: token-relay companion pair")
        self.reason = reason

    @property
    def is_others_doing(self) -> bool:
        """Whether another command showed a newer one, or the invitation served its purpose: none follows it here."""
        return self.reason in OTHERS_DOING


@dataclass(slots=True)
class _Shown:
    """An invitation, with PAIR1 and PAIR2 once they have passed, and its end."""

    invitation: wire.Invitation
    shown_boot_s: float
    bad_tries: int = 0
    looks: int = 0
    pair1: bytes = b""
    pair2: bytes = b""
    pairing_id: str = ""
    used_boot_s: float = 0.0
    progress: Paired | None = None
    reason: wire.EndReason | None = None
    detail: str = ""
    ended_boot_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def topic(self) -> str:
        """Where it is spoken about."""
        return mailbox_topic(self.invitation.mailbox_id)

    def end(self, reason: wire.EndReason, at_boot_s: float, detail: str = "") -> None:
        """Let it be used no longer; the first reason counts."""
        if self.reason is None:
            self.reason, self.ended_boot_s, self.detail = reason, at_boot_s, detail
            self.changed.set()


class Invitations:
    """Shows invitations and completes pairings."""

    def __init__(self, turns: Turns, *, name: str, broker_url: str) -> None:
        self._turns = turns
        self._channel = turns.channel
        self._clock = turns.clock
        self._random = turns.random
        self._name = name
        self._broker_url = broker_url if len(broker_url.encode()) <= wire.HINT_BYTES_MAX else ""
        self._shown: dict[bytes, _Shown] = {}  # by mailbox, oldest first; the last is the present one

    async def show(self) -> str:
        """Make a new invitation, which ends the old one, and listen in its mailbox; returns its text.

        A phone that has not confirmed yet can no longer do so: a person who saw a wrong check number wants another.
        """
        if present := self._present:
            self._expire(present)
            reason: wire.EndReason = "used" if present.pair1 else "replaced"  # to the phone that comes too late
            present.end(reason, self._clock.now().boot_s, WHY["replaced"])

        def step(turn: Turn) -> str:
            for old in turn.tx.select(Pairing, state="pending"):
                delete_pairing(turn, old.pairing_id)
            return own_name(turn.tx, self._name)

        self._name = await self._turns.run(step)
        secret = wire.PairingSecret(self._random.bytes(wire.SECRET_BYTES))
        invitation = wire.Invitation(self._turns.own.public_key, secret, self._broker_url)
        shown = self._shown[invitation.mailbox_id] = _Shown(invitation, self._clock.now().boot_s)
        await self._forget_old()
        await self._channel.subscribe(shown.topic)
        return invitation.text()

    @property
    def progress(self) -> Paired | None:
        """How far the present invitation has come."""
        return self._present.progress if self._present is not None else None

    def left_s(self) -> float:
        """Return the seconds until the present invitation expires; 0 when it is over."""
        return 0.0 if self._present is None else self._left_s(self._present)

    @property
    def _present(self) -> _Shown | None:
        return next(reversed(self._shown.values()), None)

    def _left_s(self, shown: _Shown) -> float:
        left_s = shown.shown_boot_s + wire.INVITATION_LIFETIME_S - self._clock.now().boot_s
        return max(0.0, left_s) if shown.reason is None else 0.0

    def _expire(self, shown: _Shown) -> None:
        if self._left_s(shown) <= 0:
            detail = UNCONFIRMED if shown.pair1 else ""
            shown.end("expired", shown.shown_boot_s + wire.INVITATION_LIFETIME_S, detail)

    async def _forget_old(self) -> None:
        """Leave the mailboxes of those that ended long ago, had all their answers, or are too many."""
        now_s, ended = self._clock.now().boot_s, [s for s in self._shown.values() if s.reason is not None]
        for number, shown in enumerate(reversed(ended)):
            is_old = number >= ENDED_MAX or shown.looks >= LOOKS_MAX or now_s - shown.ended_boot_s > ENDED_S_MAX
            # None: while this one waited for the broker, another message has left it.
            if is_old and self._shown.pop(shown.invitation.mailbox_id, None) is not None:
                await self._channel.unsubscribe(shown.topic)

    async def receive(self, mailbox_id: bytes, payload: bytes) -> None:
        """Take what lies in a mailbox; the pending pairing is durable before PAIR2 leaves.

        Raises PeerError for anything but a good PAIR1 or DECLINED; three bad ones end the invitation. One that is over
        or has its phone answers another good PAIR1 first.
        """
        await self._forget_old()
        shown = self._shown.get(mailbox_id)
        if shown is None:
            raise PeerError("wrong_mailbox")
        if payload[:4] == wire.ENDED_MAGIC or (payload == shown.pair2 and payload):
            return  # our own, delivered to us as well
        self._expire(shown)
        if shown.pair1 or shown.reason is not None:
            await self._answer(shown, payload)
            return
        try:
            fields = wire.open_pair1(shown.invitation, payload, static=self._turns.own)
        except PeerError:
            shown.bad_tries += 1
            if shown.bad_tries >= wire.INVITATION_BAD_TRIES_MAX:
                shown.end("bad_tries", self._clock.now().boot_s)
            raise
        await self._accept(shown, payload, fields)

    async def _answer(self, shown: _Shown, payload: bytes) -> None:
        """Take what comes to an invitation that has its phone, or is over."""
        if shown.looks >= LOOKS_MAX:
            raise PeerError("too_often")
        shown.looks += 1
        if shown.reason is None and payload == shown.pair1:
            await self._channel.publish(shown.topic, shown.pair2)
            return
        if shown.reason is None and payload[:4] == wire.DECLINED_MAGIC:
            await self._declined(shown, payload)
            return
        wire.open_pair1(shown.invitation, payload, static=self._turns.own)
        reason, since_s = shown.reason or "used", shown.ended_boot_s if shown.reason else shown.used_boot_s
        ended = wire.Ended(reason, int(self._clock.now().boot_s - since_s))
        await self._channel.publish(shown.topic, wire.seal_ended(shown.invitation, payload, ended))
        if reason == "expired":
            raise PeerError("invitation_expired")
        raise PeerError("invitation_used")

    async def _declined(self, shown: _Shown, payload: bytes) -> None:
        transcript = wire.transcript_hash(shown.invitation, shown.pair1, shown.pair2)
        why = wire.open_declined(shown.invitation, transcript, payload)

        def step(turn: Turn) -> bool:
            pairing = turn.tx.get(Pairing, shown.pairing_id)
            if pairing is None or pairing.state != "pending":
                return False  # what both have confirmed is ended in other ways
            delete_pairing(turn, pairing.pairing_id)
            return True

        if await self._turns.run(step):
            shown.end("declined", self._clock.now().boot_s, f"{WHY['declined']}: {DECLINED[why]}")

    async def _accept(self, shown: _Shown, pair1: bytes, fields: wire.Pair1Fields) -> None:
        peer_key = bytes.fromhex(fields.static_key)
        pairing_id = self._random.bytes(16).hex()
        answer = wire.Pair2Fields(
            v=1,
            type="PAIR2",
            static_key=self._turns.own.public_key.hex(),
            name=self._name,
            nonce=self._random.bytes(16).hex(),
            pairing_id=pairing_id,
        )
        fresh = KeyPair.from_random(self._random.bytes(32))
        pair2 = wire.seal_pair2(shown.invitation, pair1, fresh=fresh, nonce=self._random.bytes(24), fields=answer)
        transcript = wire.transcript_hash(shown.invitation, pair1, pair2)
        peer_id = device_id(peer_key)
        shown.pair1, shown.pair2, shown.pairing_id = pair1, pair2, pairing_id  # used up before anything is sent
        shown.used_boot_s = self._clock.now().boot_s

        def step(turn: Turn) -> str:
            for old in turn.tx.select(Pairing, state="pending"):
                delete_pairing(turn, old.pairing_id)
            turn.box(peer_key)  # refuses a low-order point before it is stored
            given = given_name(turn.tx, peer_id)
            name = given or free_name(peer_id, fields.name, names_of(turn.tx))
            turn.tx.put(
                Pairing(
                    pairing_id=pairing_id,
                    peer_id=peer_id,
                    peer_key=peer_key,
                    peer_name=name,
                    state="pending",
                    transcript_hash=transcript,
                    created=turn.stamp,
                    own_name=fields.name if is_name(fields.name) else "",
                    is_name_given=given != "",
                )
            )
            return name

        try:
            name = await self._turns.run(step)
        except VaultError:
            shown.pair1 = b""  # nothing was kept: it comes again
            raise
        shown.progress = Paired(peer_id, name, wire.check_number(transcript), is_active=False)
        shown.changed.set()
        await self._channel.publish(shown.topic, shown.pair2)

    def on_pair3(self, turn: Turn, pairing: Pairing, body: Pair3) -> None:
        """PAIR3: the peer owns its key and saw our transcript. Activate in this transaction, and answer PAIR4."""
        if bytes.fromhex(body.transcript_hash) != pairing.transcript_hash:
            raise PeerError("wrong_transcript")
        if pairing.state == "pending":
            age = elapsed_s(Stamp.from_text(pairing.created), turn.now)
            if age is None or age > wire.INVITATION_LIFETIME_S:
                raise PeerError("invitation_expired")
            retire_others(turn, pairing)
            turn.change(Pairing, pairing.pairing_id, state="active", paired_at=turn.wall)
            turn.event("paired", device=pairing.peer_id, detail=pairing.peer_name)
            note_activated(turn, pairing)
            turn.after.append(lambda: self._activated(pairing))
        turn.answer(pairing.pairing_id, Pair4(transcript_hash=body.transcript_hash))

    def _activated(self, pairing: Pairing) -> None:
        number = wire.check_number(pairing.transcript_hash)
        paired = Paired(pairing.peer_id, pairing.peer_name, number, is_active=True)
        for shown in self._shown.values():
            if shown is self._present or shown.pairing_id == pairing.pairing_id:
                shown.progress = paired
                shown.end("used", self._clock.now().boot_s)
                shown.changed.set()

    async def wait(self, text: str = "", *, seconds: float = wire.INVITATION_LIFETIME_S) -> Paired | None:
        """Wait for the next step of an invitation, the present one unless its text is given; None: not in this time.

        Raises:
            InvitationEndedError: it can no longer be used.
        """
        mailbox_id = wire.Invitation.from_text(text).mailbox_id if text else b""
        shown = self._shown.get(mailbox_id, self._present)
        assert shown is not None, "no invitation was shown"
        if not await self._clock.wait(shown.changed, min(seconds, self._left_s(shown))):
            self._expire(shown)
            if shown.reason is None:
                return None
        shown.changed.clear()
        if shown.reason is not None and not (shown.progress and shown.progress.is_active):
            raise InvitationEndedError(shown.reason, shown.detail or WHY[shown.reason])
        return shown.progress
