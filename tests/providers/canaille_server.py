"""Canaille as a program of its own, ``python canaille_server.py``; what it knows is in memory.

The client is the one of the recipe in docs/integrating.md: its redirect URIs are compared literally, port and all.
"""

from __future__ import annotations

import datetime
from typing import Any

from answering import listen, options, serve
from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey

ask = options()
server = listen()
issuer = f"http://127.0.0.1:{server.server_port}"
key = RSAKey.generate_key(2048, parameters={"kid": "one", "use": "sig", "alg": "RS256"}, private=True)
app = create_app(
    {
        "SECRET_KEY": "for tests only",
        "SERVER_NAME": f"127.0.0.1:{server.server_port}",
        "PREFERRED_URL_SCHEME": "http",
        "TESTING": True,
        "WTF_CSRF_ENABLED": False,
        "CANAILLE": {},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)], "REQUIRE_NONCE": False},
    }
)
with app.app_context():
    backend = Backend.instance
    for name in ask["users"]:
        backend.save(
            models.User(
                user_name=name,
                family_name=name,
                formatted_name=name,
                emails=[f"{name}@example.com"],
                password=ask["password"],
            )
        )
    client = models.Client(
        client_id="phone",
        client_name="phone",
        client_id_issued_at=datetime.datetime.now(datetime.UTC),
        token_endpoint_auth_method="none",
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        redirect_uris=ask["redirect_uris"],
        scope=["openid", "profile"],
    )
    backend.save(client)
    client.audience = [client]
    backend.save(client)


def tokens() -> list[dict[str, Any]]:
    """Return every refresh token that was ever issued. Canaille knows no families: the user's tokens are one."""
    with app.app_context():
        return [
            {
                "value": row.refresh_token,
                "family": row.subject.user_name,
                "user": row.subject.user_name,
                "live": row.is_refresh_token_active(),
            }
            for row in Backend.instance.query(models.Token)
            if row.refresh_token
        ]


def revoke(value: str) -> dict[str, Any]:
    """End this token, as an administrator does on its page."""
    with app.app_context():
        token = Backend.instance.get(models.Token, refresh_token=value)
        token.revokation_date = datetime.datetime.now(datetime.UTC)
        Backend.instance.save(token)
    return {}


serve(server, app, "/oauth/token", issuer, {"tokens": tokens, "revoke": revoke})
