"""The flows from end to end, and each refusal that documentation or an SDK names for them."""

from __future__ import annotations

import json

import pytest

from tests.sandbox.native_kit import (
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
    claims_of,
)
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.world.model import PASSWORD

NEWCOMER = "new@contoso.example"


@pytest.fixture
def app() -> App:
    return App()


# -- sign-in -----------------------------------------------------------------------------------------------------------


def test_the_challenge_s_form_is_the_documented_one(app: App) -> None:
    assert set(app.begin(PASSWORD_USER).json) == {"continuation_token", "challenge_type"}
    asked = app.begin(OTP_USER).json
    del asked["continuation_token"]
    assert asked == {
        "challenge_type": "oob",
        "binding_method": "prompt",
        "challenge_channel": "email",
        "challenge_target_label": "o***p@co***.example",
        "code_length": 8,
        "interval": 300,
    }


def test_a_wrong_password_is_50126_without_a_suberror(app: App) -> None:
    assert app.by_password(PASSWORD_USER, "wrong").why == ("invalid_grant", "", 50126)


def test_an_alias_signs_in_by_password_and_the_account_keeps_its_name(app: App) -> None:
    app.order("users", username="ann@contoso.example", password=PASSWORD, alias="Ann-7", mfa="required")
    required = app.by_password("ann-7")
    assert required.why == ("invalid_grant", "mfa_required", 50076)
    asked = app.second_factor(required)
    tokens = app.token("mfa_oob", asked.token, oob=app.mail("ann@contoso.example")).json
    assert claims_of(tokens["id_token"])["preferred_username"] == "ann@contoso.example"
    assert app.refresh(tokens["refresh_token"]).has_tokens
    assert app.initiate("ann-8").why == ("user_not_found", "", 50034)


def test_an_alias_is_not_for_accounts_without_a_password_and_hides_nobody(app: App) -> None:
    order = {"username": "ann@contoso.example", "alias": "ann"}
    request = Request("POST", "/sandbox/users", json.dumps(order).encode(), {"content-type": "application/json"})
    assert control(app.provider, request, app.now).response.status == 400
    app.order("users", username="ann@contoso.example", password=NEW_PASSWORD, alias=PASSWORD_USER)
    assert claims_of(app.by_password(PASSWORD_USER).json["id_token"])["preferred_username"] == PASSWORD_USER


def test_an_account_without_a_password_says_so(app: App) -> None:
    token = app.begin(OTP_USER).token
    assert app.token("password", token, password="x").why == ("invalid_grant", "", 500222)


def test_an_account_with_a_password_cannot_use_a_code_as_first_factor(app: App) -> None:
    token = app.begin(PASSWORD_USER).token
    assert app.token("oob", token, oob="12345678").why == ("invalid_grant", "", 55200)
    assert "code_sent" not in app.kinds()


def test_a_disabled_or_vanished_person_gets_no_further(app: App) -> None:
    token = app.begin(PASSWORD_USER).token
    app.order("users", username=PASSWORD_USER, password=PASSWORD, disabled=True)
    assert app.token("password", token, password=PASSWORD).why == ("invalid_grant", "", 50057)
    del app.provider.state.users[PASSWORD_USER]
    assert app.token("password", token, password=PASSWORD).why == ("invalid_grant", "", 50034)


@pytest.mark.parametrize("grant_type", ["attributes", "mint"])
def test_a_grant_that_is_not_the_token_endpoint_s_is_refused(app: App, grant_type: str) -> None:
    assert app.token(grant_type, app.begin(PASSWORD_USER).token).why == ("unsupported_grant_type", "", 70003)


@pytest.mark.parametrize("event", ["password_expired", "policy"])
def test_a_password_that_must_be_reset_is_50142_until_it_is(app: App, event: str) -> None:
    if event == "policy":
        app.order("policy", conditional_access=50142)
    else:
        app.order("revoke", username=RESET_USER, event=event)
    assert app.by_password(RESET_USER).why == ("invalid_request", "", 50142)
    assert app.by_code().has_tokens  # it concerns passwords only
    app.reset("submit", app.begin_reset().token, new_password=NEW_PASSWORD)
    if event != "policy":
        assert app.by_password(RESET_USER, NEW_PASSWORD).has_tokens


