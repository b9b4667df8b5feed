"""The lease: time used is the larger of two measures, and no clock that is turned back gives any of it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.lease import LeaseClock, give, left_s, mark, mark_due_in_s
from token_relay.agents.ports import Now

DAY = 86_400.0
HOUR = 3_600.0
T = 1_700_000_000.0


def now(boot: str, boot_s: float, wall_s: float, *, synced: bool = True) -> Now:
    return Now(boot, boot_s, wall_s, synced)


START = now("a", 100.0, T)

# -- By hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "later", "used_s"),
    [
        ("at once", START, 0.0),
        ("an hour, both clocks", now("a", 100 + HOUR, T + HOUR), HOUR),
        ("wall turned back", now("a", 100 + HOUR, T - 30 * DAY), HOUR),
        ("wall ahead: the larger counts", now("a", 100 + HOUR, T + DAY), DAY),
        ("wall ahead but not synced", now("a", 100 + HOUR, T + DAY, synced=False), HOUR),
        ("another boot, wall synced", now("b", 60, T + 5 * DAY), 5 * DAY),
        ("another boot, wall turned back", now("b", 60, T - 5 * DAY), 60.0),
        ("another boot, no clock but its own", now("b", 60, 0.0, synced=False), 60.0),
        ("the end, to the second", now("a", 100 + 90 * DAY, T), 90 * DAY),
        ("past the end", now("a", 100 + 91 * DAY, T), 91 * DAY),
    ],
)
def test_time_used_is_the_larger_of_both_measures(name: str, later: Now, used_s: float) -> None:
    assert left_s(give(90, START), later) == 90 * DAY - used_s


def test_no_lease_never_ends() -> None:
    assert left_s(give(0, START), now("b", 1e9, T + 1e9)) is None


def test_a_lease_given_by_an_unsynced_clock_counts_boot_time_alone() -> None:
    lease = give(90, now("a", 100.0, 5.0, synced=False))
    assert lease.given_wall_s == 0.0
    assert left_s(lease, now("a", 100 + HOUR, T)) == 90 * DAY - HOUR


def test_the_first_synced_mark_dates_a_lease_as_late_as_boot_time_proves() -> None:
    lease = give(90, now("a", 100.0, 5.0, synced=False))
    lease = mark(lease, now("a", 100 + HOUR, T))
    assert lease.given_wall_s == T - HOUR
    # from then on the wall clock counts, so time with the power off does too
    assert left_s(lease, now("b", 10.0, T + 10 * DAY)) == 90 * DAY - 10 * DAY - HOUR


def test_boot_time_is_summed_across_boots() -> None:
    lease = give(1, now("a", 0.0, 0.0, synced=False))
    lease = mark(lease, now("a", 10 * HOUR, 0.0, synced=False))
    lease = mark(lease, now("b", 10 * HOUR, 0.0, synced=False))
    assert lease.used_s == 20 * HOUR
    assert left_s(lease, now("b", 13 * HOUR, 0.0, synced=False)) == HOUR
    assert left_s(lease, now("c", 4 * HOUR, 0.0, synced=False)) == 0.0


def test_time_that_the_wall_clock_once_proved_is_not_given_back() -> None:
    # Sixty days in a drawer, then a start with the network: sixty days are used.
    lease = mark(give(90, START), now("b", 10.0, T + 60 * DAY))
    assert left_s(lease, now("b", 20.0, T + 60 * DAY + 10)) == 90 * DAY - 60 * DAY - 10
    # Then the clock is turned back, or a start without the network knows no better: they stay used.
    assert left_s(lease, now("b", 20.0, T)) == 90 * DAY - 60 * DAY - 10
    assert left_s(lease, now("c", 30.0, 0.0, synced=False)) == 90 * DAY - 60 * DAY - 30


@pytest.mark.parametrize(
    ("later", "is_due"),
    [
        (now("a", 100.0, T), False),
        (now("a", 100 + HOUR - 1, T + 9e9), False),
        (now("a", 100 + HOUR, T), True),
        (now("b", 0.0, T), True),
    ],
)
def test_a_mark_is_due_every_hour_and_at_each_boot(later: Now, is_due: bool) -> None:
    assert (mark_due_in_s(give(90, START), later) <= 0) is is_due


# -- Histories ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Time passes running, or with the power off; then the clocks are read, and perhaps a mark is made."""

    runs_s: float
    off_s: float  # > 0: a reboot
    synced: bool
    wall_error_s: float
    marks: bool


