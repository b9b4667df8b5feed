"""A browser arrives at the provider: with a session transfer token, with a session, or with neither.

:func:`arrive` decides what the browser sees: its application again, the login page, or an error page. A signed-in
person then passes the second step, if they need one (a session transfer token stands for the first factor only), and
the Actions. A session opens only after the Actions have answered, so a denied login opens none, although it uses up
the token.

``prompt=select_account`` lets a signed-in person choose another account. Under ``entra`` a session also serves nobody
but the person of ``login_hint``, and the tenant's rules (:mod:`token_relay.sandbox.provider.tokens.conditional_access`)
are asked each time.

Ours: ``prompt=login`` shows the form and leaves a token untouched. A token of the person who is signed in already
leaves that session and its parent as they are. A delegated session serves only clients that allow delegated access.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from token_relay.sandbox.provider.http_values import JsonValue, Params, Refusal, Response
from token_relay.sandbox.provider.memory import tenant_logs
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import (
    Authorization,
    IssuedTransferToken,
    Session,
    State,
    digest,
    remember,
)
from token_relay.sandbox.provider.memory.tenant_logs import LogType
from token_relay.sandbox.provider.tokens import conditional_access, session_transfer
from token_relay.sandbox.provider.tokens.actions import ask, carry_out, denial
from token_relay.sandbox.provider.tokens.cascade import end_session
from token_relay.sandbox.provider.tokens.session_transfer import (
    Accepted,
    Arrival,
    ErrorPage,
    Judgement,
    NoToken,
    OtherUser,
    Rejected,
)
from token_relay.sandbox.provider.tokens.sessions import (
    TRANSFER_COOKIES,
    cookie_name,
    open_session,
    session_of,
    touch,
    with_cookie,
    without_cookies,
)
from token_relay.sandbox.provider.web import second_step
from token_relay.sandbox.provider.web.pages import account_page, back, error_page, login_page
from token_relay.sandbox.provider.world.client_settings import accepts
from token_relay.sandbox.provider.world.model import ClientModel

BLOCKED = "user is blocked"  # Auth0's words for a person whose account is disabled


@dataclass(frozen=True, slots=True)
class Visit:
    """A checked request of a browser; ``finish`` answers a person who is signed in."""

    state: State
    client: ClientModel
    authorization: Authorization
    cookies: Mapping[str, str]
    trace: Trace
    finish: Finish


Finish = Callable[[Visit, User, Session], Response]


def arrive(visit: Visit, params: Params) -> Response:
    """Answer a browser that comes from its application."""
    state, client, trace = visit.state, visit.client, visit.trace
    authorization, cookies = visit.authorization, visit.cookies
    prompts = params.words("prompt")
    is_silent = "none" in prompts
    session = session_of(state, cookies, trace.now)
    judgement: Judgement = NoToken()
    if "login" not in prompts:
        arrival = Arrival(
            client=client,
            query=params.get(session_transfer.PARAM),
            cookie=session_transfer.cookie_token(state, cookies, authorization.protocol),
            session=session,
            organization=authorization.organization,
            place=trace.place,
        )
        judgement = session_transfer.judge(state, arrival, trace.now)
    gone: tuple[str, ...] = ()
    match judgement:
        case Accepted():
            if session is not None and session.is_delegated:
                session = None  # a session opened in the person's name is not the person's own
            user = state.users[judgement.token.username]
            if second_step.is_needed(state, user, session):
                return _second_step(visit, user, judgement, is_silent=is_silent)
            return _enter(visit, user, session, judgement, is_silent=is_silent)
        case ErrorPage():
            session_transfer.spend(judgement)
            _warn(visit, judgement.token, judgement.warning)
            return error_page("Somebody is signed in here already; delegated access is not possible over a session.")
        case OtherUser():
            session_transfer.spend(judgement)
            _warn(visit, judgement.token, judgement.warning)
            end_session(state, judgement.session, trace, reason="other_user")
            session, gone = None, (cookie_name(state),)
        case Rejected():
            session_transfer.spend(judgement)
            _warn(visit, judgement.token, judgement.warning)
        case NoToken(warning=warning) if warning:
            _warn(visit, None, warning)
    if not isinstance(judgement, NoToken):
        gone += tuple(name for name in TRANSFER_COOKIES if name in cookies)
    if session is not None and "login" not in prompts and _is_usable(visit, session, params):
        if "select_account" in prompts:
            return _ask_for_account(visit, session)
        return without_cookies(state, go_on(visit, session, is_silent=is_silent), *gone)
    if is_silent:
        is_delegated = session is not None and session.is_delegated
        answer = _silent_failure(
            visit,
            "interaction_required" if is_delegated else "login_required",
            "AADSTS50058: Nobody is signed in here." if state.rules.is_native else "Login required",
            by_token=not isinstance(judgement, NoToken),
            is_delegated=is_delegated,
        )
        return without_cookies(state, answer, *gone)
    ticket = state.token("lt")
    remember(state.logins, digest(ticket), authorization)
    return without_cookies(state, login_page(state, ticket, username=authorization.login_hint), *gone)


def go_on(visit: Visit, session: Session, *, is_silent: bool = False) -> Response:
    """Answer a person who is signed in here already: single sign-on."""
    user = visit.state.users[session.username]
    if second_step.is_needed(visit.state, user, session) and not session.is_delegated:
        return _second_step(visit, user, None, is_silent=is_silent)
    return _enter(visit, user, session, None, is_silent=is_silent)


def _ask_for_account(visit: Visit, session: Session) -> Response:
    visit.authorization.question, visit.authorization.session_id = "account", session.session_id
    ticket = visit.state.token("lt")
    remember(visit.state.logins, digest(ticket), visit.authorization)
    return account_page(visit.state, ticket, session.username)


def signed_in(visit: Visit, user: User) -> Response:
    """Answer a person who has filled in the form; a session of somebody else in this browser ends."""
    session = session_of(visit.state, visit.cookies, visit.trace.now)
    same = session if session is not None and session.username == user.username and not session.is_delegated else None
    accepted: Accepted | None = None
    if visit.authorization.transfer:  # the token stood for the first factor, and was used up then
        name = visit.authorization.transfer
        token = visit.state.transfers.get(name)
        parent = visit.state.families.get(token.family_id) if token is not None else None
        if token is None or parent is None or parent.is_dead:
            _warn(visit, token, tenant_logs.PARENT_NOT_FOUND)
            return error_page("This login page is too old; go back to the app and start again.")
        if token.username == user.username:  # otherwise another person has signed in at that page, fully
            accepted = Accepted(name, token, parent)
    response = _enter(visit, user, same, accepted, is_fresh=accepted is None)
    if session is not None and same is None:
        end_session(visit.state, session, visit.trace, reason="replaced")
    return response


# Auth0's types of log records, by whether the sign-in was silent and whether somebody acted for the person.
_SUCCEEDED: dict[tuple[bool, bool], LogType] = {
    (False, False): "s",
    (False, True): "sdel",
    (True, False): "ssa",
    (True, True): "sdelsa",
}
_FAILED: dict[tuple[bool, bool], LogType] = {
    (False, False): "f",
    (False, True): "f",
    (True, False): "fsa",
    (True, True): "fdelsa",
}


def _enter(
    visit: Visit,
    user: User,
    session: Session | None,
    accepted: Accepted | None,
    *,
    is_silent: bool = False,
    is_fresh: bool = False,
) -> Response:
    """Ask the Actions, then open or use the session and answer."""
    state, client, trace, authorization = visit.state, visit.client, visit.trace, visit.authorization
    transfer = accepted.token if accepted is not None else None
    verdict = ask(
        state,
        trace,
        client=client,
        user=user,
        protocol=authorization.protocol,
        scope=authorization.scope,
        session=session,
        transfer=transfer,
        organization=authorization.organization,
        redirect_uri=authorization.redirect_uri,
    )
    details: dict[str, JsonValue] = {"triggered_by_session_transfer_token": transfer is not None}
    gone = tuple(name for name in TRANSFER_COOKIES if name in visit.cookies) if transfer is not None else ()
    if accepted is not None:
        session_transfer.spend(accepted)
    barred = conditional_access.at_sign_in(state, user, method=user.method) if state.rules.is_native else None
    problem, cookie = denial(verdict), ""
    if barred is not None:
        problem = f"AADSTS{barred.code}: {barred.description}"
    elif user.is_disabled:  # auth0: elsewhere the form and the session have refused
        problem = BLOCKED
    if not problem:
        session, cookie = _session(visit, user, session, accepted, is_fresh=is_fresh)
        try:
            carry_out(state, verdict.commands, trace, session=session)
        except Refusal as refusal:
            problem = refusal.description
    if problem or session is None:
        failure: dict[str, JsonValue] = {"action_failure": verdict.failure} if verdict.failure else {}
        is_delegated = transfer.actor != "" if transfer is not None else session is not None and session.is_delegated
        state.log(
            _FAILED[is_silent, is_delegated],
            trace,
            client_id=client.client_id,
            username=user.username,
            description=problem,
            details={**details, **failure},
        )
        return without_cookies(state, _denied(visit, problem, is_silent=is_silent), *gone)
    details["session_id"] = session.session_id
    succeeded = _SUCCEEDED[is_silent, session.is_delegated]
    state.log(succeeded, trace, client_id=client.client_id, username=user.username, details=details)
    authorization.username = user.username
    authorization.session_id = session.session_id
    authorization.is_delegated = session.is_delegated
    authorization.commands = verdict.commands
    response = visit.finish(visit, user, session)
    if cookie:
        response = with_cookie(state, response, cookie, session, trace.now)
    return without_cookies(state, response, *gone)


def _session(
    visit: Visit, user: User, session: Session | None, accepted: Accepted | None, *, is_fresh: bool
) -> tuple[Session, str]:
    """Return the session, continued or new, and the value of the cookie to set (empty: none)."""
    if session is None:
        parent = accepted.parent if accepted is not None else None
        actor = accepted.token.actor if accepted is not None else ""
        return open_session(
            visit.state,
            user.username,
            visit.client.client_id,
            visit.trace,
            parent=parent,
            actor=actor,
            has_second_factor=visit.authorization.is_second_factor,
        )
    touch(visit.state, session, visit.client.client_id, visit.trace)
    session.has_second_factor |= visit.authorization.is_second_factor
    if is_fresh:
        session.authenticated_at = visit.trace.now
    return session, ""


def _is_usable(visit: Visit, session: Session, params: Params) -> bool:
    """Return whether single sign-on may use this session here."""
    user = visit.state.users.get(session.username)
    if user is None or (user.is_disabled and visit.state.rules.is_native):
        return False
    hint = visit.authorization.login_hint.strip().lower()
    if visit.state.rules.is_native and (
        hint not in {"", user.username, user.alias}
        or conditional_access.is_too_old(visit.state, session.authenticated_at, visit.trace.now)
    ):
        return False
    if session.is_delegated and not accepts(visit.client.session_transfer).allows_delegated_access:
        return False
    max_age = params.get("max_age")
    if not max_age.isascii() or not max_age.isdecimal():
        return True
    return visit.trace.now - session.authenticated_at <= float(max_age[:12])


def _denied(visit: Visit, problem: str, *, is_silent: bool) -> Response:
    if visit.authorization.protocol != "oidc-basic-profile":
        return error_page(problem)
    error = "interaction_required" if is_silent and visit.state.rules.is_native else "access_denied"
    error = "unauthorized" if problem == BLOCKED else error
    return _answer(visit, error=error, error_description=problem)


def _second_step(visit: Visit, user: User, accepted: Accepted | None, *, is_silent: bool) -> Response:
    """Ask for the second factor; if no page may be shown, answer with an error. A token is used up here."""
    state, authorization = visit.state, visit.authorization
    gone: tuple[str, ...] = ()
    is_delegated = False
    if accepted is not None:
        session_transfer.spend(accepted)
        gone = tuple(name for name in TRANSFER_COOKIES if name in visit.cookies)
        authorization.transfer, is_delegated = accepted.name, accepted.token.actor != ""
    if is_silent or is_delegated:
        answer = _silent_failure(
            visit,
            "interaction_required" if state.rules.is_native or is_delegated else "login_required",  # the text says why
            "AADSTS50076: Multifactor authentication is required."
            if state.rules.is_native
            else "Multifactor authentication required",
            by_token=accepted is not None,
            is_delegated=is_delegated,
        )
        return without_cookies(state, answer, *gone)
    authorization.is_second_factor = True
    ticket = state.token("lt")
    remember(state.logins, digest(ticket), authorization)
    return without_cookies(state, second_step.ask(state, authorization, user, ticket, visit.trace), *gone)


def _silent_failure(visit: Visit, error: str, description: str, *, by_token: bool, is_delegated: bool) -> Response:
    visit.state.log(
        "fdelsa" if is_delegated else "fsa",
        visit.trace,
        client_id=visit.client.client_id,
        description=description,
        details={"triggered_by_session_transfer_token": by_token},
    )
    if visit.authorization.protocol != "oidc-basic-profile":
        return error_page(description)
    return _answer(visit, error=error, error_description=description)


def _answer(visit: Visit, **params: str) -> Response:
    one = visit.authorization
    return back(visit.state, one.redirect_uri, one.state, response_mode=one.response_mode, **params)


def _warn(visit: Visit, token: IssuedTransferToken | None, warning: str) -> None:
    visit.state.log(
        "w",
        visit.trace,
        client_id=visit.client.client_id,
        username=token.username if token is not None else "",
        description=warning,
        details={"triggered_by_session_transfer_token": True},
    )
