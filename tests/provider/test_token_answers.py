"""Every documented answer of a token endpoint means what RFC 6749 and the providers' pages say it means."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from tests.provider.provider_kit import CORRELATION_ID, GOOD, MARK, TRACE_ID, assert_no_secret, entra_error, response
from token_relay.protocol.secret import AccessToken, IdToken, RefreshToken
from token_relay.provider.http import AnswerLost, HttpResponse, NotSent
from token_relay.provider.oauth import classify
from token_relay.provider.outcome import DenialKind, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import AUTH0, ENTRA, PROFILES, STRICT, Profile

ANSWERS = Path(__file__).parent / "answers"
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


@pytest.mark.parametrize("empty", ["", None, False, [], {}])
def test_an_empty_refresh_token_counts_as_absent(empty: object) -> None:
    outcome = classify(ENTRA, response(200, GOOD | {"refresh_token": empty}))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token is None


@pytest.mark.parametrize("value", [None, "", 7, "two words", "line\r\nX-Injected: 1", "x" * 16_385])
def test_a_refresh_token_is_kept_however_bad_the_access_token_is(value: object) -> None:
    outcome = classify(STRICT, response(200, GOOD | {"access_token": value}))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token == NEW
    assert outcome.access_token is None
    assert outcome.problem.startswith("access_token ")
    assert_no_secret(outcome)


@pytest.mark.parametrize("value", [None, "", 7, ["a"], {}])
def test_without_any_token_it_is_unknown_whether_the_old_one_lives(value: object) -> None:
    outcome = classify(STRICT, response(200, without("refresh_token") | {"access_token": value}))
    assert outcome == OutcomeUnknown("200 no media type: no token in it", "page")


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
    assert (outcome.problem, outcome.note) == ("", "")
    assert outcome.access_token is not None


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
        b'{"challenge_type": "redirect"}',
    ],
)
def test_a_success_that_cannot_be_read_is_unknown(body: bytes) -> None:
    assert isinstance(classify(STRICT, response(200, body)), OutcomeUnknown)


# -- The provider says no ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
@pytest.mark.parametrize("profile", [AUTH0, STRICT])
def test_invalid_grant_is_final_with_any_4xx(profile: Profile, status: int) -> None:
    body = {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."}
    assert classify(profile, response(status, body)) == Denied("final", "invalid_grant")


@pytest.mark.parametrize("code", [700082, 70008, 700084, 70043, 50173, 50132, 50133, 70000])
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


@pytest.mark.parametrize(
    "code",
    [
        *(50055, 50072, 50074, 50076, 50078, 50079, 50142, 53000, 53003, 530032, 65001),
        *(50034, 50057, 50097, 50131, 50144, 50158, 53001, 53002, 530003),
        999999,  # one of tomorrow
    ],
)
@pytest.mark.parametrize("error", ["invalid_grant", "interaction_required"])
def test_any_other_code_of_entra_is_for_the_person(error: str, code: int) -> None:
    for suberror in ("", "basic_action", "message_only"):
        outcome = classify(ENTRA, response(400, entra_error(error, code, suberror=suberror)))
        assert isinstance(outcome, Denied)
        assert outcome.kind == "person"


def test_a_code_in_the_description_counts_when_there_is_no_list() -> None:
    for code, kind in ((50076, "person"), (700082, "final")):
        body = entra_error("invalid_grant", code)
        del body["error_codes"], body["trace_id"], body["correlation_id"]
        outcome = classify(ENTRA, response(400, body))
        assert isinstance(outcome, Denied)
        assert (outcome.kind, outcome.codes, outcome.trace_id) == (kind, (code,), TRACE_ID)
        assert outcome.correlation_id == CORRELATION_ID


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        ("client", "invalid_client unauthorized_client unsupported_grant_type use_dpop_nonce invalid_dpop_proof"),
        ("request", "invalid_scope invalid_target invalid_request insufficient_scope"),
        ("person", "access_denied account_selection_required consent_required interaction_required login_required"),
        ("person", "mfa_required expired_token bad_refresh_token something_new"),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("profile", [ENTRA, AUTH0, STRICT])
def test_what_another_error_means(profile: Profile, kind: DenialKind, errors: str, status: int) -> None:
    for error in errors.split():
        assert classify(profile, response(status, {"error": error})) == Denied(kind, error)


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
    assert outcome == Denied("person", "unrecognised_error", suberror="unrecognised_error", codes=(42,))
    assert_no_secret(outcome)


# -- Nobody answered properly ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "retry_after", "expected_s"),
    [
        (429, b"slow down", None, None),
        (429, b"slow down", "120", 120.0),
        (429, b'{"error": "too_many_requests"}', "5", 5.0),
        (429, b'{"error": "something_new"}', "5", 5.0),
        (429, b'{"error": "invalid_client"}', "5", 5.0),
        (429, b"invalid_grant", None, None),
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
    for status, kind in ((429, Unavailable), (503, OutcomeUnknown)):
        outcome = classify(STRICT, response(status, b"", {"retry-after": until, "date": now}))
        assert isinstance(outcome, kind)
        assert outcome.retry_after_s == expected_s


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (500, b'{"error": "temporarily_unavailable"}'),
        (502, b'{"error": "slow_down"}'),
        (400, b'{"error": 7}'),
        (400, b'{"error": ""}'),
        (404, b""),
        (101, b""),
        (600, b'{"error": "invalid_grant"}'),
    ],
)
def test_everything_else_is_a_page(status: int, body: bytes) -> None:
    outcome = classify(ENTRA, response(status, body))
    assert isinstance(outcome, OutcomeUnknown)
    assert outcome.came == "page"
    assert outcome.reason.startswith(f"{status} ")


def test_not_sent_and_lost_keep_their_difference() -> None:
    assert classify(STRICT, NotSent("no route")) == Unavailable("no route")
    assert classify(STRICT, AnswerLost("reset")) == OutcomeUnknown("reset", came="lost")


# -- Answers of the field ----------------------------------------------------------------------------------


class Answer(BaseModel):
    """One answer of the data files, and what must be made of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    profile: str = "strict"
    status: int
    type: str = "application/json"
    charset: str = "utf-8"
    headers: dict[str, str] = {}
    body: str
    expect: str = "page"
    error: str = ""
    reason: str = ""
    retry_after_s: float | None = None
    has_refresh_token: bool = True
    scope: str = ""
    expires_in_s: float = 0.0
    life_s: float | None = None
    problem: str = ""
    note: str = ""

    def outcome(self) -> TokenOutcome:
        """Let the answer be judged."""
        headers = self.headers | ({"content-type": self.type} if self.type else {})
        body = re.sub("@([0-9]+)@", lambda found: "x" * int(found[1]), self.body).encode(self.charset)
        return classify(PROFILES[self.profile], HttpResponse(self.status, headers, body))


