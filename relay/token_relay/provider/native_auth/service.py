"""One call to the provider: it sends a request, and returns a value for whatever comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar, assert_never

from pydantic import BaseModel, ValidationError

from token_relay.provider.http import AnswerLost, Http, HttpResponse, NotSent
from token_relay.provider.native_auth.refusals import bad_answer
from token_relay.provider.native_auth.states import Again, Attribute, Failed, Redirect
from token_relay.provider.native_auth.wire import (
    CHALLENGE_TYPES,
    SCOPE_DEFAULT,
    AttributeLists,
    NativeRequest,
    TokenRequest,
)
from token_relay.provider.oauth import classify, post
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, Unavailable
from token_relay.provider.profile import Profile
from token_relay.provider.tokens import ErrorAnswer, find_error, parse_object

A = TypeVar("A", bound=BaseModel)
CAPABILITIES = ("mfa_required", "registration_required")
WEB_REDIRECT = "web_redirect_required"


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider refused one step, or named the next one; ``outcome`` is what :func:`classify` makes of it."""

    error: ErrorAnswer
    outcome: Denied
    lists: AttributeLists | None = field(default=None, repr=False)  # None: absent or malformed

    @property
    def missing(self) -> tuple[Attribute, ...]:
        """The attributes that are wanted."""
        found = self.lists.required_attributes if self.lists is not None else []
        patterns = (one.options.regex if one.options is not None else None for one in found)
        return tuple(
            Attribute(one.name, _printable(one.type), _printable(pattern))
            for one, pattern in zip(found, patterns, strict=True)
        )

    @property
    def invalid(self) -> tuple[str, ...]:
        """The names of the attributes that were not accepted."""
        return tuple(one.name for one in self.lists.invalid_attributes) if self.lists is not None else ()


@dataclass(frozen=True, slots=True)
class Service:
    """The endpoints, and the client that calls them.

    ``capabilities`` is what the app can do beyond first factors; without one that an account needs, the provider
    answers with a redirect.
    """

    http: Http
    profile: Profile
    base: str
    client_id: str
    scope: str = SCOPE_DEFAULT
    capabilities: tuple[str, ...] = ()
    challenge_types: str = CHALLENGE_TYPES

    @property
    def declared(self) -> str | None:
        """The capabilities as they are sent."""
        return " ".join(self.capabilities) or None

    async def call(
        self, request: NativeRequest, answer: type[A], again: Again | None
    ) -> A | Refused | Redirect | Failed:
        """Make a step that brings no tokens. ``again`` survives a request that was certainly not processed."""
        response = await self._send(request)
        if isinstance(response, HttpResponse):
            body, error = _read(response)
            if redirect := _redirect(response, body):
                return redirect
            if response.status == 200 and body is not None:
                return _check(answer, body)
            outcome = classify(self.profile, response)
            if error is not None and body is not None and isinstance(outcome, Denied):
                return Refused(error, outcome, _lists(body))
        return self._not_answered(response, again)

    async def tokens(self, request: TokenRequest, again: Again | None) -> Refreshed | Refused | Redirect | Failed:
        """Make a step that should bring tokens."""
        response = await self._send(request)
        error: ErrorAnswer | None = None
        if isinstance(response, HttpResponse):
            body, error = _read(response)
            if redirect := _redirect(response, body):
                return redirect
        outcome = classify(self.profile, response)
        if isinstance(outcome, Refreshed):
            return outcome
        if isinstance(outcome, Denied) and error is not None:
            return Refused(error, outcome)
        failure = self._not_answered(response, again)
        return replace(failure, may_have_lost_tokens=isinstance(outcome, OutcomeUnknown))

    async def _send(self, request: NativeRequest) -> HttpResponse | NotSent | AnswerLost:
        return await self.http.request(post(f"{self.base}{request.path}", request.form()))

    def _not_answered(self, response: HttpResponse | NotSent | AnswerLost, again: Again | None) -> Failed:
        """Name what came instead of an answer."""
        outcome = classify(self.profile, response)
        match outcome:
            case Unavailable(reason, retry_after_s):
                return Failed(
                    retryable=True, error="unavailable", detail=reason, retry_after_s=retry_after_s, again=again
                )
            case OutcomeUnknown(reason):
                return Failed(retryable=True, error="outcome_unknown", detail=reason)
            case Refreshed() | Denied():
                return bad_answer("the provider's answer does not belong to this step")
            case _:
                assert_never(outcome)


def _check(answer: type[A], body: dict[str, object]) -> A | Failed:
    try:
        return answer.model_validate(body)
    except ValidationError as error:
        # Only the location: the error object itself holds the whole answer and must not leave this function.
        fields = sorted({str((*detail["loc"], "whole")[0]) for detail in error.errors(include_input=False)})
    return bad_answer(f"the provider's answer is missing or has unusable: {', '.join(fields)}")


def _lists(body: dict[str, object]) -> AttributeLists | None:
    try:
        return AttributeLists.model_validate(body)
    except ValidationError:
        return None


def _read(response: HttpResponse) -> tuple[dict[str, object] | None, ErrorAnswer | None]:
    parsed = parse_object(response.body)
    if parsed is None or parsed[1]:
        return None, None
    return parsed[0], find_error(parsed[0]) if 400 <= response.status < 500 else None


def _redirect(response: HttpResponse, body: dict[str, object] | None) -> Redirect | None:
    """Recognise the answer with which every step may send the person to a browser; the error is version 2's."""
    if body is None:
        return None
    if (response.status, body.get("challenge_type")) != (200, "redirect") and body.get("suberror") != WEB_REDIRECT:
        return None
    said = body.get("redirect_reason")
    words = [word for word in CAPABILITIES if isinstance(said, str) and word in said]
    named = f" ({', '.join(words)})" if words else ""
    return Redirect(f"the provider wants a browser for this account{named}")


def _printable(text: str | None) -> str:
    return text if text is not None and text.isprintable() else ""
