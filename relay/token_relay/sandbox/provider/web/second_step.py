"""The login form's second step: a code, for a person without a password or one who needs a second factor.

A session transfer token stands for the first factor only, so a person with ``mfa = "required"`` who arrives with one
sees this step alone. A session remembers that the step was passed.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Response
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Authorization, Session, State, digest
from token_relay.sandbox.provider.native.codes import is_right_code, send_code
from token_relay.sandbox.provider.native.flows import CODES_MAX
from token_relay.sandbox.provider.native.passwords import check_password
from token_relay.sandbox.provider.tokens import conditional_access
from token_relay.sandbox.provider.web.pages import error_page, login_page
from token_relay.sandbox.provider.world.contacts import Channel


def is_right(state: State, authorization: Authorization, user: User, credential: str, trace: Trace) -> bool:
    """Return whether this is the expected password or code; a right code is used up."""
    if not credential.strip() or (user.is_disabled and not state.rules.is_managed):
        return False
    if user.method == "password" and not authorization.is_second_factor:
        return check_password(state, user, credential, trace) is None
    sent = authorization.sent
    if (
        sent is None
        or authorization.username != user.username
        or not is_right_code(sent, credential.strip(), trace.now)
    ):
        return False
    state.take_code(sent)
    return True


def is_needed(state: State, user: User, session: Session | None = None) -> bool:
    """Return whether a second factor is needed; ``session``: where this person may have passed it before."""
    if user.method != "password" or (session is not None and session.has_second_factor):
        return False
    if state.rules.is_native:
        return conditional_access.wants_second_factor(state, user)
    return state.rules.is_managed and user.mfa == "required"


def ask(state: State, authorization: Authorization, user: User, ticket: str, trace: Trace) -> Response:
    """Send a code and show the form for it."""
    authorization.tries += 1
    if authorization.tries > CODES_MAX:
        del state.logins[digest(ticket)]
        return error_page("Too many codes were sent; go back to the app and start again.")
    method = user.methods[0] if authorization.is_second_factor and user.methods else None
    address = user.username if method is None else method.target
    channel: Channel = "email" if method is None else method.channel
    authorization.sent = send_code(
        state, address, trace, client_id=authorization.client_id, username=user.username, channel=channel
    )
    authorization.username = user.username  # the person that the code was sent to
    return login_page(
        state, ticket, username=user.username, problem="A code was sent to you; enter it below.", status=200
    )
