"""One request, as a page sees it: what was asked, and the ways to answer. Live pages are streams of changed elements.

A live page gives a function that returns its elements by id, as HTML. Each change of one is sent alone, and the module
``live.js`` puts it in its place (HTML Living Standard, server-sent events). So an event changes its own row and no
other, and a page without JavaScript lacks nothing but that. All rows of a list with ``data-live`` come of its stream: a
row that the stream does not know goes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web
from jinja2 import Environment

from token_relay.pages.walls import HEADERS
from token_relay.protocol.errors import RelayError

Answer = web.StreamResponse
Elements = Mapping[str, str]  # HTML by the id of its one element, in the order of the page
STREAMS_MAX = 16  # the oldest ends when another begins: a page that was left behind keeps no new one away
TROUBLE_PAUSE_S = 2.0  # between two tries while the agent does not answer


@dataclass(slots=True)
class PageRequest:
    """One request that the walls have let in.

    ``root`` is the path under which everything lies, with a slash at the end. ``query`` and ``fields`` (of a form) have
    one value a name. ``pause`` waits so many seconds, or shorter at the end of the server.
    """

    request: web.Request
    root: str
    fields: Mapping[str, str]
    now: float
    environment: Environment
    common: Mapping[str, object]
    streams: dict[asyncio.Timeout, None]  # the oldest first
    pause: Callable[[float], Awaitable[None]]

    @property
    def query(self) -> Mapping[str, str]:
        """Return the parameters of the address."""
        return self.request.query

    def part(self, name: str) -> str:
        """Return a part of the path, by its name in the route."""
        return self.request.match_info[name]

    @property
    def is_post(self) -> bool:
        """Whether a form was sent."""
        return self.request.method == "POST"

    def html(self, template: str, **values: object) -> str:
        """Return a template with these values, the common ones, ``root`` and ``now``."""
        known = {**self.common, "root": self.root, "now": self.now, "here": self.request.path[len(self.root) :]}
        return self.environment.get_template(template).render({**known, **values})

    def page(self, template: str, *, status: int = 200, **values: object) -> Answer:
        """Answer with a page."""
        text = self.html(template, **values)
        return web.Response(text=text, content_type="text/html", status=status, headers=HEADERS)

    def refuse(self, status: int, why: str, *, hint: str = "", is_in: bool = True) -> Answer:
        """Answer with a page that says why not, and what to do; ``is_in``: its visitor may follow our links."""
        return self.page("refused.html", status=status, why=why, hint=hint, is_in=is_in)

    def go(self, place: str) -> Answer:
        """Send the browser to another of our pages, after a form. RFC 9110 §15.4.4."""
        return web.Response(status=303, headers={**HEADERS, "Location": f"{self.root}{place}"})

    def onward(self, place: str) -> Answer:
        """Answer with a page that leads to ``place``: a redirect would go on counting as another page's request."""
        return self.page("onward.html", place=place)

    def leave(self, url: str) -> Answer:
        """Send the browser to another address; only a link may lead to this, no form."""
        return web.Response(status=303, headers={**HEADERS, "Location": url})

    def picture(self, svg: bytes) -> Answer:
        """Answer with a drawing, for an ``img``."""
        return web.Response(body=svg, content_type="image/svg+xml", headers=HEADERS)

    def download(self, body: bytes, *, name: str, content_type: str) -> Answer:
        """Answer with a file to keep."""
        return web.Response(
            body=body,
            content_type=content_type,
            headers={**HEADERS, "Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def live(
        self, look: Callable[[], Awaitable[Elements | None]], news: Callable[[], Awaitable[object]] | float = 2.0
    ) -> Answer:
        """Send the elements, and from then on those that change, until the browser goes.

        None in their place: the page is another one by now, and the browser loads it again.

        ``news`` returns when it is worth another look; a number is a pause in seconds. An error of either is told on
        the page, and it is tried again.
        """
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(self.request)
        try:
            async with asyncio.timeout(None) as until:
                self._take_a_stream(until)
                await self._send_what_changes(response, look, news)
        except ConnectionError:
            pass  # the browser has gone
        except TimeoutError:
            if not until.expired():
                raise
        finally:
            self.streams.pop(until, None)
        return response

    def _take_a_stream(self, until: asyncio.Timeout) -> None:
        while len(self.streams) >= STREAMS_MAX:
            oldest = next(iter(self.streams))
            self.streams.pop(oldest)
            oldest.reschedule(0)
        self.streams[until] = None

    async def _send_what_changes(
        self,
        response: web.StreamResponse,
        look: Callable[[], Awaitable[Elements | None]],
        news: Callable[[], Awaitable[object]] | float,
    ) -> None:
        shown: Elements | None = None
        is_well = True
        while True:
            try:
                found = await look()
            except RelayError as exc:
                is_well = False
                await _send(response, "trouble", {"why": str(exc), "hint": exc.hint})
                await self.pause(TROUBLE_PAUSE_S)
                continue
            if found is None:
                await _send(response, "go", "")
                return
            if not is_well:
                is_well = True
                await _send(response, "well", {})
            if shown is None:  # a row that is gone since the page was made, or since an earlier stream
                await _send(response, "only", [*found])
            await _send_changes(response, shown or {}, found)
            shown = found
            try:
                await (self.pause(news) if isinstance(news, int | float) else news())
            except RelayError:
                await self.pause(TROUBLE_PAUSE_S)  # the next look tells


async def _send_changes(response: web.StreamResponse, shown: Elements, found: Elements) -> None:
    if gone := [name for name in shown if name not in found]:
        await _send(response, "gone", gone)
    ids = [*found]
    place, place_before = _followers(ids), _followers([*shown])
    # From the last to the first: the element that one is put before is in its place by then.
    for name in reversed(ids):
        if shown.get(name) != found[name] or place_before.get(name) != place[name]:
            await _send(response, "element", {"id": name, "html": found[name], "before": place[name]})
    await _send(response, "done", {})  # also how a connection that has gone is noticed


def _followers(ids: list[str]) -> dict[str, str | None]:
    return {name: ids[at + 1] if at + 1 < len(ids) else None for at, name in enumerate(ids)}


async def _send(response: web.StreamResponse, event: str, data: object) -> None:
    await response.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())
