"""Carries out the experiments at a provider, with sign-ins of its own; no vault and no grant in use is touched.

The tokens live in the memory of this object. When it ends, however it ends, what can be revoked is revoked, and
:attr:`Probe.left` says what lives on at the provider. Ports only.
"""

from __future__ import annotations

from typing import Any, assert_never

from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.person import Person, SignIn, SignInOptions
from token_relay.agents.phone.provider_endpoints import asked_scope, discover
from token_relay.agents.ports import Clock
from token_relay.agents.probe.experiments import (
    PAUSED,
    AskSignIn,
    Measured,
    Observed,
    Setup,
    Step,
    TokenAt,
    TryAccess,
    TryRefresh,
    TryRevoke,
    WaitFor,
    Window,
    experiments,
)
from token_relay.protocol.errors import LocalError, PersonNeededError, TransientError
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider import oauth
from token_relay.provider.discovery import ProviderMetadata
from token_relay.provider.http import Http
from token_relay.provider.native_auth.states import Failed
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, Unavailable
from token_relay.provider.profile import STRICT
from token_relay.provider.userinfo import fetch_userinfo

REQUEST_TRIES_MAX = 3  # of one request that the provider did not take
RETRY_S, RETRY_S_MAX = 2.0, 60.0
BROAD = ("profile", "email", "address", "phone")  # words of a scope that a refresh may leave out first
WINDOWS: dict[Window, str] = {
    "usual": "in your usual browser window",
    "private": "in a private window, and leave that window open; the next private sign-in uses it again",
}


