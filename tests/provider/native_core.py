"""The native client over the sandbox's core: no sockets, a clock that moves when told to, a person at the controls.

Any answer can be replaced by a test's own, so that a flow is driven by the core up to the step that goes wrong.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.provider.provider_kit import response
from token_relay.protocol.secret import Code, Password, Secret
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.native_auth.password_reset import PasswordReset
from token_relay.provider.native_auth.service import CAPABILITIES, Service
from token_relay.provider.native_auth.sign_in import SignInFlow
from token_relay.provider.native_auth.sign_up import SignUp
from token_relay.provider.native_auth.states import (
    AttributesRequired,
    CodeRequired,
    MfaRequired,
    NewPasswordRequired,
    PasswordRequired,
    RegistrationRequired,
    ResetPending,
    Step,
)
from token_relay.provider.native_auth.wire import CHALLENGE_TYPES
from token_relay.provider.profile import ENTRA
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD
from token_relay.sandbox.provider.world.rules import Urls

BASE = "http://127.0.0.1:8400"
AUTHORITY = f"{BASE}/contoso.onmicrosoft.com"
NOON = 1_800_000_000.0
PASSWORD_USER, OTP_USER = "password@contoso.example", "otp@contoso.example"
MFA_USER, REGISTER_USER = "mfa@contoso.example", "register@contoso.example"
PREVERIFIED_USER, RESET_USER = "preverified@contoso.example", "reset@contoso.example"
NEW_USER, SMS = "new@contoso.example", "+14255550100"
RIGHT, NEW = Password(PASSWORD), Password("Wrong-Horse-8")
AGE = {"name": "extension_1_age", "type": "Int64", "required": True, "regex": "^[1-9][0-9]*$"}
NAME = {"name": "displayName", "type": "String", "required": True}


@dataclass
class Core:
    """A tenant, its controls, and the Http port that leads to it."""

    now: float = NOON
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    provider: Provider = field(init=False)
    _instead: deque[HttpResponse | NotSent | AnswerLost] = field(default_factory=deque)

    def __post_init__(self) -> None:
        urls = Urls("entra", BASE, "contoso")
        signer = SharedKeySigner(b"s" * 32)
        self.provider = Provider(DEFAULT_WORLD, urls, random.Random(1), signer, now=self.now)

    # -- the Http port -------------------------------------------------------------------------------------

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        fields = {k: v.reveal() if isinstance(v, Secret) else v for k, v in request.form or ()}
        path = urlsplit(request.url).path
        self.calls.append((path.removeprefix("/contoso.onmicrosoft.com/"), fields))
        if self._instead:
            return self._instead.popleft()
        form = {"content-type": "application/x-www-form-urlencoded"} if request.form is not None else {}
        asked = Request(request.method, path, urlencode(fields).encode(), {**request.headers, **form})
        answer = self.provider.commit(asked, self.provider.admit(asked, self.now), self.now).response
        found = {name.lower(): value for name, value in answer.headers}
        return HttpResponse(answer.status, found, answer.body)

    def instead(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        """Answer the next request with this; the core never sees it."""
        self._instead.append(response(status, body, headers))

    def vanish(self, *, sent: bool) -> None:
        """Lose the next request, or its answer."""
        self._instead.append(AnswerLost("connection reset") if sent else NotSent("the network is down"))

    def paths(self) -> list[str]:
        """Which calls were made, with the grant type where there is one."""
        return [f"{path}({form['grant_type']})" if "grant_type" in form else path for path, form in self.calls]

    # -- the controls --------------------------------------------------------------------------------------

    def order(self, path: str, **body: Any) -> None:
        request = Request("POST", f"/sandbox/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        answer = control(self.provider, request, self.now).response
        assert answer.status < 300, answer.body

    def mail(self, address: str) -> Code:
        """The code in a mailbox."""
        answer = control(self.provider, Request("GET", f"/sandbox/mailbox/{address}"), self.now).response
        assert answer.status == 200, f"no code for {address}"
        return Code(answer.body.decode())

    # -- flows, and the way to their stages ----------------------------------------------------------------

    def service(self, capabilities: tuple[str, ...] = CAPABILITIES, challenge_types: str = CHALLENGE_TYPES) -> Service:
        return Service(self, ENTRA, AUTHORITY, CLIENT_ID, capabilities=capabilities, challenge_types=challenge_types)

    def sign_in(self, username: str, capabilities: tuple[str, ...] = CAPABILITIES) -> SignInFlow:
        return SignInFlow(self.service(capabilities), username)

    def sign_up(
        self,
        username: str = NEW_USER,
        attributes: dict[str, str] | None = None,
        challenge_types: str = CHALLENGE_TYPES,
    ) -> SignUp:
        return SignUp(self.service(challenge_types=challenge_types), username, attributes)

    def reset(self, username: str = RESET_USER) -> PasswordReset:
        return PasswordReset(self.service(), username)

    async def at_password(self, username: str = PASSWORD_USER) -> tuple[SignInFlow, PasswordRequired]:
        flow = self.sign_in(username)
        state = await flow.start()
        assert isinstance(state, PasswordRequired), state
        return flow, state

    async def at_code(self) -> tuple[SignInFlow, CodeRequired]:
        flow = self.sign_in(OTP_USER)
        state = await flow.start()
        assert isinstance(state, CodeRequired), state
        return flow, state

    async def at_mfa(self) -> tuple[SignInFlow, MfaRequired]:
        flow, state = await self.at_password(MFA_USER)
        step = await flow.submit_password(state, RIGHT)
        assert isinstance(step, MfaRequired), step
        return flow, step

    async def at_mfa_code(self, channel: str = "email") -> tuple[SignInFlow, CodeRequired]:
        flow, state = await self.at_mfa()
        step = await flow.choose_method(state, next(one for one in state.methods if one.channel == channel))
        assert isinstance(step, CodeRequired), step
        return flow, step

    async def at_registration(self, username: str = REGISTER_USER) -> tuple[SignInFlow, RegistrationRequired]:
        flow, state = await self.at_password(username)
        step = await flow.submit_password(state, RIGHT)
        assert isinstance(step, RegistrationRequired), step
        return flow, step

    async def at_registration_code(self) -> tuple[SignInFlow, CodeRequired]:
        flow, state = await self.at_registration()
        step = await flow.register_method(state, state.methods[0], "other@contoso.example")
        assert isinstance(step, CodeRequired), step
        return flow, step

    async def at_sign_up_code(self) -> tuple[SignUp, CodeRequired]:
        flow = self.sign_up()
        state = await flow.start()
        assert isinstance(state, CodeRequired), state
        return flow, state

    async def at_new_password(self) -> tuple[SignUp, NewPasswordRequired]:
        flow, state = await self.at_sign_up_code()
        step = await flow.submit_code(state, self.mail(NEW_USER))
        assert isinstance(step, NewPasswordRequired), step
        return flow, step

    async def at_attributes(self) -> tuple[SignUp, AttributesRequired]:
        self.order("policy", required_attributes=[NAME, AGE])
        flow, state = await self.at_new_password()
        step = await flow.submit_password(state, NEW)
        assert isinstance(step, AttributesRequired), step
        return flow, step

    async def at_reset_code(self) -> tuple[PasswordReset, CodeRequired]:
        flow = self.reset()
        state = await flow.start()
        assert isinstance(state, CodeRequired), state
        return flow, state

    async def at_reset_password(self) -> tuple[PasswordReset, NewPasswordRequired]:
        flow, state = await self.at_reset_code()
        step = await flow.submit_code(state, self.mail(RESET_USER))
        assert isinstance(step, NewPasswordRequired), step
        return flow, step

    async def at_reset_pending(self) -> tuple[PasswordReset, ResetPending]:
        flow, state = await self.at_reset_password()
        step = await flow.submit_password(state, NEW)
        assert isinstance(step, ResetPending), step
        return flow, step


def wrong(code: Code) -> Code:
    """A code of the same length that is certainly not this one."""
    text = code.reveal()
    return Code(text[:-1] + str((int(text[-1]) + 1) % 10))


def token_of(step: Step) -> Code:
    """The continuation token of a state."""
    token = getattr(step, "continuation_token", None)
    assert isinstance(token, Code), step
    return token
