"""One device's way to the identity provider: the sandbox provider's core, with faults at each request.

A request passes four points: it leaves, it arrives, it is carried out (the commit), its answer arrives. A fault decides
at which of them it ends. :class:`HttpFault` is for this device alone; the provider's own faults
(:class:`token_relay.sandbox.provider.faults.FaultBook`, armed at ``provider.faults``) hit requests of every device.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from http.client import HTTPResponse as Parser
from random import Random
from urllib.parse import parse_qs, urlencode, urlsplit

from token_relay.host.http import is_whole, take
from token_relay.protocol.secret import Secret
from token_relay.provider.http import RESPONSE_BYTES_MAX, AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.sandbox.provider.http_values import Request, Response
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.lies import HOSTILE_HOST
from token_relay.simulation.ports.clocks import SimulatedClock
from token_relay.simulation.ports.http_faults import HTML, PAGES, REFUSALS, HttpFaultKind
from token_relay.simulation.ports.power import Power
from token_relay.simulation.ports.provider import BASE, SimulatedProvider

OUR_HOST = urlsplit(BASE).netloc
INSTEAD = (*PAGES, "429", *REFUSALS)
_WRONG = {**PAGES, "429": (429, "text/html", HTML)}


@dataclass(frozen=True, slots=True)
class HttpFault:
    """A fault for one request. ``seconds`` is for ``slow``, ``retry_after_s`` for ``429`` and pages.

    ``committed``: the provider had carried it out before the wrong answer came: *commit, then a page*. Without it:
    *a page, nothing committed*.
    """

    kind: HttpFaultKind
    seconds: float = 0.0
    retry_after_s: int | None = None
    committed: bool = False
    path: str = ""
    """It hits only requests whose URL ends so; empty: any."""


class SimulatedHttp:
    """The :class:`token_relay.provider.http.Http` port of one device.

    For each request without a fault in :attr:`faults`, ``fault`` returns a kind of fault, or "" to carry it out.
    While ``gate`` is clear, requests wait at the provider before they are carried out.
    """

    def __init__(
        self,
        *,
        name: str,
        clock: SimulatedClock,
        power: Callable[[], Power],
        provider: SimulatedProvider,
        announcer: Announcer,
        random: Random,
    ) -> None:
        self.name = name
        self.faults: deque[HttpFault] = deque()
        self.fault: Callable[[HttpRequest], str | HttpFault] = lambda request: ""
        self.requests: list[HttpRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_cut = False
        self.delay_s: tuple[float, float] = (0.0, 0.0)
        """The bounds of the time that a request takes, and again its answer."""
        self._clock = clock
        self._power = power
        self._provider = provider
        self._announcer = announcer
        self._random = random

    # -- faults ----------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Make the provider unreachable: nothing is sent."""
        self.is_cut = True

    def heal(self) -> None:
        """Make the provider reachable again, and drop planned faults."""
        self.is_cut = False
        self.faults.clear()
        self.fault = lambda request: ""
        self.delay_s = (0.0, 0.0)

    def plan(self, fault: HttpFault | HttpFaultKind, times: int = 1) -> None:
        """Give a fault to the next ``times`` requests that fit it."""
        self.faults.extend([HttpFault(fault) if isinstance(fault, str) else fault] * times)

    def _next_fault(self, request: HttpRequest) -> HttpFault | None:
        for at, planned in enumerate(self.faults):
            if not planned.path or urlsplit(request.url).path.endswith(planned.path):
                del self.faults[at]
                return planned
        found = self.fault(request)
        if isinstance(found, HttpFault):
            return found
        return HttpFault(found) if found else None  # type: ignore[arg-type]  # a kind by its name

    # -- the port --------------------------------------------------------------------------------------

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        """Carry a request out at the provider's core, as far as its faults let it come."""
        power = self._power()
        power.check()
        self.requests.append(request)
        fault = self._next_fault(request)
        self._announcer.requested(self.name, request)
        answer: HttpResponse | NotSent | AnswerLost
        try:
            async with asyncio.timeout(request.timeout_s):
                answer = await self._carry_out(request, fault)
        except TimeoutError:
            answer = AnswerLost(f"no answer within {request.timeout_s:g} s")
        await self._clock.awake()
        power.check()
        self._announcer.answered(self.name, request, answer)
        return answer

    async def _carry_out(self, request: HttpRequest, fault: HttpFault | None) -> HttpResponse | NotSent | AnswerLost:
        kind = fault.kind if fault is not None else ""
        if kind == "not_sent" or self.is_cut:
            return NotSent("the network is down")
        await self._pause()
        await self.gate.wait()
        if fault is not None and kind == "slow":
            await asyncio.sleep(fault.seconds)
        if kind == "lost_before":
            return AnswerLost("connection reset")
        provider = self._provider
        asked = as_request(request)
        admission = provider.admit(asked, provider.true_wall_s())
        if admission.wait_before is not None:
            await asyncio.sleep(admission.wait_before.seconds)
        if fault is not None and kind in INSTEAD and not fault.committed:
            provider.tell()
            return _wrong(fault)
        if admission.cut == "before":
            provider.lost(admission, provider.true_wall_s(), was_committed=False)
            provider.tell()
            return AnswerLost("connection reset")
        if urlsplit(request.url).netloc != OUR_HOST:
            return elsewhere(asked, request.url)
        answer = provider.answer(asked, admission)
        response = read_answer(answer.raw) if answer.raw else _whole(answer)
        if admission.wait_after is not None:
            await asyncio.sleep(admission.wait_after.seconds)
        await self._pause()
        if kind == "lost_after" or admission.cut == "after" or self.is_cut:
            provider.lost(admission, provider.true_wall_s(), was_committed=True)
            provider.tell()
            return AnswerLost("connection reset")
        if fault is not None and kind in INSTEAD:
            return _wrong(fault)
        if isinstance(response, AnswerLost):
            return response
        if kind == "no_refresh_token" and response.status == 200:
            body = json.loads(response.body)
            body.pop("refresh_token", None)
            return HttpResponse(response.status, response.headers, json.dumps(body).encode())
        if kind == "cut_json":
            return HttpResponse(response.status, response.headers, response.body[: len(response.body) // 2])
        return response

    async def _pause(self) -> None:
        low, high = self.delay_s
        if high:
            await asyncio.sleep(self._random.uniform(low, high))

    async def close(self) -> None:
        """Do nothing: no connection is open."""


def as_request(request: HttpRequest) -> Request:
    """Return a client's request as the provider's core takes it."""
    parts = urlsplit(request.url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    headers: Mapping[str, str] = request.headers
    body = b""
    if request.form is not None:
        body = urlencode([(k, v.reveal() if isinstance(v, Secret) else v) for k, v in request.form]).encode()
        headers = {**headers, "content-type": "application/x-www-form-urlencoded"}
    return Request(request.method, target, body, headers)


def elsewhere(asked: Request, url: str) -> HttpResponse | NotSent:
    """Answer for every other host: a hostile one gives tokens, to some grants never; the others are not there."""
    form = parse_qs(asked.body.decode())
    token = form.get("refresh_token", [""])[0]
    stem, _, number = token.partition(".")
    is_there = urlsplit(url).hostname == HOSTILE_HOST and asked.method == "POST" and stem[-1:] not in "0123"
    if not is_there:
        return NotSent("connection refused")
    turn = int(number or 0) + 1
    answer = {"access_token": f"of-{stem}-{turn}", "refresh_token": f"{stem}.{turn}", "token_type": "Bearer"}
    headers = {"content-type": "application/json"}
    return HttpResponse(200, headers, json.dumps({**answer, "expires_in": 3600, "scope": "openid profile"}).encode())


def read_answer(raw: bytes) -> HttpResponse | AnswerLost:
    """Read an answer that is given in bytes, as the HTTP client of production reads it."""
    while raw[:10] in (b"HTTP/1.1 1", b"HTTP/1.0 1"):  # interim answers, RFC 9110 §15.2
        raw = raw.partition(b"\r\n\r\n")[2]
    parser = Parser(_Given(raw))  # type: ignore[arg-type]  # it only asks for a file
    try:
        parser.begin()
        try:
            body = parser.read()
        except IncompleteRead as cut:
            body = cut.partial
            if not is_whole(body, parser.getheader("content-encoding", "")):
                raise
    except (HTTPException, ValueError):
        return AnswerLost("the provider closed the connection before the answer was complete")
    headers: dict[str, str] = {}
    for name, value in parser.getheaders():
        headers.setdefault(name.lower(), value)
    return take(parser.status, headers, body if len(body) <= RESPONSE_BYTES_MAX else None)


class _Given:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _whole(answer: Response) -> HttpResponse:
    headers = {name.lower(): value for name, value in answer.headers}
    return HttpResponse(answer.status, headers | {"content-type": answer.content_type}, answer.body)


def _wrong(fault: HttpFault) -> HttpResponse:
    if fault.kind in REFUSALS:
        status, body = REFUSALS[fault.kind]
        return HttpResponse(status, {"content-type": "application/json"}, body)
    status, media_type, body = _WRONG[fault.kind]
    headers = {"content-type": media_type} if media_type else {}
    if fault.retry_after_s is not None:
        headers["retry-after"] = str(fault.retry_after_s)
    if status == 302:
        headers["location"] = "https://portal.example/"
    return HttpResponse(status, headers, body)