def test_a_blocked_sign_in_is_53003_for_every_method(app: App) -> None:
    app.order("policy", conditional_access=53003)
    for answer in (app.by_password(PASSWORD_USER), app.by_code()):
        assert (answer.why[0], answer.why[2]) == ("interaction_required", 53003)
        assert json.loads(answer.json["claims"])


# -- second factor -----------------------------------------------------------------------------------------------------


def test_the_methods_are_listed_with_everything_that_clients_demand(app: App) -> None:
    required = app.by_password(MFA_USER)
    assert required.why == ("invalid_grant", "mfa_required", 50076) and required.token
    listed = app.introspect(required.token)
    email, sms = listed.json["methods"]
    assert (email["challenge_type"], email["challenge_channel"]) == ("oob", "email")
    assert (email["login_hint"], sms["login_hint"]) == ("m***a@co***.example", "+*********00")
    assert email["id"] != sms["id"] and len(email["id"]) == 36
    again = app.introspect(listed.token)  # it may be asked again
    assert again.json["methods"] == listed.json["methods"]


@pytest.mark.parametrize(("channel", "address"), [("email", MFA_USER), ("sms", SMS)])
@pytest.mark.parametrize("grant_type", ["mfa_oob", "oob"])
def test_a_second_factor_goes_to_the_chosen_method(app: App, channel: str, address: str, grant_type: str) -> None:
    asked = app.second_factor(app.by_password(MFA_USER), channel)
    assert (asked.json["challenge_type"], asked.json["challenge_channel"]) == ("oob", channel)
    assert app.token(grant_type, asked.token, oob=app.mail(address)).has_tokens


def test_the_password_s_own_code_does_not_replace_the_second_factor(app: App) -> None:
    required = app.by_password(MFA_USER)
    for grant_type, more in [("password", {"password": PASSWORD}), ("continuation_token", {"username": MFA_USER})]:
        assert app.token(grant_type, required.token, **more).why[2] == 55200


def test_without_an_id_the_only_method_is_taken_and_several_must_be_listed(app: App) -> None:
    app.order("users", username="solo@contoso.example", password=PASSWORD, mfa="required")
    asked = app.challenge(app.by_password("solo@contoso.example").token)
    assert app.token("mfa_oob", asked.token, oob=app.mail("solo@contoso.example")).has_tokens
    several = app.by_password(MFA_USER)
    assert app.challenge(several.token).why == ("invalid_request", "introspect_required", 90100)
    listed = app.introspect(several.token)
    assert app.challenge(listed.token, id="unknown").why == ("invalid_request", "", 90100)
    assert app.challenge(listed.token).why == ("invalid_request", "", 90100)


def test_a_blocked_contact_gets_no_code(app: App) -> None:
    app.order("policy", blocked_contacts=[SMS, "r@contoso.example"])
    blocked = app.second_factor(app.by_password(MFA_USER), "sms")
    assert blocked.why == ("access_denied", "provider_blocked_by_rep", 550024)
    listed = app.register("introspect", app.by_password(REGISTER_USER).token)
    asked = {"challenge_type": "oob", "challenge_target": "r@contoso.example"}
    assert app.register("challenge", listed.token, **asked).why[1:] == ("provider_blocked_by_rep", 550024)
    assert "code_sent" not in app.kinds()


def test_who_signed_in_with_a_code_is_not_asked_for_another(app: App) -> None:
    app.order("users", username="code@contoso.example", mfa="required")
    assert app.by_code("code@contoso.example").has_tokens


# -- registration ------------------------------------------------------------------------------------------------------


def listed(app: App, username: str = REGISTER_USER) -> Answer:
    required = app.by_password(username)
    assert required.why == ("invalid_grant", "registration_required", 50079)
    return app.register("introspect", required.token)


def test_what_can_be_registered_is_listed_by_key_with_the_address_filled_in(app: App) -> None:
    email, sms = listed(app).json["methods"]
    assert email == {
        "id": "email",
        "challenge_type": "oob",
        "challenge_channel": "email",
        "login_hint": REGISTER_USER,
    }
    assert (sms["id"], sms["challenge_channel"]) == ("sms", "sms")


