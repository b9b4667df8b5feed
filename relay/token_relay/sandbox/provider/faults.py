"""Faults on command: which request meets which fault, and what it then gets.

A fault is data until a request fits it; :meth:`FaultBook.take` hands it out at most ``times`` times, in the order in
which faults were armed. The driver (the HTTP server, or a simulation) waits and cuts connections; an :class:`Admission`
tells it to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from token_relay.sandbox.provider.http_values import Refusal, Response, html_response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace, render
from token_relay.sandbox.provider.throttle import throttled
from token_relay.sandbox.provider.world.model import FAULTS_MAX, EndpointName, FaultModel

HOLD_S_MAX = 600.0  # a held request continues by itself after this time; longer than any client waits
_OF_A_COMMIT = frozenset({"hold_before_commit", "hold_after_commit", "drop_before_commit", "drop_after_commit"})


@dataclass(frozen=True, slots=True)
class DriverWait:
    """How long the driver waits: ``seconds``, or less when held requests are released (``can_be_released``)."""

    seconds: float
    can_be_released: bool


@dataclass(frozen=True, slots=True)
class Admission:
    """What the driver has to do around the commit of one request.

    In order: ``cut == "before"``: cut the connection, commit nothing. ``wait_before``: wait; when the client goes
    away meanwhile, commit nothing. Commit. ``wait_after``: wait. ``cut == "after"``: cut the connection instead of
    answering. ``release_count`` is the count at admission: a releasable wait is over when the book's has grown.
    """

    trace: Trace
    endpoint: EndpointName | None
    fault: FaultModel | None = None
    cut: Literal["", "before", "after"] = ""
    wait_before: DriverWait | None = None
    wait_after: DriverWait | None = None
    release_count: int = 0


@dataclass(slots=True)
class ArmedFault:
    """A fault that waits for its requests."""

    fault: FaultModel
    armed_at: float  # the provider's time
    left: int


@dataclass(slots=True)
class FaultBook:
    """All armed faults."""

    armed: list[ArmedFault] = field(default_factory=list)
    release_count: int = 0

    def arm(self, fault: FaultModel, now: float) -> bool:
        """Add a fault; False when there are too many."""
        if len(self.armed) >= FAULTS_MAX:
            return False
        self.armed.append(ArmedFault(fault, now + fault.after_s, fault.times))
        return True

    def clear(self) -> None:
        """Forget all faults and let held requests go on."""
        self.armed.clear()
        self.release_count += 1

    def take(self, endpoint: EndpointName, method: str, grant_type: str, now: float) -> FaultModel | None:
        """Return the fault that this request meets, if any, and count it."""
        for one in self.armed:
            if now >= one.armed_at and _fits(one.fault, endpoint, method, grant_type):
                if one.left == 1:
                    self.armed.remove(one)
                one.left = max(0, one.left - 1)  # 0 from the start: for ever
                return one.fault
        return None

    def admit(self, trace: Trace, endpoint: EndpointName, method: str) -> Admission:
        """Decide what happens around this request's commit."""
        fault = self.take(endpoint, method, trace.grant_type, trace.now)
        if fault is None:
            return Admission(trace, endpoint)
        cut: Literal["", "before", "after"] = ""
        wait_before = wait_after = None
        held = DriverWait(HOLD_S_MAX if fault.seconds is None else fault.seconds, can_be_released=True)
        match fault.name:
            case "down" | "drop_before_commit":
                cut = "before"
            case "drop_after_commit":
                cut = "after"
            case "hold_before_commit":
                wait_before = held
            case "hold_after_commit":
                wait_after = held
            case "slow":
                wait_before = DriverWait(fault.seconds or 0.0, can_be_released=False)
            case _:
                pass
        return Admission(trace, endpoint, fault, cut, wait_before, wait_after, self.release_count)


def wrong_answer(fault: FaultModel, profile: str, trace: Trace, real: Response | None) -> Response:
    """Return the answer of a fault that :attr:`FaultModel.is_answer`; ``real`` is the one that it replaces, if any."""
    after = () if fault.retry_after_s is None else (("Retry-After", str(fault.retry_after_s)),)
    match fault.name:
        case "error_500" | "error_502" | "error_503":
            return html_response(f"<h1>{fault.name[-3:]}</h1>", int(fault.name[-3:])).with_headers(*after)
        case "throttle_429":
            seconds = 1 if fault.retry_after_s is None else fault.retry_after_s
            return render(profile, throttled(profile, seconds), trace)
        case "refuse":
            refusal = Refusal(
                fault.error,
                "Refused by order of the control interface.",
                code=fault.code,
                suberror=fault.suberror,
                retry_after_s=fault.retry_after_s,
            )
            return render(profile, refusal, trace)
        case "html":
            return html_response("<h1>Welcome to our wireless network</h1>")
        case "huge":
            return json_response({"filler": "x" * fault.size})
        case "redirect":
            return html_response("", 307).with_headers(("Location", fault.location))
        case _:
            assert fault.answer is not None, "the model says so"
            return fault.answer.response(real)


def _fits(fault: FaultModel, endpoint: EndpointName, method: str, grant_type: str) -> bool:
    if fault.grant_type is not None:
        return endpoint == "token" and fault.grant_type == grant_type
    if fault.endpoint is not None:
        return fault.endpoint == endpoint
    return endpoint != "resource" and (fault.name not in _OF_A_COMMIT or method == "POST")
