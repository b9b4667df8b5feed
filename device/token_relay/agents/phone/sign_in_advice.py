"""What a person should hear about a sign-in: what cannot work, what was refused, what was not granted. Pure.

The provider's own descriptions are never shown; these are our words for its codes and its metadata.
"""

from __future__ import annotations

from token_relay.provider.oauth import DiscoveryFailed, ProviderMetadata
from token_relay.provider.profile import Profile

_REGISTRATION = "look at the registration of provider.client_id: a public client with authorization code, refresh "
_REDIRECT = "http://127.0.0.1/callback with any port as redirect URI, and PKCE (S256)"
HINTS = {  # by the error codes of RFC 6749 §4.1.2.1 and §5.2, OpenID Connect Core §3.1.2.6, RFC 8707 §2
    "access_denied": "the person declined, or may not use this application: sign in again, or ask the administrator",
    "invalid_scope": "the provider does not know or not grant a word of provider.scope: take it out of config.toml",
    "invalid_client": f"{_REGISTRATION}tokens, and without a secret",
    "unauthorized_client": f"{_REGISTRATION}tokens, and without a secret",
    "invalid_request": f"look at the registration of provider.client_id: {_REDIRECT}",
    "unsupported_response_type": "the registration of provider.client_id must allow the authorization code",
    "unsupported_grant_type": f"{_REGISTRATION}tokens",
    "invalid_target": "the provider does not know provider.audience",
    "server_error": "the provider failed: try again later",
    "temporarily_unavailable": "try again later",
}
# Their metadata does not list `none`, although they take public clients.
_SILENT_ABOUT_PUBLIC_CLIENTS = frozenset({"entra", "auth0", "keycloak", "keycloak-rotating", "cognito", "google"})
_IDENTITY = frozenset({"openid", "profile", "email", "offline_access"})  # answers tend to leave these out


def hint_for(error: str) -> str:
    """Return what to do about an error code with which the provider refused a sign-in."""
    return HINTS.get(error, "sign in again")


def advice_about(failed: DiscoveryFailed, profile: Profile | None) -> str:
    """Return what to do when there is no metadata; ``profile`` None means that a grant names the issuer."""
    if failed.is_temporary:
        return "try again later, and look at network and DNS"
    if profile is None:
        return "has the provider moved? the grant names this issuer; a handoff brings a new one"
    if failed.issuer:
        return f'if that is the provider you mean, write provider.url = "{failed.issuer}"'
    if profile.name == "entra":
        return "check provider.url and provider.tenant"
    return "check provider.url: it is the issuer, with its path, as in https://HOST/realms/NAME"


def foreseen(metadata: ProviderMetadata, scope: str, profile: Profile) -> list[str]:
    """Return one sentence for each thing that will not work, as far as the metadata tells it. RFC 8414 §2."""
    found: list[str] = []
    methods = metadata.supported.get("code_challenge_methods_supported")
    if methods and "S256" not in methods:
        found.append("the provider does not list PKCE with S256 (code_challenge_methods_supported): it may refuse")
    ways = metadata.supported.get("token_endpoint_auth_methods_supported")
    if ways and "none" not in ways and profile.name not in _SILENT_ABOUT_PUBLIC_CLIENTS:
        found.append("the provider lists no public clients (token_endpoint_auth_methods_supported without none)")
    if "openid" not in scope.split():
        return found
    if metadata.jwks_uri is None:
        found.append("the provider publishes no keys (jwks_uri): nobody can verify who signed in")
    algorithms = metadata.supported.get("id_token_signing_alg_values_supported")
    if algorithms:
        from token_relay.provider.id_token import ALGORITHMS  # joserfc costs start-up time and memory

        if ALGORITHMS.keys().isdisjoint(algorithms):
            found.append("the provider signs id_tokens only in ways that this program cannot verify")
    return found


def not_granted(asked: str, answered: str) -> str:
    """Return the words of the scope that were asked for and not granted; none when the answer says nothing."""
    missing = set(asked.split()) - set(answered.split()) - _IDENTITY if answered.strip() else set()
    return " ".join(sorted(missing))


def is_session_shared(profile: Profile) -> bool:
    """Return whether two sign-ins in one browser session may share one grant at the provider, as far as is known."""
    bounded = ("nothing", "family")
    return profile.reuse_takes not in bounded or profile.revocation_takes not in bounded


PRIVATE_WINDOW = (
    "use a private browser window: in the session of an earlier sign-in this provider may let both share one grant, "
    "and revoking or losing one device would end the others"
)
SESSION_SHARED = (
    "this sign-in came from the same browser session as another one: they may share one grant, so that revoking or "
    "losing one device ends the others; hand off again, from a private window"
)