def answers_of(file: str, *, status: int) -> list[pytest.ParameterSet]:
    rows = tomllib.loads((ANSWERS / f"{file}.toml").read_text())["answer"]
    answers = [Answer.model_validate({"status": status, **row}) for row in rows]
    assert len({answer.name for answer in answers}) == len(answers)
    return [pytest.param(answer, id=answer.name) for answer in answers]


@pytest.mark.parametrize("answer", answers_of("successes", status=200))
def test_an_odd_field_never_withholds_a_token(answer: Answer) -> None:
    outcome = answer.outcome()
    assert isinstance(outcome, Refreshed)
    assert (outcome.access_token is not None) == (answer.expect == "served")
    assert (outcome.refresh_token is not None) == answer.has_refresh_token
    assert (outcome.problem, outcome.note) == (answer.problem, answer.note)
    assert (outcome.scope, outcome.expires_in_s) == (answer.scope, answer.expires_in_s)
    assert outcome.refresh_token_expires_in_s == answer.life_s


@pytest.mark.parametrize("answer", answers_of("verdicts", status=400))
def test_a_verdict_is_read_where_it_is_one(answer: Answer) -> None:
    outcome = answer.outcome()
    if answer.expect == "unavailable":
        assert isinstance(outcome, Unavailable)
    else:
        assert isinstance(outcome, Denied)
        assert (outcome.kind, outcome.error) == (answer.expect, answer.error)


