"""Microsoft's rule for web pages that redeem codes and refresh tokens.

What a single-page application was given is redeemed by a request of its page, which browsers mark with ``Origin``; what
another client was given is not. Both errors are readable in the page, and the most frequent ones of people who
registered their application as the wrong kind. Native sign-in has no such rule.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Refusal
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import Redeemer, State
from token_relay.sandbox.provider.world.model import ClientModel


def redeemer_of(client: ClientModel) -> Redeemer:
    """Return what this client is when it redeems a code."""
    return "spa" if client.spa else "other"


def check(state: State, redeemer: Redeemer, trace: Trace) -> None:
    """Refuse who may not redeem from there. Raises Refusal."""
    if not state.rules.is_native or not state.keeps("spa-redemption"):
        return
    if redeemer == "spa" and not trace.origin:
        text = "Tokens issued for the 'Single-Page Application' client-type may only be redeemed via cross-origin"
        raise Refusal("invalid_request", f"{text} requests.", code=9002327)
    if redeemer == "other" and trace.origin:
        text = "Cross-origin token redemption is permitted only for the 'Single-Page Application' client-type."
        raise Refusal("invalid_request", f"{text} Request origin: '{trace.origin}'.", code=9002326)