@pytest.mark.parametrize(
    ("target", "channel", "spelled"),
    [
        ("Me@Contoso.example", "", "me@contoso.example"),
        ("me@contoso.example", "email", "me@contoso.example"),
        ("+1 (425) 555-0142", "sms", "+14255550142"),
        ("+14255550142", "", "+14255550142"),
    ],
)
def test_a_method_is_registered_by_the_code_that_was_sent_to_it(
    app: App, target: str, channel: str, spelled: str
) -> None:
    more = {"challenge_type": "oob", "challenge_target": target, "challenge_channel": channel}
    asked = app.register("challenge", listed(app).token, **more)
    assert asked.json["challenge_target"] == spelled  # whole, and not under ..._label
    assert (asked.json["challenge_type"], asked.json["binding_method"], asked.json["code_length"]) == (
        "oob",
        "prompt",
        8,
    )
    assert "challenge_target_label" not in asked.json and "interval" not in asked.json
    done = app.register("continue", asked.token, grant_type="oob", oob=app.mail(spelled))
    assert app.token("continuation_token", done.token).has_tokens  # no user name, and no second code
    assert app.by_password(REGISTER_USER).why[1] == "mfa_required"  # from now on
    assert app.by_two_factors(REGISTER_USER, spelled).has_tokens if "@" in spelled else True


@pytest.mark.parametrize("target", ["", "nobody", "a@b", "+12", "x" * 300 + "@contoso.example", "+1425555014200001"])
@pytest.mark.parametrize("channel", ["", "email", "sms", "pigeon"])
def test_a_contact_that_is_none_is_901001(app: App, target: str, channel: str) -> None:
    more = {"challenge_type": "oob", "challenge_target": target, "challenge_channel": channel}
    assert app.register("challenge", listed(app).token, **more).why == ("invalid_request", "", 901001)


def test_a_channel_that_the_tenant_does_not_offer_cannot_be_registered(app: App) -> None:
    app.order("policy", registration_channels=["email"])
    found = listed(app)
    assert [one["id"] for one in found.json["methods"]] == ["email"]
    more = {"challenge_type": "oob", "challenge_target": "+14255550142"}
    assert app.register("challenge", found.token, **more).why == ("invalid_request", "", 901001)


def test_a_proven_address_is_registered_without_a_code_and_only_in_that_way(app: App) -> None:
    more = {"challenge_type": "oob", "challenge_target": PREVERIFIED_USER}
    asked = app.register("challenge", listed(app, PREVERIFIED_USER).token, **more)
    assert asked.json["challenge_type"] == "preverified"
    assert app.register("continue", asked.token, grant_type="oob", oob="12345678").why[2] == 55200
    done = app.register("continue", asked.token, grant_type="continuation_token")
    assert app.token("continuation_token", done.token).has_tokens
    assert "code_sent" not in app.kinds()


def test_another_address_of_the_same_person_takes_a_code(app: App) -> None:
    more = {"challenge_type": "oob", "challenge_target": "else@contoso.example"}
    asked = app.register("challenge", listed(app, PREVERIFIED_USER).token, **more)
    assert asked.json["challenge_type"] == "oob"
    assert app.register("continue", asked.token, grant_type="continuation_token").why[2] == 55200


# -- sign-up -----------------------------------------------------------------------------------------------------------


def with_code(app: App, username: str = NEWCOMER, **more: str) -> Answer:
    """A sign-up up to the answer to the right code."""
    asked = app.begin_signup(username, **more)
    return app.signup("continue", asked.token, grant_type="oob", oob=app.mail(username))


def test_sign_up_step_by_step_ends_with_an_account_and_a_sign_in(app: App) -> None:
    app.order("policy", required_attributes=["displayName", {"name": "age", "type": "Int64"}])
    wanted = with_code(app)
    assert wanted.why == ("credential_required", "", 55103)
    asked = app.signup("challenge", wanted.token, challenge_type=TYPES)
    assert asked.json["challenge_type"] == "password"
    more = app.signup("continue", asked.token, grant_type="password", password=NEW_PASSWORD)
    assert more.why == ("attributes_required", "", 55106)
    assert more.json["required_attributes"] == [
        {"name": "displayName", "type": "String", "required": True},
        {"name": "age", "type": "Int64", "required": True},
    ]
    assert NEWCOMER not in app.provider.state.users  # nothing before the last piece
    done = app.signup(
        "continue", more.token, grant_type="attributes", attributes='{"displayName": "New Comer", "age": 42}'
    )
    tokens = app.token("continuation_token", done.token, username=NEWCOMER)
    assert claims_of(tokens.json["id_token"])["name"] == "New Comer"
    assert app.by_password(NEWCOMER, NEW_PASSWORD).has_tokens


