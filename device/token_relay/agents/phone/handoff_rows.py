"""Between the phone's handoff states and their columns; pure."""

from __future__ import annotations

from dataclasses import replace

from token_relay.agents.records import PhoneHandoff
from token_relay.protocol.errors import ConfigError, PersonNeededError
from token_relay.protocol.handoff import Cancelled, Cancelling, Done, Gone, New, Offered, PhoneState, Released, Revoking
from token_relay.protocol.messages import Offer

LIVE = ("offered", "released", "done", "cancelling", "revoking")  # the companion has a part in it, or may have


def offer_body(row: PhoneHandoff) -> Offer:
    if row.strategy not in ("branch", "mint", "move"):
        raise PersonNeededError("a handoff without a strategy cannot be offered")
    return Offer(
        handoff_id=row.handoff_id,
        strategy=row.strategy,  # type: ignore[arg-type]  # just checked
        issuer=row.issuer,
        client_id=row.client_id,
        scope=row.scope,
        account=row.account,
        lease_days=row.lease_days,
        expires_at=row.expires_at,
        renews=row.renews or None,
    )


def unknown_row(handoff_id: str, pairing_id: str, created: str, created_at: int) -> PhoneHandoff:
    """A row for a handoff that this disk has never seen, or has lost: it can only be taken away."""
    return PhoneHandoff(
        handoff_id=handoff_id,
        pairing_id=pairing_id,
        grant_id="",
        state="new",
        reason="",
        strategy="",
        scope="",
        lease_days=0,
        created=created,
        created_at=created_at,
        expires_at=0,
    )


def state_of(row: PhoneHandoff) -> PhoneState:
    """Read a handoff's state out of its columns."""
    match row.state:
        case "new":
            return New()
        case "offered":
            return Offered(is_accepted=row.reason == "accepted")
        case "released":
            return Released()
        case "done":
            return Done()
        case "cancelling":
            return Cancelling()
        case "cancelled":
            return Cancelled()
        case "revoking":
            return Revoking()
        case "gone":
            return Gone(row.reason)  # type: ignore[arg-type]  # written below
        case _:
            raise AssertionError("unknown state on disk")


def with_phone_state(row: PhoneHandoff, state: PhoneState) -> PhoneHandoff:
    """Return the row with the columns that spell this state."""
    match state:
        case Offered(is_accepted=True):
            return replace(row, state="offered", reason="accepted")
        case Gone(reason):
            return replace(row, state="gone", reason=reason)
        case _:
            return replace(row, state=type(state).__name__.lower(), reason="")


def check_scope(wanted: str, granted: str) -> None:
    """Raise ConfigError when a handoff wants more than its grant has."""
    beyond = set(wanted.split()) - set(granted.split())
    if beyond:
        raise ConfigError(f"scope goes beyond what was granted: {' '.join(sorted(beyond))}", hint=f"granted: {granted}")
