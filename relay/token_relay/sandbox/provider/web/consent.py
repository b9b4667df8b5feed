"""Asks a signed-in person whether an application may have what it wants, before the application gets an answer.

First-party clients need no consent. A client with ``is_first_party`` false needs it once for each scope of each API;
with ``prompt=consent`` every client needs it, and a device that shows a user code always does (RFC 8628 §5.4). If no
page may be shown, the answer is ``consent_required``, in a delegated session ``interaction_required``.

The form is bound to its request by a ticket and to the person by the session of the browser that posts it.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.state import Authorization, Session, State, digest, remember
from token_relay.sandbox.provider.web.pages import consent_page
from token_relay.sandbox.provider.world.model import ClientModel


def is_needed(state: State, client: ClientModel, authorization: Authorization, user: User) -> bool:
    """Return whether the person has to be asked."""
    if "consent" in authorization.prompts:
        return True
    if client.is_first_party or authorization.protocol != "oidc-basic-profile":
        return False
    return not _wanted(authorization) <= state.consents.get((user.username, client.client_id), frozenset())


def ask(state: State, client: ClientModel, authorization: Authorization, session: Session, question: str) -> Response:
    """Show the page; the answer to it comes to the login address."""
    authorization.question, authorization.session_id = "consent", session.session_id
    ticket = state.token("lt")
    remember(state.logins, digest(ticket), authorization)
    return consent_page(state, ticket, question=question, scope=authorization.scope)


def give(state: State, authorization: Authorization) -> None:
    """Remember a yes."""
    key = (authorization.username, authorization.client_id)
    remember(state.consents, key, state.consents.get(key, frozenset()) | _wanted(authorization))


def _wanted(authorization: Authorization) -> frozenset[str]:
    return frozenset({f"{authorization.audience} {word}" for word in authorization.scope} | {authorization.audience})
