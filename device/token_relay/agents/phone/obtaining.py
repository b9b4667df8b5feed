"""Obtaining the companion's token: the only step between ACCEPT and RELEASED that needs the provider.

``branch`` (:mod:`.branch`) refreshes the phone's own grant and gives the new token away; ``mint`` has the person sign
in; ``move`` gives the phone's own token away. A crash in between may leave a token that nobody holds: it is counted as
an orphan, and the step is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from token_relay.agents.failures import until_stored
from token_relay.agents.grants import schedule
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.grants.flight import Flights
from token_relay.agents.grants.serving import may_be_sent
from token_relay.agents.phone.account import Accounts, tell_notes
from token_relay.agents.phone.account_choice import is_called
from token_relay.agents.phone.branch import Branch
from token_relay.agents.phone.handoff_rows import state_of
from token_relay.agents.phone.person import NewGrant, Person, SignIn, SignInLostError, SignInNote, SignInOptions
from token_relay.agents.phone.sign_in_advice import SESSION_SHARED, sibling_advice
from token_relay.agents.phone.steps import ACCEPTED, PhoneSteps
from token_relay.agents.ports import Transaction
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import UNANSWERED, Grant, HandoffKey, Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import LocalError, VaultError

log = structlog.get_logger()


class Obtaining:
    """Obtains tokens for the handoffs of one phone. ``accepted`` brings the handoffs; :meth:`run` takes them."""

    def __init__(
        self,
        turns: Turns,
        *,
        steps: PhoneSteps,
        flights: Flights,
        accounts: Accounts,
        sign_in: SignIn,
        changed: Pulse,
        accepted: asyncio.Queue[HandoffKey],
    ) -> None:
        self._turns = turns
        self._steps = steps
        self._flights = flights
        self._accounts = accounts
        self._sign_in = sign_in
        self._changed = changed
        self._accepted = accepted
        self._network = Pulse()
        self._under_way: set[HandoffKey] = set()
        self._signing_in: dict[HandoffKey, asyncio.Lock] = {}

    def resume(self, turn: Turn) -> None:
        """Pick up after a restart, in this transaction: count orphans, go on with what was accepted."""
        for row in turn.tx.select(PhoneHandoff, is_obtaining=True):
            turn.change(PhoneHandoff, *row.at, is_obtaining=False, orphans=row.orphans + 1)
            turn.event("orphan_left", handoff_id=row.handoff_id, detail="the agent stopped while a token was obtained")
        for row in turn.tx.select(PhoneHandoff, state="offered", reason="accepted"):
            turn.after.append(partial(self._accepted.put_nowait, row.at))

    def network_is_up(self) -> None:
        """Work that waits for the provider may try again at once."""
        self._network.beat()

    async def run(self) -> None:
        """Obtain for each handoff whose ACCEPT is committed; runs until cancelled.

        ``mint`` waits for the person's command; the others go on by themselves.
        """
        while True:
            at = await self._accepted.get()
            self._changed.beat()
            if at not in self._under_way:
                self._under_way.add(at)
                self._turns.spawn(self._obtain(at))

    async def _obtain(self, at: HandoffKey) -> None:
        """Obtain and release, again and again until it works, cannot work, or the offer is over; VaultError ends it."""
        failures = 0
        try:
            while (row := await self._accepted_row(at)) is not None:
                if row.strategy == "mint":
                    await self._note(at, "waits for the person to sign in: token-relay phone handoff again")
                    return
                network_is_up = self._network.next
                await self._try(row)
                if await self._accepted_row(at) is None:
                    return
                failures += 1
                share = self._turns.random.uniform(0.5, 1.0)
                pause_s = schedule.backoff_s(failures=failures, share=share, retry_after_s=None)
                await self._turns.clock.wait(network_is_up, pause_s)
        except VaultError as exc:
            log.error("vault_refused", detail=str(exc))
        finally:
            self._under_way.discard(at)

    async def _accepted_row(self, at: HandoffKey) -> PhoneHandoff | None:
        row = await self._turns.read(lambda tx: tx.get(PhoneHandoff, *at))
        return row if row is not None and state_of(row) == ACCEPTED else None

    async def _try(self, row: PhoneHandoff) -> None:
        """Obtain once, after every open request for the phone's own grant has ended."""
        await self._flights.landing(row.grant_id)
        grant = await self._turns.read(lambda tx: tx.get(Grant, row.grant_id))
        safe = (await self._turns.read(self._accounts.believed_profile)).strategies
        if row.strategy == "branch" and "branch" not in safe:
            problem = "branch is not safe with this provider, by what is known now"
            await self._turns.run(partial(self._steps.give_up, at=row.at, problem=problem))
        elif grant is None or not may_be_sent(grant):
            why = "has no token to move any more" if row.strategy == "move" else "is no longer signed in"
            problem = f"the phone {why}"
            await self._turns.run(partial(self._steps.give_up, at=row.at, problem=problem))
        elif grant.state in UNANSWERED:
            await self._flights.fly_alone(row.grant_id, RefreshErrand())
        elif grant.state != "held":
            pass
        elif row.strategy == "move":
            await self._carefully(partial(self._move, at=row.at))
        else:
            await self._flights.fly_alone(row.grant_id, Branch(self._steps, row.at))

    async def _note(self, at: HandoffKey, problem: str) -> None:
        def step(turn: Turn) -> None:
            row = turn.tx.get(PhoneHandoff, *at)
            if row is not None and row.problem != problem:
                self._steps.tell(turn, at, problem)

        await self._turns.run(step)

    def _move(self, turn: Turn, at: HandoffKey) -> None:
        row = turn.tx.get(PhoneHandoff, *at)
        grant = turn.tx.get(Grant, row.grant_id) if row is not None else None
        if row is not None and grant is not None and grant.refresh_token is not None and grant.state == "held":
            pairing = turn.row(Pairing, row.pairing_id)
            self._steps.release(turn, pairing, row.handoff_id, grant, grant.refresh_token)

    async def _carefully(self, step: Callable[[Turn], None]) -> None:
        await until_stored(partial(self._turns.run, step), self._turns.clock, event="token_not_stored")

    async def mint(
        self, row: PhoneHandoff, options: SignInOptions | None, person: Person, *, account: str = ""
    ) -> None:
        """Have the person sign in for the companion alone; its token is durable in the sealed TOKEN when this returns.

        No sign-in when the handoff does not wait for a token; no TOKEN when it ended meanwhile. ``account``: who has to
        sign in; empty: whoever does.

        Raises:
            LocalError: somebody else signed in. Nothing was handed off, and the handoff waits on.
        """
        lock = self._signing_in.setdefault(row.at, asyncio.Lock())
        async with lock:
            if await self._accepted_row(row.at) is None:
                return
            profile = await self._turns.read(self._accounts.believed_profile)
            chosen = options or SignInOptions()
            is_browser = (chosen.method or profile.sign_in) == "browser"
            if not chosen.username:
                username = account if is_browser else account or await self._accounts.usual_username(person)
                chosen = replace(chosen, username=username)
            if row.client_id != self._accounts.settings.client_id:  # as it was offered
                chosen = replace(chosen, client_id=row.client_id)
            await self._turns.run(partial(self._begin, at=row.at))
            if is_browser and (advice := sibling_advice(profile)):
                await person.progress({"message": advice})
            try:
                refused = partial(self._accounts.note_refusal, handoff_id=row.handoff_id)
                new = await self._sign_in.authenticate(person, chosen, refused)
            except BaseException as exc:
                orphans = int(isinstance(exc, SignInLostError))
                await self._turns.run(partial(self._abandon, at=row.at, orphans=orphans))
                raise
            try:
                checked = await self._sign_in.check(new)
                if account and is_browser and not await self._is_account(account, checked):
                    raise LocalError(
                        f"{checked.username} signed in, not {account}: nothing was handed off",
                        hint="sign out at the provider, or use a private browser window, and run the command again",
                    )
            except BaseException:  # a live token, and nobody holds it
                await self._turns.run(partial(self._abandon, at=row.at, orphans=1))
                raise
            checked = await self._turns.read(partial(self._compare_sessions, new=checked))
            await self._carefully(partial(self._minted, at=row.at, new=checked))
            for note in checked.notes:
                await person.progress({"message": f"warning: {note.text}"})
        self._signing_in.pop(row.at, None)

    async def _is_account(self, word: str, new: NewGrant) -> bool:
        """Return whether the account that a person named has signed in: by its name, or as it signed in here before."""
        before = [grant for grant in await self._accounts.grants() if grant.issuer == new.metadata.issuer]
        known = {g.subject for g in before if g.subject and is_called(word, account=g.account, subject=g.subject)}
        return new.subject in known or is_called(word, account=new.username, subject=new.subject)

    def _compare_sessions(self, tx: Transaction, new: NewGrant) -> NewGrant:
        """Add a note when another sign-in of this phone came from the same session at the provider."""
        if not new.sid:
            return new
        given = tx.select(PhoneHandoff, issuer=new.metadata.issuer, sid=new.sid)
        others = [*tx.select(Grant, issuer=new.metadata.issuer, sid=new.sid), *given]
        note = SignInNote("session_shared", SESSION_SHARED)
        return replace(new, notes=(*new.notes, note)) if others else new

    def _begin(self, turn: Turn, at: HandoffKey) -> None:
        if turn.tx.get(PhoneHandoff, *at) is not None:
            turn.change(PhoneHandoff, *at, is_obtaining=True)

    def _abandon(self, turn: Turn, at: HandoffKey, orphans: int) -> None:
        row = turn.tx.get(PhoneHandoff, *at)
        if row is not None and row.is_obtaining:
            turn.change(PhoneHandoff, *at, is_obtaining=False, orphans=row.orphans + orphans)

    def _minted(self, turn: Turn, at: HandoffKey, new: NewGrant) -> None:
        row = turn.tx.get(PhoneHandoff, *at)
        pairing = turn.tx.get(Pairing, row.pairing_id) if row is not None else None
        if row is None or new.tokens.refresh_token is None:
            return
        if pairing is None:  # the device was forgotten meanwhile: nobody holds the token
            turn.change(PhoneHandoff, *at, is_obtaining=False, orphans=row.orphans + 1)
            return
        tell_notes(turn, new, handoff_id=row.handoff_id)
        grant = self._accounts.grant_of(turn, new, new.tokens.refresh_token)
        if not self._steps.release(turn, pairing, row.handoff_id, grant, new.tokens.refresh_token):
            orphans = turn.row(PhoneHandoff, *at).orphans + 1
            turn.change(PhoneHandoff, *at, is_obtaining=False, orphans=orphans)
