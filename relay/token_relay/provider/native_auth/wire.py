"""What is sent to the native endpoints, and what may come back: one closed model per request, one open one per answer.

Requests are ours, so an unknown field is a bug; answers are the provider's, so unknown fields are ignored, and what is
known has a type and a limit. Text of the provider reaches a person only as a masked label or a name of printable
characters. :data:`ENDPOINTS` ties the two together; the published description of the endpoints is made from it.

Reference: Microsoft Entra "native authentication API reference", version 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from token_relay.protocol.secret import Code, Password, RefreshToken, Secret
from token_relay.provider.tokens import SCOPE_CHARS_MAX, Dropped, TokenResponse, shown, slug

USERNAME_CHARS_MAX = 320  # an e-mail address: 64 + 1 + 255, RFC 5321 §4.5.3.1
CODE_LENGTH_MAX = 32
CONTACT_CHARS_MAX = 320
ATTRIBUTES_CHARS_MAX = 8_192  # as JSON; a form with fifty values of 256 characters would already be unusual
METHODS_MAX = 32
ATTRIBUTES_MAX = 32  # a person types each of them
PATTERN_CHARS_MAX = 256
INTERVAL_S_MAX = 600.0  # longer than a code lives, and the documented life of a reset
POLL_INTERVAL_S_DEFAULT = 2.0  # what the JavaScript SDK uses for 0
POLL_INTERVAL_S_MAX = 60.0
CHALLENGE_TYPES = "password oob redirect"  # "redirect" must be among them
CODES_ONLY = "oob redirect"
SCOPE_DEFAULT = "openid profile offline_access"

_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}", re.ASCII)  # displayName, extension_<appid>_age


def _only(pattern: re.Pattern[str]) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError("holds characters that do not belong there")
        return value

    return AfterValidator(check)


def _seconds(low: float, high: float, default: float) -> BeforeValidator:
    """Take a number of seconds between the limits; anything but a positive number counts as ``default``."""

    def check(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            return default
        return min(max(float(value), low), high)

    return BeforeValidator(check)


# -- Requests ----------------------------------------------------------------------------------------------

ClientId = Annotated[str, Field(min_length=1, max_length=255, description="the application, a public client")]
Username = Annotated[
    str, Field(min_length=1, max_length=USERNAME_CHARS_MAX, description="e-mail address, or an alias with a password")
]
Continuation = Annotated[Code, Field(description="of the latest answer of this flow")]
ChallengeTypes = Annotated[
    str,
    Field(
        pattern=r"^((password|oob|redirect) ){0,2}redirect$",
        description="what the app can do, separated by spaces; with redirect",
    ),
]
Capabilities = Annotated[
    str,
    Field(
        pattern=r"^(mfa_required|registration_required)( (mfa_required|registration_required))?$",
        description="what the app can do beyond first factors; otherwise the answer is a redirect",
    ),
]
Scope = Annotated[str, Field(min_length=1, max_length=SCOPE_CHARS_MAX)]
Contact = Annotated[str, Field(min_length=1, max_length=CONTACT_CHARS_MAX)]
Attributes = Annotated[
    str,
    Field(
        min_length=2,
        max_length=ATTRIBUTES_CHARS_MAX,
        description="a JSON object as text: names and values",
    ),
]


class NativeRequest(BaseModel):
    """One call: what it sends as application/x-www-form-urlencoded, and where below the tenant's base."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)
    path: ClassVar[str]

    client_id: ClientId

    def form(self) -> tuple[tuple[str, str | Secret[str]], ...]:
        """Return the fields that are given; secrets stay secrets."""
        given = ((name, getattr(self, name)) for name in type(self).model_fields)
        return tuple((name, value) for name, value in given if value is not None)


class Initiate(NativeRequest):
    """Begin a sign-in."""

    path: ClassVar[str] = "/oauth2/v2.0/initiate"
    username: Username
    challenge_type: ChallengeTypes
    capabilities: Capabilities | None = None


class Challenge(NativeRequest):
    """Learn how the account signs in, and have a code sent where it is by code; once more, for another code.

    ``id`` names the method of a second factor.
    """

    path: ClassVar[str] = "/oauth2/v2.0/challenge"
    continuation_token: Continuation
    challenge_type: ChallengeTypes
    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class Introspect(NativeRequest):
    """List the methods of a second factor."""

    path: ClassVar[str] = "/oauth2/v2.0/introspect"
    continuation_token: Continuation


