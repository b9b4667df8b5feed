"""Sign-in: password, or a code by e-mail; then whatever else the account needs."""

from __future__ import annotations

from token_relay.protocol.secret import Code, Password
from token_relay.provider.native_auth.flow import Flow, code_required, judged
from token_relay.provider.native_auth.states import CodeRequired, Failed, PasswordRequired, Step
from token_relay.provider.native_auth.wire import Challenge, Challenged, Continued, Initiate, TokenRequest


class SignInFlow(Flow):
    """One sign-in of one person. The account decides how it signs in, not the app."""

    async def submit_password(self, state: PasswordRequired, password: Password) -> Step:
        """Send the password. If the flow had expired, it is begun anew and the password sent again, once."""
        step = await self._submit_password(state, password)
        if not isinstance(step, Failed) or not step.is_expired:
            return step
        step = await self._settle(step)
        return await self._submit_password(step, password) if isinstance(step, PasswordRequired) else step

    async def _begin(self) -> Step:
        request = Initiate(
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
        request = Challenge(
            client_id=self.service.client_id,
            continuation_token=token,
            challenge_type=self.service.challenge_types,
        )
        answer = await self.service.call(request, Challenged, again)
        if not isinstance(answer, Challenged):
            return judged(answer, again)
        if answer.challenge_type == "password":
            self.is_by_code = False
            return PasswordRequired(answer.continuation_token)
        self.is_by_code = True
        return code_required(answer, "sign_in")

    async def _submit_first(self, state: CodeRequired, code: Code) -> Step:
        return await self._tokens("oob", state, state.continuation_token, oob=code)

    async def _submit_password(self, state: PasswordRequired, password: Password) -> Step:
        request = TokenRequest(
            client_id=self.service.client_id,
            grant_type="password",
            continuation_token=state.continuation_token,
            scope=self.service.scope,
            password=password,
        )
        return await self._redeem(request, state)
