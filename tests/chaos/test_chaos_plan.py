"""The judge of the kills: what it lets pass and what it does not, and where it says that a kill has hit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest

from tests.chaos.plan import (
    PAGES,
    PROFILES,
    WEIGHTS,
    Hit,
    Kill,
    Tally,
    Watched,
    draw,
    faults_of,
    hit_of,
    report,
    watched,
)

FINE = Kill(
    profile="strict",
    victim="companion",
    aim="random",
    hit="idle",
    state="held",
    committed=False,
    unstored=0,
    generation_before=3,
    generation_after=3,
    lost=False,
    reuses=0,
    plain=False,
    healings=0,
    back_s=0.5,
)
SEALED = replace(FINE, hit="after_commit", state="refreshing", lost=True, plain=True, healings=1)
PAGE = replace(FINE, aim="page", hit="page", state="uncertain")
BURNT = replace(PAGE, committed=True, unstored=1, lost=True, reuses=1, plain=True, healings=1)


@pytest.mark.parametrize(
    "kill",
    [
        FINE,
        SEALED,
        replace(SEALED, committed=True, unstored=1),
        PAGE,
        BURNT,
        *(replace(FINE, profile="entra", state=state, unstored=1) for state in ("held", "refreshing", "uncertain")),
        *(replace(FINE, profile="auth0", state=state, unstored=1) for state in ("held", "refreshing", "uncertain")),
        replace(PAGE, profile="auth0", state="refreshing", unstored=2),
    ],
)
def test_what_was_promised_passes(kill: Kill) -> None:
    assert faults_of(kill) == []


@pytest.mark.parametrize(
    ("kill", "why"),
    [
        (replace(FINE, lost=True, plain=True, healings=1), "a grant was lost"),
        (replace(PAGE, lost=True, plain=True, healings=1), "a grant was lost"),
        (replace(SEALED, profile="auth0"), "a grant was lost"),
        (replace(SEALED, profile="entra"), "a grant was lost"),
        (replace(BURNT, profile="auth0", reuses=0), "a grant was lost"),
        (replace(SEALED, lost=False, plain=False, healings=0), "a value that may be burnt was sent again"),
        (replace(SEALED, unstored=1, reuses=1), "the provider saw 1 reuses, 0 were due"),
        (replace(BURNT, reuses=0), "the provider saw 0 reuses, 1 were due"),
        (replace(FINE, profile="entra", reuses=1), "the provider saw 1 reuses, 0 were due"),
        (replace(FINE, profile="auth0", unstored=1, reuses=1), "the provider saw 1 reuses, 0 were due"),
        (replace(BURNT, reuses=2), "the provider saw 2 reuses, 1 were due"),
        (replace(BURNT, plain=False), "the status did not say what to do"),
        (replace(BURNT, lost=False, healings=0), "a value that may be burnt was sent again, or a burnt one worked"),
        (replace(BURNT, healings=2), "2 healings"),
        (replace(FINE, unstored=2), "2 commits are not on the disk"),
        (replace(BURNT, unstored=2, lost=False, healings=0, reuses=0), "2 commits are not on the disk"),
        (replace(PAGE, profile="auth0", unstored=3), "3 commits are not on the disk"),
        (replace(FINE, unstored=-1), "-1 commits are not on the disk"),
    ],
)
def test_what_was_not_promised_is_named(kill: Kill, why: str) -> None:
    (first, *_) = faults_of(kill)
    assert first.startswith(why)
    tally = Tally()
    tally.add(kill)
    assert any(why in problem for problem in tally.verdict())


def test_run_that_seldom_hits_the_window_or_never_kills_shows_nothing_and_fails() -> None:
    assert Tally().verdict() == ["nothing was killed"]
    tally = Tally()
    cut = replace(FINE, profile="auth0", hit="before_commit", state="refreshing")
    for number in range(10):
        tally.add(cut if number < 2 else FINE)
    (problem,) = tally.verdict()
    assert problem.startswith("only 20% of the kills hit the refresh window")
    tally.add(cut)
    tally.add(cut)
    assert tally.verdict() == []
    assert report(tally, seed=1, took_s=1.0)["total"]["in_window"] == 4


RECEIVED = {"kind": "token_request_received", "trace_id": "t", "grant_type": "refresh_token"}
COMMITTED = {"kind": "refresh_committed", "trace_id": "t"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([RECEIVED], Watched("t", "open", False)),
        ([RECEIVED, {"kind": "request_lost", "trace_id": "t"}], Watched("t", "request_lost", False)),
        ([RECEIVED, COMMITTED], Watched("t", "open", True)),
        ([RECEIVED, COMMITTED, {"kind": "answer_lost", "trace_id": "t"}], Watched("t", "answer_lost", True)),
        ([RECEIVED, COMMITTED, {"kind": "token_request_answered", "trace_id": "t"}], Watched("t", "answered", True)),
        ([RECEIVED, {"kind": "token_request_answered", "trace_id": "t"}], Watched("t", "refused", False)),
    ],
)
def test_provider_s_events_say_how_a_request_ended(events: list[dict[str, Any]], expected: Watched) -> None:
    others = [{**RECEIVED, "trace_id": "o", "grant_type": "authorization_code"}, {**COMMITTED, "trace_id": "o"}]
    assert watched([*others, *events]) == [expected]


@pytest.mark.parametrize(
    ("last", "unstored", "state", "expected"),
    [
        (None, 0, "held", "idle"),
        (Watched("t", "answered", True), 0, "held", "idle"),
        (Watched("t", "answered", True), 1, "held", "idle"),  # a page after the commit, repaired inside the leeway
        (None, 0, "refreshing", "intent"),
        (Watched("t", "answered", True), 0, "refreshing", "intent"),  # of the request before
        (Watched("t", "request_lost", False), 0, "refreshing", "before_commit"),
        (Watched("t", "answer_lost", True), 1, "refreshing", "after_commit"),
        (Watched("t", "answered", True), 1, "refreshing", "after_answer"),
        (Watched("t", "answered", True), 1, "uncertain", "page"),
        (Watched("t", "refused", False), 0, "uncertain", "page"),
    ],
)
def test_hit_is_read_from_the_provider_and_the_disk(
    last: Watched | None, unstored: int, state: str, expected: Hit
) -> None:
    assert hit_of([last] if last else [], unstored=unstored, state=state) == expected


def test_every_aim_is_drawn_and_the_same_seed_draws_the_same() -> None:
    for profile in PROFILES:
        shots = [draw(Random(f"{number}"), profile) for number in range(1000)]
        assert {shot.aim for shot in shots} == set(WEIGHTS)
        assert shots == [draw(Random(f"{number}"), profile) for number in range(1000)]
        pages = {(shot.page, shot.is_committed) for shot in shots if shot.aim == "page"}
        assert pages == set(product(PAGES, (False, True)))
    assert all(0.0 <= shot.delay_s <= 2.0 for shot in shots)
