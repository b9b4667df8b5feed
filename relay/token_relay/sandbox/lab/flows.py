"""The native flows, step by step: data says which calls there are, and the answer of each says which comes next.

For a developer each call is a form; for a person who signs in, calls that ask nothing of them go by themselves. An app
bounds its retries, and so does this one: three wrong codes, and the flow begins again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from token_relay.pages.server import PageRoute
from token_relay.pages.visit import Answer, PageRequest
from token_relay.protocol.errors import LocalError, TransientError
from token_relay.sandbox.lab.live import LiveCall
from token_relay.sandbox.lab.native_calls import (
    NO_JSON,
    FormField,
    Operation,
    described,
    form,
    mail,
    operations,
    outcome,
    send,
)
from token_relay.sandbox.lab.provider_words import advice, codes_of
from token_relay.sandbox.lab.room import Chain, Content, LabRoom, content, secret_in

WRONG_CODES_MAX = 3
CALLS_MAX = 40  # one run; more is a loop
PATH = "flows"


@dataclass(frozen=True, slots=True)
class FlowStep:
    """One call of a flow; see content/flows.toml."""

    operation: Operation
    does: str
    person: str = ""
    ask: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    set: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabFlow:
    """A way through the endpoints."""

    name: str
    title: str
    person: str  # the title in the words of somebody who signs in
    about: str
    steps: tuple[FlowStep, ...]
    username: str
    values: Mapping[str, str]
    is_new: bool


@dataclass(slots=True)
class FlowRun:
    """One run. ``at`` is the step that comes; ``ended`` says how it ended: tokens, redirect, done or codes."""

    flow: LabFlow
    chain: Chain
    at: int = 0
    ended: str = ""
    problem: str = ""
    meaning: str = ""  # of the problem, in words
    wrong_codes: int = 0
    sent: tuple[int, Mapping[str, str]] | None = None  # the step that had a code sent, and what was typed there
    methods: tuple[Mapping[str, object], ...] = ()
    calls: list[LiveCall] = field(default_factory=list)
    passed: set[int] = field(default_factory=set)

    @property
    def step(self) -> FlowStep:
        """Return the step that comes."""
        return self.flow.steps[self.at]


@cache
def flows() -> Mapping[str, LabFlow]:
    """Return all flows, by name."""
    read = content("flows")
    return {name: _flow(name, one, read["steps"]) for name, one in read["flows"].items()}


def _flow(name: str, one: Content, steps: Content) -> LabFlow:
    return LabFlow(
        name=name,
        title=one["title"],
        person=one.get("person", one["title"]),
        about=one["about"],
        steps=tuple(_step(steps[step]) for step in one["steps"]),
        username=one.get("username", ""),
        values=one.get("values", {}),
        is_new=one.get("is_new", False),
    )


def _step(one: Content) -> FlowStep:
    lists = {name: tuple(one.get(name, ())) for name in ("ask", "also", "after", "again")}
    return FlowStep(operations()[one["call"]], one["does"], one.get("person", ""), set=one.get("set", {}), **lists)


class FlowPages:
    """The pages of the flows, ``flows/NAME``. One run at a time of each."""

    def __init__(self, room: LabRoom) -> None:
        self._room = room
        self._runs: dict[str, FlowRun] = {}

    @property
    def routes(self) -> tuple[PageRoute, ...]:
        """Return the pages."""
        return (PageRoute(PATH, self._list), PageRoute(f"{PATH}/{{name}}", self._page))

    async def _list(self, visit: PageRequest) -> Answer:
        if not self._room.is_native:
            return visit.page("not_native.html", title="Native authentication")
        return visit.page("flows.html", flows=flows().values())

    async def _page(self, visit: PageRequest) -> Answer:
        flow = flows().get(visit.part("name"))
        if flow is None:
            return visit.refuse(404, "there is no such flow")
        if not self._room.is_native:
            return visit.page("not_native.html", title=flow.title)
        run = self._runs.get(flow.name) or self._begin(flow)
        if not visit.is_post:
            return visit.page(
                "flow.html",
                flow=flow,
                run=run,
                fields=[] if run.ended else self._fields(run),
                mail=mail(self._room, run.chain) if not run.ended and "oob" in run.step.ask else None,
                tokens=next(iter(self._room.memory.tokens), None) if run.ended == "tokens" else None,
            )
        if "again" in visit.fields:
            run = self._begin(flow)
        elif not run.ended:
            run = await self._go_on(run, visit.fields)
        return visit.go(f"{PATH}/{run.flow.name}#now")

    def _begin(self, flow: LabFlow) -> FlowRun:
        users = self._room.state.users
        number = 1
        while flow.is_new and f"newcomer-{number}@contoso.example" in users:
            number += 1
        name = f"newcomer-{number}@contoso.example" if flow.is_new else flow.username
        run = self._runs[flow.name] = FlowRun(flow, Chain(username=name if flow.is_new or name in users else ""))
        return run

    def _fields(self, run: FlowRun, *, is_all: bool = False) -> list[FormField]:
        """Return the fields of the step's call; for the form of a person only what they are asked."""
        step = run.step
        wanted = {*step.ask}
        if is_all or self._room.memory.mode == "developer":
            wanted |= {param.name for param in step.operation.params if param.is_required} | {*step.also, *step.set}
            if step.set and step.set.get("grant_type") != "refresh_token":
                wanted.add("continuation_token")
        chosen = {"id": tuple((str(one.get("id")), described(one)) for one in run.methods)}
        values = {**run.flow.values, **step.set}
        return form(self._room, step.operation, run.chain, values, only=wanted, asked=step.ask, choices=chosen)

    async def _go_on(self, run: FlowRun, typed: Mapping[str, str]) -> FlowRun:
        """Make the step's call; for a person also those that follow and ask nothing. Raises RelayError."""
        if "resend" in typed and run.sent is not None:
            run.at, typed = run.sent
        run = await self._call(run, typed)
        while self._room.memory.mode == "person" and not (run.ended or run.problem or run.step.ask):
            run = await self._call(run, {})
        return run

    async def _call(self, run: FlowRun, typed: Mapping[str, str]) -> FlowRun:
        if len(run.calls) >= CALLS_MAX:
            raise LocalError(f"{CALLS_MAX} calls in one run", hint="begin again")
        filled = {one.param.name: one.value for one in self._fields(run, is_all=True) if one.value}
        try:
            call, body = await send(self._room, run.step.operation, run.chain, {**filled, **typed})
        except TransientError as exc:  # the same step may be tried again: no answer is no step
            run.problem = str(exc)
            return run
        run.calls.insert(0, call)
        run.problem = ""
        run.meaning = next((one.meaning for one in advice(codes_of(body))), "") if call.status >= 400 else ""
        said = outcome(body, call.status)
        methods = body.get("methods")
        if isinstance(methods, list):
            run.methods = tuple(one for one in methods if isinstance(one, dict))
        if said == "oob" and call.status == 200:
            run.sent = run.at, {name: value for name, value in typed.items() if name != "continuation_token"}
        return self._next(
            run, said, is_good=call.status < 400 and said != NO_JSON, has_tokens=bool(secret_in(body, "access_token"))
        )

    def _next(self, run: FlowRun, said: str, *, is_good: bool, has_tokens: bool) -> FlowRun:
        """Move a run on by the word of an answer."""
        if has_tokens or (said == "redirect" and is_good):
            run.passed.add(run.at)
            run.ended = "tokens" if has_tokens else "redirect"
            return run
        if said in run.step.again:
            run.problem = "not yet; ask again in a moment"
            return run
        later = range(run.at + 1, len(run.flow.steps))
        fits = (at for at in later if said in run.flow.steps[at].after or (is_good and not run.flow.steps[at].after))
        at = next(fits, None)
        if at is not None:
            run.passed.add(run.at)
            run.at = at
            return run
        other = next((one for one in flows().values() if any(said in step.after for step in one.steps)), None)
        if not is_good and other is not None:  # the account wants more than this flow has: go on in the one that has it
            at = next(at for at, step in enumerate(other.steps) if said in step.after)
            moved = FlowRun(other, run.chain, at, calls=run.calls, passed={*range(at)})
            self._runs[other.name] = moved
            del self._runs[run.flow.name]
            return moved
        if is_good:
            run.ended = "done"
            return run
        run.problem = said
        run.wrong_codes += said == "invalid_oob_value"
        if run.wrong_codes >= WRONG_CODES_MAX:
            run.ended = "codes"
        return run
