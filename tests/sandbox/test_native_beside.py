"""What native authentication changes elsewhere: the browser's page, the controls, the world file, the command."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.native_kit import MFA_USER, NEW_PASSWORD, PASSWORD_USER, REGISTER_USER, App
from tests.sandbox.sandbox_client import SandboxClient, Start, query_of
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.main import SandboxOptions, run
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
