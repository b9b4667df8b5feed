"""``grant_type=refresh_token``: a list of checks, then the exchange.

:data:`CHECKS` is the order in which a grant is judged; the first check that holds decides what the client reads, so a
token that was used before and has expired as well counts as reuse. No check changes anything, with two exceptions
that the providers make too: a switched rotation and a reuse end grants. A refusal records its event and, under
``auth0``, its log record. RFC 6749 §6 and §5.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from token_relay.sandbox.marked_tokens import MARK
from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response, split_scope
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, RefreshEntry, State
from token_relay.sandbox.provider.memory.verdicts import Verdict
from token_relay.sandbox.provider.tokens import conditional_access, multi_resource, origins, session_transfer
from token_relay.sandbox.provider.tokens.actions import ask, carry_out, denial
from token_relay.sandbox.provider.tokens.cascade import is_offline, kill_family, kill_reached, log_revoked
from token_relay.sandbox.provider.tokens.claims import NO_CLAIMS, Claims, asked_claims
from token_relay.sandbox.provider.tokens.families import asked_audience, check_scope, scope_of_use
from token_relay.sandbox.provider.tokens.issued import find_refresh, token_id
from token_relay.sandbox.provider.tokens.rotation import Rotation, may_be_used, rotation_of, use
from token_relay.sandbox.provider.tokens.token_answer import token_answer
from token_relay.sandbox.provider.world.model import ClientModel


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """A request whose refresh token is known here, with the grant and the person behind it."""

    client: ClientModel
    params: Params
    trace: Trace
    audience: str
    entry: RefreshEntry
    family: Family
    user: User
    rotation: Rotation


@dataclass(frozen=True, slots=True)
class GrantDenial:
    """Why a grant is refused. ``code`` is Microsoft's AADSTS number; 0 means the family's ``expired_code``."""

    reason: str  # as in the event
    code: int
    text: str


_UNKNOWN = GrantDenial("unknown", 70000, "The refresh token is not valid.")
_NO_USER = GrantDenial("no_user", 50034, "The user account does not exist.")
_REVOKED = "The provided grant has expired due to it being revoked, a fresh auth token is needed."
_EXPIRED = "The provided authorization code or refresh token has expired."


def refresh(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=refresh_token``. Raises Refusal."""
    request = _find(state, client, params, trace)
    origins.check(state, request.family.redeemer, trace)
    family, audience = request.family, request.audience
    for holds, because in CHECKS:
        if holds(state, request):
            is_stale = request.entry.generation < family.used_generation
            raise _denied(
                state, trace, family, because, client_id=client.client_id, audience=audience, is_stale=is_stale
            )
    if _is_transfer(state, request):
        _check_transfer(state, request)
    is_entra = state.urls.profile == "entra"
    target = _target(state, request)
    claims = asked_claims(params) if is_entra else NO_CLAIMS
    if is_entra and (refusal := conditional_access.at_refresh(state, family, trace.now)) is not None:
        _note_denied(state, trace, family, client.client_id, reason="policy", code=refusal.code)
        raise refusal
    verdict = _ask_action(state, request, target.scope)
    return _exchange(state, request, target, verdict, claims)


def _find(state: State, client: ClientModel, params: Params, trace: Trace) -> RefreshRequest:
    """Find the grant and the person of a refresh token. Raises Refusal."""
    value, audience = params.need("refresh_token"), asked_audience(params)
    entry = find_refresh(state, value)
    family = state.families.get(entry.family_id) if entry is not None else None
    if entry is None or family is None or family.client_id != client.client_id:
        raise _denied(state, trace, None, _UNKNOWN, client_id=client.client_id, audience=audience)
    user = state.users.get(family.username)
    if user is None:
        raise _denied(state, trace, family, _NO_USER, client_id=client.client_id, audience=audience)
    return RefreshRequest(client, params, trace, audience, entry, family, user, rotation_of(state, client, family))


# -- The checks of a grant ---------------------------------------------------------------------------------


def _user_is_disabled(_: State, request: RefreshRequest) -> bool:
    return request.user.is_disabled


def _user_was_revoked(state: State, request: RefreshRequest) -> bool:
    family = request.family
    return state.urls.profile == "entra" and family.born_at_seq < request.user.revoked_at_seq(family.method)


def _is_dead(_: State, request: RefreshRequest) -> bool:
    return request.family.is_dead


def _is_offline(state: State, request: RefreshRequest) -> bool:
    return is_offline(state, request.family, request.trace.now)


def _is_of_another_key(_: State, request: RefreshRequest) -> bool:
    return request.family.key_thumbprint not in {"", request.trace.key_thumbprint}


