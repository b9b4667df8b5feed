"""Discovery and keys: what a client reads before it does anything else. OpenID Connect Discovery §3, RFC 8414 §2.

The native endpoints are not listed under ``entra``, as they are not at the real service: clients build them from the
authority.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.memory.signing import published
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.dpop import ALGORITHMS
from token_relay.sandbox.provider.web.browser import response_modes
from token_relay.sandbox.provider.world.model import ProfileName

_CLAIMS: dict[ProfileName, tuple[str, ...]] = {  # beside those that all have
    "entra": ("preferred_username", "oid", "tid", "ver"),
    "auth0": ("nickname", "picture", "updated_at", "email_verified", "auth_time", "sid"),
    "strict": ("preferred_username",),
}


def discovery(state: State) -> Response:
    """Return the metadata document; both well-known paths answer the same."""
    urls, rules = state.urls, state.rules
    grants: list[JsonValue] = ["authorization_code", "refresh_token"]
    if rules.has_password_grant:
        grants.append("password")
    document: dict[str, JsonValue] = {
        "issuer": urls.issuer,
        "authorization_endpoint": urls.url("authorize"),
        "token_endpoint": urls.url("token"),
        "jwks_uri": urls.url("jwks"),
        "response_types_supported": ["code", *(("id_token",) if rules.is_managed else ())],
        "response_modes_supported": [*response_modes(state)],
        "grant_types_supported": grants,
        "subject_types_supported": ["pairwise" if urls.profile == "entra" else "public"],
        "id_token_signing_alg_values_supported": [state.signer.algorithm],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nonce", "name", "email", *_CLAIMS[urls.profile]],
    }
    methods: list[JsonValue] = ["none"] if rules.is_native else ["none", "client_secret_post", "client_secret_basic"]
    document["token_endpoint_auth_methods_supported"] = methods
    if rules.has_revocation:
        document["revocation_endpoint"] = urls.url("revoke")
        document["revocation_endpoint_auth_methods_supported"] = methods
    if rules.is_managed:
        grants += ["implicit", "client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]
        grants.append("urn:ietf:params:oauth:grant-type:device_code")
        document["device_authorization_endpoint"] = urls.url("device_code")
        document["dpop_signing_alg_values_supported"] = [*ALGORITHMS]
        document["scopes_supported"] = ["openid", "profile", "email", "offline_access", "online_access"]
        document["userinfo_endpoint"] = urls.url("userinfo")
    if rules.has_sessions:
        document["end_session_endpoint"] = urls.url("logout")
    return json_response(document)


def jwks(state: State) -> Response:
    """Return the public keys, under ``entra`` each with its issuer. RFC 7517 §5."""
    more: dict[str, JsonValue] = {"issuer": state.urls.issuer} if state.urls.profile == "entra" else {}
    return json_response({"keys": [{**key, **more} for key in published(state.signer)]})
