"""What a person may set, checked once, at the edge.

An agent's configuration is one TOML file. The models below are its only description: the template that
``init`` writes (:mod:`token_relay.host.config_template`), the table of settings in the documentation and the checks all
come from their fields, so a setting cannot exist without an explanation. How a file is read: :mod:`.config_file`.
Pure.

Invariants: no secret stands in the file (a password or passphrase has a file of its own, and the setting is its path);
a setting that would send a password or a token request over a network in clear is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from token_relay.protocol.handoff import Strategy
from token_relay.provider.http import is_loopback
from token_relay.provider.profile import PROFILES, Profile, ProfileName, profile_for

Kind = Literal["phone", "companion"]

LEASE_DAYS_DEFAULT = 90  # one season without a word from the phone
SCOPE_DEFAULT = "openid profile offline_access"
MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}  # IANA service names mqtt and secure-mqtt
IDLE_DAYS = (
    "After how many days without use the provider ends a grant, when the provider does not tell: 1 to 3650. The agent "
    "refreshes before that. Without it, what the profile knows."
)
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*", re.ASCII)  # RFC 6749 §3.3
_TENANT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)


# -- Values ------------------------------------------------------------------------------------------------


def _split(url: str) -> SplitResult:
    """Split a URL and read its port, so that every fault is a ValueError in plain words."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be a URL of printable ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is not a valid URL: check host and port") from None
    if not parts.hostname or port == 0:
        raise ValueError("has no usable host or port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user name or password")
    return parts


def _broker_url(url: str) -> str:
    parts = _split(url)
    if parts.scheme not in MQTT_PORTS:
        raise ValueError("must begin with mqtts:// or mqtt://")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must end after host and port, as in mqtts://broker.example:8883")
    return url


def _provider_url(url: str) -> str:
    parts = _split(url)
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return url
    if parts.scheme == "http":
        raise ValueError(
            "plain http is refused except to this machine: refresh tokens would cross the network in clear"
        )
    raise ValueError("must begin with https://")


def _scope(scope: str) -> str:
    if not _SCOPE.fullmatch(scope):
        raise ValueError("must be words of printable ASCII, each pair separated by one space")
    if "offline_access" not in scope.split(" "):
        raise ValueError("must contain offline_access: without it the provider gives no refresh token to hand over")
    return scope


def _tenant(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant):
        raise ValueError("must be a tenant's name, domain or id: letters, digits, dots and hyphens")
    return tenant


def _name(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise ValueError("must be printable and without spaces at its ends")
    return name


def _path(value: object, info: ValidationInfo) -> object:
    """Make a path; a relative one starts at the directory of the configuration file."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("must be the path of a file")
    if value.startswith("~"):
        raise ValueError("must not begin with ~: write the whole path, or one relative to this file")
    context = info.context
    base = context.get("base") if isinstance(context, dict) else None
    return base / value if isinstance(base, Path) else Path(value)


def _route(route: str) -> str:
    try:
        parts = urlsplit(f"//{route}")
        is_right = parts.hostname is not None and bool(parts.port) and parts.netloc == route and not parts.username
    except ValueError:
        is_right = False
    if not is_right:
        raise ValueError("must be HOST:PORT, as in 127.0.0.1:8401")
    if not is_loopback(parts.hostname or ""):
        raise ValueError("must be on this machine: what goes there may be plain http")
    return route


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


Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_name)]
IdleDays = Annotated[int, Field(ge=1, le=3650)] | None
ProviderHost = Annotated[str, Field(max_length=255), AfterValidator(_provider_host)]
FilePath = Annotated[Path, BeforeValidator(_path)]


# -- Settings ----------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A table of the file. It is frozen, accepts no unknown key, and keeps wrong input out of its errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class BrokerConfig(Section):
    """Where the MQTT broker is and how this device proves its identity there. OASIS MQTT 5.0, RFC 8446."""

    url: Annotated[str, Field(max_length=512), AfterValidator(_broker_url)] = Field(
        description="The broker: mqtts://HOST:PORT, or mqtt://HOST:PORT without TLS. Envelopes are sealed end to end "
        "either way; without TLS everybody on the network sees which device sends when."
    )
    protocol: Literal["5", "3.1.1"] = Field(
        default="5", description='MQTT version, "5" or "3.1.1" (clustered brokers that keep sessions speak only 3.1.1).'
    )
    username: Text | None = Field(
        default=None, description="User name at the broker, where it does not use certificates."
    )
    password_file: FilePath | None = Field(
        default=None,
        description="File with the password for username: first line, readable by the agent's user only. "
        "Refused together with mqtt:// to another machine.",
    )
    ca: FilePath | None = Field(
        default=None,
        description="Certificate of the CA that the broker must be signed by; without it, the system's CAs.",
    )
    cert: FilePath | None = Field(
        default=None, description="This device's certificate, made by `token-relay certs sign` from device.csr."
    )
    key: FilePath | None = Field(default=None, description="Private key of cert, made by `init` as device.key.")

    @property
    def host(self) -> str:
        """The broker's host name or address, without brackets; a zone is spelled as the system does, %eth0."""
        return (urlsplit(self.url).hostname or "").replace("%25", "%")  # RFC 6874 §2

    @property
    def port(self) -> int:
        """The broker's TCP port; 8883 or 1883 where the URL says none."""
        parts = urlsplit(self.url)
        return parts.port or MQTT_PORTS[parts.scheme]

    @property
    def use_tls(self) -> bool:
        """Whether the URL says mqtts."""
        return urlsplit(self.url).scheme == "mqtts"

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together: set both or neither")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs username")
        if not self.use_tls and (self.ca or self.cert):
            raise ValueError("ca, cert and key need a url with mqtts://")
        if self.password_file is not None and not self.use_tls and not is_loopback(self.host):
            raise ValueError("a password is not sent over mqtt:// to another machine: use mqtts://")
        return self