@pytest.mark.parametrize("answer", answers_of("pages", status=400))
def test_a_page_is_no_verdict_and_says_what_came(answer: Answer) -> None:
    assert answer.outcome() == OutcomeUnknown(answer.reason, "page", answer.retry_after_s)


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


media_types = st.sampled_from(["", "application/json", "text/html", "application/xhtml+xml", "text/plain", "\x1b[31m"])
headers_said = st.fixed_dictionaries(
    {"content-type": media_types}, optional={"retry-after": header_values, "date": header_values}
)

# How fast examples are made says something about the machine, nothing about the code.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(
    profile=st.sampled_from(list(PROFILES.values())), status=st.integers(100, 599), headers=headers_said, body=bodies
)
def test_no_answer_makes_classify_raise(profile: Profile, status: int, headers: dict[str, str], body: bytes) -> None:
    outcome = classify(profile, HttpResponse(status, headers, body))
    match outcome:
        case Refreshed():
            assert 200 <= status < 300
            assert (outcome.access_token is None) == bool(outcome.problem)
            assert 0 <= outcome.expires_in_s <= 2_592_000
        case Denied():
            assert 200 <= status < 300 or 400 <= status < 500
            assert "html" not in headers["content-type"]
            assert outcome.kind != "final" or outcome.error == "invalid_grant"
        case Unavailable():
            assert status in (429, 503) or 200 <= status < 300 or 400 <= status < 500
        case OutcomeUnknown():
            assert outcome.came == "page"
            assert outcome.reason.startswith(f"{status} ")
            assert outcome.reason.isprintable() and len(outcome.reason) < 128
    if not isinstance(outcome, Refreshed):
        assert outcome.retry_after_s is None or 0 <= outcome.retry_after_s <= 3600


refusals = st.fixed_dictionaries(
    {"error": st.sampled_from(["invalid_grant", "invalid_client", "access_denied", "made_up"])},
    optional={"suberror": st.sampled_from(["bad_token", "basic_action"]), "error_codes": st.just([700082])},
)


@unhurried
@given(
    profile=st.sampled_from(list(PROFILES.values())),
    status=st.integers(300, 399) | st.integers(500, 599) | st.just(0),
    html=st.sampled_from(["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml", " text/html , a/b"]),
    body=refusals,
)
def test_no_front_door_can_deny(profile: Profile, status: int, html: str, body: dict[str, object]) -> None:
    """Neither a redirect nor a 5xx with a verdict in it, nor a 4xx or 2xx that calls itself a page."""
    if status:
        assert isinstance(classify(profile, response(status, body)), OutcomeUnknown)
    for said in (200, 400, 401, 403, 404):
        assert isinstance(classify(profile, response(said, body, {"content-type": html})), OutcomeUnknown)


@unhurried
@given(rest=st.dictionaries(fields.filter(lambda name: name != "refresh_token"), json_values), headers=headers_said)
@example(rest={"error": ""}, headers={})
def test_no_success_loses_its_refresh_token(rest: dict[str, object], headers: dict[str, str]) -> None:
    is_error = isinstance(rest.get("error"), str) and rest["error"] != ""
    has_access_token = isinstance(rest.get("access_token"), str) and rest["access_token"] != ""
    assume(has_access_token or not is_error)  # an error object may name its fields: that is a sentence, no token
    outcome = classify(STRICT, response(200, rest | {"refresh_token": f"{MARK}-rt-1"}, headers))
    assert isinstance(outcome, Refreshed)
    assert outcome.refresh_token == NEW


@unhurried
@given(
    rest=st.dictionaries(fields.filter(lambda name: name not in ("access_token", "token_type")), json_values),
    status=st.integers(200, 299),
    headers=headers_said,
)
def test_no_success_withholds_its_access_token(rest: dict[str, object], status: int, headers: dict[str, str]) -> None:
    rest = {name: value for name, value in rest.items() if name != "refresh_token" or value is None}
    outcome = classify(STRICT, response(status, rest | {"access_token": f"{MARK}.at"}, headers))
    assert isinstance(outcome, Refreshed)
    assert outcome.access_token == AccessToken(f"{MARK}.at")
    assert outcome.expires_in_s > 0
