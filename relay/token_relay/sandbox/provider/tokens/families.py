"""Families of tokens: how one starts, and how it is revoked.

A family is one sign-in and all tokens that come from it; ``generation`` counts its refresh tokens. What a profile
does with a token that was used before:

* ``entra``: nothing; each token has its own lifetime, so two holders can go on from one ancestor.
* ``auth0``: only the *immediately previous* token, at most ``leeway_s`` (30 s, the end included) after its successor
  was first issued, gets another successor. An older token, or the previous one later, kills the family.
* ``strict``: any used token kills the family and its access tokens.

Two more kinds exist for simulations (:data:`token_relay.sandbox.provider.world.rules.KINDS`): one only refuses a used
token, the other lets the family branch within a grace period.

The refresh itself is :mod:`token_relay.sandbox.provider.tokens.refresh`. RFC 6749 §6, RFC 9700 §4.14.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from token_relay.protocol.secret import Password
from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, split_scope
from token_relay.sandbox.provider.memory.accounts import REVOKES, AccountEvent, User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, Redeemer, Session, State, remember
from token_relay.sandbox.provider.memory.verdicts import Command
from token_relay.sandbox.provider.tokens import dpop
from token_relay.sandbox.provider.tokens.actions import carry_out
from token_relay.sandbox.provider.tokens.audience import check_resources, covers
from token_relay.sandbox.provider.tokens.cascade import end_session, kill_family, kill_reached, log_revoked
from token_relay.sandbox.provider.tokens.claims import NO_CLAIMS, Claims
from token_relay.sandbox.provider.tokens.issued import find_access, find_refresh
from token_relay.sandbox.provider.tokens.rotation import ONLINE, Rotation, issue, rotation_of
from token_relay.sandbox.provider.tokens.token_answer import token_answer
from token_relay.sandbox.provider.world.model import DAY_S, ClientModel
from token_relay.sandbox.provider.world.rules import OIDC_SCOPES

SPA_LIFETIME_S = DAY_S  # from the sign-in, for refresh tokens of single-page apps, whatever the policy
AUDIENCE_CHARS_MAX = 512


def find_client(state: State, params: Params) -> ClientModel:
    """Return the client that asks. Raises Refusal."""
    client_id = params.get("client_id")
    if not client_id:
        raise Refusal("invalid_request", "client_id parameter is empty or not valid.", code=90100)
    client = state.clients.get(client_id)
    if client is not None and client.disabled and state.urls.profile == "entra":
        raise Refusal("unauthorized_client", "The application is disabled.", code=7000112)
    if client is not None:
        check_secret(client, params)
        return client
    if state.urls.profile == "entra":
        raise Refusal("unauthorized_client", "The application was not found in the directory.", code=700016)
    raise Refusal("invalid_client", "Unknown client.", status=401)


def check_secret(client: ClientModel, params: Params) -> None:
    """Let a confidential client prove itself. Raises Refusal. RFC 6749 §2.3.1."""
    given = params.get("client_secret")
    if client.is_confidential and (not given or client.client_secret != Password(given)):
        raise Refusal("invalid_client", "Client authentication failed.", status=401)


def grant_type_refused(grant_type: str) -> Refusal:
    """Return the refusal of a grant type that the client does not have."""
    more: dict[str, JsonValue] = {"error_uri": "https://auth0.com/docs/clients/client-grant-types"}
    text = f"Grant type '{grant_type}' not allowed for the client."
    return Refusal("unauthorized_client", text, status=403, more=more)


def asked_scope(client: ClientModel, params: Params) -> tuple[str, ...]:
    """Return the scope that a sign-in asks for, if this client may ask for it. Raises Refusal."""
    scope = split_scope(params.get("scope")) if params.get("scope") else ()
    if {"online_access", "offline_access"} <= {*scope}:
        raise Refusal("invalid_request", "Cannot request both online_access and offline_access scopes")
    check_scope(scope, None if client.scopes is None else {*client.scopes, *OIDC_SCOPES})
    return scope


def check_scope(scope: tuple[str, ...], allowed: set[str] | None) -> None:
    """Refuse a scope that goes beyond what is allowed; None allows everything. Raises Refusal."""
    if allowed is not None and not all(covers(allowed, word) for word in scope):
        raise Refusal("invalid_scope", "The requested scope goes beyond what was granted.", code=70011)


def scope_of_use(state: State, client: ClientModel, params: Params, granted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scope that a use of a grant asks for under ``entra``: a part of it, or what else is registered.

    Registered scopes have consent, those of other APIs too. Raises Refusal.
    """
    asked = split_scope(params.get("scope")) if params.get("scope") else granted
    check_scope(asked, None if client.scopes is None else {*granted, *OIDC_SCOPES, *client.scopes})
    try:
        check_resources(state, asked)
    except Refusal as refusal:
        if params.get("scope") or refusal.code != 28000:
            raise
        text = "Provided value for the input parameter scope cannot be empty when requesting an access token using the "
        raise Refusal("invalid_request", f"{text}provided grant. Please specify a valid scope.", code=28003) from None
    return asked


