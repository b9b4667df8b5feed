"""What a provider does with refresh tokens, as data.

The agents' decisions (which strategy, when to retry an uncertain refresh, what a denial means) read a
:class:`Profile` and nothing else; adding a provider means adding a row. A provider without a row counts as ``strict``:
rotation, no leeway, reuse kills the family and its access tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from token_relay.protocol.handoff import Strategy

DAY_S = 86_400.0
SignIn = Literal["native", "browser"]
ProfileName = Literal[
    "entra",
    "auth0",
    "strict",
    "okta",
    "keycloak",
    "keycloak-rotating",
    "oidc-provider",
    "hydra",
    "duende",
    "duende-one-time",
    "cognito",
    "google",
]


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
    refresh_gives_new: bool = True  # whether a refresh answers with another refresh token; `branch` needs one
    otp_lifetime_s: float | None = None  # absolute lifetime after an e-mail code sign-in, where it differs
    takes_claims: bool = False  # whether a refresh may carry a claims challenge
    temporary_codes: frozenset[int] = frozenset()  # invalid_grant that will pass: keep the token, back off
    person_codes: frozenset[int] = frozenset()  # the person must act: keep the token sealed, stop, tell them

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
    # account locked for a while, client in a loop; the others are transient faults whose ``error`` is not documented
    temporary_codes=frozenset({50053, 50196, 50033, 90006, 90012, 90024, 90033}),
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

# Providers that cannot be guessed from an issuer: a person who knows their settings names them. Lifetimes are those
# that the provider documents as fixed, not those that an operator sets. Where the effect of reuse is not known, the row
# assumes the worse.
OKTA = replace(STRICT, name="okta", old_token_s=30.0)  # rotation with the default leeway; ends access tokens too
KEYCLOAK = replace(  # revokeRefreshToken=false; revoking one token ends the client session that siblings live in
    STRICT,
    name="keycloak",
    strategies=("branch", "mint", "move"),
    old_token_s=None,
    reuse_kills_family=False,
    reuse_kills_access_tokens=False,
    revoking_kills_siblings=True,
)
KEYCLOAK_ROTATING = replace(  # revokeRefreshToken=true, refreshTokenMaxReuse=0
    STRICT, name="keycloak-rotating", reuse_kills_access_tokens=False, revoking_kills_siblings=True
)
OIDC_PROVIDER = replace(STRICT, name="oidc-provider")
HYDRA = replace(STRICT, name="hydra", old_token_s=30.0)  # a rotation_grace_period of 30 s or more is set
DUENDE = replace(  # ReUse: the value never changes, so there is no second one to give away
    STRICT,
    name="duende",
    old_token_s=None,
    refresh_gives_new=False,
    reuse_kills_family=False,
    reuse_kills_access_tokens=False,
)
DUENDE_ONE_TIME = replace(STRICT, name="duende-one-time", reuse_kills_family=False, reuse_kills_access_tokens=False)
COGNITO = replace(  # a retry grace of 30 s or more is set
    STRICT, name="cognito", old_token_s=30.0, reuse_kills_access_tokens=False, absolute_lifetime_s=30 * DAY_S
)
GOOGLE = replace(
    STRICT,
    name="google",
    old_token_s=None,
    refresh_gives_new=False,
    reuse_kills_family=False,
    reuse_kills_access_tokens=False,
    idle_lifetime_s=182 * DAY_S,
)

PROFILES = {
    profile.name: profile
    for profile in (
        ENTRA,
        AUTH0,
        STRICT,
        OKTA,
        KEYCLOAK,
        KEYCLOAK_ROTATING,
        OIDC_PROVIDER,
        HYDRA,
        DUENDE,
        DUENDE_ONE_TIME,
        COGNITO,
        GOOGLE,
    )
}


def profile_for(issuer: str) -> Profile:
    """Guess the profile from the issuer's host; an unknown host counts as ``strict``."""
    host = (urlsplit(issuer).hostname or "").lower()
    if host.endswith(".ciamlogin.com"):
        return ENTRA
    if host.endswith(".auth0.com"):
        return AUTH0
    return STRICT
