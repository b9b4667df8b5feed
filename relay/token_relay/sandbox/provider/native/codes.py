"""One-time codes: each is sent to a mailbox, works once, and allows a few wrong tries.

A resend makes the older code of a flow void, since the flow then holds the newer one. A code that is used up, expired
or tried too often is answered like a wrong one, so a guesser learns nothing.
"""

from __future__ import annotations

from token_relay.protocol.secret import Code
from token_relay.sandbox.provider.http_values import Params, Refusal
from token_relay.sandbox.provider.memory.flow_states import SentCode
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.world.contacts import Channel


def send_code(
    state: State, address: str, trace: Trace, *, client_id: str, username: str, channel: Channel = "email"
) -> SentCode:
    """Send a fresh code. Raises Refusal where the address is blocked."""
    if address in state.policy.blocked_contacts:
        text = "The verification contact is blocked because of its reputation."
        raise Refusal("access_denied", text, code=550024, suberror="provider_blocked_by_rep")
    sent = state.send_code(address, trace.now)
    state.note("code_sent", trace.now, trace_id=trace.trace_id, username=username, client_id=client_id, channel=channel)
    return sent


def is_right_code(sent: SentCode, code: str, now: float) -> bool:
    """Return whether this is the code that was sent; each wrong one costs a try, and the right one works once."""
    if not sent.is_good(now):
        return False
    if sent.code == Code(code):
        sent.tries_left = 0
        return True
    sent.tries_left -= 1
    return False


def take_code(state: State, sent: SentCode, params: Params, trace: Trace, *, username: str) -> None:
    """Check the request's ``oob`` and use the code up. Raises Refusal."""
    if is_right_code(sent, params.need("oob", code=90100), trace.now):
        state.take_code(sent)
        return
    state.note("sign_in_denied", trace.now, trace_id=trace.trace_id, username=username, reason="code")
    text = "The one-time code is not valid, was replaced, has expired, or was tried too often."
    raise Refusal("invalid_grant", text, code=50181, suberror="invalid_oob_value")
