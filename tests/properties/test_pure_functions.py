"""Nothing but a value or a declared error comes out of the pure rooms; `tests/fuzz` has those that decode."""

from __future__ import annotations

import math
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants import lifecycle, schedule
from token_relay.agents.ports import Now
from token_relay.pki.certificates import check_host, parse_csr
from token_relay.protocol.delivery import (
    RESEND_IDLE_S,
    PeerNumbers,
    peer_is_rolled_back,
    resend_delay_s,
    we_are_rolled_back,
)
from token_relay.protocol.errors import LocalError, VaultError
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.oauth import find_retry_after_s
from token_relay.provider.outcome import DenialKind, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import PROFILES, profile_for

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NOWS = st.builds(Now, st.sampled_from(["one", "two"]), FLOATS, FLOATS, st.booleans())


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[a-z]{1,4} -?[0-9.e+-]{1,30} -?[0-9.e+-]{1,30} [su]")))
def test_a_stored_moment_is_read_or_refused_as_damaged(text: str) -> None:
    try:
        stamp = Stamp.from_text(text)
    except VaultError:
        return
    assert Stamp.from_text(stamp.to_text()) == stamp


@given(NOWS, NOWS)
def test_elapsed_time_is_never_negative(then: Now, now: Now) -> None:
    elapsed = elapsed_s(Stamp.of(then), now)
    assert elapsed is None or elapsed >= 0


@given(st.text(max_size=60))
def test_a_retry_after_is_a_bounded_number_or_nothing(text: str) -> None:
    found = find_retry_after_s({"retry-after": text})
    assert found is None or (found >= 0 and math.isfinite(found))


@given(st.text(max_size=80))
def test_a_host_is_taken_or_refused_with_a_local_error(text: str) -> None:
    try:
        check_host(text)
    except LocalError:
        pass


@given(st.binary(max_size=400).map(lambda body: b"-----BEGIN CERTIFICATE REQUEST-----\n" + body))
def test_a_certificate_request_is_taken_or_refused_with_a_local_error(data: bytes) -> None:
    try:
        parse_csr(data)
    except LocalError:
        pass


@given(st.integers(0, 10**6), st.floats(0, 1e9))
def test_a_resend_delay_is_bounded(attempts: int, age_s: float) -> None:
    assert 0 < resend_delay_s(attempts=attempts, age_s=age_s) <= RESEND_IDLE_S


@given(st.integers(0, 10**6), st.floats(0, 1), st.none() | st.floats(0, 1e6))
def test_a_pause_is_at_least_what_the_provider_asked_for(failures: int, share: float, asked: float | None) -> None:
    assert schedule.backoff_s(failures=failures, share=share, retry_after_s=asked) >= (asked or 0.0)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_no_honest_pair_of_disks_sees_a_rollback(seq: int, sent: int, accepted: int, ours: int, late: int) -> None:
    """A peer that forgot nothing claims at least what we know of it, and no more than we sent."""
    claim = PeerNumbers(seq + sent, seq + sent, min(accepted, ours))
    high = min(late, seq + sent - 1)
    assert not peer_is_rolled_back(claim, high=high, peer_accepted=min(accepted, ours))
    assert not we_are_rolled_back(claim, seq_sent=ours)


DENIALS: tuple[DenialKind, ...] = ("final", "temporary", "person", "client", "request")
OUTCOMES: tuple[TokenOutcome, ...] = (
    Refreshed(None, AccessToken("a"), "Bearer", 60.0, ""),
    Refreshed(RefreshToken("r"), AccessToken("a"), "Bearer", 60.0, ""),
    *(Denied(kind, "invalid_grant") for kind in DENIALS),
    Unavailable("busy"),
    OutcomeUnknown("timeout"),
    OutcomeUnknown("503 text/html", came="page"),
)


def test_every_outcome_in_every_state_of_a_refresh_comes_to_something_known() -> None:
    now = Now("boot", 10.0, 0.0, is_synced=False)
    for profile, outcome, attempts, late in product(PROFILES.values(), OUTCOMES, (1, 2, 3), (0, 1)):
        intent = lifecycle.Intent(Stamp.of(now), attempts, late)
        after = lifecycle.settle_refresh(lifecycle.Refreshing(1, intent), outcome, profile)
        assert lifecycle.keeps_refresh_token(after) in (True, False)
        assert lifecycle.serves_access_tokens(after) in (True, False)
        again = lifecycle.begin_refresh(after, profile, now, access_token_ends_in_s=None)
        if not lifecycle.keeps_refresh_token(after):
            assert isinstance(again, lifecycle.Stop)  # no request with a token that is erased


@settings(deadline=None)
@given(st.text(max_size=80))
def test_an_unknown_issuer_counts_as_strict_whatever_it_looks_like(text: str) -> None:
    assert profile_for("https://x.example/" + text.replace("\\", "")).name in PROFILES
