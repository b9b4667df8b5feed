"""The two browser SDKs of the page in Chromium, which trusts the sandbox by the key that the sandbox has named."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Error, Page

from tests.browser.app_server import AppServer
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, Certificate, chromium, new_profile, sign_in
from tests.clients.page_kit import REFUSALS, Sandbox

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]


def certificate(sandbox: Sandbox) -> Certificate | None:
    """Return what the page's lines have made, once the sandbox has named its key."""
    if not sandbox.facts["trust"]:
        return None
    made = sandbox.directory / "ca"
    found = Certificate(made / "ca.pem", made / "broker" / "broker.pem", made / "broker" / "broker.key")
    assert sandbox.facts["trust"]["chromium"].endswith(f"--ignore-certificate-errors-spki-list={found.spki_hash}")
    return found


async def clicked(page: Page, origin: str) -> Page:
    """Open the page, click, and return the popup."""
    await page.goto(f"{origin}/")
    await page.wait_for_function("document.onclick !== null")
    async with page.expect_popup() as popup:
        await page.click("html", position={"x": 1, "y": 1})
    return await popup.value


async def test_msal_js(entra: Sandbox, packages: Path) -> None:
    scripts = {
        "/": entra.write("page.mjs", entra.snippet("msal-browser")),
        "/redirect.html": entra.write("redirect.mjs", entra.snippet("msal-redirect")),
    }
    async with (
        AppServer(packages, scripts) as app,
        chromium(certificate(entra)) as browser,
        new_profile(browser) as profile,
    ):
        page = await profile.new_page()
        await sign_in(await clicked(page, app.origin))
        await page.get_by_text(PASSWORD_USER).wait_for()


@pytest.mark.parametrize("name", ["auth0", "plain_auth0"])
async def test_auth0_spa_js(name: str, request: pytest.FixtureRequest, packages: Path) -> None:
    sandbox: Sandbox = request.getfixturevalue(name)
    scripts = {"/": sandbox.write("page.mjs", sandbox.snippet("auth0-spa-js"))}
    async with (
        AppServer(packages, scripts) as app,
        chromium(certificate(sandbox)) as browser,
        new_profile(browser) as profile,
    ):
        page = await profile.new_page()
        await sign_in(await clicked(page, app.origin))
        await page.get_by_text(PASSWORD_USER).wait_for()


async def test_msal_js_says_why_it_wants_https(plain_entra: Sandbox, packages: Path) -> None:
    scripts = {"/": plain_entra.write("page.mjs", plain_entra.snippet("msal-browser"))}
    async with AppServer(packages, scripts) as app, chromium() as browser, new_profile(browser) as profile:
        page = await profile.new_page()
        async with page.expect_event("pageerror") as thrown:
            await clicked(page, app.origin)
        assert REFUSALS["MSAL.js"] in str(await thrown.value)


async def test_without_the_line_the_browser_stops_at_the_certificate(entra: Sandbox) -> None:
    async with chromium() as browser, new_profile(browser) as profile:
        page = await profile.new_page()
        with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
            await page.goto(f"{entra.facts['issuer']}/.well-known/openid-configuration")
