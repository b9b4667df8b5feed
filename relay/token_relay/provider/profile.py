"""What a provider does with refresh tokens, as data.

The agents' decisions (which strategy, when to retry an uncertain refresh, what a denial means) read a
:class:`Profile` and nothing else; adding a provider means adding a row. A provider without a row counts as ``strict``:
rotation, no leeway, and reuse or revocation may end more than the token's own family.

What a companion needs of it travels in the grant, as a :class:`Behaviour`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

from token_relay.protocol.behaviour import Behaviour, Takes
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
    ``None`` = using it never invalidates it. ``reuse_takes`` and ``revocation_takes`` are what ends when a spent token
    is used again and when one is revoked: ``family`` is what came of the same sign-in by refreshing, ``session`` all
    grants of the browser session, ``user`` all of the user. All ``*_s`` are seconds.
    """

    name: str
    sign_in: SignIn
    strategies: tuple[Strategy, ...]  # safe ones, the first is the default
    old_token_s: float | None
    reuse_takes: Takes
    reuse_kills_access_tokens: bool
    can_revoke_token: bool  # RFC 7009 usable by a public client
    revocation_takes: Takes
    idle_lifetime_s: float | None
    absolute_lifetime_s: float | None
    refresh_gives_new: bool = True  # whether a refresh answers with another refresh token; `branch` needs one
    otp_lifetime_s: float | None = None  # absolute lifetime after an e-mail code sign-in, where it differs
    takes_claims: bool = False  # whether a refresh may carry a claims challenge
    takes_resource: bool = False  # whether a refresh names its API by ``resource`` (RFC 8707)
    temporary_codes: frozenset[int] = frozenset()  # a refusal that will pass: keep the token, back off
    final_codes: frozenset[int] = frozenset()  # the invalid_grant that ends a token; empty: every one does

    @property
    def invalidates_on_use(self) -> bool:
        """Whether using a refresh token makes the old value unusable, sooner or later."""
        return self.old_token_s is not None

    @property
    def has_leeway(self) -> bool:
        """Whether a lost answer can be repaired by sending the same token again within a known time."""
        return self.old_token_s is not None and self.old_token_s > 0

    @property
    def behaviour(self) -> Behaviour:
        """What it says of refresh tokens, for a grant that is handed over."""
        return Behaviour(
            invalidates_on_use=self.invalidates_on_use,
            leeway_s=int(self.old_token_s or 0),
            refresh_gives_new=self.refresh_gives_new,
            reuse_takes=self.reuse_takes,
            reuse_kills_access_tokens=self.reuse_kills_access_tokens,
            revocation_takes=self.revocation_takes,
            can_revoke_token=self.can_revoke_token,
            idle_lifetime_s=int(self.idle_lifetime_s or 0),
            absolute_lifetime_s=int(self.absolute_lifetime_s or 0),
            otp_lifetime_s=int(self.otp_lifetime_s or 0),
            takes_claims=self.takes_claims,
            takes_resource=self.takes_resource,
            temporary_codes=sorted(self.temporary_codes),
            final_codes=sorted(self.final_codes),
        )


ENTRA = Profile(
    name="entra",
    sign_in="native",
    strategies=("branch", "mint", "move"),
    old_token_s=None,
    reuse_takes="nothing",
    reuse_kills_access_tokens=False,
    can_revoke_token=False,
    revocation_takes="user",  # Microsoft Graph, user: revokeSignInSessions; there is no smaller one
    idle_lifetime_s=90 * DAY_S,
    absolute_lifetime_s=None,
    otp_lifetime_s=DAY_S,
    takes_claims=True,
    # account locked for a while, client in a loop; the others are transient faults whose ``error`` is not documented
    temporary_codes=frozenset({50053, 50196, 50033, 90006, 90012, 90024, 90033}),
    # Entra's list of AADSTS codes: the token is expired (700082, 70008), of a single-page app and over (700084), bad
    # (70000), bound by a sign-in frequency (70043), revoked (50173), or older than the password (50132, 50133)
    final_codes=frozenset({700082, 70008, 700084, 70043, 70000, 50173, 50132, 50133}),
)

AUTH0 = Profile(
    name="auth0",
    sign_in="browser",
    strategies=("mint", "move"),
    old_token_s=30.0,
    reuse_takes="family",  # Auth0, Refresh Token Rotation: automatic reuse detection
    reuse_kills_access_tokens=False,
    can_revoke_token=True,
    # Auth0, Revoke Refresh Tokens: the default of tenants made since 13 January 2021. With "Refresh Token Revocation
    # Deletes Grant" on, it takes every token of the user for this application and audience.
    revocation_takes="family",
    idle_lifetime_s=30 * DAY_S,
    absolute_lifetime_s=30 * DAY_S,
)

