"""What a refresh in flight is made of, and how its outcome is told in the audit table."""

from __future__ import annotations

from dataclasses import dataclass

from device.elapsed import Stamp
from device.records import Grant
from relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from relay.secret import RefreshToken


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that may leave: its intent is on disk."""

    grant_id: str
    grant: Grant
    refresh_token: RefreshToken
    scope: str
    sent: Stamp
    claims: str = ""


@dataclass(slots=True)
class Pause:
    """After failures: not before ``until_boot_s``, and why."""

    failures: int
    until_boot_s: float
    reason: str


def scope_to_ask(grant: Grant) -> str | None:
    """A grant that was handed over may be narrower than its token: ask for no more than it says. RFC 6749 §6."""
    return grant.scope if grant.handoff_id else None


def event_name(outcome: TokenOutcome) -> str:
    """Return the event's name."""
    match outcome:
        case Refreshed():
            return "refreshed"
        case Denied():
            return "refresh_denied"
        case Unavailable():
            return "provider_unavailable"
        case OutcomeUnknown():
            return "refresh_answer_lost"


def detail_of(outcome: TokenOutcome) -> str:
    """Return what is known of it, without secrets."""
    match outcome:
        case Refreshed(problem=problem):
            return problem
        case Denied():
            codes = " ".join(str(code) for code in outcome.codes)
            return " ".join(filter(None, (outcome.kind, outcome.error, outcome.suberror, codes)))
        case Unavailable(reason=reason) | OutcomeUnknown(reason=reason):
            return reason
