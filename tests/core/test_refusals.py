"""What is remembered of a request that was refused alone: how long, for whom, and when it is forgotten."""

from __future__ import annotations

import pytest

from token_relay.agents.grants.refusals import Refusals
from token_relay.agents.ports import Now
from token_relay.agents.token_source import TokenRefused
from token_relay.provider.outcome import Denied

KEY = ("grant-1", "openid", "")
REFUSED = Denied("request", "invalid_scope")


def at(boot_s: float) -> Now:
    return Now("boot", boot_s, 1_700_000_000.0 + boot_s, is_synced=True)


def refused(times: int, now_s: float = 0.0) -> Refusals:
    refusals = Refusals(lambda: "hand off")
    for _ in range(times):
        refusals.note(KEY, REFUSED, at(now_s))
    return refusals


@pytest.mark.parametrize(("times", "seconds"), [(1, 600), (2, 1200), (3, 2400), (6, 19_200), (7, 21_600), (99, 21_600)])
def test_a_refusal_is_remembered_for_ten_minutes_doubling_to_six_hours(times: int, seconds: float) -> None:
    refusals = refused(times)
    for has_worked in (True, False):  # that it worked once makes no difference while the refusal stands
        answer = refusals.admit(KEY, at(seconds - 1.0), has_worked=has_worked)
        assert isinstance(answer, TokenRefused) and (answer.error, answer.retry_after_s) == ("refused", 1.0)
        assert refusals.admit(KEY, at(seconds), has_worked=has_worked) is None


def test_what_worked_is_refused_for_ten_minutes_again() -> None:
    refusals = refused(3)
    refusals.forget(KEY)
    assert refusals.get(KEY, at(0.0)) is None
    refusals.note(KEY, REFUSED, at(0.0))
    assert refusals.get(KEY, at(599.0)) is not None and refusals.get(KEY, at(600.0)) is None


@pytest.mark.parametrize(
    ("key", "has_worked", "waits"),
    [
        (("grant-1", "profile", ""), False, True),
        (("grant-1", "openid", '{"access_token":{}}'), False, True),
        (("grant-1", "profile", ""), True, False),
        (("grant-2", "openid", ""), False, False),
    ],
)
def test_for_a_minute_only_what_has_worked_is_asked_of_the_same_grant(
    key: tuple[str, str, str], has_worked: bool, waits: bool
) -> None:
    refusals = refused(1)
    answer = refusals.admit(key, at(59.0), has_worked=has_worked)
    assert (answer is not None) == waits
    if answer is not None:
        assert (answer.error, answer.retry_after_s) == ("busy", 1.0)
    assert refusals.admit(key, at(60.0), has_worked=has_worked) is None


def test_the_wait_names_what_was_refused_and_what_to_do() -> None:
    refusals = Refusals(lambda: "hand off")
    refusals.note(KEY, REFUSED, at(0.0))
    refusals.note(("grant-1", "", "{}"), Denied("person", "interaction_required"), at(0.0))
    scope, claims = refusals.get(KEY, at(1.0)), refusals.get(("grant-1", "", "{}"), at(1.0))
    assert scope is not None and (scope.detail, scope.action) == (
        "the provider refuses this scope: invalid_scope",
        "ask without this scope",
    )
    assert claims is not None and "the person for these claims" in claims.detail and claims.action == "hand off"
