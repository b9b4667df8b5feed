"""The pages of an agent's console in this process, before a real agent, and a person with a browser without JavaScript.

The person's client follows forms and links as HTML has them: what a page does not offer, it cannot press.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self

import aiohttp

from tests.watchdog import HANG_S
from token_relay.cli.client import locate
from token_relay.console.agent_client import Locate
from token_relay.console.run import page_server
from token_relay.host.paths import Kind
from token_relay.pages.conversation import Talks
from token_relay.pages.server import PageServer

VOID = ("input", "meta", "link", "img", "br")


@dataclass
class Form:
    """A form of a page: where it goes, and what its fields hold."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, tuple[str, str]] = field(default_factory=dict)  # by text: name and value


class Page(HTMLParser):
    """A page as it came."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__()
        self.status, self.html = status, text
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self._texts: list[str] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self._since: list[int] = []
        self.feed(text)

    @property
    def text(self) -> str:
        """The words of the page, with single blanks."""
        return " ".join(" ".join(self._texts).split())

    def form(self, button: str) -> Form:
        """The one form with this button."""
        found = [one for one in self.forms if button in one.buttons]
        assert len(found) == 1, (button, [list(one.buttons) for one in self.forms], self.text)
        return found[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given["action"], given.get("method", "get")))
        elif tag in ("input", "textarea", "select") and self.forms and (name := given.get("name")):
            is_off = given.get("type") in ("radio", "checkbox") and "checked" not in given
            if not is_off:
                self.forms[-1].fields[name] = given.get("value", "")
        if tag not in VOID:
            self._open.append((tag, given))
            self._since.append(len(self._texts))

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1][0] == tag, f"{tag} ends within {self._open[-1][0]}"  # html.parser closes nothing itself
        _, given = self._open.pop()
        text = " ".join(" ".join(self._texts[self._since.pop() :]).split())
        if tag == "button":
            self.forms[-1].buttons[text] = given.get("name", ""), given.get("value", "")
        elif tag == "a":
            self.links[text] = given["href"]


class Browser:
    """Somebody who has opened the address."""

    def __init__(self, server: PageServer) -> None:
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        self._origin, self._root, self._address = server.origin, server.root, server.address()

    async def __aenter__(self) -> Self:
        page = await self.at(self._address)
        assert page.status == 200, page.text
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def at(self, url: str) -> Page:
        """Open a whole address, or one of this server."""
        async with self._session.get(url if "://" in url else self._origin + url) as answer:
            return Page(answer.status, await answer.text())

    async def get(self, place: str = "") -> Page:
        """Open a page."""
        return await self.at(self._root + place)

    async def octets(self, place: str) -> tuple[int, str, bytes]:
        """Fetch what is no page: status, type and body."""
        async with self._session.get(self._origin + self._root + place) as answer:
            return answer.status, answer.content_type, await answer.read()

    async def send(self, action: str, **fields: str) -> Page:
        """Send a form, and follow where it leads."""
        async with self._session.post(self._origin + action, data=fields, headers={"Origin": self._origin}) as answer:
            return Page(answer.status, await answer.text())

    async def post(self, place: str, **fields: str) -> Page:
        """Send a form to a page of this server."""
        return await self.send(self._root + place, **fields)

    async def press(self, page: Page, button: str, **typed: str) -> Page:
        """Type into the form with this button, and press it."""
        form = page.form(button)
        unknown = typed.keys() - form.fields.keys() - {"account"}  # radio buttons are off at first
        assert not unknown, unknown
        name, value = form.buttons[button]
        pressed = {name: value} if name else {}
        return await self.send(form.action, **{**form.fields, **typed, **pressed})

    async def follow(self, page: Page, link: str) -> Page:
        """Follow a link by its text."""
        return await self.at(page.links[link])

    async def settled(self, page: Page) -> Page:
        """Look at a conversation again until it asks, or is over."""
        while "Working …" in page.text:
            place = page.form("Give up").action.removesuffix("/end").removeprefix(self._root)
            async for name, _ in self.stream(f"{place}/stream"):
                if name == "done":
                    break
            page = await self.get(place)
        return page

    async def stream(self, place: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield the events of a stream: name and data."""
        async with asyncio.timeout(HANG_S), self._session.get(self._origin + self._root + place) as answer:
            assert answer.status == 200
            name = ""
            async for raw in answer.content:
                key, _, value = raw.decode().rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield name, json.loads(value)

    async def until(self, place: str, holds: Callable[[str, Any], object]) -> Any:
        """Listen to a stream until an event fulfils this, and return its data."""
        events = self.stream(place)
        try:
            async for name, data in events:
                if holds(name, data):
                    return data
        finally:
            await events.aclose()  # type: ignore[attr-defined]  # an async generator
        raise AssertionError(f"{place} ended before that")


def at_home(kind: Kind, home: Path) -> Locate:
    """Return what finds an agent by its home."""
    return lambda name: locate(kind, {}, name=name, home=home)


@asynccontextmanager
async def console(kind: Kind, home: Path, other_home: Path | None = None) -> AsyncIterator[Browser]:
    """Serve an agent's pages, and open them; ``other_home``: of an agent of the other kind on this machine."""
    other: Kind = "companion" if kind == "phone" else "phone"
    talks = Talks()
    server = page_server(
        kind,
        here=at_home(kind, home),
        there=at_home(other, other_home or home / "nobody"),
        talks=talks,
        uids={os.geteuid()},
    )
    async with server:
        try:
            async with Browser(server) as browser:
                yield browser
        finally:
            await talks.stop()


def element_text(html: str) -> str:
    """The words of one element."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
