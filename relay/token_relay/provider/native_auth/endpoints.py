"""Where a tenant's native endpoints are, and its metadata."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from token_relay.protocol.errors import ConfigError
from token_relay.provider.discovery import DiscoveryFailed, ProviderMetadata, read_metadata
from token_relay.provider.http import Http, url_problem

_TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_TENANT_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
CIAM_SUFFIX = ".ciamlogin.com"


def native_base(provider_url: str, tenant: str | None = None) -> str:
    """Return the base URL of all native endpoints, without a slash at its end.

    ``https://contoso.ciamlogin.com`` with tenant ``contoso`` (or none: the host says it) gives
    ``https://contoso.ciamlogin.com/contoso.onmicrosoft.com``. A GUID or a domain as tenant is taken as it is. A URL
    that has a path already is the base itself, without the ``/v2.0`` of an issuer.

    Raises:
        ConfigError: the URL or the tenant cannot be used; the message says which.
    """
    problem = url_problem(provider_url)
    if problem or "?" in provider_url:
        raise ConfigError(f"the provider URL {problem or 'holds a query'}", hint="try https://NAME.ciamlogin.com")
    parts = urlsplit(provider_url)
    path = f"/{parts.path.strip('/')}".removesuffix("/v2.0").strip("/")
    if path:
        if tenant and path.lower() not in (tenant.lower(), _tenant_segment(tenant).lower()):
            raise ConfigError("the provider URL names another tenant than the one given")
        return urlunsplit(parts._replace(path=f"/{path}"))
    host = parts.hostname or ""
    if not tenant and host.endswith(CIAM_SUFFIX):
        tenant = host.removesuffix(CIAM_SUFFIX)
    if not tenant:
        raise ConfigError("the provider URL does not say which tenant is meant", hint="give the tenant")
    return urlunsplit(parts._replace(path=f"/{_tenant_segment(tenant)}"))


def _tenant_segment(tenant: str) -> str:
    if not _TENANT.fullmatch(tenant) or ".." in tenant:
        raise ConfigError("a tenant is a name, a domain or a GUID")
    return tenant if "." in tenant or _TENANT_GUID.fullmatch(tenant) else f"{tenant}.onmicrosoft.com"


def entra_token_endpoint(base: str) -> str:
    """Return the token endpoint under a native base."""
    return f"{base}/oauth2/v2.0/token"


def entra_discovery_url(base: str) -> str:
    """Return where the tenant's discovery document is."""
    return f"{base}/v2.0/.well-known/openid-configuration"


async def discover_entra(http: Http, base: str) -> ProviderMetadata | DiscoveryFailed:
    """Read the tenant's metadata. Its issuer has a host made of the tenant's GUID, so it cannot equal ``base``.

    Trust rests on TLS to the host of ``base``; what remains to be checked is that an id_token's ``iss`` equals
    the document's issuer. The token endpoint is the one under ``base``, since the native steps are there as well.
    """
    url = entra_discovery_url(base)
    found = await read_metadata(http, url)
    if found is None:
        return DiscoveryFailed("the tenant has no discovery document; is its name right?", is_temporary=False)
    if isinstance(found, DiscoveryFailed):
        return found
    return ProviderMetadata(
        issuer=found.issuer,
        token_endpoint=entra_token_endpoint(base),
        authorization_endpoint=found.authorization_endpoint,
        jwks_uri=found.jwks_uri,
        supported=found.supported,
        userinfo_endpoint=found.userinfo_endpoint,
        required=found.required,
    )
