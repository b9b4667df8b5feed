"""An attacker in the same browser, who even knows the secret path: another port's page, a rebound name, a profile."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Response, expect

from tests.browser.chromium import NEEDS_CHROMIUM
from tests.pages_world.attacker import TRY_ALL, foreign_server
from tests.pages_world.consoles import REBOUND, Ends, window

pytestmark = [pytest.mark.asyncio(loop_scope="module"), NEEDS_CHROMIUM]


async def test_a_page_of_another_port_learns_and_does_nothing(ends: Ends, browser: Browser) -> None:
    console = await ends.console("phone")
    async with window(browser) as person, foreign_server() as foreign:
        await console.enter(person)
        [cookie] = await person.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["path"] == urlsplit(console.first).path
        before = await ends.phone.control("events", limit=1)
        answers: list[Response] = []
        page = await person.context.new_page()
        page.on("response", lambda answer: answers.append(answer) if console.first in answer.url else None)
        await page.goto(foreign.origin)
        for path in ("", "do/revoke", "tokens/raw", "trouble/stream"):
            assert await page.evaluate(TRY_ALL, [console.first, path]) == []
        assert {answer.status for answer in answers} == {403}
        # A whole window: by a link, by a form, and by a script that would look into it.
        async with person.context.expect_page() as opened:
            await page.evaluate("(url) => { window.other = window.open(url); }", console.first)
        other = await opened.value
        await expect(other.locator("h1")).to_have_text("Not possible")
        assert (
            await page.evaluate("() => { try { return other.document.title; } catch { return 'barred'; } }") == "barred"
        )
        await page.evaluate(
            """(url) => {
          document.body.innerHTML = `<form method="post" action="${url}"><input name="device" value="watch"></form>`;
          document.forms[0].submit();
        }""",
            f"{console.first}do/revoke",
        )
        await expect(page.locator("h1")).to_have_text("Not possible")
        await page.go_back()
        assert await ends.phone.control("events", limit=1) == before, "nothing has happened at the agent"
        await person.page.reload()
        await expect(person.page.locator("h1")).to_have_text("Devices")
        # What a page of ours tells a foreign server: nothing of where it came from, and no cookie.
        await person.page.evaluate("(url) => { location.assign(url); }", f"{foreign.origin}/from-a-console")
        await person.page.wait_for_url("**/from-a-console")
        [last] = [one for one in foreign.asked if one.path == "/from-a-console"]
        assert "Referer" not in last.headers and "Origin" not in last.headers
        for secret in (cookie["value"], cookie["path"], console.key):
            assert secret not in foreign.seen()


async def test_cookies_of_another_port_lock_nobody_out_for_long(ends: Ends, browser: Browser) -> None:
    console = await ends.console("phone")
    async with window(browser) as person, foreign_server() as foreign:
        await console.enter(person)
        page = await person.context.new_page()
        foreign.cookies = ["token_relay_page=tossed; Path=/"]
        await page.goto(foreign.origin)
        await person.page.reload()
        await expect(person.page.locator("h1")).to_have_text("Devices")
        foreign.cookies = [f"c{number}={'x' * 900}; Path=/" for number in range(150)]  # and a head of 135 KiB
        await page.goto(foreign.origin)
        await person.page.reload()
        await expect(person.page.locator("h1")).to_have_text("Devices")
        foreign.cookies = [f"d{number}=x; Path=/" for number in range(400)]  # the jar overflows: ours is thrown out
        await page.goto(foreign.origin)
        answer = await person.page.reload()
        assert answer is not None and answer.status == 403
        await expect(person.page.locator("main")).to_contain_text("the address that was printed")


async def test_a_name_that_is_bound_anew_leads_nowhere(ends: Ends, browser: Browser) -> None:
    console = await ends.console("phone")
    parts = urlsplit(console.address)
    rebound = f"http://{REBOUND}:{parts.port}"
    async with window(browser) as person:
        for path in (f"{parts.path}?{parts.query}", urlsplit(console.first).path, "/"):
            answer = await person.page.goto(f"{rebound}{path}")
            assert answer is not None and answer.status == 421
            assert console.first not in await person.page.content()
        statuses = await person.page.evaluate(
            "(paths) => Promise.all(paths.map((path) => fetch(path, {method: 'POST'}).then((found) => found.status)))",
            [urlsplit(console.first).path, f"{urlsplit(console.first).path}do/revoke"],
        )
        assert statuses == [421, 421]
        await console.enter(person)  # nobody has used its key
        await expect(person.page.locator("h1")).to_have_text("Devices")


async def test_another_profile_is_another_browser(ends: Ends, browser: Browser) -> None:
    console = await ends.console("companion")
    async with window(browser) as person, window(browser) as other:
        await console.enter(person)
        for url in (console.first, console.address, f"{console.first}tokens"):
            answer = await other.page.goto(url)
            assert answer is not None and answer.status == 403
            assert "watch" not in await other.page.content()
        assert await other.context.cookies() == []
