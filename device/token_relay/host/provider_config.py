"""What a person may set about the identity provider, and about the client that this device is there. Pure.

Invariants: no secret stands in the file; what the program itself must decide in an authorization request (``state``,
``code_challenge``, ``redirect_uri`` and the like) cannot be set; endpoints by hand obey the rules of discovered ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from token_relay.host.config_values import (
    IDLE_DAYS,
    PROVIDER_CA,
    Endpoint,
    FilePath,
    IdleDays,
    Section,
    Text,
    split_url,
)
from token_relay.host.provider_behaviour import BehaviourSettings, ProfileFromFile
from token_relay.protocol.behaviour import Behaviour
from token_relay.provider.authorization import OWN_PARAMETERS
from token_relay.provider.http import KEY_METHODS, SECRET_METHODS, AuthMethod, is_loopback
from token_relay.provider.profile import PROFILES, STRICT, Profile, ProfileName, profile_for

SCOPE_DEFAULT = "openid profile offline_access"
PORTS_MAX = 16  # a person registers each at the provider
PARAMETERS_MAX = 32
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*", re.ASCII)  # RFC 6749 §3.3
_TENANT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_PROMPT = re.compile(r"[a-z_]{1,32}( [a-z_]{1,32}){0,7}", re.ASCII)
_REDIRECT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+/?|/", re.ASCII)
_PARAMETER = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
# Providers whose refresh tokens do not depend on the word offline_access.
_WITHOUT_OFFLINE_ACCESS = frozenset({"google", "cognito"})


def _provider_url(url: str) -> str:
    parts = split_url(url)
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return url
    if parts.scheme == "http":
        raise ValueError(
            "plain http is refused except to this machine: refresh tokens would cross the network in clear; "
            f"write https{url.removeprefix('http')}"
        )
    raise ValueError("must begin with https://")


def _scope(scope: str) -> str:
    if not _SCOPE.fullmatch(scope):
        raise ValueError("must be words of printable ASCII, each pair separated by one space")
    return scope


def _tenant(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant):
        raise ValueError("must be a tenant's name, domain or id: letters, digits, dots and hyphens")
    return tenant


def _provider_host(entry: str) -> str:
    try:
        parts = urlsplit(f"//{entry}")
        is_right = parts.netloc == entry == entry.lower() and bool(parts.hostname) and parts.username is None
        is_right = is_right and parts.port != 0 and not entry.endswith(":")
    except ValueError:
        is_right = False
    if not is_right or not entry.isascii() or not entry.isprintable() or " " in entry:
        raise ValueError("must hold hosts in small letters, each HOST or HOST:PORT, as in login.example or [::1]:8400")
    return entry


def _prompt(prompt: str) -> str:
    words = prompt.split(" ")
    if not _PROMPT.fullmatch(prompt) or ("none" in words and len(words) > 1):
        raise ValueError("must be words such as consent or login, separated by one space, or none alone")
    return prompt


def _redirect_path(path: str) -> str:
    if not _REDIRECT_PATH.fullmatch(path):
        raise ValueError("must begin with / and hold letters, digits and . _ ~ - only, as in /callback")
    return path


def _ports(ports: list[int]) -> list[int]:
    if len(set(ports)) < len(ports):
        raise ValueError("names a port twice")
    return ports


def _parameters(parameters: dict[str, str]) -> dict[str, str]:
    for name, value in parameters.items():
        if name in OWN_PARAMETERS:
            raise ValueError(f"{name} is set by this program; see the other settings of the provider")
        if not _PARAMETER.fullmatch(name) or not value.isprintable():
            raise ValueError("names are letters, digits and _ . : - (64 at most), values are printable")
    return parameters


ProviderHost = Annotated[str, Field(max_length=255), AfterValidator(_provider_host)]
METHOD: AuthMethod = Field(
    default="none",
    description="How this client authenticates: none (a public client), client_secret_basic, client_secret_post or "
    "private_key_jwt.",
)
SECRET_FILE: Path | None = Field(
    default=None,
    description="File with the client's secret: first line, readable by the agent's user only. Read at a start and a "
    "reload.",
)
KEY_FILE: Path | None = Field(
    default=None,
    description="For private_key_jwt: file with the client's private key, readable by the agent's user only; a JWK "
    "(its kid and alg are used) or PEM. RSA, P-256, P-384, P-521 or Ed25519. Read at a start and a reload.",
)


class ClientSection(Section):
    """A table that says how a client authenticates. RFC 6749 §2.3, OpenID Connect Core §9."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        found = dict(self)
        method = str(found["token_endpoint_auth_method"])
        for name, methods in (("client_secret_file", SECRET_METHODS), ("client_key_file", KEY_METHODS)):
            is_there = found[name] is not None
            if is_there and method not in methods:
                raise ValueError(f"{name} needs token_endpoint_auth_method {' or '.join(methods)}")
            if method in methods and not is_there:
                raise ValueError(f"token_endpoint_auth_method {method} needs {name}")
        return self


