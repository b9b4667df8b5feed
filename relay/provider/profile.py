"""What a provider does with refresh tokens, as data.

The agents' decisions (which strategy, when to retry an uncertain refresh, what a denial means) read a
:class:`Profile` and nothing else; adding a provider means adding a row. A provider nobody described counts as
``strict``: rotation, no leeway, reuse kills the family and its access tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

DAY_S = 86_400.0
Strategy = Literal["branch", "mint", "move"]
SignIn = Literal["native", "browser"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One provider's behaviour.

    ``old_token_s`` is how long a refresh token works after its successor was issued: 0 = it is dead at once,
    ``None`` = using it never invalidates it. All ``*_s`` are seconds.
    """

    name: str
    sign_in: SignIn
    strategies: tuple[Strategy, ...]  # safe ones, the first is the default
    old_token_s: float | None
    reuse_kills_family: bool
    reuse_kills_access_tokens: bool
    can_revoke_token: bool  # RFC 7009 usable by a public client
    revoking_kills_siblings: bool  # whether revoking one chain can hit the phone's own
    idle_lifetime_s: float | None
    absolute_lifetime_s: float | None
    otp_lifetime_s: float | None = None  # absolute lifetime after an e-mail code sign-in, where it differs
    takes_claims: bool = False  # whether a refresh may carry a claims challenge
    temporary_codes: frozenset[int] = frozenset()  # invalid_grant that passes: keep the token, back off
    person_codes: frozenset[int] = frozenset()  # the person's turn: keep the token sealed, stop, tell

    @property
    def invalidates_on_use(self) -> bool:
        """Whether using a refresh token makes the old value unusable, sooner or later."""
        return self.old_token_s is not None

    @property
    def has_leeway(self) -> bool:
        """Whether a lost answer can be repaired by sending the same token again within a known time."""
        return self.old_token_s is not None and self.old_token_s > 0


ENTRA = Profile(
    name="entra",
    sign_in="native",
    strategies=("branch", "mint", "move"),
    old_token_s=None,
    reuse_kills_family=False,
    reuse_kills_access_tokens=False,
    can_revoke_token=False,
    revoking_kills_siblings=False,
    idle_lifetime_s=90 * DAY_S,
    absolute_lifetime_s=None,
    otp_lifetime_s=DAY_S,
    takes_claims=True,
    temporary_codes=frozenset({50053, 50196}),
    person_codes=frozenset({50055, 50072, 50074, 50076, 50078, 50079, 50142, 53000, 53003, 530032, 65001}),
)

AUTH0 = Profile(
    name="auth0",
    sign_in="browser",
    strategies=("mint", "move"),
    old_token_s=30.0,
    reuse_kills_family=True,
    reuse_kills_access_tokens=False,
    can_revoke_token=True,
    revoking_kills_siblings=False,
    idle_lifetime_s=30 * DAY_S,
    absolute_lifetime_s=30 * DAY_S,
)

STRICT = Profile(
    name="strict",
    sign_in="browser",
    strategies=("mint", "move"),
    old_token_s=0.0,
    reuse_kills_family=True,
    reuse_kills_access_tokens=True,
    can_revoke_token=True,
    revoking_kills_siblings=False,
    idle_lifetime_s=None,
    absolute_lifetime_s=None,
)

PROFILES = {profile.name: profile for profile in (ENTRA, AUTH0, STRICT)}


def profile_for(issuer: str) -> Profile:
    """Guess the profile from the issuer's host; what is not known counts as ``strict``."""
    host = (urlsplit(issuer).hostname or "").lower()
    if host.endswith(".ciamlogin.com"):
        return ENTRA
    if host.endswith(".auth0.com"):
        return AUTH0
    return STRICT
