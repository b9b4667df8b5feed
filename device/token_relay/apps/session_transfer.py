"""``POST /v1/session-transfer``: reads its body and writes its answers.

A session transfer token goes to the program that asked for it and to nobody else: it signs a browser in, once. The
HTTP around this is :mod:`token_relay.apps.server`'s.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.agents.token_source import TIMEOUT_S_DEFAULT, TransferGranted, TransferQuery

PATH = "/v1/session-transfer"
BODY_BYTES_MAX = 4_096
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 1.0, 60.0  # an exchange always asks the provider: less than a second is too short

_Name = Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class _BodyModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    account: _Name = ""
    audience: _Name = ""
    timeout_s: Annotated[float, Field(ge=TIMEOUT_S_MIN, le=TIMEOUT_S_MAX, allow_inf_nan=False)] = TIMEOUT_S_DEFAULT
    issuer: _Name = ""
    phone: _Name = ""


MEMBERS = tuple(_BodyModel.model_fields)
HOW = f"use POST {PATH} with a JSON object of any of: {', '.join(MEMBERS)}"


def parse_body(body: bytes) -> TransferQuery | str:
    """Read a request's body; a string says why it is refused. Unknown and repeated members are refused."""

    def distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a member is given twice")
        return found

    if len(body) > BODY_BYTES_MAX:
        return f"the body is longer than {BODY_BYTES_MAX} bytes"
    try:
        value: object = json.loads(body, object_pairs_hook=distinct)
        model = _BodyModel.model_validate(value)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        name = repr(str(first["loc"][0])[:64]) if first["loc"] else "the body"
        return f"{name}: {first['msg'].lower()}"
    except (ValueError, RecursionError):
        return "the body is not a JSON object with distinct members"
    return TransferQuery(model.account, model.audience, model.timeout_s, model.issuer, model.phone)


def transferred(answer: TransferGranted) -> dict[str, str | float | None]:
    """Write a session transfer token; ``expires_at`` as for access tokens."""
    return {
        "session_transfer_token": answer.token.reveal(),
        "expires_at": answer.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires_in_s": int(answer.expires_in_s),
        "issuer": answer.issuer,
    }
