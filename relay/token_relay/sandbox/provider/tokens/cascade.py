"""The revocation graph: what ends with what.

    native grant --session transfer token--> web session --> web grants

* A grant is revoked (by its holder, an administrator, reuse): its session transfer tokens become worthless, since
  they are judged by their grant. If its client has ``enforce_cascade_revocation``, the sessions that these tokens
  opened and the grants born in them end too.
* A session is ended: the grants born in it end, if a session transfer token opened it and their client has
  ``enforce_online_refresh_tokens``.
* A grant of the scope ``online_access`` and its session end together.
* Nothing else goes upwards. Rotation is no revocation: the graph is keyed by grant, not by token. A grant that merely
  expires ends nothing else; a session that expires ends its online grants, which :func:`is_offline` detects when they
  are used.

Both settings are read when the revocation happens, and every cascade is complete before its caller goes on.
"""

from __future__ import annotations

from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, Session, State
from token_relay.sandbox.provider.world.client_settings import SessionTransfer
from token_relay.sandbox.provider.world.model import Reach

DEFAULTS = SessionTransfer()


def setting_of(state: State, client_id: str) -> SessionTransfer:
    """Return a client's ``session_transfer``, or the defaults if it has none."""
    client = state.clients.get(client_id)
    return client.session_transfer or DEFAULTS if client is not None else DEFAULTS


def kill_family(state: State, family: Family, trace: Trace, *, reason: str, access_tokens: bool | None = None) -> None:
    """End a grant and all that depends on it; its access tokens too if ``access_tokens`` or the profile says so."""
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
    if not state.rules.is_managed:
        return
    own = state.sessions.get(family.session_id) if family.is_online else None
    if own is not None:
        end_session(state, own, trace, reason="online_refresh_token_ended")
    if setting_of(state, family.client_id).enforce_cascade_revocation:
        for child in [one for one in state.families.values() if one.parent_family_id == family.family_id]:
            if not child.is_dead:
                kill_family(state, child, trace, reason="cascade", access_tokens=access_tokens)
                log_revoked(state, child, trace, cause="cascade")
        for session in [one for one in state.sessions.values() if one.parent_family_id == family.family_id]:
            end_session(state, session, trace, reason="cascade")


def kill_reached(state: State, family: Family, takes: Reach, trace: Trace, *, reason: str) -> list[Family]:
    """End what a reuse or a revocation in ``family`` takes along of this client's grants; return what has ended."""
    ended: list[Family] = []
    for one in list(state.families.values()):
        is_alike = one.client_id == family.client_id and one.username == family.username
        is_reached = takes == "user" or (takes == "session" and one.session_id == family.session_id != "")
        if takes != "nothing" and not one.is_dead and (one is family or (is_alike and is_reached)):
            kill_family(state, one, trace, reason=reason)
            ended.append(one)
    return ended


def end_session(
    state: State, session: Session, trace: Trace, *, reason: str, with_refresh_tokens: bool = False
) -> None:
    """End a session and the online grants in it; ``with_refresh_tokens``: every grant in it."""
    if state.sessions.pop(session.session_id, None) is None:
        return
    state.session_cookies.pop(session.cookie, None)
    state.note(
        "session_ended",
        trace.now,
        trace_id=trace.trace_id,
        username=session.username,
        session=session.session_id,
        reason=reason,
    )
    for family in [one for one in state.families.values() if one.session_id == session.session_id]:
        if not family.is_dead and (with_refresh_tokens or is_online(state, family)):
            kill_family(state, family, trace, reason="session_ended")
            log_revoked(state, family, trace, cause="session_ended")


def is_online(state: State, family: Family) -> bool:
    """Return whether this grant lives no longer than its session."""
    return family.is_online or (
        family.parent_family_id != "" and setting_of(state, family.client_id).enforce_online_refresh_tokens
    )


def is_offline(state: State, family: Family, now: float) -> bool:
    """Return whether an online grant has lost its session."""
    if not is_online(state, family):
        return False
    session = state.sessions.get(family.session_id)
    return session is None or not session.is_alive(now)


def log_revoked(state: State, family: Family, trace: Trace, *, cause: str) -> None:
    """Log the end of a refresh token, if the grant has one."""
    if family.generation == 0:
        return
    state.log(
        "srrt",
        trace,
        client_id=family.client_id,
        username=family.username,
        details={
            "credential_id": family.family_id,
            "grant_id": family.family_id,
            "session_id": family.session_id or None,
            "cause": cause,
        },
    )
