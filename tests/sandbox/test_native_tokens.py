"""Tokens under ``entra``: their contents, refreshing, the tenant's rules, revocation, claims challenges, keys, CORS."""

from __future__ import annotations

import base64
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1

from tests.sandbox.native_kit import MFA_USER, NEW_PASSWORD, OTP_USER, PASSWORD_USER, App, claims_of
from token_relay.sandbox.provider.cors import origin_problem
from token_relay.sandbox.provider.memory.accounts import REVOKES
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import CLIENT_ID

DAY_S = 86_400
SDK_CLAIMS = (
    '{"access_token":{"xms_cc":{"values":["CP1"]}},'
    '"id_token":{"signin_state":{"essential":false},"login_hint":{"essential":false}}}'
)


@pytest.fixture
def app() -> App:
    return App()


def test_a_token_answer_has_every_field_that_an_sdk_demands(app: App) -> None:
    body = app.by_password(PASSWORD_USER).json
    assert set(body) == {
        *("token_type", "scope", "expires_in", "ext_expires_in", "access_token"),
        *("refresh_token", "id_token", "client_info"),
    }
    assert (body["token_type"], body["scope"]) == ("Bearer", "openid profile")
    user = app.provider.state.users[PASSWORD_USER]
    info = json.loads(base64.urlsafe_b64decode(body["client_info"] + "=="))
    assert info == {"uid": user.oid, "utid": "aaaabbbb-0000-cccc-1111-dddd2222eeee"}


def test_the_id_token_has_the_claims_that_accounts_are_made_of(app: App) -> None:
    claims = claims_of(app.by_password(PASSWORD_USER).json["id_token"])
    user = app.provider.state.users[PASSWORD_USER]
    assert claims["iss"] == "http://127.0.0.1:8400/aaaabbbb-0000-cccc-1111-dddd2222eeee/v2.0"
    assert (claims["aud"], claims["ver"], claims["tid"]) == (CLIENT_ID, "2.0", "aaaabbbb-0000-cccc-1111-dddd2222eeee")
    assert (claims["oid"], claims["preferred_username"], claims["name"]) == (user.oid, PASSWORD_USER, "Pat Password")
    assert claims["exp"] > claims["iat"] == claims["nbf"]
    assert "login_hint" not in claims


def test_the_access_token_is_a_public_client_s(app: App) -> None:
    claims = claims_of(app.by_password(PASSWORD_USER).json["access_token"])
    assert (claims["azp"], claims["azpacr"], claims["scp"], claims["ver"]) == (CLIENT_ID, "0", "openid profile", "2.0")
    assert "xms_cc" not in claims


def test_sub_is_pairwise_and_oid_is_not(app: App) -> None:
    app.order("clients", client_id="other-client")
    one = claims_of(app.by_code().json["id_token"])
    token = app.challenge(app.initiate(OTP_USER, client_id="other-client").token, client_id="other-client").token
    other = claims_of(app.token("oob", token, oob=app.mail(OTP_USER), client_id="other-client").json["id_token"])
    assert one["sub"] != other["sub"] and one["oid"] == other["oid"]


# -- refreshing --------------------------------------------------------------------------------------------------------


