"""Larger worlds than `make test` has time for: ``python tests/exhaustive/larger.py``, some minutes to an hour.

Prints one line a world. The exit code is 1, after the story, when a law is broken.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from tests.exhaustive.small_refresh import Faults, walk  # noqa: E402
from tests.exhaustive.small_refresh import Rules as RefreshRules  # noqa: E402
from tests.exhaustive.small_search import search  # noqa: E402
from tests.exhaustive.small_world import Budget, Rules  # noqa: E402
from token_relay.provider.profile import PROFILES  # noqa: E402

WORLDS: tuple[tuple[str, Budget | None, int], ...] = (
    ("move", None, 2),
    ("mint", None, 2),
    ("move", Budget(crashes=2, losses=1, duplicates=1, cancels=1), 1),
    ("mint", Budget(crashes=2, losses=1, duplicates=1, cancels=1, revokes=1), 1),
    ("move", Budget(crashes=2, losses=1, duplicates=1, cancels=1, revokes=1), 1),
    ("mint", Budget(crashes=1, losses=1, duplicates=1), 2),
    ("move", Budget(crashes=3, losses=2, duplicates=2), 1),
)


def main() -> int:
    """Walk through every world, smallest first."""
    for profile in PROFILES.values():
        for holds_alone in (False, True):
            started = time.monotonic()
            life = walk(RefreshRules(profile, holds_alone), Faults(crashes=2, losses=1, pages=2, refusals=1))
            what = f"refresh, {profile.name}, {'alone' if holds_alone else 'with a sibling'}"
            print(f"{len(life.lives):9} lives   {time.monotonic() - started:6.1f} s  {what}", flush=True)
            if life.law:
                print(" -> ".join((*life.way, life.law)))
                return 1
    for strategy, budget, handoffs in WORLDS:
        started = time.monotonic()
        found = search(Rules(strategy=strategy), budget, handoffs=handoffs)
        faults = "open" if budget is None else ", ".join(f"{n} {name}" for name, n in budget._asdict().items() if n)
        what = f"{strategy}, {handoffs} handoff{'s'[: handoffs - 1]}, {faults}"
        print(
            f"{found.states:9} states  {time.monotonic() - started:6.1f} s  {found.transitions} transitions, {what}",
            flush=True,
        )
        if found.law:
            print(found.story())
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
