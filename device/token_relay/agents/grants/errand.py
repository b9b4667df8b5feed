"""Errands: why a flight sends a refresh token.

The flight (:mod:`.flight`) keeps the order of intent, request and disk, the same for every errand. An errand sends its
request and writes what it alone brings. It is a refresh (here), a session transfer (:mod:`.transfer`) or a companion's
token (:mod:`token_relay.agents.phone.branch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.answers import event_of
from token_relay.agents.grants.refusals import Key
from token_relay.agents.grants.serving import normalise_scope, profile_of, scope_to_ask
from token_relay.agents.records import Grant
from token_relay.agents.turn import Turn
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.http import Http
from token_relay.provider.outcome import Denied, TokenOutcome


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

    @property
    def handoff_id(self) -> str:
        """The handoff that it is for; empty: the grant's own, if it has one."""
        ...

    def key(self, grant_id: str) -> Key | None:
        """Return what :class:`~token_relay.agents.grants.refusals.Refusals` knows this request by, if anything."""
        ...

    def begin(self, turn: Turn, grant: Grant) -> bool:
        """Write its own intent in the transaction of the grant's intent; False: the errand is over, nothing is sent."""
        ...

    async def send(self, http: Http, grant: Grant, refresh_token: RefreshToken, sent: Stamp) -> TokenOutcome:
        """Send the request; return what the answer means to the grant."""
        ...

    def is_refused_alone(self, outcome: TokenOutcome, grant: Grant) -> bool:
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
    handoff_id: ClassVar[str] = ""

    def key(self, grant_id: str) -> Key:
        """Return the key by which its refusal is remembered."""
        return (grant_id, self.scope, self.claims)

    def narrows(self, grant: Grant) -> bool:
        """Return whether it asks for less than the grant, or for claims: its refusal may be about that alone."""
        return bool(self.claims) or (bool(self.scope) and self.scope != normalise_scope(grant.scope))

    def begin(self, turn: Turn, grant: Grant) -> bool:
        """Write nothing: the grant's intent is enough."""
        return True

    async def send(self, http: Http, grant: Grant, refresh_token: RefreshToken, sent: Stamp) -> TokenOutcome:
        """Send the refresh. RFC 6749 §6."""
        profile = profile_of(grant)
        return await oauth.refresh(
            http,
            profile,
            token_endpoint=grant.token_endpoint,
            client_id=grant.client_id,
            refresh_token=refresh_token,
            issuer=grant.issuer,
            scope=self.scope or scope_to_ask(grant),
            resource=grant.audience if profile.takes_resource else "",
            client_info=grant.profile == "entra",
            claims=self.claims,
        )

    def is_refused_alone(self, outcome: TokenOutcome, grant: Grant) -> bool:
        """Return whether this may be about the narrower scope or the claims alone: any refusal but of the client."""
        return isinstance(outcome, Denied) and outcome.kind not in ("client", "temporary") and self.narrows(grant)

    def settle(self, turn: Turn, grant: Grant | None) -> None:
        """Write nothing: the grant's new state is enough."""

    def event(self, outcome: TokenOutcome) -> tuple[str, str]:
        """Return the event of a refresh."""
        return event_of(outcome)
