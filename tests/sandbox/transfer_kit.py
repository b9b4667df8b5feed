"""A native app, browsers in other urls and a manager, straight at the core: no sockets, a clock that stands still."""

from __future__ import annotations

import base64
import json
import random
import re
from dataclasses import dataclass, field
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.sandbox.sandbox_client import CHALLENGE, NOON, PASSWORD_USER, REDIRECT_URI, SCOPE, VERIFIER
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.memory.state import Assertions
from token_relay.sandbox.provider.memory.verdicts import ActionWanted, Question, Verdict
from token_relay.sandbox.provider.tokens.issued import find_refresh
from token_relay.sandbox.provider.world.auth0_clients import MANAGER_ID, MANAGER_SECRET, SPA_ID, WEB_ID, WEB_SECRET
from token_relay.sandbox.provider.world.client_settings import SessionTransfer
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD, WorldModel
from token_relay.sandbox.provider.world.network_table import NetworkTable, parse_network_table
from token_relay.sandbox.provider.world.rules import Rules, Urls, user_id

FORM = "application/x-www-form-urlencoded"
BASE = "http://127.0.0.1:8400"
AUDIENCE = "urn:127.0.0.1:session_transfer"
OTHER_USER = "reset@contoso.example"
HOME, NEIGHBOUR, ABROAD = "203.0.113.7", "203.0.113.99", "198.51.100.3"
TABLE = """
[[networks]]
prefix = "203.0.113.0/24"
asn = 64500
[networks.geoip]
countryCode = "DE"
cityName = "Kiel"

[[networks]]
prefix = "198.51.100.0/24"
asn = 64501
[networks.geoip]
countryCode = "BR"
"""


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: tuple[tuple[str, str], ...]
    text: str
    json: Any = None

    @property
    def location(self) -> dict[str, str]:
        """The parameters of a redirect."""
        found = dict(self.headers).get("Location", "")
        return {name: values[0] for name, values in parse_qs(urlsplit(found).query).items()}

    @property
    def code(self) -> str:
        return self.location.get("code", "")

    @property
    def is_login_page(self) -> bool:
        return self.status == 200 and 'name="ticket"' in self.text


@dataclass
class Desk:
    """One sandbox of profile auth0 and everybody who talks to it."""

    provider: Provider
    now: float = NOON
    asked: list[Question] = field(default_factory=list)
    action: Any = None  # what an Action says to a question, as JSON; the driver's part

    def send(
        self,
        method: str,
        target: str,
        *,
        form: dict[str, str] | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        ip: str = HOME,
    ) -> Reply:
        sent = {"host": "127.0.0.1:8400", "user-agent": "kit", "x-forwarded-for": ip, **(headers or {})}
        raw = b""
        if form is not None:
            raw, sent["content-type"] = urlencode(form).encode(), FORM
        elif body is not None:
            raw, sent["content-type"] = json.dumps(body).encode(), "application/json"
        request = Request(method, target, raw, sent, "127.0.0.1")
        admission = self.provider.admit(request, self.now)
        verdict: Verdict | None = None
        while True:
            try:
                response = self.provider.commit(request, admission, self.now, verdict).response
                break
            except ActionWanted as wanted:
                self.asked.append(wanted.question)
                verdict = wanted.question.answered(json.dumps(self.action(wanted.question.event)).encode())
        found = None
        if response.body and response.content_type.startswith("application/json"):
            found = json.loads(response.body)
        return Reply(response.status, response.headers, response.body.decode(), found)

    # -- the native app -----------------------------------------------------------------------------------------

    def token(self, *, ip: str = HOME, **fields: str) -> Reply:
        return self.send("POST", "/oauth/token", form={"client_id": CLIENT_ID, **fields}, ip=ip)

    def sign_in(self, username: str = PASSWORD_USER, scope: str = SCOPE, **more: str) -> str:
        reply = self.token(grant_type="password", username=username, password=PASSWORD, scope=scope, **more)
        assert reply.status == 200, reply.text
        return str(reply.json["refresh_token"])

    def refresh(self, refresh_token: str, *, ip: str = HOME, **more: str) -> Reply:
        return self.token(grant_type="refresh_token", refresh_token=refresh_token, ip=ip, **more)

    def exchange(self, refresh_token: str, *, ip: str = HOME, **more: str) -> Reply:
        return self.refresh(refresh_token, ip=ip, **{"audience": AUDIENCE, **more})

    def transfer(self, refresh_token: str, *, ip: str = HOME) -> tuple[str, str]:
        """Return a session transfer token and the refresh token that goes on."""
        reply = self.exchange(refresh_token, ip=ip)
        assert reply.status == 200, reply.text
        return str(reply.json["access_token"]), str(reply.json["refresh_token"])

    def revoke(self, token: str, client_id: str = CLIENT_ID, **more: str) -> Reply:
        return self.send("POST", "/oauth/revoke", form={"client_id": client_id, "token": token, **more})

    # -- the manager --------------------------------------------------------------------------------------------

    def manager(self, scope: str = "") -> str:
        fields = {"client_id": MANAGER_ID, "client_secret": MANAGER_SECRET, "audience": f"{BASE}/api/v2/"}
        reply = self.send("POST", "/oauth/token", form={"grant_type": "client_credentials", "scope": scope, **fields})
        assert reply.status == 200, reply.text
        return str(reply.json["access_token"])

    def manage(self, method: str, path: str, body: object = None, *, token: str = "") -> Reply:
        headers = {"authorization": f"Bearer {token or self.manager()}"}
        return self.send(method, f"/api/v2/{path}", body=body, headers=headers)

    def set(self, client_id: str, **settings: Any) -> None:
        """PATCH a client."""
        reply = self.manage("PATCH", f"clients/{client_id}", settings)
        assert reply.status == 200, reply.text

    def logs(self, *types: str) -> list[dict[str, Any]]:
        found = [record.as_json() for record in self.provider.state.logs]
        return [record for record in found if not types or record["type"] in types]

    def warnings(self) -> list[str]:
        return [str(record["description"]).removeprefix("Single Sign-On failed: ") for record in self.logs("w")]

    def family_of(self, refresh_token: str) -> str:
        entry = find_refresh(self.provider.state, refresh_token)
        assert entry is not None
        return entry.family_id

    def live_sessions(self, username: str = PASSWORD_USER) -> list[str]:
        state = self.provider.state
        return [
            one.session_id for one in state.sessions.values() if one.username == username and one.is_alive(self.now)
        ]