def asked_audience(params: Params) -> str:
    """Return the API that the tokens are for, or an empty string. Raises Refusal."""
    audience = params.get("audience")
    if len(audience) > AUDIENCE_CHARS_MAX:
        raise Refusal("invalid_request", f"audience is longer than {AUDIENCE_CHARS_MAX} characters")
    return audience


@dataclass(frozen=True, slots=True)
class SignInRequest:
    """What a sign-in asked for, and how the person proved who they are."""

    client_id: str
    scope: tuple[str, ...]
    method: str
    audience: str = ""
    nonce: str = ""
    has_second_factor: bool = False
    claims: Claims = NO_CLAIMS
    redeemer: Redeemer = ""
    organization: str = ""
    token_scope: tuple[str, ...] | None = None  # of the first tokens, where it is less than the whole
    tells_auth_time: bool = False


def sign_in(
    state: State,
    user: User,
    trace: Trace,
    asked: SignInRequest,
    *,
    session: Session | None = None,
    commands: Sequence[Command] = (),
) -> tuple[Family, Response]:
    """Start a family and answer with its first tokens: a refresh token only for ``offline_access`` or an online grant.

    ``session``: where the family starts. ``commands``: what an Action said. Raises Refusal when that is a revocation.
    """
    client = state.clients.get(asked.client_id)
    is_online = "online_access" in asked.scope and session is not None
    rotation = ONLINE if is_online else rotation_of(state, client)
    since = trace.now if session is None else session.authenticated_at
    family = _new_family(state, user, trace, asked, rotation, since=since, is_online=is_online)
    if session is not None:
        family.session_id, family.parent_family_id = session.session_id, session.parent_family_id
        family.authenticated_at, family.actor = session.authenticated_at, session.actor
    remember(state.families, family.family_id, family)
    refresh_token = ""
    if is_online or "offline_access" in asked.scope:
        refresh_token = issue(state, family, trace.now, rotation)
        family.key_thumbprint = dpop.binding_of(client, trace)
        _drop_over_limit(state, family, trace)
    carry_out(state, commands, trace, session=session, family=family)
    response = token_answer(
        state,
        family,
        user,
        trace,
        asked.scope if asked.token_scope is None else asked.token_scope,
        refresh_token=refresh_token,
        nonce=asked.nonce,
        claims=asked.claims,
        commands=commands,
    )
    return family, response


def _new_family(
    state: State,
    user: User,
    trace: Trace,
    asked: SignInRequest,
    rotation: Rotation,
    *,
    since: float,
    is_online: bool,
) -> Family:
    family_id = f"family-{state.rng.randbytes(8).hex()}"
    born_at_seq = state.note(
        "signed_in",
        trace.now,
        trace_id=trace.trace_id,
        username=user.username,
        client_id=asked.client_id,
        family=family_id,
        method=asked.method,
    )
    expires_at, expired_code = _end_of(state, trace.now, asked, rotation, since=since)
    return Family(
        family_id=family_id,
        client_id=asked.client_id,
        username=user.username,
        scope=asked.scope,
        audience=asked.audience,
        method=asked.method,
        born_at_seq=born_at_seq,
        born_at=trace.now,
        expires_at=expires_at,
        expired_code=expired_code,
        has_second_factor=asked.has_second_factor,
        redeemer=asked.redeemer,
        organization=asked.organization,
        is_rotating=rotation.rotates,
        is_online=is_online,
        tells_auth_time=asked.tells_auth_time,
        initial_place=trace.place,
        last_place=trace.place,
    )


def _end_of(
    state: State, now: float, asked: SignInRequest, rotation: Rotation, *, since: float
) -> tuple[float | None, int]:
    """Return when the family of this sign-in ends (None: never), and the AADSTS number of a refusal after that.

    ``since``: when the person proved who they are, which a session may have done for it.
    """
    policy = state.policy
    is_fixed_otp = asked.method == "oob" and policy.otp_refresh_mode == "fixed"
    lifetimes = [(now, rotation.absolute_s), (since, policy.otp_refresh_lifetime_s if is_fixed_otp else None)]
    end = min((start + lifetime for start, lifetime in lifetimes if lifetime is not None), default=None)
    spa_end = now + SPA_LIFETIME_S
    if asked.redeemer == "spa" and state.rules.is_native and (end is None or spa_end <= end):
        return spa_end, 700084
    return end, 70008


