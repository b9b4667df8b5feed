"""What an agent does when rows of its vault can no longer be read: one unreadable cell costs one grant, never more.

The vault has given such a row up, or only its secrets where the rest is as it was written, and left a :class:`.Damaged`
row. :func:`mend` acts on these at a start, and whenever damage shows. Whoever can write to the disk can delete rows
unseen anyway, so nothing lost may open a door: a lost grant is over, a grant whose pairing is lost is locked and stays
sealed, a lost record of the board locks the device until a person adopts it, a lost choice of the primary phone asks
for another. Identity is not among these: without its key pair the device is a stranger, and the vault is set aside.
"""

from __future__ import annotations

import json
import re
from typing import Protocol

from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import columns_of, is_put_away
from token_relay.agents.pairings import delete_pairing
from token_relay.agents.records import (
    AuditEvent,
    Board,
    CachedToken,
    Counter,
    Damaged,
    Grant,
    Outgoing,
    Pairing,
    PrimaryPhone,
    Seen,
    grant_key,
)
from token_relay.agents.turn import Turn

_ID = re.compile(r"[0-9a-f]{32}")  # the key of a damaged row may be anything
# As another device's names, so that the agent does not start on it unasked (token_relay.service.board_check).
BOARD_LOST = json.dumps(dict.fromkeys(("device-tree", "dmi", "credential", "machine-id"), "damaged"))


class DamagedAgent(Protocol):
    """The agent's part."""

    def on_damage(self, turn: Turn) -> None:
        """Mend the handoffs: each rests in a state that this agent can go on from."""
        ...

    def on_grant_lost(self, turn: Turn, grant: Grant) -> None:
        """End a grant whose refresh token cannot be read any more, and ask for what replaces it."""
        ...


def mend(turn: Turn, owner: DamagedAgent) -> None:
    """Act on what the vault gave up, in this transaction; nothing when it gave up nothing."""
    damaged = turn.tx.select(Damaged)
    if not damaged:
        return
    _mend_counter(turn)
    tables = {row.table_name for row in damaged}
    for row in damaged:
        turn.tx.delete(Damaged, row.number)
        turn.event("row_damaged", detail=row.table_name)
        if row.table_name == Grant.table and _ID.fullmatch(row.row):
            for token in turn.tx.select(CachedToken, grant_id=row.row):
                turn.tx.delete(CachedToken, token.grant_id, token.scope)
            turn.tx.erase_key(grant_key(row.row))
    if Board.table in tables:
        turn.tx.put(Board("self", BOARD_LOST, turn.wall))
    if PrimaryPhone.table in tables:
        turn.tx.put(PrimaryPhone("self", "", turn.wall))
    if Pairing.table in tables:
        _drop_unpaired(turn)
    owner.on_damage(turn)
    for grant in turn.tx.select(Grant):
        if grant.refresh_token is None and grant.state != "dead":
            owner.on_grant_lost(turn, grant)


def _mend_counter(turn: Turn) -> None:
    last = max((event.number for event in turn.tx.select(AuditEvent)), default=0)
    counter = turn.tx.get(Counter, "events")
    if counter is None or counter.value < last:
        turn.tx.put(Counter("events", last))


def _drop_unpaired(turn: Turn) -> None:
    """No message reaches what hangs on a lost pairing: lock its grants, forget its numbers and its open requests."""
    known = {pairing.pairing_id for pairing in turn.tx.select(Pairing)} | {""}
    hanging = {row.pairing_id for row in turn.tx.select(Outgoing)} | {row.pairing_id for row in turn.tx.select(Seen)}
    for pairing_id in sorted(hanging - known):
        delete_pairing(turn, pairing_id)
    for grant in turn.tx.select(Grant):
        if grant.pairing_id not in known and not is_put_away(grant):
            turn.change(Grant, grant.grant_id, **columns_of(lifecycle.Locked(grant.generation, "damaged")))
