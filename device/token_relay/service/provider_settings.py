"""What the phone's agent, ``init`` and ``doctor`` make of the settings under ``[provider]``."""

from __future__ import annotations

from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.host.client_credentials import read_client_key
from token_relay.host.config import PhoneConfig
from token_relay.protocol.errors import ConfigError
from token_relay.provider.discovery import GivenEndpoints


def account_settings(config: PhoneConfig) -> AccountSettings:
    """Return the settings as the agent uses them; a key that cannot be read has no algorithm here."""
    said = config.provider
    return AccountSettings(
        url=said.url,
        client_id=said.client_id,
        tenant=said.tenant,
        scope=said.scope,
        profile=said.resolved_profile,
        allow_refresh_token_access=config.allow_refresh_token_access,
        audience=said.audience or "",
        idle_days=said.idle_days,
        resource=said.resource or "",
        prompt=said.prompt,
        authorization_parameters=said.authorization_parameters,
        redirect_ports=tuple(said.redirect_ports),
        endpoints=GivenEndpoints(
            authorization_endpoint=said.authorization_endpoint,
            token_endpoint=said.token_endpoint,
            revocation_endpoint=said.revocation_endpoint,
            userinfo_endpoint=said.userinfo_endpoint,
            jwks_uri=said.jwks_uri,
            device_authorization_endpoint=said.device_authorization_endpoint,
        ),
        uses_discovery=said.discovery,
        auth_method=said.token_endpoint_auth_method,
        key_algorithm=_key_algorithm(config),
        companion_client_id=said.companion_client_id or "",
        measured_at=said.profile_file.measured_at_s if said.profile_file is not None else 0,
    )


def _key_algorithm(config: PhoneConfig) -> str:
    if config.provider.client_key_file is None:
        return ""
    from token_relay.provider.client_authentication import key_algorithm  # joserfc costs start-up time and memory

    try:
        return key_algorithm(read_client_key(config.provider.client_key_file))
    except ConfigError:
        return ""