class ProviderConfig(Section):
    """The identity provider at which the person signs in. RFC 6749, OpenID Connect Discovery 1.0."""

    url: Annotated[str, Field(max_length=512), AfterValidator(_provider_url)] = Field(
        description="The provider's issuer URL, such as https://contoso.ciamlogin.com or "
        "https://example.eu.auth0.com/. https, except to this machine."
    )
    client_id: Text = Field(
        description="The application's client id at the provider (a public client; no secret is used)."
    )
    profile: ProfileName | None = Field(
        default=None,
        description="What the provider does with refresh tokens: entra, auth0, strict, or another profile that the "
        "sandbox knows. Without it, guessed from url; an unknown provider counts as strict.",
    )
    tenant: Annotated[str, AfterValidator(_tenant)] | None = Field(
        default=None, description="Entra only: the tenant, such as contoso. Without it, taken from url."
    )
    scope: Annotated[str, Field(max_length=1024), AfterValidator(_scope)] = Field(
        default=SCOPE_DEFAULT,
        description="What the person is asked to grant, separated by spaces; must contain offline_access.",
    )

    audience: Text | None = Field(
        default=None,
        description="Auth0 and the like: the API that access tokens are for. Sent with a browser sign-in only.",
    )
    idle_days: IdleDays = Field(default=None, description=IDLE_DAYS)

    @property
    def resolved_profile(self) -> Profile:
        """The profile that is set, or the one guessed from the URL."""
        return PROFILES[self.profile] if self.profile else profile_for(self.url)


class HandoffConfig(Section):
    """How the phone gives a grant to a companion, unless the command says otherwise."""

    strategy: Strategy | None = Field(
        default=None,
        description="branch, mint or move. Without it, the profile's safe choice; one that the profile does not "
        "allow is refused.",
    )
    lease_days: int = Field(
        default=LEASE_DAYS_DEFAULT,
        ge=0,
        le=365,
        description="Days a companion may go on without a fresh word from this phone: 1 to 365, or 0 for no limit.",
    )


class VaultConfig(Section):
    """Where the key of the vault comes from; at most one is set. Without any: vault.key in the home."""

    key_file: FilePath | None = Field(
        default=None,
        description="File of 32 random bytes, mode 0600. For development: whoever copies the disk has vault and key.",
    )
    passphrase_file: FilePath | None = Field(
        default=None, description="File with a passphrase that the key is derived from (Argon2id)."
    )
    credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")] | None = Field(
        default=None,
        description="Name of a systemd credential (LoadCredentialEncrypted=), the choice for real hardware.",
    )

    @model_validator(mode="after")
    def _only_one(self) -> Self:
        if sum(source is not None for source in (self.key_file, self.passphrase_file, self.credential)) > 1:
            raise ValueError("set only one of key_file, passphrase_file and credential")
        return self


