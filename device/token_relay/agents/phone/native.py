"""Native authentication as a conversation: it asks the person for what the provider wants, when it wants it.

A question is asked only when a state of the flow needs its answer. What was given beforehand (``--mfa-method``,
``--register``, attributes) is used once; if it did not help, the person is asked. Every refusal is told with the
provider's trace id. The number of questions, tries and polls is bounded, so the conversation ends.

Nothing of it goes to disk. A password stays in memory until the flow is over: a flow that expired is begun anew without
asking for it again.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, assert_never

from token_relay.agents.elapsed import Stamp
from token_relay.agents.phone.person import NotSignedIn, Person, SignInLostError, SignInOptions
from token_relay.agents.phone.sign_in_advice import AGAIN
from token_relay.agents.ports import Clock
from token_relay.agents.provider_failures import action_for
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError, RelayError, TransientError
from token_relay.protocol.secret import SECRET_CHARS_MAX, Code, Password
from token_relay.provider.native_auth.password_reset import PasswordReset
from token_relay.provider.native_auth.service import Service
from token_relay.provider.native_auth.sign_in import SignInFlow
from token_relay.provider.native_auth.sign_up import SignUp, attribute_of
from token_relay.provider.native_auth.states import (
    Again,
    AttributesRequired,
    CodeRequired,
    Completed,
    Failed,
    Method,
    MfaRequired,
    NewPasswordRequired,
    PasswordRequired,
    Redirect,
    RegistrationRequired,
    ResetPending,
    Step,
)
from token_relay.provider.native_auth.wire import CODES_ONLY
from token_relay.provider.outcome import Denied, Refreshed

PASSWORD_TRIES_MAX = 3  # more would feed the provider's lockout
NEW_PASSWORD_TRIES_MAX = 5  # a person learns the tenant's rules one by one
RESENDS_MAX = 5
QUESTIONS_MAX = 60  # of one conversation; the control socket allows a command a few more
STEPS_MAX = 40  # states of one conversation, polls not counted; a provider that wants more is broken
POLL_WAIT_S_MAX = 300.0  # as Microsoft's SDK waits; after that the outcome is unknown
VALUE_CHARS_MAX = 256  # of an attribute
UNKNOWN_CLIENT = 700016  # AADSTS: no such application in this tenant; Entra's reference of error codes
LOCKED = 50053  # AADSTS: too many wrong passwords; Entra's reference of error codes

AnyFlow = SignInFlow | SignUp | PasswordReset


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Tokens, not yet judged; ``sent`` is when the request that brought them was begun."""

    tokens: Refreshed
    sent: Stamp
    is_by_code: bool


