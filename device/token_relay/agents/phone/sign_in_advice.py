"""What a person should hear about a sign-in: what cannot work, what was refused, what was not granted. Pure.

These are our words for the provider's codes and metadata. The provider's own description of a refusal, cleaned, stands
beside them.
"""

from __future__ import annotations

from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.provider_failures import action_for
from token_relay.provider.discovery import DiscoveryFailed, ProviderMetadata
from token_relay.provider.profile import DAY_S, Profile

_REGISTRATION = "look at the registration of provider.client_id: "
_FLOW = "it must allow the authorization code and refresh tokens"
_REDIRECT = "http://127.0.0.1 and provider.redirect_path with any port, or with those of provider.redirect_ports"
_CLIENT = (
    f"{_REGISTRATION}{_FLOW}, for a public client; a confidential one needs provider.token_endpoint_auth_method "
    "and its secret or key"
)
_PROMPT = 'the provider wants to show a page and may not: write provider.prompt = "consent", or "login"'
AGAIN = "run the command again in a minute"
HINTS = {  # by the error codes of RFC 6749 §4.1.2.1 and §5.2, OpenID Connect Core §3.1.2.6, RFC 8707 §2, RFC 9449 §5
    "access_denied": "the person declined, or may not use this application: sign in again, or ask the administrator",
    "invalid_scope": "the provider does not know or not grant a word of provider.scope: take it out of config.toml",
    "invalid_client": _CLIENT,
    "unauthorized_client": _CLIENT,
    "invalid_request": f"{_REGISTRATION}it needs {_REDIRECT} as redirect URI, and PKCE (S256)",
    "invalid_grant": f"{_REGISTRATION}the code was not accepted; its redirect URI, PKCE, or a kind of token that is "
    "bound to a key (DPoP), which this program does not make, may be why",
    "unsupported_response_type": f"{_REGISTRATION}it must allow the authorization code",
    "unsupported_grant_type": f"{_REGISTRATION}{_FLOW}",
    "invalid_target": "the provider does not know provider.audience or provider.resource",
    "consent_required": _PROMPT,
    "interaction_required": _PROMPT,
    "login_required": _PROMPT,
    "account_selection_required": 'the provider wants the person to choose: write provider.prompt = "select_account"',
    "request_not_supported": "take provider.authorization_parameters out, one by one",
    "invalid_dpop_proof": f"{_REGISTRATION}its tokens must not be bound to a key (DPoP)",
    "use_dpop_nonce": f"{_REGISTRATION}its tokens must not be bound to a key (DPoP)",
    "server_error": f"the provider failed: {AGAIN}",
    "temporarily_unavailable": AGAIN,
}
# Their metadata does not list `none`, although they take public clients.
_SILENT_ABOUT_PUBLIC_CLIENTS = frozenset({"entra", "auth0", "keycloak", "keycloak-rotating", "cognito", "google"})
_IDENTITY = frozenset({"openid", "profile", "email", "offline_access"})  # answers tend to leave these out
EXAMPLE_PORT = 43_985  # below the ports that Linux gives out by itself, so that it is free as a rule


def hint_for(error: str) -> str:
    """Return what to do about an error code with which the provider refused a sign-in."""
    return HINTS.get(error, f"{_REGISTRATION}{_FLOW}; the provider's own log may say more")


def refused_sentence(error: str, description: str) -> str:
    """Return the sentence for a refusal, with the provider's own words where there are any."""
    return f"the provider refused the sign-in: {error}{f' ({description})' if description else ''}"


def error_page_advice(redirect_uri: str, settings: AccountSettings) -> str:
    """Return what an error page in the browser means, which the provider shows instead of coming back."""
    if settings.redirect_ports:
        register = f"register {redirect_uri} to the letter"
    else:
        other = redirect_uri.split("/", 3)[3]
        register = (
            f"register {redirect_uri} with any port, or where the port is compared too, "
            f"http://127.0.0.1:{EXAMPLE_PORT}/{other} and write provider.redirect_ports = [{EXAMPLE_PORT}]"
        )
    return (
        f"the browser shows an error? redirect_uri: {register}; invalid_scope: take the word out of provider.scope; "
        "client_id or unauthorized_client: the client is not registered so (public, authorization code, refresh tokens)"
    )


