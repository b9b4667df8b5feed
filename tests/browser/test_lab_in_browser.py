"""The lab's own modules in Chromium: sign-in in a small window, and a mode that the browser remembers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import BrowserContext, Page, Route

from tests.browser.chromium import NEEDS_CHROMIUM, PASSWORD_USER, chromium
from tests.lab.visitor import Visitor, visiting
from token_relay.sandbox.provider.world.model import PASSWORD

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]


@asynccontextmanager
async def at_the_lab() -> AsyncIterator[tuple[Visitor, BrowserContext, Page, str]]:
    async with visiting() as visitor, chromium() as browser:
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(visitor.lab.server.address())
        root = f"{visitor.lab.server.origin}{visitor.lab.server.root}"
        await page.wait_for_url(root)
        yield visitor, context, page, root


async def popup(context: BrowserContext, page: Page, root: str) -> Page:
    """Begin to sign in by popup; return the window."""
    await page.goto(f"{root}browser")
    async with context.expect_page() as opened:
        await page.get_by_role("link", name="Sign in by popup").click()
    return await opened.value


async def test_a_window_signs_in_closes_and_the_page_behind_it_goes_on() -> None:
    async with at_the_lab() as (visitor, context, page, root):
        window = await popup(context, page, root)
        await window.fill("[name=username]", PASSWORD_USER)
        await window.fill("[name=password]", PASSWORD)
        async with window.expect_event("close"):
            await window.keyboard.press("Enter")
        await page.wait_for_url("**/browser/attempts/*")
        assert "changed for tokens" in await page.inner_text("main")
        assert visitor.lab.room.memory.tokens[0].how == "popup"


async def test_a_window_that_the_person_closes_is_told() -> None:
    async with at_the_lab() as (visitor, context, page, root):
        window = await popup(context, page, root)
        await window.wait_for_selector("[name=username]")
        await window.close()
        await page.wait_for_url("**/browser/attempts/*")
        assert "closed before the sign-in ended" in await page.inner_text("main")
        assert not visitor.lab.room.memory.tokens


async def test_the_last_word_of_a_window_that_was_seen_to_be_closed_moves_the_page_no_second_time() -> None:
    echo = "new BroadcastChannel('token-relay-lab').onmessage = () => new BroadcastChannel('echo').postMessage(0)"
    call = "new BroadcastChannel('echo').onmessage = done; new BroadcastChannel('token-relay-lab').postMessage('over')"
    async with at_the_lab() as (_, context, page, root):
        elsewhere = await context.new_page()
        await elsewhere.goto(root)
        window = await popup(context, page, root)
        await page.evaluate(f"() => {{ {echo} }}")  # the page's own channel is older: it hears before
        asked, free, requests = asyncio.Event(), asyncio.Event(), list[str]()

        async def hold(route: Route) -> None:
            requests.append(route.request.url)
            asked.set()
            await free.wait()
            await route.continue_()

        await page.route("**/browser/attempts/*", hold)
        await window.close()
        await asked.wait()
        await elsewhere.evaluate(f"() => new Promise((done) => {{ {call} }}).then(() => 0)")
        free.set()
        await page.wait_for_url("**/browser/attempts/*")
        assert len(requests) == 1


async def test_a_window_that_is_blocked_is_told_and_the_page_stays() -> None:
    async with at_the_lab() as (_, context, page, root):
        await context.add_init_script("window.open = () => null")
        await page.goto(f"{root}browser")
        await page.get_by_role("link", name="Sign in by popup").click()
        await page.get_by_text("has blocked the window").wait_for()
        assert page.url == f"{root}browser" and len(context.pages) == 1


async def test_the_mode_is_remembered_by_the_browser_when_the_lab_has_forgotten_it() -> None:
    async with at_the_lab() as (visitor, _, page, root):
        await page.get_by_role("button", name="Show it as a person sees it").click()
        await page.get_by_role("button", name="Show it to a developer").wait_for()
        memory = visitor.lab.room.memory
        memory.mode, memory.is_chosen = "developer", False  # as after a new start
        await page.goto(f"{root}tokens")
        await page.get_by_role("heading", name="Your sign-ins").wait_for()
        assert page.url == f"{root}tokens" and memory.is_person()
