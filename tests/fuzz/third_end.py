"""The ``third_end`` target: a paired peer's messages, of any type and about any id, against an agent's real steps.

The disk is that of a device with two peers, one of them honest, after handoffs with both. Each eight bytes of input are
one message of the other peer. After each, all that came by the honest peer is as before (promise 15's own check), and
at the end the device still gives out a token of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, cast

from token_relay.agents.companion.phones import Phones
from token_relay.agents.grants.answers import decide
from token_relay.agents.grants.choice import PhoneBook
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import RECORDS, CompanionHandoff, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenQuery
from token_relay.agents.turn import Turn
from token_relay.protocol import messages as m
from token_relay.protocol.envelope import seal_once
from token_relay.protocol.errors import PeerError, TransientError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.simulation import lies
from token_relay.simulation.histories.runner import quiet
from token_relay.simulation.ports.clocks import SeededPort
from token_relay.simulation.ports.memory_vault import Image, MemoryVault
from token_relay.simulation.ports.tiers import IdentityBox
from token_relay.simulation.promises.coverage import Pair
from token_relay.simulation.promises.ledger import Ledger, rows
from token_relay.simulation.promises.others import OthersUntouched
from token_relay.simulation.world.devices import SimulatedDevice
from token_relay.simulation.world.world import World

MESSAGE_BYTES = 8
MESSAGES_MAX = 24
NUMBERS = (0, 0, 0, 0, 0, 0, 1, -1)  # what is added to the next number: seldom one again, or one left out


def third_end(data: bytes) -> None:
    """The first byte picks the peer's role, each eight that follow are a message."""
    talk = Talk("phone" if data[:1] < b"\x80" else "companion")
    for at in range(1, min(len(data), MESSAGE_BYTES * MESSAGES_MAX), MESSAGE_BYTES):
        talk.say(data[at : at + MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0"))
    talk.look()


@dataclass(frozen=True)
class _Scene:
    """A device's disk with an honest and a hostile peer, and the hostile one's key."""

    name: str
    image: Image
    now: Now
    own: KeyPair
    hostile: KeyPair
    pairing_id: str
    agent: Any
    book: PhoneBook | None
    known: lies.Known


class Talk:
    """What one input says, message by message."""

    def __init__(self, role: lies.Role) -> None:
        self.role = role
        self.scene = scene = _scene(role)
        self.vault = MemoryVault(RECORDS, scene.image, checks_values=False)
        self.box = IdentityBox(scene.hostile, scene.own.public_key)
        self.check = OthersUntouched(Ledger(clock_of=lambda end: scene.now), self._open)
        self.check.ledger.strangers = frozenset({device_id(scene.hostile.public_key)})
        self.check.ledger.strange.add(scene.pairing_id)
        self.check.ledger.tables[scene.name] = self.vault.tables
        self.seq = 2000
        self.offers: dict[str, tuple[m.Offer, str]] = {}
        self.accepts: dict[str, m.Message] = {}

    @property
    def met(self) -> Counter[Pair]:
        """What the messages have met so far."""
        return self.check.met

    def say(self, chunk: bytes) -> None:
        """Say one message, and compare."""
        kind_at, id_at, number_at, seed = chunk[0], chunk[1], chunk[2], chunk[3:]
        kinds = (*lies.HANDOFF_TYPES[self.role], *lies.OTHER_TYPES[self.role], *lies.wrong_way(self.role))
        random = Random(seed)
        body = self._body(kinds[kind_at % len(kinds)], self._id(id_at), random)
        self.seq += 1
        seq = self.seq + NUMBERS[number_at % len(NUMBERS)]
        head = m.Head(
            v=body.version,
            type=body.type,
            pairing_id=self.scene.pairing_id,
            sender=device_id(self.scene.hostile.public_key),
            recipient=device_id(self.scene.own.public_key),
            seq=seq,
            sent_at=int(self.scene.now.wall_s),
            in_reply_to=None if seed[0] % 2 else seq,
        )
        plaintext = m.encode(head, body)
        if isinstance(body, m.Offer):
            self.offers[body.handoff_id] = (body, m.plaintext_hash(plaintext).hex())
        self._receive(self.box.seal(plaintext, Random(seed).randbytes(24)))

    def _id(self, number: int) -> str:
        """Pick an id: an own handoff, one of the honest peer, a grant, one of before, or one that nobody knows."""
        tables = self.vault.tables
        record: type[CompanionHandoff | PhoneHandoff] = CompanionHandoff if self.role == "phone" else PhoneHandoff
        own = [row for row in rows(tables, record).values() if row.pairing_id == self.scene.pairing_id]
        passing = [row.handoff_id for row in own if row.state not in ("dead", "gone")]
        fresh = Random(number).randbytes(16).hex()
        every = [
            *passing,
            *self.scene.known.handoffs,
            *self.scene.known.grants,
            *(row.handoff_id for row in own),
            fresh,
        ]
        return every[number % len(every)]

    def _body(self, kind: str, handoff_id: str, random: Random) -> m.Body:
        accept = self.accepts.get(handoff_id)
        if kind != "TOKEN" or accept is None or handoff_id not in self.offers:
            return lies.body(kind, handoff_id, self.scene.known, random)
        assert isinstance(accept.body, m.Accept)
        offer, offer_hash = self.offers[handoff_id]
        payload = lies.grant(
            self.scene.known,
            random,
            offer,
            pairing_id=self.scene.pairing_id,
            phone_key=self.scene.hostile.public_key.hex(),
            companion_key=self.scene.own.public_key.hex(),
            one_time_key=accept.body.one_time_key,
            offer_hash=offer_hash,
            accept_hash=m.plaintext_hash(m.encode(accept.head, accept.body)).hex(),
        )
        ephemeral = KeyPair.from_random(random.randbytes(32))
        sealed = seal_once(m.encode_grant(payload), bytes.fromhex(accept.body.one_time_key), ephemeral)
        return m.Token(handoff_id=handoff_id, sealed=m.encode_base64url(sealed))

    def _receive(self, envelope: bytes) -> None:
        """Take a message as the link does, in one transaction, and keep the ACCEPT that comes of it."""
        scene, before = self.scene, self.vault.tables
        self.check.delivered(scene.name, "", envelope)

        def step(tx: Transaction) -> Turn:
            random = SeededPort(self.seq)
            turn = Turn(tx, scene.own, scene.now, random, lambda key: IdentityBox(scene.own, key))
            scene.agent.link._accept(turn, device_id(scene.hostile.public_key), envelope)
            return turn

        try:
            turn = self.vault.transact(step, lambda: None)
        except (PeerError, TransientError):
            return
        self.check.ledger.changes.clear()
        self.check.ledger.tables[scene.name] = self.vault.tables
        self.check.committed(scene.name, before, self.vault.tables)
        for answer in turn.outgoing:
            message = m.decode(self.box.open(answer.envelope))
            if isinstance(message.body, m.Accept):
                self.accepts[message.body.handoff_id] = message

    def _open(self, envelope: bytes) -> m.Message | None:
        return m.decode(self.box.open_own(envelope))

    def look(self) -> None:
        """Ask for a token: the honest peer's grant still answers, or the phone's own, unless that is locked."""
        scene = self.scene
        grant, found = self.vault.read(lambda tx: decide(tx, TokenQuery(), scene.now, "", scene.book))
        if self.role == "companion" and grant is not None and (grant.state, grant.reason) == ("locked", "rollback"):
            return  # what any companion may bring about: the person signs in again
        assert grant is not None and grant.pairing_id != self.scene.pairing_id, "a hostile phone's grant answers"
        assert isinstance(found, TokenGranted), f"no token is given out: {found}"


@cache
def _scene(role: lies.Role) -> _Scene:
    """Play the honest part: everybody is paired, both peers have a handoff that is done and one that is open."""
    world = World("entra", phones=2 if role == "phone" else 1, companions=2 if role == "companion" else 1)

    async def story() -> SimulatedDevice:
        await world.begin()
        for phone in world.phones:
            for watch in world.companions:
                await phone.hand_off(watch)
                await watch.token()
        world.broker.hold = lambda packet: world.type_of(packet) == "TOKEN"
        for phone in world.phones:
            for watch in world.companions:
                await phone.hand_off(watch, wait_s=1.0)
        end: SimulatedDevice = world.companions[0] if role == "phone" else world.phones[0]
        await world.phones[0].token()
        await end.stop()
        return end

    with quiet():
        end = world.run(story())
    hostile = (world.phones if role == "phone" else world.companions)[-1]
    known = lies.Known()
    for each in world.ends:
        known.look(each.tables)
    pairing = next(row for row in rows(end.tables, Pairing).values() if row.peer_id == hostile.id)
    return _Scene(
        end.name,
        cast("Image", end.image()),
        end.clock.now(),
        KeyPair(end.identity.public_key, end.identity.private_key),
        KeyPair(hostile.identity.public_key, hostile.identity.private_key),
        pairing.pairing_id,
        end.agent,
        Phones() if role == "phone" else None,
        known,
    )
