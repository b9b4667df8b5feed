"""The three profiles as the provider applies them: rotation, leeway, what reuse kills, which paths exist.

Separate from the client's :mod:`token_relay.provider.profile` on purpose: if both read one table, a mistake in it
would pass every test. Sources: Microsoft's documentation of refresh tokens, Auth0's of rotation, RFC 9700 §4.14.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Literal

from token_relay.sandbox.provider.world.model import (
    DAY_S,
    BehaviourModel,
    EndpointName,
    PolicyModel,
    ProfileName,
    Reach,
)

DOCUMENTED_TENANT_ID = "aaaabbbb-0000-cccc-1111-dddd2222eeee"  # as in Microsoft's documentation examples
OIDC_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})


@dataclass(frozen=True, slots=True)
class Rules:
    """One profile.

    ``name`` is the profile whose paths and answers it has. ``invalidates_on_use``: a refresh token is spent by its use
    (rotation). ``reuse_takes``: what ends with a spent token that is used again; ``nothing``: it is only refused.
    ``branches_in_grace``: within the leeway each use of *any* spent token begins another branch, which lives on.
    ``has_revocation``: there is an endpoint for RFC 7009.
    """

    name: ProfileName
    invalidates_on_use: bool
    reuse_kills_access_tokens: bool
    has_revocation: bool
    has_password_grant: bool
    is_native: bool
    policy: PolicyModel
    imitates: str = ""  # the name of its row in token_relay.sandbox.provider.world.provider_kinds
    reuse_takes: Reach = "family"
    revocation_takes: Reach = "family"
    revocation: Literal["works", "ignored", "refused"] = "works"
    narrows: bool = True  # a refresh may ask for less scope
    tells_life: bool = False  # each answer says how long the refresh token lives
    branches_in_grace: bool = False
    has_sessions: bool = False  # a browser stays signed in
    is_managed: bool = False  # session transfer, the management API, Actions and the tenant's log
    answers: Literal["successor", "same", "nothing"] = "successor"  # the refresh token in the answer to a refresh
    reuse_count_max: int | None = None  # grace by count: how many more times a token may be used while it is newest
    use_kills_issued: bool = False  # using a token revokes the access tokens that came with it
    revokes_by_access_token: bool = False  # revoking any token ends the grant
    grants_max: int | None = None  # of one person with one client; beyond it the oldest ends
    texts: Mapping[str, str] = field(default_factory=dict)  # a refusal's text, by reason; "" is any other


RULES: dict[ProfileName, Rules] = {
    "entra": Rules(
        name="entra",
        invalidates_on_use=False,
        reuse_kills_access_tokens=False,
        has_revocation=False,
        has_password_grant=False,
        is_native=True,
        # 90 days, sliding; 24 hours after a sign-in by e-mail code, which the sandbox counts from the sign-in
        policy=PolicyModel(refresh_idle_lifetime_s=90 * DAY_S, otp_refresh_lifetime_s=DAY_S),
        has_sessions=True,
    ),
    "auth0": Rules(
        name="auth0",
        invalidates_on_use=True,
        reuse_kills_access_tokens=False,
        has_revocation=True,
        has_password_grant=True,
        is_native=False,
        policy=PolicyModel(
            leeway_s=30.0, refresh_idle_lifetime_s=30 * DAY_S, refresh_absolute_lifetime_s=30 * DAY_S
        ),  # Auth0's defaults under rotation, but for the leeway, which is 0 until somebody sets it
        has_sessions=True,
        is_managed=True,
        grants_max=200,
    ),
    "strict": Rules(
        name="strict",
        invalidates_on_use=True,
        reuse_kills_access_tokens=True,
        has_revocation=True,
        has_password_grant=False,
        is_native=False,
        policy=PolicyModel(),
    ),
}


def with_behaviour(rules: Rules, said: BehaviourModel | None) -> Rules:
    """Return the rules with a described behaviour in place of their own; nothing else tells of it."""
    if said is None:
        return rules
    answers: dict[str, Literal["successor", "same", "nothing"]] = {"repeats": "same", "hides": "nothing"}
    return replace(
        rules,
        invalidates_on_use=said.refresh == "spends",
        answers=answers.get(said.refresh, "successor"),
        branches_in_grace=said.branches,
        reuse_takes=said.reuse_takes,
        reuse_kills_access_tokens=said.reuse_kills_access_tokens,
        has_revocation=said.revocation != "absent",
        revocation=said.revocation if said.revocation != "absent" else "works",
        revocation_takes=said.revocation_takes,
        narrows=said.narrows,
        tells_life=said.tells_life,
    )


Kind = Literal["entra", "auth0", "strict", "rotates", "grace"]


@dataclass(frozen=True, slots=True)
class KindOfProvider:
    """Rules, and the client's profile that a careful operator would choose for them."""

    rules: Rules
    client: ProfileName


