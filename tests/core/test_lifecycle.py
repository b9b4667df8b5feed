"""The life of a stored grant: each state, each outcome, each kind of provider; and nothing but a verdict erases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

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
    LastRefusal,
    Locked,
    NeedsHandoff,
    Refreshing,
    Stop,
    Uncertain,
    Wait,
    begin_refresh,
    is_asked_again,
    keeps_refresh_token,
    late_pace_s,
    leeway_left_s,
    may_be_spent,
    may_retry_at_once,
    not_processed,
    serves_access_tokens,
    settle_refresh,
)
from token_relay.agents.ports import Now
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.outcome import Came, DenialKind, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import (
    AUTH0,
    DUENDE_ONE_TIME,
    ENTRA,
    OIDC_PROVIDER,
    OKTA,
    PROFILES,
    STRICT,
    Profile,
)

T = 1_700_000_000.0
STARTED = Stamp("boot-a", 100.0, T, True)
FIRST = Intent(STARTED, STARTED)
USER_WIDE = replace(STRICT, name="user-wide", reuse_takes="user")


def by_name(profile: Profile) -> str:
    return profile.name


FINISHED: tuple[NeedsHandoff | Locked | Erased, ...] = (
    NeedsHandoff(3, "uncertain"),
    Locked(3, "lease"),
    Locked(3, "rollback"),
    Locked(3, "unverified"),
    Erased(3, "denied"),
    Erased(3, "revoked"),
)


def stamp(seconds: float) -> Stamp:
    return Stamp("boot-a", 100.0 + seconds, T + seconds, True)


def after_s(seconds: float) -> Now:
    """So many seconds later in the same boot."""
    return Now("boot-a", 100.0 + seconds, T + seconds, True)


def came(what: Came, *, late: int = 0, attempts: int = 1, sent_s: float = 0.0) -> Intent:
    """An open use whose first request left at 0, and the latest at ``sent_s``."""
    return Intent(STARTED, stamp(sent_s), attempts, late, what)


REBOOTED = Now("boot-b", 3.0, T + 10.0, True)  # ten seconds later by a synced wall clock
REBOOTED_UNSYNCED = Now("boot-b", 3.0, 0.0, False)  # nobody can say how much later
WALL_TURNED_BACK = Now("boot-b", 3.0, T - 10.0, True)


# -- Beginning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES.values(), ids=by_name)
@pytest.mark.parametrize("ends_in_s", [None, 0.0, 100.0])
@pytest.mark.parametrize("awaits_handoff", [False, True])
def test_a_held_grant_may_be_refreshed_with_a_fresh_intent(
    profile: Profile, ends_in_s: float | None, awaits_handoff: bool
) -> None:
    begun = begin_refresh(Held(3), profile, after_s(0), access_token_ends_in_s=ends_in_s, awaits_handoff=awaits_handoff)
    assert begun == Begin(Refreshing(3, FIRST))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=by_name)
@pytest.mark.parametrize(
    ("state", "refusal"),
    [
        (NeedsHandoff(3, "person", 2), LastRefusal("person", 2)),
        (Locked(3, "configuration", 5), LastRefusal("configuration", 5)),
    ],
)
def test_a_refused_grant_may_be_asked_again_and_remembers_how_often_it_was_refused(
    profile: Profile, state: GrantState, refusal: LastRefusal
) -> None:
    begun = begin_refresh(state, profile, after_s(0), access_token_ends_in_s=100.0)
    assert begun == Begin(Refreshing(3, FIRST, refusal))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=by_name)
@pytest.mark.parametrize("state", FINISHED, ids=str)
def test_a_finished_or_locked_grant_is_not_refreshed(state: NeedsHandoff | Locked | Erased, profile: Profile) -> None:
    for holds_alone in (False, True):
        begun = begin_refresh(state, profile, after_s(0), access_token_ends_in_s=None, holds_alone=holds_alone)
        assert begun == Stop(state)


def again(what: Came, *, sent_s: float, attempts: int = 2, late: int = 0) -> Begin:
    return Begin(Refreshing(3, Intent(STARTED, stamp(sent_s), attempts, late, what)))


@pytest.mark.parametrize("what", get_args(Came))
@pytest.mark.parametrize(
    ("profile", "seconds", "ends_in_s"),
    [
        (ENTRA, 0.0, 100.0),  # does not invalidate on use: freely, whenever
        (ENTRA, 1e7, None),
        (PROFILES["google"], 0.0, None),
        (PROFILES["duende"], 5.0, 3600.0),
        (AUTH0, 0.0, None),  # inside its leeway of 30 s: at once
        (AUTH0, 29.9, 100.0),
        (OKTA, 29.9, 100.0),  # whatever reuse would take: it is no reuse there
    ],
)
@pytest.mark.parametrize("awaits_handoff", [False, True])
def test_where_the_value_certainly_works_it_is_sent_again_at_once(
    profile: Profile, seconds: float, ends_in_s: float | None, what: Came, awaits_handoff: bool
) -> None:
    for attempts in (1, 9):
        state = Uncertain(3, came(what, attempts=attempts))
        begun = begin_refresh(
            state, profile, after_s(seconds), access_token_ends_in_s=ends_in_s, awaits_handoff=awaits_handoff
        )
        assert begun == again(what, sent_s=seconds, attempts=attempts + 1)


REACH_NOBODY = (AUTH0, PROFILES["hydra"], DUENDE_ONE_TIME)  # reuse ends no more than this grant's own family
REACH_OTHERS = (OIDC_PROVIDER, PROFILES["keycloak-rotating"], USER_WIDE)
REACH_UNKNOWN = (STRICT, OKTA, PROFILES["cognito"])


@dataclass(frozen=True)
class Late:
    """A look at an open use after the leeway: is it sent, waited for, or sealed for good?"""

    profiles: tuple[Profile, ...]
    what: Came
    holds_alone: bool | None  # None: either way
    may_be_sent: bool


LATE = (
    Late(REACH_NOBODY + REACH_OTHERS + REACH_UNKNOWN, "page", None, True),
    Late(REACH_NOBODY, "lost", None, True),
    Late(REACH_OTHERS, "lost", None, False),
    Late(REACH_UNKNOWN, "lost", True, True),
    Late(REACH_UNKNOWN, "lost", False, False),
)
LATE_CASES = [
    (profile, row.what, holds_alone, row.may_be_sent)
    for row in LATE
    for profile in row.profiles
    for holds_alone in ((False, True) if row.holds_alone is None else (row.holds_alone,))
]


def test_the_table_of_late_tries_has_every_row() -> None:
    invalidating = {profile.name for profile in PROFILES.values() if profile.invalidates_on_use}
    found = {(profile.name, what, alone) for profile, what, alone, _ in LATE_CASES}
    assert found == set(product(invalidating | {"user-wide"}, get_args(Came), (False, True)))
    assert len(found) == len(LATE_CASES)


@pytest.mark.parametrize(("profile", "what", "holds_alone", "may_be_sent"), LATE_CASES)
@pytest.mark.parametrize(
    ("late", "since_sent_s", "ends_in_s", "awaits_handoff", "wait_s"),
    [
        # the pace counts from the latest request, and doubles: 1 min to 1 h
        (0, 59.0, None, False, 1.0),
        (0, 60.0, None, False, 0.0),
        (1, 60.0, None, False, 60.0),
        (1, 120.0, None, False, 0.0),
        (5, 1920.0, None, False, 0.0),
        (6, 3599.0, None, False, 1.0),
        (6, 3600.0, None, False, 0.0),
        (200, 3599.0, None, False, 1.0),
        (200, 3600.0, None, False, 0.0),  # for ever
        # not before the newest access token has ended
        (0, 60.0, 100.0, False, 100.0),
        (0, 0.0, 10.0, False, 60.0),
        (0, 60.0, 0.5, False, 0.5),
        (0, 60.0, 0.0, False, 0.0),
        (0, 60.0, -1.0, False, 0.0),
        # not while a handoff that would replace it is READY
        (0, 60.0, None, True, 60.0),
        (200, 3600.0, 0.0, True, 60.0),
        (0, 60.0, 100.0, True, 100.0),
        (0, 86_399.0, None, True, 60.0),
        (0, 86_400.0, None, True, 0.0),  # by then its phone has given it up, or forgotten it
        (0, 86_400.0, 5.0, True, 5.0),
    ],
)
def test_what_may_be_tried_after_the_leeway(
    profile: Profile,
    what: Came,
    holds_alone: bool,
    may_be_sent: bool,
    late: int,
    since_sent_s: float,
    ends_in_s: float | None,
    awaits_handoff: bool,
    wait_s: float,
) -> None:
    intent = came(what, late=late, attempts=late + 1, sent_s=1e5)
    now_s = 1e5 + since_sent_s
    decision = begin_refresh(
        Uncertain(3, intent),
        profile,
        after_s(now_s),
        access_token_ends_in_s=ends_in_s,
        holds_alone=holds_alone,
        awaits_handoff=awaits_handoff,
    )
    if not may_be_sent:
        assert decision == Stop(NeedsHandoff(3, "uncertain"))
        assert keeps_refresh_token(NeedsHandoff(3, "uncertain"))
    elif wait_s:
        assert decision == Wait(Uncertain(3, intent), wait_s)
    else:
        assert decision == again(what, sent_s=now_s, attempts=late + 2, late=late + 1)


@pytest.mark.parametrize("state", [Refreshing, Uncertain])
@pytest.mark.parametrize("before", ["", "page", "lost"])
def test_a_request_that_a_crash_cut_off_has_lost_its_answer(
    state: type[Refreshing | Uncertain], before: Literal["", Came]
) -> None:
    """Refreshing on disk with no flight; an older program kept Uncertain without saying what came."""
    intent = replace(FIRST, came=before)
    decision = begin_refresh(state(3, intent), OIDC_PROVIDER, after_s(1e6), access_token_ends_in_s=None)
    if state is Uncertain and before == "page":
        assert decision == again("page", sent_s=1e6, late=1)
    else:
        assert decision == Stop(NeedsHandoff(3, "uncertain"))


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_a_refusal_is_carried_through_an_open_use(seconds: float) -> None:
    for refusal in (LastRefusal("person", 2), LastRefusal("configuration", 3)):
        state = Uncertain(3, came("page", sent_s=seconds), refusal)
        waiting = begin_refresh(state, AUTH0, after_s(seconds + 31), access_token_ends_in_s=None)
        assert waiting == Wait(state, 29.0)
        begun = begin_refresh(state, AUTH0, after_s(seconds + 60), access_token_ends_in_s=None)
        assert isinstance(begun, Begin) and begun.state.refusal == refusal


@pytest.mark.parametrize("now", [REBOOTED_UNSYNCED, WALL_TURNED_BACK])
@pytest.mark.parametrize(("profile", "late"), [(AUTH0, 1), (ENTRA, 0)])
def test_elapsed_time_that_no_clock_can_tell_is_after_the_leeway(profile: Profile, late: int, now: Now) -> None:
    begun = begin_refresh(Uncertain(3, came("lost")), profile, now, access_token_ends_in_s=None)
    assert begun == Begin(Refreshing(3, Intent(STARTED, Stamp.of(now), 2, late, "lost")))
    waits = begin_refresh(Uncertain(3, came("lost")), profile, now, access_token_ends_in_s=5.0)
    assert isinstance(waits, Wait) is (profile is AUTH0)


def test_a_synced_wall_clock_counts_across_boots() -> None:
    begun = begin_refresh(Uncertain(3, came("lost")), AUTH0, REBOOTED, access_token_ends_in_s=100.0)
    assert begun == Begin(Refreshing(3, Intent(STARTED, Stamp.of(REBOOTED), 2, 0, "lost")))


def test_the_leeway_counts_from_the_first_request() -> None:
    # A retry inside the leeway must not begin a new leeway: the provider counts from the rotation.
    state: GrantState = Held(1)
    for second in (0.0, 10.0, 20.0, 29.0):
        decision = begin_refresh(state, AUTH0, after_s(second), access_token_ends_in_s=None)
        assert isinstance(decision, Begin) and decision.state.intent.late == 0
        state = settle_refresh(decision.state, OUTCOMES["lost"], AUTH0)
    decision = begin_refresh(state, AUTH0, after_s(31.0), access_token_ends_in_s=None)
    assert isinstance(decision, Wait)
    decision = begin_refresh(state, AUTH0, after_s(89.0), access_token_ends_in_s=None)
    assert decision == Begin(Refreshing(1, Intent(STARTED, stamp(89.0), 5, 1, "lost")))


def test_the_pace_of_late_tries_grows_from_a_minute_to_an_hour() -> None:
    paces = [late_pace_s(late) for late in range(9)]
    assert paces == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert late_pace_s(10**6) == 3600


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
    **{kind: denied(kind) for kind in get_args(DenialKind)},
    "unavailable": Unavailable("connection refused"),
    "page": OutcomeUnknown("503 text/html", "page"),
    "lost": OutcomeUnknown("timeout"),
}
VERDICTS: dict[str, GrantState] = {
    "rotated": Held(4),
    "kept": Held(3),
    "spoilt": Held(4),  # stored first, judged afterwards
    "final": Erased(3, "denied"),
    "person": NeedsHandoff(3, "person", 1),
}
REFUSED_CLIENT = Locked(3, "configuration", 1)
CONFIGURATION = LastRefusal("configuration", 1)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=by_name)
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_an_outcome_makes_of_a_first_request(profile: Profile, outcome: str) -> None:
    after = {
        **VERDICTS,
        "client": REFUSED_CLIENT,
        "request": REFUSED_CLIENT,  # of the whole grant's scope: the registration is what must change
        "temporary": Held(3),
        "unavailable": Held(3),
        "page": Uncertain(3, came("page")),
        "lost": Uncertain(3, came("lost")),
    }
    assert settle_refresh(Refreshing(3, FIRST), OUTCOMES[outcome], profile) == after[outcome]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=by_name)
@pytest.mark.parametrize("before", get_args(Came))
@pytest.mark.parametrize("late", [0, 1, 200])
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_an_outcome_makes_of_an_open_use(profile: Profile, before: Came, late: int, outcome: str) -> None:
    intent = came(before, late=late, attempts=2, sent_s=99.0)
    still_open = Uncertain(3, intent)
    # a refused client is no word about the token, and the doubt must outlive the repair of the registration
    refused = Uncertain(3, intent, CONFIGURATION) if profile.invalidates_on_use else REFUSED_CLIENT
    after = {
        **VERDICTS,
        "client": refused,
        "request": refused,
        "temporary": still_open,  # certainly not processed
        "unavailable": still_open,
        "page": still_open,  # an answer that was lost stays lost
        "lost": Uncertain(3, replace(intent, came="lost")),
    }
    assert settle_refresh(Refreshing(3, intent), OUTCOMES[outcome], profile) == after[outcome]


@pytest.mark.parametrize(
    ("refusal", "outcome", "after"),
    [
        (LastRefusal("person", 3), "person", NeedsHandoff(3, "person", 4)),
        (LastRefusal("person", 3), "client", Locked(3, "configuration", 1)),
        (LastRefusal("configuration", 3), "client", Locked(3, "configuration", 4)),
        (LastRefusal("configuration", 3), "request", Locked(3, "configuration", 4)),
        (LastRefusal("configuration", 3), "person", NeedsHandoff(3, "person", 1)),
        # what tells nothing of the refusal leaves it as it was
        (LastRefusal("person", 3), "temporary", NeedsHandoff(3, "person", 3)),
        (LastRefusal("person", 3), "unavailable", NeedsHandoff(3, "person", 3)),
        (LastRefusal("configuration", 3), "unavailable", Locked(3, "configuration", 3)),
        (LastRefusal("person", 3), "page", Uncertain(3, came("page"), LastRefusal("person", 3))),
        (LastRefusal("configuration", 3), "lost", Uncertain(3, came("lost"), LastRefusal("configuration", 3))),
        # a good answer or a final one ends it
        (LastRefusal("person", 3), "rotated", Held(4)),
        (LastRefusal("configuration", 3), "kept", Held(3)),
        (LastRefusal("configuration", 3), "final", Erased(3, "denied")),
    ],
)
@pytest.mark.parametrize("profile", [ENTRA, AUTH0, STRICT], ids=by_name)
def test_a_refusal_is_counted_and_carried_through(
    profile: Profile, refusal: LastRefusal, outcome: str, after: GrantState
) -> None:
    assert settle_refresh(Refreshing(3, FIRST, refusal), OUTCOMES[outcome], profile) == after


@pytest.mark.parametrize(
    ("refusal", "after"),
    [
        (None, Held(3)),
        (LastRefusal("person", 2), NeedsHandoff(3, "person", 2)),
        (LastRefusal("configuration", 2), Locked(3, "configuration", 2)),
    ],
)
@pytest.mark.parametrize("open_use", ["", "page", "lost"])
def test_a_request_that_was_not_processed_leaves_all_as_it_was(
    refusal: LastRefusal | None, after: GrantState, open_use: Literal["", Came]
) -> None:
    intent = replace(FIRST, came=open_use)
    expected = Uncertain(3, intent, refusal) if open_use else after
    assert not_processed(Refreshing(3, intent, refusal)) == expected


def test_a_generation_is_one_stored_refresh_token() -> None:
    assert settle_refresh(Refreshing(3, FIRST), ROTATED, STRICT).generation == 4
    assert {settle_refresh(Refreshing(3, FIRST), outcome, STRICT).generation for outcome in OUTCOMES.values()} == {3, 4}


# -- What a state allows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "keeps", "serves", "asked_again"),
    [
        (Held(3), True, True, False),
        (Refreshing(3, FIRST), True, True, False),
        (Uncertain(3, came("page")), True, True, False),
        (Uncertain(3, came("page"), LastRefusal("configuration", 1)), True, True, True),
        (NeedsHandoff(3, "uncertain"), True, True, False),  # sealed; what is cached still works
        (NeedsHandoff(3, "person"), True, True, True),  # sealed until the person has acted
        (Locked(3, "lease"), True, False, False),
        (Locked(3, "rollback"), True, False, False),
        (Locked(3, "unverified"), True, False, False),
        (Locked(3, "configuration"), True, True, True),  # an operator's mistake takes nothing away
        (Erased(3, "denied"), False, False, False),
        (Erased(3, "revoked"), False, False, False),
        (Erased(3, "superseded"), False, False, False),
        (Erased(3, "forgotten"), False, False, False),
        (Erased(3, "signed_out"), False, False, False),
    ],
)
def test_what_is_kept_and_what_is_served_in_each_state(
    state: GrantState, keeps: bool, serves: bool, asked_again: bool
) -> None:
    assert keeps_refresh_token(state) is keeps
    assert serves_access_tokens(state) is serves
    assert is_asked_again(state) is asked_again


@pytest.mark.parametrize(
    ("state", "profile", "now", "left_s"),
    [
        (Uncertain(3, came("lost")), AUTH0, after_s(0), 30.0),
        (Uncertain(3, came("page")), AUTH0, after_s(0), 30.0),
        (Uncertain(3, came("lost", sent_s=25.0)), AUTH0, after_s(29), 1.0),
        (Uncertain(3, came("lost")), AUTH0, after_s(30), 0.0),
        (Uncertain(3, came("lost")), AUTH0, REBOOTED, 20.0),
        (Uncertain(3, came("lost")), AUTH0, REBOOTED_UNSYNCED, 0.0),
        (Uncertain(3, came("lost")), AUTH0, WALL_TURNED_BACK, 0.0),
        (Refreshing(3, FIRST), AUTH0, after_s(1), 29.0),
        (Uncertain(3, came("lost")), STRICT, after_s(0), 0.0),
        (Uncertain(3, came("lost")), ENTRA, after_s(0), 0.0),  # nothing is urgent there: the usual pause
        (Held(3), AUTH0, after_s(0), 0.0),
        (NeedsHandoff(3, "uncertain"), AUTH0, after_s(0), 0.0),
        (Erased(3, "denied"), AUTH0, after_s(0), 0.0),
    ],
)
def test_an_open_use_is_repaired_at_once_only_inside_a_known_leeway(
    state: GrantState, profile: Profile, now: Now, left_s: float
) -> None:
    assert leeway_left_s(state, profile, now) == pytest.approx(left_s)
    assert may_retry_at_once(state, profile, now) is (left_s > 0)


def test_only_an_open_use_of_an_invalidating_provider_may_be_spent() -> None:
    came_to: tuple[Literal["", Came], ...] = ("", "page", "lost")
    for profile, open_use in product(PROFILES.values(), came_to):
        state = Refreshing(3, replace(FIRST, came=open_use))
        assert may_be_spent(state, profile) is (profile.invalidates_on_use and bool(open_use))


# -- Histories ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Time passes, perhaps with a reboot; then one look, and what becomes of a request that it permits."""

    passes_s: float
    reboots: bool
    synced: bool
    wall_s: float  # what an unsynced wall clock says
    access_token_for_s: float
    holds_alone: bool
    awaits_handoff: bool
    end: str  # an outcome's name, or "crash": no outcome is ever written