class ProviderConfig(ClientSection):
    """The identity provider at which the person signs in. RFC 6749, OpenID Connect Discovery 1.0."""

    url: Annotated[str, Field(max_length=512), AfterValidator(_provider_url)] = Field(
        description="The provider's issuer URL, such as https://contoso.ciamlogin.com or "
        "https://example.eu.auth0.com/. https, except to this machine."
    )
    client_id: Text = Field(description="The application's client id at the provider.")
    companion_client_id: Text | None = Field(
        default=None,
        description="Another client id there, of a public client, for what companions get by mint. Where the provider "
        "ends the grants of one session and client together, it keeps this phone's out of that, no other companion's.",
    )
    token_endpoint_auth_method: AuthMethod = METHOD
    client_secret_file: FilePath | None = SECRET_FILE
    client_key_file: FilePath | None = KEY_FILE
    profile: ProfileName | None = Field(
        default=None,
        description="What the provider does with refresh tokens: entra, auth0, strict, or another profile that the "
        "sandbox knows. Without it, guessed from url; an unknown provider counts as strict.",
    )
    profile_file: ProfileFromFile | None = Field(
        default=None,
        description="File that describes the provider, as `token-relay provider probe --write` makes it: what it says "
        "counts before the profile. Read at a start.",
    )
    tenant: Annotated[str, AfterValidator(_tenant)] | None = Field(
        default=None, description="Entra only: the tenant, such as contoso. Without it, taken from url."
    )
    scope: Annotated[str, Field(max_length=1024), AfterValidator(_scope)] = Field(
        default=SCOPE_DEFAULT,
        description="What the person is asked to grant, separated by spaces. offline_access in it asks for a refresh "
        "token; it is left out where the provider lists its scopes without it.",
    )
    prompt: Annotated[str, AfterValidator(_prompt)] | None = Field(
        default=None,
        description="What the sign-in page must ask again, such as consent or login; none sends no prompt. Without it, "
        "consent whenever offline_access is asked for, except with profiles entra and auth0, "
        "which do without.",
    )
    audience: Text | None = Field(
        default=None,
        description="Auth0 and the like: the API that access tokens are for. Sent with a browser sign-in only.",
    )
    resource: Endpoint | None = Field(
        default=None,
        description="The API that access tokens are for, as a URL, where the provider takes resource (RFC 8707). Sent "
        "with a browser sign-in and each refresh, the companions' too. Not together with audience.",
    )
    authorization_parameters: Annotated[
        dict[str, Annotated[str, Field(max_length=512)]],
        Field(max_length=PARAMETERS_MAX),
        AfterValidator(_parameters),
    ] = Field(
        default={},
        description='More parameters for the sign-in page, as in { access_type = "offline" }: 32 at most, none of '
        "those that this program sets itself.",
    )
    redirect_ports: Annotated[
        list[Annotated[int, Field(ge=1, le=65535)]], Field(max_length=PORTS_MAX), AfterValidator(_ports)
    ] = Field(
        default=[],
        description="Ports of this machine that the browser may come back to, tried in this order, for providers that "
        "compare the whole redirect URI; register http://127.0.0.1:PORT/callback for each. Without it, a random port.",
    )
    redirect_path: Annotated[str, Field(max_length=128), AfterValidator(_redirect_path)] = Field(
        default="/callback", description="The path of the redirect URI, as it is registered at the provider."
    )
    discovery: bool = Field(
        default=True,
        description="Whether to read the provider's metadata. false needs authorization_endpoint and token_endpoint. "
        "With those two given, a provider without metadata is taken as it is.",
    )
    authorization_endpoint: Endpoint | None = Field(
        default=None, description="Where a browser signs in; instead of what the metadata says. https, as all of these."
    )
    token_endpoint: Endpoint | None = Field(
        default=None, description="Where tokens come from; instead of what the metadata says."
    )
    revocation_endpoint: Endpoint | None = Field(
        default=None,
        description="Where tokens are revoked (RFC 7009), for a provider that does not list it.",
    )
    userinfo_endpoint: Endpoint | None = Field(
        default=None, description="Where the account's name is asked for when the id_token does not tell it."
    )
    jwks_uri: Endpoint | None = Field(default=None, description="Where the keys are that sign id_tokens.")
    device_authorization_endpoint: Endpoint | None = Field(
        default=None, description="Where a device code is asked for (RFC 8628); no strategy uses it yet."
    )
    ca: FilePath | None = Field(default=None, description=PROVIDER_CA)
    idle_days: IdleDays = Field(default=None, description=IDLE_DAYS)
    behaviour: BehaviourSettings = Field(
        default_factory=BehaviourSettings,
        description="What the provider does with refresh tokens, where it is known better than profile and "
        "profile_file say; `token-relay provider show` prints what holds. It travels with each grant.",
    )

    @property
    def base_profile(self) -> Profile:
        """The profile that is named, or the one guessed from the URL."""
        return PROFILES[self.profile] if self.profile else profile_for(self.url)

    @property
    def resolved_profile(self) -> Profile:
        """What holds: what the settings say, over the profile file, over the named or guessed profile."""
        described = self.profile_file.over(self.base_profile) if self.profile_file else self.base_profile
        return self.behaviour.over(described)

    def behaviour_sources(self) -> dict[str, str]:
        """Return where each value of the behaviour comes from."""
        if self.profile:
            beneath = f"profile {self.profile}"
        else:
            beneath = f"profile {self.base_profile.name}, guessed" if self.base_profile is not STRICT else "default"
        in_file = self.profile_file.said if self.profile_file else {}
        return {
            name: "config" if name in self.behaviour.said else "file" if name in in_file else beneath
            for name in Behaviour.model_fields
        }

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        _ = self.resolved_profile  # raises where the descriptions do not fit together
        if self.audience is not None and self.resource is not None:
            raise ValueError("audience and resource name the same thing: set the one that the provider takes")
        if not self.discovery and (self.authorization_endpoint is None or self.token_endpoint is None):
            raise ValueError("discovery = false needs authorization_endpoint and token_endpoint")
        return self

    def warnings(self) -> tuple[str, ...]:
        """Return one sentence for each setting that is allowed but has a risk."""
        if "offline_access" in self.scope.split() or self.resolved_profile.name in _WITHOUT_OFFLINE_ACCESS:
            return ()
        return ("provider.scope is without offline_access: many providers then give no refresh token to hand over",)


