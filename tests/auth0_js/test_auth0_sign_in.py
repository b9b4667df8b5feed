"""auth0-spa-js, as it comes: people sign in by redirect and by popup, change their minds, and sign out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.auth0_js.single_page import (
    Bench,
    arrived,
    bench,
    by_redirect,
    leave,
    popup,
    returned,
    silently,
    transfer_token,
)
from tests.browser.app_server import AppServer
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, ClientModel
from token_relay.sandbox.provider.world.rules import user_id

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]
MFA_USER, OTP_USER = "mfa@contoso.example", "otp@contoso.example"
THIRD_PARTY = "somebody-elses-app"
WORLD = DEFAULT_WORLD.model_copy(
    update={
        "clients": [
            ClientModel(client_id="sandbox-spa", app_type="spa"),
            ClientModel(client_id=THIRD_PARTY, app_type="spa", is_first_party=False),
        ]
    }
)


async def test_a_redirect_signs_in_and_a_reload_keeps_the_person(spa: Bench) -> None:
    page = await spa.open()
    assert await by_redirect(page, {"appState": {"target": "/x"}}) == {
        "value": {"appState": {"target": "/x"}, "response_type": "code"}
    }
    user = await returned(page, "getUser")
    assert user["sub"] == user_id(PASSWORD_USER)
    await page.reload()  # the tokens were in memory: a hidden frame brings new ones
    assert (await returned(page, "getUser"))["sub"] == user["sub"]
    assert len(spa.server.provider.state.sessions) == 1


async def test_a_second_sign_in_shows_no_form(spa: Bench) -> None:
    page = await spa.open()
    await by_redirect(page)
    await leave(page, "loginWithRedirect")
    assert "value" in await arrived(page)
    async with popup(page) as (_, told):
        assert await told == {"value": None}


async def test_no_redirect_uri_is_said_for_popups_and_frames(spa: Bench) -> None:
    """The SDK then names the page's origin, without a path."""
    page = await spa.open()
    del spa.app.settings["options"]["authorizationParams"]
    await page.reload()
    async with popup(page) as (window, told):
        await sign_in(window)
        assert await told == {"value": None}
    assert "value" in await silently(page)


async def test_prompt_login_shows_the_form_with_the_hinted_name(spa: Bench) -> None:
    page = await spa.open()
    await by_redirect(page)
    words = {"authorizationParams": {"prompt": "login", "login_hint": OTP_USER}}
    async with popup(page, words) as (window, told):
        assert await window.locator("input[name=username]").input_value() == OTP_USER
        await sign_in(window)
        assert await told == {"value": None}


async def test_a_wrong_password_is_said_on_the_page_and_the_right_one_still_counts(spa: Bench) -> None:
    page = await spa.open()
    async with popup(page) as (window, told):
        await sign_in(window, password="wrong")
        assert "Wrong user name" in await window.get_by_role("alert").inner_text()
        await sign_in(window)
        assert await told == {"value": None}
    assert (await returned(page, "getUser"))["email"] == PASSWORD_USER


async def test_a_closed_popup_is_told(spa: Bench) -> None:
    page = await spa.open()
    async with popup(page) as (window, told):
        await window.close()
        assert (await told)["error"] == "cancelled"
    assert await returned(page, "isAuthenticated") is False


async def test_a_popup_with_a_second_factor(spa: Bench) -> None:
    page = await spa.open()
    async with popup(page) as (window, told):
        await sign_in(window, MFA_USER)
        await window.get_by_text("A code was sent to you").wait_for()
        await sign_in(window, MFA_USER, spa.code_for(MFA_USER))
        assert await told == {"value": None}
    assert (await returned(page, "getUser"))["sub"] == user_id(MFA_USER)
    assert "value" in await silently(page)  # the session remembers the second factor


async def test_a_popup_for_a_person_without_a_password(spa: Bench) -> None:
    page = await spa.open()
    async with popup(page) as (window, told):
        await sign_in(window, OTP_USER, "")
        await window.get_by_text("A code was sent to you").wait_for()
        await sign_in(window, OTP_USER, spa.code_for(OTP_USER))
        assert await told == {"value": None}


async def test_nobody_is_signed_in(spa: Bench) -> None:
    page = await spa.open()
    told = await silently(page)
    assert (told["error"], told["text"]) == ("login_required", "Login required")


