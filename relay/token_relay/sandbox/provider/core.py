"""The sandbox provider's core: ``(request, now) -> answer and events``. No socket, no clock, no asyncio.

One request is two calls, so that a driver can wait in between: :meth:`Provider.admit` looks at it and decides which
fault it meets, :meth:`Provider.commit` carries it out, whole or not at all. Between them nothing is held: a driver
whose client has gone away just does not commit. The HTTP server and a simulation in virtual time drive the same
object.

``now`` is the driver's wall clock in Unix seconds; the provider's own time is that plus an offset that the control
interface can advance. Randomness comes from the generator given at the start: same seed, same requests at the
same times, same tokens (under a signer whose key is the same).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from token_relay.sandbox.provider import cors, metadata, token_endpoint
from token_relay.sandbox.provider.faults import Admission, FaultBook, wrong_answer
from token_relay.sandbox.provider.http_values import (
    GUID,
    JsonValue,
    Params,
    Refusal,
    Request,
    Response,
    body_params,
    error_in,
    json_response,
    query_params,
    with_basic,
)
from token_relay.sandbox.provider.management import clients as management_clients
from token_relay.sandbox.provider.management import grants as management_grants
from token_relay.sandbox.provider.management.api import manage
from token_relay.sandbox.provider.memory import refusals
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.signing import Signer
from token_relay.sandbox.provider.memory.state import Assertions, Event, State
from token_relay.sandbox.provider.memory.tenant_logs import LogRecord
from token_relay.sandbox.provider.memory.verdicts import Verdict
from token_relay.sandbox.provider.native import version_2
from token_relay.sandbox.provider.throttle import count_request
from token_relay.sandbox.provider.tokens import dpop
from token_relay.sandbox.provider.tokens.resource import look_at_access_token
from token_relay.sandbox.provider.tokens.userinfo import userinfo
from token_relay.sandbox.provider.web import account_pages, browser, saml
from token_relay.sandbox.provider.world.model import ClientModel, EndpointName, WorldModel
from token_relay.sandbox.provider.world.network_table import Location, NetworkTable, address_of, client_address
from token_relay.sandbox.provider.world.rules import Rules, Urls

GETS: frozenset[EndpointName] = frozenset(
    {"authorize", "discovery", "jwks", "resource", "userinfo", "logout", "samlp", "wsfed", "activate"}
)
FORMS: frozenset[EndpointName] = frozenset({"authorize", "logout", "userinfo"})  # by GET or, from a form, by POST
HOST_CHARS_MAX = 300
USER_AGENT_CHARS_MAX = 500
MANAGEMENT_ROUTES = (*management_clients.ROUTES, *management_grants.ROUTES)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to: the answer, and what happened, in order; ``logs`` is the tenant's log of it."""

    response: Response
    events: tuple[Event, ...]
    logs: tuple[LogRecord, ...] = ()


