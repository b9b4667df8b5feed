"""The first page of a phone, as a person with a browser meets it: everywhere, not only in `make test-world`."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, expect

from tests.browser.chromium import NEEDS_CHROMIUM
from tests.pages_world.consoles import Ends, faults, foreign, window

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]


async def test_the_devices_of_a_phone_at_every_width_in_light_and_dark(ends: Ends, browser: Browser, axe: str) -> None:
    console = await ends.console("phone")
    async with window(browser) as person:
        await console.enter(person)
        rows = person.page.locator("tbody tr")
        await expect(rows).to_have_count(2)
        await expect(person.page.get_by_role("link", name="watch")).to_be_visible()
        assert await faults(person, axe) == []
        assert foreign(person, console.first) == [] and person.complaints == []
        assert (
            await person.page.evaluate("() => document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
            == "{}"
        )
