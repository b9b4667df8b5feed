"""The body of a successful token answer, and the claims inside its JWTs. RFC 6749 §5.1, OpenID Connect Core §2."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, State
from token_relay.sandbox.provider.memory.verdicts import Command, SetClaim
from token_relay.sandbox.provider.tokens.audience import audience_of
from token_relay.sandbox.provider.tokens.claims import NO_CLAIMS, Claims
from token_relay.sandbox.provider.tokens.issued import opaque_access, token_id
from token_relay.sandbox.provider.tokens.person_claims import person_claims
from token_relay.sandbox.provider.world.rules import guid_of, user_id


def token_answer(
    state: State,
    family: Family,
    user: User,
    trace: Trace,
    scope: tuple[str, ...],
    *,
    refresh_token: str,
    nonce: str = "",
    audience: str = "",
    jti: str = "",
    is_refresh: bool = False,
    claims: Claims = NO_CLAIMS,
    commands: Sequence[Command] = (),
) -> Response:
    """Issue an access token (and id_token) of the family; answer with them and ``refresh_token``, if there is one.

    ``audience``: an API other than the grant's own. Under ``auth0`` a token for no API is opaque. If the request proved
    a key, the access token is bound to it.
    """
    is_entra = state.urls.profile == "entra"
    issued_at = int(trace.now)
    is_cae = is_entra and state.policy.cae and claims.can_be_challenged
    lifetime_s = int(state.policy.cae_access_token_lifetime_s if is_cae else state.policy.access_token_lifetime_s)
    client = state.clients.get(family.client_id)
    api = audience or family.audience
    target = audience_of(state, api, scope, None if client is None else client.scopes)
    common = _common_claims(state, family, user, issued_at, lifetime_s)
    access: dict[str, JsonValue] = {
        **common,
        "aud": target.aud,
        "azp": family.client_id,
        _name_claim(state): jti or token_id(state, family),
    }
    if trace.key_thumbprint:
        access["cnf"] = {"jkt": trace.key_thumbprint}  # RFC 9449 §6.1
    access |= {"scp": target.claim, "azpacr": "0", "oid": user.oid} if is_entra else {"scope": target.claim}
    access |= _of_session(family) | custom_claims(commands, "access_token", taken=access)
    if is_cae:
        access["xms_cc"] = ["CP1"]
    is_opaque = state.rules.is_managed and not api and state.keeps("opaque-token")
    access_token = opaque_access(state, access) if is_opaque else state.signer.sign(access)
    body: dict[str, JsonValue] = {
        "token_type": "DPoP" if trace.key_thumbprint else "Bearer",
        "scope": target.answer,
        "expires_in": lifetime_s,
        "access_token": access_token,
    }
    if is_entra:
        body["ext_expires_in"] = lifetime_s
        info = json.dumps({"uid": user.oid, "utid": state.urls.tenant_id}).encode()
        body["client_info"] = base64.urlsafe_b64encode(info).rstrip(b"=").decode()
    if refresh_token:
        body["refresh_token"] = refresh_token
    if state.rules.tells_life and (life_s := _refresh_token_life_s(state, family, trace.now)) is not None:
        body["refresh_token_expires_in"] = life_s
    if "openid" in scope or (is_entra and is_refresh):
        if claims.wants_login_hint:
            common["login_hint"] = user.username
        if nonce:
            common["nonce"] = nonce  # OpenID Connect Core §3.1.2.1
        body["id_token"] = _id_token(state, family, user, scope, common=common, commands=commands)
    return json_response(body)


def _refresh_token_life_s(state: State, family: Family, now: float) -> int | None:
    """Return how long the family's newest refresh token lives if nobody uses it."""
    left_s = None if family.expires_at is None else family.expires_at - now
    known = [one for one in (left_s, state.policy.refresh_idle_lifetime_s) if one is not None]
    return int(min(known)) if known else None


def identity_token(state: State, family: Family, user: User, scope: tuple[str, ...], trace: Trace) -> str:
    """Return an id_token alone."""
    common = _common_claims(state, family, user, int(trace.now), int(state.policy.access_token_lifetime_s))
    return _id_token(state, family, user, scope, common=common)


def custom_claims(commands: Sequence[Command], of: str, taken: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the claims that an Action added, except those that the token has already."""
    found: dict[str, JsonValue] = {}
    for one in commands:
        if isinstance(one, SetClaim) and one.of == of and one.name not in taken:
            found[one.name] = one.value
    return found


def _common_claims(state: State, family: Family, user: User, issued_at: int, lifetime_s: int) -> dict[str, JsonValue]:
    common: dict[str, JsonValue] = {
        "iss": state.urls.issuer,
        "sub": subject(state, user.username, family.client_id),
        "iat": issued_at,
        "exp": issued_at + lifetime_s,
    }
    if state.urls.profile == "entra":
        common |= {"nbf": issued_at, "tid": state.urls.tenant_id, "ver": "2.0"}
    return common


def _name_claim(state: State) -> str:
    """Return the claim that holds a token's own name; Microsoft's tokens have no ``jti``."""
    return "uti" if state.urls.profile == "entra" else "jti"


def _of_session(family: Family) -> dict[str, JsonValue]:
    claims: dict[str, JsonValue] = {"act": {"sub": family.actor}} if family.actor else {}
    if family.organization.startswith("org_"):
        claims["org_id"] = family.organization
    elif family.organization:  # it was asked for by its name, which Auth0 keeps in small letters
        name = family.organization.lower()
        claims |= {"org_id": f"org_{guid_of('organization', name).replace('-', '')[:16]}", "org_name": name}
    return claims


def _id_token(
    state: State,
    family: Family,
    user: User,
    scope: tuple[str, ...],
    *,
    common: dict[str, JsonValue],
    commands: Sequence[Command] = (),
) -> str:
    claims = {**common, "aud": family.client_id, _name_claim(state): token_id(state, family, "id")}
    claims |= person_claims(state.urls.profile, family, user, scope)
    if family.session_id and state.urls.profile != "entra":  # there they are optional claims
        claims["sid"] = family.session_id
        claims["auth_time"] = int(family.authenticated_at)
    if family.tells_auth_time:  # ours: without a session it is when the code was redeemed
        claims["auth_time"] = int(family.authenticated_at or family.born_at)
    claims |= _of_session(family)
    claims |= custom_claims(commands, "id_token", taken=claims)
    return state.signer.sign(claims)


def subject(state: State, username: str, client_id: str) -> str:
    """Return ``sub``: pairwise under entra (a different one for each client), else the same for all clients."""
    match state.urls.profile:
        case "entra":
            return guid_of("sub", username, client_id).replace("-", "")
        case "auth0":
            return user_id(username)
        case "strict":
            return guid_of("user", username)
