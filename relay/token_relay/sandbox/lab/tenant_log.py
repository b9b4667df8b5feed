"""The tenant's log, and what went wrong: the provider's lines, both ends' lines and the lab's own call, by trace id.

The provider notes no header of a request and no secret, so neither can be shown. A request is known by the trace id
that the provider gave it and by the correlation id that its client chose; the event of its answer has both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from token_relay.pages.columns import Happening
from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, Elements, PageRequest
from token_relay.pages.words import sentence
from token_relay.protocol.errors import RelayError
from token_relay.sandbox.lab.ends import ENDS
from token_relay.sandbox.lab.live import LiveCall, json_object
from token_relay.sandbox.lab.provider_words import advice, codes_of, in_words, is_bad
from token_relay.sandbox.lab.room import LabRoom
from token_relay.sandbox.server import SandboxServer

LINES_MAX = 200
WISH_CHARS_MAX = 200
TRACE_CHARS_MIN = 8
CODE = re.compile(r"\b[0-9]{5,7}\b|\b[a-z]+_[a-z_]+\b", re.ASCII)  # in what an end wrote down of a refusal
Json = Mapping[str, Any]


class LogPages:
    """``log`` and ``trouble``."""

    def __init__(self, room: LabRoom) -> None:
        self._sandbox, self._live, self._ends = room.sandbox, room.live, room.ends

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (
            PageRoute("log", self._log),
            PageRoute("log/stream", self._log_stream),
            PageRoute("trouble", self._trouble),
            PageRoute("trouble/stream", self._trouble_stream),
        )

    # -- The log -----------------------------------------------------------------------------------------------

    def _lines(self, visit: PageRequest) -> list[Json]:
        """Return the newest lines that the page asks for, newest first."""
        wish = {
            name: visit.query.get(name, "").strip().lower()[:WISH_CHARS_MAX] for name in ("trace", "user", "endpoint")
        }
        wanted = traces_of(self._sandbox, wish["trace"])
        found = []
        for line in reversed(log_lines(self._sandbox)):
            is_meant = wish["user"] in str(line["username"]).lower() and wish["endpoint"] in str(line["endpoint"])
            if is_meant and (not wish["trace"] or line["trace_id"] in wanted):
                found.append(line)
            if len(found) == LINES_MAX:
                break
        return found

    async def _log(self, visit: PageRequest) -> Answer:
        wish = {name: visit.query.get(name, "")[:WISH_CHARS_MAX] for name in ("trace", "user", "endpoint")}
        return visit.page("log.html", lines=self._lines(visit), wish=wish)

    async def _log_stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            return {line["id"]: visit.html("log_line.html", line=line) for line in self._lines(visit)}

        return await visit.live(look, self._sandbox.changed)

    # -- What went wrong ---------------------------------------------------------------------------------------

    async def _found(self, visit: PageRequest) -> Json:
        trace = visit.query.get("trace", "").strip()[:WISH_CHARS_MAX]
        wanted = traces_of(self._sandbox, trace)
        known = [
            event
            for event in in_wall_time(self._sandbox)
            if (event.get("trace_id") in wanted if trace else is_bad(event))
        ]
        calls = [one for one in self._live.calls if trace and _is_of(one, trace)]
        lines = [happening(event) for event in known] + [_call_line(one) for one in calls]
        told = [one for one in await self._of_the_ends(trace) if trace or one.is_bad]
        lines += told
        lines.sort(key=lambda one: (one.at, one.key))
        codes = [code for one in calls for code in codes_of(json_object(one.answer))]
        codes += [code for event in known if is_bad(event) for code in codes_of(event)]
        codes += [code for one in told if one.is_bad for code in CODE.findall(one.text)]
        return {
            "trace": trace,
            "lines": lines[: -LINES_MAX - 1 : -1] if not trace else lines[:LINES_MAX],
            "calls": calls,
            "advice": advice(codes) if trace else [],
        }

    async def _of_the_ends(self, trace: str) -> list[Happening]:
        """Return what both ends wrote down about a request; ends that do not run have nothing to say."""
        found: list[Happening] = []
        if self._ends is None or not self._ends.are_running or 0 < len(trace) < TRACE_CHARS_MIN:
            return found
        args = {"limit": LINES_MAX, **({"trace": trace} if trace else {})}
        for end in ENDS:
            try:
                found += self._ends.happenings(end, (await self._ends.call(end, "events", args))["events"], [])
            except RelayError:
                continue  # it ended meanwhile
        return found

    async def _trouble(self, visit: PageRequest) -> Answer:
        return visit.page("trouble.html", **await self._found(visit))

    async def _trouble_stream(self, visit: PageRequest) -> Answer:
        async def look() -> Elements:
            found = await self._found(visit)
            lines = {f"h-{one.key}": visit.html("trouble_line.html", one=one) for one in found["lines"]}
            return {"advice": visit.html("advice.html", **found), **lines}

        return await visit.live(look, 1.0)


# -- Of the provider ---------------------------------------------------------------------------------------


def in_wall_time(sandbox: SandboxServer) -> Iterator[Json]:
    """Yield the provider's events, newest first, with ``at`` by this machine's clock, which nobody puts forward."""
    state = sandbox.provider.state
    ahead_s = state.clock_offset_s
    for event in reversed(state.events):
        shown = event.as_json()
        yield {**shown, "at": event.at - ahead_s}
        if event.kind == "clock_advanced":
            ahead_s -= float(str(shown["advance_s"]))


def traces_of(sandbox: SandboxServer, wanted: str) -> frozenset[str]:
    """Return the trace ids that a trace id or correlation id, or its beginning, means."""
    found = wanted.lower()
    if len(found) < TRACE_CHARS_MIN:
        return frozenset()
    known = (dict(event.fields) for event in sandbox.provider.state.events)
    return frozenset(
        str(fields["trace_id"])
        for fields in known
        if "trace_id" in fields
        and any(str(fields.get(name, "")).lower().startswith(found) for name in ("trace_id", "correlation_id"))
    )


def log_lines(sandbox: SandboxServer) -> list[Json]:
    """Return the lines of the tenant's log, oldest first: events, and under auth0 the records of its own log."""
    state = sandbox.provider.state
    lines = [line_of(event.as_json()) for event in state.events]
    for record in state.logs:
        fields = record.as_json()
        text = f"Log {record.type}: {fields['description']}"
        more = {
            "username": fields.get("user_name", ""),
            "client_id": fields.get("client_id", ""),
        }
        known = {"trace_id": fields["trace_id"], "endpoint": "", "is_bad": record.type.startswith("f"), **more}
        lines.append({"id": f"l-{record.number}", "at": record.at, "text": text, **known})
    return sorted(lines, key=lambda line: float(line["at"]))