STEPS = st.builds(
    Step,
    st.sampled_from([0.0, 1.0, 29.0, 31.0, 61.0, 3601.0, 1e6]),
    st.booleans(),
    st.booleans(),
    st.floats(0, 2 * T),
    st.sampled_from([0.0, 0.0, 20.0]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["page", "lost", "crash", "page", *OUTCOMES]),
)
ANY_PROFILE = st.sampled_from([*PROFILES.values(), USER_WIDE])


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=20), ANY_PROFILE)
def test_nothing_but_a_final_denial_erases(history: list[Step], profile: Profile) -> None:
    """Whatever comes, in whatever order, by whatever clock; and what may be sent again keeps its rules."""
    state: GrantState = Held(1)
    true_s, boot, boot_s = 0.0, 0, 50.0
    last_sent: tuple[int, float] | None = None  # boot and true time
    was_lost = False  # one of the requests of the open use
    for step in history:
        true_s, boot_s = true_s + step.passes_s, boot_s + step.passes_s
        if step.reboots:
            boot, boot_s = boot + 1, 5.0
        now = Now(str(boot), boot_s, T + true_s if step.synced else step.wall_s, step.synced)
        decision = begin_refresh(
            state,
            profile,
            now,
            access_token_ends_in_s=step.access_token_for_s or None,
            holds_alone=step.holds_alone,
            awaits_handoff=step.awaits_handoff,
        )
        assert isinstance(decision.state, Erased) is isinstance(state, Erased)
        state = decision.state
        if not isinstance(decision, Begin):
            continue
        if may_be_spent(decision.state, profile) and not may_retry_at_once(decision.state, profile, now):
            is_stale = last_sent is not None and true_s - last_sent[1] >= 86_400.0
            assert not step.access_token_for_s and (not step.awaits_handoff or is_stale)
            assert not was_lost or profile.reuse_takes in ("nothing", "family", "unknown")
            assert not was_lost or profile.reuse_takes != "unknown" or step.holds_alone
            assert last_sent is None or last_sent[0] != boot or true_s - last_sent[1] >= 60.0
        last_sent = (boot, true_s)
        if step.end == "crash":
            was_lost = True  # Refreshing stays on disk
            continue
        state = settle_refresh(decision.state, OUTCOMES[step.end], profile)
        assert isinstance(state, Erased) is (step.end == "final")
        assert keeps_refresh_token(state) is (step.end != "final")
        if step.end in ("page", "lost"):
            was_lost = was_lost or step.end == "lost"
            assert isinstance(state, Uncertain) and state.intent.came == ("lost" if was_lost else "page")
        else:
            was_lost = was_lost and isinstance(state, Uncertain)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=14), st.sampled_from([ENTRA, PROFILES["keycloak"], PROFILES["google"]]))