@dataclass
class Browser:
    """One browser, with its cookies, in one place."""

    desk: Desk
    ip: str = HOME
    cookies: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, target: str, **more: Any) -> Reply:
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        reply = self.desk.send(method, target, headers=headers, ip=self.ip, **more)
        for name, value in reply.headers:
            if name == "Set-Cookie":
                pair, _, attributes = value.partition(";")
                cookie, _, content = pair.partition("=")
                if "Max-Age=0" in attributes:
                    self.cookies.pop(cookie, None)
                else:
                    self.cookies[cookie] = content
        return reply

    def authorize(self, client_id: str = WEB_ID, *, stt: str = "", scope: str = SCOPE, **more: str) -> Reply:
        asked = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": REDIRECT_URI,
            "scope": scope,
            "state": "s",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "session_transfer_token": stt,
            **more,
        }
        query = urlencode({name: value for name, value in asked.items() if value})
        return self.send("GET", f"/authorize?{query}")

    def submit(self, page: Reply, username: str = PASSWORD_USER, password: str = PASSWORD) -> Reply:
        ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
        assert ticket is not None, page.text
        fields = {"ticket": unescape(ticket[1]), "username": username, "password": password}
        return self.send("POST", "/login", form=fields)

    def form_sign_in(self, username: str = PASSWORD_USER, client_id: str = WEB_ID) -> Reply:
        """Sign in by the form, however it is."""
        reply = self.submit(self.authorize(client_id, prompt="login"), username)
        assert reply.code, reply.text
        return reply

    def redeem(self, code: str, client_id: str = WEB_ID) -> Reply:
        fields = {"grant_type": "authorization_code", "client_id": client_id, "code": code}
        if client_id == WEB_ID:
            fields["client_secret"] = WEB_SECRET
        fields |= {"redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER}
        return self.desk.send("POST", "/oauth/token", form=fields, ip=self.ip)

    def web_refresh(self, refresh_token: str) -> Reply:
        fields = {"grant_type": "refresh_token", "client_id": WEB_ID, "client_secret": WEB_SECRET}
        return self.desk.send("POST", "/oauth/token", form={**fields, "refresh_token": refresh_token}, ip=self.ip)

    def web_tokens(self, stt: str, **more: str) -> dict[str, Any]:
        """Arrive with a token and come away with the web application's tokens."""
        reply = self.redeem(self.authorize(stt=stt, **more).code)
        assert reply.status == 200, reply.text
        return dict(reply.json)


def desk(
    world: WorldModel = DEFAULT_WORLD,
    *,
    rules: Rules | None = None,
    action: Any = None,
    assertions: Assertions | None = None,
    base_url: str = BASE,
) -> Desk:
    """Return a fresh sandbox."""
    provider = Provider(
        world,
        Urls("auth0" if rules is None else rules.name, base_url, world.tenant),
        random.Random(7),
        SharedKeySigner(bytes(32)),
        now=NOON,
        rules=rules,
        networks=table(),
        has_actions=action is not None,
        assertions=assertions,
    )
    return Desk(provider, action=action)


def table() -> NetworkTable:
    return parse_network_table(TABLE, file="table")


def web(**more: Any) -> dict[str, Any]:
    """A web client's setting that accepts tokens both ways."""
    return {"allowed_authentication_methods": ["cookie", "query"], **more}


def claims_of(jwt: str) -> dict[str, Any]:
    """Read a JWT without checking it."""
    part = jwt.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


__all__ = ["CLIENT_ID", "SPA_ID", "WEB_ID", "SessionTransfer", "user_id"]
