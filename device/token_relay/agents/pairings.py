"""What both agents do with the records of pairings: which device a word means, one that replaces another, the end."""

from __future__ import annotations

from collections.abc import Iterable

from token_relay.agents.device_names import resolve_device
from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Outgoing, Pairing, Seen
from token_relay.agents.turn import Turn
from token_relay.protocol.delivery import is_given_up


def by_peer(pairings: Iterable[Pairing]) -> dict[str, Pairing]:
    """Return the pairing of each device by its id: the active one, else the newest; none that is pending."""
    rows = sorted(pairings, key=lambda row: (row.state == "active", row.paired_at))
    return {row.peer_id: row for row in rows if row.state != "pending"}


def peers(tx: Transaction) -> dict[str, Pairing]:
    """Return :func:`by_peer` of all pairings here."""
    return by_peer(tx.select(Pairing))


def names_of(tx: Transaction) -> list[tuple[str, str]]:
    """Return the ids of all devices that are paired, with their names."""
    return [(peer_id, row.peer_name) for peer_id, row in peers(tx).items()]


def pairing_of(tx: Transaction, device: str) -> Pairing:
    """Return the pairing of the device that this word means. Raises LocalError: none, or several could be meant."""
    return peers(tx)[resolve_device(device, names_of(tx))]


def retire_others(turn: Turn, pairing: Pairing) -> None:
    """Retire older pairings with the same peer: what is open in them is settled, nothing new begins."""
    for other in turn.tx.select(Pairing, peer_id=pairing.peer_id):
        if other.pairing_id != pairing.pairing_id and other.state == "active":
            turn.change(Pairing, other.pairing_id, state="retired")


def give_up_old(turn: Turn, pairing: Pairing) -> None:
    """Drop the requests of a retired pairing that are too old: its peer may have deleted the pairing."""
    for row in turn.tx.select(Outgoing, pairing_id=pairing.pairing_id):
        if is_given_up(kind=row.type, age_s=elapsed_s(Stamp.from_text(row.queued), turn.now)):
            turn.tx.delete(Outgoing, row.pairing_id, row.seq)
            turn.settled.append(row)
            turn.event("request_given_up", device=pairing.peer_id, handoff_id=row.handoff_id, detail=row.type)


def delete_pairing(turn: Turn, pairing_id: str) -> None:
    """Delete a pairing, if it is there, with its window and its open requests."""
    turn.settle(pairing_id)
    for row in turn.tx.select(Seen, pairing_id=pairing_id):
        turn.tx.delete(Seen, row.pairing_id, row.seq)
    turn.tx.delete(Pairing, pairing_id)
