"""Families of tokens: issuing, rotating, noticing reuse, killing.

A family is one sign-in and all that stems from it; its refresh tokens are counted by ``generation``. What a profile
does with a token that was used before:

* ``entra``: nothing; each token lives its own time, so two holders can go on from one ancestor.
* ``auth0``: only the *immediately previous* token, at most ``leeway_s`` (30 s, the end included) after its successor
  was first issued, gets another successor. Any older one, or that one later, kills the family.
* ``strict``: any used token kills the family and its access tokens.

Two more kinds exist for simulations (:data:`token_relay.sandbox.provider.world.rules.KINDS`): one that refuses a used
token and nothing else, one that lets the family branch within a grace period.

Everything is checked before anything is changed, so a refusal leaves no trace but its event (and the family's death).
RFC 6749 §6, RFC 9700 §4.14.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from token_relay.protocol.secret import Password
from token_relay.sandbox.marked_tokens import MARK
from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, split_scope
from token_relay.sandbox.provider.memory.accounts import REVOKES, AccountEvent, User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, RefreshEntry, Session, State, remember
from token_relay.sandbox.provider.memory.verdicts import Command
from token_relay.sandbox.provider.tokens import dpop, multi_resource, session_transfer
from token_relay.sandbox.provider.tokens.actions import ask, carry_out, denial
from token_relay.sandbox.provider.tokens.cascade import end_session, is_offline, kill_family, log_revoked
from token_relay.sandbox.provider.tokens.claims import NO_CLAIMS, Claims, asked_claims
from token_relay.sandbox.provider.tokens.conditional_access import at_refresh
from token_relay.sandbox.provider.tokens.issued import find_access, find_refresh, token_id
from token_relay.sandbox.provider.tokens.rotation import ONLINE, Rotation, issue, may_be_used, rotation_of, use
from token_relay.sandbox.provider.tokens.token_answer import token_answer
from token_relay.sandbox.provider.world.model import DAY_S, ClientModel
from token_relay.sandbox.provider.world.rules import OIDC_SCOPES

SPA_LIFETIME_S = DAY_S  # of refresh tokens of single-page apps, from the sign-in, whatever the policy
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


def asked_scope(client: ClientModel, params: Params) -> tuple[str, ...]:
    """Return the scope of a sign-in: what was asked for, where this client may ask for it. Raises Refusal."""
    scope = split_scope(params.get("scope")) if params.get("scope") else ()
    if {"online_access", "offline_access"} <= {*scope}:
        raise Refusal("invalid_request", "Cannot request both online_access and offline_access scopes")
    _check_scope(scope, None if client.scopes is None else {*client.scopes, *OIDC_SCOPES})
    return scope


def asked_audience(params: Params) -> str:
    """Return the API that the tokens are for, or an empty string. Raises Refusal."""
    audience = params.get("audience")
    if len(audience) > AUDIENCE_CHARS_MAX:
        raise Refusal("invalid_request", f"audience is longer than {AUDIENCE_CHARS_MAX} characters")
    return audience


def sign_in(
    state: State,
    user: User,
    trace: Trace,
    *,
    client_id: str,
    scope: tuple[str, ...],
    method: str,
    audience: str = "",
    nonce: str = "",
    has_second_factor: bool = False,
    claims: Claims = NO_CLAIMS,
    is_spa: bool = False,
    session: Session | None = None,
    organization: str = "",
    commands: Sequence[Command] = (),
) -> tuple[Family, Response]:
    """Start a family and answer with its first tokens: a refresh token only for ``offline_access``.

    ``session``: the one it is born in. ``commands``: what an Action has said. Raises Refusal when that is a revocation.
    """
    policy = state.policy
    is_online = "online_access" in scope and session is not None
    rotation = ONLINE if is_online else rotation_of(state, state.clients.get(client_id))
    is_fixed_otp = method == "oob" and policy.otp_refresh_mode == "fixed"
    lifetimes = [rotation.absolute_s, policy.otp_refresh_lifetime_s if is_fixed_otp else None]
    ends = [trace.now + lifetime for lifetime in lifetimes if lifetime is not None]
    spa_end = trace.now + SPA_LIFETIME_S if is_spa else None
    ends_first = spa_end is not None and spa_end <= min(ends, default=spa_end)
    family_id = f"family-{state.rng.randbytes(8).hex()}"
    born_at_seq = state.note(
        "signed_in",
        trace.now,
        trace_id=trace.trace_id,
        username=user.username,
        client_id=client_id,
        family=family_id,
        method=method,
    )
    family = Family(
        family_id=family_id,
        client_id=client_id,
        username=user.username,
        scope=scope,
        audience=audience,
        method=method,
        born_at_seq=born_at_seq,
        born_at=trace.now,
        expires_at=spa_end if ends_first else min(ends, default=None),
        expired_code=700084 if ends_first else 70008,
        has_second_factor=has_second_factor,
        organization=organization,
        is_rotating=rotation.rotates,
        is_online=is_online,
        initial_place=trace.place,
        last_place=trace.place,
    )
    if session is not None:
        family.session_id, family.parent_family_id = session.session_id, session.parent_family_id
        family.authenticated_at, family.actor = session.authenticated_at, session.actor
    remember(state.families, family_id, family)
    refresh_token = ""
    if is_online or "offline_access" in scope:
        refresh_token = issue(state, family, trace.now, rotation)
        family.key_thumbprint = dpop.binding_of(state.clients.get(client_id), trace)
        _drop_over_limit(state, family, trace)
    carry_out(state, commands, trace, session=session, family=family)
    response = token_answer(
        state,
        family,
        user,
        trace,
        scope,
        refresh_token=refresh_token,
        nonce=nonce,
        claims=claims,
        commands=commands,
    )
    return family, response


def refresh(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=refresh_token``. Raises Refusal."""
    value, audience = params.need("refresh_token"), asked_audience(params)
    deny = partial(_denied, state, trace, client.client_id, audience)
    entry = find_refresh(state, value)
    family = state.families.get(entry.family_id) if entry is not None else None
    if entry is None or family is None or family.client_id != client.client_id:
        raise deny(None, reason="unknown", code=70000, text="The refresh token is not valid.")
    rotation = rotation_of(state, client, family)
    user = state.users.get(family.username)
    if user is None:
        raise deny(family, reason="no_user", code=50034, text="The user account does not exist.")
    if user.is_disabled and state.urls.profile == "entra":
        text = "The user account is disabled."
        raise deny(family, reason="disabled", code=50057, text=text)
    if state.urls.profile == "entra" and family.born_at_seq < user.revoked_at_seq(family.method):
        text = "The provided grant has expired due to it being revoked, a fresh auth token is needed."
        raise deny(family, reason="revoked", code=50173, text=text)
    if family.is_dead:
        raise deny(family, reason="family_dead", code=70008, text="The grant was revoked.")
    if is_offline(state, family, trace.now):
        text = "The session of the refresh token has ended."
        raise deny(family, reason="offline", code=70008, text=text)
    if family.key_thumbprint and trace.key_thumbprint != family.key_thumbprint:
        raise deny(family, reason="key", code=70000, text="The refresh token is bound to another key.")
    if state.rules.has_sessions and not _settle_switch(state, family, rotation, trace):
        text = "The refresh token is of a kind that is switched off."
        raise deny(family, reason="family_dead", code=70000, text=text)
    if rotation.rotates and not may_be_used(state, family, entry, rotation, trace.now):
        state.log(
            "ferrt",
            trace,
            client_id=client.client_id,
            username=family.username,
            details={
                "familyId": family.family_id,
                "tokenCounter": entry.generation,
                "latestCounter": family.generation,
            },
        )
        state.note(
            "reuse_detected",
            trace.now,
            trace_id=trace.trace_id,
            family=family.family_id,
            client_id=client.client_id,
            username=family.username,
            generation=entry.generation,
            latest_generation=family.generation,
        )
        if state.rules.reuse_kills_family:
            kill_family(state, family, trace, reason="reuse")
        raise deny(family, reason="reuse", code=70000, text=_reuse_text(state, family, entry), is_logged=False)
    if entry.idle_expires_at is not None and trace.now >= entry.idle_expires_at:
        text = "The refresh token has expired due to inactivity."
        raise deny(family, reason="idle", code=700082, text=text)
    if family.expires_at is not None and trace.now >= family.expires_at:
        text = "The provided authorization code or refresh token has expired."
        raise deny(family, reason="expired", code=family.expired_code, text=text)
    is_transfer = state.rules.has_sessions and session_transfer.domain_of(audience) != ""
    if is_transfer:
        try:
            session_transfer.check_may_create(state, client, family, params, trace)
        except Refusal as refusal:
            _log_failed(state, trace, client.client_id, family, refusal.description, audience=audience)
            raise
    asked = split_scope(params.get("scope")) if params.get("scope") else ()
    target = None if is_transfer else multi_resource.target(state, client, family, audience, asked)
    if target is not None:
        scope = target.scope
    else:
        if not is_transfer and audience not in {"", family.audience}:
            raise Refusal("access_denied", "This grant has no tokens for another audience.", status=403)
        scope, allowed = asked or family.scope, {*family.scope}
        if state.urls.profile == "entra":  # a registered scope is consented, of another resource too
            allowed |= {*OIDC_SCOPES, *(client.scopes or ())}
        _check_scope(scope, allowed)
    claims = asked_claims(params) if state.urls.profile == "entra" else NO_CLAIMS
    rule = at_refresh(state, family, trace.now) if state.urls.profile == "entra" else None
    if rule is not None:
        _note_denied(state, trace, family, client.client_id, reason="policy", code=rule.code)
        raise rule

    session = state.sessions.get(family.session_id)
    verdict = ask(
        state,
        trace,
        client=client,
        user=user,
        protocol="oauth2-refresh-token",
        scope=scope,
        session=session,
        family=family,
        organization=family.organization,
    )
    problem = denial(verdict)
    if problem:
        cause: dict[str, JsonValue] = {"action_failure": verdict.failure} if verdict.failure else {}
        _log_failed(state, trace, client.client_id, family, problem, audience=audience, details=cause)
        raise Refusal("access_denied", problem, status=403)
    refresh_token = use(state, family, entry, rotation, trace)
    carry_out(state, verdict.commands, trace, session=session, family=family)
    state.note(
        "refresh_committed",
        trace.now,
        trace_id=trace.trace_id,
        family=family.family_id,
        client_id=client.client_id,
        username=family.username,
        generation=family.generation,
        used_generation=entry.generation,
    )
    jti = "" if is_transfer else token_id(state, family)
    state.log(
        "sertft",
        trace,
        client_id=client.client_id,
        username=family.username,
        audience=audience if is_transfer else family.audience if target is None else target.audience,
        scope=" ".join(scope),
        details={
            "familyId": family.family_id,
            "tokenCounter": entry.generation,
            "requested_audience": audience,
            "policy_used": "refresh_token_user_grant" if target is None else target.policy_used,
            **({} if is_transfer else {"access_token_jti": jti.removeprefix(f"{MARK}-")}),  # no log holds the mark
        },
    )
    if is_transfer:
        transfer = session_transfer.create(state, family, trace)
        return session_transfer.answer(state, family, transfer, refresh_token, trace)
    return token_answer(
        state,
        family,
        user,
        trace,
        scope,
        refresh_token=refresh_token or (value if state.rules.answers == "same" else ""),
        audience="" if target is None else target.audience,
        jti=jti,
        is_refresh=True,
        claims=claims,
        commands=verdict.commands,
    )


