"""A receiver for the envelope vectors: the real link over a vault in memory, in the state that a case describes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.core import vector_files as v
from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.elapsed import Stamp
from token_relay.agents.link import Handler, Link
from token_relay.agents.phone.handoffs import Handoffs
from token_relay.agents.phone.pairing import PhonePairing
from token_relay.agents.phone.steps import PhoneSteps
from token_relay.agents.ports import Now, Ports, Record, Signal, Transaction
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import RECORDS, CompanionHandoff, Identity, Pairing, RestoredEnd, Seen
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import HandoffReport, Hello, Message, decode
from token_relay.protocol.secret import PrivateKey
from token_relay.provider.http import HttpRequest, HttpResponse
from token_relay.simulation.ports.memory_vault import MemoryVault

NOW = Now("boot-1", 1000.0, 1_767_225_600.0, True)


class StoppedClock:
    """It is always the same moment, and a sleep returns at once."""

    def now(self) -> Now:
        return NOW

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()

    async def wait(self, event: Signal, seconds: float) -> bool:
        await event.wait()
        return True


class CountingRandom:
    """Bytes that differ each time."""

    def __init__(self) -> None:
        self._count = 0

    def bytes(self, count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(4, "big") * (-(-count // 4))

    def uniform(self, low: float, high: float) -> float:
        return low


@dataclass
class Outbox:
    """A channel that keeps what is published."""

    is_connected: bool = True
    published: list[tuple[str, bytes]] = field(default_factory=list)

    async def publish(self, topic: str, payload: bytes) -> bool:
        self.published.append((topic, payload))
        return True

    async def subscribe(self, topic_filter: str) -> None: ...

    async def unsubscribe(self, topic_filter: str) -> None: ...


class NoHttp:
    """Nothing here may ask the provider."""

    async def request(self, request: HttpRequest) -> HttpResponse:
        raise AssertionError("a vector asked the provider")


@dataclass
class Recorder:
    """A handler that takes everything down and refuses nothing."""

    messages: list[Message] = field(default_factory=list)

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        self.messages.append(message)

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        return []

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        return True

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: RestoredEnd) -> None: ...

    def is_leased(self, tx: Transaction, pairing: Pairing) -> bool:
        return False


@dataclass
class Received:
    """What became of one message."""

    reasons: list[str]
    delivered: list[Message]
    answers: list[Message]
    rows: list[CompanionHandoff]


def key_pair(name: str) -> KeyPair:
    private, public = v.device(name)
    return KeyPair(public, PrivateKey(private))


def receive(
    case: v.Case, topic: str, payload: bytes, *, agent: bool = False, row: CompanionHandoff | None = None
) -> Received:
    """Let the case's receiver take one message; ``agent`` puts the real handler behind the link."""
    return asyncio.run(_receive(case, topic, payload, agent, row))


async def _receive(case: v.Case, topic: str, payload: bytes, agent: bool, row: CompanionHandoff | None) -> Received:
    own_name = case.get("to", "companion")
    own = key_pair(own_name)
    vault, clock, random, outbox = MemoryVault(RECORDS), StoppedClock(), CountingRandom(), Outbox()
    identity = Identity("self", own.public_key, own.private_key, 0)
    recorder = Recorder()

    def fill(tx: Transaction) -> None:
        for record in _pairings(case, own_name):
            tx.put(record)
        if row is not None:
            tx.put(row)

    await vault.run(fill)
    async with asyncio.TaskGroup() as tasks:
        ports = Ports(vault=vault, channel=outbox, http=NoHttp(), clock=clock, random=random, tasks=tasks)
        if agent and own_name == "companion":
            companion = CompanionAgent(ports, identity, name="kitchen", broker_url="")
            turns, link = companion.turns, companion.link
        else:
            turns = Turns(ports, identity)
            steps, pairing = PhoneSteps(Pulse(), asyncio.Queue()), PhonePairing(turns, name="phone")
            handoffs = Handoffs(steps, pairing, Pulse(), may_release=lambda: True)
            handler: Handler = handoffs if agent else recorder
            link = Link(turns, handler=handler, mailbox=pairing)
        await link.receive(topic, payload)
    reasons = list(turns.rejects.elements())
    peers = {device_id(key_pair(name).public_key): name for name in ("phone", "companion", "tablet")}
    answers = []
    for where, envelope in outbox.published:
        peer = key_pair(peers[where.split("/")[2]])
        answers.append(decode(PeerBox(peer, own.public_key).open(envelope)))
    rows = await vault.run(lambda tx: tx.select(CompanionHandoff))
    return Received(reasons, recorder.messages, answers, rows)


def _pairings(case: v.Case, own_name: str) -> list[Record]:
    """The pairings of a device; the case's ``pairing`` describes the one with its first peer."""
    records: list[Record] = []
    state = case.get("pairing", {})
    for pairing in v.load("devices")["pairings"]:
        if own_name not in (pairing["phone"], pairing["companion"]):
            continue
        is_first = pairing["phone"] == "phone"
        peer = key_pair(pairing["companion"] if own_name == pairing["phone"] else pairing["phone"])
        records.append(
            Pairing(
                pairing_id=pairing["pairing_id"],
                peer_id=device_id(peer.public_key),
                peer_key=peer.public_key,
                peer_name="peer",
                state=state.get("state", "active") if is_first else "active",
                transcript_hash=bytes(32),
                created=Stamp.of(NOW).to_text(),
                seq_sent=100,
                seq_high=state.get("seq_high", 0) if is_first else 0,
            )
        )
        if is_first:
            for seq, digest in state.get("seen", {}).items():
                records.append(Seen(pairing["pairing_id"], int(seq), bytes.fromhex(digest)))
    return records
