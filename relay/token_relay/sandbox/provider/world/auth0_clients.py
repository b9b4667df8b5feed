"""The clients of the default world under ``auth0``: a native app, three kinds of web application, and a manager.

The secrets are public: they open only this sandbox. A world file that names clients has only its own.
"""

from __future__ import annotations

from token_relay.protocol.secret import Password
from token_relay.sandbox.provider.world.client_settings import SessionTransfer
from token_relay.sandbox.provider.world.model import CLIENT_ID, ClientModel, SamlModel

WEB_ID, SPA_ID, SAML_ID, MANAGER_ID = "sandbox-web", "sandbox-spa", "sandbox-saml", "sandbox-manager"
WEB_SECRET = "sandbox-web-secret-not-for-real-use"  # noqa: S105  # documented on purpose
MANAGER_SECRET = "sandbox-manager-secret-not-for-real-use"  # noqa: S105  # documented on purpose
SERVICE_PROVIDER = "urn:sandbox:service-provider"
CONNECTION = "Username-Password-Authentication"  # the one that everybody is in
PASSWORD_REALM = "http://auth0.com/oauth/grant-type/password-realm"  # noqa: S105  # the grant of Auth0's own SDKs
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_ACTIONS = ("read", "create", "update", "delete")
MANAGER_SCOPES = [
    *(f"{action}:clients" for action in _ACTIONS),
    "read:client_keys",
    *(f"{action}:refresh_tokens" for action in ("read", "update", "delete")),
    *(f"{action}:{what}" for what in ("sessions", "device_credentials") for action in ("read", "delete")),
    "read:logs",
]
_WEB = SessionTransfer(allowed_authentication_methods=["cookie", "query"])


def demo_clients(base_url: str) -> list[ClientModel]:
    """Return the clients of a sandbox at this address."""
    return [
        ClientModel(
            client_id=CLIENT_ID,
            name="Native app",
            grant_types=["authorization_code", "refresh_token", "password", PASSWORD_REALM, DEVICE_CODE],
            session_transfer=SessionTransfer(can_create_session_transfer_token=True),
        ),
        ClientModel(
            client_id=WEB_ID,
            name="Web application",
            app_type="regular_web",
            client_secret=Password(WEB_SECRET),
            token_endpoint_auth_method="client_secret_post",  # noqa: S106  # a method's name
            session_transfer=_WEB,
        ),
        ClientModel(client_id=SPA_ID, name="Single-page application", app_type="spa", session_transfer=_WEB),
        ClientModel(
            client_id=SAML_ID,
            name="Service provider",
            app_type="regular_web",
            session_transfer=_WEB,
            saml=SamlModel(acs_url=f"{base_url}/sandbox/service-provider", audience=SERVICE_PROVIDER),
        ),
        ClientModel(
            client_id=MANAGER_ID,
            name="Management",
            app_type="non_interactive",
            client_secret=Password(MANAGER_SECRET),
            token_endpoint_auth_method="client_secret_post",  # noqa: S106  # a method's name
            api_scopes=MANAGER_SCOPES,
        ),
    ]