# The three profiles and two more kinds that real providers have; for simulations. An undescribed provider is strict.
KINDS: dict[Kind, KindOfProvider] = {
    "entra": KindOfProvider(RULES["entra"], "entra"),
    "auth0": KindOfProvider(RULES["auth0"], "auth0"),
    "strict": KindOfProvider(RULES["strict"], "strict"),
    # Duende IdentityServer, OneTimeOnly: a spent token is refused, its successor stays good
    "rotates": KindOfProvider(
        replace(RULES["strict"], reuse_takes="nothing", reuse_kills_access_tokens=False), "strict"
    ),
    # Ory Hydra, rotation_grace_period: within it each use gives another pair, and the branches live on independently
    "grace": KindOfProvider(
        replace(RULES["strict"], branches_in_grace=True, policy=PolicyModel(leeway_s=30.0)), "strict"
    ),
}


@dataclass(frozen=True, slots=True)
class Urls:
    """Where everything is: ``base_url`` has no slash at its end, ``tenant`` matters to ``entra`` only.

    ``issuer_path``: the path after the host in the other profiles' issuer, such as ``/contoso``; empty for most.
    """

    profile: ProfileName
    base_url: str
    tenant: str
    issuer_path: str = ""

    @property
    def tenant_id(self) -> str:
        """The tenant's GUID."""
        if self.tenant == "contoso":
            return DOCUMENTED_TENANT_ID
        return guid_of("tenant", self.tenant)

    @property
    def authority(self) -> str:
        """What the paths of the endpoints begin with."""
        return f"{self.base_url}/{self.tenant}.onmicrosoft.com" if self.profile == "entra" else self._others_base

    @property
    def issuer(self) -> str:
        """``iss`` of every token. As at the real services: entra names the tenant by GUID, auth0 ends with a slash.

        An issuer with a path has no slash at its end, since libraries append to it.
        """
        match self.profile:
            case "entra":
                return f"{self.base_url}/{self.tenant_id}/v2.0"
            case "auth0":
                return self._others_base if self.issuer_path else f"{self.base_url}/"
            case "strict":
                return self._others_base

    @property
    def _others_base(self) -> str:
        return f"{self.base_url}{self.issuer_path}"

    def url(self, endpoint: EndpointName) -> str:
        """Return the endpoint's address as discovery tells it; the real service names the tenant by GUID there."""
        begins = f"{self.base_url}/{self.tenant_id}" if self.profile == "entra" else self.authority
        return begins + next(path for path, name in self._paths() if name == endpoint)

    def endpoint(self, path: str) -> EndpointName | None:
        """Return the endpoint at this decoded path, or None."""
        if path == "/sandbox/resource":
            return "resource"
        if self.profile == "entra":
            prefix, tail = path[1:].partition("/")[::2]
            if prefix.lower() not in {self.tenant, f"{self.tenant}.onmicrosoft.com", self.tenant_id}:
                return None
            path = f"/{tail}"
            if path.startswith(NATIVE_STEPS):
                return "native_step"
        if self.profile == "auth0":
            for prefix, name in _AUTH0_PREFIXES:
                if path.startswith(prefix):
                    return name
        if self.issuer_path and path == f"{_AUTHORIZATION_SERVER}{self.issuer_path}":
            return "discovery"
        return next((name for known, name in self._paths() if path in {known, f"{self.issuer_path}{known}"}), None)

    def is_in_other_tenant(self, path: str) -> bool:
        """Return whether this path would be an endpoint if its tenant existed."""
        tail = path[1:].partition("/")[2]
        return self.profile == "entra" and self.endpoint(path) is None and f"/{tail}" in dict(self._paths())

    def _paths(self) -> tuple[tuple[str, EndpointName], ...]:
        if self.profile == "entra":
            return _ENTRA_PATHS
        return _AUTH0_PATHS if self.profile == "auth0" else _OTHER_PATHS


