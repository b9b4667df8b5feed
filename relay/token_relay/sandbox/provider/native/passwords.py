"""Passwords: which ones a tenant accepts, whether one is right, and when an account is locked.

The error codes for a refused password are documented; the order of the rules, the list of banned passwords and the
number of past ones remembered are ours. Ten wrong ones in a row lock the account's password for a minute (knobs).
"""

from __future__ import annotations

from token_relay.protocol.secret import Password
from token_relay.sandbox.provider.http_values import Refusal
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.world.model import PolicyModel

PASSWORD_CHARS_MAX = 256  # nothing longer is compared at all
_TEXTS = {
    "password_is_invalid": "The password contains characters that are not allowed.",
    "password_too_short": "The password is too short.",
    "password_too_long": "The password is too long.",
    "password_banned": "The password contains a word or pattern that is banned.",
    "password_too_weak": "The password does not meet the complexity requirements.",
    "password_recently_used": "The password was used recently.",
}


def check_new_password(policy: PolicyModel, password: str, user: User | None = None) -> Password:
    """Return the password if this tenant accepts it. Raises Refusal with the rule as ``suberror``."""
    problem = _problem(policy, password)
    if not problem and user is not None and Password(password) in user.past_passwords:
        problem = "password_recently_used"
    if problem:
        raise Refusal("invalid_grant", _TEXTS[problem], code=399246, suberror=problem)
    return Password(password)


def check_password(state: State, user: User, password: str, trace: Trace) -> Refusal | None:
    """Return None when it is right; too many wrong ones in a row lock the account for a while."""
    if trace.now < user.locked_until:
        return Refusal("invalid_grant", "The account is locked for the moment: too many attempts.", code=50053)
    if len(password) <= PASSWORD_CHARS_MAX and user.password == Password(password):
        user.wrong_passwords = 0
        return None
    user.wrong_passwords += 1
    state.note("sign_in_denied", trace.now, trace_id=trace.trace_id, username=user.username, reason="password")
    if user.wrong_passwords >= state.policy.password_tries_max:
        user.wrong_passwords = 0
        user.locked_until = trace.now + state.policy.lockout_s
    return Refusal("invalid_grant", "Error validating credentials: invalid username or password.", code=50126)


def _problem(policy: PolicyModel, password: str) -> str:
    if not password.isprintable() or not password.isascii():
        return "password_is_invalid"
    if len(password) < policy.password_length_min:
        return "password_too_short"
    if len(password) > policy.password_length_max:
        return "password_too_long"
    if password.casefold() in {banned.casefold() for banned in policy.password_banned}:
        return "password_banned"
    has = (
        any(char.islower() for char in password),
        any(char.isupper() for char in password),
        any(char.isdigit() for char in password),
        any(not char.isalnum() for char in password),
    )
    return "password_too_weak" if sum(has) < policy.password_classes_min else ""
