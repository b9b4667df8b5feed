"""Version 2 of the native API (preview), as a client that follows links meets it."""

from __future__ import annotations

import pytest

from tests.sandbox.native_kit import (
    AUTHORITY,
    JSON,
    MFA_USER,
    NEW_PASSWORD,
    OTP_USER,
    PASSWORD_USER,
    PREVERIFIED_USER,
    REGISTER_USER,
    RESET_USER,
    SMS,
    Journey,
    claims_of,
    other_code,
)
from token_relay.sandbox.provider.http_values import BODY_BYTES_MAX
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD

BAD_TOKEN = ("invalidRequest", "invalidContinuationToken")
NEWCOMER = "new@contoso.example"


@pytest.fixture
def client() -> Journey:
    return Journey()


# -- the authorization around a journey --------------------------------------------------------------------------------


def test_an_authorization_begins_with_a_401_that_holds_a_token_and_three_links(client: Journey) -> None:
    answer = client.begin(claims='{"access_token":{"xms_cc":{"values":["cp1"]}}}').last
    assert answer.status == 401
    assert answer.json["error"] == "InsufficientAuthorization"
    assert {"continuation_token", "sign_in", "sign_up", "reset_password"} <= set(answer.json)
    assert all(answer.json[name].startswith("/api/") for name in ("sign_in", "sign_up", "reset_password"))


REFUSED_AT_ONCE = [
    ({"client_id": "nobody"}, ("unauthorized_client", "", 700016)),
    ({"client_id": ""}, ("invalid_request", "", 90100)),
    ({"client_id": "off"}, ("invalid_client", "nativeauthapi_disabled", 550022)),
    ({"scope": "a\\b"}, ("invalid_scope", "", 70011)),
    ({"claims": "no JSON"}, ("invalid_request", "", 90100)),
    ({"continuation_token": "x"}, ("invalid_request", "", 55200)),
]


@pytest.mark.parametrize(("fields", "why"), REFUSED_AT_ONCE)
def test_an_authorization_is_refused_as_in_version_1(
    client: Journey, fields: dict[str, str], why: tuple[str, str, int]
) -> None:
    client.app.order("clients", client_id="off", native_auth=False)
    answer = client.begin(**fields).last
    assert (answer.status, answer.why) == (400, why)


def test_a_code_brings_the_tokens_that_the_authorization_asked_for_once(client: Journey) -> None:
    client.start("sign_in", PASSWORD_USER)
    assert client.last.json["challengeContext"] == {"authenticationFactor": "singleFactor"}
    code = client.choose("password").go("verify", password=PASSWORD).code()
    answer = client.redeem(code)
    assert answer.has_tokens
    assert answer.json["refresh_token"] and answer.json["id_token"] and answer.json["client_info"]
    assert answer.json["scope"].split() == ["openid", "profile"]
    assert claims_of(answer.json["id_token"])["preferred_username"] == PASSWORD_USER
    assert client.redeem(code).why == ("invalid_grant", "", 70000)
    assert client.app.refresh(answer.json["refresh_token"]).has_tokens


@pytest.mark.parametrize("where", ["authorization", "token request"])
def test_scope_and_claims_may_stand_at_either_end(client: Journey, where: str) -> None:
    client.app.order("policy", cae=True)
    asked = {"scope": "openid api://orders/Orders.Read", "claims": '{"access_token":{"xms_cc":{"values":["cp1"]}}}'}
    begun, redeemed = (asked, {}) if where == "authorization" else ({}, asked)
    client.begin(**begun).follow(client.last.json["sign_in"], username=PASSWORD_USER).choose()
    answer = client.redeem(client.go("verify", password=PASSWORD).code(), **redeemed)
    claims = claims_of(answer.json["access_token"])
    assert (claims["aud"], claims["scp"]) == ("api://orders", "Orders.Read")
    assert "xms_cc" in claims
    assert "refresh_token" not in answer.json


def test_a_code_is_for_its_client_and_for_ten_minutes(client: Journey) -> None:
    client.app.order("clients", client_id="other")
    code = client.sign_in(PASSWORD_USER).code()
    assert client.redeem(code, client_id="other").why == ("invalid_grant", "", 70000)
    client.app.order("clock", advance_s=601)
    assert client.redeem(code).why == ("invalid_grant", "", 70008)
    assert client.redeem("ct.x").why == ("invalid_grant", "", 70000)


