"""The device's own credentials as a confidential client: read from its files, added to its requests.

A request says whose it is (:class:`~token_relay.provider.http.ClientIdentity`); it gets a credential only when issuer
and client id are those of the configuration, to the letter. On a companion a phone chooses the endpoints of a grant, so
there it also has to go to the issuer's own host and port, or to those of the configured token endpoint: no grant can
aim a secret at another provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from token_relay.agents.ports import Clock, Random
from token_relay.host.config import CompanionConfig, PhoneConfig
from token_relay.host.config_file import read_first_line, read_own_text
from token_relay.host.provider_config import ClientConfig, ProviderConfig
from token_relay.protocol.errors import ConfigError
from token_relay.protocol.secret import SECRET_CHARS_MAX, ClientKey, ClientSecret
from token_relay.provider.http import (
    SECRET_METHODS,
    AnswerLost,
    ClientIdentity,
    Http,
    HttpRequest,
    HttpResponse,
    NotSent,
)
from token_relay.provider.native_auth.endpoints import entra_token_endpoint, native_base

TYPE_CHECKING = False
if TYPE_CHECKING:
    from token_relay.provider.client_authentication import ClientCredential

KEY_BYTES_MAX = SECRET_CHARS_MAX  # an RSA key of 4096 bits has some 3.3 KiB, as JWK or PEM


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a credential counts: an issuer, or a token endpoint where nobody knows the issuer beforehand (Entra)."""

    where: str
    client_id: str


Origin = tuple[str, str | None, int | None]


@dataclass(frozen=True, slots=True)
class Bound:
    """A credential, and where it may go; None: wherever the phone's own discovery says."""

    credential: ClientCredential
    origins: frozenset[Origin] | None


Credentials = Mapping[_Place, Bound]


def _origin(url: str) -> Origin:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def read_credentials(config: PhoneConfig | CompanionConfig) -> Credentials:
    """Read the secrets and keys that the configuration names.

    Raises:
        ConfigError: a file is missing, open to others, or holds no usable key.
    """
    found: dict[_Place, Bound] = {}
    sections = [config.provider] if isinstance(config, PhoneConfig) else config.client
    for section in sections:
        credential = _read(section)
        if credential is not None:
            bound = Bound(credential, _origins(section))
            found |= {place: bound for place in _places(section)}
    return found


def _origins(section: ProviderConfig | ClientConfig) -> frozenset[Origin] | None:
    if isinstance(section, ProviderConfig):
        return None
    return frozenset(map(_origin, filter(None, (section.issuer, section.token_endpoint))))


def _places(section: ProviderConfig | ClientConfig) -> list[_Place]:
    if isinstance(section, ClientConfig):
        return [_Place(section.issuer, section.client_id)]
    if section.resolved_profile.name == "entra":
        endpoint = section.token_endpoint or entra_token_endpoint(native_base(section.url, section.tenant))
        return [_Place(endpoint, section.client_id)]
    return [_Place(section.url, section.client_id)]


def _read(section: ProviderConfig | ClientConfig) -> ClientCredential | None:
    method = section.token_endpoint_auth_method
    if method == "none":
        return None
    from token_relay.provider.client_authentication import ByKey, BySecret  # joserfc costs start-up time and memory

    if method in SECRET_METHODS:
        assert section.client_secret_file is not None, "checked when the configuration was read"
        secret = ClientSecret(read_first_line(section.client_secret_file, "client secret"))
        return BySecret(secret, is_basic=method == "client_secret_basic")
    assert section.client_key_file is not None, "checked when the configuration was read"
    return ByKey(read_client_key(section.client_key_file))


def read_client_key(path: Path) -> ClientKey:
    """Read and try a client's private key. Raises ConfigError: it cannot be used; nothing of it is said."""
    from token_relay.provider.client_authentication import key_problem

    text = read_own_text(path, KEY_BYTES_MAX, what="client key", forbidden=0o027)
    if not text.strip():
        raise ConfigError(f"{path}: client key is empty")
    key = ClientKey(text)
    if problem := key_problem(key):
        raise ConfigError(f"{path}: client key {problem}", hint="a JWK, or PEM: openssl genpkey -algorithm ed25519")
    return key


class AuthenticatedHttp:
    """The Http port with the client's proof on each request of a client that has one."""

    def __init__(self, http: Http, read: Callable[[], Credentials], *, clock: Clock, random: Random) -> None:
        """Read the credentials. Raises ConfigError, as :func:`read_credentials`."""
        self._http = http
        self._read = read
        self._clock = clock
        self._random = random
        self._credentials = read()

    def reload(self) -> None:
        """Read the credentials anew; when that fails, the former stay. Raises ConfigError."""
        self._credentials = self._read()

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        """Send one request, as the port below does."""
        credential = self._find(request.client, request.url)
        if credential is None or request.client is None:
            return await self._http.request(request)
        from token_relay.provider.client_authentication import authenticate

        now_wall_s, jti = self._clock.now().wall_s, self._random.bytes(16).hex()
        # In a thread: an RSA signature takes a noticeable part of a second on slow hardware.
        proven = await asyncio.to_thread(
            authenticate, request, request.client, credential, now_wall_s=now_wall_s, jti=jti
        )
        return await self._http.request(proven)

    def _find(self, client: ClientIdentity | None, url: str) -> ClientCredential | None:
        if client is None:
            return None
        by_issuer = self._credentials.get(_Place(client.issuer, client.client_id))
        found = by_issuer or self._credentials.get(_Place(client.token_endpoint, client.client_id))
        if found is None or (found.origins is not None and _origin(url) not in found.origins):
            return None
        return found.credential