class TokenRequest(NativeRequest):
    """Prove something and get tokens, or renew them."""

    path: ClassVar[str] = "/oauth2/v2.0/token"
    grant_type: Literal["password", "oob", "mfa_oob", "continuation_token", "refresh_token"]
    continuation_token: Continuation | None = None
    scope: Scope
    client_info: Literal["1"] = "1"
    password: Password | None = None
    oob: Code | None = None
    username: Username | None = None
    refresh_token: RefreshToken | None = None
    claims: Annotated[str, Field(max_length=4_096, description="a claims request, JSON as text")] | None = None


class RegisterIntrospect(NativeRequest):
    """List what kinds of methods can be registered."""

    path: ClassVar[str] = "/register/v1.0/introspect"
    continuation_token: Continuation


class RegisterChallenge(NativeRequest):
    """Have a code sent to the address that is to be registered; once more, for another code."""

    path: ClassVar[str] = "/register/v1.0/challenge"
    continuation_token: Continuation
    challenge_type: Literal["oob"] = "oob"
    challenge_target: Contact
    challenge_channel: Literal["email", "sms"]


class RegisterContinue(NativeRequest):
    """Register the address: with the code, or without one where it was proven before."""

    path: ClassVar[str] = "/register/v1.0/continue"
    continuation_token: Continuation
    grant_type: Literal["oob", "continuation_token"]
    oob: Code | None = None


class SignUpStart(NativeRequest):
    """Begin a sign-up with whatever is known already."""

    path: ClassVar[str] = "/signup/v1.0/start"
    username: Username
    challenge_type: ChallengeTypes
    password: Password | None = None
    attributes: Attributes | None = Field(default=None, repr=False)  # personal data
    capabilities: Capabilities | None = None


class SignUpChallenge(NativeRequest):
    """Have a code sent to the new account's address, or learn that a password is next."""

    path: ClassVar[str] = "/signup/v1.0/challenge"
    continuation_token: Continuation
    challenge_type: ChallengeTypes


class SignUpContinue(NativeRequest):
    """Give the code, the password or the attributes that were asked for."""

    path: ClassVar[str] = "/signup/v1.0/continue"
    continuation_token: Continuation
    grant_type: Literal["oob", "password", "attributes"]
    oob: Code | None = None
    password: Password | None = None
    attributes: Attributes | None = Field(default=None, repr=False)  # personal data


class ResetStart(NativeRequest):
    """Begin a password reset."""

    path: ClassVar[str] = "/resetpassword/v1.0/start"
    username: Username
    challenge_type: ChallengeTypes
    capabilities: Capabilities | None = None


class ResetChallenge(NativeRequest):
    """Have a code sent to the account's address; once more, for another code."""

    path: ClassVar[str] = "/resetpassword/v1.0/challenge"
    continuation_token: Continuation
    challenge_type: ChallengeTypes


class ResetContinue(NativeRequest):
    """Give the code."""

    path: ClassVar[str] = "/resetpassword/v1.0/continue"
    continuation_token: Continuation
    grant_type: Literal["oob"] = "oob"
    oob: Code


class ResetSubmit(NativeRequest):
    """Give the new password."""

    path: ClassVar[str] = "/resetpassword/v1.0/submit"
    continuation_token: Continuation
    new_password: Password


class ResetPoll(NativeRequest):
    """Ask whether the new password is in force. A POST, like all others."""

    path: ClassVar[str] = "/resetpassword/v1.0/poll_completion"
    continuation_token: Continuation


# -- Answers -----------------------------------------------------------------------------------------------

Label = Annotated[str, BeforeValidator(shown)]  # masked, for a person's eyes
Channel = Annotated[str, BeforeValidator(lambda value: slug(value or "email", otherwise="unknown"))]


class NativeAnswer(BaseModel):
    """A 200 of a native endpoint."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class Continued(NativeAnswer):
    """The next step may be taken."""

    continuation_token: Code
    expires_in: Annotated[float | None, Dropped] = None


class Challenged(NativeAnswer):
    """What is asked for: a password, a code that was sent, or nothing, the address being proven."""

    continuation_token: Code
    challenge_type: Literal["password", "oob", "preverified"]
    binding_method: Annotated[str | None, Dropped] = None
    challenge_channel: Channel = "email"
    challenge_target_label: Label = ""
    challenge_target: Label = ""  # of a registration, in place of the label
    code_length: Annotated[Annotated[int, Field(gt=0, le=CODE_LENGTH_MAX)] | None, Dropped] = None
    interval: Annotated[float, _seconds(0.0, INTERVAL_S_MAX, 0.0)] = 0.0


class MethodAnswer(NativeAnswer):
    """One way to prove a second factor, or one kind that can be registered."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
    challenge_type: Annotated[str | None, Dropped] = None
    challenge_channel: Channel = "email"
    login_hint: Label = ""


