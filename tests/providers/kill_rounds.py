"""Rounds of kill -9 and lost answers at a provider that somebody else wrote, and what they have cost.

In each round the companion refreshes, and one thing happens to it at a moment that is drawn. Afterwards it runs on
until it has a newer token, or until its status says that the grant is over; then the person hands over anew, and the
next round finds a healthy grant. The gateway knows what the provider was asked and whether its answer arrived.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Literal, get_args

from tests.chaos.victims import Target
from tests.e2e.kit import eventually
from tests.providers.provider_world import ProviderCompanion, ProviderPhone, ProviderWorld

# soon: killed within 90 ms of the ask. unsent: the request never reaches the provider, then killed. unheard: the answer
# is lost, then killed. told: killed within 20 ms of the answer's arrival. stored: killed when an app has its token.
# dropped: the answer is lost, and nobody is killed. cut: the request is lost, and nobody is killed.
Kind = Literal["soon", "unsent", "told", "stored", "cut", "unheard", "dropped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SOON_S_MAX, TOLD_S_MAX = 0.09, 0.02
COUNTS = (
    "rounds",
    "lost_answers",
    "of_them_never_asked",
    "grants_lost_with",
    "grants_lost_without",
    "double_uses",
)
OVER = ("needs_handoff", "dead", "locked")


@dataclass
class Tally:
    """What all rounds have cost."""

    rounds: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    lost_answers: int = 0
    """Rounds in which the companion had sent a request and has nothing of the answer on its disk."""
    of_them_never_asked: int = 0
    """Those in which the provider never saw the request, which the companion cannot know."""
    grants_lost_with: int = 0
    grants_lost_without: int = 0
    double_uses: int = 0
    """Values that were sent again though the answer was on the disk: there may be none."""

    def check(self) -> None:
        """Assert what is promised: a grant is lost with an answer, and a value is used twice after a lost one alone."""
        assert self.grants_lost_without == self.double_uses == 0, self

    def add(self, other: Tally) -> None:
        """Add what another run has found."""
        self.kinds += other.kinds
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class KillRounds:
    """The rounds of one world."""

    def __init__(
        self, world: ProviderWorld, phone: ProviderPhone, watch: ProviderCompanion, random: Random, tally: Tally
    ) -> None:
        self._world, self._phone, self._watch = world, phone, watch
        self._gateway = world.gateways[watch.name]
        self._app = Target(watch, phone)
        self._random = random
        self._tally = tally

    async def play(self, kind: Kind) -> None:
        """Play one round and count what it cost."""
        before = len(self._gateway.uses)
        generation = (await self._watch.grant())["generation"]
        is_killed = await self._strike(kind, before)
        uses = self._gateway.uses[before:]
        is_lost = not all(use.is_delivered for use in uses) or (is_killed and self._app.on_disk().state != "held")
        never_asked = is_lost and not any(use.status for use in uses)
        if is_killed:
            self._world.programs.remove(self._watch.running)
            await self._watch.run(is_connected=False)
        is_back = await self._comes_back(generation)
        self._tally.rounds += 1
        self._tally.kinds[kind] += 1
        self._tally.lost_answers += is_lost
        self._tally.of_them_never_asked += never_asked
        self._tally.double_uses += 0 if is_lost or not self._world.provider.rotates else self._repeats(before)
        self._tally.grants_lost_with += is_lost and not is_back
        self._tally.grants_lost_without += not is_lost and not is_back
        if not is_back:
            await self._phone.hand_off(self._watch)
            await self._watch.until_generation(2)

    def _repeats(self, since: int) -> int:
        """Return how many values the provider has seen more than once since then."""
        asked = Counter(use.value for use in self._gateway.uses[since:] if use.status)
        return sum(count > 1 for count in asked.values())

    async def _strike(self, kind: Kind, before: int) -> bool:
        """Have it refresh, and do what this kind does; returns whether it was killed."""
        if kind in ("unsent", "cut"):
            self._gateway.fate = "before"
        elif kind in ("unheard", "dropped"):
            self._gateway.fate = "after"
        asking = asyncio.create_task(self._app.ask(force=True))
        if kind == "soon":
            await asyncio.sleep(self._random.uniform(0, SOON_S_MAX))
        else:

            async def is_asked() -> bool:
                uses = self._gateway.uses[before:]
                return any(use.is_delivered for use in uses) or (bool(uses) and kind not in ("told", "stored"))

            await eventually("the request", is_asked)
        if kind == "told":
            await asyncio.sleep(self._random.uniform(0, TOLD_S_MAX))
        elif kind not in ("soon",):
            await asking
        is_killed = kind not in ("cut", "dropped")
        if is_killed:
            await self._watch.kill()
        await asking
        return is_killed

    async def _comes_back(self, generation: int) -> bool:
        """Wait until it has a newer token that the provider takes, or is over; an hour passes at each look."""

        async def look() -> str:
            self._watch.hours_pass(1)
            token = await self._app.ask(force=True)
            grant = await self._app.newest()
            if grant["state"] in OVER:
                return "over"
            if token and grant["generation"] > generation and await self._world.is_good(token):
                return "back"
            return ""

        return await eventually("the companion is back, or says that it is over", look) == "back"
