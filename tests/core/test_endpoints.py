"""Where a companion may send what a grant allows: the table in endpoints.toml, and what is remembered of discovery."""

from __future__ import annotations

import asyncio
import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.core.test_serving import GRANT
from token_relay.agents.companion import endpoints
from token_relay.agents.companion.endpoints import Endpoints
from token_relay.agents.grants.serving import NO_URL
from token_relay.agents.records import Grant
from token_relay.provider.http import HttpRequest, HttpResponse, NotSent
from token_relay.provider.outcome import Unavailable

pytestmark = pytest.mark.asyncio
TABLE = tomllib.loads((Path(__file__).parent / "endpoints.toml").read_text(encoding="utf-8"))["case"]


class Discovery:
    """The Http port of a world in which only an issuer's discovery answers, as the case says."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.asked: list[str] = []

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent:
        self.asked.append(request.url)
        assert request.method == "GET" and request.url.startswith(self.case["issuer"].split("/v2.0")[0][:20])
        match self.case["discovery"]:
            case "down":
                return NotSent("the network is down")
            case "none":
                return HttpResponse(404, {}, b"")
            case [endpoint]:
                document = {"issuer": self.case["issuer"], "token_endpoint": endpoint}
                return HttpResponse(200, {"content-type": "application/json"}, json.dumps(document).encode())
        raise AssertionError("no case says so")


def grant_of(case: dict[str, Any]) -> Grant:
    return replace(
        GRANT, issuer=case["issuer"], token_endpoint=case["token"], revocation_endpoint=case.get("revocation", "")
    )


@pytest.mark.parametrize("case", TABLE, ids=[case["what"] for case in TABLE])
async def test_an_endpoint_is_asked_only_where_something_vouches_for_its_host(case: dict[str, Any]) -> None:
    http = Discovery(case)
    judged = await Endpoints(http, case.get("hosts", [])).judge(grant_of(case))
    if case["barred"] == "?":
        assert isinstance(judged, Unavailable) and "network is down" in judged.reason
    else:
        assert judged == case["barred"]
    assert bool(http.asked) == ("discovery" in case), "discovery is fetched where it can decide, and nowhere else"


@pytest.mark.parametrize(
    "case",
    [case for case in TABLE if case["barred"] not in ("", NO_URL) and "discovery" not in case],
    ids=lambda case: case["what"],
)
async def test_what_a_refusal_names_is_what_allows_it(case: dict[str, Any]) -> None:
    hosts = list(case.get("hosts", []))
    rule = Endpoints(Discovery(case), hosts)
    while (barred := await rule.judge(grant_of(case))) != "":
        assert isinstance(barred, str) and barred not in hosts
        hosts.append(barred)
        rule.hosts = tuple(hosts)


async def test_discovery_is_remembered_where_it_names_the_host_and_asked_again_where_it_does_not() -> None:
    case = {"issuer": "https://login.example", "token": "https://a.example/t", "discovery": ["https://b.example/t"]}
    http = Discovery(case)
    rule = Endpoints(http, ())
    for times in (1, 2):
        assert await rule.judge(grant_of(case)) == "a.example"
        assert len(http.asked) == times
    case["discovery"] = ["https://a.example/t"]
    for _ in range(3):
        assert await rule.judge(grant_of(case)) == ""
        assert len(http.asked) == 3


async def test_what_is_remembered_of_discovery_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "ISSUERS_MAX", 4)
    rule = Endpoints(Discovery({}), ())
    for number in range(20):
        issuer = f"https://login-{number}.example"
        case = {"issuer": issuer, "token": "https://a.example/t", "discovery": ["https://a.example/t"]}
        rule._http = Discovery(case)
        assert await rule.judge(grant_of(case)) == ""
        assert len(rule._named) <= 4


async def test_an_issuer_that_never_answers_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "DISCOVERY_S", 0.01)

    class Silent:
        async def request(self, request: HttpRequest) -> HttpResponse:
            await asyncio.Event().wait()
            raise AssertionError("nobody answers")

    case = {"issuer": "https://login.example", "token": "https://a.example/t"}
    assert isinstance(await Endpoints(Silent(), ()).judge(grant_of(case)), Unavailable)
