"""The stages of a native flow: one class for each, holding what has been proven so far.

A flow is found by its present continuation token and stands at exactly one stage; the stage decides which call may
come next. The chains, as calls lead along them:

    initiate: Begun -> challenge: PasswordAsked | CodeSent -> token
        second factor:  MfaRequired -> introspect: MfaMethods -> challenge: MfaCodeSent -> token
        registration:   RegistrationRequired -> introspect: RegistrationMethods -> challenge: RegistrationCodeSent |
                        Preverified -> continue: Proven -> token
    signup start: SignUpBegun -> challenge: SignUpCodeSent -> continue
        missing pieces: SignUpPasswordWanted -> challenge: SignUpPasswordAsked -> continue; SignUpAttributesWanted ->
                        continue; at the end Proven -> token
    resetpassword start: ResetBegun -> challenge: ResetCodeSent -> continue: ResetProven -> submit: ResetSubmitted ->
                        poll_completion: Proven -> token
    version 2: Entered -> start, then the same stages -> authorize-challenge: Authorized -> token
"""

from __future__ import annotations

from dataclasses import dataclass, field

from token_relay.protocol.secret import Code, Password
from token_relay.sandbox.provider.memory.accounts import FirstFactor
from token_relay.sandbox.provider.world.contacts import Channel


@dataclass(slots=True)
class SentCode:
    """A one-time code that was sent to ``mailbox``, and how many tries are left."""

    code: Code
    expires_at: float
    tries_left: int
    mailbox: str = ""

    def is_good(self, now: float) -> bool:
        """Whether it may still be used."""
        return self.tries_left > 0 and now < self.expires_at


@dataclass(frozen=True, slots=True)
class UsernameGiven:
    """A user name was given, nothing proven."""


@dataclass(frozen=True, slots=True)
class PasswordAsked:
    """The account signs in by password."""


@dataclass(frozen=True, slots=True)
class CodeSent:
    """The account signs in by code, and one is on its way."""

    sent: SentCode


@dataclass(frozen=True, slots=True)
class MfaDue:
    """The first factor is proven; the person's methods have not been listed yet."""

    first: FirstFactor


@dataclass(frozen=True, slots=True)
class MfaMethods:
    """The first factor is proven and the methods are known to the client."""

    first: FirstFactor


@dataclass(frozen=True, slots=True)
class MfaCodeSent:
    """A second-factor code is on its way to the method of this id."""

    first: FirstFactor
    method_id: str
    sent: SentCode


@dataclass(frozen=True, slots=True)
class RegistrationDue:
    """The first factor is proven; the person must register a method."""

    first: FirstFactor


@dataclass(frozen=True, slots=True)
class RegistrationMethods:
    """The client knows what can be registered."""

    first: FirstFactor


@dataclass(frozen=True, slots=True)
class RegistrationCodeSent:
    """A code is on its way to the address that is to be registered."""

    first: FirstFactor
    channel: Channel
    target: str
    sent: SentCode


@dataclass(frozen=True, slots=True)
class Preverified:
    """The address to be registered was proven at sign-up; no code is needed."""

    first: FirstFactor
    channel: Channel
    target: str


@dataclass(frozen=True, slots=True)
class Proven:
    """Enough is proven to ask for tokens. After a sign-up or reset the client must say the user name again."""

    first: FirstFactor
    has_second_factor: bool
    needs_username: bool


@dataclass(frozen=True, slots=True)
class Entered:
    """Version 2: an authorization was begun; no journey is chosen and nobody named."""


@dataclass(frozen=True, slots=True)
class Authorized:
    """Version 2: what leads here is no continuation token but the code for the token endpoint."""

    first: FirstFactor
    has_second_factor: bool


@dataclass(frozen=True, slots=True)
class SignUpForm:
    """What a person who signs up has given so far. ``by_password``: the account is to have a password."""

    by_password: bool
    password: Password | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignUpBegun:
    """A sign-up was started; the address is not proven."""

    form: SignUpForm


@dataclass(frozen=True, slots=True)
class SignUpCodeSent:
    """A code is on its way to the address that is to become the user name."""

    form: SignUpForm
    sent: SentCode


@dataclass(frozen=True, slots=True)
class SignUpPasswordWanted:
    """The address is proven; a password is missing and has not been asked for yet."""

    form: SignUpForm


@dataclass(frozen=True, slots=True)
class SignUpPasswordAsked:
    """The address is proven and the client was told to ask for a password."""

    form: SignUpForm


@dataclass(frozen=True, slots=True)
class SignUpAttributesWanted:
    """The address is proven, the password is there where one is needed; attributes are missing."""

    form: SignUpForm


@dataclass(frozen=True, slots=True)
class ResetBegun:
    """A reset was asked for, nothing proven."""


@dataclass(frozen=True, slots=True)
class ResetCodeSent:
    """A code is on its way to the account's address."""

    sent: SentCode


@dataclass(frozen=True, slots=True)
class ResetProven:
    """The code was right; a new password may be set."""


@dataclass(frozen=True, slots=True)
class ResetSubmitted:
    """A new password was taken; it counts as settled from ``done_at`` on."""

    submitted_at: float
    done_at: float
    has_failed: bool


SIGN_UP_STAGES = (SignUpBegun, SignUpCodeSent, SignUpPasswordWanted, SignUpPasswordAsked, SignUpAttributesWanted)
Stage = (
    UsernameGiven
    | PasswordAsked
    | CodeSent
    | MfaDue
    | MfaMethods
    | MfaCodeSent
    | RegistrationDue
    | RegistrationMethods
    | RegistrationCodeSent
    | Preverified
    | Proven
    | Entered
    | Authorized
    | SignUpBegun
    | SignUpCodeSent
    | SignUpPasswordWanted
    | SignUpPasswordAsked
    | SignUpAttributesWanted
    | ResetBegun
    | ResetCodeSent
    | ResetProven
    | ResetSubmitted
)


@dataclass(frozen=True, slots=True)
class NativeFlow:
    """A native flow under way. ``expires_at`` counts anew with each token; ``codes_sent`` is bounded.

    ``scope`` and ``claims``: what a flow of version 2 was begun with; in version 1 the last request has them.
    """

    client_id: str
    username: str
    challenge_types: tuple[str, ...]
    capabilities: frozenset[str]
    expires_at: float
    stage: Stage
    codes_sent: int = 0
    version: int = 1
    scope: str = ""
    claims: str = ""
