"""One handoff, every interleaving: no law of the protocol is broken in any reachable state, and every state settles.

`make exhaustive` walks through larger worlds. See :mod:`small_world` for what a world is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.exhaustive.small_mutants import MUTANTS, Mutant
from tests.exhaustive.small_search import Found, search
from tests.exhaustive.small_world import Budget, Rules, State
from token_relay.protocol.handoff import (
    CompanionEffect,
    CompanionEvent,
    CompanionState,
    CompanionStep,
    HandoffStored,
    Ready,
    companion_step,
)

Report = Callable[[str], None]


@pytest.fixture
def report(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Report:
    """Print the size of a world even where the test passes."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end=" ")

    return say if request.config.get_verbosity() > 0 else lambda line: None


def _check(found: Found, report: Report, name: str) -> None:
    assert not found.law, found.story()
    assert found.is_complete
    report(f"{name}: {found.states} states, {found.transitions} transitions, none breaks a law")


@pytest.mark.parametrize("strategy", ["mint", "move"])
def test_no_law_is_broken_whatever_is_lost_repeated_or_cut(strategy: str, report: Report) -> None:
    """Any number of crashes, losses, duplicates, late copies, cancels, revokes, damaged keys and denials."""
    _check(search(Rules(strategy=strategy), None), report, f"open world, {strategy}")


@pytest.mark.parametrize(
    ("strategy", "budget"),
    [
        ("mint", Budget(crashes=2, losses=1, duplicates=1)),
        ("move", Budget(crashes=1, duplicates=1, cancels=1)),
        ("mint", Budget(losses=1, revokes=1)),
        ("mint", Budget(crashes=1, damages=1, denials=1)),
    ],
)
def test_no_law_is_broken_within_a_budget_of_faults(strategy: str, budget: Budget, report: Report) -> None:
    """The accepted numbers are durable here, so a duplicate is known as one."""
    _check(search(Rules(strategy=strategy), budget), report, f"{strategy}, {_show(budget)}")


def test_cores_stand_a_repeated_message_without_the_duplicate_guard() -> None:
    """The guard is the agents' second barrier: each of the two is enough."""
    found = search(Rules(strategy="move", has_duplicate_guard=False), Budget(crashes=1, duplicates=1, cancels=1))
    assert found.is_complete, found.story()


def test_guard_stands_a_repeated_message_where_the_core_would_not() -> None:
    """The other barrier alone: an OFFER that would undo what is stored does no harm while duplicates move nothing."""

    def forgetful(state: CompanionState, event: CompanionEvent) -> CompanionStep:
        if event == "offer" and isinstance(state, HandoffStored):
            return CompanionStep(Ready(), (CompanionEffect.MAKE_KEY, CompanionEffect.SEND_ACCEPT))
        return companion_step(state, event)

    budget = Budget(duplicates=1)
    rules = Rules(companion_step=forgetful)
    guarded = search(rules, budget)
    assert guarded.is_complete, guarded.story()
    bare = search(replace(rules, has_duplicate_guard=False), budget, checks_rest=False)
    assert bare.law == "The state STORED and the grant are one"


@pytest.mark.parametrize("budget", [Budget(crashes=1, cancels=1), Budget(losses=1, duplicates=1, revokes=1)])
def test_the_open_world_holds_every_counted_one(budget: Budget) -> None:
    """What the disks can come to with counted faults, they can come to in the open world."""
    rules = Rules(strategy="move")
    disks = _disks(search(rules, budget, checks_rest=False).reached)
    assert len(disks) > 10
    assert disks <= _disks(search(rules, None, checks_rest=False).reached)


def _disks(states: frozenset[State]) -> set[object]:
    return {state.handoffs for state in states}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_protocol_mistake_is_found_with_a_short_story(mutant: Mutant, report: Report) -> None:
    found = search(mutant.rules, mutant.budget, checks_rest=mutant.is_about_rest)
    assert found.law.startswith(mutant.law), f"wanted: {mutant.law}\n{found.story()}"
    assert 0 < len(found.way) <= 10
    story = found.story()
    assert found.law in story and "person offer" in story
    report(story.replace("\n", "\n  "))


def _show(budget: Budget) -> str:
    return ", ".join(f"{count} {name}" for name, count in budget._asdict().items() if count) or "no faults"
