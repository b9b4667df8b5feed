"""A person, an app and a person at the controls, in one object: what the sandbox tests talk through."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import ClientSession, ClientTimeout

from tests.watchdog import HANG_S
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD
from token_relay.sandbox.server import SandboxServer

NOON = 1_800_000_000.0  # an arbitrary fixed wall clock, Unix seconds
OTP_USER, PASSWORD_USER = "otp@contoso.example", "password@contoso.example"
SCOPE = "openid profile offline_access"
REDIRECT_URI = "http://127.0.0.1:51234/callback"
# RFC 7636 appendix B
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str
    json: dict[str, Any] = field(default_factory=dict)


class SandboxClient:
    """Talks to one running sandbox over HTTP."""

    def __init__(self, server: SandboxServer, session: ClientSession) -> None:
        self.server = server
        self.session = session
        self.base = server.base_url
        self.authority = server.provider.state.urls.authority
        self.origin = ""  # of the web page that the app is, if it is one

    async def request(self, method: str, url: str, **more: Any) -> Reply:
        target = url if url.startswith("http") else self.base + url
        timeout = more.pop("timeout", ClientTimeout(total=HANG_S))
        async with self.session.request(method, target, allow_redirects=False, timeout=timeout, **more) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            headers = {name.lower(): value for name, value in answer.headers.items()}
            try:
                found = (await answer.json()) if is_json else {}
            except ValueError:
                found = {}
            return Reply(answer.status, headers, text, found)

    # -- the app ------------------------------------------------------------------------------------------------

    @property
    def token_url(self) -> str:
        entra = self.server.provider.state.urls.profile == "entra"
        return self.authority + ("/oauth2/v2.0/token" if entra else "/oauth/token")

    async def token(self, **fields: str) -> Reply:
        headers = {"Origin": self.origin} if self.origin else {}
        return await self.request("POST", self.token_url, data={"client_id": CLIENT_ID, **fields}, headers=headers)

    async def native(self, step: str, **fields: str) -> Reply:
        url = f"{self.authority}/oauth2/v2.0/{step}"
        return await self.request("POST", url, data={"client_id": CLIENT_ID, **fields})

    async def begin(self, username: str, types: str = "password oob redirect") -> Reply:
        """initiate and challenge; returns the challenge's answer."""
        first = await self.native("initiate", username=username, challenge_type=types)
        assert first.status == 200, first.text
        return await self.native("challenge", continuation_token=first.json["continuation_token"], challenge_type=types)

    async def sign_in(self, username: str = PASSWORD_USER, scope: str = SCOPE, **more: str) -> dict[str, Any]:
        """Sign in in the profile's own way and return the tokens; a browser asks for ``more``."""
        if self.server.provider.state.urls.profile != "entra":
            code = await self.browser_code(username, scope=scope, **more)
            reply = await self.redeem(code)
        else:
            challenged = await self.begin(username)
            given = {"continuation_token": challenged.json["continuation_token"], "scope": scope}
            if challenged.json["challenge_type"] == "password":
                reply = await self.token(grant_type="password", password=PASSWORD, **given)
            else:
                reply = await self.token(grant_type="oob", oob=await self.code(username), **given)
        assert reply.status == 200, reply.text
        return reply.json

    async def refresh(self, refresh_token: str, **fields: str) -> Reply:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, **fields)

    async def redeem(self, code: str, /, **fields: str) -> Reply:
        given = {"code": code, "redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER, **fields}
        return await self.token(grant_type="authorization_code", **given)

    async def resource(self, access_token: str) -> Reply:
        headers = {"Authorization": f"Bearer {access_token}"}
        return await self.request("GET", "/sandbox/resource", headers=headers)

    # -- the browser --------------------------------------------------------------------------------------------

    async def authorize(self, **fields: str) -> Reply:
        entra = self.server.provider.state.urls.profile == "entra"
        asked = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
            "state": "a state & more",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **fields,
        }
        asked = {name: value for name, value in asked.items() if value}
        path = "/oauth2/v2.0/authorize" if entra else "/authorize"
        return await self.request("GET", self.authority + path, params=asked)

    async def submit(self, page: Reply, username: str, password: str) -> Reply:
        """Fill in the login form and send it where the page says."""
        action, ticket = (
            re.search(r'action="([^"]+)"', page.text),
            re.search(r'name="ticket" value="([^"]+)"', page.text),
        )
        assert action is not None and ticket is not None, page.text
        fields = {"ticket": unescape(ticket[1]), "username": username, "password": password}
        return await self.request("POST", unescape(action[1]), data=fields)

    async def browser_code(self, username: str = PASSWORD_USER, **fields: str) -> str:
        page = await self.authorize(**fields)
        assert page.status == 200, page.text
        if username == PASSWORD_USER:
            done = await self.submit(page, username, PASSWORD)
        else:
            again = await self.submit(page, username, "")
            done = await self.submit(again, username, await self.code(username))
        assert done.status == 303, done.text
        return query_of(done)["code"]

    # -- the controls -------------------------------------------------------------------------------------------

    async def order(self, path: str, **body: Any) -> Reply:
        return await self.request("POST", f"/sandbox/{path}", json=body)

    async def ordered(self, path: str, **body: Any) -> dict[str, Any]:
        reply = await self.order(path, **body)
        assert reply.status < 300, reply.text
        return reply.json

    async def code(self, username: str) -> str:
        reply = await self.request("GET", f"/sandbox/mailbox/{username}")
        assert reply.status == 200, reply.text
        return reply.text

    async def events(self, *kinds: str, after: int = 0) -> list[dict[str, Any]]:
        reply = await self.request("GET", f"/sandbox/events?after={after}")
        return [event for event in reply.json["events"] if not kinds or event["kind"] in kinds]

    async def wait_for(self, kind: str, *, after: int = 0) -> dict[str, Any]:
        """Long-poll until an event of this kind has happened."""
        async with asyncio.timeout(HANG_S):
            while True:
                reply = await self.request("GET", f"/sandbox/events?after={after}&wait_s=5")
                for event in reply.json["events"]:
                    if event["kind"] == kind:
                        return dict(event)
                    after = event["id"]


Start = Callable[..., AbstractAsyncContextManager[SandboxClient]]


def query_of(reply: Reply) -> dict[str, str]:
    """The parameters that a redirect carries back."""
    return {name: values[0] for name, values in parse_qs(urlsplit(reply.headers["location"]).query).items()}


def challenge_of(verifier: str) -> str:
    """RFC 7636 §4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
