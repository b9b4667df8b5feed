"""An app that speaks native authentication straight to the core: no sockets, a clock that moves only when told to."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.sandbox.sandbox_client import NOON, SCOPE
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD, WorldModel
from token_relay.sandbox.provider.world.rules import Urls

TYPES = "password oob redirect"
CAPABILITIES = "mfa_required registration_required"
NEW_PASSWORD = "Wrong-Horse-8"
PASSWORD_USER, OTP_USER = "password@contoso.example", "otp@contoso.example"
MFA_USER, REGISTER_USER = "mfa@contoso.example", "register@contoso.example"
PREVERIFIED_USER, RESET_USER = "preverified@contoso.example", "reset@contoso.example"
SMS = "+14255550100"
FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}
AUTHORITY = "/contoso.onmicrosoft.com"


@dataclass
class Answer:
    """What came back; ``token`` is its continuation token, or empty."""

    status: int
    json: dict[str, Any]
    headers: dict[str, str]

    @property
    def token(self) -> str:
        return str(self.json.get("continuation_token", ""))

    @property
    def why(self) -> tuple[str, str, int]:
        """error, suberror and code of a refusal."""
        codes = self.json.get("error_codes", [0])
        return str(self.json.get("error", "")), str(self.json.get("suberror", "")), int(codes[0])

    @property
    def is_redirect(self) -> bool:
        return self.status == 200 and self.json.get("challenge_type") == "redirect"

    @property
    def has_tokens(self) -> bool:
        return "access_token" in self.json


@dataclass
class App:
    """One app, its sandbox, and the person at the controls."""

    world: WorldModel = DEFAULT_WORLD
    seed: int = 1
    now: float = NOON
    cors: frozenset[str] = frozenset()
    provider: Provider = field(init=False)

    def __post_init__(self) -> None:
        urls = Urls("entra", "http://127.0.0.1:8400", "contoso")
        signer = SharedKeySigner(b"s" * 32)
        self.provider = Provider(
            self.world, urls, random.Random(self.seed), signer, now=self.now, cors_origins=self.cors
        )

    # -- the app ------------------------------------------------------------------------------------------------

    def send(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        request = Request(method, target, body, FORM if headers is None else headers)
        answer = self.provider.commit(request, self.provider.admit(request, self.now), self.now).response
        found = json.loads(answer.body) if answer.content_type.startswith("application/json") and answer.body else {}
        return Answer(answer.status, found, {name.lower(): value for name, value in answer.headers})

    def post(self, path: str, /, **fields: str) -> Answer:
        """Post a form below the authority; an empty value leaves a field out."""
        form = {name: value for name, value in {"client_id": CLIENT_ID, **fields}.items() if value}
        return self.send("POST", f"{AUTHORITY}/{path}", urlencode(form).encode())

    def initiate(self, username: str, types: str = TYPES, capabilities: str = CAPABILITIES, **more: str) -> Answer:
        fields = {"username": username, "challenge_type": types, "capabilities": capabilities, **more}
        return self.post("oauth2/v2.0/initiate", **fields)

    def challenge(self, token: str, **more: str) -> Answer:
        return self.post("oauth2/v2.0/challenge", **{"continuation_token": token, "challenge_type": TYPES, **more})

    def begin(self, username: str, capabilities: str = CAPABILITIES) -> Answer:
        """initiate and challenge."""
        return self.challenge(self.initiate(username, capabilities=capabilities).token)

    def introspect(self, token: str) -> Answer:
        return self.post("oauth2/v2.0/introspect", continuation_token=token)

    def token(self, grant_type: str, token: str = "", **more: str) -> Answer:
        fields = {"grant_type": grant_type, "continuation_token": token, "scope": SCOPE, **more}
        return self.post("oauth2/v2.0/token", **fields)

    def by_password(self, username: str, password: str = PASSWORD, capabilities: str = CAPABILITIES) -> Answer:
        """A password sign-in up to its first answer with something in it."""
        return self.token("password", self.begin(username, capabilities).token, password=password)

    def by_code(self, username: str = OTP_USER, **more: str) -> Answer:
        """A whole sign-in by e-mail code."""
        token = self.begin(username).token
        return self.token("oob", token, oob=self.mail(username), **more)

    def second_factor(self, required: Answer, channel: str = "email") -> Answer:
        """introspect and challenge."""
        listed = self.introspect(required.token)
        method = next(one for one in listed.json["methods"] if one["challenge_channel"] == channel)
        return self.challenge(listed.token, id=method["id"])

    def by_two_factors(self, username: str = MFA_USER, address: str = MFA_USER) -> Answer:
        """A whole sign-in by password and code."""
        asked = self.second_factor(self.by_password(username))
        return self.token("mfa_oob", asked.token, oob=self.mail(address))

    def register(self, step: str, token: str, **more: str) -> Answer:
        return self.post(f"register/v1.0/{step}", continuation_token=token, **more)

    def signup(self, step: str, token: str = "", **more: str) -> Answer:
        return self.post(f"signup/v1.0/{step}", continuation_token=token, **more)

    def begin_signup(self, username: str, **more: str) -> Answer:
        """start and challenge."""
        started = self.signup("start", **{"username": username, "challenge_type": TYPES, **more})
        return self.signup("challenge", started.token, challenge_type=TYPES)

    def reset(self, step: str, token: str = "", **more: str) -> Answer:
        return self.post(f"resetpassword/v1.0/{step}", continuation_token=token, **more)

    def begin_reset(self, username: str = RESET_USER, capabilities: str = CAPABILITIES) -> Answer:
        """start, challenge and continue."""
        started = self.reset("start", username=username, challenge_type=TYPES, capabilities=capabilities)
        sent = self.reset("challenge", started.token, challenge_type=TYPES)
        return self.reset("continue", sent.token, grant_type="oob", oob=self.mail(username))

    def refresh(self, refresh_token: str, **more: str) -> Answer:
        return self.token("refresh_token", refresh_token=refresh_token, **more)

    def resource(self, access_token: str) -> Answer:
        return self.send("GET", "/sandbox/resource", headers={"authorization": f"Bearer {access_token}"})

    # -- the controls -------------------------------------------------------------------------------------------

    def order(self, path: str, **body: Any) -> dict[str, Any]:
        request = Request("POST", f"/sandbox/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        answer = control(self.provider, request, self.now).response
        assert answer.status < 300, answer.body
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def mail(self, address: str) -> str:
        answer = control(self.provider, Request("GET", f"/sandbox/mailbox/{address}"), self.now).response
        assert answer.status == 200, f"no code for {address}"
        return answer.body.decode()

    def kinds(self) -> list[str]:
        """The kinds of all events, in order."""
        return [event.kind for event in self.provider.state.events]


@dataclass
class Journey:
    """A client of version 2: its latest answer, and the continuation token in it."""

    app: App = field(default_factory=App)
    token: str = ""
    last: Answer = field(default_factory=lambda: Answer(0, {}, {}))

    def begin(self, **more: str) -> Journey:
        self.last = self.app.post(
            "oauth2/v2.0/authorize-challenge", **{"scope": "openid profile offline_access", **more}
        )
        self.token = self.last.token
        return self

    def follow(self, href: str, method: str = "POST", **fields: Any) -> Journey:
        """Send one step; the token is the latest that an answer brought."""
        body = json.dumps({"continuationToken": self.token, **fields}).encode()
        self.last = self.app.send(method, f"{AUTHORITY}{href}", body, JSON)
        self.token = str(self.last.json.get("continuationToken", self.token))
        return self

    def go(self, relation: str, method: str = "POST", **fields: Any) -> Journey:
        return self.follow(self.last.json["_links"][relation]["href"], method, **fields)

    def start(self, journey: str, username: str) -> Journey:
        return self.follow(self.begin().last.json[journey], username=username)

    def choose(self, kind: str = "", relation: str = "challenge", **fields: Any) -> Journey:
        """Follow the link of a method that was offered."""
        methods = self.last.json["_embedded"]["methods"]
        chosen = next(one for one in methods if kind in ("", one["type"]))
        return self.follow(chosen["_links"][relation]["href"], **fields)

    def sign_in(self, username: str, password: str = PASSWORD) -> Journey:
        """A sign-in by password up to the answer to it."""
        return self.start("sign_in", username).choose().go("verify", password=password)

    def code(self) -> str:
        """End the authorization and return its code."""
        assert (self.last.status, self.last.json["state"]) == (200, "continue")
        found = self.app.post("oauth2/v2.0/authorize-challenge", client_id="", continuation_token=self.token)
        assert set(found.json) == {"code"}
        return str(found.json["code"])

    def redeem(self, code: str, **more: str) -> Answer:
        return self.app.post("oauth2/v2.0/token", grant_type="authorization_code", code=code, **more)

    def tokens(self) -> Answer:
        answer = self.redeem(self.code())
        assert answer.has_tokens
        return answer

    @property
    def why(self) -> tuple[str, str]:
        """Code and inner code of a refusal."""
        error = self.last.json["error"]
        return error["code"], error.get("innerError", {}).get("code", "")


def claims_of(jwt: str) -> dict[str, Any]:
    """The claims, unverified."""
    part = jwt.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def other_code(code: str) -> str:
    """A code of the same length that is certainly not this one."""
    return code[:-1] + str((int(code[-1]) + 1) % 10)
