"""auth0-spa-js in older versions: the last of its first major line, and 2.1."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.auth0_js.single_page import FIRST_LINE, Bench, by_redirect, call, leave, popup, returned
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]
SECOND_LINE = "auth0-spa-js-2.1"
ANEW: dict[str, dict[str, Any]] = {FIRST_LINE: {"ignoreCache": True}, SECOND_LINE: {"cacheMode": "off"}}
MODES = [{}, {"useRefreshTokens": True}, {"useRefreshTokens": True, "cacheLocation": "localstorage"}]


@pytest.mark.parametrize("sdk", ANEW)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "+".join(mode) or "frames")
async def test_an_older_version_signs_in_renews_and_signs_out(spa: Bench, sdk: str, mode: dict[str, Any]) -> None:
    page = await spa.open(sdk=sdk, **mode)
    assert "value" in await by_redirect(page)
    assert (await returned(page, "getUser"))["email"] == PASSWORD_USER
    first = await returned(page, "getTokenSilently")
    told = await asyncio.gather(*(returned(page, "getTokenSilently", ANEW[sdk]) for _ in range(3)))
    assert first not in told
    assert not any(family.is_dead for family in spa.server.provider.state.families.values())
    words = {"returnTo": f"{spa.app.origin}/"}
    async with page.expect_navigation(url=f"{spa.app.origin}/"):
        await leave(page, "logout", words if sdk == FIRST_LINE else {"logoutParams": words})
    asks_a_frame = sdk == FIRST_LINE or not mode  # the first line does where it has no refresh token
    expected = "login_required" if asks_a_frame else "missing_refresh_token"
    assert (await call(page, "getTokenSilently"))["error"] == expected


@pytest.mark.parametrize("sdk", ANEW)
async def test_an_older_version_has_its_popup(spa: Bench, sdk: str) -> None:
    page = await spa.open(sdk=sdk)
    async with popup(page) as (window, told):
        await window.close()
        assert (await told)["error"] == "cancelled"
    async with popup(page) as (window, told):
        await sign_in(window)
        assert "value" in await told
    assert (await returned(page, "getUser"))["email"] == PASSWORD_USER
