"""Checks the provider: asks for its metadata over the same HTTP as the agent's requests, and reads the files for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterator
from datetime import UTC, datetime

from token_relay.agents.companion.endpoints import host_not_allowed
from token_relay.agents.grants.answers import allow_host
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.provider_endpoints import advise, asked_scope, find_metadata
from token_relay.agents.phone.sign_in_advice import AGAIN, advice_about, foreseen, revocation_foreseen
from token_relay.host.atomic_files import read_bytes
from token_relay.host.client_credentials import read_credentials
from token_relay.host.config import CompanionConfig, PhoneConfig
from token_relay.host.http import AioHttp
from token_relay.pki import certificates as pki
from token_relay.protocol.errors import ConfigError, RelayError
from token_relay.provider import discovery
from token_relay.provider.http import Http
from token_relay.service.checks.broker import PEM_BYTES_MAX, dates, unreadable
from token_relay.service.checks.finding import Finding
from token_relay.service.provider_settings import account_settings

DISCOVERY_S_MAX = 15.0
ISSUERS_MAX = 4  # a companion has one or two grants; more lines than this hide the others
REGISTRATION = "a sign-in may fail: look at the registration of provider.client_id"
ANOTHER_CA = "bring the certificate of the provider's CA"


def files(config: PhoneConfig | CompanionConfig, now_s: float) -> Iterator[Finding]:
    """Judge the private CA of the provider, and the secrets and keys of the client."""
    ca = config.provider.ca
    if ca is not None:
        try:
            certificate = pki.parse_certificate(read_bytes(ca, size_max=PEM_BYTES_MAX))
        except RelayError as exc:
            yield Finding("provider ca", False, str(exc), ANOTHER_CA)
        except OSError as exc:
            yield Finding("provider ca", False, f"{ca}: {exc.strerror}", unreadable(exc, ca, ANOTHER_CA))
        else:
            yield dates("provider ca", ca, certificate, datetime.fromtimestamp(now_s, UTC), again=ANOTHER_CA)
    try:
        credentials = read_credentials(config)
    except ConfigError as exc:
        yield Finding("client", False, str(exc), exc.hint)
    else:
        if credentials:
            yield Finding("client", True, "authenticates with a secret or key of its own")


async def metadata(http: Http, settings: AccountSettings) -> list[Finding]:
    """Ask for the metadata of the phone's provider: one finding for each thing that will not work there."""
    found = await find_metadata(http, settings)
    if isinstance(found, discovery.DiscoveryFailed):
        return [_failed(f"{settings.url}: {found.reason}", await advise(http, settings, found))]
    return [Finding("provider", True, f"{found.issuer} answers"), *_foreseen(found, settings)]


def _foreseen(found: discovery.ProviderMetadata, settings: AccountSettings) -> Iterator[Finding]:
    for sentence in foreseen(found, settings, asked_scope(settings, found)):
        yield Finding("provider", True, sentence, REGISTRATION)
    if sentence := revocation_foreseen(found, settings):
        yield Finding("revocation", True, sentence, "end it in the provider's administration, when a device is lost")


async def issuers(http: Http, named: Collection[str], hosts: Collection[str]) -> list[Finding]:
    """Ask for the metadata of the issuers of a companion's grants, where the agent itself would ask."""
    if not named:
        return [Finding("provider", True, "none yet: it arrives with the grant")]
    return [await _issuer(http, url, hosts) for url in sorted(named)[:ISSUERS_MAX]]


async def _issuer(http: Http, url: str, hosts: Collection[str]) -> Finding:
    if host := host_not_allowed(url, url, hosts):
        return _failed(f"{url}: not asked, {host} is not allowed here", allow_host(host))
    found = await discovery.discover(http, url)
    if isinstance(found, discovery.DiscoveryFailed):
        return _failed(f"{url}: {found.reason}", advice_about(found, None))
    return Finding("provider", True, f"{found.issuer} answers")


async def bounded(look: Awaitable[list[Finding]]) -> list[Finding]:
    """Look within ``DISCOVERY_S_MAX``."""
    try:
        async with asyncio.timeout(DISCOVERY_S_MAX):
            return await look
    except TimeoutError:
        return [_failed(f"no answer within {DISCOVERY_S_MAX:g} s", AGAIN)]
    except ConfigError as exc:
        return [_failed(str(exc), exc.hint)]


def without_agent(config: PhoneConfig | CompanionConfig, named: Collection[str]) -> list[Finding]:
    """Ask from this process; its environment may have other CAs than the agent's."""

    async def ask() -> list[Finding]:
        route = config.http_address if isinstance(config, PhoneConfig) else None
        http = AioHttp(ca_file=config.provider.ca, route=route)
        try:
            if isinstance(config, PhoneConfig):
                return await bounded(metadata(http, account_settings(config)))
            return await bounded(issuers(http, named, config.provider.hosts))
        finally:
            await http.close()

    return asyncio.run(ask())


def _failed(detail: str, hint: str) -> Finding:
    return Finding("provider", False, detail, hint)
