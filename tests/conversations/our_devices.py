"""The devices and the provider behind our two ends: what the runner says of the provider takes the place of one."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from token_relay.agents.companion.agent import CompanionAgent
from token_relay.agents.elapsed import Stamp
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.agent import PhoneAgent
from token_relay.agents.phone.person import NewGrant, NotSignedIn, Person, RefusalNote, SignInOptions
from token_relay.agents.ports import Ports
from token_relay.protocol.errors import TransientError
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.discovery import ProviderMetadata
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.outcome import Refreshed
from token_relay.simulation.observer import Observer, Tables
from token_relay.simulation.ports.clocks import SimulatedClock
from token_relay.simulation.world.devices import SimulatedCompanion, SimulatedPhone

Json = dict[str, Any]
Answer = HttpResponse | NotSent | AnswerLost

OWN_TOKEN = "0.the-phones-own"
SPELLED = {"new": "NEW", "none": "NONE"}
NO_ANSWER = NotSent("the provider is not there")
SUBJECT = "5b0c1f6e-ada"  # of the phone's own grant, as long as the runner has not said it


class Watcher(Observer):
    """Writes down what the device does, in its order."""

    def __init__(self) -> None:
        self.did: list[Json] = []

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        self.did.append({"save": True})

    def published(self, end: str, topic: str, payload: bytes) -> None:
        self.did.append({"send": {"topic": topic, "payload": base64.b64encode(payload).decode()}})

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        self.did.append({"ack": True})


def answered(status: int, body: Json) -> HttpResponse:
    """Return an answer of the provider."""
    return HttpResponse(status, {"content-type": "application/json"}, json.dumps(body).encode())


def tokens(scope: str, refresh_token: str | None = None) -> HttpResponse:
    """Return an answer with tokens."""
    body = {"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 3600, "scope": scope}
    return answered(200, body | ({"refresh_token": refresh_token} if refresh_token else {}))


class ScriptedHttp:
    """The provider, as the runner tells it. ``waiting`` is what was asked and is not answered yet."""

    def __init__(self) -> None:
        self.decide: Callable[[HttpRequest], Answer | Awaitable[Answer]] = lambda request: NO_ANSWER

    async def request(self, request: HttpRequest) -> Answer:
        answer = self.decide(request)
        return await answer if isinstance(answer, Awaitable) else answer

    async def close(self) -> None:
        """Do nothing: no connection is open."""


def form_of(request: HttpRequest) -> dict[str, str]:
    """Return a request's form."""
    return {key: value if isinstance(value, str) else value.reveal() for key, value in request.form or ()}


# -- The phone ---------------------------------------------------------------------------------------------


class Asking:
    """What the phone wants of the provider for its companions: one wait for each handoff."""

    def __init__(self, did: list[Json]) -> None:
        self._did = did
        self.waits: dict[str, asyncio.Future[Json | None]] = {}

    async def wait(self, handoff_id: str) -> Json | None:
        """Say that a token is wanted, and wait for the runner's word: the token, {} for a refusal, None for silence."""
        self._did.append({"obtain": handoff_id})
        future: asyncio.Future[Json | None] = asyncio.get_running_loop().create_future()
        self.waits[handoff_id] = future
        return await future

    def answer(self, handoff_id: str, token: Json | None) -> bool:
        """Pass the runner's word on; False: nobody waits."""
        future = self.waits.pop(handoff_id, None)
        if future is None or future.done():
            return False
        future.set_result(token)
        return True


class ScriptedSignIn:
    """The person's sign-in for a companion (``mint``)."""

    def __init__(self, asking: Asking, clock: SimulatedClock, issuer: str) -> None:
        self._asking = asking
        self._clock = clock
        self._issuer = issuer

    async def authenticate(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant:
        assert isinstance(note, partial)
        token = await self._asking.wait(note.keywords["handoff_id"])
        if not token:
            raise TransientError("the provider did not answer" if token is None else "the provider refused")
        metadata = ProviderMetadata(
            self._issuer, token["token_endpoint"], revocation_endpoint=token["revocation_endpoint"]
        )
        came = Refreshed(RefreshToken(token["refresh_token"]), None, "Bearer", 3600.0, token["scope"])
        sent = Stamp.of(self._clock.now())
        return NewGrant(came, metadata, sent, None, token["is_otp"], token["account"], subject=token["subject"])

    async def check(self, new: NewGrant) -> NewGrant:
        return new

    async def sign_up(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant | NotSignedIn:
        raise AssertionError("nobody signs up in a conversation")

    async def reset_password(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant | NotSignedIn:
        raise AssertionError("nobody forgets a password in a conversation")


class Somebody:
    """A person who is asked nothing."""

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        return None

    async def progress(self, step: dict[str, Any]) -> None:
        return None


class OurPhone(SimulatedPhone):
    """The phone, called ``called``; ``client`` is what the configuration says of the provider."""

    called = ""
    client: AccountSettings
    asking: Asking

    def build(self, ports: Ports) -> PhoneAgent:
        sign_in = ScriptedSignIn(self.asking, self.clock, self.client.url)
        return PhoneAgent(
            ports, self.identity, sign_in=sign_in, name=self.called, settings=self.client, strategy=None, lease_days=0
        )

    def set(self, **settings: Any) -> None:
        """Change the configuration while the agent runs, which no program can."""
        for name, value in settings.items():
            object.__setattr__(self.client, name, value)


class OurCompanion(SimulatedCompanion):
    """The companion, called ``called``."""

    called = ""

    def build(self, ports: Ports) -> CompanionAgent:
        return CompanionAgent(ports, self.identity, name=self.called, broker_url="mqtts://broker.example:8883")
