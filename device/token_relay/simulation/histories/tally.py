"""The sums over many schedules, which can be added, kept in a file, and shown."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from token_relay.simulation.histories.schedule import Outcome
from token_relay.simulation.promises import coverage

FAILURES_KEPT = 100


@dataclass(slots=True)
class Failure:
    """One seed that broke a promise, or met a bug (``promise`` 0)."""

    seed: int
    promise: int
    problem: str


@dataclass(slots=True)
class Tally:
    """Sums over schedules; ``busy_s`` is the time that the workers spent on them."""

    schedules: int = 0
    counted: int = 0
    handoffs: int = 0
    refreshes: int = 0
    reuses: int = 0
    virtual_s: float = 0.0
    busy_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reached: Counter[coverage.Pair] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    failed: int = 0

    def take(self, outcome: Outcome) -> None:
        """Add one schedule."""
        self.schedules += 1
        self.counted += outcome.counts
        self.handoffs += outcome.handoffs
        self.refreshes += outcome.refreshes
        self.reuses += outcome.reuses
        self.virtual_s += outcome.virtual_s
        self.kinds[outcome.kind] += 1
        self.faults.update(outcome.faults)
        self.checks.update(outcome.checks)
        self.reached.update(outcome.met)
        if outcome.problem:
            self.fail(Failure(outcome.seed, outcome.promise, outcome.problem))

    def fail(self, failure: Failure) -> None:
        """Count a failure, and keep it if it is among the first."""
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(failure)

    def add(self, other: Tally) -> None:
        """Add the sums of another tally."""
        for name in ("schedules", "counted", "handoffs", "refreshes", "reuses", "virtual_s", "busy_s", "failed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("faults", "checks", "kinds", "reached"):
            getattr(self, name).update(getattr(other, name))
        self.failures = (self.failures + other.failures)[:FAILURES_KEPT]

    def as_json(self) -> dict[str, Any]:
        """Return it as one object."""
        found: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("schedules", "counted", "handoffs", "refreshes", "reuses", "virtual_s", "busy_s", "failed")
        }
        found |= {name: dict(sorted(getattr(self, name).items())) for name in ("faults", "kinds")}
        found["checks"] = {str(number): count for number, count in sorted(self.checks.items())}
        found["reached"] = {" ".join(("/".join(pair[:2]), pair[2])): n for pair, n in sorted(self.reached.items())}
        found["failures"] = [
            {"seed": failure.seed, "promise": failure.promise, "problem": failure.problem} for failure in self.failures
        ]
        return found

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Tally:
        """Read what :meth:`as_json` returned."""
        tally = cls(**{name: found[name] for name in cls.__slots__ if isinstance(found.get(name), int | float)})
        tally.faults = Counter(found["faults"])
        tally.kinds = Counter(found["kinds"])
        tally.checks = Counter({int(number): count for number, count in found["checks"].items()})
        for text, count in found["reached"].items():
            place, _, event = text.partition(" ")
            machine, _, state = place.partition("/")
            tally.reached[machine, state, event] = count
        tally.failures = [Failure(**failure) for failure in found["failures"]]
        return tally


@dataclass(slots=True)
class Progress:
    """A long run's file: the request, the progress, and the sums so far."""

    tier: str
    start: int
    count: int
    done: int
    tally: Tally

    def write(self, file: Path) -> None:
        """Replace the file at once, so that a killed run leaves the last one."""
        aside = file.with_suffix(f"{file.suffix}.new")
        head = {"tier": self.tier, "start": self.start, "count": self.count, "done": self.done}
        aside.write_text(json.dumps({**head, "tally": self.tally.as_json()}))
        aside.replace(file)

    @classmethod
    def read(cls, file: Path) -> Progress:
        """Read a file that :meth:`write` left."""
        found = json.loads(file.read_text())
        tally = Tally.from_json(found.pop("tally"))
        return cls(**found, tally=tally)


def report(tally: Tally, *, tier: str, elapsed_s: float, jobs: int) -> str:
    """Return a tally as text for a person."""
    share = tally.schedules / tally.busy_s if tally.busy_s else 0.0
    days = tally.virtual_s / 86_400.0
    lines = [
        f"{tier} tier: {tally.schedules:,} schedules in {elapsed_s:.1f} s with {jobs} workers"
        f" ({share:,.0f} schedules/s/core), {days:,.0f} virtual days",
        f"  counted (1 handoff, 3 refreshes, 2 faults at least): {tally.counted:,}",
        f"  handoffs {tally.handoffs:,}, refreshes {tally.refreshes:,},"
        f" reuse seen by a provider {tally.reuses:,} (each after a crash, a page, a lost answer or a rollback)",
        f"  providers: {_listed(tally.kinds)}",
        f"  faults: {_listed(tally.faults)}",
        f"  checks by promise: {_listed(Counter({str(n): count for n, count in sorted(tally.checks.items())}))}",
    ]
    legal = coverage.every_pair() - set(coverage.UNREACHABLE)
    missing = coverage.missing(tally.reached)
    rare = len(set(coverage.RARE) - set(tally.reached))
    found = len(legal & set(tally.reached))
    lines.append(f"  (state x event) pairs reached: {found} of {len(legal)} legal ones ({rare} of the others are rare)")
    lines += [f"    not so unreachable: {' x '.join(pair[1:])}" for pair in coverage.contradicted(tally.reached)]
    lines += [f"    never reached: {machine} {state} x {event}" for machine, state, event in missing]
    lines.append(f"  broken promises: {tally.failed}")
    return "\n".join(lines)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
