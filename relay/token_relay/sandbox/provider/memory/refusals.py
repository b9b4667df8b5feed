"""How each profile answers a refusal.

``entra`` answers with AADSTS bodies: number, trace id, correlation id, timestamp, and where there is one a
``suberror``. The numbers that Microsoft documents, or that were seen in the field, are used; SDKs look at few of them.
The other profiles answer as RFC 6749 §5.2 says, except that ``auth0`` uses status 403 for a refused grant.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from token_relay.sandbox.provider.http_values import JsonValue, Refusal, Response, json_response
from token_relay.sandbox.provider.memory.verdicts import Verdict
from token_relay.sandbox.provider.world.network_table import Location

NOWHERE = Location("")


@dataclass(frozen=True, slots=True)
class Trace:
    """What identifies a request in answers and logs. ``now`` is the provider's time, Unix seconds; ids are GUIDs.

    ``place`` is where it came from, ``host`` its Host header, ``origin`` that of the foreign web page that sent it,
    if one did; ``verdict`` is the answer of an Action, once one was asked; ``key_thumbprint`` is of the key that the
    client has proven to hold (RFC 9449).
    """

    trace_id: str
    correlation_id: str
    now: float
    endpoint: str = ""
    grant_type: str = ""
    place: Location = NOWHERE
    host: str = ""
    origin: str = ""
    verdict: Verdict | None = None
    key_thumbprint: str = ""


def render(profile: str, refusal: Refusal, trace: Trace, *, refused_grant_status: int = 403) -> Response:
    """Return the answer that this profile gives; ``refused_grant_status`` is ``auth0``'s."""
    is_entra = profile == "entra"
    response = _entra(refusal, trace) if is_entra else _oauth(profile, refusal, trace, refused_grant_status)
    if refusal.retry_after_s is None:
        return response
    response = response.with_headers(("Retry-After", str(refusal.retry_after_s)))
    if profile != "auth0" or refusal.status != 429:
        return response
    reset_at = str(int(trace.now) + refusal.retry_after_s)
    return response.with_headers(("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset_at))


def _oauth(profile: str, refusal: Refusal, trace: Trace, refused_grant_status: int) -> Response:
    status = refusal.status
    if refusal.error == "invalid_grant" and profile == "auth0" and trace.endpoint == "token":
        status = refused_grant_status  # Auth0's documents and field reports; RFC 6749 would say 400
    body: dict[str, JsonValue] = {"error": refusal.error, "error_description": refusal.description}
    if profile == "auth0":
        body |= refusal.more
    response = json_response(body, status)
    if refusal.error == "invalid_client":
        return response.with_headers(("WWW-Authenticate", 'Basic realm="sandbox"'))
    return response


def _entra(refusal: Refusal, trace: Trace) -> Response:
    stamp = datetime.fromtimestamp(trace.now, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    number = refusal.code or 9002313  # "invalid request", malformed in some other way
    lines = (
        f"AADSTS{number}: {refusal.description}",
        f"Trace ID: {trace.trace_id}",
        f"Correlation ID: {trace.correlation_id}",
        f"Timestamp: {stamp}",
    )
    body: dict[str, JsonValue] = {
        "error": refusal.error,
        "error_description": "\r\n".join(lines),
        "error_codes": [number],
        "timestamp": stamp,
        "trace_id": trace.trace_id,
        "correlation_id": trace.correlation_id,
    }
    if refusal.suberror:
        body["suberror"] = refusal.suberror
    body |= refusal.more
    # The documentation shows 400 for every refusal of the native API, invalid_client included.
    return json_response(body, 400 if refusal.status in {401, 403} else refusal.status)
