"""How long a grant pauses after a failure, and why. In memory, since a start may try at once.

A pause has two ends. A program that wants a token waits 15 minutes at most for the next try, unless the provider asks
for more. What the keeper does unasked may wait longer, since each try writes its intent and its result: a provider that
cannot be reached for weeks must not wear an SD card out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from token_relay.agents.grants import schedule
from token_relay.agents.ports import Clock, Now, Random
from token_relay.agents.provider_failures import action_for


@dataclass(frozen=True, slots=True)
class Pause:
    """The next try is not before ``until_boot_s``, an unasked one not before ``unasked_boot_s``.

    ``action`` is empty where only another try helps. ``is_firm``: it is not the network that makes it wait, so a new
    connection does not end it.
    """

    failures: int
    since_boot_s: float
    until_boot_s: float
    unasked_boot_s: float
    reason: str
    action: str
    is_firm: bool = False

    def told(self, now: Now) -> str:
        """Return the reason, how long ago it came, and when the next try may be."""
        since_s, left_s = now.boot_s - self.since_boot_s, self.until_boot_s - now.boot_s
        then = f"next try in {shown_s(left_s)}" if left_s > 0 else "the next question tries again"
        return f"{self.reason} (last tried {shown_s(since_s)} ago, {then})"


def shown_s(seconds: float) -> str:
    """Return a duration for a sentence, rounded up: ``4 s``, ``15 min``, ``2 h``."""
    for unit, unit_s in (("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_s:
            return f"{math.ceil(seconds / unit_s)} {unit}"
    return f"{math.ceil(max(seconds, 0.0))} s"


class Pauses:
    """The pauses of one keeper, by grant."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._pauses: dict[str, Pause] = {}

    def get(self, grant_id: str) -> Pause | None:
        """Return the last pause of a grant, over or not; None when its last request went well."""
        return self._pauses.get(grant_id)

    def is_on(self, grant_id: str, now: Now) -> bool:
        """Return whether a program that asks now has to wait."""
        pause = self._pauses.get(grant_id)
        return pause is not None and pause.until_boot_s > now.boot_s

    def fail(
        self,
        grant_id: str,
        reason: str,
        retry_after_s: float | None,
        *,
        action: str = "",
        is_firm: bool = False,
        is_written: bool = True,
    ) -> None:
        """Pause after one more failure; ``is_written``: the try wrote to the disk."""
        before = self._pauses.get(grant_id)
        failures = (before.failures if before else 0) + 1
        share, now = self._random.uniform(0.0, 1.0), self._clock.now()
        pause_s = schedule.backoff_s(failures=failures, share=share, retry_after_s=retry_after_s)
        unasked_s = schedule.unasked_backoff_s(failures=failures, share=share) if is_written else 0.0
        until_boot_s, unasked_boot_s = now.boot_s + pause_s, now.boot_s + max(pause_s, unasked_s)
        does = action or action_for(reason)
        self._pauses[grant_id] = Pause(failures, now.boot_s, until_boot_s, unasked_boot_s, reason, does, is_firm)

    def wait(self, grant_id: str, reason: str, seconds: float, *, action: str) -> None:
        """Pause for so long, asked or unasked, and up to a tenth more: a fleet must not move in step."""
        seconds *= 1.0 + 0.1 * self._random.uniform(0.0, 1.0)
        now_boot_s = self._clock.now().boot_s
        until_boot_s = now_boot_s + seconds
        self._pauses[grant_id] = Pause(0, now_boot_s, until_boot_s, until_boot_s, reason, action, is_firm=True)

    def end(self, grant_id: str) -> None:
        """End the pause of a grant: its last request went well, or its owner asks."""
        self._pauses.pop(grant_id, None)

    def force(self, grant_id: str, now: Now) -> None:
        """Let one try through now if the pause waits for the network: its owner asks for it. Failures still count."""
        pause = self._pauses.get(grant_id)
        if pause is not None and not pause.is_firm:
            self._pauses[grant_id] = replace(pause, until_boot_s=now.boot_s)

    def clear(self) -> None:
        """End the pauses that wait for the network: it may be back."""
        for grant_id in [grant_id for grant_id, pause in self._pauses.items() if not pause.is_firm]:
            del self._pauses[grant_id]
