"""A provider.url that is nearly right leads to the line to write; nothing is believed that does not prove itself."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from token_relay.provider.http import HttpRequest, HttpResponse, NotSent, url_problem
from token_relay.provider.issuer_search import GUESSES_MAX, find_issuer, guesses

CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cases/issuers.toml").read_text("utf-8"))["case"]
pytestmark = pytest.mark.asyncio


class Site:
    """Documents by their place."""

    def __init__(self, documents: dict[str, str]) -> None:
        self.documents = documents
        self.asked: list[str] = []

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent:
        self.asked.append(request.url)
        if url_problem(request.url):
            return NotSent("refused")
        here = urlsplit(request.url)
        if (here.scheme, here.netloc) not in {urlsplit(place)[:2] for place in self.documents}:
            return NotSent("no connection")
        place, _, form = request.url.partition("/.well-known/")
        issuer = self.documents.get(place) if form == "openid-configuration" else None
        if issuer is None:
            return HttpResponse(404, {}, b"")
        return HttpResponse(200, {}, json.dumps({"issuer": issuer, "token_endpoint": f"{issuer}/token"}).encode())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_what_was_meant(case: dict[str, Any]) -> None:
    site = Site(case["site"])
    assert await find_issuer(site, case["url"]) == case["found"]


async def test_a_provider_that_is_away_is_asked_once_more_and_no_further() -> None:
    site = Site({})
    assert await find_issuer(site, "https://p.example/a/b/c") == ""
    assert site.asked == ["https://p.example/a/b/.well-known/openid-configuration"]


async def test_the_guesses_are_few_and_never_the_url_itself() -> None:
    url = "https://p.example/" + "/".join("abcdefghijklmnopqrstuvwxyz")
    assert len(guesses(url)) == GUESSES_MAX
    assert url not in guesses(url)
    assert guesses("https://p.example/a")[0] == "https://p.example"