def test_a_token_request_that_asks_for_the_impossible_does_not_use_the_code_up(client: Journey) -> None:
    code = client.sign_in(PASSWORD_USER).code()
    assert client.redeem(code, scope="a\\b").why == ("invalid_scope", "", 70011)
    assert client.redeem(code, claims="no JSON").why == ("invalid_request", "", 90100)
    assert client.redeem(code).has_tokens


def test_names_of_version_1_mean_nothing_in_a_step(client: Journey) -> None:
    client.start("sign_in", MFA_USER).choose(challenge_type="redirect")
    client.go("verify", password=PASSWORD, grant_type="oob", continuation_token="x").choose("sms", id="x")
    assert client.go("resend", id="x", client_id="x").last.json["type"] == "sms"


def test_a_continuation_token_is_no_code_and_a_code_no_continuation_token(client: Journey) -> None:
    client.sign_in(PASSWORD_USER)
    assert client.redeem(client.token).why == ("invalid_grant", "", 70000)
    code = client.code()
    answer = client.app.post("oauth2/v2.0/authorize-challenge", continuation_token=code)
    assert answer.why == ("invalid_grant", "", 55200)
    assert client.redeem(code).has_tokens


def test_a_client_that_was_switched_off_meanwhile_gets_no_further(client: Journey) -> None:
    client.start("sign_in", PASSWORD_USER)
    client.app.order("clients", client_id=CLIENT_ID, disabled=True)
    assert client.choose().why == BAD_TOKEN


def test_a_client_that_begins_too_often_is_told_when_to_come_back(client: Journey) -> None:
    client.app.order("policy", requests_per_minute_max=1)
    assert client.begin().last.status == 401
    assert (client.begin().last.status, client.last.headers["retry-after"]) == (429, "60")


# -- journeys ----------------------------------------------------------------------------------------------------------


def test_a_code_by_e_mail_is_sent_again_and_the_older_one_is_void(client: Journey) -> None:
    client.start("sign_in", OTP_USER).choose("email")
    answer = client.last.json
    assert (answer["action"], answer["type"], answer["codeLength"]) == ("verify", "email", 8)
    assert answer["hint"] != OTP_USER and "*" in answer["hint"]
    older = client.app.mail(OTP_USER)
    client.go("resend")
    newer = client.last
    if older != client.app.mail(OTP_USER):
        assert client.go("verify", otp=older).why == ("invalidGrant", "invalidOneTimeCode")
    client.last = newer
    client.go("verify", otp=client.app.mail(OTP_USER)).tokens()


@pytest.mark.parametrize(("kind", "address"), [("email", MFA_USER), ("sms", SMS)])
def test_a_second_factor_goes_to_the_method_whose_link_is_followed(client: Journey, kind: str, address: str) -> None:
    client.sign_in(MFA_USER)
    assert (client.last.json["action"], client.last.json["state"]) == ("challenge", "interactionRequired")
    assert client.last.json["challengeContext"] == {"authenticationFactor": "multiFactor"}
    client.choose(kind)
    assert client.last.json["type"] == kind
    client.go("resend").go("verify", otp=client.app.mail(address)).tokens()


@pytest.mark.parametrize(
    ("username", "kind", "contact"),
    [
        (REGISTER_USER, "email", {"email": "other@contoso.example"}),
        (REGISTER_USER, "phone", {"phoneNumber": "+14255550143", "channel": "sms"}),
        (PREVERIFIED_USER, "email", {"email": PREVERIFIED_USER}),  # this version knows no short cut
    ],
)
def test_a_method_is_registered_by_the_code_that_was_sent_to_it(
    client: Journey, username: str, kind: str, contact: dict[str, str]
) -> None:
    client.sign_in(username)
    assert client.last.json["action"] == "enroll"
    client.choose(kind, "enroll", **contact)
    assert (client.last.json["action"], client.last.json["codeLength"]) == ("activate", 8)
    address = next(iter(contact.values()))
    client.go("resend").go("activate", otp=client.app.mail(address)).tokens()
    assert client.sign_in(username).last.json["action"] == "challenge"


def test_a_sign_up_collects_what_is_missing_and_remembers_what_was_given(client: Journey) -> None:
    wanted = [{"name": "displayName"}, {"name": "postalCode", "regex": "[0-9]{5}"}]
    client.app.order("policy", required_attributes=wanted)
    client.start("sign_up", NEWCOMER)
    assert (client.last.json["action"], client.last.json["type"]) == ("verify", "email")
    client.go("resend").go("verify", otp=client.app.mail(NEWCOMER))
    first = client.last
    assert first.json["action"] == "collectAttributes"
    assert [one["attributeId"] for one in first.json["attributes"]] == ["password", "displayName", "postalCode"]
    assert first.json["attributes"][2]["regex"] == "[0-9]{5}"
    client.go("submitAttributes", attributes={"displayName": "New Comer"})
    assert [one["attributeId"] for one in client.last.json["attributes"]] == ["password", "postalCode"]
    client.go("submitAttributes", attributes={"password": NEW_PASSWORD})
    assert [one["attributeId"] for one in client.last.json["attributes"]] == ["postalCode"]
    answer = client.go("submitAttributes", attributes={"postalCode": "98052"}).tokens()
    assert claims_of(answer.json["id_token"])["name"] == "New Comer"
    assert Journey(client.app).sign_in(NEWCOMER, NEW_PASSWORD).tokens()