STRICT = Profile(
    name="strict",
    sign_in="browser",
    strategies=("mint", "move"),
    old_token_s=0.0,
    reuse_takes="unknown",
    reuse_kills_access_tokens=True,
    can_revoke_token=True,
    revocation_takes="unknown",
    idle_lifetime_s=None,
    absolute_lifetime_s=None,
)

# Providers that cannot be guessed from an issuer: a person who knows their settings names them. Lifetimes are those
# that the provider documents as fixed, not those that an operator sets. Where the effect of reuse is not known, the row
# assumes the worse.
# Okta, Refresh token rotation: reuse also ends all access tokens since the sign-in; whether more ends is not said.
OKTA = replace(STRICT, name="okta", old_token_s=30.0)
KEYCLOAK = (
    replace(  # revokeRefreshToken=false; a token's revocation detaches the client's session, with all tokens in it
        STRICT,
        name="keycloak",
        strategies=("branch", "mint", "move"),
        old_token_s=None,
        reuse_takes="nothing",
        reuse_kills_access_tokens=False,
        revocation_takes="session",
    )
)
KEYCLOAK_ROTATING = replace(  # revokeRefreshToken=true, refreshTokenMaxReuse=0; too many uses detach it as well
    STRICT,
    name="keycloak-rotating",
    reuse_takes="session",
    reuse_kills_access_tokens=False,
    revocation_takes="session",
)
# One grant per browser session and client: reuse and revocation end it with all that was issued in it (measured).
OIDC_PROVIDER = replace(STRICT, name="oidc-provider", reuse_takes="session", revocation_takes="session")
HYDRA = replace(  # a rotation_grace_period of 30 s or more is set; both end the chain of one consent
    STRICT, name="hydra", old_token_s=30.0, reuse_takes="family", revocation_takes="family"
)
# ReUse: the value never changes, so there is no second one to give away. A revocation also ends reference access tokens
# of the same user and client; whether only those of the same session depends on the version.
DUENDE = replace(
    STRICT,
    name="duende",
    old_token_s=None,
    refresh_gives_new=False,
    reuse_takes="nothing",
    reuse_kills_access_tokens=False,
)
DUENDE_ONE_TIME = replace(STRICT, name="duende-one-time", reuse_takes="nothing", reuse_kills_access_tokens=False)
COGNITO = replace(  # a retry grace of 30 s or more is set
    STRICT,
    name="cognito",
    old_token_s=30.0,
    reuse_kills_access_tokens=False,
    revocation_takes="family",  # Cognito, Revoke endpoint: the refresh token, and the tokens that came of it
    absolute_lifetime_s=30 * DAY_S,
)
GOOGLE = replace(
    STRICT,
    name="google",
    old_token_s=None,
    refresh_gives_new=False,
    reuse_takes="nothing",
    reuse_kills_access_tokens=False,
    revocation_takes="user",  # Google, OAuth 2.0, Incremental authorization: all that the user gave this application
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


@lru_cache(maxsize=64)
def profile_that(name: str, behaviour: str) -> Profile:
    """Return the profile of this name and behaviour, which is JSON of a :class:`Behaviour`: what a grant brought.

    How to sign in it does not say; only a phone asks, and only its own profile.
    """
    return described(replace(STRICT, name=name), Behaviour.model_validate_json(behaviour))


def described(base: Profile, said: Behaviour) -> Profile:
    """Return ``base``, its name and its way of signing in, with a described behaviour and what is safe with it."""
    can_branch = not said.invalidates_on_use and said.refresh_gives_new
    return Profile(
        name=base.name,
        sign_in=base.sign_in,
        strategies=("branch", "mint", "move") if can_branch else ("mint", "move"),
        old_token_s=float(said.leeway_s) if said.invalidates_on_use else None,
        reuse_takes=said.reuse_takes,
        reuse_kills_access_tokens=said.reuse_kills_access_tokens,
        can_revoke_token=said.can_revoke_token,
        revocation_takes=said.revocation_takes,
        idle_lifetime_s=float(said.idle_lifetime_s) or None,
        absolute_lifetime_s=float(said.absolute_lifetime_s) or None,
        refresh_gives_new=said.refresh_gives_new,
        otp_lifetime_s=float(said.otp_lifetime_s) or None,
        takes_claims=said.takes_claims,
        takes_resource=said.takes_resource,
        temporary_codes=frozenset(said.temporary_codes),
        final_codes=frozenset(said.final_codes),
    )


def profile_for(issuer: str) -> Profile:
    """Guess the profile from the issuer's host; an unknown host counts as ``strict``."""
    host = (urlsplit(issuer).hostname or "").lower()
    if host.endswith(".ciamlogin.com"):
        return ENTRA
    if host.endswith(".auth0.com"):
        return AUTH0
    return STRICT
