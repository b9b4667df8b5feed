"""Claims challenges that apps pass on: how often one may cause a refresh, and what its outcome means to the app.

A challenge says that the present access token is no longer good, so only a refresh can meet it. Several apps may see
the same challenge at once, and a program could make challenges up: one grant and scope gets one refresh a minute; the
same challenge again gets the outcome of the first. What the provider refuses is remembered by :mod:`.refusals`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from token_relay.agents.grants.pauses import shown_s
from token_relay.agents.ports import Now
from token_relay.agents.token_source import TokenRefused
from token_relay.provider.outcome import TokenOutcome

CHALLENGE_EVERY_S = 60.0


@dataclass(slots=True)
class ClaimsChallenge:
    """One challenge; ``flight`` is the refresh that shall meet it, None until it has begun."""

    claims: str
    admitted_s: float
    flight: asyncio.Task[TokenOutcome | None] | None = None


class Challenges:
    """The challenges of the last minute, by grant and scope."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], ClaimsChallenge] = {}

    def admit(self, grant_id: str, scope: str, claims: str, now: Now) -> ClaimsChallenge | TokenRefused:
        """Return the challenge to meet, the earlier one if it is the same; or that it comes too soon."""
        self._seen = {
            key: one for key, one in self._seen.items() if 0 <= now.boot_s - one.admitted_s < CHALLENGE_EVERY_S
        }
        known = self._seen.get((grant_id, scope))
        if known is None:
            known = self._seen[(grant_id, scope)] = ClaimsChallenge(claims, now.boot_s)
        elif known.claims != claims:
            left_s = CHALLENGE_EVERY_S - (now.boot_s - known.admitted_s)
            detail = f"another claims challenge of this grant was met less than {CHALLENGE_EVERY_S:.0f} s ago"
            return TokenRefused("busy", detail, f"ask again in {shown_s(left_s)}", left_s)
        return known

    def forget(self, grant_id: str, scope: str) -> None:
        """Let the same challenge cause another refresh: the last one did not reach the provider."""
        self._seen.pop((grant_id, scope), None)
