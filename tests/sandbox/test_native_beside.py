"""What native authentication changes elsewhere: the browser's page, the controls, the world file, the command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sandbox.native_kit import (
    MFA_USER,
    NEW_PASSWORD,
    OTP_USER,
    PASSWORD_USER,
    REGISTER_USER,
    RESET_USER,
    App,
    Journey,
)
from tests.sandbox.sandbox_client import SandboxClient, Start, query_of
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.main import SandboxOptions, run
from token_relay.sandbox.provider.native import sign_up
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD, parse_world

# -- the browser -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("username", [MFA_USER, REGISTER_USER])
async def test_the_browser_too_asks_for_the_second_factor(entra: SandboxClient, username: str) -> None:
    page = await entra.submit(await entra.authorize(), username, PASSWORD)
    assert page.status == 200 and "code was sent" in page.text
    wrong = await entra.submit(page, username, PASSWORD)  # the password is no code
    assert wrong.status == 400
    done = await entra.submit(wrong, username, await entra.code(username))
    tokens = await entra.redeem(query_of(done)["code"])
    assert tokens.status == 200
    await entra.ordered("policy", conditional_access=50076)
    assert (await entra.refresh(tokens.json["refresh_token"])).status == 200  # it counts as one


@pytest.mark.asyncio
async def test_a_code_for_one_person_does_not_sign_another_in(entra: SandboxClient) -> None:
    page = await entra.submit(await entra.authorize(), MFA_USER, PASSWORD)
    other = await entra.submit(page, REGISTER_USER, await entra.code(MFA_USER))
    assert other.status == 400


@pytest.mark.asyncio
async def test_a_blocked_person_comes_back_from_the_browser_with_the_reason(entra: SandboxClient) -> None:
    await entra.ordered("policy", conditional_access=53003)
    done = await entra.submit(await entra.authorize(), PASSWORD_USER, PASSWORD)
    assert query_of(done)["error"] == "access_denied" and "AADSTS53003" in query_of(done)["error_description"]
    await entra.ordered("policy", conditional_access=None)
    await entra.ordered("users", username=PASSWORD_USER, password=PASSWORD, disabled=True)
    assert (await entra.submit(await entra.authorize(), PASSWORD_USER, PASSWORD)).status == 400


@pytest.mark.asyncio
async def test_a_single_page_app_s_grant_ends_after_a_day_whatever_it_does(entra: SandboxClient) -> None:
    await entra.ordered("clients", client_id=CLIENT_ID, spa=True)
    entra.origin = "http://localhost:3000"
    token = (await entra.redeem(await entra.browser_code())).json["refresh_token"]
    await entra.ordered("clock", advance_s=86_399)
    token = (await entra.refresh(token)).json["refresh_token"]
    await entra.ordered("clock", advance_s=1)
    assert (await entra.refresh(token)).json["error_codes"] == [700084]


@pytest.mark.asyncio
async def test_a_strict_provider_knows_nothing_of_second_factors(start: Start) -> None:
    async with start("strict") as strict:
        await strict.ordered("users", username=PASSWORD_USER, password=PASSWORD, mfa="required")
        assert "access_token" in await strict.sign_in(PASSWORD_USER)


@pytest.mark.asyncio
@pytest.mark.parametrize("profile", ["auth0", "strict"])
async def test_other_profiles_know_nothing_of_conditional_access(start: Start, profile: str) -> None:
    async with start(profile) as other:
        await other.ordered("policy", conditional_access=53003)
        token = (await other.sign_in())["refresh_token"]
        assert (await other.refresh(token)).status == 200


@pytest.mark.asyncio
async def test_revocation_kills_by_method_where_there_are_families_to_kill(start: Start) -> None:
    async with start("strict") as strict:
        token = (await strict.sign_in())["refresh_token"]
        await strict.ordered("revoke", username=PASSWORD_USER, event="single_sign_out")
        token = (await strict.refresh(token)).json["refresh_token"]
        await strict.ordered("revoke", username=PASSWORD_USER, event="password_changed")
        assert (await strict.refresh(token)).json["error"] == "invalid_grant"


# -- the controls ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_people_are_listed_with_what_is_not_as_usual(entra: SandboxClient) -> None:
    methods = [{"channel": "sms", "target": "+1 425 555 0142"}]
    await entra.ordered("users", username="Ann@contoso.example", password="x", mfa="required", methods=methods)
    listed = (await entra.request("GET", "/sandbox/users")).json["users"]
    assert listed[-1] == {
        "username": "ann@contoso.example",
        "kind": "password",
        "mfa": "required",
        "methods": [{"channel": "sms", "target": "+14255550142"}],
    }


BAD_ORDERS: list[tuple[str, dict[str, Any], str]] = [
    ("users", {"username": "a@b.example", "mfa": "maybe"}, "mfa"),
    ("users", {"username": "nobody", "mfa": "required"}, "mfa required"),
    ("users", {"username": "a@b.example", "methods": [{"channel": "pigeon", "target": "x"}]}, "methods[0].channel"),
    ("users", {"username": "a@b.example", "methods": [{"channel": "sms", "target": "12"}]}, "a phone number"),
    ("users", {"username": "a@b.example", "methods": [{"channel": "email", "target": "12"}]}, "an e-mail address"),
    (
        "users",
        {"username": "a@b.example", "mfa": "register", "methods": [{"channel": "email", "target": "a@b.example"}]},
        "none yet",
    ),
    ("users", {"username": "a@b.example", "attributes": {"a": 1}}, "attributes.a"),
    ("policy", {"required_attributes": [{"name": "1x"}]}, "required_attributes[0].name"),
    ("policy", {"required_attributes": [{"name": "x", "regex": "("}]}, "regular expression"),
    ("policy", {"conditional_access": 1}, "conditional_access"),
    ("policy", {"otp_refresh_mode": "never"}, "otp_refresh_mode"),
    ("policy", {"registration_channels": []}, "registration_channels"),
    ("policy", {"password_classes_min": 5}, "password_classes_min"),
    ("revoke", {"username": PASSWORD_USER, "event": "earthquake"}, "event"),
    ("keys", {"keep_old": "yes"}, "keep_old"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "body", "words"), BAD_ORDERS)
async def test_a_bad_order_is_400_and_names_what_is_wrong(
    entra: SandboxClient, path: str, body: dict[str, Any], words: str
) -> None:
    reply = await entra.order(path, **body)
    assert reply.status == 400 and words in reply.json["detail"]


@pytest.mark.asyncio
async def test_a_phone_number_s_mailbox_is_found_in_any_spelling(entra: SandboxClient) -> None:
    entra.server.provider.state.send_code("+14255550142", 1_800_000_000.0)
    codes = {
        (await entra.request("GET", f"/sandbox/mailbox/{spelled}")).text
        for spelled in ("+14255550142", "%2B14255550142", "+1-425-555-0142", "+1%20(425)%20555-0142")
    }
    assert len(codes) == 1 and codes.pop().isdigit()


def test_a_policy_keeps_attributes_and_what_it_does_not_say() -> None:
    app = App()
    app.order("policy", required_attributes=["city", {"name": "age", "type": "Int64"}])
    shown = app.order("policy", sign_up="password")
    assert [one["name"] for one in shown["required_attributes"]] == ["city", "age"]
    assert shown["sign_up"] == "password" and shown["code_length"] == 8


def test_events_tell_the_story_without_a_secret() -> None:
    app = App()
    app.by_two_factors(MFA_USER)
    app.reset("submit", app.begin_reset().token, new_password=NEW_PASSWORD)
    told = [event.as_json() for event in app.provider.state.events]
    assert all("trace_id" in one for one in told)
    assert [one["kind"] for one in told] == [
        *("token_request_received", "more_required", "code_sent", "token_request_received", "signed_in"),
        *("code_sent", "password_reset", "token_revoked"),
    ]
    assert "SANDBOXMARK" not in str(told) and PASSWORD not in str(told) and NEW_PASSWORD not in str(told)


# -- the world file and the command ------------------------------------------------------------------------------------

WORLD = """\
[[users]]
username = "ada@fabrikam.example"
password = "analytical"
mfa = "required"
methods = [{ channel = "sms", target = "+1 425 555 0142" }]

