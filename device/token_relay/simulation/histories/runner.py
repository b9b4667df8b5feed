"""Runs many schedules on all cores, or replays one for a person to read.

Worker processes get the seeds in chunks; the first schedule of each chunk runs twice, and both runs must have the same
history (promise 14). A long run writes its sums into a file now and then, and continues from it when it is started
again. The process that meets a failing seed prints it on standard error at once, so that an interrupt loses none.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import structlog

from token_relay.simulation.histories.history import LINES_SHOWN, History
from token_relay.simulation.histories.plan import make_plan
from token_relay.simulation.histories.schedule import Outcome, run_schedule
from token_relay.simulation.histories.tally import Failure, Progress, Tally
from token_relay.simulation.promises import coverage
from token_relay.simulation.world.world import TierName

CHUNK = {"fast": 100, "memory": 20, "real": 10}
QUEUED_PER_JOB = 3  # chunks handed out ahead, so that no worker waits
WRITE_EVERY_S = 10.0
SILENT = 50  # CRITICAL, which no event here has


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the agents' logs, and warnings about coroutines that a power cut left behind."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(SILENT),
        cache_logger_on_first_use=multiprocessing.parent_process() is not None,  # a worker stays quiet
    )
    try:
        with warnings.catch_warnings():
            # A task that is being cancelled has asked for a turn, as at any exit of a process.
            warnings.filterwarnings("ignore", message="coroutine 'Link._turn' was never awaited")
            yield
    finally:
        structlog.reset_defaults() if before is None else structlog.configure(**before)


class InterruptedRunError(KeyboardInterrupt):
    """A person has interrupted a run; ``tally`` has the sums so far."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally


def run_chunk(first: int, count: int, tier: TierName) -> Tally:
    """Run some schedules in this process."""
    gc.disable()  # a whole world becomes garbage at once: collect it between two schedules
    tally = Tally()
    began_s = time.process_time()
    with quiet(), coverage.watching(tally.reached):
        for seed in range(first, first + count):
            is_first = seed == first
            outcome = run_schedule(seed, tier=tier, has_trace=is_first)
            failed = tally.failed
            tally.take(outcome)
            if is_first:
                again = run_schedule(seed, tier=tier, has_trace=True)
                tally.checks[14] += 1
                if (again.trace, again.problem) != (outcome.trace, outcome.problem):
                    tally.fail(Failure(seed, 14, "promise 14 (same seed, same history) is broken: two runs differ"))
            if tally.failed > failed:
                problem = tally.failures[-1].problem.splitlines()[0]
                sys.stderr.write(f"seed {seed}: {problem}\n  {again_by(seed, tier)}\n")
                sys.stderr.flush()
            gc.collect(1)
    gc.enable()
    gc.collect()
    tally.busy_s = time.process_time() - began_s
    return tally


def run_many(
    *, start: int, count: int, tier: TierName, jobs: int, file: Path | None = None, told: Callable[[int], None]
) -> Tally:
    """Run ``count`` schedules from seed ``start``; ``told`` gets the number done so far, now and then.

    With ``file`` the run continues from the file's sums, and writes its own there.

    Raises:
        InterruptedRunError: at SIGINT, with what was done.
    """
    progress = Progress(tier, start, count, 0, Tally())
    if file is not None and file.exists():
        found = Progress.read(file)
        if (found.tier, found.start) == (tier, start):
            progress = found
            progress.count = count
    told(progress.done)
    written_s = time.monotonic()
    try:
        for tally in _in_order(progress.start + progress.done, count - progress.done, tier, jobs):
            progress.tally.add(tally)
            progress.done += tally.schedules
            told(progress.done)
            if file is not None and time.monotonic() - written_s >= WRITE_EVERY_S:
                progress.write(file)
                written_s = time.monotonic()
    except KeyboardInterrupt:
        if file is not None:
            progress.write(file)
        raise InterruptedRunError(progress.tally) from None
    if file is not None:
        progress.write(file)
    return progress.tally


def _in_order(first: int, count: int, tier: TierName, jobs: int) -> Iterator[Tally]:
    """Yield the chunks' sums in the order of their seeds, so that the file names a seed before which all are done."""
    size = min(CHUNK[tier], max(1, count // max(jobs, 1)))
    chunks = ((at, min(size, first + count - at)) for at in range(first, first + count, size))
    if jobs <= 1:
        for at, length in chunks:
            yield run_chunk(at, length, tier)
        return
    context = multiprocessing.get_context("forkserver")  # its workers begin with everything imported
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts) as pool:
        waiting: list[Future[Tally]] = []
        try:
            for at, length in chunks:
                waiting.append(pool.submit(run_chunk, at, length, tier))
                while len(waiting) >= QUEUED_PER_JOB * jobs:
                    wait(waiting, return_when=FIRST_COMPLETED)
                    while waiting and waiting[0].done():
                        yield waiting.pop(0).result()
                    if waiting and len(waiting) >= QUEUED_PER_JOB * jobs:
                        yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts() -> None:
    """Ignore SIGINT in a worker: the terminal sends it to the worker too, but the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def replay(seed: int, *, tier: TierName) -> tuple[Outcome, History]:
    """Run one schedule and keep its history."""
    history = History()
    with quiet():
        return run_schedule(seed, tier=tier, history=history, has_trace=True), history


def describe(outcome: Outcome, history: History, *, lines: int = LINES_SHOWN, tier: str = "fast") -> str:
    """Return one schedule as text: its plan, its last lines, its verdict, and the command that replays it."""
    plan = make_plan(outcome.seed)
    shown = history.tail(lines)
    head = (
        f"seed {outcome.seed}: provider {plan.kind}, {plan.phones} phone(s), {plan.companions} companion(s),"
        f" lease {plan.lease_days} days; {outcome.handoffs} handoffs, {outcome.refreshes} refreshes,"
        f" {sum(outcome.faults.values())} faults"
    )
    left_out = len(history.lines) - len(shown)
    body = ([f"  ({left_out} lines before)"] if left_out else []) + [f"  {line}" for line in shown]
    verdict = outcome.problem or "every promise held"
    return "\n".join([head, *body, verdict, f"trace {outcome.trace}", again_by(outcome.seed, tier)])


def again_by(seed: int, tier: str) -> str:
    """Return the command that shows one schedule again."""
    return f"replay: python -m token_relay.simulation --seed {seed} --tier {tier} --show"


def cores() -> int:
    """Return the default number of workers."""
    return len(os.sched_getaffinity(0))
