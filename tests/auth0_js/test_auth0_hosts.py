"""auth0-spa-js, as it comes, where the sandbox is another site than the application: by its name, or by TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.auth0_js.single_page import Bench, bench, by_redirect, leave, popup, returned, silently
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, certificate, sign_in
from token_relay.sandbox.provider.memory.signing import RsaSigner

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]


async def use(spa: Bench) -> None:
    """Sign in by redirect, renew in a frame, sign out, come back by popup and renew by refresh."""
    page = await spa.open()
    assert "value" in await by_redirect(page)
    first = await returned(page, "getTokenSilently")
    assert (await silently(page))["value"] != first
    async with page.expect_navigation(url=f"{spa.app.origin}/"):
        await leave(page, "logout", {"logoutParams": {"returnTo": f"{spa.app.origin}/"}})
    assert (await silently(page))["error"] == "login_required"
    page = await spa.open(useRefreshTokens=True, useDpop=True)
    async with popup(page) as (window, told):
        await sign_in(window)
        assert await told == {"value": None}
    assert (await returned(page, "getUser"))["email"] == PASSWORD_USER
    assert "value" in await silently(page)


async def test_over_tls(packages: Path, tmp_path: Path, signer: RsaSigner) -> None:
    async with bench(packages, tmp_path, signer, trusted=certificate(tmp_path / "ca")) as spa:
        await use(spa)


async def test_at_the_address_that_the_sandbox_has_unless_told_otherwise(
    packages: Path, tmp_path: Path, signer: RsaSigner
) -> None:
    """``http://127.0.0.1`` is another site than ``http://localhost``: it needs a cookie for frames of other sites."""
    async with bench(packages, tmp_path, signer, host="127.0.0.1") as spa:
        await use(spa)
