"""What the three flows share: their beginning, one-time codes, the second factor, its registration, the tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from token_relay.protocol.secret import Code
from token_relay.provider.native_auth.refusals import bad_answer, failed, is_over
from token_relay.provider.native_auth.service import Refused, Service
from token_relay.provider.native_auth.states import (
    Again,
    CodeRequired,
    Completed,
    Done,
    Failed,
    Method,
    MfaRequired,
    PasswordRequired,
    Purpose,
    Redirect,
    RegistrationRequired,
    Step,
)
from token_relay.provider.native_auth.wire import (
    CONTACT_CHARS_MAX,
    USERNAME_CHARS_MAX,
    Challenge,
    Challenged,
    Continued,
    Introspect,
    Methods,
    RegisterChallenge,
    RegisterContinue,
    RegisterIntrospect,
    TokenRequest,
)


class Flow:
    """One flow of one person. Steps are awaited one after the other; cancelling one leaves nothing behind."""

    def __init__(self, service: Service, username: str) -> None:
        self.service = service
        self.username = username
        self.is_by_code = False  # whether the first factor is a code by e-mail
        self.done: Done = ""  # what has been achieved; no later failure undoes it
        self._may_restart = True

    # -- the parts that differ -------------------------------------------------------------------------

    async def _begin(self) -> Step:
        """Make the flow's first call, and the challenge that follows it."""
        raise NotImplementedError

    async def _challenge_first(self, token: Code, again: CodeRequired | None) -> Step:
        """Have the first code sent, or sent again."""
        raise NotImplementedError

    async def _submit_first(self, state: CodeRequired, code: Code) -> Step:
        """Send the first code."""
        raise NotImplementedError

    # -- the steps that are alike ----------------------------------------------------------------------

    async def start(self) -> Step:
        """Name the account and return what the provider asks for first; :class:`CodeRequired` means that a code is on
        its way."""
        if not self.username or len(self.username) > USERNAME_CHARS_MAX or not self.username.isprintable():
            return Failed(retryable=False, error="invalid_request", detail="the user name is empty or unusable")
        return await self._settle(await self._begin())

    async def submit_code(self, state: CodeRequired, code: Code) -> Step:
        """Send the code. If the flow had expired, it is begun anew, and the answer is its first state."""
        if state.tries_left < 1:
            return Failed(
                retryable=True, error="too_many_tries", detail="ask for a new code", again=replace(state, tries_left=0)
            )
        match state.purpose:
            case "second_factor":
                step = await self._tokens("mfa_oob", state, state.continuation_token, oob=code)
            case "registration":
                step = await self._register(state, state.continuation_token, code)
            case "sign_in" | "sign_up" | "reset":
                step = await self._submit_first(state, code)
        return await self._settle(step)

    async def resend(self, state: CodeRequired) -> Step:
        """Have a new code sent; the older one is void from now on, and three new tries begin."""
        match state.purpose:
            case "second_factor":
                step = await self._challenge_second(state.continuation_token, state.method, state)
            case "registration":
                assert state.method is not None, "a registration knows what it registers"
                step = await self._challenge_new(state.continuation_token, state.method, state.contact, state)
            case "sign_in" | "sign_up" | "reset":
                step = await self._challenge_first(state.continuation_token, state)
        return await self._settle(step)

    async def choose_method(self, state: MfaRequired, method: Method) -> Step:
        """Have a code sent by this method of the second factor."""
        return await self._settle(await self._challenge_second(state.continuation_token, method, state))

    async def register_method(self, state: RegistrationRequired, method: Method, contact: str) -> Step:
        """Register an address or number as a second factor: a code goes there, unless it is proven already."""
        contact = contact.strip()
        if not contact or len(contact) > CONTACT_CHARS_MAX or not contact.isprintable():
            detail = "the address or number is empty or unusable"
            return Failed(retryable=True, error="invalid_request", detail=detail, again=state)
        return await self._settle(await self._challenge_new(state.continuation_token, method, contact, state))

    async def _settle(self, step: Step) -> Step:
        """Begin an expired flow anew, once; add to a failure what was achieved before it."""
        if isinstance(step, Failed) and step.is_expired and self._may_restart and not self.done:
            self._may_restart = False
            step = await self._begin()
        if isinstance(step, Failed | Redirect) and self.done:
            step = replace(step, done=self.done)
        return step

    # -- second factor and registration ----------------------------------------------------------------

    async def _introspect(self, wanted: str, token: Code | None) -> Step:
        if wanted not in self.service.capabilities:
            return Redirect(f"the account needs another step ({wanted}) that is done in a browser")
        if token is None:
            return bad_answer("the provider's answer has no continuation token")
        client_id = self.service.client_id
        if wanted == "mfa_required":
            answer = await self.service.call(Introspect(client_id=client_id, continuation_token=token), Methods, None)
        else:
            request = RegisterIntrospect(client_id=client_id, continuation_token=token)
            answer = await self.service.call(request, Methods, None)
        if not isinstance(answer, Methods):
            return judged(answer, None)
        # A list may hold newer kinds, such as passkeys: only codes can be handled here.
        codes = [one for one in answer.methods if one.challenge_type in (None, "oob")]
        methods = tuple(Method(one.id, one.challenge_channel, one.login_hint) for one in codes)
        if wanted != "mfa_required":
            methods = tuple(method for method in methods if method.channel in ("email", "sms"))
        if not methods:
            return bad_answer("the provider asks for a second factor of a kind that is not known here")
        if wanted == "mfa_required":
            return MfaRequired(methods, answer.continuation_token)
        return RegistrationRequired(methods, answer.continuation_token)

    async def _challenge_second(self, token: Code, method: Method | None, again: MfaRequired | CodeRequired) -> Step:
        request = Challenge(
            client_id=self.service.client_id,
            continuation_token=token,
            challenge_type=self.service.challenge_types,
            id=method.id if method is not None else None,
        )
        answer = await self.service.call(request, Challenged, again)
        if not isinstance(answer, Challenged):
            return judged(answer, again)
        return code_required(answer, "second_factor", method=method)

    async def _challenge_new(
        self, token: Code, method: Method, contact: str, again: RegistrationRequired | CodeRequired
    ) -> Step:
        request = RegisterChallenge(
            client_id=self.service.client_id,
            continuation_token=token,
            challenge_target=contact,
            challenge_channel="sms" if method.channel == "sms" else "email",
        )
        answer = await self.service.call(request, Challenged, again)
        if not isinstance(answer, Challenged):
            return judged(answer, again)
        if answer.challenge_type == "preverified":
            return await self._register(None, answer.continuation_token, None)
        return code_required(answer, "registration", method=method, contact=contact)

    async def _register(self, state: CodeRequired | None, token: Code, code: Code | None) -> Step:
        request = RegisterContinue(
            client_id=self.service.client_id,
            continuation_token=token,
            grant_type="oob" if code is not None else "continuation_token",
            oob=code,
        )
        answer = await self.service.call(request, Continued, state)
        if not isinstance(answer, Continued):
            return judged(answer, state)
        return await self._tokens("continuation_token", None, answer.continuation_token)

    # -- tokens ----------------------------------------------------------------------------------------

    async def _tokens(
        self,
        grant_type: Literal["password", "oob", "mfa_oob", "continuation_token"],
        state: CodeRequired | PasswordRequired | None,
        token: Code,
        *,
        username: str | None = None,
        **credential: Code,
    ) -> Step:
        request = TokenRequest(
            client_id=self.service.client_id,
            grant_type=grant_type,
            continuation_token=token,
            scope=self.service.scope,
            username=username,
            oob=credential.get("oob"),
        )
        return await self._redeem(request, state)

    async def _redeem(self, request: TokenRequest, state: CodeRequired | PasswordRequired | None) -> Step:
        answer = await self.service.tokens(request, state)
        match answer:
            case Refused(error) if error.suberror in ("mfa_required", "registration_required"):
                return await self._introspect(error.suberror, error.continuation_token)
            case Refused() | Redirect() | Failed():
                return judged(answer, state)
            case _:
                return Completed(answer, self.is_by_code)


