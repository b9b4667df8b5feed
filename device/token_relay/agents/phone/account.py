"""The phone's accounts: signing in, the opt-in refresh-token API, signing out.

A sign-in ends in a :class:`NewGrant`. For the phone's own account it is stored before it is judged: a 200 with a
refresh token is on disk first, then the id_token is checked, and a sign-in that fails the check is revoked and
erased again. A token that is minted for a companion is never kept here.

The refresh token leaves by :meth:`Accounts.get_access_token` alone, with two gates: the application's
(``allow_refresh_token_access``) and the call's (``return_refresh_token=True``, the shape of MSAL's
``returnRefreshToken``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants import revocation as revoking
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import choose_grant, normalise_scope, with_state
from token_relay.agents.grants.tokens import cache_token, erase_grant
from token_relay.agents.link import Link
from token_relay.agents.phone import native
from token_relay.agents.phone.person import Person as Person  # noqa: PLC0414  # re-export: the accounts' own words
from token_relay.agents.phone.person import SignInLostError as SignInLostError  # noqa: PLC0414  # as above
from token_relay.agents.phone.person import SignInOptions as SignInOptions  # noqa: PLC0414  # as above
from token_relay.agents.ports import Clock, Random
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.agents.turn import Turn
from token_relay.host.loopback_receiver import CodeReceived, LoopbackReceiver, SignInRefused
from token_relay.protocol.errors import (
    ConfigError,
    LocalError,
    PersonNeededError,
    PolicyError,
    RelayError,
    TransientError,
)
from token_relay.protocol.messages import ProviderSaid
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.http import Http
from token_relay.provider.native_auth.endpoints import discover_entra, native_base
from token_relay.provider.native_auth.service import CAPABILITIES, Service
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile

ACCOUNT_CHARS_MAX = 200
BROWSER_WAIT_S = 600.0  # a person finds a password, a second device, and comes back


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """What the configuration says about the provider; see :class:`token_relay.host.config.ProviderConfig`."""

    url: str
    client_id: str
    tenant: str | None
    scope: str
    profile: Profile
    allow_refresh_token_access: bool
    audience: str = ""


@dataclass(frozen=True, slots=True)
class NewGrant:
    """Tokens of a sign-in, and where they come from. ``subject`` is empty until the id_token is checked."""

    tokens: Refreshed
    metadata: oauth.ProviderMetadata
    sent: Stamp
    nonce: str | None
    is_otp: bool
    username: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class AccessWithRefreshToken:
    """What :meth:`Accounts.get_access_token` returns; ``refresh_token`` is None unless both gates are open."""

    granted: TokenGranted
    refresh_token: RefreshToken | None = None


class Accounts:
    """The phone's own grants at its provider."""

    def __init__(
        self, *, link: Link, keeper: GrantKeeper, http: Http, clock: Clock, random: Random, settings: AccountSettings
    ) -> None:
        self._link = link
        self._keeper = keeper
        self._http = http
        self._clock = clock
        self._random = random
        self.settings = settings

    # -- signing in ------------------------------------------------------------------------------------

    async def sign_in(self, person: Person, options: SignInOptions) -> Grant:
        """Sign the person in and keep the grant; replaces the same person's older grant. Durable when it returns.

        Raises:
            PersonNeededError: the provider wants something that this way of signing in cannot do.
            LocalError, TransientError: it failed; the message says why and what to try.
        """
        return await self._keep(await self.authenticate(person, options))

    async def _keep(self, new: NewGrant) -> Grant:
        """Store, then judge, then adopt or discard."""
        grant = await self._link.turn(lambda turn: self._store(turn, new))
        try:
            checked = await self.check(new)
        except RelayError:
            await self._discard(grant)
            raise
        return await self._link.turn(lambda turn: self._adopt(turn, grant.grant_id, checked))

    async def authenticate(self, person: Person, options: SignInOptions) -> NewGrant:
        """Have the person sign in; the tokens are in memory only and not yet judged.

        Raises:
            PersonNeededError, LocalError, TransientError: as :meth:`sign_in`.
        """
        if (options.method or self.settings.profile.sign_in) == "native":
            return await self._native(person, options)
        return await self._browser(person, options)

    async def _native(self, person: Person, options: SignInOptions) -> NewGrant:
        conversation, metadata = await self._conversation(person, options)
        try:
            signed_in = await conversation.sign_in()
        except (RelayError, asyncio.CancelledError):  # cancelled: the person has gone, having seen the refusal
            await self._note_refusal(conversation)
            raise
        return _new_grant(signed_in, metadata, options)

    async def sign_up(self, person: Person, options: SignInOptions) -> Grant | native.NotSignedIn:
        """Make an account, natively, and keep the grant of the sign-in that follows where the provider lets it.

        Raises:
            PersonNeededError, LocalError, TransientError: as :meth:`sign_in`; there is no account then.
        """
        return await self._native_then_signed_in(person, options, is_new=True)

    async def reset_password(self, person: Person, options: SignInOptions) -> Grant | native.NotSignedIn:
        """Change a password, natively, and keep the grant of the sign-in that follows where the provider lets it.

        Raises:
            PersonNeededError, LocalError, TransientError: as :meth:`sign_in`; what became of the password is said.
        """
        return await self._native_then_signed_in(person, options, is_new=False)

    async def _native_then_signed_in(
        self, person: Person, options: SignInOptions, *, is_new: bool
    ) -> Grant | native.NotSignedIn:
        conversation, metadata = await self._conversation(person, options)
        try:
            outcome = await (conversation.sign_up() if is_new else conversation.reset_password())
        except (RelayError, asyncio.CancelledError):  # cancelled: the person has gone, having seen the refusal
            await self._note_refusal(conversation)
            raise
        if isinstance(outcome, native.NotSignedIn):
            await self._note_refusal(conversation)
            return outcome
        try:
            return await self._keep(_new_grant(outcome, metadata, options))
        except RelayError as exc:
            return native.NotSignedIn("account_created" if is_new else "password_changed", str(exc))

    async def _conversation(
        self, person: Person, options: SignInOptions
    ) -> tuple[native.Conversation, oauth.ProviderMetadata]:
        profile = self.settings.profile
        if profile.sign_in != "native":
            raise ConfigError(f"profile {profile.name} has no native sign-in", hint="use: phone sign-in --browser")
        if not options.username:
            raise ConfigError("native authentication needs a user name", hint="add --username")
        base = native_base(self.settings.url, self.settings.tenant)
        metadata = _found(await discover_entra(self._http, base))
        service = Service(
            self._http, profile, base, self.settings.client_id, self.settings.scope, capabilities=CAPABILITIES
        )
        return native.Conversation(service, person, options, self._clock), metadata

    async def _note_refusal(self, conversation: native.Conversation) -> None:
        """Leave the last refusal in the audit table, with the ids that the provider's support asks for."""
        failure = conversation.failure
        if failure is None:
            return
        codes = (str(code) for code in failure.codes)
        detail = " ".join(filter(None, (failure.error, failure.suberror, *codes)))

        def step(turn: Turn) -> None:
            turn.event(
                "sign_in_refused", detail=detail, trace_id=failure.trace_id, correlation_id=failure.correlation_id
            )

        await self._link.turn(step)

    async def _browser(self, person: Person, options: SignInOptions) -> NewGrant:
        metadata = await self.discover()
        if metadata.authorization_endpoint is None:
            raise LocalError("the provider has no authorization endpoint", hint="is the provider's URL right?")
        state, nonce = self._random.bytes(16).hex(), self._random.bytes(16).hex()
        verifier, challenge = oauth.pkce_pair(self._random.bytes(32))
        async with LoopbackReceiver(state) as receiver:
            url = oauth.authorization_url(
                authorization_endpoint=metadata.authorization_endpoint,
                client_id=self.settings.client_id,
                redirect_uri=receiver.redirect_uri,
                scope=self.settings.scope,
                state=state,
                nonce=nonce,
                code_challenge=challenge,
                audience=self.settings.audience or None,
            )
            shown = await person.ask("browser", "sign in with the browser", url=url, open=options.open_browser)
            if shown is None:
                raise PersonNeededError("nobody is there to sign in with a browser", hint="run the command again")
            try:
                async with asyncio.timeout(BROWSER_WAIT_S):
                    answer = await receiver.wait()
            except TimeoutError:
                raise PersonNeededError("nobody signed in within ten minutes", hint="run the command again") from None
            match answer:
                case SignInRefused(error=error):
                    raise PersonNeededError(f"the provider refused the sign-in: {error}", hint="sign in again")
                case CodeReceived(code=code):
                    sent = Stamp.of(self._clock.now())
                    outcome = await oauth.exchange_code(
                        self._http,
                        self.settings.profile,
                        token_endpoint=metadata.token_endpoint,
                        client_id=self.settings.client_id,
                        code=code,
                        code_verifier=verifier,
                        redirect_uri=receiver.redirect_uri,
                    )
        return NewGrant(_tokens(outcome), metadata, sent, nonce, is_otp=False, username=options.username)

    async def discover(self) -> oauth.ProviderMetadata:
        """Return where the provider listens. Raises LocalError or TransientError, as the reason is."""
        if self.settings.profile.name == "entra":
            base = native_base(self.settings.url, self.settings.tenant)
            return _found(await discover_entra(self._http, base))
        return _found(await oauth.discover(self._http, self.settings.url))

    async def check(self, new: NewGrant) -> NewGrant:
        """Judge a sign-in: tokens complete, id_token genuine, from this issuer, for this client, of this sign-in.

        Raises:
            LocalError: it must not be used.
            TransientError: the provider's keys cannot be had now.
        """
        if new.tokens.refresh_token is None:
            raise LocalError("the provider gave no refresh token", hint="scope needs offline_access")
        if new.tokens.problem:
            raise LocalError(f"the provider's answer cannot be used: {new.tokens.problem}")
        if new.tokens.id_token is None or new.metadata.jwks_uri is None:
            if "openid" in self.settings.scope.split():
                raise LocalError("the provider gave no id_token although scope has openid")
            return new
        from token_relay.provider.id_token import check_id_token, fetch_jwks  # joserfc costs start-up time and memory

        jwks = await fetch_jwks(self._http, new.metadata.jwks_uri)
        if isinstance(jwks, Unavailable):
            raise TransientError(f"the provider's keys cannot be had: {jwks.reason}", hint="try again later")
        subject = check_id_token(
            new.tokens.id_token,
            jwks,
            issuer=new.metadata.issuer,
            client_id=self.settings.client_id,
            nonce=new.nonce,
            now_wall_s=self._clock.now().wall_s,
        )
        username = subject.username or new.username or subject.name
        return replace(new, subject=subject.sub, username=_shown(username))

    def grant_of(self, turn: Turn, new: NewGrant, refresh_token: RefreshToken) -> Grant:
        return Grant(
            grant_id=turn.new_id(),
            pairing_id="",
            handoff_id="",
            issuer=new.metadata.issuer,
            client_id=self.settings.client_id,
            token_endpoint=new.metadata.token_endpoint,
            revocation_endpoint=new.metadata.revocation_endpoint or "",
            scope=_granted(new.tokens.scope, self.settings.scope),
            audience=self.settings.audience,
            subject=new.subject,
            account=new.username,
            profile=self.settings.profile.name,
            signed_in_at=turn.wall,
            is_otp=new.is_otp,
            stored_at=turn.wall,
            refresh_token=refresh_token,
        )

    def _store(self, turn: Turn, new: NewGrant) -> Grant:
        if new.tokens.refresh_token is None:
            raise LocalError("the provider gave no refresh token", hint="scope needs offline_access")
        grant = self.grant_of(turn, new, new.tokens.refresh_token)
        grant = replace(grant, refreshed_at=turn.wall, refreshed=turn.stamp)
        grant = with_state(grant, lifecycle.Locked(grant.generation, "unverified"))
        turn.tx.put(grant)
        if new.tokens.access_token is not None:
            cache_token(turn, grant, "", new.sent, new.tokens)
        return grant

    def _adopt(self, turn: Turn, grant_id: str, checked: NewGrant) -> Grant:
        grant = turn.tx.get(Grant, grant_id)
        assert grant is not None
        grant = with_state(grant, lifecycle.Held(grant.generation))
        grant = replace(grant, subject=checked.subject, account=checked.username)
        for older in turn.tx.select(
            Grant, pairing_id="", issuer=grant.issuer, client_id=grant.client_id, subject=grant.subject
        ):
            if older.grant_id != grant_id:
                erase_grant(turn, older)
                turn.tx.delete(Grant, older.grant_id)
        turn.tx.put(grant)
        turn.event("signed_in", grant_id=grant_id, generation=grant.generation, detail=grant.account)
        turn.after.append(self._keeper.wake)
        return grant

    async def _discard(self, grant: Grant) -> None:
        """A sign-in that failed its check: revoke it where that can be done, and erase it."""
        if grant.revocation_endpoint and grant.refresh_token is not None:
            await oauth.revoke(
                self._http,
                revocation_endpoint=grant.revocation_endpoint,
                client_id=grant.client_id,
                token=grant.refresh_token,
            )

        def step(turn: Turn) -> None:
            erase_grant(turn, grant)
            turn.tx.delete(Grant, grant.grant_id)
            turn.event("sign_in_refused", grant_id=grant.grant_id)

        await self._link.turn(step)

    # -- adopting and giving up ------------------------------------------------------------------------

    async def adopt(self, refresh_token: RefreshToken, *, account: str) -> Grant:
        """Adopt a token obtained elsewhere (an SDK's opt-in); it is refreshed once at once, which proves it.

        Raises:
            LocalError: the provider does not accept it; it is erased.
            TransientError: the provider cannot be reached; it is kept and tried again.
        """
        metadata = await self.discover()
        new = NewGrant(
            Refreshed(refresh_token, None, token_type="", expires_in_s=0.0, scope=""),
            metadata,
            Stamp.of(self._clock.now()),
            None,
            is_otp=False,
            username=_shown(account),
        )

        def step(turn: Turn) -> Grant:
            grant = self.grant_of(turn, new, refresh_token)
            for older in turn.tx.select(Grant, pairing_id=""):
                is_over = older.state == "dead" and older.reason != "moved"  # what was moved may come back
                if is_over or older.refresh_token == refresh_token:
                    erase_grant(turn, older)
                    turn.tx.delete(Grant, older.grant_id)
            turn.tx.put(grant)
            turn.event("imported", grant_id=grant.grant_id)
            return grant

        grant = await self._link.turn(step)
        await self._keeper.refresh(grant.grant_id)
        after = await self._link.turn(lambda turn: turn.tx.get(Grant, grant.grant_id))
        if after is None or after.state in ("dead", "needs_handoff"):
            raise LocalError("the provider does not accept this refresh token", hint="obtain a new one")
        if not after.refreshed:
            raise TransientError(
                self._keeper.pause_reason(grant.grant_id) or "the provider cannot be reached",
                hint="the token is kept, and tried again by itself",
            )
        return await self._link.turn(lambda turn: self._learn_scope(turn, after))

    def _learn_scope(self, turn: Turn, grant: Grant) -> Grant:
        """A token from elsewhere has the scope of its own sign-in, which the first answer tells."""
        token = turn.tx.get(CachedToken, grant.grant_id, "")
        if token is not None:
            grant = replace(grant, scope=_granted(token.granted_scope, self.settings.scope))
            turn.tx.put(grant)
        return grant

    async def sign_out(self) -> list[dict[str, str]]:
        """Erase the phone's own grants, after asking the provider to revoke them where it can be asked."""
        grants = [grant for grant in await self.grants() if grant.state != "dead"]
        await self._link.turn(self._forget_moved)
        result: list[dict[str, str]] = []
        for grant in grants:
            said: ProviderSaid = "unsupported"

            def erase(turn: Turn, grant: Grant = grant) -> RefreshToken | None:
                current = turn.tx.get(Grant, grant.grant_id)
                if current is None:
                    return None
                erase_grant(turn, with_state(current, lifecycle.Dead(current.generation, "signed_out")))
                turn.tx.delete(Grant, grant.grant_id)
                turn.event("signed_out", grant_id=grant.grant_id, detail=grant.account)
                return current.refresh_token

            refresh_token = await self._link.turn(erase)
            if refresh_token is not None and revoking.may_ask(grant, is_revoked=True):
                said = await revoking.ask(self._http, grant, refresh_token)
            result.append({"account": grant.account, "issuer": grant.issuer, "provider": said})
        return result

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh was under way at the sign-out: have what it brought revoked, unless a companion has that chain."""
        if grant.reason != "moved" and revoking.may_ask(grant, is_revoked=False):
            turn.after.append(lambda: self._link.spawn(self._revoke(grant, refresh_token)))

    async def _revoke(self, grant: Grant, refresh_token: RefreshToken) -> None:
        said = await revoking.ask(self._http, grant, refresh_token)
        await self._link.turn(lambda turn: turn.event("revoked_at_provider", grant_id=grant.grant_id, detail=said))

    def _forget_moved(self, turn: Turn) -> None:
        """A grant whose token is under way to a companion does not come back to a phone that was signed out."""
        for grant in turn.tx.select(Grant, pairing_id="", state="dead", reason="moved"):
            turn.tx.delete(Grant, grant.grant_id)

    async def grants(self) -> list[Grant]:
        """Return the phone's own grants, the newest last."""
        rows = await self._link.turn(lambda turn: turn.tx.select(Grant, pairing_id=""))
        return sorted(rows, key=lambda grant: (grant.stored_at, grant.grant_id))

    async def usual_username(self) -> str:
        """Return whom a sign-in is for when nobody says so; empty when nobody is signed in."""
        own = await self.grants()
        return own[-1].account if own else ""

    # -- the opt-in API --------------------------------------------------------------------------------

    async def get_access_token(
        self, scopes: str = "", *, force_refresh: bool = False, return_refresh_token: bool = False
    ) -> AccessWithRefreshToken:
        """Return an access token, and with ``return_refresh_token`` the refresh token of the same grant.

        Raises:
            PolicyError: ``return_refresh_token`` without ``allow_refresh_token_access = true``.
            PersonNeededError: nobody is signed in, or the person must sign in again.
            TransientError: the provider cannot be reached now.
        """
        if return_refresh_token:
            self.require_refresh_token_access()
        query = TokenQuery(scope=scopes, force_refresh=force_refresh, min_valid_s=0.0)
        answer = await self._keeper.get_token(query)
        if isinstance(answer, TokenRefused):
            if answer.error in ("offline", "busy"):
                raise TransientError(answer.detail, hint=answer.action)
            raise PersonNeededError(answer.detail, hint=answer.action)
        refresh_token = None
        if return_refresh_token:
            grant = choose_grant(await self.grants(), query)  # as the keeper chose; never another account's
            refresh_token = grant.refresh_token if grant is not None else None
        return AccessWithRefreshToken(answer, refresh_token)

    def require_refresh_token_access(self) -> None:
        """Hold the application's gate. Raises PolicyError, naming the setting, when it is shut."""
        if not self.settings.allow_refresh_token_access:
            raise PolicyError(
                "this phone may not give refresh tokens away: allow_refresh_token_access is false",
                hint="set allow_refresh_token_access = true in config.toml and restart the agent",
            )


