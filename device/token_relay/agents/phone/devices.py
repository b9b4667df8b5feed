"""Ends a device's handoffs, its pairings and old offers, in the caller's transaction: a person or time wants it."""

from __future__ import annotations

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.pairings import delete_pairing
from token_relay.agents.phone.handoff_rows import LIVE, columns_of, state_of
from token_relay.agents.phone.steps import PhoneSteps
from token_relay.agents.records import HandoffKey, Outgoing, Pairing, PhoneHandoff, handoff_key
from token_relay.agents.renaming import take_name_over
from token_relay.agents.turn import Turn
from token_relay.protocol.handoff import Gone, phone_may
from token_relay.protocol.messages import Cancel, Revoke
from token_relay.protocol.pairing import INVITATION_LIFETIME_S

FORGOTTEN_AFTER_S = 30 * 24 * 3600  # rows of a deleted pairing: no message reaches them, the events stay


def revoke_device(turn: Turn, steps: PhoneSteps, device_id: str) -> list[HandoffKey]:
    """Queue REVOKE for every live handoff of a device and take away its right to renew; return these handoffs' keys."""
    touched = []
    for pairing in turn.tx.select(Pairing, peer_id=device_id):
        turn.change(Pairing, pairing.pairing_id, renew_denied=True)
        for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id):
            if row.state in LIVE or (row.state, row.reason) == ("gone", "rollback"):
                if phone_may(state_of(row), "revoke"):
                    steps.step(turn, pairing, row.handoff_id, "revoke")
                touched.append(row.at)
    return touched


def replace_device(turn: Turn, steps: PhoneSteps, *, old_id: str, new_id: str, name: str) -> list[HandoffKey]:
    """One device takes another's place, which loses its grants and its pairing; return the keys of its handoffs."""
    touched = revoke_device(turn, steps, old_id)
    take_name_over(turn, old_id=old_id, new_id=new_id, name=name)
    for row in turn.tx.select(Pairing, peer_id=old_id):
        turn.change(Pairing, row.pairing_id, state="retired", replaced_by=new_id)
    turn.event("device_replaced", device=old_id, detail=new_id)
    return touched


def forget_device(turn: Turn, steps: PhoneSteps, device_id: str) -> int:
    """Give a device up: its handoffs become GONE, its pairings are deleted; nothing is sent."""
    count = 0
    for pairing in turn.tx.select(Pairing, peer_id=device_id):
        for row in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id):
            if row.state in LIVE:
                steps.step(turn, pairing, row.handoff_id, "forget")
                count += 1
        delete_pairing(turn, pairing.pairing_id)
    turn.event("device_forgotten", device=device_id)
    return count


def end_unpaired(turn: Turn) -> None:
    """End the handoffs of pairings that damage has taken: no message reaches them any more."""
    known = {pairing.pairing_id for pairing in turn.tx.select(Pairing)}
    for row in turn.tx.select(PhoneHandoff):
        if row.state in LIVE and row.pairing_id not in known:
            turn.change(PhoneHandoff, *row.at, **columns_of(Gone("forgotten")))


def restore_requests(turn: Turn, steps: PhoneSteps) -> None:
    """Have each handoff that waits for an answer its open request; what cannot be said again is given up."""
    waiting = {(row.pairing_id, row.handoff_id) for row in turn.tx.select(Outgoing)}
    for row in turn.tx.select(PhoneHandoff):
        if row.at in waiting or row.state not in LIVE or row.reason == "accepted":
            continue
        match row.state:
            case "offered" | "released":
                steps.give_up(turn, row.at, "its open message was damaged on this disk")
            case "cancelling":
                turn.request(row.pairing_id, Cancel(handoff_id=row.handoff_id), row.handoff_id)
            case "revoking":
                turn.request(row.pairing_id, Revoke(handoff_id=row.handoff_id), row.handoff_id)
            case _:
                pass


def clear_up(turn: Turn, steps: PhoneSteps) -> float:
    """Delete pairings that came to nothing or are over, give up old offers; return the seconds to the next look."""
    for pairing in turn.tx.select(Pairing, state="pending"):
        age_s = elapsed_s(Stamp.from_text(pairing.created), turn.now)
        if age_s is None or age_s > INVITATION_LIFETIME_S:
            delete_pairing(turn, pairing.pairing_id)
    for pairing in turn.tx.select(Pairing, state="retired"):
        rows = turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id)
        if all(row.state not in LIVE for row in rows):
            delete_pairing(turn, pairing.pairing_id)
    _forget_old(turn)
    return _expire_offers(turn, steps)


def _forget_old(turn: Turn) -> None:
    """Delete old handoffs of deleted pairings; in a pairing that lives a restored companion may name them."""
    for row in turn.tx.select(PhoneHandoff) if turn.now.is_synced else ():
        is_old = turn.wall - row.created_at > FORGOTTEN_AFTER_S and row.state not in LIVE and not row.orphans
        if is_old and turn.tx.get(Pairing, row.pairing_id) is None:
            turn.tx.delete(PhoneHandoff, *row.at)
            turn.tx.erase_key(handoff_key(*row.at))


def _expire_offers(turn: Turn, steps: PhoneSteps) -> float:
    """Give up offers older than 24 h, through CANCEL; only a synced clock may judge."""
    next_s = 3600.0  # soon enough for a new offer, which lives for a day
    if not turn.now.is_synced:
        return next_s
    for row in turn.tx.select(PhoneHandoff, state="offered"):
        if row.expires_at and turn.wall <= row.expires_at:
            next_s = min(next_s, row.expires_at + 1 - turn.now.wall_s)
        elif row.expires_at and turn.tx.get(Pairing, row.pairing_id) is not None:
            steps.give_up(turn, row.at, "the offer was not taken within 24 hours")
    return next_s
