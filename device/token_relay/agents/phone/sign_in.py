"""Signing in at the provider: natively, as a conversation, or with a browser that comes back by a redirect.

The result is a :class:`~token_relay.agents.phone.person.NewGrant` in memory; nothing is stored here.
:meth:`ProviderSignIn.check` judges it later, since the refresh token must be on disk before the next network request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit

from token_relay.agents.elapsed import Stamp
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.native import Conversation, SignedIn, support
from token_relay.agents.phone.person import (
    CodeReceived,
    NewGrant,
    NewReceiver,
    NotAccepted,
    NotSignedIn,
    Person,
    RedirectReceiver,
    RefusalNote,
    SignInLostError,
    SignInNote,
    SignInOptions,
    SignInRefused,
)
from token_relay.agents.phone.provider_endpoints import asked_prompt, asked_scope, discover
from token_relay.agents.phone.sign_in_advice import (
    AGAIN,
    error_page_advice,
    foreseen,
    hint_for,
    no_refresh_token_hint,
    not_granted,
    refused_sentence,
)
from token_relay.agents.ports import Clock, Random
from token_relay.agents.provider_failures import action_for
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError, RelayError, TransientError
from token_relay.protocol.secret import Code
from token_relay.provider import discovery, oauth
from token_relay.provider.authorization import authorization_url, pkce_pair
from token_relay.provider.http import Http
from token_relay.provider.native_auth.endpoints import native_base
from token_relay.provider.native_auth.service import CAPABILITIES, Service
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.userinfo import fetch_userinfo

ACCOUNT_CHARS_MAX = 200
BROWSER_WAIT_S = 600.0  # a person finds a password, a second device, and comes back
BROWSER_PATIENCE_S = 20.0  # then a person who looks at an error page in the browser is told what may be wrong


class ProviderSignIn:
    """The :class:`~token_relay.agents.phone.person.SignIn` of production."""

    def __init__(
        self, *, http: Http, clock: Clock, random: Random, settings: AccountSettings, new_receiver: NewReceiver
    ) -> None:
        self._http = http
        self._clock = clock
        self._random = random
        self._settings = settings
        self._new_receiver = new_receiver

    async def authenticate(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant:
        """See :meth:`SignIn.authenticate`."""
        if (options.method or self._settings.profile.sign_in) != "native":
            return await self._browser(person, options, note)
        new = await self._native(person, options, note, Conversation.sign_in)
        assert isinstance(new, NewGrant), "a sign-in has no other end"
        return new

    async def sign_up(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant | NotSignedIn:
        """See :meth:`SignIn.sign_up`."""
        return await self._native(person, options, note, Conversation.sign_up)

    async def reset_password(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant | NotSignedIn:
        """See :meth:`SignIn.reset_password`."""
        return await self._native(person, options, note, Conversation.reset_password)

    async def _native(
        self,
        person: Person,
        options: SignInOptions,
        note: RefusalNote,
        talk: Callable[[Conversation], Awaitable[SignedIn | NotSignedIn]],
    ) -> NewGrant | NotSignedIn:
        settings, profile = self._settings, self._settings.profile
        if profile.sign_in != "native":
            raise ConfigError(
                f"profile {profile.name} has no native sign-in", hint="token-relay phone sign-in --browser"
            )
        if not options.username:
            raise ConfigError("native authentication needs a user name", hint="add --username")
        base = native_base(settings.url, settings.tenant)
        metadata = await discover(self._http, settings)
        scope = asked_scope(settings, metadata)
        client_id = options.client_id or settings.client_id
        service = Service(self._http, profile, base, client_id, scope, capabilities=CAPABILITIES)
        conversation = Conversation(service, person, options, self._clock)
        try:
            outcome = await talk(conversation)
        except (RelayError, asyncio.CancelledError):  # cancelled: the person saw the refusal and left
            await note(conversation.failure)
            raise
        if isinstance(outcome, NotSignedIn):
            await note(conversation.failure)
            return outcome
        sent, is_otp = outcome.sent, outcome.is_by_code
        return NewGrant(
            outcome.tokens, metadata, sent, None, is_otp=is_otp, username=options.username, client_id=options.client_id
        )

    async def _browser(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant:
        metadata = await discover(self._http, self._settings)
        for sentence in foreseen(metadata, self._settings, asked_scope(self._settings, metadata)):
            await person.progress({"message": f"warning: {sentence}"})
        state, nonce = self._random.bytes(16).hex(), self._random.bytes(16).hex()
        verifier, challenge = pkce_pair(self._random.bytes(32))
        async with self._new_receiver(state) as receiver:
            url = self._url(
                metadata,
                receiver.redirect_uri,
                state=state,
                nonce=nonce,
                challenge=challenge,
                client_id=options.client_id,
                login_hint=options.username,
            )
            shown = await person.ask("browser", "sign in with the browser", url=url, open=options.open_browser)
            if shown is None:
                raise PersonNeededError("nobody is there to sign in with a browser", hint="run the command again")
            try:
                async with asyncio.timeout(BROWSER_WAIT_S):
                    answer = await self._come_back(receiver, person)
            except TimeoutError:
                raise PersonNeededError("nobody signed in within ten minutes", hint="run the command again") from None
            match answer:
                case SignInRefused(error, description, codes, trace_id, correlation_id):
                    await note(Denied("person", error, "", codes, trace_id, correlation_id))
                    raise PersonNeededError(refused_sentence(error, description), hint=hint_for(error))
                case CodeReceived(code=code):
                    sent = Stamp.of(self._clock.now())
                    outcome = await self._redeem(
                        metadata, receiver.redirect_uri, code, verifier, client_id=options.client_id
                    )
        if isinstance(outcome, Denied):
            await note(outcome)
        tokens = _tokens(outcome, metadata.token_endpoint)
        # Nobody knows yet who signed in: the hint is not who did.
        return NewGrant(tokens, metadata, sent, nonce, is_otp=False, username="", client_id=options.client_id)

    async def _come_back(self, receiver: RedirectReceiver, person: Person) -> CodeReceived | SignInRefused:
        """Wait for this sign-in's redirect, and tell the person about browsers that come with something else."""
        is_told = False
        while True:
            try:
                async with asyncio.timeout(None if is_told else BROWSER_PATIENCE_S):
                    answer = await receiver.wait()
            except TimeoutError:
                is_told = True
                await person.progress({"message": error_page_advice(receiver.redirect_uri, self._settings)})
                continue
            if not isinstance(answer, NotAccepted):
                return answer
            await person.progress({"message": f"a browser came back and was not accepted: {answer.why}"})

    def _url(
        self,
        metadata: discovery.ProviderMetadata,
        redirect_uri: str,
        *,
        state: str,
        nonce: str,
        challenge: str,
        client_id: str = "",
        login_hint: str = "",
    ) -> str:
        if metadata.authorization_endpoint is None:
            hint = "write provider.authorization_endpoint in config.toml"
            raise LocalError("the provider has no authorization endpoint", hint=hint)
        settings = self._settings
        return authorization_url(
            authorization_endpoint=metadata.authorization_endpoint,
            client_id=client_id or settings.client_id,
            redirect_uri=redirect_uri,
            scope=asked_scope(settings, metadata),
            state=state,
            nonce=nonce,
            code_challenge=challenge,
            prompt=asked_prompt(settings, metadata),
            audience=settings.audience,
            resource=settings.resource,
            login_hint=login_hint,
            more=settings.authorization_parameters,
        )

    async def _redeem(
        self,
        metadata: discovery.ProviderMetadata,
        redirect_uri: str,
        code: Code,
        verifier: Code,
        *,
        client_id: str = "",
    ) -> TokenOutcome:
        return await oauth.exchange_code(
            self._http,
            self._settings.profile,
            token_endpoint=metadata.token_endpoint,
            client_id=client_id or self._settings.client_id,
            code=code,
            code_verifier=verifier,
            redirect_uri=redirect_uri,
            issuer=metadata.issuer,
            resource=self._settings.resource,
        )

    async def check(self, new: NewGrant) -> NewGrant:
        """Judge a sign-in: tokens complete, id_token genuine, from this issuer, for this client, of this sign-in.

        Raises: as :meth:`SignIn.check`.
        """
        asked = asked_scope(self._settings, new.metadata)
        if new.tokens.refresh_token is None:
            raise LocalError("the provider gave no refresh token", hint=no_refresh_token_hint(asked))
        if new.tokens.problem:
            raise LocalError(f"the provider's answer cannot be used: {new.tokens.problem}")
        if words := not_granted(asked, new.tokens.scope):
            new = _noted(new, "scope_not_granted", f"the provider did not grant all of the scope: {words} is missing")
        if new.tokens.id_token is None:
            if "openid" in asked.split():
                hint = "take openid out of provider.scope, if this provider does not know OpenID Connect"
                raise LocalError("the provider gave no id_token although scope has openid", hint=hint)
            return await self._named(new, "", new.username)
        from token_relay.provider.id_token import check_id_token, fetch_jwks  # joserfc costs start-up time and memory

        subject = check_id_token(
            new.tokens.id_token,
            await fetch_jwks(self._http, new.metadata.jwks_uri),
            issuer=new.metadata.issuer,
            client_id=new.client_id or self._settings.client_id,
            nonce=new.nonce,
            now_wall_s=self._clock.now().wall_s,
        )
        if subject.unverified:
            text = f"the signature of the id_token could not be checked: {subject.unverified}; the sign-in is kept"
            new = _noted(new, "id_token_unverified", text)
        # The name that was typed is that of the account only at native sign-in, which sends no nonce.
        typed = new.username if new.nonce is None else ""
        return await self._named(
            replace(new, sid=subject.sid, user_id=subject.user_id),
            subject.sub,
            subject.username or typed or subject.name,
        )

    async def _named(self, new: NewGrant, sub: str, name: str) -> NewGrant:
        """Return the sign-in with subject and name; the provider is asked for a name that is not known yet.

        Without an id_token, what the provider says of its own access token stands for the subject.
        """
        found = None
        if not name or not sub:
            endpoint = new.metadata.userinfo_endpoint
            found = await fetch_userinfo(self._http, endpoint, new.tokens.access_token)
        if found is not None and found.sub in (sub or found.sub,):
            sub, name = found.sub, name or found.username
        host = urlsplit(new.metadata.issuer).hostname
        return replace(new, subject=sub, username=shown_name(name or sub or f"unnamed account at {host}"))


def _noted(new: NewGrant, event: str, text: str) -> NewGrant:
    return replace(new, notes=(*new.notes, SignInNote(event, text)))


def shown_name(username: str) -> str:
    """Return a provider's name for a person, made fit for an OFFER and for a terminal."""
    return "".join(c for c in username if c.isprintable())[:ACCOUNT_CHARS_MAX]


def _tokens(outcome: TokenOutcome, token_endpoint: str) -> Refreshed:
    match outcome:
        case Refreshed():
            return outcome
        case Denied():
            said = f"{refused_sentence(outcome.error, outcome.description)}{support(outcome)}"
            raise PersonNeededError(said, hint=hint_for(outcome.error))
        case Unavailable(reason=reason):
            raise TransientError(
                f"the provider did not answer the sign-in: {reason}", hint=action_for(reason, is_phone=True) or AGAIN
            )
        case OutcomeUnknown(reason=reason):
            hint = f"sign in again; if that ends alike, look at what answers at {token_endpoint}"
            raise SignInLostError(f"the provider did not answer the sign-in: {reason}", hint=hint)