def revoke(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Answer RFC 7009: a refresh token takes its family along, ``strict`` also takes single access tokens back."""
    value = params.need("token")
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
    """Revoke a grant by order of its holder or an administrator; where a knob says so, with all its like."""
    meant = [family]
    if state.policy.revoking_deletes_grant and state.rules.has_sessions:
        whose = (family.username, family.client_id, family.audience)
        meant += [one for one in state.families.values() if (one.username, one.client_id, one.audience) == whose]
    for one in meant:
        if not one.is_dead:
            kill_family(state, one, trace, reason="revoked")
            log_revoked(state, one, trace, cause="revoked")


def revoke_user(state: State, username: str, trace: Trace, *, event: AccountEvent = "revoke_all") -> bool:
    """Let something happen to an account, an administrator's revocation by default; False when there is no such person.

    Under ``entra`` it is a mark on the person, and later answers are 50173; elsewhere the families die. Access tokens
    live on to their end, but for ``strict`` and those under continuous access evaluation.
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
        if of_password or of_others:
            for session in [one for one in state.sessions.values() if one.username == user.username]:
                end_session(state, session, trace, reason="user_revoked")
    return True


def _check_scope(scope: tuple[str, ...], allowed: set[str] | None) -> None:
    if allowed is not None and not allowed.issuperset(scope):
        raise Refusal("invalid_scope", "The requested scope goes beyond what was granted.", code=70011)


def _reuse_text(state: State, family: Family, entry: RefreshEntry) -> str:
    texts = state.rules.texts
    if "stale" in texts:
        return texts["stale" if entry.generation < family.used_generation else "reuse"]
    return "The refresh token was used before."


def _settle_switch(state: State, family: Family, rotation: Rotation, trace: Trace) -> bool:
    """Carry out what switching a client's rotation does at the next exchange; False when it ended this family.

    On: the other refresh tokens of this client, API and person that were made without rotation go. Off: a family that
    was made with rotation goes.
    """
    if family.is_rotating == rotation.rotates:
        return True
    if family.is_rotating:
        kill_family(state, family, trace, reason="rotation_switched_off")
        log_revoked(state, family, trace, cause="rotation_switched_off")
        return False
    family.is_rotating = True
    whose = (family.username, family.client_id, family.audience)
    for one in list(state.families.values()):
        is_like = (one.username, one.client_id, one.audience) == whose and one.generation > 0
        if is_like and one is not family and not (one.is_rotating or one.is_online or one.is_dead):
            kill_family(state, one, trace, reason="rotation_switched_on")
            log_revoked(state, one, trace, cause="rotation_switched_on")
    return True


def _drop_over_limit(state: State, family: Family, trace: Trace) -> None:
    """End the oldest grants of this person with this client beyond the limit."""
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


def _log_failed(
    state: State,
    trace: Trace,
    client_id: str,
    family: Family | None,
    description: str,
    *,
    audience: str = "",
    details: dict[str, JsonValue] | None = None,
) -> None:
    more: dict[str, JsonValue] = {"familyId": family.family_id} if family is not None else {}
    more |= {"requested_audience": audience} if audience else {}
    state.log(
        "fertft",
        trace,
        client_id=client_id,
        username=family.username if family is not None else "",
        description=description,
        audience=audience,
        details={**more, **(details or {})},
    )


def _denied(
    state: State,
    trace: Trace,
    client_id: str,
    audience: str,
    family: Family | None,
    *,
    reason: str,
    code: int,
    text: str,
    is_logged: bool = True,
) -> Refusal:
    _note_denied(state, trace, family, client_id, reason=reason, code=code)
    if state.urls.profile == "auth0":
        # one text for every cause but a missing person, the final period included
        text = "Unknown or invalid refresh token."
        if reason == "no_user":
            text = "The refresh_token was generated for a user who doesn't exist anymore."
        if is_logged:
            _log_failed(state, trace, client_id, family, text, audience=audience)
    if reason != "reuse" or "stale" not in state.rules.texts:
        text = state.rules.texts.get(reason, state.rules.texts.get("", text))
    return Refusal("invalid_grant", text, code=code)


def _note_denied(state: State, trace: Trace, family: Family | None, client_id: str, *, reason: str, code: int) -> None:
    state.note(
        "refresh_denied",
        trace.now,
        trace_id=trace.trace_id,
        family=family.family_id if family is not None else "",
        client_id=client_id,
        username=family.username if family is not None else "",
        reason=reason,
        code=code if state.urls.profile == "entra" else "invalid_grant",
    )
