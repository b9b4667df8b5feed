"""Calls to the provider over real HTTP, and what was said in them with every secret left out.

A page shows a call by the trace id under which the provider's log has it. Values that are secrets are replaced before a
call is kept: a page that was left open shows none.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from token_relay.protocol.errors import TransientError
from token_relay.sandbox.provider.memory.state import State

CALLS_MAX = 200
ANSWER_BYTES_MAX = 262_144
TIMEOUT_S = 30.0
SECRETS = frozenset(
    {
        *("password", "oob", "code", "code_verifier", "client_secret", "refresh_token", "access_token", "id_token"),
        *("new_password", "session_transfer_token", "device_code", "assertion", "client_assertion", "id_token_hint"),
    }
)
SHORTENED = frozenset({"continuation_token"})  # a step's, and of no use to anybody else
HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class LiveCall:
    """One call as a page shows it: no secret in it. ``answer`` is JSON with line breaks, or text."""

    number: int
    at: float
    method: str
    path: str
    sent: Mapping[str, str]
    status: int
    answer: str
    trace_id: str
    correlation_id: str
    is_json: bool = False  # what was sent


class LiveClient:
    """Calls one provider. ``calls`` are the newest ones, the newest first."""

    def __init__(self, base_url: str, state: State) -> None:
        self.calls: deque[LiveCall] = deque(maxlen=CALLS_MAX)
        self._base_url, self._state = base_url, state
        self._made = 0

    async def call(
        self,
        method: str,
        path: str,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json_body: Mapping[str, str] | None = None,
    ) -> tuple[LiveCall, Mapping[str, object]]:
        """Send one request; return it as a page shows it, and the answer with its secrets ({} if it is no JSON object).

        Its TLS certificate is not looked at: the provider is this process, and the certificate a person's own.

        Raises:
            TransientError: there is no whole answer, as after a link that was cut.
        """
        first_event_id = self._state.next_event_id
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.request(
                    method,
                    f"{self._base_url}{path}",
                    data=form,
                    json=json_body,
                    headers=headers,
                    ssl=False,
                    allow_redirects=False,
                ) as response,
            ):
                raw = b""
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > ANSWER_BYTES_MAX:
                        break
                status, answered = response.status, response.headers
        except (OSError, TimeoutError, aiohttp.ClientError) as exc:
            raise TransientError(f"no answer to {method} {path}: {type(exc).__name__}") from exc
        body = json_object(raw)
        self._made += 1
        trace_id = answered.get("x-ms-request-id") or str(body.get("trace_id") or "") or self._noted(first_event_id)
        call = LiveCall(
            number=self._made,
            at=time.time(),
            method=method,
            path=path,
            sent={name: shown(name, value) for name, value in (form or json_body or {}).items()},
            status=status,
            answer=json.dumps({name: _safe(name, value) for name, value in body.items()}, indent=2, ensure_ascii=False)
            if body
            else f"({len(raw)} bytes that are no JSON object)",
            trace_id=trace_id,
            correlation_id=answered.get("client-request-id", ""),
            is_json=json_body is not None,
        )
        self.calls.appendleft(call)
        return call, body

    def _noted(self, event_id: int) -> str:
        """Return the trace id of what the provider has just noted: not every profile's answers tell it."""
        kinds = ("token_request_received", "token_request_answered", "request_answered")
        found = [dict(one.fields) for one in self._state.events_after(event_id - 1) if one.kind in kinds]
        return str(found[-1].get("trace_id", "")) if found else ""


def _safe(name: str, value: object) -> object:
    """Return a value of an answer as it is, unless it is to be hidden."""
    return shown(name, value) if name in SECRETS | SHORTENED else value


def shown(name: str, value: object) -> str:
    """Return a value as a page shows it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if name in SECRETS and text:
        return HIDDEN
    return f"…{text[-8:]}" if name in SHORTENED and len(text) > 9 else text


def json_object(raw: bytes | str) -> dict[str, object]:
    """Return a JSON object; an empty one for anything else."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