def test_sign_up_with_everything_at_the_start_takes_the_code_alone(app: App) -> None:
    app.order("policy", required_attributes=["displayName"])
    done = with_code(app, password=NEW_PASSWORD, attributes='{"displayName": "One Shot", "shoeSize": "44"}')
    assert done.status == 200
    assert app.provider.state.users[NEWCOMER].attributes == {"displayName": "One Shot"}  # unknown names are ignored
    assert app.token("continuation_token", done.token, username=NEWCOMER).has_tokens


def test_the_client_must_say_the_user_name_after_a_sign_up(app: App) -> None:
    done = with_code(app, password=NEW_PASSWORD)
    assert app.token("continuation_token", done.token).why == ("invalid_request", "", 90100)
    assert app.token("continuation_token", done.token, username=PASSWORD_USER).why == ("invalid_grant", "", 55200)
    assert app.token("continuation_token", done.token, username=NEWCOMER.upper()).has_tokens


@pytest.mark.parametrize(
    ("offered", "types", "by_password"),
    [
        ("any", TYPES, True),
        ("any", "oob redirect", False),
        ("password", TYPES, True),
        ("oob", TYPES, False),
        ("oob", "oob redirect", False),
    ],
)
def test_the_tenant_and_the_client_decide_whether_the_account_has_a_password(
    app: App, offered: str, types: str, by_password: bool
) -> None:
    app.order("policy", sign_up=offered)
    answer = with_code(app, challenge_type=types)
    assert answer.why[0] == ("credential_required" if by_password else "")
    assert answer.status == (400 if by_password else 200)


def test_a_tenant_for_passwords_redirects_a_client_that_cannot_do_one(app: App) -> None:
    app.order("policy", sign_up="password")
    assert app.signup("start", username=NEWCOMER, challenge_type="oob redirect").is_redirect
    app.order("policy", sign_up="oob")
    refused = app.signup("start", username=NEWCOMER, challenge_type=TYPES, password=NEW_PASSWORD)
    assert refused.why == ("invalid_request", "", 90100)


def test_a_name_that_is_taken_is_refused_at_the_start_and_at_the_end(app: App) -> None:
    taken = app.signup("start", username=PASSWORD_USER, challenge_type=TYPES)
    assert taken.why == ("user_already_exists", "", 1003037)
    asked = app.begin_signup(NEWCOMER, password=NEW_PASSWORD)
    code = app.mail(NEWCOMER)
    app.order("users", username=NEWCOMER)  # somebody was faster
    assert app.signup("continue", asked.token, grant_type="oob", oob=code).why[0] == "user_already_exists"
    assert app.provider.state.users[NEWCOMER].password is None


def test_a_user_name_that_is_no_address_cannot_sign_up(app: App) -> None:
    assert app.signup("start", username="nobody", challenge_type=TYPES).why == ("invalid_request", "", 90100)


PASSWORDS = [
    ("Short1!", "password_too_short"),
    ("Aa1!" * 65, "password_too_long"),
    ("alllowercaseletters", "password_too_weak"),
    ("p@ssw0rd", "password_banned"),
    ("Tab\tInside-8", "password_is_invalid"),
    ("Ümläut-Horse-8", "password_is_invalid"),
]


@pytest.mark.parametrize(("password", "suberror"), PASSWORDS)
def test_a_refused_password_names_the_rule_wherever_one_is_set(app: App, password: str, suberror: str) -> None:
    why = ("invalid_grant", suberror, 399246)
    assert app.signup("start", username=NEWCOMER, challenge_type=TYPES, password=password).why == why
    asked = app.signup("challenge", with_code(app).token, challenge_type=TYPES)
    assert app.signup("continue", asked.token, grant_type="password", password=password).why == why
    assert app.reset("submit", app.begin_reset().token, new_password=password).why == why