async def test_after_a_logout_the_person_has_to_sign_in(spa: Bench) -> None:
    page = await spa.open()
    await by_redirect(page)
    async with page.expect_navigation(url=f"{spa.app.origin}/"):
        await leave(page, "logout", {"logoutParams": {"returnTo": f"{spa.app.origin}/"}})
    assert (await silently(page))["error"] == "login_required"
    assert "value" in await by_redirect(page)  # by the form


async def test_a_logout_to_a_foreign_page_stays_at_the_provider(spa: Bench) -> None:
    page = await spa.open()
    await by_redirect(page)
    await leave(page, "logout", {"logoutParams": {"returnTo": "https://evil.example/"}})
    await page.get_by_text("not allowed").wait_for()
    assert page.url.startswith(f"{spa.server.base_url}/v2/logout?")


@pytest.mark.parametrize("organization", ["org_9ybsU1dN2dKfDkBi", "Contoso-Watches"])
async def test_an_organization_by_id_and_by_name(spa: Bench, organization: str) -> None:
    page = await spa.open(authorizationParams={"organization": organization})
    assert "value" in await by_redirect(page)
    assert (await silently(page)).keys() == {"value"}
    claims = await returned(page, "getIdTokenClaims")
    if organization.startswith("org_"):
        assert claims["org_id"] == organization and "org_name" not in claims
    else:
        assert claims["org_name"] == "contoso-watches" and claims["org_id"].startswith("org_")


async def test_max_age_has_its_proof(spa: Bench) -> None:
    page = await spa.open(authorizationParams={"max_age": 3600})
    assert "value" in await by_redirect(page)
    assert "value" in await silently(page)


# -- an application of somebody else ----------------------------------------------------------------------------------


async def test_a_third_party_application_asks_for_consent(packages: Path, tmp_path: Path, signer: RsaSigner) -> None:
    async with bench(packages, tmp_path, signer, world=WORLD) as spa:
        page = await spa.open()
        await by_redirect(page)
        page = await spa.open(clientId=THIRD_PARTY)
        assert (await silently(page))["error"] == "consent_required"
        async with popup(page) as (window, told):
            await window.get_by_role("button", name="Decline").click()
            declined = await told
        assert (declined["error"], declined["text"]) == ("access_denied", "User did not authorize the request")
        await leave(page, "loginWithRedirect")
        await page.get_by_role("button", name="Decline").click()
        assert (await arrived(page))["error"] == "access_denied"
        async with popup(page) as (window, told):
            await window.get_by_role("button", name="Accept").click()
            assert await told == {"value": None}
        assert "value" in await silently(page)


async def test_only_the_page_that_was_named_gets_the_message(spa: Bench, packages: Path) -> None:
    """Another page opens the popup and names the application's address: the browser keeps the answer from it."""
    page = await spa.open()
    await by_redirect(page)
    async with AppServer(packages, {"/": Path(__file__).parent / "spa.mjs"}) as other:
        other.settings.update(spa.app.settings)
        await spa.profile.clear_cookies(name=re.compile("authenticated"))  # ports share cookies: this is the page's own
        stranger = await spa.profile.new_page()
        await stranger.goto(f"{other.origin}/")
        async with (
            stranger.context.expect_console_message(lambda one: "postMessage" in one.text) as refused,
            popup(stranger) as (window, told),
        ):
            assert spa.app.origin in (await refused.value).text
            await window.close()
            assert (await told)["error"] == "cancelled"
        async with stranger.context.expect_console_message(lambda one: "frame-ancestors" in one.text) as framed:
            await leave(stranger, "getTokenSilently")
        assert spa.app.origin in (await framed.value).text


# -- from a native app -------------------------------------------------------------------------------------------------


async def test_a_session_transfer_token_replaces_the_form_once(spa: Bench) -> None:
    token = await transfer_token(spa.server)
    words = {"authorizationParams": {"session_transfer_token": token}}
    page = await spa.open()
    await leave(page, "loginWithRedirect", words)
    assert "value" in await arrived(page)
    assert (await returned(page, "getUser"))["email"] == PASSWORD_USER
    await spa.profile.clear_cookies()
    await page.reload()
    assert "value" in await by_redirect(page, words)  # it is used up: the person fills in the form


async def test_the_application_takes_the_token_out_of_its_address(spa: Bench) -> None:
    page = await spa.open(sessionTransferTokenQueryParamName="session_transfer_token")
    await page.goto(f"{spa.app.origin}/?session_transfer_token={await transfer_token(spa.server)}")
    async with popup(page) as (_, told):
        assert await told == {"value": None}
    assert "session_transfer_token" not in page.url
