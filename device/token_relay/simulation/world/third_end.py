"""The third end: a device that a person has paired, phone or companion, and that says what it likes.

It pairs as the honest ones do, with the protocol's own modules and no agent. From then on a plan has it say any valid
message with any id that it has learnt (:mod:`.lies`); between those it answers with more or less good *manners*, so
that its own handoffs come into every state. Its messages take the simulated channel, with all of its faults. It keeps
nothing on a disk and uses no token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from token_relay.agents.agent import Agent
from token_relay.agents.ports import Ports
from token_relay.agents.records import CompanionHandoff, PhoneHandoff
from token_relay.protocol import messages as m
from token_relay.protocol import pairing as wire
from token_relay.protocol.envelope import NONCE_BYTES, PeerBox, seal_once
from token_relay.protocol.errors import PeerError, TransientError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.topics import MailboxTopic, PeerTopic, mailbox_topic, parse_topic, peer_topic
from token_relay.simulation import lies
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.observer import Observer
from token_relay.simulation.promises.ledger import rows
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedDevice, SimulatedPhone

PAIR1_TIMES = 5
PAIR1_EVERY_S = 2.0
JUMP = 5000  # of a number, beyond the replay window


@dataclass(slots=True)
class Bond:
    """One pairing, as the third end knows it."""

    peer: SimulatedDevice
    pairing_id: str
    box: PeerBox
    peer_key: bytes
    seq: int = 0
    heard: int = 0
    offers: dict[str, tuple[m.Offer, str]] = field(default_factory=dict)  # by us: the body, its hash


class _OnlyPublished(Observer):
    """The checks see what a third end sends; what it does by itself is none of the promises' business."""

    def __init__(self, announcer: Announcer) -> None:
        self.published = announcer.published  # type: ignore[method-assign]


