"""What a step of a native flow can come to, as values; matched to the end with ``assert_never``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from token_relay.protocol.secret import Code
from token_relay.provider.outcome import Refreshed

CODE_TRIES_MAX = 3
Purpose = Literal["sign_in", "second_factor", "registration", "sign_up", "reset"]
Done = Literal["", "account_created", "password_changed"]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to prove a second factor (``label`` is masked), or a kind that can be registered (``label`` a proposal)."""

    id: str
    channel: str
    label: str


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that the tenant wants to know. ``pattern`` comes from the provider; it is shown, never run."""

    name: str
    type: str = ""
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class PasswordRequired:
    """The account signs in with a password."""

    continuation_token: Code


@dataclass(frozen=True, slots=True)
class NewPasswordRequired:
    """A password is to be chosen: for a new account, or after a reset."""

    continuation_token: Code


@dataclass(frozen=True, slots=True)
class CodeRequired:
    """A code is on its way to ``target_label`` (masked) by ``channel``; its ``code_length`` is 0 if it was not told.

    ``resend_after_s`` is how long the provider wants a person to wait before asking for another, 0 if it did not say.
    ``method`` and ``contact`` say where it went, so that it can be sent again.
    """

    target_label: str
    code_length: int
    channel: str
    continuation_token: Code
    resend_after_s: float = 0.0
    tries_left: int = CODE_TRIES_MAX
    purpose: Purpose = "sign_in"
    method: Method | None = None
    contact: str = ""


@dataclass(frozen=True, slots=True)
class MfaRequired:
    """The first factor was right, and a second one is needed: one of ``methods``."""

    methods: tuple[Method, ...]
    continuation_token: Code


@dataclass(frozen=True, slots=True)
class RegistrationRequired:
    """The first factor was right, and a second one must be registered: one of ``methods``."""

    methods: tuple[Method, ...]
    continuation_token: Code


@dataclass(frozen=True, slots=True)
class AttributesRequired:
    """The tenant wants to know ``missing``, and did not accept the values of ``invalid``."""

    missing: tuple[Attribute, ...]
    continuation_token: Code
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResetPending:
    """The new password was taken; ask in ``poll_after_s`` seconds whether it is in force."""

    poll_after_s: float
    continuation_token: Code


@dataclass(frozen=True, slots=True)
class Redirect:
    """The provider wants a browser; native authentication ends here. ``done`` is what was achieved before."""

    reason: str
    done: Done = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """Tokens are here; judge ``tokens.problem``, and store ``tokens.refresh_token`` first.

    ``is_by_code``: the first factor was a code by e-mail, which gives the grant a shorter life.
    """

    tokens: Refreshed
    is_by_code: bool = False


Again = (
    PasswordRequired | NewPasswordRequired | CodeRequired | MfaRequired | RegistrationRequired | AttributesRequired
) | ResetPending


@dataclass(frozen=True, slots=True)
class Failed:
    """This step failed. ``retryable``: trying again can help, from ``again`` where it is given, else from the start.

    ``error`` is the provider's code, or ``unavailable``, ``outcome_unknown``, ``bad_answer``, ``too_many_tries``;
    ``detail`` is a sentence of ours, and the ids are for the provider's support desk. ``done`` is what was achieved
    before: an account, a new password. ``may_have_lost_tokens``: the answer that was lost may have held them.
    """

    retryable: bool
    error: str
    codes: tuple[int, ...] = ()
    trace_id: str = ""
    correlation_id: str = ""
    detail: str = ""
    retry_after_s: float | None = None
    again: Again | None = None
    suberror: str = ""
    done: Done = ""
    may_have_lost_tokens: bool = False

    @property
    def is_expired(self) -> bool:
        """Whether the flow took too long: it may begin anew."""
        return "expired_token" in (self.error, self.suberror)


Step = Again | Redirect | Completed | Failed
