"""The keeper: it answers programs that ask for an access token, and refreshes what is due without being asked.

It serves from the vault where it can; otherwise it begins a flight (:mod:`.flight`), which callers share. The agent
watches each change of a grant inside the same transaction, and decides what it means to the protocol (RENEW, the end of
a handoff). :mod:`token_relay.agents.grants.lifecycle` makes the decisions about a refresh.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import structlog

from token_relay.agents.failures import STORE_RETRY_S
from token_relay.agents.grants import lease, schedule
from token_relay.agents.grants.answers import ToRefresh, decide, granted, refusal
from token_relay.agents.grants.challenges import Challenges
from token_relay.agents.grants.choice import PhoneBook
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.grants.flight import Flights, Gate, GrantWatcher
from token_relay.agents.grants.lifecycle import is_asked_again
from token_relay.agents.grants.pauses import Pauses, shown_s
from token_relay.agents.grants.refusals import Refusals
from token_relay.agents.grants.serving import (
    columns_of_lease,
    lease_of,
    normalise_scope,
    profile_of,
    remaining_s,
    state_of,
)
from token_relay.agents.grants.transfer import PAUSE_S, TransferExchange
from token_relay.agents.ports import Now, Ports
from token_relay.agents.records import USABLE, CachedToken, Grant
from token_relay.agents.token_source import (
    NamedPhone,
    TokenGranted,
    TokenQuery,
    TokenRefused,
    TransferGranted,
    TransferQuery,
)
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import VaultError
from token_relay.provider.outcome import Denied, Refreshed

log = structlog.get_logger()

ASKED_AGAIN_S = 60.0  # of questions closer together only the first makes the keeper look
WAITERS_MAX = 64
AGAIN_S = 10.0  # as long as a caller waits by default: a request under way has mostly ended by then
AGAIN = f"ask again in {AGAIN_S:g} s"


def no_answer(timeout_s: float) -> str:
    """Return the sentence for a caller whose time is over before the request's."""
    return f"no answer from the provider within {timeout_s:g} s; the request goes on"


