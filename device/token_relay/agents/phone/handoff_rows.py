"""How the states and terms of the phone's handoffs stand in columns; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never, cast, get_args

from token_relay.agents.records import DeviceState, Pairing, PhoneHandoff, PhoneHandoffColumns
from token_relay.protocol.errors import ConfigError, PersonNeededError, PolicyError
from token_relay.protocol.handoff import (
    Cancelled,
    Cancelling,
    Done,
    Gone,
    GoneReason,
    New,
    Offered,
    PhoneState,
    PhoneStateName,
    Released,
    Revoking,
    Strategy,
)
from token_relay.protocol.messages import Offer

LIVE: frozenset[PhoneStateName] = frozenset({"offered", "released", "done", "cancelling", "revoking"})
"""States in which the companion has a part, or may have."""

STRATEGIES_OF_VERSION_1: tuple[Strategy, ...] = ("branch", "mint", "move")  # what a device of before HELLO 2 knows


@dataclass(frozen=True, slots=True)
class Terms:
    """What a handoff offers, before it has an id. ``renews``: the handoff that RENEW named, whose grant it replaces."""

    grant_id: str  # the phone's own grant behind it; empty where there is none
    strategy: Literal["", Strategy]
    scope: str
    lease_days: int
    issuer: str
    client_id: str
    subject: str
    account: str
    profile: str
    renews: str = ""

    @classmethod
    def again(cls, row: PhoneHandoff) -> Terms:
        """Return the terms of a handoff for its renewal."""
        return cls(
            grant_id=row.grant_id,
            strategy=row.strategy,
            scope=row.scope,
            lease_days=row.lease_days,
            issuer=row.issuer,
            client_id=row.client_id,
            subject=row.subject,
            account=row.account,
            profile=row.profile,
            renews=row.handoff_id,
        )

    def new_row(
        self, handoff_id: str, pairing_id: str, *, created: str, created_at: int, expires_at: int
    ) -> PhoneHandoff:
        """Return the row of a new handoff on these terms."""
        return PhoneHandoff(
            handoff_id=handoff_id,
            pairing_id=pairing_id,
            grant_id=self.grant_id,
            state="new",
            reason="",
            strategy=self.strategy,
            scope=self.scope,
            lease_days=self.lease_days,
            created=created,
            created_at=created_at,
            expires_at=expires_at,
            renews=self.renews,
            is_renewal=bool(self.renews),
            issuer=self.issuer,
            client_id=self.client_id,
            subject=self.subject,
            account=self.account,
            profile=self.profile,
        )


def offer_body(row: PhoneHandoff) -> Offer:
    """Return OFFER for a handoff. Raises PersonNeededError: its terms were lost with an older disk."""
    if row.strategy == "":
        raise PersonNeededError("a handoff without a strategy cannot be offered")
    return Offer(
        handoff_id=row.handoff_id,
        strategy=row.strategy,
        issuer=row.issuer,
        client_id=row.client_id,
        scope=row.scope,
        account=row.account,
        lease_days=row.lease_days,
        expires_at=row.expires_at,
        renews=row.renews or None,
    )


def unknown_row(handoff_id: str, pairing_id: str, created: str, created_at: int) -> PhoneHandoff:
    """Return a row for a handoff that this disk never saw, or has lost: it can only be taken away."""
    terms = Terms("", "", "", 0, "", "", "", "", "")
    return terms.new_row(handoff_id, pairing_id, created=created, created_at=created_at, expires_at=0)


def state_of(row: PhoneHandoff) -> PhoneState:
    """Read a handoff's state from its columns."""
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
            return Gone(cast("GoneReason", row.reason))
        case _:
            assert_never(row.state)


def columns_of(state: PhoneState) -> PhoneHandoffColumns:
    """Return the columns that spell this state."""
    match state:
        case New():
            return {"state": "new", "reason": ""}
        case Offered(is_accepted):
            return {"state": "offered", "reason": "accepted" if is_accepted else ""}
        case Released():
            return {"state": "released", "reason": ""}
        case Done():
            return {"state": "done", "reason": ""}
        case Cancelling():
            return {"state": "cancelling", "reason": ""}
        case Cancelled():
            return {"state": "cancelled", "reason": ""}
        case Revoking():
            return {"state": "revoking", "reason": ""}
        case Gone(reason):
            return {"state": "gone", "reason": reason}
        case _:
            assert_never(state)


def device_state_of(reported: str) -> DeviceState:
    """Return the state that a companion reports, in the words of a row."""
    return cast("DeviceState", reported) if reported in get_args(DeviceState) else "unknown"


def check_strategy(strategy: Strategy, pairing: Pairing) -> None:
    """Raise PolicyError when the device would refuse an OFFER with this strategy; its HELLO has said what it knows."""
    known = pairing.strategies.split() if pairing.speaks > 1 else STRATEGIES_OF_VERSION_1
    if strategy not in known:
        raise PolicyError(
            f"strategy {strategy} is refused: {pairing.peer_name} does not know it",
            hint=f"update the program on {pairing.peer_name}, or choose --strategy {' or '.join(known)}",
        )


def check_scope(wanted: str, granted: str) -> None:
    """Raise ConfigError when a handoff wants more than its grant has."""
    beyond = set(wanted.split()) - set(granted.split())
    if beyond:
        raise ConfigError(
            f"scope goes beyond what was granted: {' '.join(sorted(beyond))}",
            hint=f"ask with --scope for some of: {granted}",
        )