def test_a_provider_that_does_not_invalidate_is_always_asked_again(history: list[Step], profile: Profile) -> None:
    state: GrantState = Held(1)
    for number, step in enumerate(history):
        if step.end == "final":
            continue
        now = Now(str(number) if step.reboots else "a", number * 100.0, step.wall_s, step.synced)
        decision = begin_refresh(state, profile, now, access_token_ends_in_s=step.access_token_for_s)
        assert isinstance(decision, Begin)
        state = decision.state if step.end == "crash" else settle_refresh(decision.state, OUTCOMES[step.end], profile)
        assert keeps_refresh_token(state)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["page", "unavailable", "temporary", "client"]), max_size=60), ANY_PROFILE)
def test_pages_for_ever_are_followed_by_a_try_at_most_an_hour_later(history: list[str], profile: Profile) -> None:
    """Liveness: while no answer was lost there is always a next try, and its verdict counts."""
    state: GrantState = Held(1)
    now_s = 0.0
    for outcome in [*history, "rotated"]:
        decision = begin_refresh(state, profile, after_s(now_s), access_token_ends_in_s=None)
        if isinstance(decision, Wait):
            assert 0 < decision.seconds <= 3600.0
            now_s += decision.seconds
            decision = begin_refresh(state, profile, after_s(now_s), access_token_ends_in_s=None)
        assert isinstance(decision, Begin), decision
        state = settle_refresh(decision.state, OUTCOMES[outcome], profile)
    assert state == Held(2)
