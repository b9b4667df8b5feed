"""``python -m tests.chaos``: kill the real agents with SIGKILL, hundreds of times, and count what is lost."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time

from tests.chaos.plan import PROFILES, Profile, Tally, report
from tests.chaos.run import N_DEFAULT, run_kills
from tests.chaos.show import Watcher, show


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when everything was as promised, 1 when not."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Kill real agents with SIGKILL while they refresh, and count the grants that are lost.",
    )
    parser.add_argument("--kills", "-n", type=int, default=N_DEFAULT, metavar="N", help="per profile (%(default)s)")
    parser.add_argument("--profile", choices=PROFILES, action="append", help="one of them only; may be repeated")
    parser.add_argument("--cells", type=int, default=3, metavar="N", help="sets of processes at a time (%(default)s)")
    parser.add_argument("--seed", type=int, help="aims and delays; where a kill hits also depends on the machine")
    parser.add_argument("--json", action="store_true", help="one JSON object with every kill instead of the table")
    args = parser.parse_args(arguments)
    if args.kills < 1 or args.cells < 1:
        parser.error("--kills and --cells are at least 1")
    profiles: list[Profile] = args.profile or list(PROFILES)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    tally = Tally()
    began_at = time.monotonic()
    sys.stderr.write(f"seed {seed}\n")
    with Watcher(len(profiles) * args.kills, tally) as watcher:
        for profile in profiles:
            run = run_kills(profile, args.kills, seed=seed, cells=args.cells, tally=tally, done=watcher.on_kill)
            try:
                asyncio.run(run)
            except KeyboardInterrupt:
                tally.problems.append("interrupted")
                break
            except ExceptionGroup as group:
                expected, other = group.split(AssertionError)
                if expected is None or other is not None:
                    raise
                tally.problems += [f"{profile}: {error}" for error in expected.exceptions]
    found = report(tally, seed=seed, took_s=time.monotonic() - began_at)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show(found)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