def no_refresh_token_hint(asked: str) -> str:
    """Return what to do when a sign-in brought no refresh token; ``asked`` is the scope that was asked for."""
    if "offline_access" in asked.split():
        return f"{_REGISTRATION}{_FLOW}; offline_access was asked for"
    return (
        f"{_REGISTRATION}{_FLOW}; offline_access was not asked for; some providers want a parameter of their own, as "
        'provider.authorization_parameters = { access_type = "offline" } and provider.prompt = "consent"'
    )


def advice_about(failed: DiscoveryFailed, profile: Profile | None, *, right: str = "") -> str:
    """Return what to do when there is no metadata; ``profile`` None means that a grant names the issuer.

    ``right`` is the issuer that was found instead.
    """
    if right or (failed.issuer and profile is not None):
        return f'if that is the provider you mean, write provider.url = "{right or failed.issuer}"'
    if failed.is_temporary:
        return action_for(failed.reason, is_phone=profile is not None) or AGAIN
    if profile is None:
        return "has the provider moved? the grant names this issuer; a handoff brings a new one"
    if profile.name == "entra":
        return "check provider.url and provider.tenant"
    return "check provider.url: it is the issuer, with its path, as in https://HOST/realms/NAME"


def foreseen(metadata: ProviderMetadata, settings: AccountSettings, asked: str) -> list[str]:
    """Return one sentence for each thing in a sign-in that will not work, as far as the metadata tells. RFC 8414 §2.

    ``asked`` is the scope that will be asked for.
    """
    found: list[str] = []
    supported, profile = metadata.supported, settings.profile
    if profile.sign_in == "browser":
        found += _about_browser(metadata)
    found += _about_client(metadata, settings)
    if "offline_access" in settings.scope.split() and "offline_access" not in asked.split():
        found.append(
            "the provider does not know offline_access (scopes_supported), so it is not asked for: whether there is a "
            "refresh token is up to the client's registration"
        )
    if "openid" not in asked.split():
        return found
    if metadata.jwks_uri is None:
        found.append("the provider publishes no keys (jwks_uri): nobody can verify who signed in")
    algorithms = supported.get("id_token_signing_alg_values_supported")
    if algorithms:
        from token_relay.provider.id_token import ALGORITHMS  # joserfc costs start-up time and memory

        if ALGORITHMS.keys().isdisjoint(algorithms):
            found.append("the provider signs id_tokens only in ways that this program cannot verify")
    return found


def _about_browser(metadata: ProviderMetadata) -> list[str]:
    supported, found = metadata.supported, []
    if metadata.authorization_endpoint is None:
        found.append(
            "the provider has no page to sign in at (authorization_endpoint): give it by hand, if there is one"
        )
    methods = supported.get("code_challenge_methods_supported")
    if methods and "S256" not in methods:
        found.append("the provider does not list PKCE with S256 (code_challenge_methods_supported): it may refuse")
    if not {"code"} <= set(supported.get("response_types_supported", ("code",))):
        found.append("the provider does not list the authorization code (response_types_supported without code)")
    grants = supported.get("grant_types_supported", ("authorization_code", "refresh_token"))
    for grant, what in (("authorization_code", "the authorization code"), ("refresh_token", "refresh tokens")):
        if grant not in grants:
            found.append(f"the provider does not list {what} (grant_types_supported without {grant})")
    if "require_pushed_authorization_requests" in metadata.required:
        found.append(
            "the provider takes pushed authorization requests alone (RFC 9126), which this program cannot make"
        )
    if "require_signed_request_object" in metadata.required:
        found.append("the provider takes signed requests alone (RFC 9101), which this program cannot make")
    return found


