"""A scripted provider on a real socket, and the marked secrets that must never show."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl

from aiohttp import web

from token_relay.protocol.secret import Code, Password, RefreshToken
from token_relay.provider.http import HttpResponse

MARK = "S3CRETMARK"  # in every secret of these tests, so that one search finds any leak
REFRESH_TOKEN = RefreshToken(f"{MARK}-rt-0")
CODE = Code(f"{MARK}-code")
PASSWORD = Password(f"{MARK}-password")
TRACE_ID = "0f6a1b2c-1111-4222-8333-444455556666"
CORRELATION_ID = "7f6a1b2c-9999-4222-8333-444455556666"

GOOD: dict[str, object] = {
    "access_token": f"{MARK}.at.1",
    "refresh_token": f"{MARK}-rt-1",
    "token_type": "Bearer",
    "expires_in": 4141,
    "scope": "openid profile",
    "id_token": f"{MARK}.id.1",
}


def response(status: int, body: object, headers: Mapping[str, str] | None = None) -> HttpResponse:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpResponse(status, headers or {}, raw)


def entra_error(error: str, *codes: int, suberror: str = "", **more: object) -> dict[str, object]:
    """An error body as Entra writes it: description with code, ids, time; MARK stands for whatever else it says."""
    code = codes[0] if codes else 90100
    body: dict[str, object] = {
        "error": error,
        "error_description": (
            f"AADSTS{code}: {MARK} says no.\r\nTrace ID: {TRACE_ID}\r\n"
            f"Correlation ID: {CORRELATION_ID}\r\nTimestamp: 2026-01-01 00:00:00Z"
        ),
        "error_codes": list(codes),
        "timestamp": "2026-01-01 00:00:00Z",
        "trace_id": TRACE_ID,
        "correlation_id": CORRELATION_ID,
    }
    if suberror:
        body["suberror"] = suberror
    return body | more


@dataclass
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    form: dict[str, str]
    headers: Mapping[str, str]


@dataclass
class ScriptedProvider:
    """Answers each path from its own queue; an unexpected request is a 599, which no test expects."""

    seen: list[Seen] = field(default_factory=list)
    base: str = ""
    _queues: dict[str, deque[tuple[int, object, Mapping[str, str]]]] = field(default_factory=dict)
    _runner: web.AppRunner | None = None

    def script(self, path: str, status: int, body: object, headers: Mapping[str, str] | None = None) -> Self:
        self._queues.setdefault(path, deque()).append((status, body, headers or {}))
        return self

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl(await request.text(), strict_parsing=True)) if request.method == "POST" else {}
        self.seen.append(Seen(request.method, request.path, form, request.headers))
        queue = self._queues.get(request.path)
        if not queue:
            return web.Response(status=599)
        status, body, headers = queue.popleft()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(status=status, body=raw, headers=headers, content_type="application/json")

    def forms(self, path: str) -> list[dict[str, str]]:
        return [seen.form for seen in self.seen if seen.path == path]


def assert_no_secret(*values: object) -> None:
    for value in values:
        assert MARK not in repr(value)
        assert MARK not in str(value)
