"""One end says exactly what the test tells it to; the other is a real agent. For promises that one guard alone
holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from tests.agents.world_kit import SimulatedDevice, World, settle
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Pairing
from token_relay.agents.traffic import Outbound
from token_relay.protocol import messages as m
from token_relay.protocol.wire_json import encode_json

T = TypeVar("T")
UNKNOWN = "ab" * 16  # a handoff that neither end knows


async def say(
    end: SimulatedDevice, body: m.Body, *, head: dict[str, Any] | None = None, pairing: Pairing | None = None
) -> bytes:
    """Send a well-formed message that this end's own program never would; returns its envelope.

    ``head`` overrides fields of the head by their names on the wire.
    """
    chosen = pairing or (await end.rows(Pairing))[-1]
    sent: list[bytes] = []

    def step(turn: Any) -> None:
        if head is None:
            turn.answer(chosen.pairing_id, body, in_reply_to=None)
        else:
            current = turn.tx.get(Pairing, chosen.pairing_id)
            turn.tx.put(replace(current, seq_sent=current.seq_sent + 1))
            fields = {
                "v": body.version,
                "type": body.type,
                "pairing_id": chosen.pairing_id,
                "from": end.id,
                "to": chosen.peer_id,
                "seq": current.seq_sent + 1,
                "sent_at": 0,
                "in_reply_to": None,
                "body": body.model_dump(mode="json"),
                **head,
            }
            envelope = turn.box(chosen.peer_key).seal(encode_json(fields), turn.random.bytes(24))
            turn.outgoing.append(
                Outbound(chosen.peer_id, chosen.pairing_id, current.seq_sent + 1, body.type, "", envelope)
            )
        sent.append(turn.outgoing[-1].envelope)

    await end.agent.turns.run(step)
    await asyncio.sleep(0.5)
    await settle()
    return sent[0]


def between(world: World, sender: SimulatedDevice, recipient: SimulatedDevice) -> Iterator[m.Message]:
    """Yield every message of one direction, opened, in the order of sending."""
    box = recipient.agent.turns.box(sender.agent.turns.own.public_key)
    for packet in world.broker.seen:
        if packet.topic == f"relay/v1/{recipient.id}/from/{sender.id}":
            yield m.decode(box.open(packet.payload))


def last(world: World, sender: SimulatedDevice, recipient: SimulatedDevice, kind: type[T]) -> T:
    """Return the newest message of one kind that was sent in one direction."""
    bodies = [message.body for message in between(world, sender, recipient)]
    return [body for body in bodies if isinstance(body, kind)][-1]


def count(world: World, sender: SimulatedDevice, recipient: SimulatedDevice, kind: type[m.Body]) -> int:
    """Return how many messages of one kind were sent in one direction."""
    return sum(isinstance(message.body, kind) for message in between(world, sender, recipient))


def deafen(world: World, end: SimulatedDevice) -> None:
    """Let nothing reach this end any more, so that the test can answer in its place."""
    world.broker.hold = lambda packet: packet.topic.startswith(f"relay/v1/{end.id}/from/")


def an_offer(handoff_id: str = UNKNOWN, **changes: Any) -> m.Offer:
    """Return an OFFER that a companion takes."""
    fields = {
        "handoff_id": handoff_id,
        "strategy": "mint",
        "issuer": "https://issuer.example",
        "client_id": "client",
        "scope": "offline_access",
        "account": "somebody",
        "lease_days": 90,
        "expires_at": 0,
        "renews": None,
        **changes,
    }
    return m.Offer.model_validate(fields)


@contextmanager
def watching(end: SimulatedDevice, look: Callable[[Transaction], None]) -> Iterator[None]:
    """Call ``look`` with what each step would commit, in its transaction, after the step; it may assert or raise."""
    run = end.vault.run

    async def watched(step: Callable[[Transaction], T]) -> T:
        def and_look(tx: Transaction) -> T:
            result = step(tx)
            look(tx)
            return result

        return await run(and_look)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end.vault, "run", watched)
        yield


class _Noting:
    """A transaction that notes which data keys are erased."""

    def __init__(self, tx: Transaction, erased: list[str]) -> None:
        self._tx = tx
        self._erased = erased

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def erase_key(self, data_key: str) -> None:
        self._erased.append(data_key)
        self._tx.erase_key(data_key)


@contextmanager
def erasures(end: SimulatedDevice) -> Iterator[list[str]]:
    """Collect the names of the data keys that this end erases."""
    run = end.vault.run
    erased: list[str] = []

    async def noted(step: Callable[[Transaction], T]) -> T:
        return await run(lambda tx: step(_Noting(tx, erased)))  # it passes everything on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(end.vault, "run", noted)
        yield erased