_AUTHORIZATION_SERVER = "/.well-known/oauth-authorization-server"  # RFC 8414 §3: before the issuer's path
NATIVE_STEPS = "/api/v2.0/"  # of version 2 of the native API; below the authority
_ENTRA_PATHS: tuple[tuple[str, EndpointName], ...] = (
    ("/oauth2/v2.0/initiate", "initiate"),
    ("/oauth2/v2.0/challenge", "challenge"),
    ("/oauth2/v2.0/introspect", "introspect"),
    ("/oauth2/v2.0/token", "token"),
    ("/register/v1.0/introspect", "register_introspect"),
    ("/register/v1.0/challenge", "register_challenge"),
    ("/register/v1.0/continue", "register_continue"),
    ("/signup/v1.0/start", "signup_start"),
    ("/signup/v1.0/challenge", "signup_challenge"),
    ("/signup/v1.0/continue", "signup_continue"),
    ("/resetpassword/v1.0/start", "resetpassword_start"),
    ("/resetpassword/v1.0/challenge", "resetpassword_challenge"),
    ("/resetpassword/v1.0/continue", "resetpassword_continue"),
    ("/resetpassword/v1.0/submit", "resetpassword_submit"),
    ("/resetpassword/v1.0/poll_completion", "resetpassword_poll_completion"),
    ("/oauth2/v2.0/authorize-challenge", "authorize_challenge"),
    ("/oauth2/v2.0/authorize", "authorize"),
    ("/oauth2/v2.0/logout", "logout"),
    ("/login", "login"),
    ("/v2.0/.well-known/openid-configuration", "discovery"),
    ("/discovery/v2.0/keys", "jwks"),
)
_OTHER_PATHS: tuple[tuple[str, EndpointName], ...] = (
    ("/authorize", "authorize"),
    ("/login", "login"),
    ("/oauth/token", "token"),
    ("/oauth/revoke", "revoke"),
    ("/.well-known/openid-configuration", "discovery"),
    (_AUTHORIZATION_SERVER, "discovery"),
    ("/.well-known/jwks.json", "jwks"),
)

_AUTH0_PATHS: tuple[tuple[str, EndpointName], ...] = (
    *_OTHER_PATHS,
    ("/userinfo", "userinfo"),
    ("/oidc/logout", "logout"),
    ("/v2/logout", "logout"),
    ("/sandbox/service-provider", "service_provider"),
    ("/oauth/device/code", "device_code"),
    ("/activate", "activate"),
)
_AUTH0_PREFIXES: tuple[tuple[str, EndpointName], ...] = (
    ("/api/v2/", "management"),
    ("/samlp/", "samlp"),
    ("/wsfed/", "wsfed"),
)


def user_id(username: str) -> str:
    """Return a person's id as Auth0 spells it."""
    return f"auth0|{guid_of('user', username).replace('-', '')[:24]}"


def guid_of(*parts: str) -> str:
    """Return a GUID that is always the same for these words."""
    digest = sha256("\x1f".join(parts).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
