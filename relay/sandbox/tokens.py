"""Families of tokens: issuing, rotating, noticing reuse, killing.

A family is one sign-in and all that stems from it; its refresh tokens are counted by ``generation``. What a profile
does with a token that was used before:

* ``entra``: nothing; each token lives its own time, so two holders can go on from one ancestor.
* ``auth0``: only the *immediately previous* token, at most ``leeway_s`` (30 s, the end included) after its successor
  was first issued, gets another successor. Any older one, or that one later, kills the family.
* ``strict``: any used token kills the family and its access tokens.

Two more kinds exist for simulations (:data:`relay.sandbox.rules.KINDS`): one that refuses a used token and nothing
else, one that lets the family branch within a grace period.

Everything is checked before anything is changed, so a refusal leaves no trace but its event (and the family's death).
RFC 6749 §6, RFC 9700 §4.14.2.
"""

from __future__ import annotations

from relay.sandbox.accounts import REVOKES, AccountEvent, User
from relay.sandbox.claims import NO_CLAIMS, Claims, asked_claims
from relay.sandbox.conditional_access import at_refresh
from relay.sandbox.refusals import Trace
from relay.sandbox.rules import OIDC_SCOPES
from relay.sandbox.state import Family, RefreshEntry, State, digest, remember
from relay.sandbox.token_answer import token_answer
from relay.sandbox.values import Params, Refusal, Response, split_scope
from relay.sandbox.world import DAY_S, ClientModel

SPA_LIFETIME_S = DAY_S  # of refresh tokens of single-page apps, from the sign-in, whatever the policy
AUDIENCE_CHARS_MAX = 512


def find_client(state: State, params: Params) -> ClientModel:
    """Return the client that asks. Raises Refusal."""
    client_id = params.get("client_id")
    if not client_id:
        raise Refusal("invalid_request", "client_id parameter is empty or not valid.", code=90100)
    client = state.clients.get(client_id)
    if client is not None and client.disabled and state.places.profile == "entra":
        raise Refusal("unauthorized_client", "The application is disabled.", code=7000112)
    if client is not None:
        return client
    if state.places.profile == "entra":
        raise Refusal("unauthorized_client", "The application was not found in the directory.", code=700016)
    raise Refusal("invalid_client", "Unknown client.", status=401)


def asked_scope(client: ClientModel, params: Params) -> tuple[str, ...]:
    """Return the scope of a sign-in: what was asked for, where this client may ask for it. Raises Refusal."""
    scope = split_scope(params.get("scope")) if params.get("scope") else ()
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
) -> tuple[Family, Response]:
    """Start a family and answer with its first tokens: a refresh token only for ``offline_access``."""
    policy = state.policy
    is_fixed_otp = method == "oob" and policy.otp_refresh_mode == "fixed"
    lifetimes = [policy.refresh_absolute_lifetime_s, policy.otp_refresh_lifetime_s if is_fixed_otp else None]
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
    )
    remember(state.families, family_id, family)
    refresh_token = _next_refresh_token(state, family, trace.now) if "offline_access" in scope else ""
    response = token_answer(state, family, user, trace, scope, refresh_token=refresh_token, nonce=nonce, claims=claims)
    return family, response


