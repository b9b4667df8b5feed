"""The pages that a phone and a companion have alike: tokens, what went wrong, a handoff in four columns.

What the other end saw is shown where its agent runs on this machine too, for the same user; else the page says which
command shows it there. Of a token only header and claims are kept, and its raw text is asked for anew when the person
presses for it.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from token_relay.console import event_words
from token_relay.console.agent_client import AgentAwayError, AgentClient
from token_relay.pages import token_words
from token_relay.pages.columns import Happening, ordered
from token_relay.pages.conversation import Talk, Talks
from token_relay.pages.server import Handler, PageRoute
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.protocol.errors import LocalError, RelayError

Json = dict[str, Any]
LINES_MAX = 200
EVENTS_LOOKED_AT = 1000
TOKEN_WISHES = ("account", "issuer", "phone", "scope", "audience")
WISH_CHARS_MAX = 2048
NEWS_WAIT_S = 5.0  # an event without a message is seen by then
PAUSE_S = 0.2  # what comes together is shown together


class SharedPages:
    """Pages of one agent; ``there``: the agent of the other kind, which may never be found."""

    def __init__(self, here: AgentClient, there: AgentClient, talks: Talks) -> None:
        self.here, self.there, self.talks = here, there, talks
        self._is_alone = True
        self._refreshed: dict[str, tuple[token_words.Words, token_words.Words]] = {}  # by kind: before and after

    @property
    def shared_routes(self) -> tuple[PageRoute, ...]:
        """Return the pages that both have."""
        return (
            *self.talks.routes,
            self.route("tokens", self._tokens),
            PageRoute("tokens/refresh", self._refresh),
            PageRoute("tokens/raw", self._raw),
            self.route("trouble", self._trouble),
            PageRoute("trouble/stream", self._trouble_stream),
            self.route("handoffs/{id}", self._handoff),
            PageRoute("handoffs/{id}/stream", self._handoff_stream),
            PageRoute("away/stream", self._away_stream),
        )

    def route(self, path: str, handler: Handler) -> PageRoute:
        """Return a page that, while the agent is away, says so and comes back by itself."""

        async def page(visit: PageRequest) -> Answer:
            try:
                return await handler(visit)
            except AgentAwayError as exc:
                if visit.is_post:
                    raise
                return visit.page("away.html", status=503, why=str(exc), hint=exc.hint)

        return PageRoute(path, page)

    async def news(self, visit: PageRequest, journal: str, after: int, **args: str) -> None:
        """Wait until this end's journal has more; or a while, for what the other end or a clock brings."""
        await self.here.call(journal, {**args, "after": after, "wait_s": NEWS_WAIT_S})
        await visit.pause(PAUSE_S)

    async def _away_stream(self, visit: PageRequest) -> Answer:
        async def look() -> None:
            await self.here.call("events", {"limit": 1})

        return await visit.live(look)

    async def begin(
        self,
        visit: PageRequest,
        title: str,
        command: str,
        args: Json,
        *,
        back: str = "",
        template: str = "command_steps.html",
        watch: str = "",
    ) -> Answer:
        """Begin a command as a conversation; ``watch``: a page that shows it as it happens."""

        async def work(talk: Talk) -> Mapping[str, object]:
            if watch:
                await talk.progress({"message": "it can be watched in four columns", "place": watch})
            result = await self.here.call(command, args, talk)
            if (handoff_id := result.get("handoff_id")) and command in ("handoff", "replace"):
                talk.back = f"handoffs/{handoff_id}"
            return result

        return await self.talks.start(visit, title, work, back=back, template=template)

    # -- Tokens ------------------------------------------------------------------------------------------------

    async def _tokens(self, visit: PageRequest) -> Answer:
        wishes = _wishes(visit.query)
        ends = [await self._token_of(client, wishes, visit.now) for client in (self.here, self.there)]
        words = [end["words"] for end in ends]
        apart = token_words.difference(words[0], words[1], visit.now) if all(words) else []
        return visit.page("tokens.html", ends=ends, apart=apart, wishes=wishes)

    async def _token_of(self, client: AgentClient, wishes: Json, now: float) -> Json:
        shown: Json = {
            "kind": client.kind,
            "words": None,
            "said": [],
            "is_opaque": False,
            "refusal": None,
            "grants": [],
        }
        try:
            status, body = await client.token(_of_kind(wishes, client.kind))
        except AgentAwayError as exc:
            if client is self.here:
                raise
            return {**shown, "refusal": (f"its agent is not on this machine: {exc}", "", "")}
        token = body.get("access_token")
        if status != 200 or not isinstance(token, str):
            said = (str(body.get("detail") or body.get("error")), str(body.get("action") or ""), str(body.get("error")))
            return {**shown, "refusal": said, "grants": body.get("grants") or []}
        words = token_words.read(token)
        before = self._refreshed.get(client.kind)
        return {
            **shown,
            "words": words,
            "said": token_words.said(words, now) if words else [],
            "is_opaque": words is None,
            "changes": token_words.difference(*before, now) if before else [],
        }

    async def _refresh(self, visit: PageRequest) -> Answer:
        client, wishes = self._end_of(visit), _wishes(visit.fields)
        query = _of_kind(wishes, client.kind)
        if visit.is_post:
            found = []
            for more in ({}, {"force_refresh": "true"}):
                token = await _access_token(client, {**query, **more})
                if (words := token_words.read(token)) is None:
                    raise LocalError("this access token is opaque: only the API that it is for can read it")
                found.append(words)
            self._refreshed[client.kind] = (found[0], found[1])
        return visit.go("tokens")

    async def _raw(self, visit: PageRequest) -> Answer:
        client, wishes = self._end_of(visit), _wishes(visit.fields)
        if not visit.is_post:
            return visit.go("tokens")
        token = await _access_token(client, _of_kind(wishes, client.kind))
        is_whole = visit.fields.get("whole") == "yes"
        text = token if is_whole else token.rpartition(".")[0]
        return visit.page("token_raw.html", kind=client.kind, text=text, is_whole=is_whole, wishes=wishes)

    def _end_of(self, visit: PageRequest) -> AgentClient:
        return self.there if visit.fields.get("end") == self.there.kind else self.here

    # -- What went wrong ---------------------------------------------------------------------------------------

    async def _trouble(self, visit: PageRequest) -> Answer:
        found = await self._lines(visit)
        return visit.page("trouble.html", trace=visit.query.get("trace", ""), **found)

    async def _trouble_stream(self, visit: PageRequest) -> Answer:
        last = 0

        async def look() -> Elements:
            nonlocal last
            found = await self._lines(visit)
            last = found["last"]
            rows = {row["id"]: visit.html("line.html", line=row) for row in found["lines"]}
            return {"other-end": visit.html("other_end.html", **found), **rows}

        return await visit.live(look, lambda: self.news(visit, "events", last))

    async def _lines(self, visit: PageRequest) -> Json:
        """Return the newest lines of both ends: those of a trace, or else the refusals."""
        trace = visit.query.get("trace", "")[:WISH_CHARS_MAX]
        args: Json = {"limit": EVENTS_LOOKED_AT, **({"trace": trace} if trace else {})}
        lines, last = [], 0
        for client, found in await self._of_both("events", args):
            for row in found["events"]:
                last = max(last, row["number"]) if client is self.here else last
                if trace or row.get("name") in event_words.REFUSALS:
                    lines.append(line_of(row, client.kind))
        lines.sort(key=lambda row: (-row["at"], row["id"]))
        command = f"events --trace {shlex.quote(trace)}" if trace else "events"
        return {"lines": lines[:LINES_MAX], "last": last, **self._elsewhere(command)}

    # -- A handoff ---------------------------------------------------------------------------------------------

    async def _handoff(self, visit: PageRequest) -> Answer:
        return await self.columns(visit, visit.part("id"))

    async def columns(self, visit: PageRequest, handoff_id: str) -> Answer:
        """Show a handoff in four columns."""
        found, _ = await self._happenings(handoff_id)
        return visit.page("handoff.html", handoff_id=handoff_id, happenings=found, **self._elsewhere("events"))

    async def _handoff_stream(self, visit: PageRequest) -> Answer:
        return await self.columns_stream(visit, _always(visit.part("id")))

    async def columns_stream(self, visit: PageRequest, which: Callable[[], Awaitable[str]]) -> Answer:
        """Send the columns of a handoff as it goes on."""

        last, handoff_id = 0, ""

        async def look() -> Elements:
            nonlocal last, handoff_id
            handoff_id = await which()
            found, last = await self._happenings(handoff_id)
            other = visit.html("other_end.html", **self._elsewhere("events"))
            return {"other-end": other, **{f"h-{one.key}": visit.html("happening.html", one=one) for one in found}}

        return await visit.live(look, lambda: self.news(visit, "messages", last, handoff_id=handoff_id))

    async def _happenings(self, handoff_id: str) -> tuple[list[Happening], int]:
        """Return what happened, and up to which change of the messages here."""
        if not handoff_id:
            return [], 0
        args: Json = {"handoff_id": handoff_id}
        messages = dict(await self._of_both("messages", args))
        events = dict(await self._of_both("events", {**args, "limit": EVENTS_LOOKED_AT}))
        found = []
        for client, rows in events.items():
            passed = messages[client]["messages"] if client in messages else []
            found += event_words.happenings(client.kind, rows["events"], passed)
        return ordered(found), messages[self.here]["last"]

    # -- Both ends ---------------------------------------------------------------------------------------------

    async def _of_both(self, command: str, args: Json) -> list[tuple[AgentClient, Json]]:
        """Ask both agents; the other one may be away."""
        found = [(self.here, await self.here.call(command, args))]
        self._is_alone = False
        try:
            found.append((self.there, await self.there.call(command, args)))
        except RelayError:
            self._is_alone = True
        return found

    def _elsewhere(self, command: str) -> Json:
        """Return how to see the other end's lines where they are not here."""
        return {"elsewhere": f"token-relay {self.there.kind} {command}" if self._is_alone else ""}


