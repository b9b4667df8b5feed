"""Sign-up: a code proves the address; a password and attributes follow, where the tenant wants them.

Attributes that are known beforehand go with the first call: optional ones can be given only there. The account is
created with the last piece; then the person is signed in at once. From then on the flow does not begin anew: the
account exists, whatever the sign-in comes to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from token_relay.protocol.secret import Code, Password
from token_relay.provider.native_auth.flow import Flow, code_required, judged
from token_relay.provider.native_auth.refusals import BY_SUBERROR, bad_answer, failed
from token_relay.provider.native_auth.service import Refused, Service
from token_relay.provider.native_auth.states import (
    Again,
    Attribute,
    AttributesRequired,
    CodeRequired,
    Failed,
    NewPasswordRequired,
    Redirect,
    Step,
)
from token_relay.provider.native_auth.wire import (
    ATTRIBUTES_CHARS_MAX,
    Challenged,
    Continued,
    SignUpChallenge,
    SignUpContinue,
    SignUpStart,
)


class SignUp(Flow):
    """One sign-up of one person. ``attributes`` are known beforehand; they are sent with the first call."""

    def __init__(self, service: Service, username: str, attributes: Mapping[str, str] | None = None) -> None:
        super().__init__(service, username)
        self._attributes = dict(attributes or {})
        self.is_by_code = True  # until a password was asked for

    async def submit_password(self, state: NewPasswordRequired, password: Password) -> Step:
        """Give the account its password."""
        request = SignUpContinue(
            client_id=self.service.client_id,
            continuation_token=state.continuation_token,
            grant_type="password",
            password=password,
        )
        return await self._settle(await self._continue(request, state))

    async def submit_attributes(self, state: AttributesRequired, values: Mapping[str, str]) -> Step:
        """Send the attributes that the tenant asks for."""
        text = _spelled(values)
        if text is None:
            detail = "the attributes are empty or too long"
            return Failed(retryable=True, error="invalid_request", detail=detail, again=state)
        request = SignUpContinue(
            client_id=self.service.client_id,
            continuation_token=state.continuation_token,
            grant_type="attributes",
            attributes=text,
        )
        return await self._settle(await self._continue(request, state))

    async def _begin(self) -> Step:
        self.is_by_code = True
        text = _spelled(self._attributes)
        if self._attributes and text is None:
            return Failed(retryable=False, error="invalid_request", detail="the attributes are too long")
        request = SignUpStart(
            client_id=self.service.client_id,
            username=self.username,
            challenge_type=self.service.challenge_types,
            attributes=text,
            capabilities=self.service.declared,
        )
        answer = await self.service.call(request, Continued, None)
        if not isinstance(answer, Continued):
            return _judged(answer, None)
        return await self._challenge_first(answer.continuation_token, None)

    async def _challenge_first(self, token: Code, again: CodeRequired | None) -> Step:
        request = SignUpChallenge(
            client_id=self.service.client_id,
            continuation_token=token,
            challenge_type=self.service.challenge_types,
        )
        answer = await self.service.call(request, Challenged, again)
        if not isinstance(answer, Challenged):
            return _judged(answer, again)
        if answer.challenge_type == "password":
            self.is_by_code = False
            return NewPasswordRequired(answer.continuation_token)
        return code_required(answer, "sign_up")

    async def _submit_first(self, state: CodeRequired, code: Code) -> Step:
        request = SignUpContinue(
            client_id=self.service.client_id,
            continuation_token=state.continuation_token,
            grant_type="oob",
            oob=code,
        )
        return await self._continue(request, state)

    async def _continue(self, request: SignUpContinue, state: Again) -> Step:
        answer = await self.service.call(request, Continued, state)
        match answer:
            case Continued(continuation_token=token):
                self.done = "account_created"
                return await self._tokens("continuation_token", None, token, username=self.username)
            case Refused(error) if error.error == "credential_required":
                if error.continuation_token is None:
                    return bad_answer("the provider's answer has no continuation token")
                return await self._challenge_first(error.continuation_token, None)
            case Refused(error) if error.error == "attributes_required":
                if error.continuation_token is None or not answer.missing:
                    return bad_answer("the provider wants attributes and does not say which")
                return AttributesRequired(answer.missing, error.continuation_token)
            case Failed(error="outcome_unknown"):
                detail = f"{answer.detail}; the account may exist already: try to sign in"
                return replace(answer, detail=detail)
            case _:
                return _judged(answer, state)


def _judged(answer: Refused | Redirect | Failed, state: Again | None) -> Redirect | Failed:
    """Judge as :func:`judged` does; a password or attributes that were refused may be corrected."""
    if isinstance(answer, Refused):
        error = answer.error
        match state:
            case NewPasswordRequired() if error.suberror.startswith("password_") and error.suberror in BY_SUBERROR:
                return failed(error, retryable=True, again=_with_token(state, error.continuation_token))
            case AttributesRequired() if error.suberror == "attribute_validation_failed":
                again = replace(state, invalid=answer.invalid)
                return failed(error, retryable=True, again=_with_token(again, error.continuation_token))
            case None if error.suberror == "attribute_validation_failed":
                names = ", ".join(answer.invalid) or "some"
                return failed(error, retryable=False, detail=f"the provider does not accept these attributes: {names}")
            case _:
                pass
    return judged(answer, state)


def _with_token(state: Again, token: Code | None) -> Again:
    return state if token is None else replace(state, continuation_token=token)


def _spelled(values: Mapping[str, str]) -> str | None:
    """Return the attributes as the API takes them, a JSON object in a string; None when there are none or too many."""
    text = json.dumps(dict(values), separators=(",", ":"))
    return text if values and len(text) <= ATTRIBUTES_CHARS_MAX else None


def attribute_of(state: AttributesRequired, name: str) -> Attribute:
    """Return what is known about an attribute that was not accepted."""
    return next((one for one in state.missing if one.name == name), Attribute(name))
