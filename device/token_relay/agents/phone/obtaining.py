"""Obtaining the companion's token: the only step between ACCEPT and RELEASED that needs the provider.

``branch`` refreshes the phone's own grant, exclusively, and gives the new token away; ``mint`` has the person sign in;
``move`` needs nothing. A crash in between leaves a token that nobody holds: it is counted as an orphan, and the step is
done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from token_relay.agents.failures import until_stored
from token_relay.agents.grants import lifecycle, schedule
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import profile_of, with_state
from token_relay.agents.grants.tokens import erase_grant
from token_relay.agents.link import Link
from token_relay.agents.phone.account import Accounts
from token_relay.agents.phone.handoff_rows import state_of
from token_relay.agents.phone.person import NewGrant, Person, SignIn, SignInLostError, SignInOptions
from token_relay.agents.phone.steps import PhoneSteps
from token_relay.agents.ports import Clock, Random
from token_relay.agents.records import Grant, Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import VaultError
from token_relay.protocol.handoff import Offered, phone_may
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.http import Http
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable

log = structlog.get_logger()

ACCEPTED = Offered(is_accepted=True)  # the one state in which a token is obtained


class Obtaining:
    """What is under way for the handoffs of one phone."""

    def __init__(
        self,
        *,
        steps: PhoneSteps,
        link: Link,
        keeper: GrantKeeper,
        accounts: Accounts,
        sign_in: SignIn,
        http: Http,
        clock: Clock,
        random: Random,
    ) -> None:
        self._steps = steps
        self._link = link
        self._keeper = keeper
        self._accounts = accounts
        self._sign_in = sign_in
        self._http = http
        self._clock = clock
        self._random = random
        self._network = asyncio.Event()
        self._under_way: set[str] = set()
        self._signing_in: dict[str, asyncio.Lock] = {}

    def resume(self, turn: Turn) -> None:
        """Pick up after a restart: count orphans, go on with what was accepted."""
        for row in turn.tx.select(PhoneHandoff, is_obtaining=True):
            turn.tx.put(replace(row, is_obtaining=False, orphans=row.orphans + 1))
            turn.event("orphan_left", handoff_id=row.handoff_id, detail="the agent stopped while a token was obtained")
        for row in turn.tx.select(PhoneHandoff, state="offered", reason="accepted"):
            turn.after.append(partial(self.start, row.handoff_id))

    def network_is_up(self) -> None:
        """What waits for the provider may try at once."""
        self._network.set()
        self._network = asyncio.Event()

    def start(self, handoff_id: str) -> None:
        """ACCEPT is committed. ``mint`` waits for the person's command; the others go on by themselves."""
        self._steps.pulse()
        if handoff_id not in self._under_way:
            self._under_way.add(handoff_id)
            self._link.spawn(self._obtain(handoff_id))

    async def _obtain(self, handoff_id: str) -> None:
        """Obtain and release, trying again until it works, is final, or the offer is over. Never raises."""
        failures = 0
        try:
            while True:
                row = await self._link.turn(lambda turn: turn.tx.get(PhoneHandoff, handoff_id))
                if row is None or state_of(row) != ACCEPTED:
                    return
                if row.strategy == "mint":
                    await self._note(handoff_id, "waits for the person to sign in: token-relay phone handoff again")
                    return
                if row.strategy == "move":
                    await self._keeper.flights.exclusively(row.grant_id, partial(self._move, handoff_id))
                else:
                    await self._keeper.flights.exclusively(row.grant_id, partial(self._branch, handoff_id))
                row = await self._link.turn(lambda turn: turn.tx.get(PhoneHandoff, handoff_id))
                if row is None or state_of(row) != ACCEPTED:
                    return
                grant_id = row.grant_id
                grant = await self._link.turn(lambda turn: turn.tx.get(Grant, grant_id))  # noqa: B023  # run at once
                if grant is not None and grant.state in ("refreshing", "uncertain"):
                    await self._keeper.refresh(row.grant_id)  # finish the open intent first
                failures += 1
                pause_s = schedule.backoff_s(
                    failures=failures, share=self._random.uniform(0.5, 1.0), retry_after_s=None
                )
                await self._clock.wait(self._network, pause_s)
        except VaultError as exc:
            log.error("vault_refused", detail=str(exc))
        finally:
            self._under_way.discard(handoff_id)

    async def _note(self, handoff_id: str, problem: str) -> None:
        def step(turn: Turn) -> None:
            row = turn.tx.get(PhoneHandoff, handoff_id)
            if row is not None and row.problem != problem:
                turn.tx.put(replace(row, problem=problem))
                turn.after.append(self._steps.pulse)

        await self._link.turn(step)

    async def _move(self, handoff_id: str) -> None:
        def step(turn: Turn) -> None:
            row = turn.tx.get(PhoneHandoff, handoff_id)
            grant = turn.tx.get(Grant, row.grant_id) if row is not None else None
            if row is None or grant is None or grant.refresh_token is None:
                self._give_up(turn, handoff_id, "the phone has no token to move any more")
            elif grant.state == "held":
                pairing = turn.tx.get(Pairing, row.pairing_id)
                assert pairing is not None
                self._steps.release(turn, pairing, row, grant, grant.refresh_token)

        await self._carefully(step)

    async def _branch(self, handoff_id: str) -> None:
        """Refresh the phone's own grant and give the *new* token away; the old one stays here, and good."""

        def begin(turn: Turn) -> tuple[Grant, RefreshToken] | None:
            row = turn.tx.get(PhoneHandoff, handoff_id)
            if row is None or state_of(row) != ACCEPTED:
                return None
            grant = turn.tx.get(Grant, row.grant_id)
            if grant is None or grant.refresh_token is None or grant.state == "dead":
                self._give_up(turn, handoff_id, "the phone is no longer signed in")
                return None
            if grant.state != "held":
                return None
            orphans = row.orphans + (1 if row.is_obtaining else 0)
            turn.tx.put(replace(row, is_obtaining=True, orphans=orphans))
            return grant, grant.refresh_token

        begun = await self._link.turn(begin)
        if begun is None:
            return
        grant, refresh_token = begun
        outcome = await oauth.refresh(
            self._http,
            profile_of(grant),
            token_endpoint=grant.token_endpoint,
            client_id=grant.client_id,
            refresh_token=refresh_token,
            client_info=grant.profile == "entra",
        )
        await self._carefully(lambda turn: self._branched(turn, handoff_id, outcome))

    def _branched(self, turn: Turn, handoff_id: str, outcome: TokenOutcome) -> None:
        row = turn.tx.get(PhoneHandoff, handoff_id)
        if row is None:
            return
        grant = turn.tx.get(Grant, row.grant_id)
        pairing = turn.tx.get(Pairing, row.pairing_id)
        if grant is None or pairing is None:
            return
        # What came back without being released is nobody's: an answer that was lost, or a handoff ended meanwhile.
        is_orphan = isinstance(outcome, OutcomeUnknown)
        match outcome:
            case Refreshed(refresh_token=RefreshToken() as new):
                is_orphan = not self._steps.release(turn, pairing, row, grant, new)
            case Refreshed():
                self._give_up(turn, handoff_id, "the provider gives no second refresh token: branch cannot work")
            case Denied(kind="final"):
                erase_grant(turn, with_state(grant, lifecycle.Dead(grant.generation, "denied")))
                turn.event("sign_in_needed", grant_id=grant.grant_id, detail="denied")
                self._give_up(
                    turn, handoff_id, f"the provider no longer accepts the phone's own grant: {outcome.error}"
                )
            case Denied(kind="person" | "configuration"):
                self._give_up(turn, handoff_id, f"the provider refuses: {outcome.error} ({outcome.kind})")
            case Denied():
                self._put_problem(turn, handoff_id, f"the provider refuses for now: {outcome.error}")
            case Unavailable(reason) | OutcomeUnknown(reason):
                self._put_problem(turn, handoff_id, f"the provider cannot be reached: {reason}")
        current = turn.tx.get(PhoneHandoff, handoff_id)
        if current is not None and (current.is_obtaining or is_orphan):
            turn.tx.put(replace(current, is_obtaining=False, orphans=current.orphans + (1 if is_orphan else 0)))

    def _put_problem(self, turn: Turn, handoff_id: str, problem: str) -> None:
        row = turn.tx.get(PhoneHandoff, handoff_id)
        if row is not None:
            turn.tx.put(replace(row, problem=problem))
            turn.after.append(self._steps.pulse)

    def _give_up(self, turn: Turn, handoff_id: str, problem: str) -> None:
        row = turn.tx.get(PhoneHandoff, handoff_id)
        pairing = turn.tx.get(Pairing, row.pairing_id) if row is not None else None
        if row is not None and pairing is not None:
            turn.tx.put(replace(row, problem=problem, is_obtaining=False))
            if phone_may(state_of(row), "cancel"):  # the companion or the person may have ended it meanwhile
                self._steps.step(turn, pairing, handoff_id, "cancel")

    async def _carefully(self, step: Callable[[Turn], None]) -> None:
        await until_stored(lambda: self._link.turn(step), self._clock, event="token_not_stored")

    async def mint(self, row: PhoneHandoff, options: SignInOptions | None, person: Person) -> None:
        """Have the person sign in just for the companion; the token goes straight into the sealed TOKEN."""
        lock = self._signing_in.setdefault(row.handoff_id, asyncio.Lock())
        async with lock:
            current = await self._link.turn(lambda turn: turn.tx.get(PhoneHandoff, row.handoff_id))
            if current is None or state_of(current) != ACCEPTED:
                return
            chosen = options or SignInOptions(username=await self._accounts.usual_username())

            def begin(turn: Turn) -> None:
                current = turn.tx.get(PhoneHandoff, row.handoff_id)
                if current is not None:
                    turn.tx.put(replace(current, is_obtaining=True))

            def abandon(turn: Turn, orphans: int = 0) -> None:
                current = turn.tx.get(PhoneHandoff, row.handoff_id)
                if current is not None and current.is_obtaining:
                    turn.tx.put(replace(current, is_obtaining=False, orphans=current.orphans + orphans))

            await self._link.turn(begin)
            try:
                new = await self._sign_in.authenticate(person, chosen, self._accounts.note_refusal)
            except BaseException as exc:
                await self._link.turn(partial(abandon, orphans=int(isinstance(exc, SignInLostError))))
                raise
            try:
                checked = await self._sign_in.check(new)
            except BaseException:
                await self._link.turn(partial(abandon, orphans=1))  # a live token, and nobody holds it
                raise
            await self._carefully(partial(self._minted, handoff_id=row.handoff_id, new=checked))
        self._signing_in.pop(row.handoff_id, None)

    def _minted(self, turn: Turn, handoff_id: str, new: NewGrant) -> None:
        row = turn.tx.get(PhoneHandoff, handoff_id)
        pairing = turn.tx.get(Pairing, row.pairing_id) if row is not None else None
        if row is None or pairing is None or new.tokens.refresh_token is None:
            return
        grant = self._accounts.grant_of(turn, new, new.tokens.refresh_token)
        if not self._steps.release(turn, pairing, row, grant, new.tokens.refresh_token):
            current = turn.tx.get(PhoneHandoff, handoff_id)  # release() may have given the handoff up
            assert current is not None
            turn.tx.put(replace(current, is_obtaining=False, orphans=current.orphans + 1))
