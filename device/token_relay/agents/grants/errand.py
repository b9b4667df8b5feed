"""Errands: why a flight sends a refresh token.

The flight (:mod:`.flight`) keeps the order of intent, request and disk, the same for every errand. An errand sends its
request and writes what it alone brings. It is a refresh (here), a session transfer (:mod:`.transfer`) or a companion's
token (:mod:`token_relay.agents.phone.branch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.answers import event_of
from token_relay.agents.grants.challenges import ends_nothing
from token_relay.agents.grants.serving import profile_of, scope_to_ask
from token_relay.agents.records import Grant
from token_relay.agents.turn import Turn
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.http import Http
from token_relay.provider.outcome import TokenOutcome


class Errand(Protocol):
    """One errand; it may take several requests, one after the other."""

    @property
    def scope(self) -> str:
        """The normalised scope set of the access token that it brings; empty: the grant's own."""
        ...

    @property
    def wants_access_token(self) -> bool:
        """Whether an answer without an access token is a failure."""
        ...

    def begin(self, turn: Turn, grant: Grant) -> bool:
        """Write its own intent in the transaction of the grant's intent; False: the errand is over, nothing is sent."""
        ...

    async def send(self, http: Http, grant: Grant, refresh_token: RefreshToken, sent: Stamp) -> TokenOutcome:
        """Send the request; return what the answer means to the grant."""
        ...

    def is_refused_alone(self, outcome: TokenOutcome) -> bool:
        """Return whether the outcome refuses this errand alone, so that the grant stays as it is."""
        ...

    def settle(self, turn: Turn, grant: Grant | None) -> None:
        """Write what the errand has brought, with the grant's new state; ``grant`` is None when it came too late."""
        ...

    def event(self, outcome: TokenOutcome) -> tuple[str, str]:
        """Return the name and detail of the event to write."""
        ...


@dataclass(frozen=True, slots=True)
class RefreshErrand:
    """A refresh of the grant for one scope set; ``claims`` are those that a resource's challenge wants."""

    scope: str = ""
    claims: str = ""
    wants_access_token: bool = True

    def begin(self, turn: Turn, grant: Grant) -> bool:
        """Write nothing: the grant's intent is enough."""
        return True

    async def send(self, http: Http, grant: Grant, refresh_token: RefreshToken, sent: Stamp) -> TokenOutcome:
        """Send the refresh. RFC 6749 §6."""
        return await oauth.refresh(
            http,
            profile_of(grant),
            token_endpoint=grant.token_endpoint,
            client_id=grant.client_id,
            refresh_token=refresh_token,
            scope=self.scope or scope_to_ask(grant),
            client_info=grant.profile == "entra",
            claims=self.claims,
        )

    def is_refused_alone(self, outcome: TokenOutcome) -> bool:
        """Return whether the claims were refused, not the grant."""
        return bool(self.claims) and ends_nothing(outcome)

    def settle(self, turn: Turn, grant: Grant | None) -> None:
        """Write nothing: the grant's new state is enough."""

    def event(self, outcome: TokenOutcome) -> tuple[str, str]:
        """Return the event of a refresh."""
        return event_of(outcome)
