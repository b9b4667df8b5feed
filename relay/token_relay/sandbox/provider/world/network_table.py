"""Where an address is: its autonomous system and geography, from a table that a person wrote.

One table serves device binding, Actions and logs, so all three see the same world. On the loopback interface the
client's address comes from the first entry of ``X-Forwarded-For``, so a test can place a client elsewhere. From any
other peer the header is ignored. The longest prefix that holds an address counts; an address in no prefix has no
system and no geography.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.world.model import line_of, problems_of

TABLE_BYTES_MAX = 1_048_576
NETWORKS_MAX = 10_000
_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
_Text = Annotated[str, StringConstraints(max_length=100)]


class Geography(BaseModel):
    """Geography of an address, in the spelling of ``event.request.geoip``."""

    model_config = _CLOSED
    cityName: _Text | None = None
    continentCode: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    countryCode: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    countryCode3: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    countryName: _Text | None = None
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = None
    subdivisionCode: _Text | None = None
    subdivisionName: _Text | None = None
    timeZone: _Text | None = None


class NetworkModel(BaseModel):
    """One row, which covers every address of ``prefix``."""

    model_config = _CLOSED
    prefix: str
    asn: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    geoip: Geography = Geography()

    @field_validator("prefix")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        try:
            return str(ip_network(value))
        except ValueError:
            raise ValueError("an address block such as 203.0.113.0/24 is wanted") from None


class _Table(BaseModel):
    model_config = _CLOSED
    networks: Annotated[list[NetworkModel], Field(max_length=NETWORKS_MAX)] = []


@dataclass(frozen=True, slots=True)
class Location:
    """Where a request came from. ``asn`` and ``geoip`` are empty if the table does not know the address."""

    ip: str
    user_agent: str = ""
    asn: int | None = None
    geoip: Mapping[str, JsonValue] = field(default_factory=dict)

    def as_json(self) -> dict[str, JsonValue]:
        """Return it as Actions see a request's origin."""
        shown: dict[str, JsonValue] = {"ip": self.ip, "geoip": dict(self.geoip)}
        if self.asn is not None:
            shown["asn"] = str(self.asn)
        if self.user_agent:
            shown["user_agent"] = self.user_agent
        return shown


class NetworkTable:
    """Maps an address to its :class:`Location`."""

    def __init__(self, networks: list[NetworkModel] | None = None) -> None:
        rows: list[tuple[IPv4Network | IPv6Network, NetworkModel]] = [
            (ip_network(one.prefix), one) for one in networks or []
        ]
        self._rows = sorted(rows, key=lambda row: -row[0].prefixlen)

    def place(self, ip: str, user_agent: str = "") -> Location:
        """Return the location of an address; for other texts, one without system and geography."""
        address = _address(ip)
        if address is not None:
            for network, row in self._rows:
                if address in network:
                    return Location(ip, user_agent, row.asn, row.geoip.model_dump(exclude_none=True))
        return Location(ip, user_agent)


def parse_network_table(text: str, *, file: str) -> NetworkTable:
    """Read a table.

    Raises:
        ConfigError: it names ``file``, the line and the key.
    """
    if len(text) > TABLE_BYTES_MAX:
        raise ConfigError(f"{file}: longer than {TABLE_BYTES_MAX} characters")
    try:
        found = tomllib.loads(text)
        table = _Table.model_validate(found)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"{file}: not TOML: {exc}") from exc
    except ValidationError as exc:
        line = line_of(text, tuple(exc.errors(include_input=False, include_url=False)[0]["loc"]))
        raise ConfigError(f"{file}:{line}: {problems_of(exc)}") from None
    return NetworkTable(table.networks)


def client_address(peer: str, forwarded_for: str) -> str:
    """Return the client's address; without a peer, as in a simulation, the peer counts as the loopback address."""
    near = _address(peer) if peer else ip_address("127.0.0.1")
    if near is not None and near.is_loopback:
        told = _address(forwarded_for.partition(",")[0].strip())
        if told is not None:
            return str(told)
    return str(near) if near is not None else peer


def address_of(text: str) -> str:
    """Return an address in its usual spelling, or an empty string."""
    address = _address(text)
    return "" if address is None else str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
