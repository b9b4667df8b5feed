"""The consoles of real agents, and a window in Chromium that notes whatever a page must not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request

from tests.e2e.kit import PASSWORD_USER, Agent, Companion, Phone, Program, World, pair
from tests.watchdog import HANG_S

REBOUND = "rebound.example"
WIDTHS = (360, 768, 1440)
HEIGHT = 900
SCHEMES = ("light", "dark")
BARRED = """document.addEventListener("securitypolicyviolation", (event) =>
  console.error("barred: " + event.effectiveDirective + " " + event.blockedURI));"""
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width && document.body.scrollWidth <= width) return [];
  return [...document.querySelectorAll("main *, header *")]
    .filter((one) => one.getBoundingClientRect().right > width + 1 && !one.closest("[role=region]"))
    .map((one) => one.outerHTML.slice(0, 120)).slice(0, 5).concat("the page is wider than the window");
}"""
LINKS = "() => [...document.querySelectorAll('a[href]')].map((one) => one.href)"
AXE = """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
  .map((one) => one.id + ": " + one.nodes.map((node) => node.html.slice(0, 99) + node.failureSummary).join(" | "))"""


@dataclass
class Window:
    """A profile of one person."""

    context: BrowserContext
    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Note what it asks for and complains about."""

        def said(message: ConsoleMessage) -> None:
            # A page that our walls have refused is told as an error by the browser, and is none.
            if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
                self.complaints.append(message.text)

        def asked(request: Request) -> None:
            self.requests.append(request.url)

        page.on("console", said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", asked)


@asynccontextmanager
async def window(browser: Browser, *, has_scripts: bool = True, like: Window | None = None) -> AsyncIterator[Window]:
    """Open a profile; ``like``: with the cookies of another one."""
    context = await browser.new_context(
        viewport={"width": 1440, "height": HEIGHT}, java_script_enabled=has_scripts, permissions=["clipboard-read"]
    )
    context.set_default_timeout(HANG_S * 1000)
    await context.add_init_script(BARRED)
    if like is not None:
        await context.add_cookies([cookie for cookie in await like.context.cookies()])  # type: ignore[misc]
    found = Window(context, await context.new_page())
    found.watch(found.page)
    context.on("page", found.watch)
    try:
        yield found
    finally:
        await context.close()


@dataclass
class Console:
    """The console of one agent; ``first`` is its first page, for who has the cookie."""

    program: Program
    address: str

    @property
    def first(self) -> str:
        return self.address.partition("open?")[0]

    @property
    def key(self) -> str:
        return self.address.partition("key=")[2]

    async def enter(self, window: Window) -> None:
        """Open the printed address."""
        await window.page.goto(self.address)
        await window.page.wait_for_url(self.first)


async def console(agent: Agent) -> Console:
    """Start ``phone console`` or ``companion console``, without a terminal."""
    program = await agent.begin("console", "--json")
    return Console(program, json.loads((await program.find(r'^\{"address".*\}$'))[0])["address"])


@dataclass
class Ends:
    """A phone, its companion, and their consoles."""

    world: World
    phone: Phone
    companion: Companion

    async def console(self, kind: str) -> Console:
        """Start the console of an end, or a sandbox with its lab."""
        if not kind.startswith("lab"):
            return await console(self.phone if kind == "phone" else self.companion)
        ports = ("--http-port", "0", "--mqtt-port", "0", "--lab-port", "0")
        program = await self.world.start("sandbox", "--lab", "--json", *ports)
        return Console(program, json.loads((await program.find(r"^\{.*\}$"))[0])["lab"])


@asynccontextmanager
async def ends_of_a_story(profile: str = "entra") -> AsyncIterator[Ends]:
    """Two agents after a handoff and a refusal, and a second companion that is silent."""
    async with World(profile) as world:
        phone, companion, away = await asyncio.gather(
            world.phone(), world.companion("watch"), world.companion("kitchen-radio")
        )
        await phone.sign_in(PASSWORD_USER)
        await pair(phone, companion)
        await pair(phone, away)
        await phone.hand_off(companion, "--lease-days", "1")
        await companion.gets_in()
        await away.kill()
        yield Ends(world, phone, companion)


def kind_of(url: str) -> tuple[Any, ...]:
    """Return what two pages with the same fields in their address have alike."""
    parts = urlsplit(url)
    return parts.path, tuple(sorted(name for name, _ in parse_qsl(parts.query, keep_blank_values=True)))


async def crawl(window: Window, first: str) -> list[str]:
    """Return every page that links lead to, one of each kind; forms are not sent.

    A link to a file, or one that leads on to another place, is followed and is no page.
    """
    known, found, waiting = {kind_of(first)}, [], [first]
    while waiting:
        url = waiting.pop(0)
        try:
            answer = await window.page.goto(url)
        except Error as exc:
            if "Download is starting" not in str(exc):
                raise
            continue
        if not window.page.url.startswith(first):
            continue
        assert answer is not None and answer.status == 200, f"{url}: {answer and answer.status}"
        found.append(url)
        links: list[str] = await window.page.evaluate(LINKS)
        for link in (one.partition("#")[0] for one in links):
            if link.startswith(first) and "/static/" not in link and kind_of(link) not in known:
                known.add(kind_of(link))
                waiting.append(link)
    return found


async def faults(window: Window, axe: str, page: Page | None = None) -> list[str]:
    """Return what is wrong with the page as it stands, at each width and in each scheme."""
    page = page or window.page
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(axe)
    found = []
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": HEIGHT})
            wrong = [*await page.evaluate(TOO_WIDE), *await page.evaluate(AXE)]
            found += [f"{page.url} {width} {scheme}: {one}" for one in wrong]
    await page.set_viewport_size({"width": 1440, "height": HEIGHT})
    headings = await page.locator("h1").count()
    if headings != 1:
        found.append(f"{page.url}: {headings} h1")
    return found


def foreign(window: Window, *places: str) -> list[str]:
    """Return what was asked of any other place than these."""
    return [url for url in window.requests if not url.startswith((*places, "data:", "about:", "blob:"))]
