"""The provider's endpoints as a phone sees them: its metadata, and what the person's settings say over it.

What a sign-in asks for follows from both: see :func:`asked_scope` and :func:`asked_prompt`.
"""

from __future__ import annotations

from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.sign_in_advice import advice_about
from token_relay.protocol.errors import ConfigError, TransientError
from token_relay.provider import discovery
from token_relay.provider.http import Http
from token_relay.provider.issuer_search import find_issuer
from token_relay.provider.native_auth.endpoints import discover_entra, native_base

OFFLINE_ACCESS = "offline_access"
# Providers known to give offline access without prompt=consent. At Entra it does harm: people of an external tenant
# cannot consent, their administrator does. At Auth0 it shows one more page, each time.
CONSENT_IS_NOT_NEEDED = frozenset({"entra", "auth0"})


async def find_metadata(
    http: Http, settings: AccountSettings
) -> discovery.ProviderMetadata | discovery.DiscoveryFailed:
    """Return the metadata with the endpoints that were given by hand, or why there is none.

    A provider without a document is taken as it is when its endpoints are given, and not asked at all when the settings
    say so. Raises ConfigError: the URL does not say which tenant is meant.
    """
    given, by_hand = settings.endpoints, None
    if given.token_endpoint and given.authorization_endpoint:
        by_hand = given.over(discovery.ProviderMetadata(settings.url, given.token_endpoint))
    if by_hand is not None and not settings.uses_discovery:
        return by_hand
    if settings.profile.name == "entra":
        found = await discover_entra(http, native_base(settings.url, settings.tenant))
    else:
        found = await discovery.discover(http, settings.url)
    if isinstance(found, discovery.DiscoveryFailed):
        return by_hand if by_hand is not None and not found.is_temporary and not found.issuer else found
    return given.over(found)


async def discover(http: Http, settings: AccountSettings) -> discovery.ProviderMetadata:
    """Return the provider's endpoints. Raises TransientError when a later try may work, else ConfigError."""
    found = await find_metadata(http, settings)
    if not isinstance(found, discovery.DiscoveryFailed):
        return found
    hint = await advise(http, settings, found)
    if found.is_temporary:
        raise TransientError(f"the provider cannot be reached: {found.reason}", hint=hint)
    raise ConfigError(f"the provider cannot be used: {found.reason}", hint=hint)


async def advise(http: Http, settings: AccountSettings, failed: discovery.DiscoveryFailed) -> str:
    """Return what to do when there is no metadata; it looks whether the URL is nearly that of a provider.

    Not at a provider that fails for now: it would fail at each guess.
    """
    is_down = failed.is_temporary and failed.status
    is_searched = settings.profile.name != "entra" and not failed.issuer and not is_down
    right = await find_issuer(http, settings.url) if is_searched else ""
    return advice_about(failed, settings.profile, right=right)


def asked_scope(settings: AccountSettings, metadata: discovery.ProviderMetadata) -> str:
    """Return the scope to ask for: without offline_access where the provider lists its scopes and that is not one."""
    words, listed = settings.scope.split(), metadata.supported.get("scopes_supported")
    return " ".join(word for word in words if word != OFFLINE_ACCESS or not listed or word in listed)


def asked_prompt(settings: AccountSettings, metadata: discovery.ProviderMetadata) -> str:
    """Return the ``prompt`` to send: offline access needs consent each time. OpenID Connect Core §11."""
    if settings.prompt is not None:
        return "" if settings.prompt == "none" else settings.prompt
    is_offline = OFFLINE_ACCESS in asked_scope(settings, metadata).split()
    is_known = "consent" in metadata.supported.get("prompt_values_supported", ("consent",))
    return "consent" if is_offline and is_known and settings.profile.name not in CONSENT_IS_NOT_NEEDED else ""
