"""A claims challenge: what a resource wants to see in an access token, on its way from an app to the provider.

A resource that no longer accepts a token answers 401 with ``error="insufficient_claims"`` and ``claims``, base64 of a
JSON object; the client sends that JSON as ``claims`` with a token request. Here it comes from a local program, so it is
read strictly: ``access_token`` alone, few claims, each of the shape of OpenID Connect Core §5.5.1.

The client capability ``cp1`` is added: an app that passes a challenge on can answer the next one too, and without it
the provider would give a token that cannot be challenged. Reference: Microsoft Entra, "claims challenges".
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

CLAIMS_CHARS_MAX = 2_048  # a challenge has some hundred characters
_CAPABILITY = "cp1"

_Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$")]
_Value = Annotated[str, Field(max_length=512)] | bool | Annotated[int, Field(ge=-(2**53), le=2**53)]


class _Claim(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    essential: bool | None = None
    value: _Value | None = None
    values: Annotated[list[_Value], Field(min_length=1, max_length=16)] | None = None


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    access_token: Annotated[dict[_Name, _Claim | None], Field(min_length=1, max_length=16)]


def read_claims(text: str) -> str | None:
    """Return the claims as they are sent to the provider; None when they are not of the shape described above.

    ``text`` is the JSON, or its base64 (standard or URL-safe, padded or not) as the resource's header has it.
    """
    if len(text) > CLAIMS_CHARS_MAX:
        return None
    if not text.startswith("{"):
        padded = text.rstrip("=").replace("-", "+").replace("_", "/")
        try:
            text = base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True).decode()
        except (binascii.Error, ValueError):
            return None
    try:
        found = _Claims.model_validate(json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse))
    except (ValidationError, ValueError, RecursionError):
        return None
    wanted: dict[str, object] = {
        name: None if claim is None else claim.model_dump(exclude_none=True)
        for name, claim in found.access_token.items()
    }
    wanted.setdefault("xms_cc", {"values": [_CAPABILITY]})
    return json.dumps({"access_token": wanted}, sort_keys=True, separators=(",", ":"))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key came twice")
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