def test_the_sdk_s_refresh_request_is_taken_as_it_is(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    more = {
        "x-client-SKU": "msal.browser",
        "x-client-VER": "5.29.0",
        "x-ms-lib-capability": "retry-after, h429",
        "x-client-current-telemetry": "5|61,0,,,|,",
        "X-AnchorMailbox": "Oid:a@b",
        "client_info": "1",
        "claims": SDK_CLAIMS,
    }
    answer = app.refresh(token, **more)
    assert {"refresh_token", "id_token", "client_info", "access_token"} <= set(answer.json)
    assert claims_of(answer.json["id_token"])["login_hint"] == PASSWORD_USER


@pytest.mark.parametrize("claims", ["{", "[]", "7", "[" * 5000])
def test_claims_that_are_no_json_object_are_refused(app: App, claims: str) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    assert app.refresh(token, claims=claims).why == ("invalid_request", "", 90100)
    begun = app.begin(PASSWORD_USER).token
    assert app.token("password", begun, password="x", claims=claims).why == ("invalid_request", "", 90100)


def test_another_resource_may_be_asked_for_where_the_client_has_registered_it(app: App) -> None:
    app.order("clients", client_id=CLIENT_ID, scopes=["api://one/read", "api://two/read"])
    asked = app.begin(PASSWORD_USER).token
    first = app.token("password", asked, password="correct-horse-7-battery", scope="api://one/read offline_access")
    answer = app.refresh(first.json["refresh_token"], scope="api://two/read")
    assert answer.json["scope"] == "api://two/read"
    assert app.refresh(first.json["refresh_token"], scope="api://three/read").why == ("invalid_scope", "", 70011)


def test_a_client_that_may_ask_for_any_scope_may_do_so_at_a_refresh(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    assert app.refresh(token, scope="openid offline_access api://orders/Orders.Read").has_tokens


def test_a_refresh_without_offline_access_gets_a_refresh_token_unless_the_policy_withholds_it(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    assert "refresh_token" in app.refresh(token, scope="openid").json
    app.order("policy", refresh_needs_offline_access=True)
    without = app.refresh(token, scope="openid")
    assert without.has_tokens and "refresh_token" not in without.json
    for scope in ("", "openid offline_access"):  # the grant's own scope has it
        assert "refresh_token" in app.refresh(token, scope=scope).json


def test_after_an_e_mail_code_the_grant_lives_a_day_fixed_or_sliding(app: App) -> None:
    fixed = app.by_code().json["refresh_token"]
    app.order("policy", otp_refresh_mode="sliding")
    sliding = app.by_code().json["refresh_token"]
    for _ in range(3):
        app.now += DAY_S - 1
        sliding = app.refresh(sliding).json["refresh_token"]
    assert app.refresh(fixed).why == ("invalid_grant", "", 70008)
    app.now += DAY_S
    assert app.refresh(sliding).why == ("invalid_grant", "", 700082)


def test_after_a_password_the_grant_lives_ninety_days_from_each_use(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    for _ in range(3):
        app.now += 90 * DAY_S - 1
        token = app.refresh(token).json["refresh_token"]
    app.now += 90 * DAY_S
    assert app.refresh(token).why == ("invalid_grant", "", 700082)


def test_an_old_refresh_token_stays_good_after_its_use(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    seen = {app.refresh(token).json["refresh_token"] for _ in range(3)}
    assert len(seen) == 3 and token not in seen
    assert "reuse_detected" not in app.kinds()


def test_a_disabled_or_deleted_person_cannot_refresh(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.order("users", username=PASSWORD_USER, password="x", disabled=True)
    assert app.refresh(token).why == ("invalid_grant", "", 50057)
    del app.provider.state.users[PASSWORD_USER]
    assert app.refresh(token).why == ("invalid_grant", "", 50034)


def test_a_disabled_application_cannot_refresh(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.order("clients", client_id=CLIENT_ID, disabled=True)
    assert app.refresh(token).why == ("unauthorized_client", "", 7000112)


def test_a_client_without_native_authentication_still_refreshes(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.order("clients", client_id=CLIENT_ID, native_auth=False)
    assert app.refresh(token).has_tokens


RULES = [
    (50076, ("invalid_grant", "basic_action", 50076)),
    (50142, ("invalid_grant", "user_password_expired", 50142)),
    (53003, ("interaction_required", "message_only", 53003)),
    (70043, ("invalid_grant", "bad_token", 70043)),
]


@pytest.mark.parametrize(("code", "why"), RULES)
def test_a_rule_of_the_tenant_refuses_a_refresh_and_is_lifted(app: App, code: int, why: tuple[str, str, int]) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.order("policy", conditional_access=code)
    refused = app.refresh(token)
    assert refused.why == why
    assert ("claims" in refused.json) is (code == 53003)
    assert app.provider.state.events[-1].as_json()["code"] == code
    app.order("policy", conditional_access=None)
    assert app.refresh(token).has_tokens


def test_a_refresh_of_a_sign_in_with_two_factors_passes_where_they_are_demanded(app: App) -> None:
    token = app.by_two_factors(MFA_USER).json["refresh_token"]
    app.order("policy", conditional_access=50076)
    assert app.refresh(token).has_tokens


def test_a_sign_in_is_good_for_the_frequency_that_is_set(app: App) -> None:
    app.order("policy", conditional_access=70043, sign_in_frequency_s=3600)
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.now += 3599
    token = app.refresh(token).json["refresh_token"]
    app.now += 1
    assert app.refresh(token).why[2] == 70043
    assert app.refresh(app.by_password(PASSWORD_USER).json["refresh_token"]).has_tokens


def test_only_rules_that_exist_can_be_set(app: App) -> None:
    with pytest.raises(AssertionError, match="conditional_access"):
        app.order("policy", conditional_access=12345)


# -- revocation --------------------------------------------------------------------------------------------------------

MATRIX = [
    ("password_expired", False, False),
    ("password_changed", True, False),
    ("admin_reset_portal", True, False),
    ("admin_reset_admin_center", True, True),
    ("revoke_all", True, True),
    ("single_sign_out", False, False),
]


@pytest.mark.parametrize(("event", "ends_password", "ends_other"), MATRIX)
def test_an_event_ends_what_the_documented_matrix_says(
    app: App, event: str, ends_password: bool, ends_other: bool
) -> None:
    by_password, by_code = app.by_password(PASSWORD_USER).json, app.by_code().json
    for username in (PASSWORD_USER, OTP_USER):
        app.order("revoke", username=username, event=event)
    for tokens, is_ended in ((by_password, ends_password), (by_code, ends_other)):
        answer = app.refresh(tokens["refresh_token"])
        assert answer.why[2] == (50173 if is_ended else 0)
        assert app.resource(tokens["access_token"]).status == 200  # lives to its end either way
    assert app.refresh(app.by_code().json["refresh_token"]).has_tokens  # a later sign-in is not concerned


def test_the_matrix_is_whole() -> None:
    assert {event for event, *_ in MATRIX} | {"claims_challenge"} == set(REVOKES)


def test_a_self_service_reset_is_a_change_of_password(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.reset("submit", app.begin_reset(PASSWORD_USER).token, new_password=NEW_PASSWORD)
    assert app.refresh(token).why == ("invalid_grant", "", 50173)


# -- claims challenges -------------------------------------------------------------------------------------------------


def challenge_of(header: str) -> dict[str, object]:
    found = re.fullmatch(
        r'Bearer realm="", authorization_uri="http://127\.0\.0\.1:8400/[0-9a-f-]+/oauth2/v2\.0/authorize", '
        r'error="insufficient_claims", claims="([A-Za-z0-9+/=]+)"',
        header,
    )
    assert found is not None, header
    claims: dict[str, object] = json.loads(base64.b64decode(found[1]))
    return claims


def test_a_token_under_continuous_evaluation_is_called_back_and_a_refresh_helps(app: App) -> None:
    app.order("policy", cae=True)
    first = app.by_password(PASSWORD_USER).json["refresh_token"]
    tokens = app.refresh(first, claims=SDK_CLAIMS).json
    assert claims_of(tokens["access_token"])["xms_cc"] == ["CP1"]
    assert tokens["expires_in"] == 28 * 3600
    assert app.resource(tokens["access_token"]).status == 200
    app.now += 10
    app.order("revoke", username=PASSWORD_USER, event="claims_challenge")
    refused = app.resource(tokens["access_token"])
    assert (refused.status, refused.json["error"]) == (401, "insufficient_claims")
    wanted = challenge_of(refused.headers["www-authenticate"])
    assert wanted == {"access_token": {"nbf": {"essential": True, "value": str(int(app.now))}}}
    answered = app.refresh(tokens["refresh_token"], claims=json.dumps(wanted)).json
    assert app.resource(answered["access_token"]).status == 200


@pytest.mark.parametrize("event", ["revoke_all", "password_changed"])
def test_a_refresh_does_not_help_when_the_grant_is_gone_too(app: App, event: str) -> None:
    app.order("policy", cae=True)
    tokens = app.refresh(app.by_password(PASSWORD_USER).json["refresh_token"], claims=SDK_CLAIMS).json
    app.order("revoke", username=PASSWORD_USER, event=event)
    assert app.resource(tokens["access_token"]).json["error"] == "insufficient_claims"
    assert app.refresh(tokens["refresh_token"], claims=SDK_CLAIMS).why[2] == 50173


@pytest.mark.parametrize(("cae", "claims"), [(False, SDK_CLAIMS), (True, '{"access_token":{"xms_cc":{}}}'), (True, "")])
def test_no_challenge_goes_to_a_client_that_did_not_declare_it_or_without_the_feature(
    app: App, cae: bool, claims: str
) -> None:
    app.order("policy", cae=cae)
    tokens = app.refresh(app.by_password(PASSWORD_USER).json["refresh_token"], claims=claims).json
    assert tokens["expires_in"] == 3600 and "xms_cc" not in claims_of(tokens["access_token"])
    app.order("revoke", username=PASSWORD_USER)
    assert app.resource(tokens["access_token"]).status == 200


# -- throttling, keys, discovery ---------------------------------------------------------------------------------------


def test_a_client_that_asks_too_often_is_told_when_to_come_back(app: App) -> None:
    app.order("policy", requests_per_minute_max=3)
    app.order("clients", client_id="other-client")
    for _ in range(3):
        assert app.initiate(PASSWORD_USER).status == 200
        app.now += 10
    refused = app.initiate(PASSWORD_USER)
    assert (refused.status, refused.why) == (429, ("temporarily_unavailable", "", 90055))
    assert refused.headers["retry-after"] == "30"
    assert app.initiate(PASSWORD_USER, client_id="other-client").status == 200
    app.now += 29
    assert app.initiate(PASSWORD_USER).headers["retry-after"] == "1"
    app.now += 1
    assert app.initiate(PASSWORD_USER).status == 200


def test_an_armed_throttle_has_the_whole_body_too(app: App) -> None:
    app.order("faults", name="throttle_429", retry_after_s=7)
    refused = app.initiate(PASSWORD_USER)
    assert (refused.status, refused.why[2], refused.headers["retry-after"]) == (429, 90055, "7")
    assert refused.json["trace_id"] and refused.json["timestamp"]


# What the real service may answer to a refresh besides what the sandbox lives: number, error, suberror.
RARE = [
    *((code, "invalid_grant", "") for code in (50132, 50133, 50072, 50074, 50078, 50055)),
    (530032, "interaction_required", "message_only"),
    (53000, "interaction_required", "message_only"),
    (65001, "invalid_grant", "consent_required"),
    (50196, "invalid_grant", ""),
    *((code, "server_error", "") for code in (90033, 50033, 90006, 90012, 90024)),
]


@pytest.mark.parametrize(("code", "error", "suberror"), RARE)
def test_any_refusal_can_be_ordered_for_a_refresh(app: App, code: int, error: str, suberror: str) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    app.order("faults", name="refuse", grant_type="refresh_token", code=code, error=error, suberror=suberror)
    refused = app.refresh(token)
    assert (refused.status, refused.why) == (400, (error, suberror, code))
    assert refused.json["error_description"].startswith(f"AADSTS{code}: ")
    assert app.refresh(token).has_tokens


def test_the_id_token_has_the_address_only_for_the_scope_that_asks_for_it(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    assert "email" not in claims_of(app.refresh(token).json["id_token"])
    assert claims_of(app.refresh(token, scope="openid email").json["id_token"])["email"] == PASSWORD_USER


@pytest.mark.parametrize("path", ["signup/v1.0/start", "resetpassword/v1.0/poll_completion", "register/v1.0/continue"])
def test_faults_meet_the_native_endpoints_by_name(app: App, path: str) -> None:
    name = path.replace("/v1.0/", "_")
    app.order("faults", name="error_503", endpoint=name)
    assert app.initiate(PASSWORD_USER).status == 200
    assert app.post(path).status == 503
    assert app.post(path).status == 400


def test_a_new_key_signs_and_the_old_one_stays_published_when_told_to() -> None:
    app = App()
    app.provider.state.signer = RsaSigner()
    keys = "/contoso.onmicrosoft.com/discovery/v2.0/keys"
    before = app.send("GET", keys).json["keys"]
    app.order("keys")
    after = app.send("GET", keys).json["keys"]
    assert after[0] == before[0] and len(after) == 2
    token = app.by_password(PASSWORD_USER).json["id_token"]
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header["kid"] == after[-1]["kid"] and (header["alg"], header["typ"]) == ("RS256", "JWT")
    assert after[0]["issuer"].endswith("/v2.0") and after[0]["use"] == "sig"
    kids = app.order("keys", keep_old=False)["kids"]
    assert [key["kid"] for key in app.send("GET", keys).json["keys"]] == kids and len(kids) == 1


def test_each_key_comes_with_a_certificate_of_its_own() -> None:
    app = App()
    app.provider.state.signer = RsaSigner()
    app.order("keys")
    keys = app.send("GET", "/contoso.onmicrosoft.com/discovery/v2.0/keys").json["keys"]
    assert len(keys) == 2
    for key in keys:
        (encoded,) = key["x5c"]
        certificate = x509.load_der_x509_certificate(base64.b64decode(encoded))
        public = certificate.public_key()
        assert isinstance(public, RSAPublicKey)
        assert public.public_numbers().n == int.from_bytes(base64.urlsafe_b64decode(key["n"] + "=="))
        thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(SHA1())).decode().rstrip("=")
        assert key["x5t"] == thumbprint
        certificate.verify_directly_issued_by(certificate)


LOGOUT = "/contoso.onmicrosoft.com/oauth2/v2.0/logout"


def test_the_logout_page_goes_back_to_registered_addresses_only(app: App) -> None:
    found = app.send("GET", "/contoso/v2.0/.well-known/openid-configuration").json
    assert found["end_session_endpoint"].endswith("/aaaabbbb-0000-cccc-1111-dddd2222eeee/oauth2/v2.0/logout")
    assert app.send("GET", LOGOUT).status == 200
    back = app.send("GET", f"{LOGOUT}?post_logout_redirect_uri=http://127.0.0.1:51234/bye&state=abc")
    assert (back.status, back.headers["location"]) == (303, "http://127.0.0.1:51234/bye?state=abc")
    astray = app.send("GET", f"{LOGOUT}?post_logout_redirect_uri=https://evil.example/")
    assert astray.status == 400 and "location" not in astray.headers


def test_signing_out_leaves_the_refresh_token_alive(app: App) -> None:
    token = app.by_password(PASSWORD_USER).json["refresh_token"]
    assert app.send("GET", LOGOUT).status == 200
    assert app.refresh(token).has_tokens


def test_discovery_names_the_tenant_by_its_id_and_no_native_endpoint(app: App) -> None:
    found = app.send("GET", "/contoso/v2.0/.well-known/openid-configuration").json
    base = "http://127.0.0.1:8400/aaaabbbb-0000-cccc-1111-dddd2222eeee"
    assert found["issuer"] == f"{base}/v2.0"
    assert found["token_endpoint"] == f"{base}/oauth2/v2.0/token"
    assert found["authorization_endpoint"] == f"{base}/oauth2/v2.0/authorize"
    assert found["jwks_uri"] == f"{base}/discovery/v2.0/keys"
    assert found["subject_types_supported"] == ["pairwise"]
    assert "initiate" not in json.dumps(found)


# -- CORS --------------------------------------------------------------------------------------------------------------

PAGE = "http://localhost:3000"
SDK_HEADERS = (
    "client-request-id,x-client-cpu,x-client-current-telemetry,x-client-last-telemetry,x-client-os,x-client-sku,"
    "x-client-ver"
)
INITIATE = "/contoso.onmicrosoft.com/oauth2/v2.0/initiate"


def preflight(app: App, origin: str) -> tuple[int, dict[str, str]]:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": SDK_HEADERS,
    }
    answer = app.send("OPTIONS", INITIATE, headers=headers)
    return answer.status, answer.headers


def test_no_page_of_another_origin_gets_leave_by_default(app: App) -> None:
    status, headers = preflight(app, PAGE)
    assert status == 405 and not [name for name in headers if name.startswith("access-control")]


def test_a_page_of_a_named_origin_may_call_and_no_other() -> None:
    app = App(cors=frozenset({PAGE}))
    status, headers = preflight(app, PAGE)
    assert status == 204
    assert headers["access-control-allow-origin"] == PAGE
    assert set(headers["access-control-allow-headers"].split(",")) >= set(SDK_HEADERS.split(","))
    assert "POST" in headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in headers
    status, headers = preflight(app, "http://evil.example")
    assert status == 405 and "access-control-allow-origin" not in headers
    answer = app.send("POST", INITIATE, b"", {"origin": PAGE, "content-type": "application/x-www-form-urlencoded"})
    assert answer.status == 400 and answer.headers["access-control-allow-origin"] == PAGE  # refusals can be read too
    assert "x-ms-request-id" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


def test_a_preflight_does_not_use_a_fault_up() -> None:
    app = App(cors=frozenset({PAGE}))
    app.order("faults", name="error_503", endpoint="initiate")
    assert preflight(app, PAGE)[0] == 204
    assert app.initiate(PASSWORD_USER).status == 503


@pytest.mark.parametrize(
    "origin", ["*", "localhost:3000", "http://a/", "http://a/b", "ftp://a", "http://u@a", "http://A", "http://a:0", "x"]
)
def test_what_is_no_origin_is_refused_in_words(origin: str) -> None:
    assert origin_problem(origin)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://app.contoso.example"])
def test_an_origin_as_a_browser_spells_it_is_taken(origin: str) -> None:
    assert origin_problem(origin) == ""
