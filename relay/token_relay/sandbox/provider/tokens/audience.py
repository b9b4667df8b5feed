"""Whom an access token is for: its ``aud``, and its scope as the token and as the answer spells it.

Under ``entra`` the scope names the API. ``api://orders/Orders.Read`` is the scope ``Orders.Read`` of ``api://orders``.
A word without a slash is one of Microsoft Graph's. The words of OpenID Connect belong to no API, and only a token for
Graph tells them. One token is for one API, though a person may consent to several at once. ``.default`` stands for all
scopes of an API that the client has registered.

Under ``auth0`` the parameter ``audience`` names the API, and a token with ``openid`` is for ``/userinfo`` as well.
Sources: Microsoft's documents of scopes and of the authorization code flow; Auth0's of access tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from token_relay.sandbox.provider.http_values import GUID, JsonValue, Refusal
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.world.rules import OIDC_SCOPES

GRAPH = "00000003-0000-0000-c000-000000000000"
_GRAPH_NAMES = {GRAPH, "https://graph.microsoft.com"}
_DEFAULT = "/.default"
# Ours: what ``.default`` stands for where the client may ask for any scope. They are what the portal registers first.
_ANY_OF_GRAPH, _ANY = "User.Read", "user_impersonation"


@dataclass(frozen=True, slots=True)
class TokenAudience:
    """``aud`` of an access token; ``claim`` and ``answer`` are its scope in the token and beside it."""

    aud: JsonValue
    claim: str
    answer: str


def audience_of(
    state: State, audience: str, scope: tuple[str, ...], registered: Collection[str] | None
) -> TokenAudience:
    """Return whom a token of this scope is for. ``registered``: the client's scopes, None if it may ask for any."""
    is_entra = state.urls.profile == "entra"
    # The real service leaves offline_access out of the answer's scope.
    shown = " ".join(word for word in scope if not (is_entra and word == "offline_access"))
    api = audience or f"{state.urls.base_url}/sandbox/resource"
    if not state.keeps("audience"):
        return TokenAudience(api, shown, shown)
    if state.rules.is_managed and "openid" in scope:
        return TokenAudience([api, state.urls.url("userinfo")], shown, shown)
    return _of_scope(scope, registered or ()) if is_entra else TokenAudience(api, shown, shown)


def check_resources(state: State, scope: tuple[str, ...]) -> None:
    """Refuse scopes that cannot be of one token: of several APIs, or of none. Raises Refusal.

    AADSTS28000 is the token endpoint's: the authorization endpoint takes several, for their consent.
    """
    if state.urls.profile != "entra" or not state.keeps("one-resource"):
        return
    apis = {_split(word) for word in scope if word not in OIDC_SCOPES}
    if any(not name or api.endswith(":/") for api, name in apis):
        text = "The provided value for the input parameter 'scope' is not valid: it names a resource alone."
        raise Refusal("invalid_scope", text, code=70011)
    if len({_same(api) for api, _ in apis}) > 1:
        text = "Provided value for the input parameter scope is not valid because it contains more than one resource."
        raise Refusal("invalid_request", f"{text} Scope {' '.join(scope)} is not valid.", code=28000)
    if len(apis) > 1 and any(name == ".default" for _, name in apis):
        text = ".default scope can't be combined with resource-specific scopes."
        raise Refusal("invalid_scope", text, code=70011)


def covers(allowed: Collection[str], word: str) -> bool:
    """Return whether a scope is among these; ``.default`` is if any scope of its API is."""
    if word in allowed or not word.endswith(_DEFAULT):
        return word in allowed
    return any(_same(_split(one)[0]) == _same(_split(word)[0]) for one in allowed if one not in OIDC_SCOPES)


def _of_scope(scope: tuple[str, ...], registered: Collection[str]) -> TokenAudience:
    own = [word for word in scope if word not in OIDC_SCOPES]
    aud = _split(own[0])[0] if own else GRAPH
    is_graph = _same(aud) == GRAPH
    names: list[str] = []
    answer: list[str] = []
    for word in scope:
        api = _split(word)[0]
        if word in OIDC_SCOPES:
            full = [word] if is_graph and word != "offline_access" else []
        elif _same(api) != _same(aud):
            full = []  # of another API, where that is allowed
        elif word.endswith(_DEFAULT):
            full = [one for one in registered if one not in OIDC_SCOPES and _same(_split(one)[0]) == _same(aud)]
            full = full or [word.removesuffix(".default") + (_ANY_OF_GRAPH if is_graph else _ANY)]
            answer.append(word)
        else:
            full = [word]
        names += [_split(one)[1] for one in full]
        answer += full
    return TokenAudience(aud, " ".join(dict.fromkeys(names)), " ".join(dict.fromkeys(answer)))


def _split(word: str) -> tuple[str, str]:
    """Return the API of a scope, as ``aud`` spells it, and the scope's short name."""
    api, slash, name = word.rpartition("/")
    if not slash:
        return GRAPH, name
    guid = api.removeprefix("api://")
    return (guid if GUID.fullmatch(guid) else api), name


def _same(api: str) -> str:
    """Return one spelling for each API."""
    spelled = api.lower().rstrip("/")
    return GRAPH if spelled in _GRAPH_NAMES else spelled