class Probe:
    """One measurement."""

    def __init__(
        self, *, http: Http, clock: Clock, sign_in: SignIn, settings: AccountSettings, options: SignInOptions
    ) -> None:
        self._http = http
        self._clock = clock
        self._sign_in = sign_in
        self._settings = settings
        self._options = options
        self._refresh_tokens: dict[TokenAt, RefreshToken] = {}
        self._access_tokens: dict[TokenAt, AccessToken] = {}
        self._newest: dict[int, TokenAt] = {}
        self._dead: set[int] = set()
        self._windows: dict[int, Window] = {}
        self._subject = ""
        self._scope = ""
        self.left: list[str] = []
        """What lives on at the provider, one sentence each; complete when :meth:`run` has ended, also by an error."""

    async def run(self, person: Person, *, long_try: bool = True) -> Measured:
        """Measure; ask the person before each sign-in.

        Raises:
            PersonNeededError: the person stopped it. LocalError, TransientError: it cannot be done, or not now.
        """
        metadata = await discover(self._http, self._settings)
        self._scope = asked_scope(self._settings, metadata)
        method = self._options.method or self._settings.profile.sign_in
        setup = Setup(
            has_windows=method != "native",
            has_revocation=metadata.revocation_endpoint is not None,
            has_userinfo=metadata.userinfo_endpoint is not None and "openid" in self._scope.split(),
            long_try=long_try,
        )
        machine = experiments(setup)
        try:
            step = next(machine)
            while True:
                seen = await self._take(step, metadata, person)
                try:
                    step = machine.send(seen)
                except StopIteration as end:
                    measured: Measured = end.value
                    return measured
        finally:
            machine.close()
            await self._clear_up(metadata, person)

    async def _take(self, step: Step, metadata: ProviderMetadata, person: Person) -> Observed:
        match step:
            case AskSignIn(number, window):
                return await self._have_sign_in(number, window, person)
            case TryRefresh(token, why, narrower=narrower):
                seen = await self._refresh(token, metadata, narrower=narrower)
                await _tell(person, f"{why}: {'tokens came' if seen.ok else f'refused, {seen.error}'}")
                return seen
            case TryAccess(token, why):
                found = await fetch_userinfo(self._http, metadata.userinfo_endpoint, self._access_tokens.get(token))
                await _tell(person, f"{why}: {'opens' if found is not None else 'does not open'}")
                return Observed(found is not None, at_s=self._clock.now().boot_s)
            case TryRevoke(token, why):
                error = await self._revoke(token, metadata)
                await _tell(person, f"{why}: {f'refused, {error}' if error else 'accepted'}")
                return Observed(not error, error=error)
            case WaitFor(seconds, why):
                await _tell(person, f"waiting {seconds} s {why}")
                await self._clock.sleep(seconds)
                return PAUSED
            case _:
                assert_never(step)

    # -- sign-ins --------------------------------------------------------------------------------------

    async def _have_sign_in(self, number: int, window: Window, person: Person) -> Observed:
        is_native = (self._options.method or self._settings.profile.sign_in) == "native"
        where = "" if is_native else f" {WINDOWS[window]}"
        text = f"sign-in {number}, to be thrown away{where}: go on?"
        if await person.ask("confirm", text) != "yes":
            raise PersonNeededError("the measurement was stopped: nobody signed in", hint="run the command again")
        self._windows[number] = window
        new = await self._sign_in.authenticate(_AtWindow(person, window), self._options, _ignore)
        at = TokenAt(number, 0)
        if new.tokens.refresh_token is not None:
            self._refresh_tokens[at], self._newest[number] = new.tokens.refresh_token, at
        new = await self._sign_in.check(new)
        if self._subject and new.subject and new.subject != self._subject:
            raise LocalError(
                "somebody else signed in this time", hint="run the command again, as the same account each time"
            )
        self._subject = self._subject or new.subject
        if new.tokens.access_token is not None:
            self._access_tokens[at] = new.tokens.access_token
        self._scope = new.tokens.scope or self._scope
        return Observed(
            True,
            at,
            life_s=new.tokens.refresh_token_expires_in_s,
            at_s=self._clock.now().boot_s,
            access_life_s=new.tokens.expires_in_s,
            sid=new.sid,
            can_narrow=self._narrower() != "",
        )

    # -- requests --------------------------------------------------------------------------------------

    async def _refresh(self, at: TokenAt, metadata: ProviderMetadata, *, narrower: bool) -> Observed:
        """Refresh until there is a verdict. Raises TransientError: none came, so nothing can be concluded."""
        used = self._refresh_tokens[at]
        for attempt in range(REQUEST_TRIES_MAX):
            outcome = await oauth.refresh(
                self._http,
                STRICT,  # no provider's own codes: what is an invalid_grant here is one
                token_endpoint=metadata.token_endpoint,
                client_id=self._settings.client_id,
                refresh_token=used,
                issuer=metadata.issuer,
                scope=self._narrower() if narrower else None,
                resource=self._settings.resource,
            )
            match outcome:
                case Refreshed():
                    return self._took(at, used, outcome, narrower=narrower)
                case Denied(kind="final" | "person" | "request"):
                    if at == self._newest[at.sign_in] and not narrower:
                        self._dead.add(at.sign_in)
                    error = f"{outcome.error}{f' ({outcome.description})' if outcome.description else ''}"
                    return Observed(False, error=error, at_s=self._clock.now().boot_s)
                case Unavailable(reason=reason, retry_after_s=retry_after_s):
                    if attempt + 1 < REQUEST_TRIES_MAX:
                        await self._clock.sleep(min(retry_after_s or RETRY_S, RETRY_S_MAX))
                        continue
                    raise TransientError(
                        f"the provider cannot be asked now: {reason}", hint="run the command again in a minute"
                    )
                case Denied(error=error):
                    raise LocalError(f"the provider refuses the client at a refresh: {error}")
                case OutcomeUnknown(reason=reason):
                    hint = "run the command again; nothing can be concluded from half an answer"
                    raise TransientError(f"an answer of the provider was lost: {reason}", hint=hint)
                case _:
                    assert_never(outcome)
        raise AssertionError("the last try returns or raises")

    def _took(self, at: TokenAt, used: RefreshToken, outcome: Refreshed, *, narrower: bool) -> Observed:
        newest = at
        if outcome.refresh_token is not None and outcome.refresh_token != used:
            youngest = max(one.number for one in self._refresh_tokens if one.sign_in == at.sign_in)
            newest = TokenAt(at.sign_in, youngest + 1)
            self._refresh_tokens[newest] = outcome.refresh_token
            self._newest[at.sign_in] = newest
        if outcome.access_token is not None:
            self._access_tokens[newest] = outcome.access_token
        answered = set(outcome.scope.split())
        return Observed(
            True,
            newest,
            life_s=outcome.refresh_token_expires_in_s,
            at_s=self._clock.now().boot_s,
            access_life_s=outcome.expires_in_s,
            narrowed=narrower and bool(answered) and not set(self._scope.split()) <= answered,
        )

    def _narrower(self) -> str:
        """Return the scope without one word that an account can do without; empty where there is none."""
        words = self._scope.split()
        spare = [word for word in BROAD if word in words]
        return " ".join(word for word in words if word != spare[0]) if spare and len(words) > 1 else ""

    async def _revoke(self, at: TokenAt, metadata: ProviderMetadata) -> str:
        """Ask once; return why not, or nothing."""
        if metadata.revocation_endpoint is None:
            return "no revocation endpoint is known"
        outcome = await oauth.revoke(
            self._http,
            revocation_endpoint=metadata.revocation_endpoint,
            client_id=self._settings.client_id,
            token=self._refresh_tokens[at],
            issuer=metadata.issuer,
            token_endpoint=metadata.token_endpoint,
        )
        match outcome:
            case oauth.RevokeAccepted():
                return ""
            case oauth.RevokeRefused(error=error, status=status):
                return f"{error} (HTTP {status})"
            case oauth.RevokeUnreachable(reason=reason):
                return reason
            case _:
                assert_never(outcome)

    async def _clear_up(self, metadata: ProviderMetadata, person: Person) -> None:
        """Revoke what lives, as far as that works here, and say what is left; asks nobody."""
        for number, at in self._newest.items():
            if number in self._dead:
                continue
            error = await self._revoke(at, metadata)
            if not error:
                try:
                    seen = await self._refresh(at, metadata, narrower=False)
                except (TransientError, LocalError):
                    seen = Observed(False)
                error = "the provider said yes, and the token lives on" if seen.ok else ""
            if error:
                self.left.append(f"the grant of sign-in {number} lives on at the provider: {error}")
        if self._access_tokens:
            self.left.append("access tokens that were issued work until their own end")
        for sentence in self.left:
            await _tell(person, sentence)


class _AtWindow:
    """The person, told in which window to open the sign-in page."""

    def __init__(self, person: Person, window: Window) -> None:
        self._person = person
        self._window = window

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        """Ask; a private window nobody but the person can open."""
        if kind != "browser":
            return await self._person.ask(kind, text, **extra)
        extra["open"] = bool(extra.get("open")) and self._window == "usual"
        return await self._person.ask(kind, f"open this {WINDOWS[self._window]}", **extra, window=self._window)

    async def progress(self, step: dict[str, Any]) -> None:
        """Tell."""
        await self._person.progress(step)


async def _ignore(failure: Failed | Denied | None) -> None:
    """Take a refusal of the sign-in, which is told to the person as an error."""


async def _tell(person: Person, text: str) -> None:
    await person.progress({"message": text})
