"""What a person may set, checked once, at the edge.

An agent's configuration is one TOML file. The models below are its only description: the template that
``init`` writes (:mod:`token_relay.host.config_template`), the table of settings in the documentation and the checks all
come from their fields, so a setting cannot exist without an explanation. How a file is read: :mod:`.config_file`.
Pure.

Invariants: no secret stands in the file (a password or passphrase has a file of its own, and the setting is its path);
a setting that would send a password or a token request over a network in clear is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, model_validator

from token_relay.host.config_values import FilePath, Section, Text, printable_name, split_url, table_of
from token_relay.host.provider_config import ClientConfig, GrantProviderConfig, ProviderConfig
from token_relay.protocol.handoff import Strategy
from token_relay.provider.http import is_loopback

Kind = Literal["phone", "companion"]

CLIENTS_MAX = 16  # a companion has grants of one or two
LEASE_DAYS_DEFAULT = 90  # one season without a word from the phone
MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}  # IANA service names mqtt and secure-mqtt


# -- Values ------------------------------------------------------------------------------------------------


def _broker_url(url: str) -> str:
    parts = split_url(url)
    if parts.scheme not in MQTT_PORTS:
        raise ValueError("must begin with mqtts:// or mqtt://")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must end after host and port, as in mqtts://broker.example:8883")
    return url


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


# -- Settings ----------------------------------------------------------------------------------------------


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

    name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(printable_name)] = Field(
        description="This device's name, as the person at the other device reads it. Up to 64 characters. A change is "
        "a new name from the next start on; so is `companion rename`, and the last one counts."
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

    def warnings(self) -> tuple[str, ...]:
        """Return one sentence for each setting that is allowed but has a risk."""
        return (*super().warnings(), *self.provider.warnings())

    @model_validator(mode="after")
    def _strategy_is_safe(self) -> Self:
        profile, strategy = self.provider.resolved_profile, self.handoff.strategy
        if strategy is not None and strategy not in profile.strategies:
            raise ValueError(
                f"handoff.strategy: {strategy} is not safe with profile {profile.name}, which allows "
                + ", ".join(profile.strategies)
            )
        return self


class CompanionConfig(AgentConfig):
    """Configuration of the companion's agent; its provider and scope arrive with the grant."""

    provider: GrantProviderConfig = Field(
        default_factory=GrantProviderConfig,
        description="What this device may know of the provider; its address and scope arrive with the grant.",
    )
    client: Annotated[list[ClientConfig], Field(max_length=CLIENTS_MAX)] = Field(
        default=[],
        description="A confidential client at a provider: this device's own secret or key, which no grant brings. One "
        "such table for each.",
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
        table, _ = table_of(field.annotation)
        if table is not None:
            tables.append((name, table))
        else:
            yield name, field.description or ""
    for name, table in tables:
        for key, description in settings(table):
            yield f"{name}.{key}", description
