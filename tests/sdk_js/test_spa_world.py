"""Microsoft's browser SDK with its defaults, through what a person does with a single-page application."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in
from tests.sdk_js.spa_kit import ORDERS, SECOND_CLIENT_ID, VERSIONS, Spa, SpaWorld, nobody

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]
every_version = pytest.mark.parametrize("spa", VERSIONS, indirect=True)
DAY_S = 86_400
LOSE_REFRESH_TOKEN = """() => {
  const found = Object.keys(sessionStorage).filter((key) => /refreshtoken/i.test(key));
  found.forEach((key) => sessionStorage.removeItem(key));
  return found.length;
}"""
OTHER_USER = "reset@contoso.example"


async def as_other(page: Page) -> None:
    await sign_in(page, OTHER_USER)


async def signed_in(spa: SpaWorld) -> Spa:
    """A tab whose person has signed in."""
    tab = await spa.tab()
    assert (await tab.popup("loginPopup", sign_in))["username"] == PASSWORD_USER
    return tab


@every_version
async def test_popup_and_both_ways_to_a_token_without_a_person(spa: SpaWorld) -> None:
    tab = await spa.tab()
    tokens = await tab.popup("loginPopup", sign_in)
    assert tokens["idTokenClaims"]["preferred_username"] == PASSWORD_USER
    assert await tab.accounts() == [PASSWORD_USER] and spa.sent("token") == 1
    cached = await tab.call("acquireTokenSilent", scopes=["openid"])
    assert (cached["accessToken"], cached["fromCache"]) == (tokens["accessToken"], True)
    assert spa.sent("token") == 1
    refreshed = await tab.call("acquireTokenSilent", scopes=["openid"], forceRefresh=True)
    assert refreshed["accessToken"] != tokens["accessToken"] and not refreshed["fromCache"]
    assert (spa.sent("token"), spa.sent("authorize")) == (2, 1)
    assert (await spa.sandbox.resource(refreshed["accessToken"])).json["username"] == PASSWORD_USER


@every_version
async def test_redirect_brings_the_application_its_own_state_back(spa: SpaWorld) -> None:
    tab = await spa.tab()
    tokens = await tab.leave("loginRedirect", sign_in, scopes=[], state="page=2&what=a|b c+d%20é")
    assert (tokens["username"], tokens["state"]) == (PASSWORD_USER, "page=2&what=a|b c+d%20é")
    assert (await tab.call("acquireTokenSilent", scopes=["openid"]))["fromCache"]


@every_version
async def test_a_hidden_frame_follows_a_refresh_token_that_has_ended(spa: SpaWorld) -> None:
    tab = await signed_in(spa)
    await spa.sandbox.ordered(
        "clock", advance_s=DAY_S + 1
    )  # no refresh token of a single-page application lives longer
    renewed = await tab.call("acquireTokenSilent", scopes=["openid"], forceRefresh=True)
    assert renewed["username"] == PASSWORD_USER
    assert (spa.sent("authorize"), spa.sent("login")) == (2, 1)
    assert (await spa.sandbox.resource(renewed["accessToken"])).json["username"] == PASSWORD_USER


@every_version
async def test_a_hidden_frame_follows_a_refresh_token_that_is_gone(spa: SpaWorld) -> None:
    tab = await signed_in(spa)
    assert await tab.page.evaluate(LOSE_REFRESH_TOKEN) == 1
    renewed = await tab.call("acquireTokenSilent", scopes=["openid"], forceRefresh=True)
    assert renewed["username"] == PASSWORD_USER
    assert (spa.sent("authorize"), spa.sent("login")) == (2, 1)


@every_version
async def test_another_tab_finds_the_session_and_none_after_a_sign_out(spa: SpaWorld) -> None:
    other = await spa.tab()
    assert (await other.call("ssoSilent", scopes=["openid"]))["error"] == "login_required"
    tab = await signed_in(spa)
    assert (await other.call("ssoSilent", scopes=["openid"]))["username"] == PASSWORD_USER
    assert spa.sent("login") == 1
    assert await tab.popup("logoutPopup", nobody) == {"nothing": True}
    assert await tab.accounts() == []
    third = await spa.tab()
    refused = await third.call("ssoSilent", loginHint=PASSWORD_USER)
    assert (refused["name"], refused["error"]) == ("InteractionRequiredAuthError", "login_required")
    assert (await third.popup("loginPopup", sign_in))["username"] == PASSWORD_USER
    assert spa.sent("login") == 2


@every_version
async def test_signing_out_by_redirect_ends_the_session(spa: SpaWorld) -> None:
    tab = await signed_in(spa)
    assert await tab.leave("logoutRedirect", nobody) == {"nothing": True}
    assert await tab.accounts() == []
    assert (await tab.call("ssoSilent", loginHint=PASSWORD_USER))["error"] == "login_required"
    assert (await tab.leave("loginRedirect", as_other, scopes=[]))["username"] == OTHER_USER


@every_version
async def test_another_api_and_another_application_need_no_form(spa: SpaWorld) -> None:
    tab = await signed_in(spa)
    orders = await tab.call("acquireTokenSilent", scopes=[ORDERS])
    assert orders["scopes"] == [ORDERS]
    by_popup = await tab.popup("acquireTokenPopup", nobody, scopes=["api://stock/Stock.Read"])
    assert by_popup["scopes"] == ["api://stock/Stock.Read"]
    by_redirect = await tab.leave("acquireTokenRedirect", nobody, scopes=["api://bills/Bills.Read"])
    assert by_redirect["scopes"] == ["api://bills/Bills.Read"]
    second = await spa.tab(SECOND_CLIENT_ID)
    tokens = await second.popup("loginPopup", nobody)
    assert (tokens["username"], tokens["idTokenClaims"]["aud"]) == (PASSWORD_USER, SECOND_CLIENT_ID)
    assert spa.sent("login") == 1


@every_version
async def test_a_wrong_password_shows_the_form_again(spa: SpaWorld) -> None:
    async def twice(page: Page) -> None:
        await sign_in(page, password="wrong")
        await expect(page.get_by_role("alert")).to_be_visible()
        await sign_in(page)

    tab = await spa.tab()
    assert (await tab.popup("loginPopup", twice))["username"] == PASSWORD_USER
    assert (spa.sent("login"), spa.sent("token")) == (2, 1)


@every_version
async def test_a_closed_popup_is_no_sign_in_and_the_next_one_is(spa: SpaWorld) -> None:
    async def closes(page: Page) -> None:
        await page.locator("input[name=password]").wait_for()
        await page.close()
        await tab.page.clock.fast_forward(60_000)

    tab = await spa.tab()
    await tab.page.clock.install()
    refused = await tab.popup("loginPopup", closes)
    assert (refused["name"], refused["error"]) == ("BrowserAuthError", spa.version["closed"])
    assert await tab.accounts() == [] and spa.sent("token") == 0
    assert (await tab.popup("loginPopup", sign_in))["username"] == PASSWORD_USER


@every_version
async def test_a_prompt_asks_the_person_although_there_is_a_session(spa: SpaWorld) -> None:
    tab = await signed_in(spa)
    again = await tab.popup("loginPopup", as_other, scopes=[], prompt="login")
    assert again["username"] == OTHER_USER and spa.sent("login") == 2


@every_version
async def test_a_person_picks_the_account_that_is_there_or_another_one(spa: SpaWorld) -> None:
    async def picks_the_same(page: Page) -> None:
        await page.get_by_role("button", name=PASSWORD_USER).click()

    async def picks_another(page: Page) -> None:
        await page.get_by_role("button", name="Use another account").click()
        await as_other(page)

    tab = await signed_in(spa)
    same = await tab.popup("loginPopup", picks_the_same, scopes=[], prompt="select_account")
    assert same["username"] == PASSWORD_USER
    other = await tab.leave("loginRedirect", picks_another, scopes=[], prompt="select_account")
    assert other["username"] == OTHER_USER
    assert sorted(await tab.accounts()) == [PASSWORD_USER, OTHER_USER]
    assert (await (await spa.tab()).call("ssoSilent", scopes=["openid"]))["username"] == OTHER_USER
