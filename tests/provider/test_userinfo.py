"""Userinfo gives a name and nothing else: whatever it answers, a sign-in does not fail by it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from token_relay.protocol.secret import AccessToken
from token_relay.provider.http import HttpRequest, HttpResponse, NotSent
from token_relay.provider.userinfo import UserInfo, fetch_userinfo

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases/userinfo.toml").read_text("utf-8"))["case"]
pytestmark = pytest.mark.asyncio


class One:
    def __init__(self, answer: HttpResponse | NotSent) -> None:
        self.answer = answer
        self.asked: list[HttpRequest] = []

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent:
        self.asked.append(request)
        return self.answer


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_what_userinfo_says(case: dict[str, Any]) -> None:
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    http = One(HttpResponse(case.get("status", 200), {}, body.encode()))
    found = await fetch_userinfo(http, "https://p.example/me", AccessToken("marked-at"))
    assert found == (UserInfo(*case["found"]) if case["found"] else None)
    (asked,) = http.asked
    assert asked.authorization is not None and asked.authorization.reveal() == "Bearer marked-at"
    assert (asked.method, asked.form) == ("GET", None)
    assert "marked-at" not in repr(asked)


@pytest.mark.parametrize("endpoint", [None, "", "http://p.example/me", "/me", "https://p.example/#me"])
async def test_nobody_is_asked_where_a_token_must_not_go(endpoint: str | None) -> None:
    http = One(NotSent("x"))
    assert await fetch_userinfo(http, endpoint, AccessToken("at")) is None
    assert http.asked == []


async def test_no_answer_is_no_name() -> None:
    assert await fetch_userinfo(One(NotSent("x")), "https://p.example/me", AccessToken("at")) is None
    assert await fetch_userinfo(One(NotSent("x")), "https://p.example/me", None) is None
