"""One seed is one history, whatever the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from token_relay.protocol.errors import RelayError
from token_relay.sandbox.provider.world.rules import KINDS, Kind
from token_relay.simulation.histories.history import HistoryDigest
from token_relay.simulation.ports.http import HttpFault
from token_relay.simulation.ports.power import PowerCutError
from token_relay.simulation.world.world import TierName, World

EVERY_KIND: tuple[Kind, ...] = tuple(KINDS)


def history_of(seed: int, tier: TierName = "fast", *, shuffles: bool = False) -> str:
    """Run a small history full of accidents and return its digest."""
    dice = Random(seed)
    trace = HistoryDigest()
    world = World(
        EVERY_KIND[seed % len(EVERY_KIND)],
        seed=seed,
        tier=tier,
        observers=(trace,),
        companions=1 + seed % 2,
        shuffles=shuffles,
    )

    async def story() -> None:
        await world.begin(live=seed % 5 == 0)
        phone, watch = world.phones[0], world.companions[0]
        for end in world.ends:
            end.link.out.delay_s = end.link.inward.delay_s = (0.01, 0.5)
            end.link.out.loss = end.link.inward.loss = dice.choice([0.0, 0.2])
            end.link.inward.duplicate = end.link.inward.reorder = dice.choice([0.0, 0.5])
            end.http.delay_s = (0.01, 0.3)
        watch.disk.crash_at(dice.randrange(1, 12), dice.choice(["before", "after"]))
        watch.http.plan(HttpFault(dice.choice(["lost_before", "lost_after", "502", "slow"]), seconds=3.0))
        for _ in range(4):
            try:
                await phone.hand_off("watch", wait_s=20)
                await watch.token(timeout_s=5)
            except (PowerCutError, RelayError):
                pass
            await world.advance(3700)
            await watch.start()

    world.run(story())
    return trace.hex()


@pytest.mark.parametrize("seed", range(50))
def test_the_same_seed_gives_the_same_history(seed: int) -> None:
    assert history_of(seed) == history_of(seed)


def test_other_seeds_give_other_histories() -> None:
    assert len({history_of(seed) for seed in range(0, 50, 5)}) == 10


@pytest.mark.parametrize("tier", ["memory", "real"])
def test_the_same_seed_gives_the_same_history_with_real_parts(tier: TierName) -> None:
    for seed in range(2):
        assert history_of(seed, tier) == history_of(seed, tier)


def test_whose_turn_it_is_may_be_drawn_and_is_the_same_each_time() -> None:
    drawn = [history_of(seed, shuffles=True) for seed in range(5)]
    assert drawn == [history_of(seed, shuffles=True) for seed in range(5)]
    assert drawn != [history_of(seed) for seed in range(5)]


def test_the_history_does_not_depend_on_the_process_or_its_hash_seed() -> None:
    here = [history_of(seed) for seed in range(50)]
    code = (
        "import logging, structlog; structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50));"
        "from tests.simulation.test_world_determinism import history_of;"
        "print(*[history_of(seed) for seed in range(50)])"
    )
    root = Path(__file__).parents[2]
    for hash_seed in ("0", "12345"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert run.stdout.split() == here
