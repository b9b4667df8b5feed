"""How the states of the companion's handoffs stand in columns; pure."""

from __future__ import annotations

from typing import assert_never, cast

from token_relay.agents.records import CompanionHandoff, CompanionHandoffColumns
from token_relay.protocol.handoff import CompanionState, Dead, DeadReason, HandoffStored, NoHandoff, Ready


def state_of(row: CompanionHandoff) -> CompanionState:
    """Read a handoff's state from its columns."""
    match row.state:
        case "none":
            return NoHandoff()
        case "ready":
            return Ready()
        case "stored":
            return HandoffStored()
        case "dead":
            return Dead(cast("DeadReason", row.reason), row.was_stored)
        case _:
            assert_never(row.state)


def columns_of(state: CompanionState) -> CompanionHandoffColumns:
    """Return the columns that spell this state."""
    match state:
        case NoHandoff():
            return {"state": "none"}
        case Ready():
            return {"state": "ready"}
        case HandoffStored():
            return {"state": "stored", "was_stored": True}
        case Dead(reason, was_stored):
            return {"state": "dead", "reason": reason, "was_stored": was_stored}
        case _:
            assert_never(state)
