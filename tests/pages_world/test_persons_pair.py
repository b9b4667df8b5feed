"""A whole pairing and a handoff at the pages: by keys alone, and in a browser that runs no script."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Browser, expect

from tests.browser.chromium import NEEDS_CHROMIUM
from tests.e2e.kit import PASSWORD_USER, World
from tests.pages_world import persons
from tests.pages_world.consoles import console, faults, foreign, window

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]


@pytest.mark.parametrize("has_scripts", [True, False], ids=["by keys", "without scripts"])
async def test_a_person_pairs_and_hands_off(browser: Browser, axe: str, has_scripts: bool) -> None:
    act = persons.by_keys if has_scripts else persons.by_clicks
    async with World() as world:
        phone, companion = await asyncio.gather(world.phone(), world.companion("watch"))
        await phone.sign_in(PASSWORD_USER)
        consoles = await console(phone), await console(companion)
        async with window(browser, has_scripts=has_scripts) as one, window(browser, has_scripts=has_scripts) as other:
            for place, person in zip(consoles, (one, other), strict=True):
                await place.enter(person)
            await persons.pair(act, one, other, called="kitchen")
            if has_scripts:
                assert await faults(one, axe) + await faults(other, axe) == []
            await persons.hand_off(act, one, called="kitchen")
            await act(other.page, "Grants")
            await expect(other.page.get_by_text(PASSWORD_USER)).to_be_visible()
            await act(one.page, "Go on")
            await expect(one.page.locator("h1")).to_have_text("A handoff as it happens")
            for column in ("phone", "broker"):  # the companion's own lines are at the companion
                await expect(one.page.locator(f".four-list > li.at-{column}").first).to_be_visible()
            if has_scripts:
                assert await faults(one, axe) == []
            for place, person in zip(consoles, (one, other), strict=True):
                assert foreign(person, place.first) == [] and person.complaints == []
        assert await companion.gets_in()