def refresh(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Carry out ``grant_type=refresh_token``. Raises Refusal."""
    value = params.need("refresh_token")
    entry = state.refresh_tokens.get(digest(value))
    family = state.families.get(entry.family_id) if entry is not None else None
    if entry is None or family is None or family.client_id != client.client_id:
        raise _denied(
            state, trace, None, client.client_id, reason="unknown", code=70000, text="The refresh token is not valid."
        )
    user = state.users.get(family.username)
    if user is None:
        raise _denied(
            state,
            trace,
            family,
            client.client_id,
            reason="no_user",
            code=50034,
            text="The user account does not exist.",
        )
    if user.is_disabled and state.places.profile == "entra":
        text = "The user account is disabled."
        raise _denied(state, trace, family, client.client_id, reason="disabled", code=50057, text=text)
    if state.places.profile == "entra" and family.born_at_seq < user.revoked_at_seq(family.method):
        text = "The provided grant has expired due to it being revoked, a fresh auth token is needed."
        raise _denied(state, trace, family, client.client_id, reason="revoked", code=50173, text=text)
    if family.is_dead:
        raise _denied(
            state, trace, family, client.client_id, reason="family_dead", code=70008, text="The grant was revoked."
        )
    if state.rules.invalidates_on_use and not _may_be_used(state, family, entry, trace.now):
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
        raise _denied(
            state,
            trace,
            family,
            client.client_id,
            reason="reuse",
            code=70000,
            text="The refresh token was used before.",
        )
    if entry.idle_expires_at is not None and trace.now >= entry.idle_expires_at:
        text = "The refresh token has expired due to inactivity."
        raise _denied(state, trace, family, client.client_id, reason="idle", code=700082, text=text)
    if family.expires_at is not None and trace.now >= family.expires_at:
        text = "The provided authorization code or refresh token has expired."
        raise _denied(state, trace, family, client.client_id, reason="expired", code=family.expired_code, text=text)
    if asked_audience(params) not in {"", family.audience}:
        raise Refusal("access_denied", "This grant has no tokens for another audience.", status=403)
    scope = split_scope(params.get("scope")) if params.get("scope") else family.scope
    allowed = {*family.scope}
    if state.places.profile == "entra":
        allowed |= {*OIDC_SCOPES, *(client.scopes or ())}  # a registered scope is consented, of another resource too
    _check_scope(scope, allowed)
    claims = asked_claims(params) if state.places.profile == "entra" else NO_CLAIMS
    rule = at_refresh(state, family, trace.now) if state.places.profile == "entra" else None
    if rule is not None:
        _note_denied(state, trace, family, client.client_id, reason="policy", code=rule.code)
        raise rule

    refresh_token = _next_refresh_token(state, family, trace.now, used=entry)
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
    return token_answer(state, family, user, trace, scope, refresh_token=refresh_token, is_refresh=True, claims=claims)


def kill_family(state: State, family: Family, trace: Trace, *, reason: str, access_tokens: bool | None = None) -> None:
    """End a family; its access tokens too where ``access_tokens`` or, when that is None, the profile says so."""
    family.is_dead = True
    if state.rules.reuse_kills_access_tokens if access_tokens is None else access_tokens:
        family.access_tokens_dead = True
    state.note(
        "family_killed",
        trace.now,
        trace_id=trace.trace_id,
        family=family.family_id,
        client_id=family.client_id,
        username=family.username,
        reason=reason,
    )


def revoke(state: State, client: ClientModel, params: Params, trace: Trace) -> Response:
    """Answer RFC 7009: a refresh token takes its family along, ``strict`` also takes single access tokens back."""
    name = digest(params.need("token"))
    refresh_entry, access_entry = state.refresh_tokens.get(name), state.access_tokens.get(name)
    known = refresh_entry or access_entry
    family = state.families.get(known.family_id) if known is not None else None
    if known is None or family is None:
        return Response(200)  # §2.2: an unknown token is as good as a revoked one
    if family.client_id != client.client_id:
        raise Refusal("invalid_grant", "The token was not issued to this client.")  # §2.1
    if access_entry is not None:
        if not state.rules.reuse_kills_access_tokens:
            raise Refusal("unsupported_token_type", "Access tokens are self-contained here.")  # §2.2.1
        access_entry.is_dead = True
    elif not family.is_dead:
        kill_family(state, family, trace, reason="revoked")
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
    if state.places.profile != "entra":
        for family in list(state.families.values()):
            is_meant = of_password if family.method == "password" else of_others
            if is_meant and family.username == user.username and not family.is_dead:
                kill_family(state, family, trace, reason="user_revoked")
    return True


def _check_scope(scope: tuple[str, ...], allowed: set[str] | None) -> None:
    if allowed is not None and not allowed.issuperset(scope):
        raise Refusal("invalid_scope", "The requested scope goes beyond what was granted.", code=70011)


def _may_be_used(state: State, family: Family, entry: RefreshEntry, now: float) -> bool:
    if state.rules.branches_in_grace:
        return entry.superseded_at is None or now - entry.superseded_at <= state.policy.leeway_s
    if entry.generation == family.generation:
        return True
    is_previous = entry.generation == family.generation - 1
    within_leeway = entry.superseded_at is not None and now - entry.superseded_at <= state.policy.leeway_s
    return is_previous and within_leeway and state.policy.leeway_s > 0


def _denied(
    state: State, trace: Trace, family: Family | None, client_id: str, *, reason: str, code: int, text: str
) -> Refusal:
    _note_denied(state, trace, family, client_id, reason=reason, code=code)
    if state.places.profile == "auth0":
        text = "Unknown or invalid refresh token."  # one text for every cause, the final period included
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
        code=code if state.places.profile == "entra" else "invalid_grant",
    )


def _next_refresh_token(state: State, family: Family, now: float, used: RefreshEntry | None = None) -> str:
    """Issue the successor of the newest token, which counts as the previous one from now on.

    So a token that was repeated within the leeway is the second-to-last afterwards, and its next use kills.
    """
    if state.rules.branches_in_grace:
        if used is not None and used.superseded_at is None:  # the grace counts from the first use
            used.superseded_at = now
    elif (newest := state.refresh_tokens.get(family.newest)) is not None:
        newest.superseded_at = now
    value = state.token("rt")
    family.newest = digest(value)
    family.generation += 1
    idle = state.policy.refresh_idle_lifetime_s
    if family.method == "oob" and state.policy.otp_refresh_mode == "sliding":
        known = [one for one in (idle, state.policy.otp_refresh_lifetime_s) if one is not None]
        idle = min(known, default=None)
    entry = RefreshEntry(family.family_id, family.generation, None if idle is None else now + idle)
    remember(state.refresh_tokens, family.newest, entry)
    return value
