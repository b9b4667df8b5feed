"""When to refresh unasked and how long to pause: tables by hand, and the bounds that randomness cannot leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.schedule import (
    UNASKED_S_MAX,
    GrantEnd,
    backoff_s,
    columns_of_life,
    due_in_s,
    grant_end,
    keep_alive_after_s,
    proactive_at_s,
    refused_pause_s,
    unasked_backoff_s,
)
from token_relay.agents.grants.serving import columns_of
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider import profile as profiles
from token_relay.provider.profile import AUTH0, ENTRA, GOOGLE, STRICT, Profile

DAY = 86_400
HOUR = 3_600
T = 1_700_000_000
SHARES = st.floats(0.0, 1.0)
PROFILES = st.sampled_from([ENTRA, AUTH0, STRICT])
NOW = Now("boot", 1000.0, float(T), is_synced=True)


def grant(profile: str = "strict", **more: Any) -> Grant:
    like = Grant(
        grant_id="g",
        pairing_id="",
        handoff_id="",
        issuer="https://login.example",
        client_id="client-1",
        token_endpoint="https://login.example/token",
        revocation_endpoint="",
        scope="openid",
        audience="",
        subject="sub",
        account="anna",
        profile=profile,
        signed_in_at=T,
        is_otp=False,
        stored_at=T,
        refresh_token=RefreshToken("rt"),
    )
    return replace(like, **more)


def later(seconds: float) -> Now:
    return Now("boot", NOW.boot_s + seconds, NOW.wall_s + seconds, is_synced=True)


@pytest.mark.parametrize(
    ("failures", "longest_s"),
    [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 64), (7, 128), (8, 256), (9, 512), (10, 900), (10**6, 900)],
)
def test_the_pause_doubles_up_to_a_quarter_of_an_hour_with_full_jitter(failures: int, longest_s: float) -> None:
    assert backoff_s(failures=failures, share=1.0, retry_after_s=None) == longest_s
    assert backoff_s(failures=failures, share=0.25, retry_after_s=None) == longest_s / 4
    assert backoff_s(failures=failures, share=0.0, retry_after_s=None) == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**9), SHARES, st.none() | st.floats(0, 1e6))
def test_a_pause_is_never_shorter_than_the_provider_asked_for(
    failures: int, share: float, retry_after_s: float | None
) -> None:
    pause_s = backoff_s(failures=failures, share=share, retry_after_s=retry_after_s)
    assert pause_s >= (retry_after_s or 0)
    assert 0 <= pause_s <= max(900, retry_after_s or 0)


@pytest.mark.parametrize(
    ("profile", "share", "age_s"),
    [
        (ENTRA, 0.0, 2160.0),
        (ENTRA, 0.5, 2520.0),
        (ENTRA, 1.0, 2880.0),
        (AUTH0, 0.0, 2160.0),  # a lost answer can be repaired inside its leeway
        (STRICT, 0.0, None),  # a lost answer cannot: no token is spent unasked
        (STRICT, 1.0, None),
    ],
)
def test_an_hours_token_is_refreshed_unasked_at_60_to_80_percent_where_that_is_safe(
    profile: Profile, share: float, age_s: float | None
) -> None:
    found = proactive_at_s(profile, expires_in_s=3600.0, share=share)
    assert found == (None if age_s is None else pytest.approx(age_s))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROFILES, st.floats(0, 1e7), SHARES)
def test_an_unasked_refresh_comes_before_the_end(profile: Profile, expires_in_s: float, share: float) -> None:
    at_s = proactive_at_s(profile, expires_in_s=expires_in_s, share=share)
    assert (at_s is None) is (profile is STRICT)
    if at_s is not None:
        assert 0.6 * expires_in_s <= at_s * (1 + 1e-9)
        assert at_s <= 0.8 * expires_in_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("failures", "longest_s"), [(1, 2), (2, 4), (10, 1024), (14, 16384), (15, UNASKED_S_MAX), (10**6, UNASKED_S_MAX)]
)
def test_what_nobody_asks_for_pauses_up_to_six_hours_and_at_least_half_of_its_bound(
    failures: int, longest_s: float
) -> None:
    assert UNASKED_S_MAX == 6 * HOUR
    assert unasked_backoff_s(failures=failures, share=1.0) == longest_s
    assert unasked_backoff_s(failures=failures, share=0.0) == longest_s / 2


@pytest.mark.parametrize(
    ("times", "client_s", "person_s"),
    [
        (1, 600, HOUR),
        (2, 1200, 2 * HOUR),
        (3, 2400, 4 * HOUR),
        (4, 4800, 6 * HOUR),
        (5, 9600, 6 * HOUR),
        (6, 19200, 6 * HOUR),
        (7, 6 * HOUR, 6 * HOUR),
        (10**6, 6 * HOUR, 6 * HOUR),
    ],
)
def test_a_refused_grant_is_asked_again_ever_more_slowly(times: int, client_s: float, person_s: float) -> None:
    assert refused_pause_s("configuration", times) == client_s
    assert refused_pause_s("person", times) == person_s


# -- Keep-alive --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "idle_days", "idle_s"),
    [
        (grant("entra"), None, 90 * DAY),
        (grant("entra", is_otp=True), None, DAY),  # 24 hours after a sign-in by e-mail code
        (grant("entra", is_otp=True), 30.0, DAY),
        (grant("auth0"), None, 30 * DAY),
        (grant("auth0", is_otp=True), None, 30 * DAY),
        (grant("google"), None, 182 * DAY),
        # where nobody knows, a careful week; also for a profile that a newer program has written
        (grant("strict"), None, 7 * DAY),
        (grant("okta"), None, 7 * DAY),
        (grant("keycloak"), None, 7 * DAY),
        (grant("newer"), None, 7 * DAY),
        # the configuration knows better than the profile, the provider better than both
        (grant("strict"), 30.0, 30 * DAY),
        (grant("entra"), 2.0, 2 * DAY),
        (grant("entra", life_told_s=5.0 * DAY, life_longest_s=10.0 * DAY), 2.0, 10 * DAY),
        (grant("strict", life_told_s=1.0 * DAY, life_longest_s=1.0 * DAY), None, DAY),
        (grant("strict", life_told_s=3.0 * DAY, life_longest_s=3.0 * DAY), 0.0, 3 * DAY),
        # never within an hour of the last
        (grant("strict", life_told_s=600.0, life_longest_s=600.0), None, 2.5 * HOUR),
        # a life that shrinks as time goes by is an end: no refresh moves it
        (grant("strict", life_told_s=5.0 * DAY, life_longest_s=10.0 * DAY, is_life_fixed=True), 30.0, None),
    ],
)
def test_a_grant_is_kept_alive_at_40_to_50_percent_of_its_idle_life(
    row: Grant, idle_days: int | None, idle_s: float | None
) -> None:
    for share, part in ((0.0, 0.4), (0.5, 0.45), (1.0, 0.5)):
        found = keep_alive_after_s(row, idle_days=idle_days, share=share)
        if idle_s is None:
            assert found is None
        elif row.life_longest_s == 600.0:
            assert found == HOUR
        else:
            assert found == pytest.approx(part * idle_s)


def test_there_is_a_keep_alive_whatever_the_profile() -> None:
    for name, profile in profiles.PROFILES.items():
        found = keep_alive_after_s(grant(name), idle_days=None, share=1.0)
        assert found is not None and found <= (profile.idle_lifetime_s or 7 * DAY) / 2


def told(row: Grant, *tells: tuple[float, float | None]) -> Grant:
    """The grant after answers that told these lives, each so many seconds after the one before."""
    now_s = 0.0
    for passed_s, life_s in tells:
        now_s += passed_s
        now = later(now_s)
        row = replace(row, **columns_of_life(row, life_s, now))
        row = replace(row, refreshed=Stamp.of(now).to_text())
    return row


@pytest.mark.parametrize(
    ("tells", "last_s", "longest_s", "is_fixed"),
    [
        ([(0.0, None)], 0.0, 0.0, False),
        ([(0.0, 1000.0)], 1000.0, 1000.0, False),
        # an idle life: each answer tells the same, or more
        ([(0.0, 1000.0), (100.0, 1000.0)], 1000.0, 1000.0, False),
        ([(0.0, 1000.0), (100.0, 2000.0)], 2000.0, 2000.0, False),
        ([(0.0, 1000.0), (100.0, None)], 1000.0, 1000.0, False),
        # an end: it comes nearer as time goes by, roughly as fast
        ([(0.0, 1000.0), (100.0, 900.0)], 900.0, 1000.0, True),
        ([(0.0, 1000.0), (100.0, 949.0)], 949.0, 1000.0, True),
        ([(0.0, 1000.0), (100.0, 800.0)], 800.0, 1000.0, True),
        ([(0.0, 1000.0), (100.0, 900.0), (100.0, 800.0)], 800.0, 1000.0, True),
        ([(0.0, 1000.0), (100.0, 900.0), (0.0, 900.0)], 900.0, 1000.0, True),
        ([(0.0, 1000.0), (100.0, 900.0), (100.0, None)], 900.0, 1000.0, True),
        # rounding, or a life that became shorter by much less than the time that passed
        ([(0.0, 1000.0), (100.0, 999.0)], 999.0, 1000.0, False),
        ([(0.0, 1000.0), (100.0, 951.0)], 951.0, 1000.0, False),
        # it grew again: no end after all
        ([(0.0, 1000.0), (100.0, 900.0), (100.0, 1000.0)], 1000.0, 1000.0, False),
        # an operator made it shorter, once: time passes and it stays as it is
        ([(0.0, 1000.0), (100.0, 500.0), (100.0, 500.0)], 500.0, 1000.0, False),
        ([(0.0, 1000.0), (100.0, 900.0), (1.9, 900.0)], 900.0, 1000.0, True),  # too soon to tell
    ],
)
def test_a_told_life_is_remembered_and_known_as_an_end_when_it_shrinks(
    tells: list[tuple[float, float | None]], last_s: float, longest_s: float, is_fixed: bool
) -> None:
    row = told(grant(), *tells)
    assert (row.life_told_s, row.life_longest_s, row.is_life_fixed) == (last_s, longest_s, is_fixed)


@pytest.mark.parametrize(
    ("profile", "is_otp", "signed_in_at", "refreshed_at", "told_s", "end"),
    [
        (ENTRA, False, T, T, 0.0, GrantEnd(T + 90 * DAY, 90.0 * DAY)),
        (ENTRA, False, T, T + 5 * DAY, 0.0, GrantEnd(T + 95 * DAY, 90.0 * DAY)),  # slides with each refresh
        (ENTRA, True, T, T, 0.0, GrantEnd(T + DAY, float(DAY))),
        (ENTRA, True, T, T + DAY // 2, 0.0, GrantEnd(T + DAY, float(DAY))),  # not established that the 24 hours slide
        (ENTRA, True, 0, T, 0.0, GrantEnd(T + 90 * DAY, 90.0 * DAY)),  # when the sign-in was is not known
        (ENTRA, False, T, 0, 0.0, None),
        (ENTRA, False, 0, 0, 0.0, None),
        (AUTH0, False, T, T, 0.0, GrantEnd(T + 30 * DAY, 30.0 * DAY)),
        (AUTH0, False, T, T + 20 * DAY, 0.0, GrantEnd(T + 30 * DAY, 30.0 * DAY)),  # absolute
        (AUTH0, False, T, 0, 0.0, GrantEnd(T + 30 * DAY, 30.0 * DAY)),
        (AUTH0, False, 0, T + 20 * DAY, 0.0, GrantEnd(T + 50 * DAY, 30.0 * DAY)),
        (STRICT, True, T, T, 0.0, None),
        (GOOGLE, False, T, T, 0.0, GrantEnd(T + 182 * DAY, 182.0 * DAY)),
        # what the provider tells counts from the answer that told it, and for more than the profile
        (STRICT, False, T, T + DAY, 10.0 * DAY, GrantEnd(T + 11 * DAY, 10.0 * DAY)),
        (ENTRA, False, T, T + DAY, 10.0 * DAY, GrantEnd(T + 11 * DAY, 10.0 * DAY)),
        (AUTH0, False, T, T + 25 * DAY, 10.0 * DAY, GrantEnd(T + 30 * DAY, 30.0 * DAY)),
    ],
)
def test_the_end_of_a_grant_is_the_earliest_that_is_known(
    profile: Profile, is_otp: bool, signed_in_at: int, refreshed_at: int, told_s: float, end: GrantEnd | None
) -> None:
    found = grant_end(profile, is_otp=is_otp, signed_in_at=signed_in_at, refreshed_at=refreshed_at, told_s=told_s)
    assert found == end


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(profiles.PROFILES)),
    SHARES,
    st.none() | st.floats(1, 400),
    st.none() | st.floats(2 * HOUR, 400 * DAY),
    st.integers(0, 10**9),
)
def test_a_kept_alive_grant_has_not_ended_yet(
    name: str, share: float, idle_days: int | None, told_s: float | None, refreshed_after_s: int
) -> None:
    row = told(grant(name), (0.0, told_s))
    after_s = keep_alive_after_s(row, idle_days=None if told_s is None else idle_days, share=share)
    assert after_s is not None
    profile = replace(profiles.PROFILES[name], absolute_lifetime_s=None)  # a fixed end comes whatever we do
    refreshed_at = T + refreshed_after_s
    end = grant_end(profile, is_otp=False, signed_in_at=T, refreshed_at=refreshed_at, told_s=row.life_told_s)
    assert end is None or refreshed_at + after_s < end.at


# -- What is due -------------------------------------------------------------------------------------------

REFRESHED = Stamp.of(NOW).to_text()
INTENT = lifecycle.Intent(Stamp.of(NOW), Stamp.of(NOW), came="page")
TOKEN = CachedToken("g", "", "openid", "Bearer", REFRESHED, 3600.0, 1, AccessToken("at"))


def in_state(state: lifecycle.GrantState, profile: str = "auth0") -> Grant:
    return replace(grant(profile, refreshed=REFRESHED), **columns_of(state))


@pytest.mark.parametrize(
    ("row", "due_s"),
    [
        (grant("entra"), 0.0),  # the first refresh proves the grant and spends the value that travelled
        (in_state(lifecycle.Refreshing(1, INTENT)), 0.0),
        (in_state(lifecycle.Uncertain(1, INTENT)), 0.0),
        (in_state(lifecycle.NeedsHandoff(1, "person", 1)), 0.0),  # refused for now: the pause keeps the pace
        (in_state(lifecycle.Locked(1, "configuration", 7)), 0.0),
        (in_state(lifecycle.NeedsHandoff(1, "uncertain")), None),
        (in_state(lifecycle.Locked(1, "rollback")), None),
        (in_state(lifecycle.Locked(1, "lease")), None),
        (in_state(lifecycle.Erased(1, "denied")), None),
        (grant("entra", refresh_token=None), None),
        (in_state(lifecycle.Held(1)), 0.4 * 30 * DAY),
        (in_state(lifecycle.Held(1), "strict"), 0.4 * 7 * DAY),
    ],
)
def test_when_a_grant_is_due_without_being_asked(row: Grant, due_s: float | None) -> None:
    found = due_in_s(row, None, NOW, asked_boot_s=None, share=0.0)
    assert found == (due_s if due_s is None else pytest.approx(due_s))


@pytest.mark.parametrize(
    ("profile", "asked_ago_s", "due_s"),
    [
        ("auth0", 0.0, 2160.0),
        ("auth0", 3600.0, 2160.0),
        ("auth0", 3601.0, 0.4 * 30 * DAY),  # nobody cares: the keep-alive alone
        ("auth0", None, 0.4 * 30 * DAY),
        ("strict", 0.0, 0.4 * 7 * DAY),  # no leeway: a keep-alive is worth the risk, a fresh token is not
    ],
)
def test_a_program_that_asks_is_served_ahead_of_the_end(profile: str, asked_ago_s: float | None, due_s: float) -> None:
    asked_boot_s = None if asked_ago_s is None else NOW.boot_s - asked_ago_s
    row = in_state(lifecycle.Held(1), profile)
    assert due_in_s(row, TOKEN, NOW, asked_boot_s=asked_boot_s, share=0.0) == pytest.approx(due_s)
    assert due_in_s(row, TOKEN, later(60.0), asked_boot_s=asked_boot_s, share=0.0) == pytest.approx(
        due_s - 60.0 if asked_ago_s != 3600.0 else 0.4 * 30 * DAY - 60.0
    )


def test_an_end_that_no_refresh_moves_is_not_worked_against() -> None:
    row = replace(in_state(lifecycle.Held(1)), is_life_fixed=True)
    assert due_in_s(row, None, NOW, asked_boot_s=None, share=0.0) is None
    assert due_in_s(row, TOKEN, NOW, asked_boot_s=NOW.boot_s, share=0.0) == pytest.approx(2160.0)


def test_a_restart_without_a_clock_does_not_make_the_keep_alive_due() -> None:
    lost = Now("boot-b", 5.0, 0.0, is_synced=False)
    assert due_in_s(in_state(lifecycle.Held(1)), None, lost, asked_boot_s=None, share=0.0) is None
