"""``python -m tests.providers``: kill the companion and lose its answers at providers of others, hundreds of times.

It needs what ``make test-world`` installs. 0 when no grant was lost but with an answer, and no value was used twice.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from itertools import cycle, islice
from random import Random

from tests.providers.kill_rounds import COUNTS, KINDS, KillRounds, Tally
from tests.providers.provider_world import ProviderWorld, companion_with_a_grant
from tests.providers.variants import VARIANTS, Variant


async def play(variant: Variant, rounds: int, random: Random, tally: Tally) -> None:
    """Play so many rounds at one provider; all kinds come equally often, in an order that is drawn."""
    kinds = list(islice(cycle(KINDS), rounds))
    random.shuffle(kinds)
    with variant.make() as provider:
        options = variant.options(provider)
        world = ProviderWorld(provider=provider, user=next(provider.unused), init_options=options)
        async with world, companion_with_a_grant(world) as (phone, watch):
            played = KillRounds(world, phone, watch, random, tally)
            for kind in kinds:
                await played.play(kind)


def main() -> int:
    """Play, and print one line for each provider."""
    parser = argparse.ArgumentParser(prog="python -m tests.providers")
    parser.add_argument("--rounds", "-n", type=int, default=35, metavar="N", help="at each provider (%(default)s)")
    parser.add_argument("--provider", choices=VARIANTS, action="append", help="one of them only; may be repeated")
    parser.add_argument("--seed", type=int, help="order and moments; where a kill hits also depends on the machine")
    args = parser.parse_args()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    total = Tally()
    for name in args.provider or VARIANTS:
        tally = Tally()
        asyncio.run(play(VARIANTS[name], args.rounds, Random(f"{seed} {name}"), tally))
        print(f"{name}: {said(tally)}", flush=True)
        total.add(tally)
    print(f"in all: {said(total)}")
    return 1 if total.grants_lost_without or total.double_uses else 0


def said(tally: Tally) -> str:
    """Return the counts in words."""
    return ", ".join(f"{count.replace('_', ' ')} {getattr(tally, count)}" for count in COUNTS)


if __name__ == "__main__":
    sys.exit(main())