def line_of(event: Json) -> Json:
    """Return an event as a line."""
    known = {name: event.get(name, "") for name in ("username", "endpoint", "client_id", "trace_id")}
    return {
        "id": f"p-{event['id']}",
        "at": event["at"],
        "text": sentence(in_words(event)),
        "is_bad": is_bad(event),
        **known,
    }


def happening(event: Json) -> Happening:
    """Return an event as it stands in the provider's column."""
    who = f" ({event['username']})" if event.get("username") else ""
    return Happening(
        f"p-{event['id']:08d}",
        float(event["at"]),
        "provider",
        sentence(f"{in_words(event)}{who}"),
        state=str(event.get("endpoint", "")),
        trace_id=str(event.get("trace_id", "")),
        is_bad=is_bad(event),
    )


# -- Of the lab's own calls --------------------------------------------------------------------------------


def _is_of(call: LiveCall, trace: str) -> bool:
    wanted = trace.lower()
    ids = (call.trace_id.lower(), call.correlation_id.lower())
    return len(wanted) >= TRACE_CHARS_MIN and any(one.startswith(wanted) for one in ids)


def _call_line(call: LiveCall) -> Happening:
    text = f"It called {call.method} {call.path} and got {call.status}"
    return Happening(f"c-{call.number}", call.at, "phone", text, trace_id=call.trace_id, is_bad=call.status >= 400)
