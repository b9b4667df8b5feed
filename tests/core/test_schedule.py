"""When to refresh unasked and how long to pause: tables by hand, and the bounds that randomness cannot leave."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from token_relay.agents.grants.schedule import backoff_s, grant_ends_at, keep_alive_after_s, proactive_at_s
from token_relay.provider.profile import AUTH0, ENTRA, STRICT, Profile

DAY = 86_400
SHARES = st.floats(0.0, 1.0)
PROFILES = st.sampled_from([ENTRA, AUTH0, STRICT])


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
    ("profile", "is_otp", "after_s"),
    [
        (ENTRA, False, 45 * DAY),
        (ENTRA, True, DAY / 2),  # 24 hours after a sign-in by e-mail code
        (AUTH0, False, 15 * DAY),
        (AUTH0, True, 15 * DAY),
        (STRICT, False, None),
        (STRICT, True, None),
    ],
)
def test_a_grant_is_kept_alive_at_half_of_its_idle_lifetime(
    profile: Profile, is_otp: bool, after_s: float | None
) -> None:
    assert keep_alive_after_s(profile, is_otp=is_otp) == after_s


T = 1_700_000_000


@pytest.mark.parametrize(
    ("profile", "is_otp", "signed_in_at", "refreshed_at", "ends_at"),
    [
        (ENTRA, False, T, T, T + 90 * DAY),
        (ENTRA, False, T, T + 5 * DAY, T + 95 * DAY),  # slides with each refresh
        (ENTRA, True, T, T, T + DAY),
        (ENTRA, True, T, T + DAY // 2, T + DAY),  # whether the 24 hours slide is not established
        (ENTRA, True, 0, T, T + 90 * DAY),  # when the sign-in was is not known
        (ENTRA, False, T, 0, None),
        (ENTRA, False, 0, 0, None),
        (AUTH0, False, T, T, T + 30 * DAY),
        (AUTH0, False, T, T + 20 * DAY, T + 30 * DAY),  # absolute
        (AUTH0, False, T, 0, T + 30 * DAY),
        (AUTH0, False, 0, T + 20 * DAY, T + 50 * DAY),
        (STRICT, True, T, T, None),
    ],
)
def test_the_end_of_a_grant_is_the_earliest_that_is_known(
    profile: Profile, is_otp: bool, signed_in_at: int, refreshed_at: int, ends_at: int | None
) -> None:
    found = grant_ends_at(profile, is_otp=is_otp, signed_in_at=signed_in_at, refreshed_at=refreshed_at)
    assert found == ends_at


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PROFILES, st.booleans(), st.integers(1, 2**40), st.integers(0, 10**9))
def test_a_kept_alive_grant_has_not_ended_yet(profile: Profile, is_otp: bool, signed_in_at: int, later: int) -> None:
    refreshed_at = signed_in_at + later
    after_s = keep_alive_after_s(profile, is_otp=is_otp)
    if after_s is None or is_otp or profile.absolute_lifetime_s is not None:
        return  # a fixed end comes whatever we do
    ends_at = grant_ends_at(profile, is_otp=is_otp, signed_in_at=signed_in_at, refreshed_at=refreshed_at)
    assert ends_at is not None
    assert refreshed_at + after_s < ends_at
