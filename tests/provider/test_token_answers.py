"""Every documented answer of a token endpoint means what RFC 6749 and the providers' pages say it means."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.provider.provider_kit import CORRELATION_ID, GOOD, MARK, TRACE_ID, assert_no_secret, entra_error, response
from token_relay.protocol.secret import AccessToken, IdToken, RefreshToken
from token_relay.provider.http import AnswerLost, HttpResponse, NotSent
from token_relay.provider.oauth import classify
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, Unavailable
from token_relay.provider.profile import AUTH0, ENTRA, PROFILES, STRICT, Profile

NEW = RefreshToken(f"{MARK}-rt-1")


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name not in names}


# -- Success -----------------------------------------------------------------------------------------------


def test_a_full_answer_is_taken_over() -> None:
    outcome = classify(STRICT, response(200, GOOD | {"refresh_token_expires_in": 86400}))
    assert outcome == Refreshed(
        NEW,
        AccessToken(f"{MARK}.at.1"),
        token_type="Bearer",
        expires_in_s=4141.0,
        scope="openid profile",
        id_token=IdToken(f"{MARK}.id.1"),
        refresh_token_expires_in_s=86400.0,
    )


def test_without_a_refresh_token_the_access_token_is_still_good() -> None:
    outcome = classify(ENTRA, response(200, without("refresh_token")))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token is None
    assert outcome.access_token is not None
    assert outcome.problem == ""


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_refresh_token_counts_as_absent(empty: object) -> None:
    outcome = classify(ENTRA, response(200, GOOD | {"refresh_token": empty}))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token is None


@pytest.mark.parametrize(
    ("spoiled", "field"),
    [
        ({"access_token": None}, "access_token"),
        ({"access_token": ""}, "access_token"),
        ({"access_token": 7}, "access_token"),
        ({"access_token": "two words"}, "access_token"),
        ({"access_token": "line\r\nX-Injected: 1"}, "access_token"),
        ({"access_token": "x" * 16_385}, "access_token"),
        ({"token_type": "DPoP"}, "token_type"),
        ({"token_type": "N_A"}, "token_type"),
        ({"token_type": None}, "token_type"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": [3600]}, "expires_in"),
        ({"expires_in": float("nan")}, "expires_in"),
        ({"scope": ["a", "b"]}, "scope"),
        ({"scope": 'a"b'}, "scope"),
        ({"scope": "x" * 4_097}, "scope"),
    ],
)
def test_a_refresh_token_is_kept_however_bad_the_rest_is(spoiled: dict[str, object], field: str) -> None:
    outcome = classify(STRICT, response(200, GOOD | spoiled))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token == NEW
    assert outcome.access_token is None
    assert field in outcome.problem
    assert_no_secret(outcome)
    # … and without one it is unknown whether the old token lives.
    assert isinstance(classify(STRICT, response(200, without("refresh_token") | spoiled)), OutcomeUnknown)


@pytest.mark.parametrize("name", ["access_token", "token_type"])
def test_a_missing_required_field_is_a_problem_that_names_it(name: str) -> None:
    outcome = classify(STRICT, response(200, without(name)))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token == NEW
    assert outcome.access_token is None
    assert outcome.problem == f"{name} missing, malformed or unusable"


@pytest.mark.parametrize("spelling", ["Bearer", "bearer", "BEARER"])
def test_token_type_is_bearer_in_any_case(spelling: str) -> None:
    outcome = classify(STRICT, response(200, GOOD | {"token_type": spelling}))
    assert isinstance(outcome, Refreshed)
    assert outcome.token_type == "Bearer"


@pytest.mark.parametrize(
    ("said", "expected_s"),
    [(3600, 3600.0), ("3600", 3600.0), (3599.5, 3599.5), (10**30, 2_592_000.0), (1e308, 2_592_000.0), (None, 300.0)],
)
def test_expires_in_is_read_leniently_and_capped(said: object, expected_s: float) -> None:
    outcome = classify(STRICT, response(200, GOOD | {"expires_in": said}))
    assert isinstance(outcome, Refreshed)
    assert outcome.expires_in_s == expected_s


def test_an_absent_expires_in_means_five_minutes() -> None:
    outcome = classify(STRICT, response(200, without("expires_in")))
    assert isinstance(outcome, Refreshed)
    assert outcome.expires_in_s == 300.0


@pytest.mark.parametrize("spoiled", [{"id_token": 7}, {"refresh_token_expires_in": "x"}, {"id_token": None}])
def test_malformed_side_fields_cost_nothing(spoiled: dict[str, object]) -> None:
    outcome = classify(STRICT, response(200, GOOD | spoiled))
    assert isinstance(outcome, Refreshed)
    assert outcome.problem == ""
    assert outcome.access_token is not None


def test_a_key_that_comes_twice_spoils_the_answer_but_not_the_refresh_token() -> None:
    body = json.dumps(GOOD)[:-1].encode() + b', "access_token": "other"}'
    outcome = classify(STRICT, response(200, body))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token == NEW
    assert outcome.access_token is None
    assert outcome.problem == "a key came twice"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<!doctype html><p>hello",
        b'{"refresh_token": "cut',
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b"[" * 100_000,
        b'{"refresh_token": 7, "access_token": "a", "token_type": "Bearer"}',
        b'{"refresh_token": "\\ud800", "access_token": "a", "token_type": "Bearer"}',
        b'{"refresh_token": "' + b"x" * 16_385 + b'"}',
        b'{"expires_in": ' + b"9" * 5_000 + b"}",
        b"\xff\xfe\xfd",
        b'{"error": "invalid_grant"}',
        b'{"challenge_type": "redirect"}',
    ],
)
def test_a_success_that_cannot_be_read_is_unknown(body: bytes) -> None:
    assert isinstance(classify(STRICT, response(200, body)), OutcomeUnknown)


# -- The provider says no ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
@pytest.mark.parametrize("profile", [ENTRA, AUTH0, STRICT])
def test_invalid_grant_is_final_with_any_4xx(profile: Profile, status: int) -> None:
    body = {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."}
    assert classify(profile, response(status, body)) == Denied("final", "invalid_grant")


@pytest.mark.parametrize("code", [700082, 70008, 700084, 70043, 50173, 50132, 50133, 70000, 50057, 50034])
def test_entras_dead_token_codes_are_final(code: int) -> None:
    outcome = classify(ENTRA, response(400, entra_error("invalid_grant", code)))
    assert outcome == Denied("final", "invalid_grant", codes=(code,), trace_id=TRACE_ID, correlation_id=CORRELATION_ID)


@pytest.mark.parametrize("code", [50053, 50196, 50033, 90006, 90012, 90024, 90033])
def test_entras_passing_codes_keep_the_token(code: int) -> None:
    outcome = classify(ENTRA, response(400, entra_error("invalid_grant", code), {"retry-after": "30"}))
    assert isinstance(outcome, Denied)
    assert (outcome.kind, outcome.retry_after_s) == ("temporary", 30.0)
    other = classify(STRICT, response(400, entra_error("invalid_grant", code)))
    assert isinstance(other, Denied)
    assert other.kind == "final"  # the numbers mean something at Entra only


@pytest.mark.parametrize("code", [50055, 50072, 50074, 50076, 50078, 50079, 50142, 53000, 53003, 530032, 65001])
@pytest.mark.parametrize("error", ["invalid_grant", "interaction_required", "invalid_request"])
def test_entras_person_codes_ask_for_the_person(error: str, code: int) -> None:
    outcome = classify(ENTRA, response(400, entra_error(error, code)))
    assert isinstance(outcome, Denied)
    assert outcome.kind == "person"


def test_a_code_in_the_description_counts_when_there_is_no_list() -> None:
    body = entra_error("invalid_grant", 50076)
    del body["error_codes"], body["trace_id"], body["correlation_id"]
    outcome = classify(ENTRA, response(400, body))
    assert outcome == Denied(
        "person", "invalid_grant", codes=(50076,), trace_id=TRACE_ID, correlation_id=CORRELATION_ID
    )


@pytest.mark.parametrize(
    "error", ["interaction_required", "consent_required", "login_required", "access_denied", "mfa_required"]
)
@pytest.mark.parametrize("status", [400, 401, 403])
def test_what_only_a_person_can_settle(error: str, status: int) -> None:
    assert classify(AUTH0, response(status, {"error": error})) == Denied("person", error)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, "invalid_client"),
        (400, "unauthorized_client"),
        (400, "invalid_scope"),
        (400, "unsupported_grant_type"),
        (400, "invalid_request"),
        (400, "something_new"),
    ],
)
def test_a_fault_of_the_setting_keeps_the_token(status: int, error: str) -> None:
    assert classify(STRICT, response(status, {"error": error})) == Denied("configuration", error)


def test_an_error_with_a_key_twice_is_no_proof_of_denial() -> None:
    body = b'{"error": "invalid_request", "error": "invalid_grant"}'
    assert isinstance(classify(STRICT, response(400, body)), OutcomeUnknown)


def test_a_providers_text_never_comes_through() -> None:
    body = {
        "error": f"\x1b[31m{MARK}",
        "suberror": f"{MARK} here",
        "error_description": MARK,
        "error_codes": [MARK, -5, True, 1.5, 10**12, 42],
        "trace_id": MARK,
        "correlation_id": {"a": MARK},
    }
    outcome = classify(STRICT, response(400, body))
    assert outcome == Denied("configuration", "unrecognised_error", suberror="unrecognised_error", codes=(42,))
    assert_no_secret(outcome)


# -- Nobody answered properly ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "retry_after", "expected_s"),
    [
        (429, b"slow down", None, None),
        (429, b"slow down", "120", 120.0),
        (429, b'{"error": "too_many_requests"}', "5", 5.0),
        (429, b'{"error": "something_new"}', "5", 5.0),
        (503, b"<html>", "10", 10.0),
        (503, b'{"error": "temporarily_unavailable"}', None, None),
        (400, b'{"error": "temporarily_unavailable"}', "7", 7.0),
        (400, b'{"error": "temporarily_unavailable", "error_codes": [90055]}', None, None),
        (429, b"", "999999999999", 3600.0),
        (429, b"", "-5", None),
        (429, b"", "5 minutes", None),
    ],
)
def test_what_was_certainly_not_processed(
    status: int, body: bytes, retry_after: str | None, expected_s: float | None
) -> None:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    outcome = classify(STRICT, response(status, body, headers))
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_s == expected_s


@pytest.mark.parametrize(
    ("until", "now", "expected_s"),
    [
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:29:00 GMT", 0.0),
        ("Wed, 21 Oct 2027 07:28:00 GMT", "Wed, 21 Oct 2026 07:29:00 GMT", 3600.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "", 60.0),
    ],
)
def test_a_retry_after_date_is_measured_by_the_answers_own_date(until: str, now: str, expected_s: float) -> None:
    outcome = classify(STRICT, response(503, b"", {"retry-after": until, "date": now}))
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_s == expected_s


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (500, b'{"error": "server_error"}'),
        (500, b'{"error": "invalid_grant"}'),
        (500, b'{"error": "temporarily_unavailable"}'),
        (400, b'{"error": "server_error"}'),
        (502, b"<html>bad gateway"),
        (503, b""),
        (504, b""),
        (302, b""),
        (307, b'{"error": "invalid_grant"}'),
        (400, b"<html>"),
        (400, b'{"error": "invalid_gr'),
        (400, b'{"error": 7}'),
        (404, b""),
        (407, b"proxy"),
        (408, b""),
    ],
)
def test_everything_else_is_unknown(status: int, body: bytes) -> None:
    assert isinstance(classify(ENTRA, response(status, body)), OutcomeUnknown)


def test_not_sent_and_lost_keep_their_difference() -> None:
    assert classify(STRICT, NotSent("no route")) == Unavailable("no route")
    assert classify(STRICT, AnswerLost("reset")) == OutcomeUnknown("reset")


# -- Whatever comes ----------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        *GOOD,
        "error",
        "suberror",
        "error_codes",
        "error_description",
        "trace_id",
        "continuation_token",
        "refresh_token_expires_in",
    ]
)
objects = st.dictionaries(fields, json_values | st.sampled_from(["Bearer", "invalid_grant", "x"]))
bodies = st.binary(max_size=200) | objects.map(lambda value: json.dumps(value).encode())
header_values = st.text(max_size=40) | st.sampled_from(["10", "Wed, 21 Oct 2026 07:28:00 GMT"])


# How fast examples are made says something about the machine, nothing about the code.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(
    profile=st.sampled_from(list(PROFILES.values())),
    status=st.integers(100, 599),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date"]), header_values),
    body=bodies,
)
def test_no_answer_makes_classify_raise(profile: Profile, status: int, headers: dict[str, str], body: bytes) -> None:
    outcome = classify(profile, HttpResponse(status, headers, body))
    match outcome:
        case Refreshed():
            assert (outcome.access_token is None) == bool(outcome.problem)
            assert outcome.access_token or outcome.refresh_token
            assert 0 <= outcome.expires_in_s <= 2_592_000
        case Denied() | Unavailable():
            assert outcome.retry_after_s is None or 0 <= outcome.retry_after_s <= 3600
        case OutcomeUnknown():
            assert outcome.reason.isprintable()


@unhurried
@given(rest=st.dictionaries(fields.filter(lambda name: name != "refresh_token"), json_values))
def test_no_success_loses_its_refresh_token(rest: dict[str, object]) -> None:
    outcome = classify(STRICT, response(200, rest | {"refresh_token": f"{MARK}-rt-1"}))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token == NEW
