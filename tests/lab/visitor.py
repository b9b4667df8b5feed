"""A person at the lab: a sandbox, its lab, and a browser without JavaScript, over real sockets."""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import urljoin

from aiohttp import ClientSession, ClientTimeout, CookieJar

from tests.watchdog import HANG_S
from token_relay.sandbox.lab.ends import Ends
from token_relay.sandbox.lab.lab import Lab
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PASSWORD, ProfileName, WorldModel
from token_relay.sandbox.server import SandboxServer

STEPS_MAX = 20
NEXT = 'autocomplete="off"'  # of the form of the step that comes
CODE = re.compile(r'<strong class="code">([0-9]+)<')
TRACE = re.compile(r'trouble\?trace=[^"]+" title="([^"]+)"')


@dataclass
class Shown:
    """A page that came: ``text`` is its HTML, ``place`` where it lies below the root."""

    status: int
    text: str
    place: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The page as it is read: no tags, one space between words."""
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", self.text)).split())

    @property
    def traces(self) -> list[str]:
        """The trace ids on the page, in order."""
        return list(dict.fromkeys(map(unescape, TRACE.findall(self.text))))

    def values(self, form: str = "") -> dict[str, str]:
        """The fields that the first form with this action (its end) would send, as they stand."""
        body = next(one for one in re.findall(r"<form[^>]*>.*?</form>", self.text, re.DOTALL) if form in one)
        found: dict[str, str] = {}
        for tag in re.findall(r"<input[^>]*>", body):
            name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
            if name:
                found[unescape(name[1])] = unescape(value[1]) if value else ""
        for name_, options in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', body, re.DOTALL):
            first = re.findall(r'<option value="([^"]*)"( selected)?', options)
            chosen = [value for value, selected in first if selected] or [value for value, _ in first]
            found[name_] = unescape(chosen[0]) if chosen else ""
        return found


class Visitor:
    """Looks at pages and sends forms, and follows what the pages say."""

    def __init__(self, lab: Lab, sandbox: SandboxServer, session: ClientSession) -> None:
        self.lab, self.sandbox, self._session = lab, sandbox, session

    async def get(self, place: str) -> Shown:
        return await self._ask("GET", f"{self.lab.server.origin}{self.lab.server.root}{place}")

    async def post(self, place: str, **fields: str) -> Shown:
        return await self._ask("POST", f"{self.lab.server.origin}{self.lab.server.root}{place}", fields)

    async def leave(self, place: str) -> str:
        """Follow a link that leads to the provider, and return its address."""
        url = f"{self.lab.server.origin}{self.lab.server.root}{place}"
        async with self._session.get(url, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            return answer.headers["Location"]

    async def come_back(self, url: str) -> Shown:
        """Arrive as a browser does from the provider: no cookie of ours counts, and the page leads onward by itself."""
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as stranger, stranger.get(url) as answer:
            text = await answer.text()
            if answer.status != 200:
                return Shown(answer.status, text, "")
        onward = re.search(r'url=([^"]+)"', text)
        assert onward, text
        return await self._ask("GET", f"{self.lab.server.origin}{unescape(onward[1])}")

    async def walk(self, flow: str, **typed: str) -> Shown:
        """Do a flow's forms as they stand, with what was typed and the code that the page shows, to its end."""
        page = await self.get(f"flows/{flow}")
        if NEXT not in page.text:
            page = await self.post(f"flows/{flow}", again="yes")
        for _ in range(STEPS_MAX):
            if NEXT not in page.text:
                return page
            fields = page.values(NEXT)
            found = CODE.search(page.text)
            fields |= {"oob": found[1]} if found and "oob" in fields else {}
            fields |= {name: value for name, value in typed.items() if name in fields}
            page = await self.post(page.place, **fields)
            assert page.status == 200, page.words
        raise AssertionError(f"{flow} does not end: {page.words}")

    async def sign_in_in_browser(self, way: str, username: str = "password@contoso.example") -> Shown:
        """Sign in on the provider's page, begun by the link on the lab's page."""
        page = await self.get("browser")
        link = re.search(rf'href="[^"]*(browser/begin\?way={way}&amp;id=[0-9a-f]+)"', page.text)
        assert link, page.text
        return await self.come_back(await self.fill_in(await self.leave(unescape(link[1])), username))

    async def fill_in(self, url: str, username: str, password: str = PASSWORD) -> str:
        """Fill in the provider's page, and return where it sends the browser."""
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as browser:
            async with browser.get(url) as answer:
                text = await answer.text()
            action, ticket = re.search(r'action="([^"]+)"', text), re.search(r'name="ticket" value="([^"]+)"', text)
            assert action and ticket, text
            fields = {"ticket": unescape(ticket[1]), "username": username, "password": password}
            target = urljoin(url, unescape(action[1]))
            async with browser.post(target, data=fields, allow_redirects=False) as answer:
                assert answer.status == 303, await answer.text()
                return answer.headers["Location"]

    async def events(self) -> list[dict[str, object]]:
        """The tenant log, as anybody reads it."""
        async with self._session.get(f"{self.sandbox.base_url}/sandbox/events") as answer:
            found: list[dict[str, object]] = (await answer.json())["events"]
            return found

    async def order(self, path: str, **body: object) -> None:
        """Order something at the control interface."""
        async with self._session.post(f"{self.sandbox.base_url}/sandbox/{path}", json=body) as answer:
            assert answer.status < 300, await answer.text()

    async def is_logged(self, trace_id: str) -> bool:
        return any(event.get("trace_id") == trace_id for event in await self.events())

    async def _ask(self, method: str, url: str, fields: Mapping[str, str] | None = None) -> Shown:
        headers = {"Origin": self.lab.server.origin} if method == "POST" else {}
        async with self._session.request(method, url, data=fields, headers=headers) as answer:
            place = str(answer.url).partition(self.lab.server.root)[2].partition("#")[0]
            return Shown(answer.status, await answer.text(errors="replace"), place, dict(answer.headers))


@contextlib.asynccontextmanager
async def visiting(
    profile: ProfileName = "entra", world: WorldModel = DEFAULT_WORLD, ends: Ends | None = None
) -> AsyncIterator[Visitor]:
    """A lab that has just been opened by its printed address."""
    sandbox = SandboxServer(world, profile, rng=random.Random(7), signer=SIGNER)
    async with sandbox, Lab(sandbox, ends, owner=lambda _port, _ours: os.getuid(), uids={os.getuid()}) as lab:
        timeout = ClientTimeout(total=HANG_S)
        async with ClientSession(cookie_jar=CookieJar(unsafe=True), timeout=timeout) as session:
            async with session.get(lab.server.address()) as answer:
                assert answer.status == 200, await answer.text()
            yield Visitor(lab, sandbox, session)


SIGNER = RsaSigner()
