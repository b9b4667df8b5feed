"""A stored grant and its provider, every interleaving: what may be done with an unknown outcome, and what never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from tests.exhaustive.small_refresh import Faults, Walk, walk
from token_relay.agents.grants import lifecycle as core
from token_relay.agents.ports import Now
from token_relay.provider.outcome import Denied, OutcomeUnknown, TokenOutcome, Unavailable
from token_relay.provider.profile import AUTH0, ENTRA, PROFILES, STRICT, Profile

FAULTS = Faults(crashes=2, losses=2, refusals=1)


@cache
def _walked(profile: Profile) -> Walk:
    return walk(profile, FAULTS)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_no_life_of_a_grant_breaks_a_law(profile: Profile) -> None:
    found = _walked(profile)
    assert not found.law, " -> ".join((*found.way, found.law))
    assert len(found.lives) > 10_000


@pytest.mark.parametrize("profile", [STRICT, AUTH0], ids=lambda profile: profile.name)
def test_a_grant_is_given_up_only_in_the_end(profile: Profile) -> None:
    """A walk that never got so far would prove nothing."""
    states = {type(life.grant).__name__ for life in _walked(profile).lives}
    assert states >= {"Held", "Refreshing", "Uncertain", "NeedsHandoff"}


def test_no_grant_is_lost_without_faults() -> None:
    for profile in PROFILES.values():
        lives = walk(profile, Faults(0, 0, 1)).lives
        assert {type(life.grant).__name__ for life in lives} == {"Held", "Refreshing"}


def _begin(
    change: Callable[[core.GrantState, Profile], core.GrantState | None],
) -> Callable[..., core.Begin | core.Wait | core.Stop]:
    def begin(
        state: core.GrantState, profile: Profile, now: Now, *, access_token_ends_in_s: float | None
    ) -> core.Begin | core.Wait | core.Stop:
        changed = change(state, profile)
        if isinstance(changed, core.Refreshing):
            return core.Begin(changed)
        return core.begin_refresh(state, profile, now, access_token_ends_in_s=access_token_ends_in_s)

    return begin


def _again(state: core.GrantState, profile: Profile) -> core.GrantState | None:
    if isinstance(state, core.Refreshing | core.Uncertain):
        return core.Refreshing(state.generation, replace(state.intent, attempts=min(state.intent.attempts + 1, 3)))
    return None


def _once_more_at_once(state: core.GrantState, profile: Profile) -> core.GrantState | None:
    again = _again(state, profile)
    if isinstance(again, core.Refreshing) and again.intent.late < core.LATE_ATTEMPTS_MAX:
        return core.Refreshing(again.generation, replace(again.intent, late=1))
    return None


def _settle(kind: type, answer: Callable[[core.Refreshing], core.GrantState]) -> Callable[..., core.GrantState]:
    def settle(state: core.Refreshing, outcome: TokenOutcome, profile: Profile) -> core.GrantState:
        return answer(state) if isinstance(outcome, kind) else core.settle_refresh(state, outcome, profile)

    return settle


def _held(state: core.Refreshing) -> core.GrantState:
    return core.Held(state.generation)


@pytest.mark.parametrize(
    ("profile", "change", "law"),
    [
        (STRICT, {"begin": _begin(_again)}, "no risky attempt while the cached access token works"),
        (STRICT, {"begin": _begin(_once_more_at_once)}, "no risky attempt while the cached access token works"),
        (AUTH0, {"begin": _begin(_again)}, "a value that may be burnt is sent once more, and not again"),
        (STRICT, {"settle": _settle(OutcomeUnknown, _held)}, "HELD means that the token on disk works"),
        (AUTH0, {"settle": _settle(Unavailable, _held)}, "HELD means that the token on disk works"),
        (
            STRICT,
            {"settle": _settle(Denied, lambda state: core.Erased(state.generation, "denied"))},
            "after a lost answer a denial does not count as the provider's word",
        ),
        (
            ENTRA,
            {"settle": _settle(OutcomeUnknown, lambda state: core.Uncertain(state.generation, state.intent))},
            "a provider that does not invalidate never ends a grant by a lost answer",
        ),
    ],
    ids=[
        "attempts without end",
        "the late attempt at once",
        "the late attempt without being counted",
        "an unknown outcome counts as none",
        "a refusal after a lost answer counts as no harm",
        "a denial after a lost answer counts as final",
        "uncertain where nothing can be",
    ],
)
def test_a_mistake_in_the_lifecycle_is_found(profile: Profile, change: dict[str, object], law: str) -> None:
    found = walk(profile, FAULTS, **change)  # type: ignore[arg-type]  # begin or settle, by name
    assert found.law == law, " -> ".join((*found.way, found.law))