def revoke(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Answer RFC 7009: revoking a refresh token ends its family; ``strict`` also revokes single access tokens."""
    value = params.need("token")
    if state.rules.revocation == "refused":
        raise Refusal("unauthorized_client", "This client may not revoke.", status=401)
    if state.rules.revocation == "ignored":
        return Response(200)
    refresh_entry, access_entry = find_refresh(state, value), find_access(state, value)
    known = refresh_entry or access_entry
    family = state.families.get(known.family_id) if known is not None else None
    if known is None or family is None:
        return Response(200)  # §2.2: an unknown token is as good as a revoked one
    if family.client_id != client.client_id:
        raise Refusal("invalid_grant", "The token was not issued to this client.")  # §2.1
    if access_entry is not None and state.rules.revokes_by_access_token:
        if not family.is_dead:
            kill_family(state, family, trace, reason="revoked", access_tokens=True)
    elif access_entry is not None:
        if not state.rules.reuse_kills_access_tokens:
            raise Refusal("unsupported_token_type", "Access tokens are self-contained here.")  # §2.2.1
        remember(state.revoked_access_tokens, access_entry.token_id, access_entry.expires_at)
    else:
        revoke_family(state, family, trace)
    state.note(
        "token_revoked",
        trace.now,
        trace_id=trace.trace_id,
        family=family.family_id,
        client_id=client.client_id,
        username=family.username,
        token_type="access_token" if access_entry is not None else "refresh_token",
    )
    return Response(200)


def revoke_family(state: State, family: Family, trace: Trace) -> None:
    """Revoke a grant for its holder or an administrator; with ``revoking_deletes_grant`` also those like it."""
    for one in kill_reached(state, family, state.rules.revocation_takes, trace, reason="revoked"):
        log_revoked(state, one, trace, cause="revoked")
    meant: list[Family] = []
    if state.policy.revoking_deletes_grant and state.rules.is_managed:
        whose = (family.username, family.client_id, family.audience)
        meant = [one for one in state.families.values() if (one.username, one.client_id, one.audience) == whose]
    for one in meant:
        if not one.is_dead:
            kill_family(state, one, trace, reason="revoked")
            log_revoked(state, one, trace, cause="revoked")


def revoke_user(state: State, username: str, trace: Trace, *, event: AccountEvent = "revoke_all") -> bool:
    """Apply an event to an account, by default an administrator's revocation; False when there is no such person.

    Under ``entra`` the event marks the person, and later answers are 50173; elsewhere the families end. Browsers are
    signed out. Access tokens stay valid until they expire, except under ``strict`` and continuous access evaluation.
    """
    user = state.users.get(username.lower())
    if user is None:
        return False
    of_password, of_others = REVOKES[event]
    if of_password or of_others:
        seq = state.note("token_revoked", trace.now, trace_id=trace.trace_id, username=user.username, cause=event)
    else:
        seq = state.note("account_event", trace.now, trace_id=trace.trace_id, username=user.username, cause=event)
    user.take(event, seq, trace.now)
    if state.urls.profile != "entra":
        for family in list(state.families.values()):
            is_meant = of_password if family.method == "password" else of_others
            if is_meant and family.username == user.username and not family.is_dead:
                kill_family(state, family, trace, reason="user_revoked")
                log_revoked(state, family, trace, cause="user_revoked")
    if of_password or of_others or event == "single_sign_out":
        for session in [one for one in state.sessions.values() if one.username == user.username]:
            end_session(state, session, trace, reason="user_revoked")
    return True


def remove_user(state: State, username: str, trace: Trace) -> bool:
    """Delete an account with all that it has signed in to; False when there is no such person."""
    if not revoke_user(state, username, trace, event="admin_reset_admin_center"):
        return False
    for family in state.families.values():
        if family.username == username.lower() and not family.is_dead:
            kill_family(state, family, trace, reason="user_deleted")
    del state.users[username.lower()]
    return True


def _drop_over_limit(state: State, family: Family, trace: Trace) -> None:
    """End this person's oldest grants with this client beyond the limit."""
    most = state.rules.grants_max
    if most is None:
        return
    whose = (family.username, family.client_id)
    like = [one for one in state.families.values() if (one.username, one.client_id) == whose]
    alive = [one for one in like if one.generation > 0 and not one.is_dead]
    for one in alive[: max(0, len(alive) - most)]:
        kill_family(state, one, trace, reason="limit")
        state.log(
            "resource_cleanup",
            trace,
            client_id=one.client_id,
            username=one.username,
            details={"resource": "refresh_tokens", "credential_id": one.family_id, "limit": most},
        )