# -- Judging what a step came to ---------------------------------------------------------------------------


def judged(answer: Refused | Redirect | Failed, state: Again | None) -> Redirect | Failed:
    """Say what an answer without progress means for ``state``: whether it may be tried again, and from where."""
    if not isinstance(answer, Refused):
        return answer
    error, outcome = answer.error, answer.outcome
    if state is not None and error.continuation_token is not None:
        state = replace(state, continuation_token=error.continuation_token)
    match state:
        case CodeRequired(tries_left=left) if error.suberror == "invalid_oob_value" or 50181 in error.codes:
            state = replace(state, tries_left=left - 1)
            tries = "1 try" if left == 2 else f"{left - 1} tries"
            detail = f"wrong code, {tries} left" if left > 1 else "wrong code, and no try is left: ask for a new one"
            return failed(error, retryable=True, detail=detail, again=state)
        case PasswordRequired() if error.error == "invalid_grant" and 50126 in error.codes:
            return failed(error, retryable=True, again=state)
        case MfaRequired() | RegistrationRequired() if error.suberror == "provider_blocked_by_rep":
            return failed(error, retryable=True, again=state)
        case RegistrationRequired() if 901001 in error.codes:
            return failed(error, retryable=True, again=state)
        case _ if outcome.kind == "temporary":
            return failed(error, retryable=True, again=state, retry_after_s=outcome.retry_after_s)
        case _:
            return failed(error, retryable=is_over(error))


def code_required(
    answer: Challenged, purpose: Purpose, *, method: Method | None = None, contact: str = ""
) -> CodeRequired | Failed:
    """Return the state after a code was sent."""
    if answer.challenge_type != "oob":
        return bad_answer("the provider asks for a way of signing in that is not known here")
    return CodeRequired(
        target_label=answer.challenge_target_label or answer.challenge_target,
        code_length=answer.code_length or 0,
        channel=answer.challenge_channel,
        continuation_token=answer.continuation_token,
        resend_after_s=answer.interval,
        purpose=purpose,
        method=method,
        contact=contact,
    )