def _about_client(metadata: ProviderMetadata, settings: AccountSettings) -> list[str]:
    supported, method = metadata.supported, settings.auth_method
    ways = supported.get("token_endpoint_auth_methods_supported")
    if not ways or method in ways:
        algorithms = supported.get("token_endpoint_auth_signing_alg_values_supported", (settings.key_algorithm,))
        if method == "private_key_jwt" and settings.key_algorithm and settings.key_algorithm not in algorithms:
            return [f"the provider takes no client key for {settings.key_algorithm}, only: {', '.join(algorithms)}"]
        return []
    if method != "none":
        return [f"the provider does not list {method} (token_endpoint_auth_methods_supported: {', '.join(ways)})"]
    if settings.profile.name in _SILENT_ABOUT_PUBLIC_CLIENTS:
        return []
    return [
        "the provider lists no public clients (token_endpoint_auth_methods_supported without none); for a confidential "
        f"one, provider.token_endpoint_auth_method is one of: {', '.join(ways)}"
    ]


def revocation_foreseen(metadata: ProviderMetadata, settings: AccountSettings) -> str:
    """Return the sentence on revocation where the provider, as far as is known, will not do it; else nothing."""
    profile, method = settings.profile, settings.auth_method
    if metadata.revocation_endpoint is None:
        why, then = (
            "the provider offers no revocation (no revocation_endpoint)",
            "; if it has one: provider.revocation_endpoint",
        )
    elif not profile.can_revoke_token:
        why, then = f"with profile {profile.name} this client cannot revoke", ""
    else:
        ways = metadata.supported.get("revocation_endpoint_auth_methods_supported")
        if not ways or method in ways or (method == "none" and profile.name in _SILENT_ABOUT_PUBLIC_CLIENTS):
            return ""
        why, then = (
            "the provider lets this kind of client revoke nothing (revocation_endpoint_auth_methods_supported)",
            "",
        )
    return f"{why}: what you revoke lives on there {_until(profile, settings.idle_days)}, and devices erase it{then}"


def _until(profile: Profile, idle_days: int | None) -> str:
    if idle_days:
        return f"until it was not used for {idle_days} days"
    if profile.idle_lifetime_s:
        return f"until it was not used for {profile.idle_lifetime_s / DAY_S:.0f} days"
    if profile.absolute_lifetime_s:
        return f"until {profile.absolute_lifetime_s / DAY_S:.0f} days after the sign-in"
    return "until its own end, which the provider does not tell"


def not_granted(asked: str, answered: str) -> str:
    """Return the words of the scope that were asked for and not granted; none when the answer says nothing."""
    missing = set(asked.split()) - set(answered.split()) - _IDENTITY if answered.strip() else set()
    return " ".join(sorted(missing))


def sibling_advice(profile: Profile) -> str:
    """Return what to do so that one device's end is not another's; nothing where a grant ends alone, as far as known.

    A revocation that no device can ask for happens to none by accident.
    """
    takes = {profile.reuse_takes, *((profile.revocation_takes,) if profile.can_revoke_token else ())}
    if "user" in takes:
        return ACCOUNT_SHARED
    return f"{PRIVATE_WINDOW}; {OWN_CLIENT}" if not takes <= {"nothing", "family"} else ""


OWN_CREDENTIAL = (
    "this client proves itself with a secret or key, which no handoff brings: the companion needs one of its own, as "
    "[[client]] in its config.toml"
)
PRIVATE_WINDOW = (
    "use a private browser window: in the session of an earlier sign-in this provider may let both share one grant, "
    "and revoking or losing one device would end the others"
)
OWN_CLIENT = "provider.companion_client_id, a client for companions, keeps this phone's own grant out of that"
ACCOUNT_SHARED = (
    "at this provider, revoking or losing one device may end all grants of this account for this client, this phone's "
    "too; no browser window helps against that, only another account does"
)
SESSION_SHARED = (
    "this sign-in came from the same browser session as another one: they may share one grant, so that revoking or "
    "losing one device ends the others; hand off again, from a private window"
)
