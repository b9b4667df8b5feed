"""One agent's protocol without its loop: a transaction in a dictionary, a turn, and what the turn would send."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now, Ports
from token_relay.agents.records import Identity, Pairing
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import Message, decode

NOW = Now("boot", 1000.0, 1_800_000_000.0, is_synced=True)
STAMP = Stamp.of(NOW).to_text()
OWN, PEER = (KeyPair.from_random(bytes([number]) * 32) for number in (1, 2))
IDENTITY = Identity("self", OWN.public_key, OWN.private_key, 0)
PAIRING_ID, HANDOFF_ID, OTHER_ID = "aa" * 16, "bb" * 16, "cc" * 16
PAIRING = Pairing(
    PAIRING_ID, device_id(PEER.public_key), PEER.public_key, "peer", "active", bytes(32), STAMP,
    seq_sent=10, seq_high=10, peer_accepted=10, challenge="dd" * 16, challenged=STAMP,
)  # fmt: skip


class Tx:
    """What a step needs of a transaction."""

    def __init__(self, *records: Any) -> None:
        self.rows: dict[tuple[Any, ...], Any] = {}
        for record in records:
            self.put(record)

    def get(self, record: Any, *key: str | int) -> Any:
        return self.rows.get((record, *key))

    def select(self, record: Any, **equals: Any) -> list[Any]:
        rows = [row for (kind, *_), row in self.rows.items() if kind is record]
        return [row for row in rows if all(getattr(row, name) == value for name, value in equals.items())]

    def put(self, record: Any) -> None:
        self.rows[(type(record), *(getattr(record, name) for name in record.key))] = record

    def delete(self, record: Any, *key: str | int) -> None:
        self.rows.pop((record, *key), None)

    def erase_key(self, data_key: str) -> None:
        assert data_key != "vault"


class SeededRandom:
    """The Random port, the same each time."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return low


class StillClock:
    """The Clock port, at one moment."""

    def now(self) -> Now:
        return NOW

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


def ports(tasks: asyncio.TaskGroup | None = None) -> Ports:
    """What an agent or a link is made with, as far as one turn needs it."""
    nothing: Any = None
    clock: Any = StillClock()  # nobody waits here
    return Ports(nothing, nothing, nothing, clock, SeededRandom(), tasks or asyncio.TaskGroup())


def turns(tasks: asyncio.TaskGroup | None = None) -> Turns:
    return Turns(ports(tasks), IDENTITY)


def turn_of(tx: Tx, *, is_duplicate: bool = False) -> Turn:
    return Turn(tx, OWN, NOW, SeededRandom(), lambda key: PeerBox(OWN, key), is_duplicate=is_duplicate)


def sent(turn: Turn) -> list[Message]:
    """What the turn would send, opened at the other end."""
    box = PeerBox(PEER, OWN.public_key)
    return [decode(box.open(message.envelope)) for message in turn.outgoing]
