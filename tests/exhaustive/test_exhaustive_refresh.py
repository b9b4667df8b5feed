"""A stored grant and its provider, every interleaving: what may be done with an unknown outcome, and what never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.exhaustive.small_refresh import Faults, Rules, Walk, walk
from token_relay.agents.grants import lifecycle as core
from token_relay.agents.ports import Now
from token_relay.protocol.behaviour import Takes
from token_relay.provider.outcome import Denied, OutcomeUnknown, TokenOutcome, Unavailable
from token_relay.provider.profile import AUTH0, ENTRA, OIDC_PROVIDER, OKTA, PROFILES, STRICT, Profile

FAULTS = Faults(crashes=1, losses=1, pages=1, refusals=1)
ONLY_PAGES = Faults(crashes=0, losses=0, pages=2, refusals=1)
USER_WIDE = replace(STRICT, name="user-wide", reuse_takes="user")


@cache
def _walked(old_token_s: float | None, reuse_takes: Takes, faults: Faults, *, holds_alone: bool) -> Walk:
    alike = replace(STRICT, old_token_s=old_token_s, reuse_takes=reuse_takes)
    return walk(Rules(alike, holds_alone), faults)


def _walk_of(profile: Profile, faults: Faults = FAULTS, *, holds_alone: bool = False) -> Walk:
    """Walk once for all profiles that are alike in what decides; who else holds a grant matters where reuse reaches."""
    holds_alone = holds_alone and profile.reuse_takes not in ("nothing", "family")
    return _walked(profile.old_token_s, profile.reuse_takes, faults, holds_alone=holds_alone)


@pytest.mark.parametrize("holds_alone", [False, True], ids=["with a sibling", "alone"])
@pytest.mark.parametrize("profile", [*PROFILES.values(), USER_WIDE], ids=lambda profile: profile.name)
def test_no_life_of_a_grant_breaks_a_law(profile: Profile, holds_alone: bool) -> None:
    found = _walk_of(profile, holds_alone=holds_alone)
    assert not found.law, " -> ".join((*found.way, found.law))
    assert len(found.lives) > 10_000


@pytest.mark.parametrize("profile", [OIDC_PROVIDER, STRICT, USER_WIDE], ids=lambda profile: profile.name)
def test_a_grant_is_given_up_only_in_the_end(profile: Profile) -> None:
    """A walk that never got so far would prove nothing."""
    lives = _walk_of(profile).lives
    states = {type(life.grant).__name__ for life in lives}
    assert states == {"Held", "Refreshing", "Uncertain", "NeedsHandoff", "Locked", "Erased"}
    assert any(life.is_sibling_dead for life in lives)  # after a page the try is worth the risk
    assert any(life.open is not None and life.open.late > 1 for life in lives)


@pytest.mark.parametrize("profile", [AUTH0, PROFILES["hydra"], PROFILES["duende-one-time"]], ids=lambda it: it.name)
def test_where_reuse_reaches_nobody_else_a_grant_is_never_given_up(profile: Profile) -> None:
    for holds_alone in (False, True):
        lives = _walk_of(profile, holds_alone=holds_alone).lives
        assert not any(isinstance(life.grant, core.NeedsHandoff) or life.is_sibling_dead for life in lives)
        assert any(life.open is not None and life.open.is_lost and life.open.late for life in lives)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_pages_alone_seal_no_grant(profile: Profile) -> None:
    found = _walk_of(profile, ONLY_PAGES)
    assert not found.law, " -> ".join((*found.way, found.law))
    assert not any(isinstance(life.grant, core.NeedsHandoff) for life in found.lives)


def test_no_grant_is_lost_without_faults() -> None:
    for profile in PROFILES.values():
        lives = _walk_of(profile, Faults(0, 0, 0, 0)).lives
        assert {type(life.grant).__name__ for life in lives} == {"Held", "Refreshing"}


# -- Mistakes ----------------------------------------------------------------------------------------------


def _begin(
    change: Callable[[core.GrantState, Profile], core.GrantState | None], **said: Any
) -> Callable[..., core.Begin | core.Wait | core.Stop]:
    def begin(state: core.GrantState, profile: Profile, now: Now, **known: Any) -> core.Begin | core.Wait | core.Stop:
        match change(state, profile):
            case core.Refreshing() as refreshing:
                return core.Begin(refreshing)
            case core.NeedsHandoff() | core.Erased() as stopped:
                return core.Stop(stopped)
            case _:
                return core.begin_refresh(state, profile, now, **(known | said))

    return begin


def _unchanged(state: core.GrantState, profile: Profile) -> core.GrantState | None:
    return None


def _again(state: core.GrantState, profile: Profile) -> core.GrantState | None:
    if isinstance(state, core.Refreshing | core.Uncertain):
        return core.Refreshing(state.generation, state.intent)
    return None


def _not_counted(
    state: core.GrantState, profile: Profile, now: Now, **known: Any
) -> core.Begin | core.Wait | core.Stop:
    decision = core.begin_refresh(state, profile, now, **known)
    if isinstance(decision, core.Begin):
        return core.Begin(replace(decision.state, intent=replace(decision.state.intent, late=0)))
    return decision


def _a_page_forgets_a_loss(state: core.Refreshing, outcome: TokenOutcome, profile: Profile) -> core.GrantState:
    after = core.settle_refresh(state, outcome, profile)
    if isinstance(outcome, OutcomeUnknown) and isinstance(after, core.Uncertain):
        return replace(after, intent=replace(after.intent, came=outcome.came))
    return after


def _silent_after_one(
    state: core.GrantState, profile: Profile, now: Now, **known: Any
) -> core.Begin | core.Wait | core.Stop:
    if isinstance(state, core.Uncertain) and state.intent.late:
        return core.Wait(state, 60.0)
    return core.begin_refresh(state, profile, now, **known)


def _give_up_after_one(state: core.GrantState, profile: Profile) -> core.GrantState | None:
    if isinstance(state, core.Uncertain) and state.intent.late >= 1:
        return core.NeedsHandoff(state.generation, "uncertain")
    return None


def _erase_after_one(state: core.GrantState, profile: Profile) -> core.GrantState | None:
    if isinstance(state, core.Uncertain) and state.intent.late >= 1:
        return core.Erased(state.generation, "denied")
    return None


def _settle(kind: object, answer: Callable[[core.Refreshing], core.GrantState]) -> Callable[..., core.GrantState]:
    def settle(state: core.Refreshing, outcome: TokenOutcome, profile: Profile) -> core.GrantState:
        is_meant = outcome == kind if not isinstance(kind, type) else isinstance(outcome, kind)
        return answer(state) if is_meant else core.settle_refresh(state, outcome, profile)

    return settle


def _held(state: core.Refreshing) -> core.GrantState:
    return core.Held(state.generation)


def _sealed(state: core.Refreshing) -> core.GrantState:
    return core.NeedsHandoff(state.generation, "uncertain")


def _erased(state: core.Refreshing) -> core.GrantState:
    return core.Erased(state.generation, "denied")


def _refused(state: core.Refreshing) -> core.GrantState:
    return core.Locked(state.generation, "configuration", 1)


PAGE = OutcomeUnknown("503 text/html", "page")
CLIENT = Denied("client", "invalid_client")
EARLY = "a value that may be spent is not sent before the access token has ended"
PACE = "late tries keep their pace"
SIBLING = "after a lost answer a value is not sent again where that could end the sibling"
HELD = "HELD means that the token on disk works"
VERDICT = "only a verdict of the provider erases"
LIVENESS = "when nothing more goes wrong a verdict comes, or the handoff that replaces it"
NO_END = "a provider that does not invalidate never ends a grant by a lost answer"
GIVEN_UP = "a grant is given up only after an answer was lost"


@pytest.mark.parametrize(
    ("profile", "holds_alone", "change", "laws"),
    [
        (PROFILES["hydra"], False, {"begin": _begin(_again)}, {PACE, EARLY}),
        (STRICT, True, {"begin": _begin(_unchanged, access_token_ends_in_s=None)}, {EARLY}),
        (PROFILES["duende-one-time"], False, {"begin": _not_counted}, {PACE}),
        (OIDC_PROVIDER, False, {"begin": _begin(_again)}, {SIBLING, PACE, EARLY}),
        (STRICT, False, {"begin": _begin(_unchanged, holds_alone=True)}, {SIBLING}),
        (OKTA, False, {"begin": _begin(_unchanged, holds_alone=True)}, {SIBLING}),
        (OKTA, False, {"settle": _a_page_forgets_a_loss}, {SIBLING}),
        (AUTH0, False, {"settle": _settle(OutcomeUnknown, _held)}, {HELD, PACE}),
        (STRICT, True, {"settle": _settle(PAGE, _held)}, {HELD}),
        (AUTH0, False, {"settle": _settle(Unavailable, _held)}, {HELD, PACE}),
        (OIDC_PROVIDER, False, {"settle": _settle(CLIENT, _refused)}, {SIBLING, PACE, EARLY}),
        (OIDC_PROVIDER, False, {"settle": _settle(PAGE, _sealed)}, {GIVEN_UP}),
        (AUTH0, False, {"settle": _settle(PAGE, _erased)}, {VERDICT}),
        (AUTH0, False, {"begin": _begin(_erase_after_one)}, {VERDICT}),
        (OIDC_PROVIDER, False, {"begin": _begin(_give_up_after_one)}, {GIVEN_UP}),
        (AUTH0, False, {"begin": _begin(_give_up_after_one)}, {GIVEN_UP}),
        (ENTRA, False, {"settle": _settle(OutcomeUnknown, _sealed)}, {NO_END}),
        (AUTH0, False, {"begin": _silent_after_one}, {LIVENESS}),
    ],
    ids=[
        "attempts without end",
        "the late attempt at once",
        "late attempts without being counted",
        "again whatever reuse takes along",
        "a grant that others hold counts as held alone",
        "a grant that others hold counts as held alone after its leeway",
        "a page makes a lost answer good",
        "an unknown outcome counts as none",
        "a page counts as not processed",
        "a refusal after a lost answer counts as no harm",
        "a refused client closes an open use",
        "a page seals",
        "a page erases",
        "the second late attempt erases",
        "one late attempt, then sealed, after a page",
        "one late attempt, then sealed, where reuse reaches nobody else",
        "sealed where nothing can be lost",
        "one late attempt, then silence",
    ],
)
def test_a_mistake_in_the_lifecycle_is_found(
    profile: Profile, holds_alone: bool, change: dict[str, Any], laws: set[str]
) -> None:
    found = walk(Rules(profile, holds_alone, **change), FAULTS)
    assert found.law in laws, " -> ".join((*found.way, found.law))