def _shown(username: str) -> str:
    """A name that comes from a provider, fit for an OFFER and for a terminal."""
    return "".join(c for c in username if c.isprintable())[:ACCOUNT_CHARS_MAX]


def _granted(answered: str, requested: str) -> str:
    """The grant's scope: what the answer says, and of ours the words that answers like to leave out."""
    if not answered:
        return normalise_scope(requested)
    silent = set(requested.split()) & {"openid", "profile", "email", "offline_access"}
    return normalise_scope(f"{answered} {' '.join(silent)}")


def _found(found: oauth.ProviderMetadata | oauth.DiscoveryFailed) -> oauth.ProviderMetadata:
    if isinstance(found, oauth.DiscoveryFailed):
        if found.is_temporary:
            raise TransientError(f"the provider cannot be reached: {found.reason}", hint="try again later")
        raise ConfigError(f"the provider cannot be used: {found.reason}", hint="check provider.url in config.toml")
    return found


def _new_grant(signed_in: native.SignedIn, metadata: oauth.ProviderMetadata, options: SignInOptions) -> NewGrant:
    return NewGrant(
        signed_in.tokens, metadata, signed_in.sent, None, is_otp=signed_in.is_by_code, username=options.username
    )


def _tokens(outcome: TokenOutcome) -> Refreshed:
    match outcome:
        case Refreshed():
            return outcome
        case Denied():
            raise PersonNeededError(f"the provider refused the sign-in: {outcome.error}{native.support(outcome)}")
        case Unavailable(reason=reason):
            raise TransientError(f"the provider did not answer the sign-in: {reason}", hint="sign in again")
        case OutcomeUnknown(reason=reason):
            raise SignInLostError(f"the provider did not answer the sign-in: {reason}", hint="sign in again")