class ThirdEnd(SimulatedDevice):
    """See the module. ``role`` is what it has paired as; ``manners`` (0 to 1) how often it answers as it should."""

    def __init__(self, name: str, role: lies.Role, *, announcer: Announcer, manners: float, **parts: Any) -> None:
        super().__init__(name, announcer=Announcer(parts["loop"], [_OnlyPublished(announcer)]), **parts)
        self.role = role
        self.manners = manners
        self.is_mute = False  # it answers nothing then
        self.known = lies.Known()
        self.bonds: list[Bond] = []
        self.draw = Random(f"third {parts['seed']}")  # noqa: S311  # part of the reproducible history
        self._own = KeyPair(self.identity.public_key, self.identity.private_key)
        self._mail: asyncio.Queue[bytes] = asyncio.Queue()
        self._invitation: tuple[wire.Invitation, bytes, bytes] | None = None  # shown by us; PAIR1 and PAIR2 once used
        self._shown_as = name

    def build(self, ports: Ports) -> Agent:
        async def nothing() -> None: ...

        works: list[Coroutine[Any, Any, None]] = []
        return cast("Agent", SimpleNamespace(start=nothing, works=lambda: works))

    async def _connected(self) -> None:
        """Greet nobody."""

    # -- pairing ---------------------------------------------------------------------------------------

    async def befriend(self, peer: SimulatedDevice, shown_as: str) -> None:
        """Pair with an honest device whose person agrees. Raises RelayError, PowerCutError: it did not come about."""
        self._shown_as = shown_as
        if isinstance(peer, SimulatedPhone):
            secret = wire.PairingSecret(self.random.bytes(wire.SECRET_BYTES))
            invitation = wire.Invitation(self._own.public_key, secret)
            self._invitation = (invitation, b"", b"")
            await self.channel.subscribe(mailbox_topic(invitation.mailbox_id))

            async def agree(number: str, name: str) -> bool:
                return True

            await peer.call(peer.agent.pairing.pair(invitation.text(), agree))
        else:
            assert isinstance(peer, SimulatedCompanion)
            await self._answer_invitation(peer, await peer.call(peer.agent.invitations.show()))

    async def _answer_invitation(self, peer: SimulatedCompanion, text: str) -> None:
        invitation = wire.Invitation.from_text(text)
        fresh = KeyPair.from_random(self.random.bytes(32))
        fields = wire.Pair1Fields(type="PAIR1", **self._pair_fields())
        pair1 = wire.seal_pair1(invitation, fresh=fresh, nonce=self.random.bytes(NONCE_BYTES), fields=fields)
        topic = mailbox_topic(invitation.mailbox_id)
        await self.channel.subscribe(topic)
        try:
            for _ in range(PAIR1_TIMES):
                await self.channel.publish(topic, pair1)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAIR1_EVERY_S):
                        while (pair2 := await self._mail.get()) == pair1:
                            continue
                        answer = wire.open_pair2(invitation, pair1, pair2, fresh=fresh)
                        bond = self._bind(peer, answer.pairing_id, bytes.fromhex(answer.static_key))
                        transcript = wire.transcript_hash(invitation, pair1, pair2)
                        await self.say(bond, m.Pair3(transcript_hash=transcript.hex()))
                        return
        finally:
            await self.channel.unsubscribe(topic)
        raise TransientError("nobody answered")

    def _pair_fields(self) -> dict[str, Any]:
        key, nonce = self._own.public_key.hex(), self.random.bytes(16).hex()
        return {"v": 1, "static_key": key, "name": self._shown_as, "nonce": nonce}

    def _bind(self, peer: SimulatedDevice, pairing_id: str, peer_key: bytes) -> Bond:
        bond = Bond(peer, pairing_id, self.tier.box(self._own, peer_key), peer_key)
        self.bonds.append(bond)
        return bond

    async def _take_mail(self, mailbox_id: bytes, payload: bytes) -> None:
        if self._invitation is None or self._invitation[0].mailbox_id != mailbox_id:
            self._mail.put_nowait(payload)
            return
        invitation, pair1, pair2 = self._invitation
        if payload == pair2:
            return
        if not pair1:
            found = wire.open_pair1(invitation, payload, static=self._own)
            fresh = KeyPair.from_random(self.random.bytes(32))
            fields = wire.Pair2Fields(type="PAIR2", pairing_id=self.random.bytes(16).hex(), **self._pair_fields())
            nonce = self.random.bytes(NONCE_BYTES)
            pair2 = wire.seal_pair2(invitation, payload, fresh=fresh, nonce=nonce, fields=fields)
            self._invitation = (invitation, payload, pair2)
            self._bind(self._peer_of(found.static_key), fields.pairing_id, bytes.fromhex(found.static_key))
        await self.channel.publish(mailbox_topic(mailbox_id), pair2)

    def _peer_of(self, static_key: str) -> SimulatedDevice:
        return next(end for end in self.others if end.identity.public_key.hex() == static_key)

    others: list[SimulatedDevice]
    """The honest devices; the world sets it."""

    # -- speaking --------------------------------------------------------------------------------------

    async def say(self, bond: Bond, body: m.Body, *, number: str = "next", in_reply_to: int | None = None) -> bytes:
        """Send a message and return its plaintext; ``number``: "next", "same", "old" or "jump"."""
        match number:
            case "same":
                seq = max(bond.seq, 1)
            case "old":
                seq = max(bond.seq - JUMP, 1)
            case _:
                bond.seq += JUMP if number == "jump" else 1
                seq = bond.seq
        head = m.Head(
            v=body.version,
            type=body.type,
            pairing_id=bond.pairing_id,
            sender=self.id,
            recipient=device_id(bond.peer_key),
            seq=seq,
            sent_at=int(self.clock.now().wall_s),
            in_reply_to=in_reply_to,
        )
        plaintext = m.encode(head, body)
        if isinstance(body, m.Offer):
            bond.offers[body.handoff_id] = (body, m.plaintext_hash(plaintext).hex())
        envelope = bond.box.seal(plaintext, self.random.bytes(NONCE_BYTES))
        await self.channel.publish(peer_topic(recipient=head.recipient, sender=self.id), envelope)
        return plaintext

    async def lie(self, kind: str, whose: lies.Whose, *, number: str, is_reply: bool) -> None:
        """Say something of this type about an id of that owner, to one of the paired devices."""
        if not self.bonds or not self.is_on:
            return
        for end in self.others:
            self.known.look(end.tables)
        bond = self.draw.choice(self.bonds)
        handoff_id = self.draw.choice(self._ids(bond, whose) or [self.draw.randbytes(16).hex()])
        said = lies.body(kind, handoff_id, self.known, self.draw)
        await self.say(bond, said, number=number, in_reply_to=bond.heard if is_reply else None)

    def _ids(self, bond: Bond, whose: lies.Whose) -> list[str]:
        """Return ids of that owner; those that the device has on its own disk, in rare states, first of all."""
        if whose == "grant":
            return list(self.known.grants)
        if whose == "unknown":
            return []
        record: type[PhoneHandoff | CompanionHandoff] = PhoneHandoff if self.role == "companion" else CompanionHandoff
        here = {
            row.handoff_id: row.state
            for row in rows(bond.peer.tables, record).values()
            if (row.pairing_id == bond.pairing_id) == (whose == "own")
        }
        passing = [each for each, state in here.items() if state not in ("done", "stored", "gone", "dead")]
        if passing and self.draw.random() < 0.7:
            return passing
        if whose == "own":
            return [*here, *bond.offers]
        return list(here) or [each for each, owner in self.known.handoffs.items() if owner != bond.pairing_id]

    # -- hearing ---------------------------------------------------------------------------------------

    async def _receive(self, topic: str, payload: bytes) -> None:
        parsed = parse_topic(topic)
        with suppress(PeerError):
            match parsed:
                case MailboxTopic(mailbox_id):
                    await self._take_mail(mailbox_id, payload)
                case PeerTopic(sender=sender):
                    for bond in self.bonds:
                        if device_id(bond.peer_key) == sender:
                            message = m.decode(bond.box.open(payload))
                            if message.head.pairing_id == bond.pairing_id:
                                await self._hear(bond, message)
                case None:
                    pass

    async def _hear(self, bond: Bond, message: m.Message) -> None:
        """Answer, if the manners allow, as the protocol wants it or with another answer that fits."""
        bond.heard = max(bond.heard, message.head.seq)
        body, reply = message.body, message.head.seq
        if isinstance(body, m.Pair3):
            await self.say(bond, m.Pair4(transcript_hash=body.transcript_hash), in_reply_to=reply)
        elif (
            not self.is_mute
            and self.draw.random() < self.manners
            and (answer := self._answer(bond, message)) is not None
        ):
            await self.say(bond, answer, in_reply_to=reply)

    def _answer(self, bond: Bond, message: m.Message) -> m.Body | None:
        match message.body:
            case m.Hello() as greeting if message.head.in_reply_to is None:
                return self._greet(bond, greeting)
            case m.Offer(handoff_id=handoff_id):
                self._one_time = KeyPair.from_random(self.random.bytes(32))
                plaintext = m.encode(message.head, message.body)
                key = self._one_time.public_key.hex()
                offer_hash = m.plaintext_hash(plaintext).hex()
                accept = m.Accept(handoff_id=handoff_id, one_time_key=key, offer_hash=offer_hash)
                return self.draw.choice((accept, m.Accept2(**dict(accept), grant_version=2)))
            case m.Accept(handoff_id=handoff_id) as accept if handoff_id in bond.offers:
                return self._token(bond, accept, m.plaintext_hash(m.encode(message.head, message.body)).hex())
            case m.Token(handoff_id=handoff_id):
                return self.draw.choice((m.Stored, m.Stored, m.Stored, m.Lost))(handoff_id=handoff_id)
            case m.Stored(handoff_id=handoff_id):
                return m.Closed(handoff_id=handoff_id)
            case m.Cancel(handoff_id=handoff_id):
                return self.draw.choice((m.CancelConfirmed, m.CancelConfirmed, m.Stored))(handoff_id=handoff_id)
            case m.Revoke(handoff_id=handoff_id):
                return m.Revoked(handoff_id=handoff_id, provider="accepted", access_token_ends_at=0)
            case m.Renew():
                return m.Reject(handoff_id=None, reason="later")
            case _:
                return None

    def _greet(self, bond: Bond, greeting: m.Hello) -> m.Body:
        """Answer a HELLO: with a lease for whatever is known, or with a list."""
        self.known.look(bond.peer.tables)
        ids = self._ids(bond, self.draw.choice(("own", "own", "other")))[: m.HANDOFFS_LISTED_MAX]
        if self.role == "phone" and self.draw.random() < 0.5:
            terms = [m.LeaseTerm(handoff_id=each, lease_days=365) for each in ids]
            return m.Lease(challenge=greeting.challenge, handoffs=terms)
        numbers = (bond.seq + 1, greeting.seq_sent)
        return lies.hello(self.known, self.draw, ids, self.draw.randbytes(16).hex(), numbers=numbers)

    def _token(self, bond: Bond, accept: m.Accept, accept_hash: str) -> m.Body:
        offer, offer_hash = bond.offers[accept.handoff_id]
        payload = lies.grant(
            self.known,
            self.draw,
            offer,
            pairing_id=bond.pairing_id,
            phone_key=self._own.public_key.hex(),
            companion_key=bond.peer_key.hex(),
            one_time_key=accept.one_time_key,
            offer_hash=offer_hash,
            accept_hash=accept_hash,
        )
        ephemeral = KeyPair.from_random(self.random.bytes(32))
        sealed = seal_once(m.encode_grant(payload), bytes.fromhex(accept.one_time_key), ephemeral)
        return m.Token(handoff_id=accept.handoff_id, sealed=m.encode_base64url(sealed))