def line_of(row: Json, kind: str) -> Json:
    """Return an event as a line of a time line."""
    known = {name: str(row.get(name, "")) for name in ("device", "device_name", "handoff_id")}
    is_bad = row.get("name") in event_words.REFUSALS
    words, trace = event_words.in_words(row), event_words.trace_of(row)
    told = {"number": row["number"], "at": row["at"], "end": kind, "text": words, "trace": trace, "is_bad": is_bad}
    return {**known, **told, "id": f"e-{kind}-{row['number']}"}


async def _access_token(client: AgentClient, query: Json) -> str:
    """Return an access token. Raises LocalError: the agent gives none, and why."""
    status, body = await client.token(query)
    token = body.get("access_token")
    if status != 200 or not isinstance(token, str):
        raise LocalError(str(body.get("detail") or body.get("error")), hint=str(body.get("action") or ""))
    return token


def _wishes(given: Mapping[str, str]) -> Json:
    return {name: given[name][:WISH_CHARS_MAX] for name in TOKEN_WISHES if given.get(name)}


def _of_kind(wishes: Json, kind: str) -> Json:
    return {name: value for name, value in wishes.items() if kind == "companion" or name != "phone"}


def _always(handoff_id: str) -> Callable[[], Awaitable[str]]:
    async def which() -> str:
        return handoff_id

    return which
