"""How a grant stands in its columns, and whether its cached access token will do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.lease import LeaseClock
from token_relay.agents.grants.lifecycle import (
    Erased,
    GrantState,
    Held,
    Intent,
    LastRefusal,
    Locked,
    NeedsHandoff,
    Refreshing,
    Uncertain,
    keeps_refresh_token,
)
from token_relay.agents.grants.serving import (
    Refresh,
    Serve,
    columns_of,
    columns_of_lease,
    expires_at,
    is_put_away,
    lease_of,
    may_be_sent,
    normalise_scope,
    profile_of,
    remaining_s,
    serve_or_refresh,
    state_of,
)
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenQuery
from token_relay.protocol.errors import VaultError
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.profile import AUTH0, ENTRA, STRICT

T = 1_700_000_000.0
NOW = Now("boot-a", 1000.0, T, True)
STARTED = Stamp.of(NOW)
INTENT = Intent(STARTED, Stamp("boot-a", 1060.0, T + 60.0, True), 2, 1, "page")

GRANT = Grant(
    grant_id="g1",
    pairing_id="",
    handoff_id="",
    issuer="https://login.example",
    client_id="client-1",
    token_endpoint="https://login.example/token",
    revocation_endpoint="",
    scope="openid read write",
    audience="api://one",
    subject="sub-1",
    account="anna@example.com",
    profile="entra",
    signed_in_at=0,
    is_otp=False,
    stored_at=100,
    refresh_token=RefreshToken("rt"),
)


def token(*, left_s: float, expires_in_s: float = 3600.0, access_token: AccessToken | None = None) -> CachedToken:
    """A cached token that has so many seconds left at NOW."""
    age_s = expires_in_s - left_s
    return CachedToken(
        grant_id="g1",
        scope="",
        granted_scope="openid read",
        token_type="Bearer",
        received=Stamp("boot-a", NOW.boot_s - age_s, T - age_s, True).to_text(),
        expires_in_s=expires_in_s,
        generation=3,
        access_token=access_token or AccessToken("at"),
    )


STATES: list[GrantState] = [
    Held(3),
    Refreshing(3, Intent(STARTED, STARTED)),
    Refreshing(3, INTENT, LastRefusal("person", 2)),
    Uncertain(3, INTENT),
    Uncertain(3, replace(INTENT, came="lost"), LastRefusal("configuration", 7)),
    NeedsHandoff(3, "uncertain"),
    NeedsHandoff(3, "person", 3),
    Locked(3, "lease"),
    Locked(3, "rollback"),
    Locked(3, "configuration", 1),
    Erased(3, "denied"),
    Erased(3, "revoked"),
]

# -- Records and states ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=str)
@pytest.mark.parametrize("before", STATES, ids=str)
def test_a_state_survives_its_columns_whatever_stood_there(before: GrantState, state: GrantState) -> None:
    row = replace(replace(GRANT, **columns_of(before)), **columns_of(state))
    assert state_of(row) == state
    assert replace(replace(row, **columns_of(Held(1))), refresh_token=GRANT.refresh_token) == GRANT
    assert (row.refresh_token is not None) == (keeps_refresh_token(state) and keeps_refresh_token(before))


def test_an_intent_of_an_older_program_was_sent_when_it_began() -> None:
    row = replace(GRANT, **columns_of(Uncertain(3, INTENT)))
    assert state_of(replace(row, intent_sent="", intent_came="")) == Uncertain(3, Intent(STARTED, STARTED, 2, 1, ""))


@pytest.mark.parametrize(
    ("state", "may_be", "is_away"),
    [
        (Held(3), True, False),
        (Refreshing(3, INTENT), True, False),
        (Uncertain(3, INTENT), True, False),
        (NeedsHandoff(3, "person", 1), True, False),  # asked again by itself
        (Locked(3, "configuration", 1), True, False),
        (NeedsHandoff(3, "uncertain"), False, False),  # sealed, for a handoff to replace
        (Locked(3, "lease"), False, True),
        (Locked(3, "rollback"), False, True),
        (Locked(3, "unverified"), False, True),
        (Erased(3, "denied"), False, True),
    ],
    ids=str,
)
def test_which_grants_may_still_be_sent_and_which_are_put_away(state: GrantState, may_be: bool, is_away: bool) -> None:
    row = replace(GRANT, **columns_of(state))
    assert may_be_sent(row) is may_be
    assert not may_be_sent(replace(row, refresh_token=None))
    assert is_put_away(row) is is_away


def test_a_damaged_state_is_a_damaged_vault() -> None:
    for spoilt in (
        replace(GRANT, state="refreshing", intent=""),
        replace(GRANT, state="uncertain", intent="boot nan 0.0 s"),
        replace(GRANT, state="uncertain", intent=STARTED.to_text(), intent_sent="boot nan 0.0 s"),
    ):
        with pytest.raises(VaultError):
            state_of(spoilt)


def test_a_profile_that_this_program_does_not_know_counts_as_strict() -> None:
    assert profile_of(GRANT) is ENTRA
    assert profile_of(replace(GRANT, profile="auth0")) is AUTH0
    for name in ("", "Entra", "newer_provider"):
        assert profile_of(replace(GRANT, profile=name)) is STRICT


def test_a_lease_survives_its_columns() -> None:
    assert lease_of(GRANT) is None
    lease = LeaseClock(90, 12.5, STARTED, T)
    assert lease_of(replace(GRANT, **columns_of_lease(lease))) == lease
    assert lease_of(replace(GRANT, **columns_of_lease(replace(lease, days=0)))) is None
    with pytest.raises(VaultError):
        lease_of(replace(replace(GRANT, **columns_of_lease(lease)), lease_marked="x"))


# -- Scopes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "normal"),
    [("", ""), ("a", "a"), ("b a", "a b"), ("a a", "a"), ("  b\ta \n", "a b"), ("a B", "B a")],
)
def test_equal_scope_sets_have_one_spelling(scope: str, normal: str) -> None:
    assert normalise_scope(scope) == normal


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["openid", "read", "write", "Read"]), max_size=6))
def test_order_and_repetition_of_a_scope_do_not_matter(words: list[str]) -> None:
    normal = normalise_scope(" ".join(words))
    assert normalise_scope(" ".join(reversed(words + words))) == normal
    assert normalise_scope(normal) == normal
    assert set(normal.split()) == set(words)


# -- What is left of a token -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "left_s"),
    [
        (NOW, 3600.0),
        (Now("boot-a", 1060.0, 0.0, False), 3540.0),
        (Now("boot-a", 1060.0, T + 9e9, True), 3540.0),
        (Now("boot-a", 4600.0, T, True), 0.0),
        (Now("boot-a", 1e9, T, True), 0.0),
        (Now("boot-a", 999.0, T, True), 3600.0),
        (Now("boot-b", 5.0, T + 600, True), 3000.0),
        (Now("boot-b", 5.0, T + 600, False), 0.0),  # no clock can say: not certainly alive
        (Now("boot-b", 5.0, T - 1, True), 0.0),
    ],
)
def test_a_token_has_left_what_a_trusted_clock_says_and_else_nothing(now: Now, left_s: float) -> None:
    assert remaining_s(token(left_s=3600.0), now) == left_s


def test_the_end_is_told_by_the_present_wall_clock_in_whole_seconds_never_too_late() -> None:
    assert expires_at(token(left_s=3600.0), NOW) == datetime.fromtimestamp(T + 3600, UTC)
    later = Now("boot-a", 1000.75, T + 0.75, True)
    assert expires_at(token(left_s=3600.0), later) == datetime.fromtimestamp(T + 3599, UTC)
    turned = Now("boot-a", 1060.0, T - 86_400.0, True)
    assert expires_at(token(left_s=3600.0), turned) == datetime.fromtimestamp(T - 86_400 + 3540, UTC)


# -- Serve or refresh --------------------------------------------------------------------------------------

ALIVE, ENDED = token(left_s=600.0), token(left_s=0.0)
REFUSING = [Locked(3, "lease"), Locked(3, "rollback"), Erased(3, "denied"), Erased(3, "revoked")]
REFUSED = [NeedsHandoff(3, "person", 1), Locked(3, "configuration", 1)]
FINISHED = [NeedsHandoff(3, "uncertain"), *REFUSED]
REFRESHABLE = [Held(3), Refreshing(3, INTENT), Uncertain(3, INTENT)]
QUERIES = [
    TokenQuery(),
    TokenQuery(min_valid_s=0.0),
    TokenQuery(min_valid_s=1e9),
    TokenQuery(force_refresh=True),
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("state", REFUSING, ids=str)
def test_a_locked_or_dead_grant_gives_out_nothing(state: GrantState, query: TokenQuery) -> None:
    for cached in (None, ALIVE, ENDED):
        assert serve_or_refresh(state, cached, query, NOW) == "refuse"


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("state", FINISHED, ids=str)
def test_a_grant_that_cannot_refresh_gives_out_what_still_works(state: GrantState, query: TokenQuery) -> None:
    if query.force_refresh and state in REFUSED:  # its owner insists: it is asked again at once
        for cached, fallback in ((ALIVE, ALIVE), (ENDED, None), (None, None)):
            assert serve_or_refresh(state, cached, query, NOW) == Refresh(fallback)
        return
    assert serve_or_refresh(state, ALIVE, query, NOW) == Serve(ALIVE)
    assert serve_or_refresh(state, ENDED, query, NOW) == "refuse"
    assert serve_or_refresh(state, None, query, NOW) == "refuse"


@pytest.mark.parametrize("state", STATES, ids=str)
def test_a_resource_that_refused_the_token_is_not_answered_from_the_cache(state: GrantState) -> None:
    query = TokenQuery(claims='{"access_token": {}}')
    wanted = Refresh(None) if isinstance(state, Held | Refreshing | Uncertain) else "refuse"
    for cached in (None, ALIVE, ENDED):
        assert serve_or_refresh(state, cached, query, NOW) == wanted


@pytest.mark.parametrize("state", REFRESHABLE, ids=str)
@pytest.mark.parametrize(
    ("left_s", "expires_in_s", "min_valid_s", "force", "is_served"),
    [
        (600.0, 3600.0, 30.0, False, True),
        (600.0, 3600.0, 600.0, False, True),
        (600.0, 3600.0, 600.1, False, False),
        (30.0, 3600.0, 30.0, False, True),
        (29.9, 3600.0, 30.0, False, False),
        (600.0, 3600.0, 0.0, True, False),
        # a wish that no new token can meet gets the newest token, not another refresh
        (600.0, 3600.0, 3600.0, False, True),
        (600.0, 3600.0, 1e9, False, True),
        (600.0, 3600.0, 3599.9, False, False),
        # a token younger than a minute is not refreshed for a caller
        (3541.0, 3600.0, 3599.0, False, True),
        (3540.0, 3600.0, 3599.0, False, False),
        (10.0, 20.0, 15.0, False, True),
        # unless the caller insists: the policy says who may insist
        (3599.0, 3600.0, 30.0, True, False),
    ],
)
def test_a_cached_token_is_served_or_refreshed(
    state: GrantState, left_s: float, expires_in_s: float, min_valid_s: float, force: bool, is_served: bool
) -> None:
    cached = token(left_s=left_s, expires_in_s=expires_in_s)
    query = TokenQuery(min_valid_s=min_valid_s, force_refresh=force)
    assert serve_or_refresh(state, cached, query, NOW) == (Serve(cached) if is_served else Refresh(cached))


@pytest.mark.parametrize("query", QUERIES, ids=str)
@pytest.mark.parametrize("state", REFRESHABLE, ids=str)
def test_without_a_working_token_a_refresh_is_needed(state: GrantState, query: TokenQuery) -> None:
    assert serve_or_refresh(state, None, query, NOW) == Refresh(None)
    assert serve_or_refresh(state, ENDED, query, NOW) == Refresh(None)
    assert serve_or_refresh(state, replace(ALIVE, access_token=None), query, NOW) == Refresh(None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(STATES),
    st.none() | st.floats(0, 7200),
    st.floats(0, 1e6),
    st.booleans(),
    st.builds(Now, st.sampled_from(["boot-a", "boot-b"]), st.floats(0, 1e5), st.floats(0, 2 * T), st.booleans()),
)
def test_nobody_gets_a_token_that_may_have_ended(
    state: GrantState, left_s: float | None, min_valid_s: float, force: bool, now: Now
) -> None:
    cached = None if left_s is None else token(left_s=left_s, expires_in_s=7200.0)
    found = serve_or_refresh(state, cached, TokenQuery(min_valid_s=min_valid_s, force_refresh=force), now)
    given_out = found.token if isinstance(found, Serve) else found.fallback if isinstance(found, Refresh) else None
    if given_out is not None:
        assert given_out is cached
        assert remaining_s(given_out, now) > 0
    may_be = may_be_sent(replace(GRANT, **columns_of(state)))
    if isinstance(found, Refresh):
        assert may_be and (force or isinstance(state, Held | Refreshing | Uncertain))
    if isinstance(found, Serve) and force:
        assert not may_be
