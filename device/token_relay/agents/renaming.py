"""What this device calls itself, and what it calls its peers: who has named whom, and who may do so again.

A device says its name in each HELLO. At the other end that name counts until a person there gives it one of their own,
which no word of the device replaces; and it counts only where it can mean no other device.
"""

from __future__ import annotations

from collections.abc import Callable
from shlex import quote

from token_relay.agents.device_names import NAME_RULE, free_name, is_name, name_problem
from token_relay.agents.pairings import names_of, pairing_of, peers
from token_relay.agents.ports import Transaction
from token_relay.agents.records import OwnName, Pairing
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import LocalError

SELF = "self"


def own_name(tx: Transaction, configured: str) -> str:
    """Return what this device calls itself; ``configured`` where the vault has lost it."""
    row = tx.get(OwnName, SELF)
    return row.called if row is not None else configured


def settle_own_name(turn: Turn, configured: str) -> None:
    """At the start: a setting that has changed since the last one is a new name; else the last name stays."""
    row = turn.tx.get(OwnName, SELF)
    if row is None or row.configured != configured:
        _call_self(turn, configured, configured)


def rename_self(turn: Turn, name: str, configured: str) -> str:
    """Call this device so from now on; returns what it was called. Raises LocalError: that is no name."""
    if not is_name(name):
        raise LocalError(NAME_RULE, hint="token-relay companion rename NAME")
    before = own_name(turn.tx, configured)
    _call_self(turn, name, configured)
    return before


def _call_self(turn: Turn, called: str, configured: str) -> None:
    before = turn.tx.get(OwnName, SELF)
    turn.tx.put(OwnName(SELF, called, configured))
    if before is not None and before.called != called:
        turn.event("own_name_changed", detail=_change(before.called, called))


def given_name(tx: Transaction, peer_id: str) -> str:
    """Return the name that a person here gave this device; empty: none."""
    row = peers(tx).get(peer_id)
    return row.peer_name if row is not None and row.is_name_given else ""


def rename_peer(turn: Turn, word: str, name: str) -> Pairing:
    """Call the device that this word means so, because a person says so; returns its pairing as it was.

    Raises:
        LocalError: no such device, or that is no name, or it could mean another device.
    """
    pairing, known = pairing_of(turn.tx, word), names_of(turn.tx)
    if problem := name_problem(pairing.peer_id, name, known):
        free = free_name(pairing.peer_id, name, known)
        raise LocalError(problem, hint=f"try: token-relay phone rename {quote(word)} {quote(free)}")
    _call(turn, pairing.peer_id, name, is_given=True)
    return pairing


def take_name_over(turn: Turn, *, old_id: str, new_id: str, name: str) -> None:
    """Call a device so that takes another one's place; where both would be called alike, the other is the old one."""
    names = names_of(turn.tx)
    if name_problem(new_id, name, names):
        others = [device for device in names if device[0] not in (old_id, new_id)]
        before = peers(turn.tx)[old_id].peer_name
        _call(turn, old_id, free_name(old_id, f"{before[:48]} (old)", [*others, (new_id, name)]), is_given=True)
    if not name_problem(new_id, name, names_of(turn.tx)):  # it may be a third one's by now
        _call(turn, new_id, name, is_given=name != peers(turn.tx)[new_id].own_name)


def note_name(turn: Turn, pairing: Pairing, name: str, *, may: Callable[[], bool]) -> None:
    """Take what a peer calls itself, in the turn of its HELLO, and say so in an event.

    ``may`` is asked before anything is written, and counts: a peer may choose its names to fill the disk.
    """
    if not is_name(name):
        return
    if not pairing.own_name:  # paired before devices said their names: nobody knows who chose the name of now
        is_given = pairing.is_name_given or name != pairing.peer_name
        turn.change(Pairing, pairing.pairing_id, own_name=name, is_name_given=is_given)
        return
    is_new, problem = name != pairing.own_name, ""
    if not pairing.is_name_given and name != pairing.peer_name:
        problem = name_problem(pairing.peer_id, name, names_of(turn.tx))
        is_new = is_new or not problem  # it was another device's until now
    if not is_new or not may():
        return
    turn.change(Pairing, pairing.pairing_id, own_name=name)
    if problem:
        turn.event("rename_refused", device=pairing.peer_id, detail=f"{pairing.peer_name}: {problem}")
    elif not pairing.is_name_given:
        _call(turn, pairing.peer_id, name)


def _call(turn: Turn, peer_id: str, name: str, *, is_given: bool = False) -> None:
    before = peers(turn.tx)[peer_id].peer_name
    for row in turn.tx.select(Pairing, peer_id=peer_id):
        turn.change(Pairing, row.pairing_id, peer_name=name, is_name_given=is_given)
    if name != before:
        turn.event("device_renamed", device=peer_id, detail=_change(before, name))


def _change(old: str, new: str) -> str:
    return f"{old} -> {new}"
