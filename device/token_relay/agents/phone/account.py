"""The phone's accounts: signing in, the opt-in refresh-token API, signing out.

A sign-in (:class:`token_relay.agents.phone.person.SignIn`) ends in a ``NewGrant``. For the phone's own account it is
stored before it is judged: the refresh token is on disk first, locked, then the id_token is checked, and a sign-in that
is proven wrong is revoked and erased again. What cannot be judged here is kept, and told. A token that is minted for a
companion is never kept here.

The refresh token leaves only by :meth:`Accounts.get_access_token`, through two gates: the application's
(``allow_refresh_token_access``) and the call's (``return_refresh_token=True``, the shape of MSAL's
``returnRefreshToken``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle, refuted, revocation
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.schedule import columns_of_life
from token_relay.agents.grants.serving import columns_of, normalise_scope
from token_relay.agents.grants.tokens import cache_token, delete_grant
from token_relay.agents.phone.account_choice import ALL, choose, person_of
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.own_grants import is_only
from token_relay.agents.phone.person import NewGrant, NotSignedIn, Person, SignIn, SignInOptions
from token_relay.agents.phone.provider_endpoints import asked_scope, discover
from token_relay.agents.phone.sign_in import shown_name
from token_relay.agents.phone.sign_in_advice import no_refresh_token_hint
from token_relay.agents.ports import Transaction
from token_relay.agents.records import FINISHED, CachedToken, Grant, GrantColumns
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import LocalError, PersonNeededError, PolicyError, RelayError, TransientError
from token_relay.protocol.messages import ProviderSaid
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import discovery
from token_relay.provider.http import Http
from token_relay.provider.native_auth.states import Done, Failed
from token_relay.provider.outcome import Denied, Refreshed
from token_relay.provider.profile import PROFILES, Profile


@dataclass(frozen=True, slots=True)
class AccessWithRefreshToken:
    """What :meth:`Accounts.get_access_token` returns; ``refresh_token`` is None unless both gates are open."""

    granted: TokenGranted
    refresh_token: RefreshToken | None = None


class Accounts:
    """The phone's own grants at its provider."""

    def __init__(
        self,
        turns: Turns,
        *,
        keeper: GrantKeeper,
        sign_in: SignIn,
        http: Http,
        settings: AccountSettings,
        due: asyncio.Event,
    ) -> None:
        self._turns = turns
        self._keeper = keeper
        self._sign_in = sign_in
        self._http = http
        self._due = due
        self.settings = settings

    # -- signing in ------------------------------------------------------------------------------------

    async def sign_in(self, person: Person, options: SignInOptions) -> Grant:
        """Sign the person in and keep the grant, which replaces the same person's older one; durable when it returns.

        Raises:
            PersonNeededError: the provider wants something that this way of signing in cannot do.
            LocalError, TransientError: it failed; the message says why and what to try.
        """
        return await self._keep(await self._sign_in.authenticate(person, options, self.note_refusal), person)

    async def _keep(self, new: NewGrant, person: Person) -> Grant:
        """Store, then judge, then adopt or discard."""
        grant = await self._turns.run(lambda turn: self._store(turn, new))
        try:
            checked = await self._sign_in.check(new)
        except RelayError as exc:
            await self._discard(grant, str(exc))
            raise
        adopted = await self._turns.run(lambda turn: self._adopt(turn, grant.grant_id, checked))
        for note in checked.notes:
            await person.progress({"message": f"warning: {note.text}"})
        return adopted

    async def sign_up(self, person: Person, options: SignInOptions) -> Grant | NotSignedIn:
        """Make an account natively, and keep the grant of the sign-in that follows where the provider allows one.

        Raises:
            PersonNeededError, LocalError, TransientError: as :meth:`sign_in`; there is no account then.
        """
        outcome = await self._sign_in.sign_up(person, options, self.note_refusal)
        return await self._keep_if_signed_in(outcome, "account_created", person)

    async def reset_password(self, person: Person, options: SignInOptions) -> Grant | NotSignedIn:
        """Change a password natively, and keep the grant of the sign-in that follows where the provider allows one.

        Raises:
            PersonNeededError, LocalError, TransientError: as :meth:`sign_in`; it says what became of the password.
        """
        outcome = await self._sign_in.reset_password(person, options, self.note_refusal)
        return await self._keep_if_signed_in(outcome, "password_changed", person)

    async def _keep_if_signed_in(
        self, outcome: NewGrant | NotSignedIn, done: Done, person: Person
    ) -> Grant | NotSignedIn:
        if isinstance(outcome, NotSignedIn):
            return outcome
        try:
            return await self._keep(outcome, person)
        except RelayError as exc:
            return NotSignedIn(done, str(exc))

    async def note_refusal(self, failure: Failed | Denied | None, handoff_id: str = "") -> None:
        """Write a refusal to the audit table, with the ids that the provider's support asks for; nothing for None."""
        if failure is None:
            return
        codes = (str(code) for code in failure.codes)
        detail = " ".join(filter(None, (failure.error, failure.suberror, *codes)))

        def step(turn: Turn) -> None:
            turn.event(
                "sign_in_refused",
                handoff_id=handoff_id,
                detail=detail,
                trace_id=failure.trace_id,
                correlation_id=failure.correlation_id,
            )

        await self._turns.run(step)

    def grant_of(self, turn: Turn, new: NewGrant, refresh_token: RefreshToken, *, is_imported: bool = False) -> Grant:
        """Return the row for the grant of a sign-in; writes nothing. Who has an imported token too, nobody knows."""
        return Grant(
            grant_id=turn.new_id(),
            pairing_id="",
            handoff_id="",
            issuer=new.metadata.issuer,
            client_id=new.client_id or self.settings.client_id,
            token_endpoint=new.metadata.token_endpoint,
            revocation_endpoint=new.metadata.revocation_endpoint or "",
            scope=_granted(new.tokens.scope, asked_scope(self.settings, new.metadata), self.settings.profile.name),
            audience=self.settings.audience or self.settings.resource,
            subject=new.subject,
            account=new.username,
            sid=new.sid,
            user_id=new.user_id,
            is_sole=not is_imported,
            profile=self.settings.profile.name,
            behaviour=self._behaviour(turn.tx, new.metadata.issuer),
            signed_in_at=turn.wall,
            is_otp=new.is_otp,
            stored_at=turn.wall,
            refresh_token=refresh_token,
        )

    def believed_profile(self, tx: Transaction, issuer: str = "") -> Profile:
        """Return what the settings say of the provider, or its strict form where the provider has refuted it."""
        said = self.settings
        return refuted.believed(tx, said.profile, issuer=issuer, measured_at=said.measured_at)

    def _behaviour(self, tx: Transaction, issuer: str) -> str:
        """Return the behaviour for a grant of this phone; empty: that of the profile's name."""
        profile = self.believed_profile(tx, issuer)
        if self.settings.resource:
            profile = replace(profile, takes_resource=True)
        named = PROFILES.get(profile.name)
        is_named = named is not None and named.behaviour == profile.behaviour
        return "" if is_named else profile.behaviour.model_dump_json()

    def describe_anew(self, turn: Turn) -> None:
        """Write into this phone's grants what its settings say now of their provider."""
        for grant in turn.tx.select(Grant, pairing_id="", client_id=self.settings.client_id):
            behaviour = self._behaviour(turn.tx, grant.issuer)
            if grant.profile == self.settings.profile.name and grant.behaviour != behaviour:
                turn.change(Grant, grant.grant_id, behaviour=behaviour)

    def _store(self, turn: Turn, new: NewGrant) -> Grant:
        if new.tokens.refresh_token is None:
            hint = no_refresh_token_hint(asked_scope(self.settings, new.metadata))
            raise LocalError("the provider gave no refresh token", hint=hint)
        grant = self.grant_of(turn, new, new.tokens.refresh_token)
        turn.tx.put(grant)
        turn.change(Grant, grant.grant_id, refreshed_at=turn.wall, refreshed=turn.stamp)
        life = columns_of_life(grant, new.tokens.refresh_token_expires_in_s, turn.now)
        turn.change(Grant, grant.grant_id, **life)
        grant = turn.change(Grant, grant.grant_id, **columns_of(lifecycle.Locked(grant.generation, "unverified")))
        if new.tokens.access_token is not None:
            cache_token(turn, grant, "", new.sent, new.tokens)
        return grant

    def _adopt(self, turn: Turn, grant_id: str, checked: NewGrant) -> Grant:
        generation = turn.row(Grant, grant_id).generation
        turn.change(Grant, grant_id, **columns_of(lifecycle.Held(generation)))
        who: GrantColumns = {
            "subject": checked.subject,
            "account": checked.username,
            "sid": checked.sid,
            "user_id": checked.user_id,
        }
        grant = turn.change(Grant, grant_id, **who)
        for older in turn.tx.select(
            Grant, pairing_id="", issuer=grant.issuer, client_id=grant.client_id, subject=grant.subject
        ):
            if older.grant_id != grant_id:
                delete_grant(turn, older.grant_id)
        turn.event("signed_in", grant_id=grant_id, generation=grant.generation, detail=grant.account)
        tell_notes(turn, checked, grant_id=grant_id)
        turn.after.append(self._due.set)
        return grant

    async def _discard(self, grant: Grant, why: str) -> None:
        """Revoke a sign-in that failed its check, where that ends nothing else, and erase it."""
        said = await self._revoke(grant)

        def step(turn: Turn) -> None:
            delete_grant(turn, grant.grant_id)
            turn.event("sign_in_refused", grant_id=grant.grant_id, detail=why)
            turn.event("revoked_at_provider", grant_id=grant.grant_id, detail=said)

        await self._turns.run(step)

    def discard_unjudged(self, turn: Turn) -> None:
        """Erase, in this transaction, the sign-ins that the agent did not come to judge; then have them revoked.

        Their commands have failed, and what would prove them (the nonce) is gone. Where revoking could end another
        device's grant, the provider is not asked, and the event says "unsupported": the token lives there until its
        end, and nobody has it.
        """
        for grant in turn.tx.select(Grant, state="locked", reason="unverified"):
            delete_grant(turn, grant.grant_id)
            turn.event("sign_in_refused", grant_id=grant.grant_id, detail="the agent stopped before it was checked")
            turn.after.append(partial(self._revoke_soon, grant))

    def _revoke_soon(self, grant: Grant) -> None:
        async def revoke() -> None:
            said = await self._revoke(grant)
            await self._turns.run(lambda turn: turn.event("revoked_at_provider", grant_id=grant.grant_id, detail=said))

        self._turns.spawn(revoke())

    async def _revoke(self, grant: Grant) -> ProviderSaid:
        is_alone = await self._turns.read(partial(is_only, grant=grant))
        if grant.refresh_token is None or not revocation.may_ask(grant, is_revoked=is_alone):
            return "unsupported"
        return await revocation.ask(self._http, grant, grant.refresh_token)

    async def discover(self) -> discovery.ProviderMetadata:
        """Return the provider's endpoints. Raises TransientError when a later try may work, else ConfigError."""
        return await discover(self._http, self.settings)

    # -- adopting and giving up ------------------------------------------------------------------------

    async def adopt(self, refresh_token: RefreshToken, *, account: str) -> Grant:
        """Adopt a token obtained elsewhere (an SDK's opt-in): store it, then refresh it at once, which proves it.

        Raises:
            LocalError: the provider does not accept it (it is erased), or wants the person (it stays, sealed).
            TransientError: no answer proved it yet; it is kept and tried again.
        """
        metadata = await self.discover()
        new = NewGrant(
            Refreshed(refresh_token, None, token_type="", expires_in_s=0.0, scope=""),
            metadata,
            Stamp.of(self._turns.clock.now()),
            None,
            is_otp=False,
            username=shown_name(account),
        )

        def step(turn: Turn) -> Grant:
            grant = self.grant_of(turn, new, refresh_token, is_imported=True)
            for older in turn.tx.select(Grant, pairing_id=""):
                is_over = older.state == "dead" and older.reason != "moved"  # what was moved may come back
                if is_over or older.refresh_token == refresh_token:
                    delete_grant(turn, older.grant_id)
            turn.tx.put(grant)
            turn.event("imported", grant_id=grant.grant_id)
            return grant

        grant = await self._turns.run(step)
        await self._keeper.refresh(grant.grant_id)
        after = await self._turns.run(lambda turn: turn.tx.get(Grant, grant.grant_id))
        if after is None or after.state in FINISHED:
            raise LocalError(
                "the provider does not accept this refresh token",
                hint="obtain a new one, then: token-relay phone import --refresh-token-file FILE",
            )
        if not after.refreshed:
            raise TransientError(
                self._keeper.pause_reason(grant.grant_id) or "the provider cannot be reached",
                hint="the token is kept, and tried again by itself",
            )
        return await self._turns.run(lambda turn: self._learn_scope(turn, after))

    def _learn_scope(self, turn: Turn, grant: Grant) -> Grant:
        """Write the scope that the first answer tells: a token from elsewhere has that of its own sign-in."""
        token = turn.tx.get(CachedToken, grant.grant_id, "")
        if token is not None:
            scope = _granted(token.granted_scope, self.settings.scope, grant.profile)
            return turn.change(Grant, grant.grant_id, scope=scope)
        return grant

    async def sign_out(self, account: str, person: Person) -> list[dict[str, str]]:
        """Erase the phone's own grants, each on disk before the provider is asked to revoke it where it can be.

        ``account``: only this one's; empty: the only one's, else the person says whose, or all.

        Raises:
            LocalError: nobody of that name is signed in. PersonNeededError: several are, and nobody says which.
        """
        # What was moved and comes back must not go to a phone that was signed out.
        grants = [grant for grant in await self.grants() if grant.state != "dead" or grant.reason == "moved"]
        if account or grants:
            chosen = await choose(grants, account, person, "sign out of which account", or_all=not account)
            who = {person_of(grant) for grant in grants if chosen in (grant.grant_id, ALL)}
            grants = [grant for grant in grants if person_of(grant) in who]
        result: list[dict[str, str]] = []
        for grant in sorted(grants, key=lambda grant: grant.state != "dead"):
            said: ProviderSaid = "unsupported"

            def erase(turn: Turn, grant: Grant = grant) -> RefreshToken | None:
                current = turn.tx.get(Grant, grant.grant_id)
                if current is None:
                    return None
                delete_grant(turn, grant.grant_id)
                if current.state != "dead":
                    turn.event("signed_out", grant_id=grant.grant_id, detail=grant.account)
                return current.refresh_token

            refresh_token = await self._turns.run(erase)
            if refresh_token is not None and revocation.may_ask(grant, is_revoked=True):
                said = await revocation.ask(self._http, grant, refresh_token)
            if grant.state != "dead":
                result.append({"account": grant.account, "issuer": grant.issuer, "provider": said})
        return result

    async def grants(self) -> list[Grant]:
        """Return the phone's own grants, the newest last."""
        rows = await self._turns.run(lambda turn: turn.tx.select(Grant, pairing_id=""))
        return sorted(rows, key=lambda grant: (grant.stored_at, grant.grant_id))

    async def usual_username(self, person: Person) -> str:
        """Return the user name of a sign-in that names none: of the one account; empty when nobody is signed in.

        Raises:
            PersonNeededError: several are signed in, and nobody says whose it is.
        """
        own = {grant.grant_id: grant for grant in await self.grants()}
        return own[await choose([*own.values()], "", person, "who signs in")].account if own else ""

    # -- the opt-in API --------------------------------------------------------------------------------

    async def get_access_token(
        self, scopes: str = "", *, account: str = "", force_refresh: bool = False, return_refresh_token: bool = False
    ) -> AccessWithRefreshToken:
        """Return an access token, and with ``return_refresh_token`` the refresh token of the same grant.

        ``account``: whose; empty where only one can be meant.

        Raises:
            PolicyError: ``return_refresh_token`` without ``allow_refresh_token_access = true``.
            PersonNeededError: nobody is signed in, or the person must sign in again.
            TransientError: the provider cannot be reached now.
        """
        if return_refresh_token:
            self.require_refresh_token_access()
        query = TokenQuery(scope=scopes, account=account, force_refresh=force_refresh, min_valid_s=0.0)
        answer = await self._keeper.get_token(query)
        if isinstance(answer, TokenRefused):
            if answer.error in ("offline", "busy"):
                raise TransientError(answer.detail, hint=answer.action)
            raise PersonNeededError(answer.detail, hint=answer.action)
        refresh_token = None
        if return_refresh_token:
            grants = [grant for grant in await self.grants() if grant.grant_id == answer.grant_id]
            refresh_token = grants[0].refresh_token if grants else None
        return AccessWithRefreshToken(answer, refresh_token)

    def require_refresh_token_access(self) -> None:
        """Check the application's gate. Raises PolicyError, which names the setting, when it is shut."""
        if not self.settings.allow_refresh_token_access:
            raise PolicyError(
                "this phone may not give refresh tokens away: allow_refresh_token_access is false",
                hint="set allow_refresh_token_access = true in config.toml and restart the agent",
            )


def tell_notes(turn: Turn, new: NewGrant, *, grant_id: str = "", handoff_id: str = "") -> None:
    """Write the notes of a sign-in to the audit table."""
    for note in new.notes:
        turn.event(note.event, grant_id=grant_id, handoff_id=handoff_id, detail=note.text)


def _granted(answered: str, requested: str, profile: str) -> str:
    """Return the grant's scope: what the answer says, which is exact where it says something. RFC 6749 §5.1.

    Entra alone grants words of OpenID Connect without saying so, and a refresh there without ``offline_access`` gets no
    refresh token. Elsewhere a word that was not granted would make every refresh of a companion fail.
    """
    if not answered:
        return normalise_scope(requested)
    tacit = {"openid", "profile", "email", "offline_access"} if profile == "entra" else set()
    return normalise_scope(f"{answered} {' '.join(tacit & set(requested.split()))}")
