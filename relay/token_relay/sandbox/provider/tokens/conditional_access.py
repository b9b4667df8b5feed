"""Rules of the tenant for a sign-in or a refresh that has passed every other check.

The knob ``conditional_access`` sets one rule, by its AADSTS number:

* 50076: a second factor is needed. A sign-in asks for it; a refresh of a sign-in without one is refused.
* 50142: the password must be changed. Passwords and their refreshes are refused until the person resets it.
* 53003: blocked, at sign-in and at refresh; the answer carries ``claims``.
* 70043: a sign-in is good only for ``sign_in_frequency_s``; refreshes later than that are refused.

The numbers and their meaning are documented; their ``error`` and ``suberror`` are not, and are chosen here so that
Microsoft's SDKs ask the person instead of trying again.
"""

from __future__ import annotations

from token_relay.sandbox.provider.http_values import Refusal
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.state import Family, State

BLOCK_CLAIMS = '{"access_token":{"capolids":{"essential":true,"values":["00000000-0000-0000-0000-000000053003"]}}}'


def at_sign_in(state: State, user: User, *, method: str) -> Refusal | None:
    """Return the refusal of a sign-in whose factors were right, or None."""
    rule = state.policy.conditional_access
    if rule == 53003:
        return _blocked()
    if method == "password" and (user.must_change_password or rule == 50142):
        return Refusal("invalid_request", "The password must be reset before the next sign-in.", code=50142)
    return None


def at_refresh(state: State, family: Family, now: float) -> Refusal | None:
    """Return the refusal of a refresh, or None."""
    match state.policy.conditional_access:
        case 70043 if is_too_old(state, family.authenticated_at or family.born_at, now):
            text = "The refresh token has expired or is invalid due to sign-in frequency checks by conditional access."
            return Refusal("invalid_grant", text, code=70043, suberror="bad_token")
        case 53003:
            return _blocked()
        case 50076 if not family.has_second_factor:
            text = "You must use multi-factor authentication to access this resource."
            return Refusal("invalid_grant", text, code=50076, suberror="basic_action")
        case 50142 if family.method == "password":
            text = "The password must be changed."
            return Refusal("invalid_grant", text, code=50142, suberror="user_password_expired")
        case _:
            return None


def is_too_old(state: State, authenticated_at: float, now: float) -> bool:
    """Return whether the person has to prove anew who they are."""
    policy = state.policy
    return policy.conditional_access == 70043 and now - authenticated_at >= policy.sign_in_frequency_s


def wants_second_factor(state: State, user: User) -> bool:
    """Return whether a password alone is not enough for this person."""
    return user.mfa != "none" or state.policy.conditional_access == 50076


def _blocked() -> Refusal:
    text = "Access has been blocked by conditional access policies."
    return Refusal("interaction_required", text, code=53003, suberror="message_only", more={"claims": BLOCK_CLAIMS})
