"""The lease against a person with a stop watch: no clock that is turned, stopped or lost gives used time again."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from token_relay.agents.grants import lease
from token_relay.agents.ports import Now

HOURS = st.floats(0.0, 48.0).map(lambda hours: hours * 3600.0)
ROUNDING_S = 0.01
START_S = 1_800_000_000.0


class LeaseHeld(RuleBasedStateMachine):
    """A companion with one lease of some days; ``on_s`` is what it has certainly been used."""

    @initialize(days=st.integers(1, 5), is_synced=st.booleans())
    def gives(self, days: int, is_synced: bool) -> None:
        self.days = days
        self.boot, self.boot_s, self.true_s, self.off_by_s = 0, 100.0, START_S, 0.0
        self.is_synced = is_synced
        self.held = lease.give(days, self.now())
        self.on_s = self.unmarked_s = 0.0
        self.seen_by_wall_s = 0.0

    def now(self) -> Now:
        return Now(f"boot{self.boot}", self.boot_s, self.true_s + self.off_by_s, self.is_synced)

    @rule(seconds=HOURS)
    def runs(self, seconds: float) -> None:
        self.boot_s += seconds
        self.true_s += seconds
        self.on_s += seconds
        self.unmarked_s += seconds

    @rule()
    def marks(self) -> None:
        before = lease.left_s(self.held, self.now())
        self.held = lease.mark(self.held, self.now())
        after = lease.left_s(self.held, self.now())
        assert before is not None and after is not None
        assert abs(after - before) < ROUNDING_S  # a mark neither gives nor takes
        self.unmarked_s = 0.0

    @rule(off_s=HOURS, up_s=st.floats(0.0, 60.0), is_synced=st.booleans())
    def power_is_off(self, off_s: float, up_s: float, is_synced: bool) -> None:
        """What ran since the last mark is forgotten, which is why there is one an hour."""
        self.on_s += up_s - self.unmarked_s
        self.unmarked_s = up_s
        self.boot, self.boot_s, self.true_s = self.boot + 1, up_s, self.true_s + off_s + up_s
        self.is_synced = is_synced

    @rule(off_by_s=st.sampled_from([0.0, -START_S, -3600.0, -40 * 86_400.0]))
    def wall_clock_is_turned_back(self, off_by_s: float) -> None:
        self.off_by_s, self.is_synced = off_by_s, self.is_synced and not off_by_s

    @rule()
    def network_is_back(self) -> None:
        self.off_by_s, self.is_synced = 0.0, True

    @invariant()
    def used_time_is_never_given_back(self) -> None:
        left = lease.left_s(self.held, self.now())
        assert left is not None
        assert left <= self.days * lease.DAY_S - self.on_s + ROUNDING_S
        if self.is_synced and self.held.given_wall_s:
            passed_s = self.now().wall_s - self.held.given_wall_s
            assert left <= self.days * lease.DAY_S - passed_s + ROUNDING_S


LeaseHeld.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestLeaseHeld = LeaseHeld.TestCase