class GrantProviderConfig(Section):
    """What a companion may know of its provider beyond what arrives with the grant."""

    idle_days: IdleDays = Field(default=None, description=IDLE_DAYS)
    hosts: Annotated[list[ProviderHost], Field(max_length=64)] = Field(
        default=[],
        description="Hosts, each HOST or HOST:PORT, that a phone's grant may send this device to, beside its issuer's "
        "own host and those that the issuer's discovery names. This machine itself (127.0.0.1, localhost) is refused "
        "unless it stands here. Read anew at a reload.",
    )
    ca: FilePath | None = Field(default=None, description=PROVIDER_CA)


class ClientConfig(ClientSection):
    """A confidential client that this companion is at a provider; no grant brings a secret or a key."""

    issuer: Annotated[str, Field(max_length=512), AfterValidator(_provider_url)] = Field(
        description="The provider's issuer, to the letter as `companion status` shows it."
    )
    client_id: Text = Field(description="The client id of the grants for which this device authenticates.")
    token_endpoint: Annotated[str, Field(max_length=512), AfterValidator(_provider_url)] | None = Field(
        default=None,
        description="Where the secret or proof may go beside the issuer's own host: a token endpoint elsewhere.",
    )
    token_endpoint_auth_method: AuthMethod = METHOD
    client_secret_file: FilePath | None = SECRET_FILE
    client_key_file: FilePath | None = KEY_FILE
