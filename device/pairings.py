"""What both agents do with the record of a pairing when another takes its place or a person ends it."""

from __future__ import annotations

from dataclasses import replace

from device.records import Pairing, Seen
from device.turn import Turn


def retire_others(turn: Turn, pairing: Pairing) -> None:
    """Retire older pairings with the same peer: they settle what is open, nothing new begins in them."""
    for other in turn.tx.select(Pairing, peer_id=pairing.peer_id):
        if other.pairing_id != pairing.pairing_id and other.state == "active":
            turn.tx.put(replace(other, state="retired"))


def delete_pairing(turn: Turn, pairing: Pairing) -> None:
    """Delete a pairing with its window and its open requests."""
    turn.settle(pairing.pairing_id)
    for row in turn.tx.select(Seen, pairing_id=pairing.pairing_id):
        turn.tx.delete(Seen, row.pairing_id, row.seq)
    turn.tx.delete(Pairing, pairing.pairing_id)