def test_password_rules_are_knobs(app: App) -> None:
    app.order("policy", password_length_min=4, password_length_max=6, password_classes_min=1, password_banned=["abcd"])
    for password, suberror in [("abc", "too_short"), ("abcdefg", "too_long"), ("ABCD", "banned"), ("abcde", "")]:
        answer = app.signup("start", username=NEWCOMER, challenge_type=TYPES, password=password)
        assert answer.why[1] == (f"password_{suberror}" if suberror else "")


ATTRIBUTES = [
    ('{"displayName": ""}', "attributes_required"),
    ('{"city": "Oslo"}', "attributes_required"),
    ('{"displayName": "N", "age": "old"}', "attribute_validation_failed"),
    ('{"displayName": "N", "age": 1.5}', "attribute_validation_failed"),
    ('{"displayName": ["N"]}', "attribute_validation_failed"),
    ('{"displayName": "' + "n" * 257 + '"}', "attribute_validation_failed"),
    ('{"displayName": "N", "member": "maybe"}', "attribute_validation_failed"),
    ('{"displayName": "N", "postalCode": "1234"}', "attribute_validation_failed"),
    ("[]", "invalid_request"),
    ("{", "invalid_request"),
    ("7", "invalid_request"),
]


@pytest.mark.parametrize(("attributes", "what"), ATTRIBUTES)
def test_attributes_that_are_missing_or_wrong_can_be_corrected_with_the_same_token(
    app: App, attributes: str, what: str
) -> None:
    optional: list[dict[str, object]] = [
        {"name": "age", "type": "Int64", "required": False},
        {"name": "member", "type": "Boolean", "required": False},
        {"name": "postalCode", "regex": "[0-9]{5}", "required": False},
    ]
    app.order("policy", required_attributes=["displayName", *optional])
    token = with_code(app, password=NEW_PASSWORD).token
    refused = app.signup("continue", token, grant_type="attributes", attributes=attributes)
    assert what in (refused.why[0], refused.why[1])
    if what == "attribute_validation_failed":
        assert refused.json["invalid_attributes"] and set(refused.json["invalid_attributes"][0]) == {"name"}
    if what == "attributes_required":
        assert refused.token == token and refused.json["required_attributes"]
    right = '{"displayName": "N", "age": "7", "member": true, "postalCode": "98052", "extension_1_x": "a,b"}'
    assert app.signup("continue", token, grant_type="attributes", attributes=right).status == 200
    assert app.provider.state.users[NEWCOMER].attributes["extension_1_x"] == "a,b"


def test_attributes_are_looked_at_as_soon_as_they_are_given(app: App) -> None:
    app.order("policy", required_attributes=[{"name": "postalCode", "regex": "[0-9]{5}"}])
    refused = app.signup("start", username=NEWCOMER, challenge_type=TYPES, attributes='{"postalCode": "x"}')
    assert refused.why[:2] == ("invalid_grant", "attribute_validation_failed")
    assert refused.json["invalid_attributes"] == [{"name": "postalCode"}]


@pytest.mark.parametrize(("mfa", "suberror"), [("register", "registration_required"), ("required", "mfa_required")])
def test_a_sign_in_after_a_sign_up_may_take_more(app: App, mfa: str, suberror: str) -> None:
    app.order("policy", sign_up_mfa=mfa)
    asked = app.signup("start", username=NEWCOMER, challenge_type=TYPES, password=NEW_PASSWORD)
    assert app.token("continuation_token", finished(app, asked.token).token, username=NEWCOMER).is_redirect
    other = app.signup(
        "start",
        username="two@contoso.example",
        challenge_type=TYPES,
        password=NEW_PASSWORD,
        capabilities="mfa_required registration_required",
    )
    done = finished(app, other.token, "two@contoso.example")
    assert app.token("continuation_token", done.token, username="two@contoso.example").why[1] == suberror


def finished(app: App, token: str, username: str = NEWCOMER) -> Answer:
    asked = app.signup("challenge", token, challenge_type=TYPES)
    return app.signup("continue", asked.token, grant_type="oob", oob=app.mail(username))