def test_a_tenant_for_codes_asks_newcomers_for_no_password(client: Journey) -> None:
    client.app.order("policy", sign_up="oob", sign_up_mfa="register")
    client.start("sign_up", NEWCOMER)
    client.go("verify", otp=client.app.mail(NEWCOMER)).tokens()
    assert Journey(client.app).start("sign_in", NEWCOMER).choose("email").last.json["action"] == "verify"


def test_a_tenant_for_codes_ignores_a_password(client: Journey) -> None:
    client.app.order("policy", sign_up="oob", required_attributes=["displayName"])
    client.start("sign_up", NEWCOMER).go("verify", otp=client.app.mail(NEWCOMER))
    client.go("submitAttributes", attributes={"displayName": "N", "password": NEW_PASSWORD}).tokens()
    assert Journey(client.app).start("sign_in", NEWCOMER).choose("email").last.json["action"] == "verify"


def test_no_journey_sends_more_than_ten_codes(client: Journey) -> None:
    client.start("sign_up", NEWCOMER)
    for _ in range(9):
        assert client.go("resend").last.status == 200
    assert client.go("resend").why == ("expiredToken", "expiredContinuationToken")


def test_a_tenant_may_want_a_method_registered_after_a_sign_up(client: Journey) -> None:
    client.app.order("policy", sign_up_mfa="register")
    client.start("sign_up", NEWCOMER).go("verify", otp=client.app.mail(NEWCOMER))
    client.go("submitAttributes", attributes={"password": NEW_PASSWORD})
    assert client.last.json["action"] == "enroll"


def test_who_signs_up_with_a_known_name_is_asked_to_sign_in(client: Journey) -> None:
    client.start("sign_up", PASSWORD_USER)
    assert client.last.json["action"] == "challenge"
    client.choose("password").go("verify", password=PASSWORD).tokens()


def test_a_name_that_was_taken_meanwhile_is_told(client: Journey) -> None:
    client.start("sign_up", NEWCOMER)
    client.app.order("users", username=NEWCOMER)
    assert client.go("verify", otp="1").why == ("invalidRequest", "userAlreadyExists")


def test_a_reset_changes_the_password_and_signs_in(client: Journey) -> None:
    client.start("reset_password", RESET_USER).choose("email").go("verify", otp=client.app.mail(RESET_USER))
    assert client.last.json["action"] == "update"
    client.go("update", "PUT", newPassword=NEW_PASSWORD)
    while client.last.json.get("action") == "poll":
        client.app.order("clock", advance_s=1)
        client.go("poll")
    client.tokens()
    assert Journey(client.app).sign_in(RESET_USER, NEW_PASSWORD).tokens()


def test_a_failed_reset_may_be_submitted_again(client: Journey) -> None:
    client.app.order("policy", reset_outcome="failed", reset_duration_s=2)
    client.start("reset_password", RESET_USER).choose().go("resend")
    client.go("verify", otp=client.app.mail(RESET_USER)).go("update", "PUT", newPassword=NEW_PASSWORD)
    assert client.go("poll").last.json["action"] == "poll"
    client.app.order("clock", advance_s=3)
    assert client.go("poll").last.json["action"] == "update"
    client.app.order("policy", reset_outcome="succeeded")
    assert client.go("update", "PUT", newPassword=NEW_PASSWORD).last.json["action"] == "poll"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_refusal_has_every_field_and_the_number_in_its_text(client: Journey) -> None:
    answer = client.sign_in(PASSWORD_USER, "wrong").last
    error = answer.json["error"]
    assert answer.status == 400
    assert set(error) == {"code", "message", "timestamp", "traceId", "correlationId", "innerError"}
    assert error["message"].startswith("AADSTS50126: ")
    assert (error["timestamp"], error["traceId"]) == ("2027-01-15T08:00:00Z", answer.headers["x-ms-request-id"])
    assert error["correlationId"] == answer.headers["client-request-id"]
    assert client.why == ("invalidGrant", "invalidUserNameOrPassword")


