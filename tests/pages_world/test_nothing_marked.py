"""A whole session at two consoles: no token, password or key in any page, address, storage or command line."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from playwright.async_api import Browser, Error, Page, expect

from tests.browser.chromium import NEEDS_CHROMIUM
from tests.e2e.kit import PASSWORD, PASSWORD_USER, World
from tests.pages_world import persons
from tests.pages_world.consoles import Console, Window, console, crawl, window
from token_relay.sandbox.marked_tokens import MARK, find_marked

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]
STORED = (
    "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state, document.referrer])"
)
# On the page of tokens stand their claims, and among them the number that carries the sandbox's mark: in clear, once.
OWN_NUMBERS = """() => document.querySelectorAll("th").forEach((one) =>
  ["uti", "jti"].includes(one.innerText.split(" ")[0]) && one.parentElement.remove())"""


def leaks(what: str, text: str, *secrets: str) -> list[str]:
    """Name what stands in a text and must not."""
    found = [
        f"{what}: {leak.encoding} {text[max(0, leak.offset - 40) : leak.offset + 20]}"
        for leak in find_marked(text.encode())
    ]
    return found + [f"{what}: {secret[:6]}…" for secret in (PASSWORD, *secrets) if find_marked(text.encode(), secret)]


async def look(person: Window, place: Console) -> list[str]:
    """Return what a page shows or keeps that it must not."""
    page, key = person.page, place.key
    [cookie] = [one for one in await person.context.cookies() if one["path"] in place.first]
    await page.evaluate(OWN_NUMBERS)
    whole = await page.content() + await page.evaluate(STORED) + page.url
    return leaks(page.url, whole, key, cookie["value"])


def command_lines(pid: str = "self") -> str:
    """Return the command lines of this test and of all that it started, and they. proc(5): task/TID/children."""
    found = []
    with contextlib.suppress(OSError):  # it has just ended
        found.append(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " "))
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [command_lines(child) for child in children.read_text().split()]
    return "\n".join(found)


async def test_a_whole_session_shows_no_secret(browser: Browser) -> None:
    async with World() as world:
        phone, companion = await asyncio.gather(world.phone(), world.companion("watch"))
        places = await console(phone), await console(companion)
        async with window(browser) as one, window(browser) as other:
            wrong: list[str] = []
            for place, person in zip(places, (one, other), strict=True):
                await place.enter(person)
            await persons.by_clicks(one.page, "Account")
            form = one.page.locator("form", has=one.page.get_by_role("button", name="Sign in here"))
            await form.get_by_label("User name").fill(PASSWORD_USER)
            await form.get_by_role("button", name="Sign in here").click()
            await one.page.locator("input[type=password]").fill(PASSWORD)
            wrong += leaks("while it is typed", await one.page.content())
            await persons.by_clicks(one.page, "Go on")
            await expect(one.page.locator(".good")).to_be_visible()
            wrong += await look(one, places[0])
            await persons.pair(persons.by_clicks, one, other, called="kitchen")
            wrong += await look(one, places[0]) + await look(other, places[1])
            await persons.hand_off(persons.by_clicks, one, called="kitchen")
            for place, person in zip(places, (one, other), strict=True):
                await persons.by_clicks(person.page, "Tokens")
                await person.page.get_by_role("button", name="Refresh, and compare").first.click()
                await expect(person.page.get_by_text("Before and after the refresh").first).to_be_visible()
                wrong += await look(person, place)
                for url in await crawl(person, place.first):
                    await person.page.goto(url)
                    wrong += await look(person, place)
            lines = command_lines()
            assert all(word in lines for word in ("phone console", "companion console", "chrom"))
            wrong += leaks("a command line", lines, *(place.key for place in places))
            wrong += leaks("an address", "\n".join([*one.requests, *other.requests]))
            assert wrong == []
            await raw_only_when_asked(other.page)
        world.check_for_leaks()


async def raw_only_when_asked(page: Page) -> None:
    """The raw text of a token comes when a person presses for it, its signature at the second press alone."""
    await persons.by_clicks(page, "Tokens")
    await page.get_by_role("button", name="Show the raw token").first.click()
    text = await page.locator("pre").inner_text()
    assert text.count(".") == 1 and find_marked(text.encode()) and MARK not in text
    await persons.by_clicks(page, "Show the signature too")
    assert (await page.locator("pre").inner_text()).count(".") == 2
    with pytest.raises(Error, match="ERR_CACHE_MISS"):  # nothing of it is kept for who comes back to this window
        await page.go_back()
