"""Claims challenges that apps pass on: how often one may cause a refresh, and what its outcome means to the app.

A challenge says that the present access token is no longer good, so it is met by a refresh or not at all. Apps see the
same challenge at the same time, and a program could make challenges up: for one grant and scope there is one refresh a
minute; the same challenge again gets what came of the first. What the provider refuses to a challenge ends the grant
only where the grant itself is gone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import assert_never

from token_relay.agents.ports import Now
from token_relay.agents.token_source import TokenRefused
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable

CHALLENGE_EVERY_S = 60.0


@dataclass(slots=True)
class ClaimsChallenge:
    """One challenge; ``flight`` is the refresh that is to meet it, None until one has begun."""

    claims: str
    admitted_s: float
    flight: asyncio.Task[TokenOutcome | None] | None = None


class Challenges:
    """The challenges of the last minute, by grant and scope."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], ClaimsChallenge] = {}

    def admit(self, grant_id: str, scope: str, claims: str, now: Now) -> ClaimsChallenge | TokenRefused:
        """Return the challenge to be met, an earlier one if it is the same; or that it comes too soon."""
        self._seen = {
            key: one for key, one in self._seen.items() if 0 <= now.boot_s - one.admitted_s < CHALLENGE_EVERY_S
        }
        known = self._seen.get((grant_id, scope))
        if known is None:
            known = self._seen[(grant_id, scope)] = ClaimsChallenge(claims, now.boot_s)
        elif known.claims != claims:
            left_s = CHALLENGE_EVERY_S - (now.boot_s - known.admitted_s)
            detail = f"another claims challenge of this grant was met less than {CHALLENGE_EVERY_S:.0f} s ago"
            return TokenRefused("busy", detail, "try again later", left_s)
        return known

    def forget(self, grant_id: str, scope: str) -> None:
        """Let the same challenge cause another refresh: the last one did not reach the provider."""
        self._seen.pop((grant_id, scope), None)


def ends_nothing(outcome: TokenOutcome) -> bool:
    """Whether a refusal is about the claims alone: a person or another request may help, the grant stays as it is."""
    return isinstance(outcome, Denied) and outcome.kind in ("person", "configuration")


def refusal_of(outcome: TokenOutcome | None, reauth_action: str) -> TokenRefused | None:
    """Return what the app is told when the refresh brought no token; None when it did, or the grant's state says it."""
    match outcome:
        case Refreshed(access_token=None):
            return TokenRefused("offline", "the provider's answer has no usable access token", "try again later")
        case Denied(kind="person"):
            detail = f"the provider wants the person for these claims: {outcome.error}"
            return TokenRefused("reauth_required", detail, reauth_action)
        case Denied(kind="configuration"):
            return TokenRefused("denied", f"the provider refuses these claims: {outcome.error}", "leave claims out")
        case Denied(kind="temporary"):
            detail = f"the provider refuses for now: {outcome.error}"
            return TokenRefused("offline", detail, "try again later", outcome.retry_after_s)
        case Unavailable(reason, retry_after_s):
            return TokenRefused("offline", f"the provider cannot be reached: {reason}", "try again", retry_after_s)
        case OutcomeUnknown(reason):
            return TokenRefused("offline", f"the provider's answer was lost: {reason}", "try again")
        case Refreshed() | Denied() | None:
            return None
        case _:
            assert_never(outcome)
