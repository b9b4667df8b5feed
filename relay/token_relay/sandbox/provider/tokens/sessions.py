"""Sessions at the provider: a cookie tells who has signed in with a browser.

The cookie's value is random; only its digest is kept. Over HTTPS it is ``Secure; SameSite=None``, as at the real
service. Over plain HTTP, which is for loopback addresses only, not every client takes that, so there is one with
``SameSite=Lax`` and a second one for hidden frames of another site: browsers that count loopback as secure, Chrome and
Firefox, keep it (to a browser ``127.0.0.1`` and ``localhost`` are two sites). Delegated sessions last two hours and
their cookies end with the browser.
"""

from __future__ import annotations

from collections.abc import Mapping

from token_relay.sandbox.provider.http_values import Response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Family, Session, State, digest, remember
from token_relay.sandbox.provider.tokens.cascade import setting_of
from token_relay.sandbox.provider.world.model import ClientModel

TRANSFER_COOKIES = ("auth0_session_transfer_token", "session_transfer_token")  # the second: SAML documents
DELEGATED_S = 7_200.0
_FOR_FRAMES = "_frames"  # the end of the second cookie's name


def cookie_name(state: State) -> str:
    """Return what the session's cookie is called; ports share cookies, so each profile has a name of its own."""
    return "ESTSAUTH" if state.rules.is_native else "auth0"


def session_of(state: State, cookies: Mapping[str, str], now: float) -> Session | None:
    """Return the live session of this browser."""
    name = cookie_name(state)
    cookie = cookies.get(name) or cookies.get(name + _FOR_FRAMES, "")
    session = state.sessions.get(state.session_cookies.get(digest(cookie), "")) if cookie else None
    return session if session is not None and session.is_alive(now) else None


def open_session(
    state: State,
    username: str,
    client_id: str,
    trace: Trace,
    *,
    parent: Family | None = None,
    actor: str = "",
    has_second_factor: bool = False,
) -> tuple[Session, str]:
    """Open a session and return it with its cookie's value. ``parent``: the grant whose token opens it."""
    value = state.token("ss")
    policy = state.policy
    absolute_s = DELEGATED_S if actor else policy.session_absolute_lifetime_s
    idle_s = policy.session_idle_lifetime_s
    session = Session(
        session_id=f"sess-{state.rng.randbytes(16).hex()}",
        username=username,
        created_at=trace.now,
        authenticated_at=trace.now if parent is None else parent.born_at,
        expires_at=None if absolute_s is None else trace.now + absolute_s,
        idle_expires_at=None if idle_s is None else trace.now + idle_s,
        cookie=digest(value),
        updated_at=trace.now,
        clients=[client_id],
        parent_family_id="" if parent is None else parent.family_id,
        is_delegated=bool(actor),
        actor=actor,
        has_second_factor=has_second_factor,
        initial_place=trace.place,
        last_place=trace.place,
    )
    remember(state.sessions, session.session_id, session)
    remember(state.session_cookies, session.cookie, session.session_id)
    state.note(
        "session_opened",
        trace.now,
        trace_id=trace.trace_id,
        username=username,
        client_id=client_id,
        session=session.session_id,
        parent_family=session.parent_family_id,
    )
    return session, value


def granted_scope(
    state: State, client: ClientModel, session: Session | None, scope: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the scope, without the words for a refresh token if this session gives none. That is no error."""
    if session is None:
        return scope
    is_allowed = not session.parent_family_id or setting_of(state, client.client_id).allow_refresh_token
    if is_allowed and not session.is_delegated:
        return scope
    return tuple(word for word in scope if word not in {"offline_access", "online_access"})


def touch(state: State, session: Session, client_id: str, trace: Trace) -> None:
    """Use a session: its idle time starts again."""
    idle_s = state.policy.session_idle_lifetime_s
    session.updated_at = trace.now
    session.idle_expires_at = None if idle_s is None else trace.now + idle_s
    session.last_place = trace.place
    if client_id not in session.clients:
        session.clients.append(client_id)


def with_cookie(state: State, response: Response, value: str, session: Session, now: float) -> Response:
    """Set the session's cookie."""
    end = session.expires_at
    lasts = "" if session.is_delegated or end is None else f"; Max-Age={max(0, int(end - now))}"
    return _with(state, response, cookie_name(state), f"{value}; Path=/; HttpOnly{lasts}")


def without_cookies(state: State, response: Response, *names: str) -> Response:
    """Take cookies away."""
    for name in names:
        response = _with(state, response, name, "; Path=/; HttpOnly; Max-Age=0")
    return response


def _with(state: State, response: Response, name: str, value: str) -> Response:
    abroad = "; Secure; SameSite=None"
    if state.urls.base_url.startswith("https:"):
        return response.with_headers(("Set-Cookie", f"{name}={value}{abroad}"))
    response = response.with_headers(("Set-Cookie", f"{name}={value}; SameSite=Lax"))
    if name != cookie_name(state):
        return response
    return response.with_headers(("Set-Cookie", f"{name}{_FOR_FRAMES}={value}{abroad}"))
