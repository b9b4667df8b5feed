"""Every page of both consoles, as links lead to it: at each width, in light and dark, with a keyboard alone."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import NEEDS_CHROMIUM
from tests.pages_world import persons
from tests.pages_world.consoles import Ends, Window, crawl, faults, foreign, window

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]
KINDS = pytest.mark.parametrize("kind", ["phone", "companion", "lab", "lab for a person"])
PARTS = {
    "phone": {"", "pair", "tokens", "trouble", "handoffs", "devices", "account"},
    "companion": {"", "pair", "tokens", "trouble", "handoffs"},
    "lab": {"", "reference", "relay", "users", "switches", "log", "guide", "flows", "browser", "trouble"},
    "lab for a person": {"", "flows", "browser", "relay"},
}

# What a keyboard must reach: of radio buttons one of each name, and nothing in what is closed.
CONTROLS = """() => {
  const all = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
  const found = [...document.querySelectorAll(all)]
    .filter((one) => one.checkVisibility() && !one.disabled);
  const radios = new Set();
  window.wanted = found.filter((one) => one.type !== "radio" || (!radios.has(one.name) && radios.add(one.name)));
  document.activeElement.blur();
  return window.wanted.length;
}"""
STEP = """() => {
  const one = document.activeElement, place = one.getBoundingClientRect(), style = getComputedStyle(one);
  const isSeen = place.width > 0 && place.height > 0 && place.right > 0 && place.bottom > 0
    && place.left < innerWidth && place.top < innerHeight;
  const isMarked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  window.wanted = window.wanted.filter((other) => other !== one && !(one.type === "radio" && other.name === one.name));
  return one === document.body || (isSeen && isMarked) ? "" : one.outerHTML.slice(0, 200);
}"""
OPEN = "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"
LEFT = "() => window.wanted.map((one) => one.outerHTML.slice(0, 200))"
NAMELESS = """() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea")]
  .filter((one) => one.labels.length === 0).map((one) => one.outerHTML)"""
INLINE = """() => [...document.querySelectorAll("[style], script:not([src]), style, [onclick]")]
  .map((one) => one.outerHTML)"""


async def pages(ends: Ends, person: Window, kind: str) -> tuple[str, list[str]]:
    console = await ends.console(kind)
    await console.enter(person)
    if kind == "lab":
        await persons.use_the_lab(person)
    elif kind != "phone" and kind != "companion":
        await persons.by_clicks(person.page, "Show it as a person sees it")
    found = await crawl(person, console.first)
    person.requests.clear()
    return console.first, found


@KINDS
async def test_no_page_keeps_anybody_out_at_any_width(ends: Ends, browser: Browser, axe: str, kind: str) -> None:
    async with window(browser) as person:
        first, found = await pages(ends, person, kind)
        parts = {url.removeprefix(first).partition("?")[0].partition("/")[0] for url in found}
        assert parts >= PARTS[kind], found
        wrong = []
        for url in found:
            await person.page.goto(url)
            await person.page.evaluate(OPEN)
            wrong += await faults(person, axe)
            wrong += [
                f"{url}: {one}" for one in await person.page.evaluate(NAMELESS) + await person.page.evaluate(INLINE)
            ]
        assert wrong == []
        assert foreign(person, first) == [] and person.complaints == []


@KINDS
async def test_a_keyboard_reaches_every_control_and_shows_where_it_is(ends: Ends, browser: Browser, kind: str) -> None:
    async with window(browser) as person:
        _, found = await pages(ends, person, kind)
        wrong = []
        for url in found:
            await person.page.goto(url)
            await person.page.evaluate(OPEN)
            count = await person.page.evaluate(CONTROLS)
            for _ in range(count + 2):
                await person.page.keyboard.press("Tab")
                if unseen := await person.page.evaluate(STEP):
                    wrong.append(f"{url}: not seen: {unseen}")
            wrong += [f"{url}: not reached: {one}" for one in await person.page.evaluate(LEFT)]
        assert wrong == []


async def test_what_needs_a_person_is_first_and_seen_without_scrolling(ends: Ends, browser: Browser) -> None:
    console = await ends.console("phone")
    async with window(browser) as person:
        await console.enter(person)
        seen = await person.page.locator("tbody tr").all_inner_texts()
        assert "kitchen-radio" in seen[0] and "watch" in seen[1]
        for row in await person.page.locator("tbody tr").all():
            place = await row.bounding_box()
            assert place is not None and place["y"] + place["height"] <= 900


async def test_an_agent_that_is_killed_is_told_and_comes_back_by_itself(ends: Ends, browser: Browser, axe: str) -> None:
    console = await ends.console("companion")
    async with window(browser) as person:
        await console.enter(person)
        await ends.companion.kill()
        banner = person.page.locator("#trouble")
        await banner.wait_for(state="visible")
        assert await faults(person, axe) == []
        await person.page.reload()
        assert await person.page.locator("h1").inner_text() == "The agent is away"
        assert await faults(person, axe) == []
        await ends.companion.run()
        await person.page.get_by_role("heading", name="watch").wait_for()
        await banner.wait_for(state="hidden")