[policy]
required_attributes = ["displayName", { name = "age", type = "Int64" }]
conditional_access = 70043
"""


def test_a_world_file_says_all_that_the_controls_say() -> None:
    world = parse_world(WORLD, file="w.toml")
    assert world.users[0].methods[0].channel == "sms"
    assert [one.name for one in world.policy.required_attributes] == ["displayName", "age"]
    app = App(world)
    assert app.provider.state.policy.conditional_access == 70043
    assert app.provider.state.users["ada@fabrikam.example"].methods[0].target == "+14255550142"


def test_a_mistake_in_a_world_file_has_its_line() -> None:
    with pytest.raises(ConfigError, match=r"w\.toml:5: users\[0\]\.methods\[0\]"):
        parse_world(WORLD.replace("+1 425 555 0142", "x"), file="w.toml")


@pytest.mark.asyncio
async def test_the_command_refuses_what_is_no_origin() -> None:
    with pytest.raises(ConfigError, match="--cors localhost is not of the form"):
        await run(SandboxOptions(http_port=0, mqtt_port=None, cors=("localhost",)))


# -- what a lenient service would let pass -----------------------------------------------------------------------------


@pytest.fixture
def app() -> App:
    return App()


def test_a_code_that_was_right_is_used_up_even_if_the_sign_in_was_refused_after_it(app: App) -> None:
    token = app.begin(OTP_USER).token
    code = app.mail(OTP_USER)
    app.order("policy", conditional_access=53003)
    assert app.token("oob", token, oob=code).why[2] == 53003
    app.order("policy", conditional_access=None)
    assert app.token("oob", token, oob=code).why == ("invalid_grant", "invalid_oob_value", 50181)


def test_a_flow_that_asked_for_too_many_codes_is_over(app: App) -> None:
    token = app.begin(OTP_USER).token
    for _ in range(9):
        token = app.challenge(token).token
    code = app.mail(OTP_USER)
    assert app.challenge(token).why == ("expired_token", "", 552003)
    assert app.token("oob", token, oob=code).why == ("invalid_grant", "", 55200)


def test_a_method_is_chosen_among_those_that_were_listed(app: App) -> None:
    required = app.by_password(MFA_USER)
    method = app.provider.state.users[MFA_USER].methods[0].method_id
    assert app.challenge(required.token, id=method).why == ("invalid_grant", "", 55200)
    listed = app.introspect(required.token)
    assert app.challenge(listed.token, id="unknown").why == ("invalid_request", "", 90100)


def test_a_second_factor_is_no_code_for_a_client_that_cannot_take_one(app: App) -> None:
    listed = app.introspect(app.by_password(MFA_USER).token)
    assert app.challenge(listed.token, challenge_type="password redirect").is_redirect
    assert "code_sent" not in app.kinds()


def test_a_user_name_that_is_given_though_not_needed_must_be_right(app: App) -> None:
    more = {"challenge_type": "oob", "challenge_target": REGISTER_USER}
    listed = app.register("introspect", app.by_password(REGISTER_USER).token)
    asked = app.register("challenge", listed.token, **more)
    done = app.register("continue", asked.token, grant_type="oob", oob=app.mail(REGISTER_USER))
    assert app.token("continuation_token", done.token, username=MFA_USER).why == ("invalid_grant", "", 55200)
    assert app.token("continuation_token", done.token, username=REGISTER_USER).has_tokens


def test_after_a_reset_the_client_says_the_user_name(app: App) -> None:
    begun = app.reset("start", username=RESET_USER, challenge_type="oob redirect")
    asked = app.reset("challenge", begun.token, challenge_type="oob redirect")
    proven = app.reset("continue", asked.token, grant_type="oob", oob=app.mail(RESET_USER))
    done = app.reset("poll_completion", app.reset("submit", proven.token, new_password=NEW_PASSWORD).token)
    assert app.token("continuation_token", done.token).why == ("invalid_request", "", 90100)
    assert app.token("continuation_token", done.token, username=MFA_USER).why == ("invalid_grant", "", 55200)
    assert app.token("continuation_token", done.token, username=RESET_USER).has_tokens


def test_an_address_that_nobody_has_proven_is_registered_with_a_code(app: App) -> None:
    listed = app.register("introspect", app.by_password(REGISTER_USER).token)
    for types in ("", "password redirect"):
        refused = app.register("challenge", listed.token, challenge_type=types, challenge_target=REGISTER_USER)
        assert refused.why == ("invalid_request", "", 901007)
    more = {"challenge_type": "oob", "challenge_target": "a@contoso.example", "challenge_channel": "pigeon"}
    assert app.register("challenge", listed.token, **more).why == ("invalid_request", "", 901001)
    asked = app.register("challenge", listed.token, challenge_type="oob", challenge_target=REGISTER_USER)
    assert asked.json["challenge_type"] == "oob"
    assert app.register("continue", asked.token, grant_type="continuation_token").why[2] == 55200


def test_a_name_that_is_taken_between_two_steps_of_a_sign_up_is_refused(app: App) -> None:
    name = "late@contoso.example"
    asked = app.begin_signup(name)
    wanted = app.signup("continue", asked.token, grant_type="oob", oob=app.mail(name))
    given = app.signup("challenge", wanted.token, challenge_type="password oob redirect")
    app.order("users", username=name)
    refused = app.signup("continue", given.token, grant_type="password", password=NEW_PASSWORD)
    assert refused.why[0] == "user_already_exists"
    assert app.provider.state.users[name].password is None


def test_a_taken_name_costs_no_code(app: App) -> None:
    name = "late@contoso.example"
    asked = app.begin_signup(name, password=NEW_PASSWORD)
    code = app.mail(name)
    app.order("users", username=name)
    for _ in range(2):
        refused = app.signup("continue", asked.token, grant_type="oob", oob=code)
        assert refused.why[0] == "user_already_exists"


def test_version_2_too_tells_where_a_code_went_and_not_the_whole_address() -> None:
    chosen = Journey().sign_in(MFA_USER)
    hints = [one["hint"] for one in chosen.last.json["_embedded"]["methods"]]
    assert hints and all("*" in hint for hint in hints) and MFA_USER not in hints
    assert "*" in Journey().start("sign_up", "new@contoso.example").last.json["hint"]
    enrolled = Journey().sign_in(REGISTER_USER).choose("email", "enroll", email="else@contoso.example")
    assert "*" in enrolled.last.json["hint"]
    assert "*" in Journey().start("sign_in", OTP_USER).last.json["_embedded"]["methods"][0]["hint"]


def test_a_full_directory_takes_nobody(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_up, "USERS_MAX", len(app.provider.state.users))
    asked = app.begin_signup("new@contoso.example", password=NEW_PASSWORD)
    full = app.signup("continue", asked.token, grant_type="oob", oob=app.mail("new@contoso.example"))
    assert (full.status, full.json["error"]) == (429, "temporarily_unavailable")


@pytest.mark.parametrize(
    "attributes", ['{"shoe": "x44x"}', '{"shoe": ""}', json.dumps({"shoe": "44", **{f"a{n}": "b" for n in range(50)}})]
)
def test_attributes_fit_whole_and_in_bounds(app: App, attributes: str) -> None:
    app.order("policy", required_attributes=[{"name": "shoe", "regex": "[0-9]{2}"}])
    asked = app.begin_signup("new@contoso.example", password=NEW_PASSWORD)
    wanted = app.signup("continue", asked.token, grant_type="oob", oob=app.mail("new@contoso.example"))
    refused = app.signup("continue", wanted.token, grant_type="attributes", attributes=attributes)
    assert refused.status == 400 and "new@contoso.example" not in app.provider.state.users
    done = app.signup("continue", wanted.token, grant_type="attributes", attributes='{"shoe": "44"}')
    assert done.status == 200
