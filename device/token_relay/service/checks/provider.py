"""Checks the identity provider: asks for its metadata over the same HTTP as the agent's requests."""

from __future__ import annotations

import asyncio

from token_relay.agents.phone.sign_in_advice import advice_about, foreseen
from token_relay.host.config import ProviderConfig
from token_relay.host.http import AioHttp
from token_relay.provider import oauth
from token_relay.provider.native_auth.endpoints import discover_entra, native_base
from token_relay.service.checks.finding import Finding

DISCOVERY_S_MAX = 15.0


def discovery(url: str, config: ProviderConfig | None = None) -> Finding:
    """Ask for the provider's metadata: with the phone's settings if given, else by the issuer of a grant."""
    name = "provider"
    try:
        found = asyncio.run(_discover(url, config))
    except TimeoutError:
        return Finding(name, False, f"{url} does not answer", "is the network up?")
    profile = config.resolved_profile if config is not None else None
    if isinstance(found, oauth.DiscoveryFailed):
        return Finding(name, False, f"{url}: {found.reason}", advice_about(found, profile))
    notes = foreseen(found, config.scope, profile) if config is not None and profile is not None else []
    hint = "a sign-in may fail: look at the registration of provider.client_id" if notes else ""
    return Finding(name, True, "; ".join((f"{found.issuer} answers", *notes)), hint)


async def _discover(url: str, config: ProviderConfig | None) -> oauth.ProviderMetadata | oauth.DiscoveryFailed:
    http = AioHttp()
    try:
        async with asyncio.timeout(DISCOVERY_S_MAX):
            if config is not None and config.resolved_profile.name == "entra":
                base = native_base(config.url, config.tenant)
                return await discover_entra(http, base)
            return await oauth.discover(http, url)
    finally:
        await http.close()