def _is_switched_off(state: State, request: RefreshRequest) -> bool:
    """Apply a switch of the client's rotation at the next exchange; True when that ended this family.

    Switched on: the other refresh tokens of this client, API and person that were made without rotation end. Switched
    off: a family that was made with rotation ends.
    """
    family, rotates, trace = request.family, request.rotation.rotates, request.trace
    if not state.rules.is_managed or family.is_rotating == rotates:
        return False
    if family.is_rotating:
        kill_family(state, family, trace, reason="rotation_switched_off")
        log_revoked(state, family, trace, cause="rotation_switched_off")
        return True
    family.is_rotating = True
    whose = (family.username, family.client_id, family.audience)
    for one in list(state.families.values()):
        is_like = (one.username, one.client_id, one.audience) == whose and one.generation > 0
        if is_like and one is not family and not (one.is_rotating or one.is_online or one.is_dead):
            kill_family(state, one, trace, reason="rotation_switched_on")
            log_revoked(state, one, trace, cause="rotation_switched_on")
    return False


def _is_reuse(state: State, request: RefreshRequest) -> bool:
    """Return whether the token was used before in a way that is not allowed; most profiles end the grant for it."""
    entry, family, trace = request.entry, request.family, request.trace
    if not request.rotation.rotates or may_be_used(state, family, entry, request.rotation, trace.now):
        return False
    state.log(
        "ferrt",
        trace,
        client_id=family.client_id,
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
        client_id=family.client_id,
        username=family.username,
        generation=entry.generation,
        latest_generation=family.generation,
    )
    kill_reached(state, family, state.rules.reuse_takes, trace, reason="reuse")
    return True


def _is_idle(_: State, request: RefreshRequest) -> bool:
    end = request.entry.idle_expires_at
    return end is not None and request.trace.now >= end


def _has_expired(_: State, request: RefreshRequest) -> bool:
    end = request.family.expires_at
    return end is not None and request.trace.now >= end


CHECKS: tuple[tuple[Callable[[State, RefreshRequest], bool], GrantDenial], ...] = (
    # The account is looked at when a token is used.
    (_user_is_disabled, GrantDenial("disabled", 50057, "The user account is disabled.")),
    (_user_was_revoked, GrantDenial("revoked", 50173, _REVOKED)),
    # RFC 7009 §2.1 and RFC 9700 §4.14.2: a grant that was revoked, or ended by a reuse, stays ended.
    (_is_dead, GrantDenial("family_dead", 70008, "The grant was revoked.")),
    # Auth0, online refresh tokens: they live no longer than their session.
    (_is_offline, GrantDenial("offline", 70008, "The session of the refresh token has ended.")),
    # RFC 9449 §5: a public client proves the key that its refresh token is bound to.
    (_is_of_another_key, GrantDenial("key", 70000, "The refresh token is bound to another key.")),
    # Auth0, refresh token rotation: switching it ends the tokens of the other kind.
    (_is_switched_off, GrantDenial("family_dead", 70000, "The refresh token is of a kind that is switched off.")),
    # RFC 9700 §4.14.2: a used token shows that two parties hold the grant. This comes before the lifetimes, since a
    # used token counts as reuse even when it has expired.
    (_is_reuse, GrantDenial("reuse", 70000, "The refresh token was used before.")),
    # Lifetimes: Entra's 700082 and 70008 (700084 for single-page apps), Auth0's idle and absolute lifetime.
    (_is_idle, GrantDenial("idle", 700082, "The refresh token has expired due to inactivity.")),
    (_has_expired, GrantDenial("expired", 0, _EXPIRED)),
)


def _check_transfer(state: State, request: RefreshRequest) -> None:
    """Refuse a session transfer token to a client without that setting. Raises Refusal."""
    try:
        session_transfer.check_may_create(state, request.client, request.family, request.params, request.trace)
    except Refusal as refusal:
        _log_failed(
            state,
            request.trace,
            request.family,
            refusal.description,
            client_id=request.client.client_id,
            audience=request.audience,
        )
        raise


# -- Audience, scope and the exchange ----------------------------------------------------------------------


def _is_transfer(state: State, request: RefreshRequest) -> bool:
    return state.rules.is_managed and session_transfer.domain_of(request.audience) != ""


def _target(state: State, request: RefreshRequest) -> multi_resource.Target:
    """Return the audience (empty: the grant's own) and the scope of the new tokens. Raises Refusal."""
    client, params, family, audience = request.client, request.params, request.family, request.audience
    is_transfer = _is_transfer(state, request)
    asked = split_scope(params.get("scope")) if params.get("scope") else ()
    target = None if is_transfer else multi_resource.target(state, client, family, audience, asked)
    if target is not None:
        return target
    if not is_transfer and audience not in {"", family.audience}:
        raise Refusal("access_denied", "This grant has no tokens for another audience.", status=403)
    scope, allowed = asked or family.scope, {*family.scope}
    if not state.rules.narrows and {*scope} != allowed:
        raise Refusal("invalid_scope", "The scope of a refresh must be that of the grant.")
    if state.urls.profile == "entra":
        scope = scope_of_use(state, client, params, family.scope)
    else:
        check_scope(scope, allowed)
    return multi_resource.Target(audience if is_transfer else "", scope, "refresh_token_user_grant")