class Methods(NativeAnswer):
    """The ways there are."""

    continuation_token: Code
    methods: Annotated[list[MethodAnswer], Field(min_length=1, max_length=METHODS_MAX)]


class Submitted(NativeAnswer):
    """The new password was taken; ask in ``poll_interval`` seconds whether it is in force."""

    continuation_token: Code
    poll_interval: Annotated[float, _seconds(1.0, POLL_INTERVAL_S_MAX, POLL_INTERVAL_S_DEFAULT)] = (
        POLL_INTERVAL_S_DEFAULT
    )


class Polled(NativeAnswer):
    """How far the reset is; a new token comes with its end."""

    status: Literal["not_started", "in_progress", "succeeded", "failed"]
    continuation_token: Code | None = None


class Redirected(NativeAnswer):
    """200, and yet the end of native authentication: go to the browser. Any endpoint may answer so."""

    challenge_type: Literal["redirect"]
    redirect_reason: Annotated[str | None, Dropped] = None


class AttributeOptions(NativeAnswer):
    """What a value must be like."""

    regex: Annotated[str | None, Field(max_length=PATTERN_CHARS_MAX), Dropped] = None


class RequiredAttribute(NativeAnswer):
    """One thing that the tenant wants to know of a person."""

    name: Annotated[str, _only(_ATTRIBUTE)]
    type: Annotated[str | None, Dropped] = None
    required: Annotated[bool | None, Dropped] = None
    options: Annotated[AttributeOptions | None, Dropped] = None


class InvalidAttribute(NativeAnswer):
    """One value that was not accepted."""

    name: Annotated[str, _only(_ATTRIBUTE)]


class AttributeLists(NativeAnswer):
    """Of a refusal, what is said about attributes."""

    required_attributes: Annotated[list[RequiredAttribute], Field(max_length=ATTRIBUTES_MAX)] = []
    invalid_attributes: Annotated[list[InvalidAttribute], Field(max_length=ATTRIBUTES_MAX)] = []


class NativeRefusal(AttributeLists):
    """A 4xx: an error, or the name of the next step (``mfa_required``, ``attributes_required`` …).

    For the description of the endpoints: the client reads these fields by
    :func:`token_relay.provider.tokens.find_error`, which takes them one by one.
    """

    error: str
    error_description: str | None = None
    error_codes: list[int] = []
    suberror: str | None = None
    timestamp: str | None = None
    trace_id: str | None = None
    correlation_id: str | None = None
    continuation_token: Code | None = None
    claims: str | None = None


# -- Endpoints ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call with its answer, and the errors that the reference lists for it."""

    request: type[NativeRequest]
    answer: type[BaseModel]
    errors: tuple[str, ...]


_START = ("invalid_client", "invalid_request", "unauthorized_client", "unsupported_challenge_type")
_STEP = ("expired_token", "invalid_request")

ENDPOINTS = (
    Endpoint(Initiate, Continued, (*_START, "user_not_found")),
    Endpoint(Challenge, Challenged, (*_STEP, "access_denied", "invalid_grant", "unsupported_challenge_type")),
    Endpoint(Introspect, Methods, (*_STEP, "invalid_client")),
    Endpoint(
        TokenRequest,
        TokenResponse,
        (
            *_STEP,
            "consent_required",
            "interaction_required",
            "invalid_client",
            "invalid_grant",
            "invalid_scope",
            "temporarily_unavailable",
            "unauthorized_client",
            "unsupported_grant_type",
        ),
    ),
    Endpoint(RegisterIntrospect, Methods, _STEP),
    Endpoint(RegisterChallenge, Challenged, (*_STEP, "access_denied")),
    Endpoint(RegisterContinue, Continued, (*_STEP, "invalid_grant")),
    Endpoint(SignUpStart, Continued, (*_START, "invalid_grant", "user_already_exists")),
    Endpoint(SignUpChallenge, Challenged, (*_STEP, "invalid_grant", "unsupported_challenge_type")),
    Endpoint(
        SignUpContinue,
        Continued,
        (*_STEP, "attributes_required", "credential_required", "invalid_grant", "user_already_exists"),
    ),
    Endpoint(ResetStart, Continued, (*_START, "user_not_found")),
    Endpoint(ResetChallenge, Challenged, (*_STEP, "unsupported_challenge_type")),
    Endpoint(ResetContinue, Continued, (*_STEP, "invalid_grant")),
    Endpoint(ResetSubmit, Submitted, (*_STEP, "invalid_grant")),
    Endpoint(ResetPoll, Polled, (*_STEP, "invalid_grant", "user_not_found")),
)
