"""Self-service password reset: a code, a new password, waiting until it is in force; then the person is signed in.

Once the provider has taken the new password, the flow does not begin anew: the password may be in force.
"""

from __future__ import annotations

from dataclasses import replace

from token_relay.protocol.secret import Code, Password
from token_relay.provider.native_auth.flow import Flow, code_required, judged
from token_relay.provider.native_auth.refusals import BY_SUBERROR, bad_answer, failed
from token_relay.provider.native_auth.service import Refused
from token_relay.provider.native_auth.states import CodeRequired, Failed, NewPasswordRequired, ResetPending, Step
from token_relay.provider.native_auth.wire import (
    POLL_INTERVAL_S_DEFAULT,
    Challenged,
    Continued,
    Polled,
    ResetChallenge,
    ResetContinue,
    ResetPoll,
    ResetStart,
    ResetSubmit,
    Submitted,
)

UNSURE = "the new password may be in force already: try to sign in with it"


class PasswordReset(Flow):
    """One reset of one person's password. Only accounts that have a password can do it."""

    async def submit_password(self, state: NewPasswordRequired, password: Password) -> Step:
        """Send the new password; it may be in force from now on."""
        request = ResetSubmit(
            client_id=self.service.client_id, continuation_token=state.continuation_token, new_password=password
        )
        answer = await self.service.call(request, Submitted, state)
        match answer:
            case Submitted(continuation_token=token, poll_interval=poll_after_s):
                return ResetPending(poll_after_s, token)
            case Refused(error) if error.suberror.startswith("password_") and error.suberror in BY_SUBERROR:
                token = error.continuation_token or state.continuation_token
                return failed(error, retryable=True, again=NewPasswordRequired(token))
            case Failed(error="outcome_unknown"):
                return replace(answer, detail=f"{answer.detail}; {UNSURE}")
            case _:
                return await self._settle(judged(answer, state))

    async def poll(self, state: ResetPending) -> Step:
        """Ask whether the new password is in force; not before ``state.poll_after_s`` seconds have passed."""
        request = ResetPoll(client_id=self.service.client_id, continuation_token=state.continuation_token)
        answer = await self.service.call(request, Polled, state)
        match answer:
            case Polled(status="succeeded", continuation_token=token):
                self.done = "password_changed"
                if token is None:
                    return await self._settle(bad_answer("the provider's answer has no continuation token"))
                step = await self._tokens("continuation_token", None, token, username=self.username)
                return await self._settle(step)
            case Polled(status="failed", continuation_token=token):
                again = NewPasswordRequired(token) if token is not None else None
                detail = "the provider could not change the password"
                return Failed(retryable=True, error="password_change_failed", detail=detail, again=again)
            case Polled(continuation_token=token):
                return replace(state, continuation_token=token or state.continuation_token)
            case Failed(error="outcome_unknown"):  # a poll changes nothing, so it may be repeated
                return replace(answer, again=replace(state, poll_after_s=POLL_INTERVAL_S_DEFAULT))
            case Refused(error) if error.suberror.startswith("password_") and error.suberror in BY_SUBERROR:
                token = error.continuation_token
                return failed(error, retryable=True, again=NewPasswordRequired(token) if token is not None else None)
            case _:
                step = judged(answer, state)
                if isinstance(step, Failed) and step.again is None:
                    step = replace(step, detail=f"{step.detail}; {UNSURE}")
                return step

    async def _begin(self) -> Step:
        request = ResetStart(
            client_id=self.service.client_id,
            username=self.username,
            challenge_type=self.service.challenge_types,
            capabilities=self.service.declared,
        )
        answer = await self.service.call(request, Continued, None)
        if not isinstance(answer, Continued):
            return judged(answer, None)
        return await self._challenge_first(answer.continuation_token, None)

    async def _challenge_first(self, token: Code, again: CodeRequired | None) -> Step:
        request = ResetChallenge(
            client_id=self.service.client_id,
            continuation_token=token,
            challenge_type=self.service.challenge_types,
        )
        answer = await self.service.call(request, Challenged, again)
        if not isinstance(answer, Challenged):
            return judged(answer, again)
        return code_required(answer, "reset")

    async def _submit_first(self, state: CodeRequired, code: Code) -> Step:
        request = ResetContinue(client_id=self.service.client_id, continuation_token=state.continuation_token, oob=code)
        answer = await self.service.call(request, Continued, state)
        if not isinstance(answer, Continued):
            return judged(answer, state)
        return NewPasswordRequired(answer.continuation_token)
