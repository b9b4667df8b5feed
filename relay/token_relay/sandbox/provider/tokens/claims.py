"""The ``claims`` parameter: what a client wants in its tokens, and whether it understands claims challenges.

A client that lists ``cp1`` under ``access_token.xms_cc`` says that it can answer a claims challenge; only such a client
gets tokens under continuous access evaluation. All other requests are voluntary; they are ignored, as providers do,
except ``login_hint`` in the id_token. OpenID Connect Core §5.5.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import cast

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal

CHALLENGE_CAPABILITY = "cp1"


@dataclass(frozen=True, slots=True)
class Claims:
    """The part of a claims request that has an effect here."""

    can_be_challenged: bool = False
    wants_login_hint: bool = False


NO_CLAIMS = Claims()


def asked_claims(params: Params) -> Claims:
    """Read the request's ``claims``. Raises Refusal."""
    text = params.get("claims")
    if not text:
        return NO_CLAIMS
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refusal("invalid_request", "claims parameter is empty or not valid.", code=90100)
    values = _object(_object(found.get("access_token")).get("xms_cc")).get("values")
    words = [str(one).lower() for one in values] if isinstance(values, list) else []
    return Claims(
        can_be_challenged=CHALLENGE_CAPABILITY in words,
        wants_login_hint="login_hint" in _object(found.get("id_token")),
    )


def challenge_header(authorization_url: str, not_before: int) -> str:
    """Return the ``WWW-Authenticate`` of a resource that wants a token issued after this moment."""
    wanted: dict[str, JsonValue] = {"access_token": {"nbf": {"essential": True, "value": str(not_before)}}}
    claims = base64.b64encode(json.dumps(wanted, separators=(",", ":")).encode()).decode()
    return f'Bearer realm="", authorization_uri="{authorization_url}", error="insufficient_claims", claims="{claims}"'


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