def refused(client: Journey, what: str) -> Journey:
    app = client.app
    match what:
        case "unknown person":
            return client.start("sign_in", "nobody@contoso.example")
        case "no user name":
            return client.start("sign_in", "two words")
        case "newcomer without an address":
            return client.start("sign_up", "new")
        case "no password to reset":
            return client.start("reset_password", OTP_USER)
        case "wrong code":
            return client.start("sign_in", OTP_USER).choose().go("verify", otp=other_code(app.mail(OTP_USER)))
        case "no code":
            return client.start("sign_in", OTP_USER).choose().go("verify")
        case "weak password":
            client.start("reset_password", RESET_USER).choose().go("verify", otp=app.mail(RESET_USER))
            return client.go("update", "PUT", newPassword="alllowercaseletters")
        case "short password of a newcomer":
            client.start("sign_up", NEWCOMER).go("verify", otp=app.mail(NEWCOMER))
            return client.go("submitAttributes", attributes={"password": "short1!"})
        case "attributes that are none":
            client.start("sign_up", NEWCOMER).go("verify", otp=app.mail(NEWCOMER))
            return client.go("submitAttributes", attributes="text")
        case "attribute of the wrong form":
            client.start("sign_up", NEWCOMER).go("verify", otp=app.mail(NEWCOMER))
            return client.go("submitAttributes", attributes={"displayName": "x" * 300})
        case "contact that is none":
            return client.sign_in(REGISTER_USER).choose("email", "enroll", email="not an address")
        case "two contacts":
            return client.sign_in(REGISTER_USER).choose("email", "enroll", email="a@b.example", phoneNumber=SMS)
        case "blocked newcomer":
            app.order("policy", blocked_contacts=[NEWCOMER])
            return client.start("sign_up", NEWCOMER)
        case "blocked by a rule":
            app.order("policy", conditional_access=53003)
            return client.sign_in(PASSWORD_USER)
        case "unknown method":
            return client.sign_in(MFA_USER).follow("/api/v2.0/nobody/challenge")
        case "unknown journey":
            return client.begin().follow("/api/v2.0/fly/start", username=PASSWORD_USER)
        case _:
            client.start("sign_in", PASSWORD_USER).choose()
            app.order("clock", advance_s=901)
            return client.go("verify", password=PASSWORD)


REFUSALS = {
    "unknown person": ("invalidRequest", "userNotFound"),
    "no user name": ("invalidRequest", ""),
    "newcomer without an address": ("invalidRequest", ""),
    "no password to reset": ("invalidRequest", ""),
    "wrong code": ("invalidGrant", "invalidOneTimeCode"),
    "no code": ("invalidRequest", ""),
    "weak password": ("invalidRequest", "passwordTooWeak"),
    "short password of a newcomer": ("invalidRequest", "passwordTooShort"),
    "attributes that are none": ("invalidRequest", ""),
    "attribute of the wrong form": ("invalidRequest", "attributeValidationError"),
    "contact that is none": ("invalidRequest", ""),
    "two contacts": ("invalidRequest", ""),
    "blocked newcomer": ("accessDenied", "providerBlockedByRep"),
    "blocked by a rule": ("interactionRequired", "messageOnly"),
    "unknown method": ("invalidRequest", ""),
    "unknown journey": ("invalidRequest", "userNotFound"),
    "expired": ("expiredToken", "expiredContinuationToken"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_says_why_and_leaves_the_continuation_token(client: Journey, what: str) -> None:
    refused(client, what)
    assert (client.last.status, client.why) == (400, REFUSALS[what])
    if what == "attribute of the wrong form":
        details = client.last.json["error"]["innerError"]["details"]
        assert details == [{"attributeIds": ["displayName"], "code": "attributeValidationFailed"}]
    if what != "expired":  # the token still leads somewhere: it is not unknown
        assert client.app.provider.state.flows
        assert client.follow("/api/v2.0/poll").why == BAD_TOKEN
        assert len(client.app.provider.state.flows) == 1


VERBS = [
    "sign_in/start",
    "1/challenge",
    *("resend", "verify", "enroll", "activate", "submitAttributes", "update", "poll"),
]
STAGES: dict[str, tuple[str, ...]] = {
    "entered": ("sign_in/start",),
    "methods listed": ("1/challenge",),
    "password asked": ("1/challenge", "verify"),
    "code sent": ("1/challenge", "resend", "verify"),
    "second factor wanted": ("1/challenge",),
    "registration wanted": ("enroll",),
    "registration code sent": ("enroll", "resend", "activate"),
    "sign-up code sent": ("resend", "verify"),
    "attributes wanted": ("submitAttributes",),
    "reset begun": ("1/challenge", "resend"),
    "reset proven": ("update",),
    "reset submitted": ("poll",),
    "proven": (),
}


def at(client: Journey, stage: str) -> Journey:
    app = client.app
    match stage:
        case "entered":
            return client.begin()
        case "methods listed":
            return client.start("sign_in", PASSWORD_USER)
        case "password asked":
            return client.start("sign_in", PASSWORD_USER).choose()
        case "code sent":
            return client.start("sign_in", OTP_USER).choose()
        case "second factor wanted":
            return client.sign_in(MFA_USER)
        case "registration wanted":
            return client.sign_in(REGISTER_USER)
        case "registration code sent":
            return client.sign_in(REGISTER_USER).choose("email", "enroll", email="other@contoso.example")
        case "sign-up code sent":
            return client.start("sign_up", NEWCOMER)
        case "attributes wanted":
            return client.start("sign_up", NEWCOMER).go("verify", otp=app.mail(NEWCOMER))
        case "reset begun":
            return client.start("reset_password", RESET_USER)
        case "reset proven":
            return client.start("reset_password", RESET_USER).choose().go("verify", otp=app.mail(RESET_USER))
        case "reset submitted":
            return at(client, "reset proven").go("update", "PUT", newPassword=NEW_PASSWORD)
        case _:
            return client.sign_in(PASSWORD_USER)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", VERBS)
def test_only_the_step_that_belongs_to_the_stage_is_taken(client: Journey, stage: str, verb: str) -> None:
    at(client, stage)
    client.follow(f"/api/v2.0/{verb}", "PUT" if verb == "update" else "POST")
    is_taken = client.last.status == 200 or client.why != BAD_TOKEN
    assert is_taken == (verb in STAGES[stage])


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "proven"])
def test_no_stage_before_the_last_gives_a_code(client: Journey, stage: str) -> None:
    token = at(client, stage).token
    answer = client.app.post("oauth2/v2.0/authorize-challenge", continuation_token=token)
    assert answer.why == ("invalid_grant", "", 55200)


