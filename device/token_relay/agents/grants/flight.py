"""What a request in flight is made of, and who hears of the grant's change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.transfer import Exchange
from token_relay.agents.records import Grant
from token_relay.agents.turn import Turn
from token_relay.protocol.secret import RefreshToken


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that may leave: its intent is on disk."""

    grant_id: str
    grant: Grant
    refresh_token: RefreshToken
    scope: str
    sent: Stamp
    claims: str = ""
    exchange: Exchange | None = None


@dataclass(frozen=True, slots=True)
class Unsure:
    """A value may be sent again that an earlier request may have spent: not before the provider answers again."""

    grant: Grant


class GrantWatcher(Protocol):
    """The agent's part of a grant's change; runs inside the transaction."""

    reauth_action: str

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """A refresh was settled, or the lease ended: ``after`` is already written."""
        ...

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh ended after its grant, and brought a token that nobody will hold: have it revoked if that may be.

        ``grant`` is the erased row, or the grant as it was when the request left.
        """
        ...
