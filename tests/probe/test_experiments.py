"""What the measurement tries next and what it concludes, at providers that are a table each: no sandbox, no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from token_relay.agents.probe.experiments import (
    AskSignIn,
    Measured,
    Observed,
    OddRefusalError,
    Setup,
    Step,
    TokenAt,
    TryAccess,
    TryRefresh,
    TryRevoke,
    WaitFor,
    experiments,
)

DEAD = "invalid_grant"


@dataclass
class Table:
    """A provider: answers each step by plain rules. ``twist`` may answer in its place."""

    keeps: bool = False  # used tokens stay good
    uses_max: int = 1_000  # of one token, where they stay good
    leeway_s: int = 0
    reuse_ends: Callable[[int], set[int]] = lambda number: {number}
    sids: tuple[str, ...] = ()
    one_at_a_time: bool = False
    access_life_s: float = 3600.0
    can_narrow: bool = True
    life: Callable[[float], float | None] = lambda age_s: None  # that is told, so long after the sign-in
    twist: Callable[[Step], Observed | None] = lambda step: None
    steps: list[Step] = field(default_factory=list)
    now_s: float = 0.0
    _dead: set[int] = field(default_factory=set)
    _newest: dict[int, int] = field(default_factory=dict)
    _born_at: dict[TokenAt, float] = field(default_factory=dict)
    _uses: dict[TokenAt, int] = field(default_factory=dict)

    def answer(self, step: Step) -> Observed:
        self.steps.append(step)
        if (twisted := self.twist(step)) is not None:
            return twisted
        match step:
            case AskSignIn(number):
                if self.one_at_a_time:
                    self._dead |= set(self._newest)
                sid = self.sids[number - 1] if number <= len(self.sids) else ""
                return self._give(number, sid)
            case TryRefresh(token):
                return self._refresh(token)
            case TryAccess(token):
                return Observed(token.sign_in not in self._dead, at_s=self.now_s)
            case TryRevoke(token):
                self._dead.add(token.sign_in)
                return Observed(True)
            case WaitFor(seconds):
                self.now_s += seconds
                return Observed(True)

    def _refresh(self, token: TokenAt) -> Observed:
        newest = self._newest[token.sign_in]
        age_s = self.now_s - self._born_at.get(TokenAt(token.sign_in, token.number + 1), self.now_s)
        self._uses[token] = self._uses.get(token, 0) + 1
        is_good = token.number == newest or (self.keeps and self._uses[token] <= self.uses_max)
        is_good = is_good or (self.leeway_s > 0 and token.number == newest - 1 and age_s <= self.leeway_s)
        if token.sign_in in self._dead:
            return Observed(False, error=DEAD, at_s=self.now_s)
        if not is_good:
            self._dead |= self.reuse_ends(token.sign_in)
            return Observed(False, error=DEAD, at_s=self.now_s)
        return self._give(token.sign_in)

    def _give(self, number: int, sid: str = "") -> Observed:
        self._newest[number] = self._newest.get(number, -1) + 1
        at = TokenAt(number, self._newest[number])
        self._born_at[at] = self.now_s
        life_s = self.life(self.now_s - self._born_at[TokenAt(number, 0)])
        return Observed(
            True,
            at,
            life_s=life_s,
            at_s=self.now_s,
            access_life_s=self.access_life_s,
            sid=sid,
            can_narrow=self.can_narrow,
        )


def run(table: Table, setup: Setup | None = None) -> Measured:
    machine = experiments(setup or Setup())
    step = next(machine)
    while True:
        try:
            step = machine.send(table.answer(step))
        except StopIteration as end:
            found: Measured = end.value
            return found


def sign_ins(table: Table) -> list[str]:
    return [step.window for step in table.steps if isinstance(step, AskSignIn)]


REACHES: list[tuple[str, Callable[[int], set[int]], list[str]]] = [
    ("nothing", lambda number: set(), ["usual", "usual", "private"]),
    ("family", lambda number: {number}, ["usual", "usual", "private", "usual"]),
    ("session", lambda number: {1, 2}, ["usual", "usual", "private", "usual", "private"]),
    ("user", lambda number: {1, 2, 3}, ["usual", "usual", "private", "usual", "usual", "private"]),
]


@pytest.mark.parametrize(("reach", "ends", "windows"), REACHES, ids=[reach for reach, _, _ in REACHES])
def test_the_reach_of_a_reuse_and_the_sign_ins_that_it_takes(
    reach: str, ends: Callable[[int], set[int]], windows: list[str]
) -> None:
    table = Table(reuse_ends=ends)
    found = run(table)
    assert found.values["reuse_takes"] == reach
    assert found.values["revocation_takes"] == "family"
    assert sign_ins(table) == windows


@pytest.mark.parametrize(
    ("leeway_s", "between", "pauses"),
    [(0, (0, 1), [1]), (1, (1, 5), [1, 5]), (10, (5, 30), [1, 5, 30]), (60, (30, 310), [1, 5, 30, 310])],
)
def test_a_leeway_lies_between_the_last_try_that_worked_and_the_first_that_did_not(
    leeway_s: int, between: tuple[int, int], pauses: list[int]
) -> None:
    table = Table(leeway_s=leeway_s)
    found = run(table)
    assert (found.leeway_between_s, found.values["leeway_s"]) == (between, between[0])
    assert [step.seconds for step in table.steps if isinstance(step, WaitFor)] == pauses


def test_a_token_that_stays_good_is_not_taken_for_one_with_a_long_leeway() -> None:
    found = run(Table(keeps=True))
    assert found.values["invalidates_on_use"] is False
    assert (found.values["leeway_s"], found.leeway_between_s) == (0, ())


def test_without_the_long_wait_such_a_token_counts_as_one_that_ends() -> None:
    table = Table(keeps=True)
    found = run(table, Setup(long_try=False))
    assert (found.values["invalidates_on_use"], found.values["leeway_s"]) == (True, 30)
    assert "reuse_takes" not in found.values  # nothing was refused, so no reuse was seen
    assert max(step.seconds for step in table.steps if isinstance(step, WaitFor)) == 30


def test_a_token_that_may_be_used_a_second_time_only_is_no_token_that_stays_good() -> None:
    found = run(Table(keeps=True, uses_max=2))
    assert (found.values["invalidates_on_use"], found.values["leeway_s"]) == (True, 30)
    assert found.values["reuse_takes"] == "family"


DOUBTS: list[tuple[tuple[str, ...], Callable[[int], set[int]], bool]] = [
    (("a", "a", "b", "a"), lambda number: {number}, True),
    (("a", "c", "b", "a"), lambda number: {number}, False),  # no shared session, so "family" is not shown
    (("a", "a", "a", "a", "a", "a"), lambda number: {1, 2, 3}, False),  # one session, so "user" is not shown
    (("", "", "", ""), lambda number: {number}, True),  # the provider names none: the person is believed
]


@pytest.mark.parametrize(("sids", "ends", "is_said"), DOUBTS, ids=["right", "not shared", "all one", "untold"])
def test_a_reach_is_said_only_where_the_windows_were_the_ones_asked_for(
    sids: tuple[str, ...], ends: Callable[[int], set[int]], is_said: bool
) -> None:
    found = run(Table(sids=sids, reuse_ends=ends))
    assert ("reuse_takes" in found.values) is is_said
    assert any("cannot be said" in sentence for sentence in found.saw) is not is_said


def test_where_a_sign_in_ends_the_one_before_no_reach_is_said() -> None:
    found = run(Table(one_at_a_time=True))
    assert {"reuse_takes", "revocation_takes"}.isdisjoint(found.values)
    assert found.values["can_revoke_token"] is True
    assert (found.values["invalidates_on_use"], found.leeway_between_s) == (True, (0, 1))


def test_people_without_a_browser_share_no_session() -> None:
    table = Table(reuse_ends=lambda number: {1, 2})
    found = run(table, Setup(has_windows=False))
    assert found.values["reuse_takes"] == "user"
    assert len(sign_ins(table)) == 4


def test_an_access_token_that_ends_by_itself_says_nothing_of_the_reuse() -> None:
    found = run(Table(leeway_s=10, access_life_s=35.0))
    assert "reuse_kills_access_tokens" not in found.values
    assert run(Table(leeway_s=10, access_life_s=60.0)).values["reuse_kills_access_tokens"] is True


def test_a_refused_scope_that_ends_the_grant_costs_one_sign_in_and_no_conclusion() -> None:
    table = Table()

    def end_it(step: Step) -> Observed | None:
        if isinstance(step, TryRefresh) and step.narrower:
            table._dead.add(step.token.sign_in)
            return Observed(False, error="invalid_scope")
        return None

    table.twist = end_it
    found = run(table)
    assert found.narrower_scope == "refused"
    assert found.values == run(Table()).values
    assert len(sign_ins(table)) == 5


def test_a_scope_of_which_nothing_can_be_left_out_is_not_tried_with_less() -> None:
    table = Table(can_narrow=False)
    assert run(table).narrower_scope == "untried"
    assert not any(isinstance(step, TryRefresh) and step.narrower for step in table.steps)


REVOCATIONS: list[tuple[str, dict[str, Any]]] = [
    ("refused", {"can_revoke_token": False}),
    ("ignored", {"can_revoke_token": False}),
]


@pytest.mark.parametrize(("kind", "expected"), REVOCATIONS)
def test_a_revocation_counts_only_when_the_token_is_dead_afterwards(kind: str, expected: dict[str, Any]) -> None:
    table = Table(twist=lambda step: Observed(kind == "ignored", error="no") if isinstance(step, TryRevoke) else None)
    found = run(table)
    assert expected.items() <= found.values.items()
    assert "revocation_takes" not in found.values


def test_without_an_endpoint_nobody_is_asked_to_revoke() -> None:
    table = Table()
    assert run(table, Setup(has_revocation=False)).values["can_revoke_token"] is False
    assert not any(isinstance(step, TryRevoke) for step in table.steps)


LIVES: list[tuple[Callable[[float], float | None], dict[str, int]]] = [
    (lambda age_s: 86_400.0, {"idle_lifetime_s": 86_400}),
    (lambda age_s: 86_400.0 - age_s, {"absolute_lifetime_s": 86_400}),
    (lambda age_s: None, {}),
]


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize(("life", "expected"), LIVES, ids=["anew", "shrinks", "untold"])
def test_a_told_life_that_shrinks_is_an_end_and_one_that_starts_anew_is_an_idle_life(
    keeps: bool, life: Callable[[float], float | None], expected: dict[str, int]
) -> None:
    values = run(Table(keeps=keeps, life=life)).values
    assert {name: value for name, value in values.items() if "lifetime" in name} == expected


def refuse_first_refresh(step: Step) -> Observed | None:
    return Observed(False, error=DEAD) if isinstance(step, TryRefresh) else None


def refuse_after_sign_in_three(step: Step) -> Observed | None:
    return Observed(False, error=DEAD) if isinstance(step, TryRefresh) and step.token.sign_in == 3 else None


@pytest.mark.parametrize("twist", [refuse_first_refresh, refuse_after_sign_in_three])
def test_a_good_token_that_is_refused_ends_the_measurement(twist: Callable[[Step], Observed | None]) -> None:
    with pytest.raises(OddRefusalError):
        run(Table(twist=twist))
