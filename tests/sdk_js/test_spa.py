"""Microsoft's browser SDK with its defaults: one popup, in every run of the tests. The rest: test_spa_world.py."""

from __future__ import annotations

import pytest

from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in
from tests.sdk_js.spa_kit import SpaWorld

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]


async def test_a_person_signs_in_in_a_popup(spa: SpaWorld) -> None:
    tab = await spa.tab()
    tokens = await tab.popup("loginPopup", sign_in)
    assert tokens["username"] == PASSWORD_USER
    assert await tab.accounts() == [PASSWORD_USER]
    again = await tab.call("acquireTokenSilent", scopes=["openid"], forceRefresh=True)
    assert again["accessToken"] != tokens["accessToken"] and not again["fromCache"]
    assert (await spa.sandbox.resource(again["accessToken"])).json["username"] == PASSWORD_USER
