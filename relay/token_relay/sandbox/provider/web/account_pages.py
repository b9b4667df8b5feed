"""Logout of the profile that keeps sessions. OpenID Connect RP-Initiated Logout 1.0."""

from __future__ import annotations

from collections.abc import Mapping

from token_relay.sandbox.provider.http_values import Params, Response, html_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.cascade import end_session
from token_relay.sandbox.provider.tokens.issued import find_access
from token_relay.sandbox.provider.tokens.sessions import cookie_name, session_of, without_cookies
from token_relay.sandbox.provider.web.browser import is_redirect_uri
from token_relay.sandbox.provider.web.pages import error_page, joined, page, redirect
from token_relay.sandbox.provider.world.model import ClientModel


def logout(state: State, params: Params, cookies: Mapping[str, str], trace: Trace) -> Response:
    """End the browser's session and send the browser where its client allows. The native grant stays."""
    names = (cookie_name(state),)
    session = session_of(state, cookies, trace.now)
    if session is not None:
        state.log("slo", trace, client_id=params.get("client_id"), username=session.username)
        end_session(state, session, trace, reason="logout")
    back = params.get("returnTo") or params.get("post_logout_redirect_uri")
    if not back:
        return without_cookies(state, html_response(page("Signed out", "<p>You are signed out.</p>")), *names)
    named = params.get("client_id") or _client_of(state, params.get("id_token_hint"))
    if not any(_may_lead_to(state, one, back) for one in state.clients.values() if named in {"", one.client_id}):
        return without_cookies(state, error_page("The address to return to is not allowed."), *names)
    given = params.get("state")  # RP-Initiated Logout 1.0 §3: it goes back as it came
    return without_cookies(state, redirect(joined(back, {"state": given} if given else {})), *names)


def _client_of(state: State, id_token: str) -> str:
    """Return the client that an id_token was issued to; one that has expired still says so."""
    entry = find_access(state, id_token, "id") if id_token else None
    family = state.families.get(entry.family_id) if entry is not None else None
    return family.client_id if family is not None else ""


def _may_lead_to(state: State, client: ClientModel, url: str) -> bool:
    """Return whether the client has this address: ``auth0`` has a list of its own for it, ``entra`` one for both."""
    known = client.allowed_logout_urls if state.rules.is_managed else client.redirect_uris
    return is_redirect_uri(client.model_copy(update={"redirect_uris": known}), url)