class Conversation:
    """One flow with one person. ``failure`` is the last refusal, for the audit table."""

    def __init__(self, service: Service, person: Person, options: SignInOptions, clock: Clock) -> None:
        self._service = service
        self._person = person
        self._options = options
        self._clock = clock
        self._sent = Stamp.of(clock.now())
        self._said = ""  # what was wrong with the last answer; the person was told
        self._password: Password | None = None
        self._passwords = 0
        self._resends = 0
        self._questions = 0
        self._attributes: dict[str, str] = {}
        self.failure: Failed | None = None

    async def sign_in(self) -> SignedIn:
        """Sign the person in.

        Raises:
            PersonNeededError: the provider wants something that was not given, or a browser.
            ConfigError, TransientError, LocalError: it failed; the message says why and what to try.
        """
        outcome = await self._talk(SignInFlow(self._service, self._options.username))
        assert isinstance(outcome, SignedIn), "a sign-in has no other end"
        return outcome

    async def sign_up(self) -> SignedIn | NotSignedIn:
        """Make an account, and sign the person in if the provider lets it. Raises as :meth:`sign_in`."""
        service = self._service if self._options.with_password else replace(self._service, challenge_types=CODES_ONLY)
        return await self._talk(SignUp(service, self._options.username, self._options.attributes))

    async def reset_password(self) -> SignedIn | NotSignedIn:
        """Change the password, and sign the person in if the provider lets it. Raises as :meth:`sign_in`."""
        return await self._talk(PasswordReset(self._service, self._options.username))

    async def _talk(self, flow: AnyFlow) -> SignedIn | NotSignedIn:
        try:
            step = await self._timed(flow.start())
            for _ in range(STEPS_MAX):
                match step:
                    case Completed(tokens, is_by_code):
                        return SignedIn(tokens, self._sent, is_by_code)
                    case Redirect(reason):
                        raise PersonNeededError(reason, hint="use: token-relay phone sign-in --browser")
                    case Failed():
                        step = await self._after(step)
                    case ResetPending():
                        step = await self._poll(flow, step)
                    case _:
                        step = await self._answer(flow, step)
        except RelayError as exc:
            if flow.done:
                return NotSignedIn(flow.done, str(exc))
            raise
        raise LocalError(f"the provider asked for more than {STEPS_MAX} things", hint="run the command again")

    async def _timed(self, work: Awaitable[Step]) -> Step:
        self._sent = Stamp.of(self._clock.now())
        return await work

    async def _after(self, failure: Failed) -> Again:
        """Tell what went wrong, and return the state to go on from. Raises the error when there is none."""
        self.failure = failure
        again = failure.again
        if again is None or failure.error == "outcome_unknown":
            raise error_of(failure, self._options.username)
        if isinstance(again, CodeRequired) and again.tries_left < 1:
            raise PersonNeededError(f"three wrong codes{support(failure)}", hint="run the command again for a new code")
        if failure.error == "unavailable" or LOCKED in failure.codes:  # the next password would be refused unread
            raise error_of(failure, self._options.username)
        if self._service.profile.temporary_codes & set(failure.codes):
            raise TransientError(text_of(failure), hint=_when(failure))
        if isinstance(again, MfaRequired) and len(again.methods) == 1:
            raise error_of(failure, self._options.username)  # there is nothing else to choose
        await self._person.progress({"message": text_of(failure)})
        self._said = failure.detail or "not accepted"
        return again

    async def _answer(
        self,
        flow: AnyFlow,
        state: PasswordRequired
        | NewPasswordRequired
        | CodeRequired
        | MfaRequired
        | RegistrationRequired
        | AttributesRequired,
    ) -> Step:
        said, self._said = self._said, ""
        match state:
            case PasswordRequired():
                assert isinstance(flow, SignInFlow)
                password = await self._ask_password(said)
                return await self._timed(flow.submit_password(state, password))
            case NewPasswordRequired():
                assert isinstance(flow, SignUp | PasswordReset)
                password = await self._ask_new_password(said)
                return await self._timed(flow.submit_password(state, password))
            case CodeRequired():
                return await self._answer_code(flow, state, said)
            case MfaRequired(methods=methods):
                wanted = [] if said else _fitting(methods, self._options.mfa_method)
                chosen = wanted[0] if len(wanted) == 1 else await self._choose(methods, "second factor by", said)
                return await self._timed(flow.choose_method(state, chosen))
            case RegistrationRequired():
                method, contact = await self._ask_contact(state, said)
                return await self._timed(flow.register_method(state, method, contact))
            case AttributesRequired():
                assert isinstance(flow, SignUp)
                self._attributes |= await self._ask_attributes(state)
                # All of them: the provider keeps nothing of a submission that it refused.
                return await self._timed(flow.submit_attributes(state, self._attributes))
            case _:
                assert_never(state)

    async def _answer_code(self, flow: AnyFlow, state: CodeRequired, said: str) -> Step:
        where = f"code sent by {state.channel} to {state.target_label}"
        value = await self._ask(
            "code",
            f"{where}, once more" if said else where,
            code_length=state.code_length,
            can_resend=True,
            resend_after_s=state.resend_after_s,
        )
        if value is None:
            raise PersonNeededError(f"the provider asks for the {where}", hint="add --otp-file FILE")
        typed = value.strip()
        if not typed:
            self._resends += 1
            if self._resends > RESENDS_MAX:
                raise PersonNeededError(f"{RESENDS_MAX} codes were sent again", hint="run the command again")
            step = await self._timed(flow.resend(state))
            if isinstance(step, Failed) and step.error == "unavailable" and step.again is not None:
                # The older code is still good.
                self.failure = step
                await self._person.progress({"message": f"no new code was sent: {text_of(step)}"})
                return step.again
            if isinstance(step, CodeRequired):
                await self._person.progress({"message": "a new code was sent; the older one is void"})
            return step
        if state.code_length and len(typed) != state.code_length:
            self._said = f"a code has {state.code_length} characters"  # and no try is wasted on this one
            await self._person.progress({"message": self._said})
            return state
        return await self._timed(flow.submit_code(state, Code(typed)))

    async def _ask(self, kind: str, text: str, **extra: Any) -> str | None:
        self._questions += 1
        if self._questions > QUESTIONS_MAX:
            raise LocalError(f"the provider needs more than {QUESTIONS_MAX} questions", hint="run the command again")
        return await self._person.ask(kind, text, **extra)

    async def _ask_password(self, said: str) -> Password:
        if not said and self._password is not None:
            return self._password  # the flow was begun anew
        self._passwords += 1
        if self._passwords > PASSWORD_TRIES_MAX:
            raise PersonNeededError(
                f"{PASSWORD_TRIES_MAX} wrong passwords{self._support()}",
                hint=f"token-relay phone reset-password --username {quote(self._options.username)}",
            )
        text = f"password of {self._options.username}{', once more' if said else ''}"
        value = await self._ask("password", text)
        if value is None:
            raise PersonNeededError("the provider asks for the password", hint="add --password-file FILE")
        self._password = _password(value)
        return self._password

    async def _ask_new_password(self, said: str) -> Password:
        self._passwords += 1
        if self._passwords > NEW_PASSWORD_TRIES_MAX:
            raise PersonNeededError(f"{NEW_PASSWORD_TRIES_MAX} passwords were not accepted{self._support()}")
        text = f"new password of {self._options.username}{', another one' if said else ''}"
        value = await self._ask("new_password", text)
        if value is None:
            raise PersonNeededError("the provider asks for a new password", hint="add --new-password-file FILE")
        return _password(value)

    async def _choose(self, methods: tuple[Method, ...], title: str, said: str, hint: str = "--mfa-method") -> Method:
        if len(methods) == 1 and not said:
            return methods[0]
        choices = [{"value": one.id, "text": f"{one.channel} {one.label}".strip()} for one in methods]
        value = await self._ask("choice", title, choices=choices)
        chosen = next((one for one in methods if one.id == value), None)
        if chosen is None:
            names = ", ".join(choice["text"] for choice in choices)
            text = f"the provider asks for a choice, {title} one of: {names}"
            raise PersonNeededError(f"{said}; {text}" if said else text, hint=f"add {hint}")
        return chosen

    async def _ask_contact(self, state: RegistrationRequired, said: str) -> tuple[Method, str]:
        contact = "" if said else self._options.contact.strip()
        if contact:
            channel = "email" if "@" in contact else "sms"
            method = next((one for one in state.methods if one.channel == channel), None)
            if method is None:
                offered = ", ".join(one.channel for one in state.methods)
                raise PersonNeededError(f"this tenant does not register {channel}, only: {offered}")
            return method, contact
        method = await self._choose(state.methods, "register a second factor by", said, "--register CONTACT")
        what = "phone number, with + and country code" if method.channel == "sms" else "e-mail address"
        value = await self._ask(
            "contact", f"{what} to register as second factor", channel=method.channel, proposal=method.label
        )
        contact = (value or "").strip() or (method.label if value is not None else "")
        if not contact:
            raise PersonNeededError(
                "the account needs a second factor, and none is registered", hint="add --register CONTACT"
            )
        return method, contact

    async def _ask_attributes(self, state: AttributesRequired) -> dict[str, str]:
        """Ask for each missing attribute; after a refusal only for those that were not accepted."""
        wanted = [attribute_of(state, name) for name in state.invalid] or list(state.missing)
        values: dict[str, str] = {}
        for one in wanted:
            said = "not accepted, once more: " if one.name in state.invalid else ""
            value = await self._ask("attribute", f"{said}{one.name}", name=one.name, type=one.type, pattern=one.pattern)
            if value is None or not value.strip():
                names = ", ".join(each.name for each in wanted)
                raise PersonNeededError(f"the tenant wants to know: {names}", hint="add --attributes-file FILE")
            if len(value) > VALUE_CHARS_MAX or not value.isprintable():
                raise LocalError(f"{one.name} is longer than {VALUE_CHARS_MAX} characters or not printable")
            values[one.name] = value.strip()
        return values

    async def _poll(self, flow: AnyFlow, state: ResetPending) -> Step:
        """Poll until the reset is settled: at once, then as often as the provider wants."""
        assert isinstance(flow, PasswordReset)
        ends_at = self._clock.now().boot_s + POLL_WAIT_S_MAX
        while True:
            step = await self._timed(flow.poll(state))
            match step:
                case ResetPending() as again:
                    wait_s = again.poll_after_s
                case Failed(again=ResetPending() as again):
                    self.failure = step
                    wait_s = max(again.poll_after_s, step.retry_after_s or 0.0)
                case _:
                    return step
            if self._clock.now().boot_s + wait_s > ends_at:
                raise TransientError(
                    f"the provider did not say within {POLL_WAIT_S_MAX:.0f} s that the new password is in force",
                    hint="try to sign in with it",
                )
            state = again
            await self._clock.sleep(wait_s)

    def _support(self) -> str:
        return support(self.failure) if self.failure is not None else ""