class Provider:
    """The provider. All methods return at once and change the state entirely or not at all."""

    def __init__(
        self,
        world: WorldModel,
        urls: Urls,
        rng: Random,
        signer: Signer,
        *,
        now: float,
        cors_origins: frozenset[str] = frozenset(),
        rules: Rules | None = None,
        networks: NetworkTable | None = None,
        has_actions: bool = False,
        assertions: Assertions | None = None,
    ) -> None:
        """Prepare; web pages from ``cors_origins`` may call the provider.

        ``rules`` replace the profile's own, for providers of another kind. With ``has_actions`` the driver answers
        :class:`ActionWanted`; without ``assertions`` there is no SAML.
        """
        self.state = State.from_world(world, urls, rng, signer, rules)
        self.state.networks = networks or NetworkTable()
        self.state.has_actions, self.state.assertions = has_actions, assertions
        self._cors_origins = cors_origins
        self.faults = FaultBook()
        for fault in world.faults:
            self.faults.arm(fault, now)

    def time(self, now: float) -> float:
        """Return the provider's time for this reading of the driver's clock."""
        return now + self.state.clock_offset_s

    def admit(self, request: Request, now: float) -> Admission:
        """Note a request, and say what the driver has to do around its commit. Changes no token."""
        state = self.state
        endpoint = state.urls.endpoint(request.path)
        grant_type, client_id = _peek(state, request) if endpoint == "token" else ("", "")
        trace_id = state.guid()
        correlation_id = _correlation_id(request)
        trace = Trace(
            trace_id=trace_id,
            correlation_id=correlation_id or trace_id,
            now=self.time(now),
            endpoint=endpoint or "",
            grant_type=grant_type,
            place=self._place(request),
            host=request.headers.get("host", "")[:HOST_CHARS_MAX],
            origin=self._foreign_origin(request),
        )
        if endpoint is None or self._is_preflight(request):
            return Admission(trace, None)
        if endpoint == "token":
            received: dict[str, str | int] = {"grant_type": grant_type, "client_id": client_id}
            state.note("token_request_received", trace.now, trace_id=trace_id, **received)
        admission = self.faults.admit(trace, endpoint, request.method)
        if admission.fault is not None:
            self._note(admission, now, "fault_met")
        if admission.wait_before is not None:
            self._note(admission, now, "request_held", when="before_commit")
        return admission

    def commit(self, request: Request, admission: Admission, now: float, verdict: Verdict | None = None) -> Answer:
        """Carry the request out at time ``now`` and return the answer that the client is to see.

        Raises:
            ActionWanted: an Action must be asked first, and nothing was changed; commit again with its verdict.
        """
        first, first_log = self.state.next_event_id, self.state.next_log_number
        fault = admission.fault
        trace = replace(admission.trace, now=self.time(now), verdict=verdict)
        if fault is None or not fault.is_answer:
            response = self._dispatch(request, admission.endpoint, trace)
        else:
            real = self._dispatch(request, admission.endpoint, trace) if fault.committed else None
            if real is not None and (fault.answer is None or not fault.answer.borrows):
                self._note(admission, now, "answer_lost")
            response = wrong_answer(fault, self.state.urls.profile, trace, real)
        if fault is not None and fault.name == "cut_json":
            response = replace(response, body=response.body[: len(response.body) // 2])
            self._note(admission, now, "answer_lost")
        if admission.wait_after is not None:
            self._note(admission, now, "request_held", when="after_commit")
        response = cors.with_leave(response, self._leave(request, trace.grant_type))
        logs = tuple(self.state.logs_after(first_log - 1))
        return Answer(response, tuple(self.state.events_after(first - 1)), logs)

    def lost(self, admission: Admission, now: float, *, was_committed: bool) -> None:
        """Note that the connection ended without the answer, by a fault or because the client went away."""
        self._note(admission, now, "answer_lost" if was_committed else "request_lost")

    def answered(self, admission: Admission, answer: Answer, now: float) -> None:
        """Note that the answer has left: whole, on a connection that was open."""
        if admission.endpoint is not None:
            kind = "token_request_answered" if admission.endpoint == "token" else "request_answered"
            self._note(admission, now, kind, status=answer.response.status, **error_in(answer.response))

    def _note(self, admission: Admission, now: float, kind: str, **more: str | int) -> None:
        trace = admission.trace
        known = {
            "trace_id": trace.trace_id,
            "correlation_id": trace.correlation_id if trace.correlation_id != trace.trace_id else "",
            "endpoint": trace.endpoint,
            "grant_type": trace.grant_type,
            "fault": admission.fault.name if admission.fault is not None else "",
        }
        self.state.note(kind, self.time(now), **known, **more)

    def _dispatch(self, request: Request, endpoint: EndpointName | None, trace: Trace) -> Response:
        profile = self.state.urls.profile
        if self._is_preflight(request):
            return cors.preflight(request)
        try:
            if endpoint is None:
                return self._nowhere(request)
            allowed = "GET" if endpoint in GETS else "POST"
            is_other = request.method != allowed and endpoint not in {"management", "native_step"}
            if is_other and not (endpoint in FORMS and request.method == "POST"):
                text = f"The endpoint only accepts {allowed} requests. Received a {_shown_method(request)} request."
                raise Refusal("invalid_request", text, code=900561, status=405)
            response = self._answer(request, endpoint, trace)
        except Refusal as refusal:
            status = self.state.policy.refused_grant_status
            response = refusals.render(profile, refusal, trace, refused_grant_status=status)
            if refusal.status == 405:
                response = response.with_headers(("Allow", "GET" if endpoint in GETS else "POST"))
        if self.state.rules.is_managed and "dpop" in request.headers:  # RFC 9449 §8.2
            return response.with_headers(("DPoP-Nonce", dpop.nonce(self.state, trace.now)))
        if profile != "entra":
            return response
        return response.with_headers(("x-ms-request-id", trace.trace_id), ("client-request-id", trace.correlation_id))

    def _nowhere(self, request: Request) -> Response:
        if self.state.urls.is_in_other_tenant(request.path):
            raise Refusal("invalid_tenant", "The tenant was not found; check its name.", code=90002)
        body: dict[str, JsonValue] = {
            "error": "not_found",
            "error_description": "nothing is at this path in this profile",
        }
        return json_response(body, 404)

    def _answer(self, request: Request, endpoint: EndpointName, trace: Trace) -> Response:
        state = self.state
        match endpoint:
            case "discovery":
                return metadata.discovery(state)
            case "jwks":
                return metadata.jwks(state)
            case "resource" | "userinfo":
                look = look_at_access_token if endpoint == "resource" else userinfo
                given = request.headers.get("authorization", "")
                if endpoint == "userinfo" and not given:  # RFC 6750 §2.2 and §2.3; passport-auth0 asks like this
                    given = f"Bearer {_asked(request).get('access_token')}"
                shown = dpop.shown_token(state, request, given, trace) if state.rules.is_managed else given
                return shown if isinstance(shown, Response) else look(state, shown, trace)
            case "authorize":
                return browser.authorize(state, _asked(request), request.cookies, trace)
            case "login":
                return browser.login(state, body_params(request, takes_json=False), request.cookies, trace)
            case "logout":
                return account_pages.logout(state, _asked(request), request.cookies, trace)
            case "authorize_challenge":
                return version_2.authorize_challenge(state, body_params(request, takes_json=False), trace)
            case "native_step":
                return version_2.step(state, request, trace)
            case "management":
                return manage(state, request, MANAGEMENT_ROUTES, trace)
            case "activate":
                return browser.activate(state, query_params(request), request.cookies, trace)
            case "samlp" | "wsfed":
                client_id, params = request.path.split("/", 2)[2].strip("/"), query_params(request)
                return saml.sign_in(state, client_id, params, request.cookies, trace=trace, protocol=endpoint)
            case "service_provider":
                return saml.consume(state, body_params(request, takes_json=False), trace)
            case _:
                params = body_params(request, takes_json=not state.rules.is_native)
                if not state.rules.is_native:
                    params = with_basic(params, request.headers.get("authorization", ""))
                client = state.clients.get(params.get("client_id"))
                if trace.verdict is None:  # else it was counted when the Action was asked for
                    count_request(state, params.get("client_id"), trace.now)
                if state.rules.is_managed and endpoint == "token":
                    thumbprint = dpop.prove(state, request, trace, client=client)
                    trace = replace(trace, key_thumbprint=thumbprint, place=self._told_place(request, client, trace))
                return token_endpoint.form(endpoint, state, params, trace)

    def _leave(self, request: Request, grant_type: str = "") -> str:
        endpoint, origin = self.state.urls.endpoint(request.path), request.headers.get("origin", "")
        if endpoint is None and request.method == "GET" and self.state.urls.is_in_other_tenant(request.path):
            return "*"  # so that a page can read that its authority names no tenant
        return cors.leave(self.state, self._cors_origins, origin, endpoint, grant_type)

    def _is_preflight(self, request: Request) -> bool:
        return cors.is_preflight(request) and self._leave(request) != ""

    def _foreign_origin(self, request: Request) -> str:
        origin = request.headers.get("origin", "")[:HOST_CHARS_MAX]
        return "" if origin == self.state.urls.base_url else origin

    def _told_place(self, request: Request, client: ClientModel | None, trace: Trace) -> Location:
        """Return where a request counts as coming from; a trusted client, which is authenticated next, may say for
        whom."""
        told = request.headers.get("auth0-forwarded-for", "").partition(",")[0].strip()
        if not told or client is None or not client.is_token_endpoint_ip_header_trusted:
            return trace.place
        return self.state.networks.place(address_of(told) or trace.place.ip, trace.place.user_agent)

    def _place(self, request: Request) -> Location:
        ip = client_address(request.peer, request.headers.get("x-forwarded-for", ""))
        return self.state.networks.place(ip, request.headers.get("user-agent", "")[:USER_AGENT_CHARS_MAX])


def _asked(request: Request) -> Params:
    """Return what a browser was sent with. OpenID Connect Core §3.1.2.1."""
    return query_params(request) if request.method == "GET" else body_params(request, takes_json=False)


def _correlation_id(request: Request) -> str:
    """Return the client's own id of the request: from a header, or, for the JavaScript SDK's refresh, from the
    query."""
    given = request.headers.get("client-request-id", "")
    if not given:
        try:
            given = query_params(request).get("client-request-id")
        except Refusal:
            return ""
    return given if GUID.fullmatch(given) else ""


def _shown_method(request: Request) -> str:
    return (
        request.method
        if request.method in {"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"}
        else "different"
    )


def _peek(state: State, request: Request) -> tuple[str, str]:
    """Return grant type and client, for events and faults; known values only, never mistyped ones."""
    try:
        params = body_params(request, takes_json=not state.rules.is_native)
    except Refusal:
        return "", ""
    grant_type, client_id = params.get("grant_type"), params.get("client_id")
    shown = grant_type if grant_type in token_endpoint.GRANT_TYPES else "other"
    return (shown if grant_type else ""), (client_id if client_id in state.clients else "")
