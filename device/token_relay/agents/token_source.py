"""What a local program may ask an agent for, and what it gets.

:class:`token_relay.agents.grants.keeper.GrantKeeper` implements both sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from token_relay.protocol.secret import AccessToken, SessionTransferToken

RefusalCode = Literal[
    "reauth_required",
    "locked",
    "denied",
    "offline",
    "not_found",
    "ambiguous",
    "refused",
    "busy",
    "transfer_refused",
]

MIN_VALID_S_DEFAULT = 30.0  # longer than a call that an app makes with the token
TIMEOUT_S_DEFAULT = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket; ``pid`` is for logs only, ``groups`` are supplementary."""

    uid: int
    gid: int
    pid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedPhone:
    """A phone that a companion is paired with."""

    device_id: str
    name: str
    is_primary: bool


PRIMARY = frozenset({""})


@dataclass(frozen=True, slots=True)
class TokenQuery:
    """One question of one local program. Empty strings mean "not said".

    ``phone`` is the phone as the program names it. ``phones`` are those whose grants may answer, by device id, an empty
    one for the primary: what came of ``phone`` and of the policy. ``claims`` is a claims challenge as it is sent to the
    provider (:func:`token_relay.provider.claims.read_claims`).
    ``force_refresh`` is for the agent's owner alone: it also asks a provider that refuses for now.
    """

    scope: str = ""
    account: str = ""
    audience: str = ""
    min_valid_s: float = MIN_VALID_S_DEFAULT
    timeout_s: float = TIMEOUT_S_DEFAULT
    force_refresh: bool = False
    claims: str = ""
    issuer: str = ""
    phone: str = ""
    phones: frozenset[str] = PRIMARY


@dataclass(frozen=True, slots=True)
class TokenGranted:
    """An access token; ``expires_at`` is aware UTC. ``phone`` brought the grant, None on a phone itself."""

    access_token: AccessToken
    token_type: str
    expires_at: datetime
    scope: str
    issuer: str
    phone: NamedPhone | None = None
    grant_id: str = ""


@dataclass(frozen=True, slots=True)
class FittingGrant:
    """One of several grants that a question fits; ``phone`` is a device id, empty on a phone itself."""

    issuer: str
    account: str
    phone: str


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """No token: why, in words, and the one action that would change it. ``grants`` says what is ``ambiguous``."""

    error: RefusalCode
    detail: str
    action: str = ""
    retry_after_s: float | None = None
    grants: tuple[FittingGrant, ...] = ()


class PhoneFinder(Protocol):
    """An agent that knows phones."""

    async def find_phone(self, word: str) -> NamedPhone | TokenRefused:
        """Return the phone that a program names, by id, name or the beginning of its id."""
        ...


class TokenSource(Protocol):
    """An agent, as the token API sees it."""

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        """Answer within about ``query.timeout_s``, always with a value; a token that it returns is on disk."""
        ...


@dataclass(frozen=True, slots=True)
class TransferQuery:
    """One request for a session transfer token. Empty strings mean "not said"."""

    account: str = ""
    audience: str = ""
    timeout_s: float = TIMEOUT_S_DEFAULT
    issuer: str = ""
    phone: str = ""
    phones: frozenset[str] = PRIMARY


@dataclass(frozen=True, slots=True)
class TransferGranted:
    """A session transfer token for this caller alone; ``expires_at`` is aware UTC."""

    token: SessionTransferToken
    expires_at: datetime
    expires_in_s: float
    issuer: str


class TransferSource(Protocol):
    """An agent whose grants can sign a browser in."""

    async def get_session_transfer(self, query: TransferQuery) -> TransferGranted | TokenRefused:
        """Answer within about ``query.timeout_s``; what the provider rotated is on disk before this returns."""
        ...
