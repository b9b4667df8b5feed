"""What the provider has refused to one request alone: a narrower scope, or claims. The grant stays as it is.

A refusal is remembered for exactly that scope and those claims, ten minutes at first, six hours at last, in memory: a
start may ask again. So that a program that makes scopes up cannot spend the provider's patience, a request that has
never worked waits for a minute after any refused one of the same grant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from token_relay.agents.grants.answers import words_of
from token_relay.agents.grants.pauses import shown_s
from token_relay.agents.ports import Now
from token_relay.agents.token_source import TokenRefused
from token_relay.provider.outcome import Denied

REFUSED_S = 600.0
REFUSED_S_MAX = 6 * 3600.0
EVERY_S = 60.0
KEPT_MAX = 256

Key = tuple[str, str, str]  # grant_id, normalised scope, claims


@dataclass(frozen=True, slots=True)
class _Remembered:
    times: int
    noted_boot_s: float
    until_boot_s: float
    answer: TokenRefused


class Refusals:
    """The refusals of one keeper."""

    def __init__(self, reauth_action: Callable[[], str]) -> None:
        self._reauth_action = reauth_action
        self._refused: dict[Key, _Remembered] = {}

    def get(self, key: Key, now: Now) -> TokenRefused | None:
        """Return the refusal that still stands for this request."""
        known = self._refused.get(key)
        if known is None or known.until_boot_s <= now.boot_s:
            return None
        return replace(known.answer, retry_after_s=known.until_boot_s - now.boot_s)

    def admit(self, key: Key, now: Now, *, has_worked: bool) -> TokenRefused | None:
        """Return why this request must not be sent now, None when it may; ``has_worked``: it brought a token before."""
        if (refused := self.get(key, now)) is not None or has_worked:
            return refused
        others = [known.noted_boot_s for (grant_id, *_), known in self._refused.items() if grant_id == key[0]]
        left_s = max(others, default=-EVERY_S) + EVERY_S - now.boot_s
        if left_s <= 0:
            return None
        return TokenRefused(
            "busy", "another request of this grant was refused a moment ago", f"ask again in {shown_s(left_s)}", left_s
        )

    def note(self, key: Key, outcome: Denied, now: Now) -> None:
        """Remember a refusal."""
        before = self._refused.pop(key, None)
        times = before.times + 1 if before is not None else 1
        pause_s = min(REFUSED_S * 2.0 ** min(times - 1, 16), REFUSED_S_MAX)
        while len(self._refused) >= KEPT_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[key] = _Remembered(times, now.boot_s, now.boot_s + pause_s, self._answer(key, outcome))

    def forget(self, key: Key) -> None:
        """Forget a refusal: the same request has worked."""
        self._refused.pop(key, None)

    def _answer(self, key: Key, outcome: Denied) -> TokenRefused:
        what, words = "these claims" if key[2] else "this scope", words_of(outcome)
        if outcome.kind == "person":
            return TokenRefused("refused", f"the provider wants the person for {what}: {words}", self._reauth_action())
        return TokenRefused("refused", f"the provider refuses {what}: {words}", f"ask without {what}")
