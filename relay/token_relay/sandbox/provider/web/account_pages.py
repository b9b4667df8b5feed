"""Logout of the profile that keeps sessions. OpenID Connect RP-Initiated Logout 1.0."""

from __future__ import annotations

from collections.abc import Mapping

from token_relay.sandbox.provider.http_values import Params, Response, html_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.cascade import end_session
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
    asked = state.clients.get(params.get("client_id"))
    clients = [asked] if asked is not None else list(state.clients.values())
    if not any(_may_lead_to(state, client, back) for client in clients):
        return without_cookies(state, error_page("The address to return to is not allowed."), *names)
    given = params.get("state")  # RP-Initiated Logout 1.0 §3: it goes back as it came
    return without_cookies(state, redirect(joined(back, {"state": given} if given else {})), *names)


def _may_lead_to(state: State, client: ClientModel, url: str) -> bool:
    """Return whether the client has this address: ``auth0`` has a list of its own for it, ``entra`` one for both."""
    known = client.allowed_logout_urls if state.rules.is_managed else client.redirect_uris
    return is_redirect_uri(client.model_copy(update={"redirect_uris": known}), url)
