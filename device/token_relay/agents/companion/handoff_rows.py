"""Between the companion's handoff states and their columns; pure."""

from __future__ import annotations

from dataclasses import replace

from token_relay.agents.records import CompanionHandoff
from token_relay.protocol.handoff import CompanionState, Dead, HandoffStored, NoHandoff, Ready


def stored_state(row: CompanionHandoff) -> CompanionState:
    """Return what the row says."""
    match row.state:
        case "none":
            return NoHandoff()
        case "ready":
            return Ready()
        case "stored":
            return HandoffStored()
        case "dead":
            return Dead(row.reason, row.was_stored)  # type: ignore[arg-type]  # written below
        case _:
            raise AssertionError("unknown state on disk")


def with_stored_state(row: CompanionHandoff, state: CompanionState) -> CompanionHandoff:
    """Return the row in this state."""
    match state:
        case NoHandoff():
            return replace(row, state="none")
        case Ready():
            return replace(row, state="ready")
        case HandoffStored():
            return replace(row, state="stored", was_stored=True)
        case Dead(reason, was_stored):
            return replace(row, state="dead", reason=reason, was_stored=was_stored)
