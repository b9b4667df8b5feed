"""Two ends of any versions, greeting as they like over a channel that loses and reorders, come to know each other.

Both ends are the real link over a dictionary. An end may be updated, or go back to an older program with the disk of
that time; each start greets. No sequence of these makes them greet without end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agents.old_end import make_old
from tests.properties.one_end import NOW, OWN, PAIRING, PEER, SeededRandom, Tx, ports
from token_relay.agents.link import Link
from token_relay.agents.records import Identity, OwnName, Pairing, RestoredEnd
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import HandoffReport, Hello

MESSAGES_MAX = 8  # what one start brings: HELLO 2, REJECT, HELLO, HELLO, and the other end's own
STRATEGIES = "branch mint move"


class Silent:
    """A handler with no handoffs."""

    def on_message(self, *_: Any) -> None:
        return None

    def report(self, *_: Any) -> list[HandoffReport]:
        return []

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        return True

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: RestoredEnd) -> None:
        return None

    def is_leased(self, *_: Any) -> bool:
        return False


@dataclass
class End:
    """One end: its keys, its disk, and the program that runs on it."""

    own: KeyPair
    peer: KeyPair
    version: int
    random: SeededRandom
    tx: Tx = field(init=False)
    link: Link = field(init=False)
    sent: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        peer = {"peer_id": device_id(self.peer.public_key), "peer_key": self.peer.public_key}
        fields = {name: getattr(PAIRING, name) for name in Pairing.__slots__} | peer
        fresh = {"peer_name": "", "seq_sent": 0, "seq_high": 0, "peer_accepted": 0}
        self.tx = Tx(Pairing(**(fields | fresh)), OwnName("self", self.called, self.called))

    @property
    def pairing(self) -> Pairing:
        row = self.tx.get(Pairing, PAIRING.pairing_id)
        assert isinstance(row, Pairing)
        return row

    @property
    def called(self) -> str:
        return device_id(self.own.public_key)

    def start(self, version: int) -> None:
        """Begin this program on this disk, and greet; a disk of an older program knows nothing of newer versions."""
        if version < self.version:
            fields = {name: getattr(self.pairing, name) for name in Pairing.__slots__}
            self.tx.put(Pairing(**(fields | {"speaks": 0, "strategies": "", "own_name": ""})))
        self.version = version
        turns = Turns(ports(), Identity("self", self.own.public_key, self.own.private_key, 0))
        mailbox: Any = None
        self.link = Link(turns, handler=Silent(), mailbox=mailbox)
        make_old(self.link, version)
        self.greet()

    def greet(self) -> None:
        turn = self._turn()
        self.link.greet(turn, self.pairing)
        self._finish(turn)

    def receive(self, envelope: bytes) -> None:
        turn = self._turn()
        self.link._accept(turn, device_id(self.peer.public_key), envelope)
        self._finish(turn)

    def _turn(self) -> Turn:
        return Turn(self.tx, self.own, NOW, self.random, lambda key: PeerBox(self.own, key))

    def _finish(self, turn: Turn) -> None:
        self.sent.extend(message.envelope for message in turn.outgoing)


class Pair:
    """Both ends, and what is on its way."""

    def __init__(self, first: int, second: int) -> None:
        shared = SeededRandom()  # two messages never have the same nonce
        self.ends = (End(OWN, PEER, first, shared), End(PEER, OWN, second, shared))
        for end in self.ends:
            end.start(end.version)

    def deliver(self, draw: random.Random, *, loses: bool) -> None:
        """Bring one message, any of those on their way, or lose it."""
        ways = [(end, other) for end, other in (self.ends, self.ends[::-1]) if end.sent]
        if ways:
            sender, receiver = draw.choice(ways)
            envelope = sender.sent.pop(draw.randrange(len(sender.sent)))
            if not (loses and draw.random() < 0.4):
                receiver.receive(envelope)

    def deliver_all(self) -> int:
        """Bring all in their order, until nothing is on its way; returns how many there were."""
        count = 0
        while any(end.sent for end in self.ends):
            for sender, receiver in (self.ends, self.ends[::-1]):
                while sender.sent:
                    count += 1
                    assert count <= 4 * MESSAGES_MAX, "they greet without end"
                    receiver.receive(sender.sent.pop(0))
        return count


VERSION = st.integers(1, 3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["deliver", "lose", "greet", "start"]), st.integers(0, 1), st.integers(0, 999)),
    max_size=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VERSION, VERSION, STEPS)
def test_two_ends_of_any_versions_come_to_know_each_other(
    first: int, second: int, steps: list[tuple[str, int, int]]
) -> None:
    pair = Pair(first, second)
    for what, which, seed in steps:
        end = pair.ends[which]
        match what:
            case "greet":
                end.greet()
            case "start":
                end.start(1 + seed % 3)
            case _:
                pair.deliver(random.Random(seed), loses=what == "lose")
    for end in pair.ends:  # nothing that was on its way arrives any more: the next greetings are all there is
        end.sent.clear()
    for _ in range(2):
        for end in pair.ends:
            end.greet()
        assert pair.deliver_all() <= 2 * MESSAGES_MAX
    for end, other in (pair.ends, pair.ends[::-1]):
        if end.version > 1:
            expected = (1, "") if other.version == 1 else (min(end.version, other.version), STRATEGIES)
            assert (end.pairing.speaks, end.pairing.strategies) == expected
        if end.version == other.version == 3:
            assert end.pairing.own_name == other.called, "what it calls itself comes with a greeting"


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3])
def test_each_pair_of_versions_knows_after_one_start_of_each(first: int, second: int) -> None:
    pair = Pair(first, second)
    pair.deliver_all()
    for end, other in (pair.ends, pair.ends[::-1]):
        if end.version > 1:
            assert end.pairing.speaks == min(end.version, other.version)
