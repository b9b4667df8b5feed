"""The sandbox's answers with tokens have what the mobile SDKs' published source demands: token_answers.toml."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from tests.replays.shapes import TYPES, claims_of, problem, problems
from tests.sandbox.sandbox_client import NOON, PASSWORD_USER
from tests.sandbox.transfer_kit import BASE
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import RsaSigner
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD, ProfileName
from token_relay.sandbox.provider.world.rules import Urls

DATA: dict[str, Any] = tomllib.loads((Path(__file__).parent / "token_answers.toml").read_text(encoding="utf-8"))
DEMANDS: list[dict[str, Any]] = DATA["demand"]
WORDS = frozenset({"RS256", "sig", "Bearer"})  # the member is this very word
COMPARED = WORDS | {"nothing", "issuer", "client", "key id"}
AUTHORITY = "/contoso.onmicrosoft.com"


class App:
    """An app with one SDK at one provider; ``found`` is every answer that a demand may be about."""

    def __init__(self, profile: ProfileName) -> None:
        self.profile = profile
        urls = Urls(profile, BASE, DEFAULT_WORLD.tenant)
        self.provider = Provider(DEFAULT_WORLD, urls, Random(7), RsaSigner(), now=NOON)
        self.values = {
            "client_id": CLIENT_ID,
            "username": PASSWORD_USER,
            "password": PASSWORD,
            "host": urlsplit(BASE).hostname or "",
        }
        self.found: dict[str, dict[str, Any]] = {}

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        request = Request(method, path, body, {"host": urlsplit(BASE).netloc, **headers}, "127.0.0.1")
        answer = self.provider.commit(request, self.provider.admit(request, NOON), NOON).response
        return answer.status, json.loads(answer.body)

    def get(self, path: str, access_token: str = "") -> dict[str, Any]:
        headers = {"authorization": f"Bearer {access_token}"} if access_token else {}
        status, body = self.send("GET", path, b"", headers)
        assert status == 200, body
        return body

    def post(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send a form, or JSON, as the SDKs do."""
        fields = {
            name: re.sub(r"\{(\w+)\}", lambda found: self.values[found[1]], value)
            for name, value in (asked.get("json") or asked["form"]).items()
        }
        if "json" in asked:
            return self.send("POST", path, json.dumps(fields).encode(), {"content-type": "application/json"})
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return self.send("POST", path, urlencode(fields).encode(), kind)

    def take(self, name: str, path: str) -> None:
        """Ask for tokens; what a refresh token and an id_token hold is found too."""
        status, body = self.post(path, DATA["asked"][name])
        assert status == 200, (name, body)
        self.found[name] = body
        self.values["refresh_token"] = body.get("refresh_token", self.values.get("refresh_token", ""))
        prefix = f"{self.profile} transfer id_token" if name.endswith("transfer") else f"{self.profile} id_token"
        if "id_token" in body:
            self.found[prefix] = claims_of(body["id_token"])
            self.found[f"{prefix} header"] = json.loads(decoded(body["id_token"].split(".")[0]))


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@cache
def signed_in(profile: ProfileName) -> App:
    """Return an app that has been through all of it."""
    app = App(profile)
    if profile == "entra":
        start = {"client_id": CLIENT_ID, "challenge_type": "password oob redirect"}
        _, body = app.post(f"{AUTHORITY}/oauth2/v2.0/initiate", {"form": {**start, "username": PASSWORD_USER}})
        more = {"continuation_token": body["continuation_token"]}
        _, body = app.post(f"{AUTHORITY}/oauth2/v2.0/challenge", {"form": {**start, **more}})
        app.values["continuation_token"] = body["continuation_token"]
        for name in ("entra sign-in", "entra refresh"):
            app.take(name, f"{AUTHORITY}/oauth2/v2.0/token")
        app.found["entra client_info"] = json.loads(decoded(app.found["entra refresh"]["client_info"]))
    else:
        for name in ("auth0 sign-in", "auth0 refresh", "auth0 transfer"):
            app.take(name, "/oauth/token")
        app.found["auth0 key"] = app.get("/.well-known/jwks.json")["keys"][-1]
        app.found["auth0 userinfo"] = app.get("/userinfo", app.found["auth0 refresh"]["access_token"])
    return app


@pytest.mark.parametrize(
    ("demand", "of"),
    [(demand, of) for demand in DEMANDS for of in demand["of"]],
    ids=[f"{demand['by']}-{of}".replace(" ", "-") for demand in DEMANDS for of in demand["of"]],
)
def test_the_answer_has_what_the_sdk_demands(demand: dict[str, Any], of: str) -> None:
    app = signed_in("entra" if of.startswith("entra") else "auth0")
    answer = app.found[of]
    shapes = {}
    for member, kind in demand["members"].items():
        if kind in TYPES or kind.endswith("?"):
            shapes[member] = kind
        else:
            assert is_right(app, answer.get(member), kind), (member, answer.get(member))
    assert problems(answer, shapes) == [], answer.keys()


def is_right(app: App, value: Any, kind: str) -> bool:
    """Compare a member with what the SDK compares it with."""
    match kind:
        case "nothing":
            return value is None
        case "issuer":
            return bool(value == app.provider.state.urls.issuer)
        case "client":
            return CLIENT_ID in (value if isinstance(value, list) else [value])
        case "key id":
            return bool(value == app.found["auth0 key"]["kid"])
        case word:
            assert word in WORDS
            return bool(value == word)


@pytest.mark.parametrize(
    "grant", DATA["not_played"], ids=[str(one["json"]["grant_type"])[7:] for one in DATA["not_played"]]
)
def test_what_is_not_played_is_refused_and_said(grant: dict[str, Any]) -> None:
    status, body = App("auth0").post("/oauth/token", grant)
    assert status >= 400, "it is played: make a demand of it"
    assert body["error"] in ("unsupported_grant_type", "unauthorized_client")


def test_every_demand_has_its_source_and_a_type_that_is_known() -> None:
    for demand in DEMANDS:
        assert demand["by"] in DATA["sources"] and demand["from"]
        assert {kind.removesuffix("?") for kind in demand["members"].values()} <= TYPES.keys() | COMPARED


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("string", "x", ["", 1, ["x"]]),
        ("bool", False, ["false", 0]),
        ("int", 0, [0.5, "1", True]),
        ("number", 0.5, ["1", True]),
        ("object", {}, [[], "x"]),
        ("list", [], [{}, "x"]),
        ("strings", ["x"], ["x", [1]]),
        ("jwt", "e30.eyJhIjoxfQ.s", ["opaque", "a.b.c", "e30.e30.s", 1]),
        ("time", "2026-11-30T12:00:00Z", ["2026-11-30", "2026-11-30T12:00:00", 1796040000]),
        ("time with milliseconds", "2026-11-30T12:00:00.000Z", ["2026-11-30T12:00:00Z", 1796040000]),
        ("url", "https://example.com/p.png", ["p.png", "", 1]),
    ],
)
def test_a_member_that_is_missing_or_of_another_type_is_noticed(kind: str, right: object, wrong: list[object]) -> None:
    assert problem({"a": right}, "a", kind) == "" == problem({"a": right}, "a", f"{kind}?")
    assert problem({}, "a", kind) and problem({"a": None}, "a", kind)
    assert problem({}, "a", f"{kind}?") == "" == problem({"a": None}, "a", f"{kind}?")
    for value in wrong:
        assert problem({"a": value}, "a", kind) and problem({"a": value}, "a", f"{kind}?"), value
