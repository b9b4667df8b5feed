"""The one module of every page, in Chromium: an event changes its own element, and nothing that a person is at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from playwright.async_api import BrowserContext, Page, expect

from tests.browser.chromium import NEEDS_CHROMIUM, chromium, new_profile
from tests.pages_core.page_kit import serving
from tests.watchdog import HANG_S
from token_relay.pages.server import PageRoute, PageServer
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.protocol.errors import TransientError

pytestmark = [pytest.mark.asyncio, NEEDS_CHROMIUM]

# Notes what the module does to the list: elements put in or taken out, by their ids, and anything else.
WATCH = """() => {
  window.seen = [];
  new MutationObserver((records) => records.forEach((one) => {
    for (const [sign, nodes] of [["+", one.addedNodes], ["-", one.removedNodes]])
      for (const node of nodes) window.seen.push(sign + node.id);
    if (one.type !== "childList") window.seen.push(one.type);
  })).observe(document.getElementById("list"), {subtree: true, childList: true, attributes: true, characterData: true});
}"""
SEEN = "() => { const found = window.seen; window.seen = []; return found; }"
IDS = "() => [...document.getElementById('list').children].map((one) => one.id)"
ACTIVE = """() => {
  const one = document.activeElement;
  return one === document.body ? "body" : one.id || one.textContent.trim() || one.localName;
}"""


def row(name: str, inner: str = "") -> str:
    return f'<li id="{name}">{name} {inner}</li>'


@dataclass
class Board:
    """What the page shows. The element ``mark`` is sent last: what it says has been heard."""

    server: PageServer
    window: BrowserContext
    page: Page
    shown: dict[str, str]
    trouble: str = ""
    looks: int = 0
    open_streams: int = 0
    told: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"{self.server.origin}{self.server.root}live"

    @property
    def elements(self) -> Elements:
        return {"mark": f'<p id="mark">{self.told}</p>', **self.shown}

    async def serve(self, visit: PageRequest) -> Answer:
        return visit.page("live_of_tests.html", elements=self.elements)

    async def stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            self.looks += 1
            if self.trouble:
                raise TransientError(self.trouble, hint="start it")
            return self.elements

        async def news() -> None:
            await self.news.wait()

        self.open_streams += 1
        try:
            return await visit.live(look, news)
        finally:
            self.open_streams -= 1

    async def tell(self, **shown: str) -> list[str]:
        """Show this from now on; return what that has done to the list."""
        self.shown, self.told = shown, self.told + 1
        self.wake()
        await expect(self.page.locator("#mark")).to_have_text(str(self.told))
        assert await self.page.evaluate(IDS) == [*shown]
        found: list[str] = await self.page.evaluate(SEEN)
        return found

    def wake(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()


@asynccontextmanager
async def board(**shown: str) -> AsyncIterator[Board]:
    found: list[Board] = []

    async def serve(visit: PageRequest) -> Answer:
        return await found[0].serve(visit)

    async def stream(visit: PageRequest) -> Answer:
        return await found[0].stream(visit)

    routes = (PageRoute("live", serve), PageRoute("stream", stream))
    async with serving(*routes) as server, chromium() as browser, new_profile(browser) as window:
        made = Board(server, window, await window.new_page(), shown)
        found.append(made)
        await made.page.goto(server.address())
        await made.page.wait_for_url(f"{server.origin}{server.root}")
        await made.page.goto(made.address)
        await until(lambda: made.looks == 1)
        await made.page.evaluate(WATCH)
        yield made


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(HANG_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_an_event_changes_its_own_row_and_no_other() -> None:
    rows = {name: row(name) for name in "abcd"}
    async with board(**rows) as place:
        assert await place.tell(**rows) == [], "what the page shows already is left alone"
        changed = {**rows, "b": row("b", "<b>new</b>")}
        assert sorted(await place.tell(**changed)) == ["+b", "-b"]
        assert sorted(await place.tell(**rows, e=row("e"))) == ["+b", "+e", "-b"]
        assert sorted(await place.tell(**{"n": row("n"), **rows, "e": row("e")})) == ["+n"]
        assert sorted(await place.tell(**rows)) == ["-e", "-n"]
        moved = await place.tell(d=rows["d"], a=rows["a"], b=rows["b"], c=rows["c"])
        assert "+d" in moved and len(moved) <= 4, "one row moves, and at most one other beside it"
        assert await place.tell() == ["-d", "-a", "-b", "-c"]
        assert sorted(await place.tell(**rows)) == ["+a", "+b", "+c", "+d"]
        assert (await place.page.locator("#list > li").all_inner_texts()) == ["a", "b", "c", "d"]


async def test_what_comes_is_no_script() -> None:
    listen = """() => {
      window.barred = [];
      document.addEventListener("securitypolicyviolation", (event) => barred.push(event.effectiveDirective));
    }"""
    inner = '<img src="x:" onerror="ran = 1"><script>ran = 2</script><b style="color: red">x</b>'
    async with board(a=row("a")) as place:
        await place.page.evaluate(listen)
        await place.tell(a=row("a", inner))
        await place.page.wait_for_function(
            "() => barred.includes('script-src-attr') && barred.includes('style-src-attr')"
        )
        assert await place.page.evaluate("() => typeof ran") == "undefined"


FORM = (
    '<form method="post" action="/x"><input type="hidden" name="n" value="{}"><label>Name <input name="name"></label>'
)
FORM += (
    '<textarea name="more"></textarea><label><input type="checkbox" name="sure"> Sure</label><button>Go</button></form>'
)


async def test_who_types_is_not_disturbed() -> None:
    rows = {"a": row("a", FORM.format(1)), "b": row("b")}
    async with board(**rows) as place:
        name, more = place.page.locator("[name=name]"), place.page.locator("[name=more]")
        await name.fill("kitchen")
        await place.page.locator("[name=sure]").check()
        await more.focus()
        await place.page.keyboard.type("half a se")

        async def is_as_typed() -> bool:
            values = [await name.input_value(), await more.input_value()]
            return (
                values == ["kitchen", "half a sentence"[: len(values[1])]]
                and await place.page.locator("[name=sure]").is_checked()
            )

        assert await place.tell(**rows, c=row("c")) == ["+c"] and await is_as_typed()
        assert sorted(await place.tell(a=row("a", "changed " + FORM.format(1)), b=rows["b"])) == ["+a", "-a", "-c"]
        assert await is_as_typed(), "its form asks for the same"
        await place.tell(b=rows["b"], a=row("a", "moved and changed" + FORM.format(1)))
        await place.page.keyboard.type("nt")
        assert await more.input_value() == "half a sent" and await is_as_typed()
        await place.tell(a=row("a", FORM.format(2)), b=rows["b"])
        assert await more.input_value() == await name.input_value() == "", "another question gets no answer to the last"


async def test_the_focus_stays_at_the_same_link_and_goes_to_no_other_button() -> None:
    def acts(*names: str, text: str = "") -> str:
        return row("a", text + "".join(f"<button>{name}</button>" for name in names) + '<a href="/y">More</a>')

    async with board(a=acts("Rename", "Revoke"), b=row("b")) as place:
        await place.page.get_by_role("button", name="Revoke").focus()
        await place.tell(a=acts("Rename", "Revoke", text="changed"), b=row("b"))
        assert await place.page.evaluate(ACTIVE) == "Revoke"
        await place.tell(b=row("b"), a=acts("Rename", "Revoke", text="changed"))
        assert await place.page.evaluate(ACTIVE) == "Revoke"
        await place.tell(b=row("b"), a=acts("Rename", "Forget"))
        assert await place.page.evaluate(ACTIVE) == "body"
        await place.page.get_by_role("link", name="More").focus()
        await place.tell(b=row("b"), a=acts("Forget"))
        assert await place.page.evaluate(ACTIVE) == "More"


async def test_what_was_opened_stays_open() -> None:
    def story(text: str) -> str:
        return row(
            "a", f"{text}<details><summary>One</summary>1</details><details><summary>Two</summary>{text}</details>"
        )

    async with board(a=story("x"), b=row("b")) as place:
        await place.page.get_by_text("Two").click()
        await place.tell(a=story("y"), b=row("b"))
        assert await place.page.evaluate("() => [...document.querySelectorAll('details')].map((one) => one.open)") == [
            False,
            True,
        ]
        assert await place.page.evaluate(ACTIVE) == "Two"


async def test_an_agent_that_went_away_is_told_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("token_relay.pages.visit.TROUBLE_PAUSE_S", 0.01)
    async with board(a=row("a")) as place:
        banner = place.page.locator("#trouble")
        await expect(banner).to_be_hidden()
        place.trouble = "the agent <b>does</b> not answer"
        place.wake()
        await expect(banner).to_have_text("the agent <b>does</b> not answer (start it)")
        await expect(banner).to_have_attribute("role", "status")
        assert await place.page.evaluate(SEEN) == [], "what was known stays"
        place.trouble = ""
        await expect(banner).to_be_hidden()
        await place.tell(a=row("a", "2"))


async def test_a_server_that_ends_is_told() -> None:
    async with board(a=row("a")) as place:
        await place.server.__aexit__(None, None, None)
        await expect(place.page.locator("#trouble")).to_contain_text("does not hear its server")
        assert await place.page.evaluate(SEEN) == []


async def test_a_stream_that_was_cut_begins_again_and_shows_what_was_missed() -> None:
    async with board(a=row("a"), b=row("b")) as place:
        place.shown = {"b": row("b", "2"), "c": row("c")}
        place.told += 1
        [until_then] = place.server._streams
        place.server._streams.pop(until_then)
        until_then.reschedule(0)
        await expect(place.page.locator("#mark")).to_have_text("1")
        assert await place.page.evaluate(IDS) == ["b", "c"]
        await expect(place.page.locator("#trouble")).to_be_hidden()


async def test_a_window_that_nobody_sees_takes_no_connection() -> None:
    hide = """(state) => {
      Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    async with board(a=row("a")) as place:
        for number in range(7):  # a browser opens six connections to one server
            await place.page.evaluate(hide, "hidden")
            await until(lambda: place.open_streams == 0)
            place.page = await place.window.new_page()
            await place.page.goto(place.address)
            await until(lambda count=number: place.looks == count + 2)  # type: ignore[misc]
        place.shown = {"a": row("a", "later")}
        first = place.window.pages[0]
        await first.evaluate(hide, "visible")
        await expect(first.locator("#a")).to_contain_text("later")
