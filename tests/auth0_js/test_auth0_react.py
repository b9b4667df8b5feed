"""auth0-react, as it comes: a provider, a hook, and a page that only signed-in people see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page

from tests.auth0_js.single_page import Bench
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in
from token_relay.sandbox.provider.world.rules import user_id

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]


async def user(page: Page) -> dict[str, Any]:
    """Return what ``useAuth0().user`` shows."""
    shown: dict[str, Any] = json.loads(await page.locator("#user").inner_text())
    return shown


async def press(page: Page, name: str) -> None:
    """Press a button of the application."""
    await page.get_by_role("button", name=name).click()


async def test_a_redirect_a_reload_a_token_and_a_logout(spa: Bench) -> None:
    page = await spa.open(path="/react")
    await press(page, "redirect")
    await sign_in(page)
    found = await user(page)
    assert found["sub"] == user_id(PASSWORD_USER)
    assert (found["nickname"], found["email_verified"]) == ("password", True)
    assert found["picture"].startswith("https://") and found["updated_at"].endswith("Z")
    assert page.url == f"{spa.app.origin}/react"  # the code is gone from the address
    await page.reload()
    assert (await user(page))["sub"] == found["sub"]
    await press(page, "token")
    assert await (await page.wait_for_function("() => window.token")).json_value()
    await press(page, "sign out")
    await page.locator("#nobody").wait_for()
    assert page.url == f"{spa.app.origin}/react"


async def test_a_popup_with_refresh_tokens(spa: Bench) -> None:
    page = await spa.open(path="/react", useRefreshTokens=True)
    async with page.expect_popup() as opened:
        await press(page, "popup")
    await sign_in(await opened.value)
    assert (await user(page))["name"] == "Pat Password"
    await press(page, "token")
    assert await (await page.wait_for_function("() => window.token")).json_value()


async def test_a_closed_popup_is_an_error_of_the_hook(spa: Bench) -> None:
    page = await spa.open(path="/react")
    async with page.expect_popup() as opened:
        await press(page, "popup")
    await (await opened.value).close()
    await page.locator("#error").get_by_text("cancelled").wait_for()
    await page.locator("#nobody").wait_for()


async def test_a_page_for_signed_in_people_sends_the_others_to_the_form_and_back(spa: Bench) -> None:
    page = await spa.open(path="/private")
    await sign_in(page)
    assert (await user(page))["email"] == PASSWORD_USER
    assert page.url == f"{spa.app.origin}/private"