def test_a_used_token_leads_nowhere(client: Journey) -> None:
    old = client.start("sign_in", PASSWORD_USER).token
    client.choose()
    client.token = old
    assert client.follow("/api/v2.0/1/challenge").why == BAD_TOKEN


def test_the_versions_do_not_mix(client: Journey) -> None:
    app = client.app
    client.start("sign_in", PASSWORD_USER)
    assert app.challenge(client.token).why == ("invalid_grant", "", 55200)
    client.choose()
    assert app.token("password", client.token, password=PASSWORD).why == ("invalid_grant", "", 55200)
    client.token = app.begin(PASSWORD_USER).token
    assert client.follow("/api/v2.0/verify", password=PASSWORD).why == BAD_TOKEN
    done = app.begin_reset()
    answer = app.post("oauth2/v2.0/authorize-challenge", continuation_token=done.token)
    assert answer.why == ("invalid_grant", "", 55200)


@pytest.mark.parametrize(("step", "allowed"), [("verify", "POST"), ("sign_in/start", "POST"), ("update", "PUT")])
def test_a_step_takes_one_method_and_says_so(client: Journey, step: str, allowed: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE"} - {allowed}:
        answer = client.app.send(method, f"{AUTHORITY}/api/v2.0/{step}", b"{}", JSON)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)
        assert answer.json["error"]["message"].startswith("AADSTS900561: ")
    assert client.app.send("GET", f"{AUTHORITY}/oauth2/v2.0/authorize-challenge").status == 405


BODIES = [
    b"",
    b"x",
    b"[]",
    b"{}",
    b'[["continuationToken", "x"]]',
    b'"text"',
    b"\xff",
    b'{"continuationToken": "\\ud800"}',
]


@pytest.mark.parametrize("body", [*BODIES, b'{"a":' * 5_000])
def test_a_body_that_is_no_json_object_is_refused(client: Journey, body: bytes) -> None:
    client.last = client.app.send("POST", f"{AUTHORITY}/api/v2.0/verify", body, JSON)
    assert (client.last.status, client.why) == (400, ("invalidRequest", ""))


def test_a_body_that_is_too_long_is_413(client: Journey) -> None:
    client.begin().follow(client.last.json["sign_in"], username=PASSWORD_USER, more="x" * BODY_BYTES_MAX)
    assert (client.last.status, client.why) == (413, ("invalidRequest", ""))
