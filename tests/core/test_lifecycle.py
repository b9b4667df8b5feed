"""The life of a stored grant: each state, each outcome, each kind of provider; and never a second late attempt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.lifecycle import (
    Begin,
    Erased,
    GrantState,
    Held,
    Intent,
    Locked,
    NeedsHandoff,
    Refreshing,
    Stop,
    Uncertain,
    Wait,
    begin_refresh,
    keeps_refresh_token,
    may_retry_at_once,
    serves_access_tokens,
    settle_refresh,
)
from token_relay.agents.ports import Now
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.outcome import DenialKind, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import AUTH0, ENTRA, STRICT, Profile

T = 1_700_000_000.0
STARTED = Stamp("boot-a", 100.0, T, True)
FIRST, AGAIN, LATE = Intent(STARTED, 1, 0), Intent(STARTED, 2, 0), Intent(STARTED, 2, 1)
NEVER_AGAIN: tuple[NeedsHandoff | Locked | Erased, ...] = (
    NeedsHandoff(3, "uncertain"),
    NeedsHandoff(3, "person"),
    Locked(3, "lease"),
    Locked(3, "rollback"),
    Locked(3, "configuration"),
    Erased(3, "denied"),
    Erased(3, "revoked"),
)


def after_s(seconds: float) -> Now:
    """So many seconds later in the same boot."""
    return Now("boot-a", 100.0 + seconds, T + seconds, True)


REBOOTED = Now("boot-b", 3.0, T + 10.0, True)  # ten seconds later by a synced wall clock
REBOOTED_UNSYNCED = Now("boot-b", 3.0, 0.0, False)  # nobody can say how much later
WALL_TURNED_BACK = Now("boot-b", 3.0, T - 10.0, True)


# -- Beginning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [ENTRA, AUTH0, STRICT], ids=lambda profile: profile.name)
@pytest.mark.parametrize("ends_in_s", [None, 0.0, 100.0])
def test_a_held_grant_may_be_refreshed_with_a_fresh_intent(profile: Profile, ends_in_s: float | None) -> None:
    begun = begin_refresh(Held(3), profile, after_s(0), access_token_ends_in_s=ends_in_s)
    assert begun == Begin(Refreshing(3, FIRST))


SECOND = Begin(Refreshing(3, Intent(STARTED, 2, 0)))
SECOND_LATE = Begin(Refreshing(3, Intent(STARTED, 2, 1)))
GIVE_UP = Stop(NeedsHandoff(3, "uncertain"))


@pytest.mark.parametrize(
    ("profile", "intent", "now", "ends_in_s", "decision"),
    [
        # does not invalidate on use: retry freely, whenever
        (ENTRA, FIRST, after_s(0), 100.0, SECOND),
        (ENTRA, FIRST, after_s(1e7), None, SECOND),
        (ENTRA, FIRST, REBOOTED_UNSYNCED, None, SECOND),
        (ENTRA, Intent(STARTED, 9, 0), after_s(1e7), None, Begin(Refreshing(3, Intent(STARTED, 10, 0)))),
        # inside its leeway of 30 s: at once and as often as needed
        (AUTH0, FIRST, after_s(0), None, SECOND),
        (AUTH0, FIRST, after_s(29.9), 100.0, SECOND),
        (AUTH0, Intent(STARTED, 9, 0), after_s(29.9), None, Begin(Refreshing(3, Intent(STARTED, 10, 0)))),
        (AUTH0, FIRST, REBOOTED, None, SECOND),
        # at its end and after it: one attempt, counted
        (AUTH0, FIRST, after_s(30.0), None, SECOND_LATE),
        (AUTH0, FIRST, after_s(1e7), None, SECOND_LATE),
        (AUTH0, LATE, after_s(30.0), None, GIVE_UP),
        (AUTH0, LATE, after_s(1e7), None, GIVE_UP),
        # elapsed time unknown counts as too late
        (AUTH0, FIRST, REBOOTED_UNSYNCED, None, SECOND_LATE),
        (AUTH0, FIRST, WALL_TURNED_BACK, None, SECOND_LATE),
        (AUTH0, LATE, REBOOTED_UNSYNCED, None, GIVE_UP),
        # reuse there does not end access tokens: no reason to wait
        (AUTH0, FIRST, after_s(1e3), 100.0, SECOND_LATE),
        # no leeway at all
        (STRICT, FIRST, after_s(0), None, SECOND_LATE),
        (STRICT, LATE, after_s(0), None, GIVE_UP),
        (STRICT, LATE, after_s(1e7), 100.0, GIVE_UP),
        # reuse ends access tokens too: not while the cached one works
        (STRICT, FIRST, after_s(0), 100.0, Wait(Uncertain(3, FIRST), 100.0)),
        (STRICT, FIRST, after_s(0), 0.5, Wait(Uncertain(3, FIRST), 0.5)),
        (STRICT, FIRST, after_s(0), 0.0, SECOND_LATE),
        (STRICT, FIRST, after_s(0), -1.0, SECOND_LATE),
        (STRICT, FIRST, REBOOTED_UNSYNCED, 100.0, Wait(Uncertain(3, FIRST), 100.0)),
    ],
)
def test_what_may_be_tried_after_a_lost_answer(
    profile: Profile, intent: Intent, now: Now, ends_in_s: float | None, decision: Begin | Wait | Stop
) -> None:
    # A crash while the request was out leaves Refreshing on disk: it is an outcome unknown like any other.
    for state in (Uncertain(3, intent), Refreshing(3, intent)):
        assert begin_refresh(state, profile, now, access_token_ends_in_s=ends_in_s) == decision


@pytest.mark.parametrize("profile", [ENTRA, AUTH0, STRICT], ids=lambda profile: profile.name)
@pytest.mark.parametrize("state", NEVER_AGAIN, ids=str)
def test_a_finished_or_locked_grant_is_not_refreshed(state: NeedsHandoff | Locked | Erased, profile: Profile) -> None:
    assert begin_refresh(state, profile, after_s(0), access_token_ends_in_s=None) == Stop(state)


# -- Settling ----------------------------------------------------------------------------------------------


def denied(kind: DenialKind) -> Denied:
    return Denied(kind, "invalid_grant")


ROTATED = Refreshed(RefreshToken("new"), AccessToken("at"), "Bearer", 3600.0, "openid")
KEPT = Refreshed(None, AccessToken("at"), "Bearer", 3600.0, "openid")
SPOILT = Refreshed(RefreshToken("new"), None, "", 0.0, "", problem="no access_token")

OUTCOMES: dict[str, TokenOutcome] = {
    "rotated": ROTATED,
    "kept": KEPT,
    "spoilt": SPOILT,
    "final": denied("final"),
    "temporary": denied("temporary"),
    "person": denied("person"),
    "configuration": denied("configuration"),
    "unavailable": Unavailable("connection refused"),
    "unknown": OutcomeUnknown("timeout"),
}

ALWAYS: dict[str, GrantState] = {
    "rotated": Held(4),
    "kept": Held(3),
    "spoilt": Held(4),  # stored first, judged afterwards
    "person": NeedsHandoff(3, "person"),
    "configuration": Locked(3, "configuration"),
}
CERTAIN: dict[str, GrantState] = {
    **ALWAYS,
    "final": Erased(3, "denied"),
    "temporary": Held(3),
    "unavailable": Held(3),
}
UNCERTAIN: dict[str, GrantState] = {
    **ALWAYS,
    # the denial most likely speaks of our own earlier attempt, whose answer was lost
    "final": NeedsHandoff(3, "uncertain"),
    # certainly not processed: the one late attempt is still to be had
    "temporary": Uncertain(3, AGAIN),
    "unavailable": Uncertain(3, AGAIN),
    # a refused client is no word about the token either, and the doubt must outlive the operator's repair
    "configuration": Uncertain(3, AGAIN),
}

SETTLED: dict[tuple[str, str], dict[str, GrantState]] = {
    ("entra", "first"): {**CERTAIN, "unknown": Held(3)},
    ("entra", "again"): {**CERTAIN, "unknown": Held(3)},
    ("entra", "late"): {**CERTAIN, "unknown": Held(3)},
    ("auth0", "first"): {**CERTAIN, "unknown": Uncertain(3, FIRST)},
    ("auth0", "again"): {**UNCERTAIN, "unknown": Uncertain(3, AGAIN)},
    ("auth0", "late"): {**UNCERTAIN, "unknown": NeedsHandoff(3, "uncertain")},
    ("strict", "first"): {**CERTAIN, "unknown": Uncertain(3, FIRST)},
    ("strict", "again"): {**UNCERTAIN, "unknown": Uncertain(3, AGAIN)},
    ("strict", "late"): {**UNCERTAIN, "unknown": NeedsHandoff(3, "uncertain")},
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("attempt", ["first", "again", "late"])
@pytest.mark.parametrize("profile", [ENTRA, AUTH0, STRICT], ids=lambda profile: profile.name)
def test_what_an_outcome_makes_of_the_grant(profile: Profile, attempt: str, outcome: str) -> None:
    state = Refreshing(3, {"first": FIRST, "again": AGAIN, "late": LATE}[attempt])
    assert settle_refresh(state, OUTCOMES[outcome], profile) == SETTLED[profile.name, attempt][outcome]


def test_a_generation_is_one_stored_refresh_token() -> None:
    assert settle_refresh(Refreshing(3, FIRST), ROTATED, STRICT).generation == 4
    assert {settle_refresh(Refreshing(3, FIRST), outcome, STRICT).generation for outcome in OUTCOMES.values()} == {3, 4}


# -- What a state allows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "keeps", "serves"),
    [
        (Held(3), True, True),
        (Refreshing(3, FIRST), True, True),
        (Uncertain(3, LATE), True, True),
        (NeedsHandoff(3, "uncertain"), False, True),  # what is cached still works
        (NeedsHandoff(3, "person"), True, True),  # sealed until the person has acted
        (Locked(3, "lease"), True, False),
        (Locked(3, "rollback"), True, False),
        (Locked(3, "configuration"), True, True),  # an operator's mistake takes nothing away
        (Erased(3, "denied"), False, False),
        (Erased(3, "revoked"), False, False),
        (Erased(3, "superseded"), False, False),
        (Erased(3, "forgotten"), False, False),
        (Erased(3, "signed_out"), False, False),
    ],
)
def test_what_is_kept_and_what_is_served_in_each_state(state: GrantState, keeps: bool, serves: bool) -> None:
    assert keeps_refresh_token(state) is keeps
    assert serves_access_tokens(state) is serves


@pytest.mark.parametrize(
    ("state", "profile", "now", "may_retry"),
    [
        (Uncertain(3, FIRST), AUTH0, after_s(0), True),
        (Uncertain(3, FIRST), AUTH0, after_s(29.9), True),
        (Uncertain(3, FIRST), AUTH0, after_s(30), False),
        (Uncertain(3, FIRST), AUTH0, REBOOTED, True),
        (Uncertain(3, FIRST), AUTH0, REBOOTED_UNSYNCED, False),
        (Uncertain(3, FIRST), AUTH0, WALL_TURNED_BACK, False),
        (Refreshing(3, FIRST), AUTH0, after_s(1), True),
        (Uncertain(3, FIRST), STRICT, after_s(0), False),
        (Uncertain(3, FIRST), ENTRA, after_s(0), False),  # nothing is urgent there: the usual pause
        (Held(3), AUTH0, after_s(0), False),
        (NeedsHandoff(3, "uncertain"), AUTH0, after_s(0), False),
        (Erased(3, "denied"), AUTH0, after_s(0), False),
    ],
)
def test_a_lost_answer_is_repaired_at_once_only_inside_a_known_leeway(
    state: GrantState, profile: Profile, now: Now, may_retry: bool
) -> None:
    assert may_retry_at_once(state, profile, now) is may_retry


# -- Histories ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Time passes, perhaps with a reboot; then one attempt, and what becomes of it."""

    passes_s: float
    reboots: bool
    synced: bool
    wall_s: float  # what an unsynced wall clock says
    access_token_for_s: float
    end: str  # an outcome's name, or "crash": no outcome is ever written