class TokenApiConfig(Section):
    """Which local programs may ask this agent for access tokens."""

    policy_file: FilePath | None = Field(
        default=None,
        description="TOML file of [[allow]] entries by uid or gid. Without it: this agent's own user and root only.",
    )


class AgentConfig(Section):
    """The settings that both agents have."""

    name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_name)] = Field(
        description="This device's name, as the person at the other device reads it. Up to 64 characters."
    )
    http_route: Annotated[str, Field(max_length=255), AfterValidator(_route)] | None = Field(
        default=None,
        description="For tests: HOST:PORT on this machine that connections to the provider go to, such as a link that "
        "the sandbox can cut. URLs, issuer and the name in the certificate stay the provider's own.",
    )
    broker: BrokerConfig = Field(description="Where the MQTT broker is and how this device proves its identity there.")
    vault: VaultConfig = Field(
        default_factory=VaultConfig,
        description="Where the key of the vault comes from; at most one of these. Without any: vault.key in the home. "
        "Chosen at init; `token-relay vault rekey` changes it.",
    )
    token_api: TokenApiConfig = Field(
        default_factory=TokenApiConfig, description="Which local programs may ask this agent for access tokens."
    )

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of http_route."""
        if self.http_route is None:
            return None
        parts = urlsplit(f"//{self.http_route}")
        assert parts.hostname is not None and parts.port is not None, "checked when it was read"
        return parts.hostname, parts.port

    def warnings(self) -> tuple[str, ...]:
        """Return one sentence for each setting that is allowed but has a risk."""
        if not self.broker.use_tls and not is_loopback(self.broker.host):
            return ("the broker is reached without TLS: envelopes stay sealed, but which device sends when is visible",)
        return ()


class PhoneConfig(AgentConfig):
    """Configuration of the phone's agent."""

    allow_refresh_token_access: bool = Field(
        default=False,
        description="Whether refresh tokens may leave the account at all: the application's opt-in. `phone handoff` "
        "is refused without it.",
    )
    provider: ProviderConfig = Field(description="The identity provider at which the person signs in.")
    handoff: HandoffConfig = Field(
        default_factory=HandoffConfig, description="What `phone handoff` does where its options say nothing."
    )

    @model_validator(mode="after")
    def _strategy_is_safe(self) -> Self:
        profile, strategy = self.provider.resolved_profile, self.handoff.strategy
        if strategy is not None and strategy not in profile.strategies:
            raise ValueError(
                f"handoff.strategy: {strategy} is not safe with profile {profile.name}, which allows "
                + ", ".join(profile.strategies)
            )
        return self


class GrantProviderConfig(Section):
    """What a companion may know of its provider beyond what arrives with the grant."""

    idle_days: IdleDays = Field(default=None, description=IDLE_DAYS)
    hosts: Annotated[list[ProviderHost], Field(max_length=64)] = Field(
        default=[],
        description="Hosts, each HOST or HOST:PORT, that a phone's grant may send this device to, beside its issuer's "
        "own host and those that the issuer's discovery names. This machine itself (127.0.0.1, localhost) is refused "
        "unless it stands here. Read anew at a reload.",
    )


class CompanionConfig(AgentConfig):
    """Configuration of the companion's agent; its provider and scope arrive with the grant."""

    provider: GrantProviderConfig = Field(
        default_factory=GrantProviderConfig,
        description="What this device may know of the provider; its address and scope arrive with the grant.",
    )


@dataclass(frozen=True, slots=True)
class Home:
    """An agent's directory (0700) and the directory of its sockets, as the command line found them.

    ``environment`` holds the variables of the service manager that the agent may read: NOTIFY_SOCKET, LISTEN_FDS,
    CREDENTIALS_DIRECTORY. ``config_file`` is where the configuration was read. ``board`` names this device
    (:mod:`token_relay.host.board`); when it is empty, nothing is compared.
    """

    directory: Path
    sockets: Path
    environment: Mapping[str, str]
    board: Mapping[str, str] = dataclass_field(default_factory=dict)
    config_file: Path | None = None


MODELS: dict[Kind, type[PhoneConfig] | type[CompanionConfig]] = {"phone": PhoneConfig, "companion": CompanionConfig}


def settings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield every setting as (dotted key, description), in the order of the template."""
    tables = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            tables.append((name, field.annotation))
        else:
            yield name, field.description or ""
    for name, table in tables:
        for key, description in settings(table):
            yield f"{name}.{key}", description
