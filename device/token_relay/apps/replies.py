"""Writes the token API's answers: one HTTP response with a JSON object. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC
from http import HTTPStatus

from token_relay.agents.token_source import FittingGrant, TokenGranted


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. ``body`` may hold an access token: it is sent and never shown."""

    status: int
    body: Mapping[str, object] = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)

    def octets(self) -> bytes:
        """Return the body as it is sent."""
        return json.dumps(dict(self.body)).encode()

    def raw(self) -> bytes:
        """Return the whole response, for connections that end before they have sent a request."""
        body = self.octets()
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        head += [f"{name}: {value}" for name, value in self.all_headers().items()]
        head += [f"Content-Length: {len(body)}", "Connection: close"]
        return "\r\n".join([*head, "", ""]).encode("ascii") + body

    def all_headers(self) -> dict[str, str]:
        """Return the headers that every answer has, and this answer's own."""
        return {"Content-Type": "application/json", "Cache-Control": "no-store", **self.headers}


def granted(answer: TokenGranted) -> Reply:
    """Write a token; ``expires_at`` is RFC 3339 in UTC, rounded down to the second."""
    assert answer.expires_at.tzinfo is not None, "a moment is aware"
    return Reply(
        200,
        {
            "access_token": answer.access_token.reveal(),
            "token_type": answer.token_type,
            "expires_at": answer.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": answer.scope,
            "issuer": answer.issuer,
        },
    )


def refused(
    status: int,
    error: str,
    detail: str,
    action: str = "",
    retry_after_s: float | None = None,
    *,
    grants: Sequence[FittingGrant] = (),
) -> Reply:
    """Write a refusal; ``Retry-After`` (RFC 9110 §10.2.3) goes with every ``retry_after_s``, rounded up."""
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    said = {"error": error, "detail": detail, "action": action, "retry_after_s": retry_after_s}
    return Reply(status, said | ({"grants": [asdict(grant) for grant in grants]} if grants else {}), headers)
