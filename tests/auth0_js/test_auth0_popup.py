"""The smallest thing that auth0-spa-js does in every application: a popup, a person, a user. In each ``make test``."""

from __future__ import annotations

import pytest

from tests.auth0_js.single_page import Bench, call, popup
from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, sign_in

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]


async def test_a_popup_signs_in(spa: Bench) -> None:
    page = await spa.open()
    async with popup(page) as (window, told):
        await sign_in(window)
        assert await told == {"value": None}
    user = (await call(page, "getUser"))["value"]
    assert (user["email"], user["name"]) == (PASSWORD_USER, "Pat Password")