def steps(*, honest: bool) -> st.SearchStrategy[list[Step]]:
    error = st.just(0.0) if honest else st.floats(-200 * DAY, 200 * DAY)
    seconds = st.floats(0, 20 * DAY)
    return st.lists(st.builds(Step, seconds, st.just(0.0) | seconds, st.booleans(), error, st.booleans()), max_size=12)


class World:
    """True time, and what the clocks say of it."""

    def __init__(self) -> None:
        self.true_s, self.boot, self.boot_s = 0.0, 0, 0.0
        self.ran_s = 0.0

    def live(self, step: Step) -> Now:
        if step.off_s:
            self.boot, self.boot_s = self.boot + 1, 0.0
        self.boot_s += step.runs_s
        self.ran_s += step.runs_s
        self.true_s += step.runs_s + step.off_s
        # without sync the wall clock may say anything
        wall_s = T + self.true_s + step.wall_error_s if step.synced else step.wall_error_s
        return Now(str(self.boot), self.boot_s, wall_s, step.synced)


def left(lease: LeaseClock, reading: Now) -> float:
    found = left_s(lease, reading)
    assert found is not None
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps(honest=False), st.booleans())
def test_no_clock_however_turned_gives_marked_time_back(history: list[Step], synced: bool) -> None:
    world = World()
    lease = give(90, Now("0", 0.0, T if synced else 0.0, synced))
    least = 90 * DAY
    for step in history:
        reading = world.live(step)
        assert left(lease, reading) <= least + 1e-3
        if step.marks:
            lease = mark(lease, reading)
            least = left(lease, reading)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps(honest=False))
def test_all_time_between_marks_counts_whatever_the_wall_says(history: list[Step]) -> None:
    world = World()
    lease = give(90, Now("0", 0.0, T, True))
    for step in history:
        before = world.boot_s
        reading = world.live(replace(step, off_s=0.0))
        assert left(lease, reading) <= 90 * DAY - world.ran_s + 1e-3
        assert world.boot_s >= before
        if step.marks:
            lease = mark(lease, reading)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps(honest=True), st.booleans())
def test_true_clocks_never_use_more_than_the_time_that_passed(history: list[Step], synced: bool) -> None:
    world = World()
    lease = give(90, Now("0", 0.0, T if synced else 0.0, synced))
    for step in history:
        reading = world.live(step)
        assert left(lease, reading) >= 90 * DAY - world.true_s - 1e-3
        if step.synced and synced:
            assert left(lease, reading) == pytest.approx(90 * DAY - world.true_s, abs=1e-3)
        if step.marks:
            lease = mark(lease, reading)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps(honest=False), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_an_unsynced_wall_clock_has_no_influence(history: list[Step], one: float, other: float) -> None:
    world = World()
    lease = give(90, Now("0", 0.0, one, False))
    assert lease == replace(give(90, Now("0", 0.0, other, False)), marked=lease.marked)
    for step in history:
        reading = replace(world.live(step), is_synced=False, wall_s=one)
        again = replace(reading, wall_s=other)
        assert left(lease, reading) == left(lease, again)
        lease, twin = mark(lease, reading), mark(lease, again)
        assert replace(twin, marked=lease.marked) == lease


def test_a_lease_remembers_the_moment_it_was_given() -> None:
    assert give(7, START) == LeaseClock(7, 0.0, Stamp("a", 100.0, T, True), T)
