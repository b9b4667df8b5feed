"""What holds for every native endpoint: methods, bodies, headers, redirects, continuation tokens."""

from __future__ import annotations

import re

import pytest

from tests.sandbox.native_kit import (
    CAPABILITIES,
    MFA_USER,
    NEW_PASSWORD,
    OTP_USER,
    PASSWORD_USER,
    PREVERIFIED_USER,
    REGISTER_USER,
    RESET_USER,
    SMS,
    TYPES,
    Answer,
    App,
    other_code,
)
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD

ENDPOINTS = [
    *(f"oauth2/v2.0/{step}" for step in ("initiate", "challenge", "introspect", "token")),
    *(f"register/v1.0/{step}" for step in ("introspect", "challenge", "continue")),
    *(f"signup/v1.0/{step}" for step in ("start", "challenge", "continue")),
    *(f"resetpassword/v1.0/{step}" for step in ("start", "challenge", "continue", "submit", "poll_completion")),
]
FULL = {"username": PASSWORD_USER, "challenge_type": TYPES, "continuation_token": "x", "grant_type": "oob", "oob": "1"}


@pytest.fixture
def app() -> App:
    return App()


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_takes_post_only_and_says_so(app: App, path: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = app.send(method, f"/contoso.onmicrosoft.com/{path}")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.why == ("invalid_request", "", 900561)
        assert "only accepts POST" in answer.json["error_description"]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_endpoint_needs_a_client_that_is_known_switched_on_and_native(app: App, path: str) -> None:
    app.order("clients", client_id="off", native_auth=False)
    app.order("clients", client_id="gone", disabled=True)
    assert app.post(path, **{**FULL, "client_id": ""}).why == ("invalid_request", "", 90100)
    assert app.post(path, **{**FULL, "client_id": "nobody"}).why == ("unauthorized_client", "", 700016)
    assert app.post(path, **{**FULL, "client_id": "off"}).why == ("invalid_client", "nativeauthapi_disabled", 550022)
    assert app.post(path, **{**FULL, "client_id": "gone"}).why == ("unauthorized_client", "", 7000112)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_refusal_is_a_400_with_the_whole_body_and_headers(app: App, path: str) -> None:
    correlation_id = "11111111-2222-7333-4444-555555555555"
    headers = {"content-type": "application/x-www-form-urlencoded;charset=utf-8", "client-request-id": correlation_id}
    answer = app.send("POST", f"/contoso.onmicrosoft.com/{path}?dc=ESTS-1", b"client_id=nobody", headers)
    body = answer.json
    assert answer.status == 400
    assert set(body) == {"error", "error_description", "error_codes", "timestamp", "trace_id", "correlation_id"}
    assert body["timestamp"] == "2027-01-15 08:00:00Z"
    assert body["correlation_id"] == correlation_id == answer.headers["client-request-id"]
    assert answer.headers["x-ms-request-id"] == body["trace_id"]
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    first, *rest = body["error_description"].split("\r\n")
    assert re.fullmatch(r"AADSTS700016: .+", first)
    assert rest == [
        f"Trace ID: {body['trace_id']}",
        f"Correlation ID: {correlation_id}",
        f"Timestamp: {body['timestamp']}",
    ]


def test_the_correlation_id_may_stand_in_the_query_as_the_sdk_s_refresh_has_it(app: App) -> None:
    correlation_id = "11111111-2222-7333-4444-555555555555"
    path = f"/contoso/oauth2/v2.0/token?client-request-id={correlation_id}"
    assert app.send("POST", path, b"client_id=x").json["correlation_id"] == correlation_id
    assert app.send("POST", f"{path}&client-request-id=2", b"client_id=x").status == 400


TYPE_LISTS = [
    ("", ("invalid_request", "", 90100)),
    ("password oob", ("unsupported_challenge_type", "", 901007)),
    ("redirect pigeon", ("invalid_request", "", 901007)),
]


@pytest.mark.parametrize("path", ["oauth2/v2.0/initiate", "signup/v1.0/start", "resetpassword/v1.0/start"])
@pytest.mark.parametrize(("types", "why"), TYPE_LISTS)
def test_a_flow_begins_only_with_a_list_that_has_redirect(
    app: App, path: str, types: str, why: tuple[str, str, int]
) -> None:
    answer = app.post(path, username="new@contoso.example", challenge_type=types)
    if path.endswith("initiate"):
        answer = app.post(path, username=PASSWORD_USER, challenge_type=types)
    assert answer.why == why
    if "pigeon" in types:
        phrase = "The challenge_type list parameter contains an unsupported challenge type"
        assert phrase in answer.json["error_description"]


@pytest.mark.parametrize("path", ["oauth2/v2.0/initiate", "signup/v1.0/start", "resetpassword/v1.0/start"])
@pytest.mark.parametrize("username", ["", "two words", "x" * 255, "a\x07b"])
def test_a_flow_begins_only_with_a_user_name(app: App, path: str, username: str) -> None:
    answer = app.post(path, username=username, challenge_type=TYPES)
    assert answer.why == ("invalid_request", "", 90100)
    assert "username parameter is empty or not valid" in answer.json["error_description"]


# -- redirect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["capabilities", "capability"])
@pytest.mark.parametrize("separator", [" ", ","])
def test_capabilities_may_be_spelled_and_separated_in_either_way(app: App, spelled: str, separator: str) -> None:
    declared = {spelled: separator.join(CAPABILITIES.split())}
    started = app.post("oauth2/v2.0/initiate", username=MFA_USER, challenge_type=TYPES, **declared)
    token = app.challenge(started.token).token
    assert app.token("password", token, password=PASSWORD).why == ("invalid_grant", "mfa_required", 50076)


def redirected(app: App, where: str) -> Answer:
    match where:
        case "initiate":
            return app.initiate(PASSWORD_USER, "redirect")
        case "challenge of a password account":
            return app.challenge(app.initiate(PASSWORD_USER).token, challenge_type="oob redirect")
        case "challenge of a code account":
            return app.challenge(app.initiate(OTP_USER, "password redirect").token, challenge_type="")
        case "second factor":
            return app.by_password(MFA_USER, capabilities="registration_required")
        case "registration":
            return app.by_password(REGISTER_USER, capabilities="mfa_required")
        case "introspect":
            token = app.challenge(app.initiate(MFA_USER, "password redirect").token, challenge_type="").token
            return app.introspect(app.token("password", token, password=PASSWORD).token)
        case "register introspect":
            token = app.challenge(app.initiate(REGISTER_USER, "password redirect").token, challenge_type="").token
            return app.register("introspect", app.token("password", token, password=PASSWORD).token)
        case "signup start":
            return app.signup("start", username="new@contoso.example", challenge_type="redirect")
        case "signup challenge":
            started = app.signup("start", username="new@contoso.example", challenge_type=TYPES)
            return app.signup("challenge", started.token, challenge_type="password redirect")
        case "reset start":
            return app.reset("start", username=RESET_USER, challenge_type="password redirect")
        case _:
            started = app.reset("start", username=RESET_USER, challenge_type=TYPES)
            return app.reset("challenge", started.token, challenge_type="password redirect")


@pytest.mark.parametrize(
    "where",
    [
        *("initiate", "challenge of a password account", "challenge of a code account", "second factor"),
        *("registration", "introspect", "register introspect", "signup start", "signup challenge"),
        *("reset start", "reset challenge"),
    ],
)
def test_a_client_that_cannot_do_what_the_account_needs_is_sent_to_the_browser(app: App, where: str) -> None:
    answer = redirected(app, where)
    assert answer.is_redirect
    assert set(answer.json) == {"challenge_type", "redirect_reason"} and answer.json["redirect_reason"]
    assert app.kinds()[-1] == "redirected"
    assert not {"signed_in", "code_sent"} & set(app.kinds())


# -- continuation tokens -----------------------------------------------------------------------------------------------

# (where the flow stands, the call that fails there and the error, the call that then succeeds with the same token)
Trial = tuple[str, dict[str, str], dict[str, str]]


def trials(app: App) -> dict[str, Trial]:
    """For each step that can fail: its path, the wrong fields and the right ones."""
    code = app.begin(OTP_USER).token
    password = app.begin(PASSWORD_USER).token
    second = app.second_factor(app.by_password(MFA_USER)).token
    listed = app.register("introspect", app.by_password(REGISTER_USER).token).token
    asked = {"challenge_type": "oob", "challenge_target": "r@contoso.example"}
    registering = app.register(
        "challenge", app.register("introspect", app.by_password(REGISTER_USER).token).token, **asked
    ).token
    signup = app.begin_signup("one@contoso.example").token
    proven = app.signup(
        "continue", app.begin_signup("two@contoso.example").token, grant_type="oob", oob=app.mail("two@contoso.example")
    )
    credential = app.signup("challenge", proven.token, challenge_type=TYPES).token
    reset = app.reset("start", username=RESET_USER, challenge_type=TYPES)
    resetting = app.reset("challenge", reset.token, challenge_type=TYPES).token
    submitting = app.begin_reset(PASSWORD_USER).token

    def oob(address: str) -> str:
        return app.mail(address)

    def wrong(address: str) -> str:
        return other_code(app.mail(address))

    scope = {"scope": "openid offline_access"}
    return {
        "token oob": (
            "oauth2/v2.0/token",
            {"continuation_token": code, "grant_type": "oob", "oob": wrong(OTP_USER), **scope},
            {"continuation_token": code, "grant_type": "oob", "oob": oob(OTP_USER), **scope},
        ),
        "token password": (
            "oauth2/v2.0/token",
            {"continuation_token": password, "grant_type": "password", "password": "wrong", **scope},
            {"continuation_token": password, "grant_type": "password", "password": PASSWORD, **scope},
        ),
        "token mfa_oob": (
            "oauth2/v2.0/token",
            {"continuation_token": second, "grant_type": "mfa_oob", "oob": wrong(MFA_USER), **scope},
            {"continuation_token": second, "grant_type": "mfa_oob", "oob": oob(MFA_USER), **scope},
        ),
        "register challenge": (
            "register/v1.0/challenge",
            {"continuation_token": listed, "challenge_type": "oob", "challenge_target": "nowhere"},
            {"continuation_token": listed, "challenge_type": "oob", "challenge_target": "s@contoso.example"},
        ),
        "register continue": (
            "register/v1.0/continue",
            {"continuation_token": registering, "grant_type": "oob", "oob": wrong("r@contoso.example")},
            {"continuation_token": registering, "grant_type": "oob", "oob": oob("r@contoso.example")},
        ),
        "signup continue oob": (
            "signup/v1.0/continue",
            {"continuation_token": signup, "grant_type": "oob", "oob": wrong("one@contoso.example")},
            {"continuation_token": signup, "grant_type": "oob", "oob": oob("one@contoso.example")},
        ),
        "signup continue password": (
            "signup/v1.0/continue",
            {"continuation_token": credential, "grant_type": "password", "password": "short"},
            {"continuation_token": credential, "grant_type": "password", "password": NEW_PASSWORD},
        ),
        "reset continue": (
            "resetpassword/v1.0/continue",
            {"continuation_token": resetting, "grant_type": "oob", "oob": wrong(RESET_USER)},
            {"continuation_token": resetting, "grant_type": "oob", "oob": oob(RESET_USER)},
        ),
        "reset submit": (
            "resetpassword/v1.0/submit",
            {"continuation_token": submitting, "new_password": "short"},
            {"continuation_token": submitting, "new_password": NEW_PASSWORD},
        ),
    }


TRIALS = [
    *("token oob", "token password", "token mfa_oob", "register challenge", "register continue"),
    *("signup continue oob", "signup continue password", "reset continue", "reset submit"),
]


@pytest.mark.parametrize("name", TRIALS)
def test_a_failed_attempt_leaves_the_continuation_token_and_success_uses_it_up(app: App, name: str) -> None:
    path, wrong, right = trials(app)[name]
    refused = app.post(path, **wrong)
    assert refused.status == 400 and not refused.token
    done = app.post(path, **right)
    assert done.status == 200 or done.token, done.json  # or an error that names the next step
    again = app.post(path, **right)
    assert again.why[2] == 55200


@pytest.mark.parametrize("path", [path for path in ENDPOINTS if path.split("/")[-1] not in ("initiate", "start")])
def test_an_expired_continuation_token_is_told_apart_from_a_bad_one(app: App, path: str) -> None:
    fields = {**FULL, "new_password": NEW_PASSWORD, "scope": "openid"}
    began = app.initiate(PASSWORD_USER).token
    bad = app.post(path, **{**fields, "continuation_token": "unknown"})
    word = "invalid_grant" if path.endswith(("v2.0/challenge", "token", "signup/v1.0/challenge")) else "invalid_request"
    assert bad.why == (word, "", 55200)
    assert app.post(path, **{**fields, "continuation_token": ""}).why == ("invalid_request", "", 90100)
    app.now += 900
    assert app.post(path, **{**fields, "continuation_token": began}).why == ("expired_token", "", 552003)


def test_a_flow_s_time_counts_anew_with_each_token(app: App) -> None:
    token = app.initiate(PASSWORD_USER).token
    app.now += 899
    token = app.challenge(token).token
    app.now += 899
    assert app.token("password", token, password=PASSWORD).has_tokens


def test_a_continuation_token_belongs_to_its_client(app: App) -> None:
    app.order("clients", client_id="other-client")
    token = app.begin(PASSWORD_USER).token
    assert app.token("password", token, password=PASSWORD, client_id="other-client").why[2] == 55200
    assert app.token("password", token, password=PASSWORD).has_tokens


def stages(app: App) -> dict[str, tuple[str, frozenset[str]]]:
    """A continuation token of every stage, and the calls that may follow it."""
    methods = [{"channel": "email", "target": "a@contoso.example"}, {"channel": "sms", "target": SMS}]
    app.order("users", username="solo@contoso.example", password=PASSWORD, mfa="required", methods=methods)
    registered = app.register("introspect", app.by_password(REGISTER_USER).token)
    coded = app.register("introspect", app.by_password(REGISTER_USER).token)
    preverified = app.register("introspect", app.by_password(PREVERIFIED_USER).token)
    listed = app.introspect(app.by_password(MFA_USER).token)
    started = app.signup("start", username="one@contoso.example", challenge_type=TYPES)
    wanted = app.signup(
        "continue", app.begin_signup("two@contoso.example").token, grant_type="oob", oob=app.mail("two@contoso.example")
    )
    other = app.signup(
        "continue", app.begin_signup("six@contoso.example").token, grant_type="oob", oob=app.mail("six@contoso.example")
    )
    reset = app.reset("start", username=RESET_USER, challenge_type=TYPES)
    reset_sent = app.reset("start", username=RESET_USER, challenge_type=TYPES)
    submitted = app.reset("submit", app.begin_reset(MFA_USER).token, new_password=NEW_PASSWORD)
    target = {"challenge_type": "oob", "challenge_target": "r@contoso.example"}
    proven = {"challenge_type": "oob", "challenge_target": PREVERIFIED_USER}
    introspect, mfa = "oauth2/v2.0/introspect", "oauth2/v2.0/challenge"
    return {
        "begun": (app.initiate(PASSWORD_USER).token, frozenset({mfa})),
        "password asked": (app.begin(PASSWORD_USER).token, frozenset({mfa, "token password"})),
        "code sent": (app.begin(OTP_USER).token, frozenset({mfa, "token oob"})),
        "mfa required": (app.by_password("solo@contoso.example").token, frozenset({introspect})),
        "mfa listed": (listed.token, frozenset({introspect, mfa})),
        "mfa sent": (
            app.second_factor(app.by_password("mfa@contoso.example", NEW_PASSWORD)).token,
            frozenset({mfa, "token mfa_oob", "token oob"}),
        ),
        "registration required": (
            app.by_password(REGISTER_USER).token,
            frozenset({"register/v1.0/introspect"}),
        ),
        "registration listed": (
            registered.token,
            frozenset({"register/v1.0/introspect", "register/v1.0/challenge"}),
        ),
        "registration sent": (
            app.register("challenge", coded.token, **target).token,
            frozenset({"register/v1.0/challenge", "register continue oob"}),
        ),
        "preverified": (
            app.register("challenge", preverified.token, **proven).token,
            frozenset({"register/v1.0/challenge", "register continue continuation_token"}),
        ),
        "signup begun": (started.token, frozenset({"signup/v1.0/challenge"})),
        "signup sent": (
            app.begin_signup("tre@contoso.example").token,
            frozenset({"signup/v1.0/challenge", "signup continue oob"}),
        ),
        "signup password wanted": (wanted.token, frozenset({"signup/v1.0/challenge"})),
        "signup password asked": (
            app.signup("challenge", other.token, challenge_type=TYPES).token,
            frozenset({"signup/v1.0/challenge", "signup continue password"}),
        ),
        "reset begun": (reset.token, frozenset({"resetpassword/v1.0/challenge"})),
        "reset sent": (
            app.reset("challenge", reset_sent.token, challenge_type=TYPES).token,
            frozenset({"resetpassword/v1.0/challenge", "reset continue oob"}),
        ),
        "reset proven": (app.begin_reset().token, frozenset({"resetpassword/v1.0/submit"})),
        "reset submitted": (submitted.token, frozenset({"resetpassword/v1.0/poll_completion"})),
    }


CALLS: dict[str, tuple[str, dict[str, str]]] = {
    "oauth2/v2.0/challenge": ("oauth2/v2.0/challenge", {"challenge_type": TYPES}),
    "oauth2/v2.0/introspect": ("oauth2/v2.0/introspect", {}),
    "token password": ("oauth2/v2.0/token", {"grant_type": "password", "password": "x", "scope": "openid"}),
    "token oob": ("oauth2/v2.0/token", {"grant_type": "oob", "oob": "x", "scope": "openid"}),
    "token mfa_oob": ("oauth2/v2.0/token", {"grant_type": "mfa_oob", "oob": "x", "scope": "openid"}),
    "token continuation_token": (
        "oauth2/v2.0/token",
        {"grant_type": "continuation_token", "scope": "openid", "username": PASSWORD_USER},
    ),
    "register/v1.0/introspect": ("register/v1.0/introspect", {}),
    "register/v1.0/challenge": (
        "register/v1.0/challenge",
        {"challenge_type": "oob", "challenge_target": "r@contoso.example"},
    ),
    "register continue oob": ("register/v1.0/continue", {"grant_type": "oob", "oob": "x"}),
    "register continue continuation_token": ("register/v1.0/continue", {"grant_type": "continuation_token"}),
    "signup/v1.0/challenge": ("signup/v1.0/challenge", {"challenge_type": TYPES}),
    "signup continue oob": ("signup/v1.0/continue", {"grant_type": "oob", "oob": "x"}),
    "signup continue password": ("signup/v1.0/continue", {"grant_type": "password", "password": "x"}),
    "signup continue attributes": ("signup/v1.0/continue", {"grant_type": "attributes", "attributes": "{}"}),
    "resetpassword/v1.0/challenge": ("resetpassword/v1.0/challenge", {"challenge_type": TYPES}),
    "reset continue oob": ("resetpassword/v1.0/continue", {"grant_type": "oob", "oob": "x"}),
    "resetpassword/v1.0/submit": ("resetpassword/v1.0/submit", {"new_password": "x"}),
    "resetpassword/v1.0/poll_completion": ("resetpassword/v1.0/poll_completion", {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_out_of_order_is_refused_at_every_stage(app: App, call: str) -> None:
    path, fields = CALLS[call]
    for stage, (token, may_follow) in stages(app).items():
        assert token, stage
        answer = app.post(path, continuation_token=token, **fields)
        # 500222: a password for an account without one; introspect_required: more than one method to choose from
        is_misplaced = answer.why[2] in {55200, 500222} or answer.why[1] == "introspect_required"
        assert is_misplaced is (call not in may_follow), (stage, answer.json)


# -- codes -------------------------------------------------------------------------------------------------------------


def sent(app: App, kind: str) -> tuple[str, str, str, dict[str, str]]:
    """(resend path, token, mailbox, right fields but for the code) of each kind of code."""
    scope = {"scope": "openid"}
    match kind:
        case "sign-in":
            token = app.begin(OTP_USER).token
            return "oauth2/v2.0/challenge", token, OTP_USER, {"path": "oauth2/v2.0/token", "grant_type": "oob", **scope}
        case "second factor":
            token = app.second_factor(app.by_password(MFA_USER), "sms").token
            return "oauth2/v2.0/challenge", token, SMS, {"path": "oauth2/v2.0/token", "grant_type": "mfa_oob", **scope}
        case "registration":
            listed = app.register("introspect", app.by_password(REGISTER_USER).token).token
            asked = {"challenge_type": "oob", "challenge_target": "r@contoso.example"}
            token = app.register("challenge", listed, **asked).token
            return (
                "register/v1.0/challenge",
                token,
                "r@contoso.example",
                {"path": "register/v1.0/continue", "grant_type": "oob"},
            )
        case "sign-up":
            token = app.begin_signup("new@contoso.example").token
            return (
                "signup/v1.0/challenge",
                token,
                "new@contoso.example",
                {"path": "signup/v1.0/continue", "grant_type": "oob"},
            )
        case _:
            started = app.reset("start", username=RESET_USER, challenge_type=TYPES)
            token = app.reset("challenge", started.token, challenge_type=TYPES).token
            return (
                "resetpassword/v1.0/challenge",
                token,
                RESET_USER,
                {"path": "resetpassword/v1.0/continue", "grant_type": "oob"},
            )


KINDS = ["sign-in", "second factor", "registration", "sign-up", "reset"]


def try_code(app: App, fields: dict[str, str], token: str, code: str) -> Answer:
    rest = {name: value for name, value in fields.items() if name != "path"}
    return app.post(fields["path"], continuation_token=token, oob=code, **rest)


def resend(app: App, path: str, token: str) -> Answer:
    more = {"challenge_target": "r@contoso.example", "challenge_type": "oob"} if path.startswith("register") else {}
    return app.post(path, **{"continuation_token": token, "challenge_type": TYPES, **more})


@pytest.mark.parametrize("kind", KINDS)
def test_a_resend_voids_the_older_code_and_token(app: App, kind: str) -> None:
    path, token, mailbox, fields = sent(app, kind)
    old = app.mail(mailbox)
    newer = resend(app, path, token)
    assert newer.status == 200 and newer.json["challenge_type"] == "oob"
    new = app.mail(mailbox)
    assert new != old
    assert try_code(app, fields, token, new).why[2] == 55200
    assert try_code(app, fields, newer.token, old).why == ("invalid_grant", "invalid_oob_value", 50181)
    done = try_code(app, fields, newer.token, new)
    assert done.status == 200 or done.token


@pytest.mark.parametrize("kind", KINDS)
def test_a_code_bears_five_wrong_tries_and_ten_minutes(app: App, kind: str) -> None:
    path, token, mailbox, fields = sent(app, kind)
    code = app.mail(mailbox)
    for _ in range(5):
        assert try_code(app, fields, token, other_code(code)).why == ("invalid_grant", "invalid_oob_value", 50181)
    assert try_code(app, fields, token, code).why[1] == "invalid_oob_value"
    token = resend(app, path, token).token
    code = app.mail(mailbox)
    app.now += 600
    assert try_code(app, fields, token, code).why[1] == "invalid_oob_value"


@pytest.mark.parametrize("kind", KINDS)
def test_no_flow_sends_more_than_ten_codes(app: App, kind: str) -> None:
    path, token, _, _ = sent(app, kind)
    for _ in range(9):
        token = resend(app, path, token).token
    assert resend(app, path, token).why == ("expired_token", "", 552003)
    assert app.kinds().count("code_sent") == 10


def test_the_length_of_codes_is_a_knob(app: App) -> None:
    app.order("policy", code_length=6)
    assert app.begin(OTP_USER).json["code_length"] == 6
    assert len(app.mail(OTP_USER)) == 6


def test_every_native_form_field_that_is_not_known_is_ignored(app: App) -> None:
    more = {"nca": "1", "X-AnchorMailbox": "Oid:a@b", "client_info": "true", "x-client-SKU": "msal.js.browser"}
    token = app.initiate(PASSWORD_USER, **more).token
    token = app.challenge(token, challenge_channel="email", **more).token
    assert app.token("password", token, password=PASSWORD, **more).has_tokens


def test_the_client_id_of_the_default_world_is_the_documented_one() -> None:
    assert CLIENT_ID == "00001111-aaaa-2222-bbbb-3333cccc4444"
