"""Runs one schedule from its seed to its verdict."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import structlog

from token_relay.agents.ports import Now
from token_relay.protocol.messages import Lease, Message
from token_relay.sandbox.provider.memory.state import State
from token_relay.simulation.histories.history import History, HistoryDigest
from token_relay.simulation.histories.performer import Performer
from token_relay.simulation.histories.plan import Plan, make_plan
from token_relay.simulation.promises import coverage
from token_relay.simulation.promises.ledger import ViolationError
from token_relay.simulation.promises.promises import Promises
from token_relay.simulation.world.world import TierName, World

HANDOFFS_MIN, REFRESHES_MIN, FAULTS_MIN = 1, 3, 2  # a schedule with fewer does not count


@dataclass(slots=True)
class Outcome:
    """The result of one schedule. ``problem`` is empty when every promise held."""

    seed: int
    kind: str
    problem: str = ""
    promise: int = 0
    handoffs: int = 0
    refreshes: int = 0
    reuses: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[int] = field(default_factory=Counter)
    met: Counter[coverage.Pair] = field(default_factory=Counter)  # what a third end's messages have met
    virtual_s: float = 0.0
    trace: str = ""

    @property
    def counts(self) -> bool:
        """Whether enough happened in it."""
        return (
            self.handoffs >= HANDOFFS_MIN
            and self.refreshes >= REFRESHES_MIN
            and sum(self.faults.values()) >= FAULTS_MIN
        )


class _LateWorld:
    """What the checks ask of a world that does not exist yet when they are made."""

    world: World

    def clock_of(self, end: str) -> Now | None:
        """Return the reading of the end's clock."""
        return self.world.end(end).clock.now()

    def refusals_of(self, end: str) -> Mapping[str, int]:
        """Return what the end has refused since it was switched on."""
        found: Mapping[str, int] = self.world.end(end).agent.turns.rejects
        return found

    def read(self, payload: bytes) -> Message | None:
        """Open a message."""
        return self.world.read(payload)

    def lease_of_message(self, end: str, payload: bytes) -> tuple[str, str] | None:
        """Return pairing and challenge of a LEASE."""
        message = self.world.read(payload)
        if message is None or not isinstance(message.body, Lease):
            return None
        return message.head.pairing_id, message.body.challenge


def run_schedule(
    seed: int,
    *,
    tier: TierName = "fast",
    history: History | None = None,
    has_trace: bool = False,
    plan: Plan | None = None,
) -> Outcome:
    """Run the schedule of a seed; never raises for a broken promise."""
    plan = plan or make_plan(seed)
    reader = _LateWorld()
    promises = Promises(
        clock_of=reader.clock_of,
        refusals_of=reader.refusals_of,
        lease_of_message=reader.lease_of_message,
        read=reader.read,
        is_sealed=tier == "real",
    )
    trace = HistoryDigest() if has_trace else None
    observers = [it for it in (history, trace, promises) if it is not None]
    world = reader.world = World(
        plan.kind,
        seed=seed,
        tier=tier,
        observers=observers,
        phones=plan.phones,
        companions=plan.companions,
        third=plan.third.role if plan.third is not None else None,
        manners=plan.third.manners if plan.third is not None else 1.0,
    )
    promises.ledger.provider = world.provider.state
    if history is not None:
        history.time_of = lambda: world.time_s
        history.type_of = world.type_of
        history.names = lambda: {end.id: end.name for end in world.everybody}
    outcome = Outcome(seed, plan.kind)
    performer = Performer(world, plan, promises, history.note if history is not None else lambda line: None)

    async def story() -> None:
        await world.begin(live=plan.pairs_live)
        await performer.run()

    told = story()
    try:
        with _listening(world, promises) if tier != "fast" else nullcontext():
            world.run(told)
    except Exception as exc:
        told.close()  # for a world that failed before it ran it
        if not world.loop.is_closed():
            world.loop.close()
        cause = _root(exc)
        if isinstance(cause, ViolationError):
            outcome.problem, outcome.promise = str(cause), cause.promise
        else:
            outcome.problem = f"{type(cause).__name__}: {cause}\n{''.join(traceback.format_exception(cause)[-12:])}"
    outcome.faults.update(plan.fault_kinds)
    outcome.checks.update(promises.ledger.checks)
    outcome.met.update(promises.others.met)
    _count(outcome, world.provider.state)
    outcome.handoffs = promises.handoffs
    outcome.virtual_s = world.time_s
    outcome.trace = trace.hex() if trace is not None else ""
    return outcome


@contextmanager
def _listening(world: World, promises: Promises) -> Iterator[None]:
    """Let only the checks read what the agents log."""

    def hear(logger: object, method: str, event: MutableMapping[str, Any]) -> NoReturn:
        try:
            promises.logged(repr(event))
        except ViolationError as exc:
            world.loop.fail(exc)
        raise structlog.DropEvent

    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(processors=[hear], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    try:
        yield
    finally:
        structlog.reset_defaults() if before is None else structlog.configure(**before)


def _root(exc: BaseException) -> BaseException:
    """Return the exception inside nested groups of one."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def _count(outcome: Outcome, state: State) -> None:
    for event in state.events:
        if event.kind == "refresh_committed":
            outcome.refreshes += 1
        elif event.kind == "reuse_detected":
            outcome.reuses += 1
