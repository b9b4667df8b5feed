"""What the configuration says about the provider and the sign-in there; see the settings under ``[provider]``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from token_relay.provider.discovery import GivenEndpoints
from token_relay.provider.http import AuthMethod
from token_relay.provider.profile import Profile


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """One client at one provider.

    ``prompt`` None: as the scope wants it. ``key_algorithm`` is that of the client's key, empty without one.
    ``companion_client_id``: the client of what companions get by mint; empty: the phone's own.
    ``measured_at``: when the profile was measured, Unix seconds; 0: it was not.
    """

    url: str
    client_id: str
    tenant: str | None
    scope: str
    profile: Profile
    allow_refresh_token_access: bool
    audience: str = ""
    idle_days: int | None = None
    resource: str = ""
    prompt: str | None = None
    authorization_parameters: Mapping[str, str] = field(default_factory=dict)
    redirect_ports: tuple[int, ...] = ()
    endpoints: GivenEndpoints = field(default_factory=GivenEndpoints)
    uses_discovery: bool = True
    auth_method: AuthMethod = "none"
    key_algorithm: str = ""
    measured_at: int = 0
    companion_client_id: str = ""