class GrantKeeper:
    """Implements ``TokenSource`` and ``TransferSource`` of :mod:`.agents.token_source` over the grants of one vault.

    The code that stores or changes a grant sets ``due``: the keeper looks at once whether it needs a refresh.
    """

    def __init__(
        self,
        ports: Ports,
        turns: Turns,
        *,
        watcher: GrantWatcher,
        due: asyncio.Event,
        idle_days: int | None = None,
        book: PhoneBook | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._turns = turns
        self._book = book
        self._clock = ports.clock
        self._random = ports.random
        self._watcher = watcher
        self._idle_days = idle_days
        self._challenges = Challenges()
        self._pauses = Pauses(ports.clock, ports.random)
        self._refusals = Refusals(lambda: watcher.reauth_action)
        self._is_reloaded = False
        self._wake = due
        self.flights = Flights(
            ports, turns, watcher=watcher, pauses=self._pauses, refusals=self._refusals, landed=due, gate=gate
        )
        self._asked: dict[str, float] = {}
        self._shares: dict[str, tuple[int, float]] = {}  # per grant: generation and the share drawn for it
        self._leases_over: set[str] = set()
        self._exchanged: dict[str, float] = {}  # per grant: when the last exchange began
        self._waiters = 0

    # -- asking ----------------------------------------------------------------------------------------

    async def get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        """Answer from disk, or refresh within ``query.timeout_s``; never raises for an expected failure.

        What the provider rotated is on disk before a token is returned. A flight outlives its caller.
        """
        if self._waiters >= WAITERS_MAX:
            return TokenRefused("busy", f"{WAITERS_MAX} programs are waiting already", "ask again in 1 s", 1.0)
        self._waiters += 1
        try:
            return await self._get_token(query)
        except VaultError as exc:
            return TokenRefused("offline", f"the vault cannot be used: {exc}", exc.hint, retry_after_s=STORE_RETRY_S)
        finally:
            self._waiters -= 1

    async def _get_token(self, query: TokenQuery) -> TokenGranted | TokenRefused:
        grant, answer = await self._decide(query)
        now = self._clock.now()
        if grant is not None:
            self._note_asked(grant.grant_id, now)
        if not isinstance(answer, ToRefresh):
            return answer
        errand = RefreshErrand(normalise_scope(query.scope), query.claims)
        key = errand.key(answer.grant.grant_id)
        if errand.narrows(answer.grant):
            has_worked = answer.has_worked and not query.claims
            if (refused := self._refusals.admit(key, now, has_worked=has_worked)) is not None:
                return self._fallback(answer, now) or refused
        if query.claims:
            return await self._meet_challenge(answer.grant, query, errand)
        if is_asked_again(state_of(answer.grant)):
            self._pauses.end(answer.grant.grant_id)  # its owner asks
        elif query.force_refresh:
            self._pauses.force(answer.grant.grant_id, now)
        newest = replace(query, force_refresh=False, min_valid_s=0.0)  # after a refresh, whatever came will do
        ends_at = now.boot_s + query.timeout_s
        while now.boot_s < ends_at and not self._pauses.is_on(answer.grant.grant_id, now):
            flight = self.flights.fly(answer.grant.grant_id, errand)
            try:
                async with asyncio.timeout(ends_at - now.boot_s):
                    await asyncio.shield(flight)
            except TimeoutError:
                pass
            _, answer = await self._decide(newest)
            if not isinstance(answer, ToRefresh):
                return answer
            now = self._clock.now()  # the flight was not ours: another scope, or the phone's own work with this grant
            if (refused := self._refusals.get(key, now)) is not None:
                return refused
        return self._fallback(answer, now) or self._offline(answer.grant.grant_id, query)

    def _fallback(self, answer: ToRefresh, now: Now) -> TokenGranted | None:
        if answer.fallback is None or answer.fallback.token is None or remaining_s(answer.fallback.token, now) <= 0:
            return None
        return granted(answer.fallback, now)

    def _note_asked(self, grant_id: str, now: Now) -> None:
        if now.boot_s - self._asked.get(grant_id, -ASKED_AGAIN_S) >= ASKED_AGAIN_S:
            self._wake.set()  # a program asks again: a refresh ahead of time may be worth it
        self._asked[grant_id] = now.boot_s

    async def _meet_challenge(
        self, grant: Grant, query: TokenQuery, errand: RefreshErrand
    ) -> TokenGranted | TokenRefused:
        """Refresh once with the claims that a resource wants; a token from before is no answer."""
        grant_id, scope, now = grant.grant_id, errand.scope, self._clock.now()
        if not profile_of(grant).takes_claims:
            return TokenRefused("denied", "the provider of this grant takes no claims challenge", "leave claims out")
        challenge = self._challenges.admit(grant_id, scope, query.claims, now)
        if isinstance(challenge, TokenRefused):
            return challenge
        try:
            async with asyncio.timeout(query.timeout_s):
                while challenge.flight is None:
                    if self._pauses.is_on(grant_id, self._clock.now()):
                        self._challenges.forget(grant_id, scope)
                        return self._offline(grant_id, query)
                    if (other := self.flights.running(grant_id)) is None:
                        challenge.flight = self.flights.fly(grant_id, errand)
                    else:
                        await asyncio.shield(other)
                outcome = await asyncio.shield(challenge.flight)
        except TimeoutError:
            return self._offline(grant_id, query)
        _, answer = await self._decide(replace(query, force_refresh=False, min_valid_s=0.0, claims=""))
        if isinstance(answer, TokenRefused):
            return answer
        if isinstance(outcome, Refreshed) and isinstance(answer, TokenGranted):
            return answer
        if (refused := self._refusals.get(errand.key(grant_id), self._clock.now())) is not None:
            return refused
        if not isinstance(outcome, Refreshed | Denied):
            self._challenges.forget(grant_id, scope)
        return self._offline(grant_id, query)

    def _offline(self, grant_id: str, query: TokenQuery) -> TokenRefused:
        pause, now = self._pauses.get(grant_id), self._clock.now()
        if pause is None:
            return TokenRefused("offline", no_answer(query.timeout_s), AGAIN, AGAIN_S)
        left_s = max(0.0, pause.until_boot_s - now.boot_s)
        return TokenRefused("offline", pause.told(now), pause.action or f"ask again in {shown_s(left_s)}", left_s)

    async def get_session_transfer(self, query: TransferQuery) -> TransferGranted | TokenRefused:
        """Trade a grant's refresh token for a session transfer token; each caller gets one of its own.

        What the provider rotated is on disk before this returns, or this caller gets nothing. A caller that goes away
        does not end the exchange; nobody gets its token then.
        """
        if self._waiters >= WAITERS_MAX:
            return TokenRefused("busy", f"{WAITERS_MAX} programs are waiting already", "ask again in 1 s", 1.0)
        self._waiters += 1
        try:
            async with asyncio.timeout(query.timeout_s):
                wanted = TokenQuery(
                    account=query.account, audience=query.audience, issuer=query.issuer, phones=query.phones
                )
                return await self._exchange(wanted)
        except TimeoutError:
            return TokenRefused("offline", no_answer(query.timeout_s), AGAIN, AGAIN_S)
        except VaultError as exc:
            return TokenRefused("offline", f"the vault cannot be used: {exc}", exc.hint, retry_after_s=STORE_RETRY_S)
        finally:
            self._waiters -= 1

    async def _exchange(self, query: TokenQuery) -> TransferGranted | TokenRefused:
        has_mended = False
        while True:
            grant, answer = await self._decide(query)
            if grant is None:
                assert isinstance(answer, TokenRefused)
                return answer
            if grant.state not in USABLE:
                return refusal(grant, self._watcher.reauth_action)
            grant_id, now = grant.grant_id, self._clock.now()
            if (flight := self.flights.running(grant_id)) is not None:
                await asyncio.shield(flight)
                continue
            pause, wait_s = self._pauses.get(grant_id), self._exchanged.get(grant_id, -PAUSE_S) + PAUSE_S - now.boot_s
            if pause is not None and pause.until_boot_s > now.boot_s:
                return self._offline(grant_id, query)
            if wait_s > 0:
                await self._clock.sleep(wait_s)
                continue
            if grant.state != "held" and has_mended:
                return TokenRefused("offline", "an earlier answer of the provider is still missing", AGAIN, AGAIN_S)
            if grant.state != "held":  # an open intent comes to its end first
                await asyncio.shield(self.flights.fly(grant_id, RefreshErrand()))
                has_mended = True
                continue
            self._exchanged[grant_id] = now.boot_s
            exchange = TransferExchange()
            await asyncio.shield(self.flights.fly(grant_id, exchange))
            brought = exchange.answer(self._clock.now())
            if brought is None and self._pauses.is_on(grant_id, self._clock.now()):
                continue  # nothing was sent; the pause says why
            after, _ = await self._decide(query)
            if after is None or after.state not in USABLE:
                return refusal(after or grant, self._watcher.reauth_action)
            return brought or TokenRefused("offline", "the grant was replaced meanwhile", "ask again now")

    async def _decide(self, query: TokenQuery) -> tuple[Grant | None, TokenGranted | TokenRefused | ToRefresh]:
        now = self._clock.now()
        return await self._turns.read(lambda tx: decide(tx, query, now, self._watcher.reauth_action, self._book))

    async def find_phone(self, word: str) -> NamedPhone | TokenRefused:
        """Return the phone that a program names; a phone's own agent has none."""
        book = self._book
        if book is None:
            return TokenRefused("not_found", "a phone has no phones", "leave the phone out")
        try:
            return await self._turns.read(lambda tx: book.find(tx, word))
        except VaultError as exc:
            return TokenRefused("offline", f"the vault cannot be used: {exc}", exc.hint, retry_after_s=STORE_RETRY_S)

    async def refresh(self, grant_id: str, scope: str = "") -> None:
        """Refresh once now, whatever the cache holds, or share a flight under way; durable when it returns.

        It returns after a failure too: :meth:`pause_reason` says why.
        """
        await asyncio.shield(self.flights.fly(grant_id, RefreshErrand(normalise_scope(scope))))

    def reload(self) -> None:
        """A person may have changed something: ask again at once where the provider refuses for now."""
        self._is_reloaded = True
        self._wake.set()

    def network_is_up(self) -> None:
        """The network may be back: end the pauses that waited for it, and try again at once what is due."""
        self._pauses.clear()
        self._wake.set()

    def pause_reason(self, grant_id: str) -> str:
        """Return why the last refresh did not work, for status; empty when it did."""
        pause = self._pauses.get(grant_id)
        return pause.reason if pause else ""

    # -- unasked ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Refresh what is due without being asked, and mark leases; runs until cancelled."""
        while True:
            self._wake.clear()
            try:
                wait_s = await self._tend()
            except VaultError as exc:
                log.error("vault_refused", detail=str(exc))
                wait_s = schedule.WAIT_S_MAX
            await self._clock.wait(self._wake, wait_s)

    async def _tend(self) -> float:
        """Start what is due; return the seconds until something may be due again."""
        now = self._clock.now()
        grants, tokens = await self._turns.read(lambda tx: (tx.select(Grant), tx.select(CachedToken, scope="")))
        by_grant = {token.grant_id: token for token in tokens}
        wait_s = schedule.WAIT_S_MAX
        is_reloaded, self._is_reloaded = self._is_reloaded, False
        for grant in grants:
            if is_reloaded and is_asked_again(state_of(grant)):
                self._pauses.end(grant.grant_id)
            held = lease_of(grant)
            left = lease.left_s(held, now) if held is not None else None
            if held is not None and grant.state != "dead":
                if left is not None and left <= 0:
                    if grant.grant_id not in self._leases_over:
                        self._leases_over.add(grant.grant_id)
                        await self._turns.run(partial(self._note_lease_over, grant_id=grant.grant_id))
                    continue
                self._leases_over.discard(grant.grant_id)
                mark_s = lease.mark_due_in_s(held, now)
                if mark_s <= 0:
                    await self._turns.run(partial(self._mark, grant_id=grant.grant_id))
                    mark_s = lease.MARK_EVERY_S
                wait_s = min(wait_s, mark_s, wait_s if left is None else left)
            asked_s, share = self._asked.get(grant.grant_id), self._share_of(grant)
            token = by_grant.get(grant.grant_id)
            due_s = schedule.due_in_s(grant, token, now, asked_boot_s=asked_s, share=share, idle_days=self._idle_days)
            if due_s is None:
                continue
            pause = self._pauses.get(grant.grant_id)
            if pause is not None:
                due_s = max(due_s, pause.unasked_boot_s - now.boot_s)
            if due_s <= 0:
                self.flights.fly(grant.grant_id, RefreshErrand())
            else:
                wait_s = min(wait_s, due_s)
        return max(wait_s, 0.05)

    def _share_of(self, grant: Grant) -> float:
        """Return where in an access token's life this grant is refreshed unasked; drawn anew for each generation."""
        generation, share = self._shares.get(grant.grant_id, (-1, 0.0))
        if generation != grant.generation:
            share = self._random.uniform(0.0, 1.0)
            self._shares[grant.grant_id] = (grant.generation, share)
        return share

    def _note_lease_over(self, turn: Turn, grant_id: str) -> None:
        # Each look locks by the clock; what the clock shows now must survive a start without one.
        self._mark(turn, grant_id)
        turn.event("lease_ended", grant_id=grant_id)

    def _mark(self, turn: Turn, grant_id: str) -> None:
        grant = turn.tx.get(Grant, grant_id)
        held = lease_of(grant) if grant is not None else None
        if held is not None:
            turn.change(Grant, grant_id, **columns_of_lease(lease.mark(held, turn.now)))