# -- password reset ----------------------------------------------------------------------------------------------------


def test_a_reset_changes_the_password_and_signs_in(app: App) -> None:
    proven = app.begin_reset()
    assert proven.json["expires_in"] == 600
    submitted = app.reset("submit", proven.token, new_password=NEW_PASSWORD)
    assert submitted.json["poll_interval"] == 2
    polled = app.reset("poll_completion", submitted.token)
    assert polled.json["status"] == "succeeded"
    assert app.token("continuation_token", polled.token, username=RESET_USER).has_tokens
    assert app.by_password(RESET_USER).why[2] == 50126
    assert app.by_password(RESET_USER, NEW_PASSWORD).has_tokens


def test_polling_goes_on_with_one_token_until_it_is_settled(app: App) -> None:
    app.order("policy", reset_duration_s=10, poll_interval_s=3)
    submitted = app.reset("submit", app.begin_reset().token, new_password=NEW_PASSWORD)
    assert submitted.json["poll_interval"] == 3
    assert app.reset("poll_completion", submitted.token).json == {"status": "not_started"}
    for _ in range(3):
        app.now += 3
        assert app.reset("poll_completion", submitted.token).json == {"status": "in_progress"}
    app.now += 3
    assert app.reset("poll_completion", submitted.token).json["status"] == "succeeded"
    assert app.reset("poll_completion", submitted.token).why == ("invalid_request", "", 55200)


def test_a_failed_reset_changes_nothing_and_may_be_submitted_again(app: App) -> None:
    app.order("policy", reset_outcome="failed")
    submitted = app.reset("submit", app.begin_reset().token, new_password=NEW_PASSWORD)
    failed = app.reset("poll_completion", submitted.token)
    assert failed.json["status"] == "failed" and failed.token
    assert app.by_password(RESET_USER).has_tokens
    assert app.token("continuation_token", failed.token, username=RESET_USER).why[2] == 55200
    app.order("policy", reset_outcome="succeeded")
    again = app.reset("submit", failed.token, new_password=NEW_PASSWORD)
    assert app.reset("poll_completion", again.token).json["status"] == "succeeded"


def test_the_last_three_passwords_cannot_be_used_again(app: App) -> None:
    for number in range(3):
        app.reset("submit", app.begin_reset().token, new_password=f"Horse-Number-{number}")
    recent = app.reset("submit", app.begin_reset().token, new_password="Horse-Number-0")
    assert recent.why == ("invalid_grant", "password_recently_used", 399246)
    assert app.reset("submit", app.begin_reset().token, new_password=PASSWORD).status == 200  # the fourth last


def test_a_reset_is_for_accounts_with_a_password_in_tenants_that_allow_it(app: App) -> None:
    unknown = app.reset("start", username="nobody@contoso.example", challenge_type=TYPES)
    assert unknown.why == ("user_not_found", "", 50034)
    assert app.reset("start", username=OTP_USER, challenge_type=TYPES).why == ("invalid_request", "", 500222)
    app.order("policy", self_service_reset=False)
    assert app.begin_reset().why == ("invalid_request", "", 55200)


def test_the_time_for_a_new_password_is_the_one_that_was_told(app: App) -> None:
    proven = app.begin_reset()
    app.now += 600
    assert app.reset("submit", proven.token, new_password=NEW_PASSWORD).why == ("expired_token", "", 552003)


def test_a_reset_ends_a_lockout(app: App) -> None:
    token = app.begin(RESET_USER).token
    for _ in range(10):
        app.token("password", token, password="wrong")
    assert app.token("password", token, password=PASSWORD).why == ("invalid_grant", "", 50053)
    app.reset("submit", app.begin_reset().token, new_password=NEW_PASSWORD)
    assert app.token("password", token, password=NEW_PASSWORD).has_tokens


def test_a_sign_in_after_a_reset_takes_the_second_factor_that_is_required(app: App) -> None:
    submitted = app.reset("submit", app.begin_reset(MFA_USER).token, new_password=NEW_PASSWORD)
    polled = app.reset("poll_completion", submitted.token)
    assert app.token("continuation_token", polled.token, username=MFA_USER).why[1] == "mfa_required"
