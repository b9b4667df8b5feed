"""Tells whether a vault was copied from another device: compares the recorded names of the board with today's. Pure.

A hardware name decides where both sides have one: another board is another device, and the same board is the same
device, also after its system was installed anew. Without a common hardware name, the machine-id decides. Without any
common name, it is not a copy: an agent that once ran as root saw more than it sees now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from token_relay.agents.ports import Transaction
from token_relay.agents.records import Board

MACHINE = "machine-id"


def is_copy(recorded: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Whether the recorded names belong to another device than this one."""
    common = recorded.keys() & here.keys()
    hardware = common - {MACHINE}
    if hardware:
        return any(recorded[name] != here[name] for name in hardware)
    return any(recorded[name] != here[name] for name in common)


def check_board(tx: Transaction, here: Mapping[str, str], *, now_s: int) -> bool:
    """Compare with the record; True for a copy, which changes nothing. For the same device, complete the record."""
    row = tx.get(Board, "self")
    recorded = _components(row)
    if is_copy(recorded, here):
        return True
    known = {**recorded, **here}
    if known != recorded:
        tx.put(Board("self", json.dumps(known, sort_keys=True), now_s))
    return False


def adopt(tx: Transaction, here: Mapping[str, str], *, now_s: int) -> None:
    """Make this device the vault's own."""
    tx.put(Board("self", json.dumps(dict(here), sort_keys=True), now_s))


def _components(row: Board | None) -> dict[str, str]:
    found: dict[str, str] = json.loads(row.components) if row is not None else {}
    return found
