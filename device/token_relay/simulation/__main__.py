"""``python -m token_relay.simulation``: replays one seed, or runs many and reports."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from token_relay.simulation.histories.runner import InterruptedRunError, cores, describe, replay, run_many
from token_relay.simulation.histories.tally import Tally, report
from token_relay.simulation.promises import coverage

REPLAYED_MAX = 3  # failing seeds whose history is shown; the others are listed
INTERRUPTED = 130
SAID_EVERY_S = 60.0  # where there is no bar: often enough to see that it goes on
EPILOG = """\
A schedule is one seed: its devices, what people and apps do, what goes wrong and when. The same seed gives the same
history, each time and on each machine. tiers: fast = records in memory, envelopes without encryption; memory = real
cryptography; real = real cryptography and SQLite on files.

exit codes: 0 every promise held; 1 one is broken (its seed, its last lines and the command that replays it are
printed), or, with --cover, a legal (state x event) pair was never reached; 2 wrong usage; 130 interrupted, after the
report of what was done.

  python -m token_relay.simulation --count 10000             many schedules on all cores
  python -m token_relay.simulation --seed 4711 --show        one schedule, every line of it
  python -m token_relay.simulation --count 1000000 --resume long.json    may be stopped and started again
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    found = argparse.ArgumentParser(
        prog="python -m token_relay.simulation",
        description="Check the promises of the protocol in simulated histories.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--seed", type=int, metavar="S", help="replay this seed; prints its last lines")
    found.add_argument("--show", action="store_true", help="with --seed: print every line of the history")
    found.add_argument("--count", type=int, default=1000, metavar="N", help="how many schedules (1000)")
    found.add_argument("--start", type=int, default=0, metavar="S", help="the first seed (0)")
    found.add_argument("--tier", choices=("fast", "memory", "real"), default="fast", help="which tier (fast)")
    found.add_argument("--jobs", type=int, default=0, metavar="J", help="worker processes (one for each core)")
    found.add_argument("--resume", type=Path, metavar="FILE", help="keep sums in FILE and continue from it")
    found.add_argument("--cover", action="store_true", help="fail when a legal (state x event) pair is never reached")
    found.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parser().parse_args(arguments)
    if options.seed is not None:
        return _one(options)
    jobs = options.jobs or cores()
    began_s = time.monotonic()
    is_whole = True
    with _bar(options.count) as told:
        try:
            tally = run_many(
                start=options.start, count=options.count, tier=options.tier, jobs=jobs, file=options.resume, told=told
            )
        except InterruptedRunError as exc:
            tally, is_whole = exc.tally, False
    elapsed_s = time.monotonic() - began_s
    missing = (
        coverage.missing(tally.reached) + coverage.contradicted(tally.reached) if options.cover and is_whole else []
    )
    if options.json:
        found = tally.as_json()
        found |= {"tier": options.tier, "jobs": jobs, "elapsed_s": round(elapsed_s, 3)}
        found["never_reached"] = [" ".join(pair) for pair in coverage.missing(tally.reached)]
        _say(json.dumps(found))
    else:
        _say(report(tally, tier=options.tier, elapsed_s=elapsed_s, jobs=jobs))
        _failures(tally, options)
    if not is_whole:
        return INTERRUPTED
    return 1 if tally.failed or missing else 0


def _one(options: argparse.Namespace) -> int:
    outcome, history = replay(options.seed, tier=options.tier)
    if options.json:
        found: dict[str, Any] = {"seed": outcome.seed, "problem": outcome.problem, "trace": outcome.trace}
        _say(json.dumps(found | {"promise": outcome.promise, "history": list(history.lines)}))
    else:
        _say(describe(outcome, history, tier=options.tier, **({"lines": len(history.lines)} if options.show else {})))
    return 1 if outcome.problem else 0


def _failures(tally: Tally, options: argparse.Namespace) -> None:
    for failure in tally.failures[:REPLAYED_MAX]:
        outcome, history = replay(failure.seed, tier=options.tier)
        _say("")
        _say(describe(outcome, history, tier=options.tier))
    for failure in tally.failures[REPLAYED_MAX:]:
        _say(f"also seed {failure.seed}: {failure.problem.splitlines()[0]}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


@contextmanager
def _bar(count: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, elsewhere a line now and then."""
    if not sys.stderr.isatty():
        last_s = time.monotonic()

        def tell(done: int) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= SAID_EVERY_S:
                last_s = time.monotonic()
                sys.stderr.write(f"{done:,} of {count:,} schedules\n")
                sys.stderr.flush()

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("schedules", total=count)
        yield lambda done: progress.update(task, completed=done)


if __name__ == "__main__":
    sys.exit(main())