ENDS = ["unknown", "unknown", "crash", "unavailable", "temporary", "rotated", "final"]
STEPS = st.builds(
    Step,
    st.sampled_from([0.0, 1.0, 10.0, 29.0, 30.0, 31.0, 3600.0]),
    st.booleans(),
    st.booleans(),
    st.floats(0, 2 * T),
    st.sampled_from([0.0, 0.0, 20.0]),
    st.sampled_from(ENDS),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=14), st.sampled_from([AUTH0, STRICT]))
def test_a_value_that_may_be_burnt_is_sent_at_most_once_more(history: list[Step], profile: Profile) -> None:
    """Against true time: what the device believes about it may be wrong, the number of attempts may not.

    An attempt counts when the provider may have processed it: an answer, a lost answer or a crash, but not a refused
    connection. It is late when it left after the leeway of the value's first use had ended.
    """
    leeway_s = profile.old_token_s or 0.0
    state: GrantState = Held(1)
    true_s, boot, boot_s = 0.0, 0, 50.0
    first_use_s, uses, late_uses = 0.0, 0, 0  # of the present value of the refresh token
    for step in history:
        true_s += step.passes_s
        boot_s += step.passes_s
        if step.reboots:
            boot, boot_s = boot + 1, 5.0
        now = Now(str(boot), boot_s, T + true_s if step.synced else step.wall_s, step.synced)
        was = state
        decision = begin_refresh(state, profile, now, access_token_ends_in_s=step.access_token_for_s)
        match decision:
            case Wait(waiting, seconds):
                assert profile.reuse_kills_access_tokens and seconds == step.access_token_for_s > 0
                state = waiting
                continue
            case Stop(stopped):
                state = stopped
                continue
            case Begin(refreshing):
                state = refreshing
        is_late = uses > 0 and true_s - first_use_s >= leeway_s
        if is_late:
            assert not (profile.reuse_kills_access_tokens and step.access_token_for_s > 0)
        if step.end not in ("unavailable", "temporary"):
            first_use_s = true_s if uses == 0 else first_use_s
            uses, late_uses = uses + 1, late_uses + is_late
        assert late_uses <= 1, (was, now)
        if step.end == "crash":
            continue  # Refreshing stays on disk
        state = settle_refresh(state, OUTCOMES[step.end], profile)
        if step.end == "rotated":
            uses = late_uses = 0
        assert (
            not isinstance(state, Erased) or uses <= 1
        )  # a denial after a lost answer is never taken for the last word


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=14))
def test_a_provider_that_does_not_invalidate_never_costs_a_grant_for_a_lost_answer(history: list[Step]) -> None:
    state: GrantState = Held(1)
    for number, step in enumerate(history):
        if step.end == "final":
            continue
        now = Now(str(number) if step.reboots else "a", number * 100.0, step.wall_s, step.synced)
        decision = begin_refresh(state, ENTRA, now, access_token_ends_in_s=step.access_token_for_s)
        assert isinstance(decision, Begin)
        state = decision.state if step.end == "crash" else settle_refresh(decision.state, OUTCOMES[step.end], ENTRA)
        assert isinstance(state, Held | Refreshing)
        assert keeps_refresh_token(state)


def test_the_clock_of_the_first_attempt_is_the_one_that_counts() -> None:
    # A retry inside the leeway must not begin a new leeway: the provider counts from the rotation.
    state: GrantState = Held(1)
    for second in (0.0, 10.0, 20.0, 29.0):
        decision = begin_refresh(state, AUTH0, after_s(second), access_token_ends_in_s=None)
        assert isinstance(decision, Begin) and decision.state.intent.late == 0
        state = settle_refresh(decision.state, OUTCOMES["unknown"], AUTH0)
    decision = begin_refresh(state, AUTH0, after_s(31.0), access_token_ends_in_s=None)
    assert decision == Begin(Refreshing(1, replace(FIRST, attempts=5, late=1)))