def _ask_action(state: State, request: RefreshRequest, scope: tuple[str, ...]) -> Verdict:
    """Ask the tenant's Action. Raises Refusal when it denies."""
    family, trace = request.family, request.trace
    verdict = ask(
        state,
        trace,
        client=request.client,
        user=request.user,
        protocol="oauth2-refresh-token",
        scope=scope,
        session=state.sessions.get(family.session_id),
        family=family,
        organization=family.organization,
    )
    problem = denial(verdict)
    if problem:
        _log_failed(
            state,
            trace,
            family,
            problem,
            client_id=request.client.client_id,
            audience=request.audience,
            failure=verdict.failure,
        )
        raise Refusal("access_denied", problem, status=403)
    return verdict


def _exchange(
    state: State, request: RefreshRequest, target: multi_resource.Target, verdict: Verdict, claims: Claims
) -> Response:
    """Use the token up and answer. Raises Refusal when the Action revokes the grant or its session."""
    family, trace = request.family, request.trace
    is_transfer = _is_transfer(state, request)
    refresh_token = use(state, family, request.entry, request.rotation, trace)
    carry_out(state, verdict.commands, trace, session=state.sessions.get(family.session_id), family=family)
    state.note(
        "refresh_committed",
        trace.now,
        trace_id=trace.trace_id,
        family=family.family_id,
        client_id=family.client_id,
        username=family.username,
        generation=family.generation,
        used_generation=request.entry.generation,
    )
    jti = "" if is_transfer else token_id(state, family)
    state.log(
        "sertft",
        trace,
        client_id=family.client_id,
        username=family.username,
        audience=target.audience or family.audience,
        scope=" ".join(target.scope),
        details={
            "familyId": family.family_id,
            "tokenCounter": request.entry.generation,
            "requested_audience": request.audience,
            "policy_used": target.policy_used,
            **({} if is_transfer else {"access_token_jti": jti.removeprefix(f"{MARK}-")}),  # no log holds the mark
        },
    )
    if is_transfer:
        transfer = session_transfer.create(state, family, trace)
        return session_transfer.answer(state, family, transfer, refresh_token, trace)
    if not refresh_token and state.rules.answers == "same":
        refresh_token = request.params.need("refresh_token")
    if state.rules.is_native and state.policy.refresh_needs_offline_access and "offline_access" not in target.scope:
        refresh_token = ""
    return token_answer(
        state,
        family,
        request.user,
        trace,
        target.scope,
        refresh_token=refresh_token,
        audience=target.audience,
        jti=jti,
        is_refresh=True,
        claims=claims,
        commands=verdict.commands,
    )


# -- Refusals ----------------------------------------------------------------------------------------------


def _denied(
    state: State,
    trace: Trace,
    family: Family | None,
    because: GrantDenial,
    *,
    client_id: str,
    audience: str,
    is_stale: bool = False,
) -> Refusal:
    """Note the refusal and choose its text. ``is_stale``: a younger token of the family was used already."""
    reason, text = because.reason, because.text
    code = because.code or (family.expired_code if family is not None else 0)
    _note_denied(state, trace, family, client_id, reason=reason, code=code)
    if state.urls.profile == "auth0":
        # one text, with its final period, for every cause but a missing person
        text = "Unknown or invalid refresh token."
        if reason == "no_user":
            text = "The refresh_token was generated for a user who doesn't exist anymore."
        if reason != "reuse":  # a reuse has its own record
            _log_failed(state, trace, family, text, client_id=client_id, audience=audience)
    texts = state.rules.texts  # of the imitated server; Keycloak tells two kinds of reuse apart
    named = "stale" if is_stale and reason == "reuse" and "stale" in texts else reason
    return Refusal("invalid_grant", texts.get(named, texts.get("", text)), code=code)


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


def _log_failed(
    state: State, trace: Trace, family: Family | None, text: str, *, client_id: str, audience: str, failure: str = ""
) -> None:
    details: dict[str, JsonValue] = {"familyId": family.family_id} if family is not None else {}
    details |= {"requested_audience": audience} if audience else {}
    details |= {"action_failure": failure} if failure else {}
    state.log(
        "fertft",
        trace,
        client_id=client_id,
        username=family.username if family is not None else "",
        description=text,
        audience=audience,
        details=details,
    )
