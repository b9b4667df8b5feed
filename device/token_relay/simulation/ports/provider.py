"""The identity provider of a world: the sandbox provider's core, in the world's time, with its observers."""

from __future__ import annotations

from functools import cached_property
from random import Random
from urllib.parse import parse_qs

from token_relay.protocol.secret import Password
from token_relay.provider.discovery import ProviderMetadata
from token_relay.provider.profile import PROFILES
from token_relay.sandbox.provider.core import Provider
from token_relay.sandbox.provider.faults import Admission
from token_relay.sandbox.provider.http_values import Request, Response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.signing import Signer
from token_relay.sandbox.provider.tokens import families
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD, PASSWORD, UserModel
from token_relay.sandbox.provider.world.rules import KINDS, Kind, Urls
from token_relay.simulation.announcer import Announcer
from token_relay.simulation.loop import VirtualLoop
from token_relay.simulation.ports.clocks import WALL_AT_START_S

BASE = "https://provider.example"
SCOPE = "offline_access openid profile"
USERNAMES = ("password@contoso.example", "second@contoso.example")
"""Users with a password; ``otp@contoso.example`` signs in by a code instead, where there is native sign-in."""

PEOPLE = DEFAULT_WORLD.model_copy(
    update={"users": [*DEFAULT_WORLD.users, UserModel(username=USERNAMES[1], password=Password(PASSWORD))]}
)


class SimulatedProvider(Provider):
    """A provider of one kind. Where it has no pages, a phone signs in by a request of its own to ``/sign-in``."""

    def __init__(
        self, kind: Kind, random: Random, signer: Signer, *, loop: VirtualLoop, announcer: Announcer, has_pages: bool
    ) -> None:
        self._loop = loop
        self._announcer = announcer
        self._has_pages = has_pages
        self._heard = 0
        rules = KINDS[kind].rules
        self.client_profile = PROFILES[KINDS[kind].client]
        super().__init__(PEOPLE, Urls(rules.name, BASE, "contoso"), random, signer, now=self.true_wall_s(), rules=rules)

    def true_wall_s(self) -> float:
        """Return the true wall-clock time in Unix seconds."""
        return WALL_AT_START_S + self._loop.time()

    @property
    def url(self) -> str:
        """Return the provider's URL for a phone's configuration."""
        return BASE if self.client_profile.name == "entra" else self.state.urls.issuer

    @cached_property
    def metadata(self) -> ProviderMetadata:
        """Return the provider's metadata, as discovery gives it."""
        urls = self.state.urls
        revokes = self.state.rules.has_revocation
        return ProviderMetadata(
            issuer=urls.issuer,
            token_endpoint=urls.url("token"),
            revocation_endpoint=urls.url("revoke") if revokes else None,
        )

    def answer(self, asked: Request, admission: Admission) -> Response:
        """Carry out a request now, and tell the observers the result."""
        if asked.target.endswith("/sign-in") and not self._has_pages:
            response = self._sign_in_directly(asked)
        else:
            response = self.commit(asked, admission, self.true_wall_s()).response
        self.tell()
        return response

    def _sign_in_directly(self, asked: Request) -> Response:
        """Begin a family for the person, as the pages would do."""
        username = parse_qs(asked.body.decode())["username"][0]
        trace = Trace("sign-in", "sign-in", self.time(self.true_wall_s()), "token", "")
        scope, user = tuple(SCOPE.split()), self.state.users[username]
        return families.sign_in(self.state, user, trace, families.SignInRequest(CLIENT_ID, scope, "password"))[1]

    def revoke_user(self, username: str = USERNAMES[0]) -> None:
        """Revoke all that a person has signed in to, as an administrator does."""
        trace = Trace("revocation", "revocation", self.time(self.true_wall_s()), "", "")
        families.revoke_user(self.state, username, trace)
        self.tell()

    def tell(self) -> None:
        """Tell the observers the new entries of the event log."""
        state = self.state
        if not self._announcer.is_heard or state.next_event_id == self._heard + 1:
            return
        new = [event for event in state.events_after(self._heard)]
        self._heard = state.next_event_id - 1
        for event in new:
            self._announcer.provider_said(event.as_json())

    def kinds(self) -> list[str]:
        """Return the kinds of all entries of the event log, in order."""
        return [event.kind for event in self.state.events]