def error_of(failure: Failed, username: str) -> RelayError:
    """Return the error that ends the command: what the person has to do depends on the kind."""
    text = text_of(failure)
    if failure.may_have_lost_tokens:
        return SignInLostError(text, hint=_when(failure))
    if failure.error in ("unavailable", "outcome_unknown"):
        return TransientError(text, hint=action_for(failure.detail, is_phone=True) or _when(failure))
    if failure.error == "invalid_scope":
        return ConfigError(text, hint="correct provider.scope in config.toml")
    if UNKNOWN_CLIENT in failure.codes:
        return ConfigError(text, hint="correct provider.client_id or provider.tenant in config.toml")
    if failure.error in ("unauthorized_client", "invalid_client"):
        return ConfigError(text, hint="switch native authentication on in the app registration of provider.client_id")
    if LOCKED in failure.codes:
        return PersonNeededError(text, hint=f"token-relay phone reset-password --username {quote(username)}")
    if failure.error == "user_not_found":
        return PersonNeededError(
            text, hint=f"correct the name; a new account: token-relay phone sign-up --username {quote(username)}"
        )
    if failure.error == "user_already_exists":
        return PersonNeededError(text, hint=f"token-relay phone sign-in --username {quote(username)}")
    if failure.error == "interaction_required":
        return PersonNeededError(text, hint="use: token-relay phone sign-in --browser")
    if {50142, 50055} & set(failure.codes):
        return PersonNeededError(text, hint=f"token-relay phone reset-password --username {quote(username)}")
    return PersonNeededError(text, hint="run the command again" if failure.retryable else "")


def _when(failure: Failed) -> str:
    return f"run the command again in {math.ceil(failure.retry_after_s)} s" if failure.retry_after_s else AGAIN


def text_of(failure: Failed) -> str:
    """Say what went wrong, with the ids for the provider's support."""
    name = " ".join(filter(None, (failure.error, failure.suberror, *(str(code) for code in failure.codes[:1]))))
    return f"{failure.detail or 'the provider refused'} ({name}){support(failure)}"


def support(answer: Failed | Denied) -> str:
    """Spell the ids that the provider's support desk asks for."""
    ids = (("trace", answer.trace_id), ("correlation", answer.correlation_id))
    parts = [f"{name} {value}" for name, value in ids if value]
    return f" [{', '.join(parts)}]" if parts else ""


def _fitting(methods: tuple[Method, ...], wanted: str) -> list[Method]:
    """Return the methods that ``--mfa-method`` means: by id, channel or masked address."""
    return [one for one in methods if wanted and wanted in (one.id, one.channel, one.label)]


def _password(value: str) -> Password:
    if not 0 < len(value) <= SECRET_CHARS_MAX:
        raise PersonNeededError("the password is empty")
    return Password(value)
