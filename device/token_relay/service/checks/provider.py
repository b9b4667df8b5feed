"""Checks the provider: asks for its metadata over the same HTTP as the agent's requests, and reads the files for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.provider_endpoints import advise, asked_scope, find_metadata
from token_relay.agents.phone.sign_in_advice import advice_about, foreseen, revocation_foreseen
from token_relay.host.atomic_files import read_bytes
from token_relay.host.client_credentials import read_credentials
from token_relay.host.config import CompanionConfig, PhoneConfig
from token_relay.host.http import AioHttp
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import ConfigError, RelayError
from token_relay.provider import discovery
from token_relay.provider.http import Http
from token_relay.service.checks.broker import PEM_BYTES_MAX, dates
from token_relay.service.checks.finding import Finding
from token_relay.service.provider_settings import account_settings

DISCOVERY_S_MAX = 15.0
REGISTRATION = "a sign-in may fail: look at the registration of provider.client_id"
ANOTHER_CA = "bring the certificate of the provider's CA, and make it readable to this user"


def files(config: PhoneConfig | CompanionConfig, now_s: float) -> Iterator[Finding]:
    """Judge the private CA of the provider, and the secrets and keys of the client."""
    ca = config.provider.ca
    if ca is not None:
        try:
            certificate = pki.parse_certificate(read_bytes(ca, size_max=PEM_BYTES_MAX))
        except RelayError as exc:
            yield Finding("provider ca", False, str(exc), ANOTHER_CA)
        except OSError as exc:
            yield Finding("provider ca", False, f"{ca}: {exc.strerror}", ANOTHER_CA)
        else:
            yield dates("provider ca", ca, certificate, datetime.fromtimestamp(now_s, UTC), again=ANOTHER_CA)
    try:
        credentials = read_credentials(config)
    except ConfigError as exc:
        yield Finding("client", False, str(exc), exc.hint)
    else:
        if credentials:
            yield Finding("client", True, "authenticates with a secret or key of its own")


def metadata(config: PhoneConfig) -> list[Finding]:
    """Ask for the metadata of the phone's provider: one finding for each thing that will not work there."""

    async def look(http: Http) -> list[Finding]:
        settings = account_settings(config)
        found = await find_metadata(http, settings)
        if isinstance(found, discovery.DiscoveryFailed):
            return [_failed(f"{settings.url}: {found.reason}", await advise(http, settings, found))]
        return [Finding("provider", True, f"{found.issuer} answers"), *_foreseen(found, settings)]

    return _asked(look, config.provider.url, config.provider.ca, config.http_address)


def _foreseen(found: discovery.ProviderMetadata, settings: AccountSettings) -> Iterator[Finding]:
    for sentence in foreseen(found, settings, asked_scope(settings, found)):
        yield Finding("provider", True, sentence, REGISTRATION)
    if sentence := revocation_foreseen(found, settings):
        yield Finding("revocation", True, sentence, "end it in the provider's administration, when a device is lost")


def issuer(url: str, ca: Path | None) -> list[Finding]:
    """Ask for the metadata of the issuer of a companion's grant."""

    async def look(http: Http) -> list[Finding]:
        found = await discovery.discover(http, url)
        if isinstance(found, discovery.DiscoveryFailed):
            return [_failed(f"{url}: {found.reason}", advice_about(found, None))]
        return [Finding("provider", True, f"{found.issuer} answers")]

    return _asked(look, url, ca, None)


def _asked(
    look: Callable[[Http], Awaitable[list[Finding]]], url: str, ca: Path | None, route: tuple[str, int] | None
) -> list[Finding]:
    async def ask() -> list[Finding]:
        http = AioHttp(ca_file=ca, route=route)
        try:
            async with asyncio.timeout(DISCOVERY_S_MAX):
                return await look(http)
        finally:
            await http.close()

    try:
        return asyncio.run(ask())
    except TimeoutError:
        return [_failed(f"{url} does not answer", "is the network up?")]
    except ConfigError as exc:
        return [_failed(f"{url}: {exc}", exc.hint)]


def _failed(detail: str, hint: str) -> Finding:
    return Finding("provider", False, detail, hint)
