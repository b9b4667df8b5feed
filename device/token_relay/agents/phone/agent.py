"""The phone's agent: the person's accounts, the devices, and what passes between them.

Here is what a person asks for; how a companion's token is obtained stands in :mod:`.obtaining`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from token_relay.agents.grants import lifecycle, schedule
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import normalise_scope, with_state
from token_relay.agents.grants.tokens import erase_grant
from token_relay.agents.link import Link
from token_relay.agents.phone.account import Accounts
from token_relay.agents.phone.devices import clear_up, forget_device, revoke_device
from token_relay.agents.phone.handoff_rows import check_scope, state_of
from token_relay.agents.phone.handoffs import Handoffs
from token_relay.agents.phone.obtaining import Obtaining
from token_relay.agents.phone.pairing import PhonePairing
from token_relay.agents.phone.person import Person, SignIn, SignInOptions
from token_relay.agents.phone.sign_in import AccountSettings
from token_relay.agents.phone.steps import PhoneSteps
from token_relay.agents.ports import Clock, Random, Vault
from token_relay.agents.records import Grant, Identity, Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.errors import LocalError, PersonNeededError, PolicyError, VaultError
from token_relay.protocol.handoff import Strategy, phone_may
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http

log = structlog.get_logger()

UNSAFE = {
    "branch": "profile {name} invalidates a refresh token when it is used: two devices on one chain kill each other",
}


@dataclass(frozen=True, slots=True)
class HandoffWish:
    """What `phone handoff` was asked for; ``lease_days`` None and ``strategy`` "" mean "as configured"."""

    strategy: Strategy | None = None
    scope: str = ""
    lease_days: int | None = None
    wait_s: float = 60.0
    sign_in: SignInOptions | None = None


class PhoneAgent:
    """One phone: its protocol with its companions, and its accounts."""

    def __init__(
        self,
        *,
        vault: Vault,
        http: Http,
        sign_in: SignIn,
        clock: Clock,
        random: Random,
        identity: Identity,
        name: str,
        settings: AccountSettings,
        strategy: Strategy | None,
        lease_days: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._clock = clock
        self._strategy = strategy
        self._lease_days = lease_days
        self.settings = settings
        self.steps = PhoneSteps()
        self.handoffs = Handoffs(self.steps, may_release=lambda: settings.allow_refresh_token_access)
        self.link = Link(vault=vault, clock=clock, random=random, identity=identity, handler=self.handoffs, tasks=tasks)
        self.keeper = GrantKeeper(
            link=self.link, vault=vault, http=http, clock=clock, random=random, tasks=tasks, watcher=self
        )
        self.accounts = Accounts(
            link=self.link, keeper=self.keeper, sign_in=sign_in, http=http, clock=clock, settings=settings
        )
        self.obtaining = Obtaining(
            steps=self.steps,
            link=self.link,
            keeper=self.keeper,
            accounts=self.accounts,
            sign_in=sign_in,
            http=http,
            clock=clock,
            random=random,
        )
        self.pairing = PhonePairing(link=self.link, clock=clock, random=random, name=name)
        self.reauth_action = "token-relay phone sign-in --username U, or --browser"
        self.link.on_mailbox = self.pairing.receive
        self.steps.on_obtain = self.obtaining.start
        self.handoffs.on_pair4 = self.pairing.activated
        self.steps.pulse = self._pulse
        self._changed = asyncio.Event()

    # -- running ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Pick up after a restart: count orphans, go on obtaining what was accepted."""

        def step(turn: Turn) -> None:
            self.obtaining.resume(turn)
            for grant in turn.tx.select(Grant, state="locked", reason="configuration"):
                turn.tx.put(with_state(grant, lifecycle.Held(grant.generation)))  # an operator may have repaired it
            for grant in turn.tx.select(Grant, state="locked", reason="unverified"):
                erase_grant(turn, grant)  # the agent stopped before the sign-in's id_token was checked
                turn.tx.delete(Grant, grant.grant_id)

        await self.link.turn(step)

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """See :class:`token_relay.agents.agent.Agent`."""
        return [self.link.resend_loop(), self.keeper.run(), self.link.greet_loop(), self._tend()]

    async def _tend(self) -> None:
        """Give up offers that are too old; runs until cancelled."""
        while True:
            wait_s = schedule.BACKOFF_S_MAX
            try:
                wait_s = await self.link.turn(partial(clear_up, steps=self.steps))
            except VaultError as exc:
                log.error("vault_refused", detail=str(exc))
            await self._clock.sleep(max(wait_s, 1.0))

    def network_is_up(self) -> None:
        """The broker is connected: what waits for the provider may try at once."""
        self.obtaining.network_is_up()
        self.keeper.network_is_up()

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """The keeper settled a refresh of the phone's own grant."""
        if after.state in ("dead", "needs_handoff", "locked"):
            turn.event("sign_in_needed", grant_id=after.grant_id, detail=after.reason)

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """See :meth:`Accounts.on_late_token`."""
        self.accounts.on_late_token(turn, grant, refresh_token)

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- devices ---------------------------------------------------------------------------------------

    async def pairing_of(self, device: str) -> Pairing:
        """Return the active pairing that a name, unique prefix or id means. Raises LocalError with the choice."""
        rows = await self.link.turn(lambda turn: turn.tx.select(Pairing))
        rows = [row for row in rows if row.state in ("active", "retired")]
        newest = {row.peer_id: row for row in sorted(rows, key=lambda row: (row.state == "active", row.paired_at))}
        exact = [row for row in newest.values() if device in (row.peer_id, row.peer_name)]
        prefix = [row for row in newest.values() if row.peer_id.startswith(device) or row.peer_name.startswith(device)]
        found = exact or prefix
        if len(found) == 1:
            return found[0]
        names = ", ".join(f"{row.peer_name} ({row.peer_id[:6]})" for row in (found or newest.values())) or "none"
        if found:
            raise LocalError(f"{device!r} means several devices: {names}", hint="use a longer name or the id")
        raise LocalError(f"no paired device is called {device!r}; paired: {names}", hint="token-relay phone pair")

    # -- handoff ---------------------------------------------------------------------------------------

    async def hand_off(self, device: str, wish: HandoffWish, person: Person) -> PhoneHandoff:
        """Give the device a grant, or join the open handoff; returns when it is settled or ``wait_s`` is over.

        Raises:
            PolicyError: the application's gate is shut, or the strategy is unsafe with this provider.
            PersonNeededError: somebody must sign in. LocalError: no such device, or the handoff failed.
        """
        self.accounts.require_refresh_token_access()
        strategy = self._choose(wish.strategy)
        pairing = await self.pairing_of(device)
        if pairing.state != "active":
            raise LocalError("this device is being unpaired", hint="pair again: token-relay phone pair")
        own = await self._own_grant(strategy)
        check_scope(wish.scope, own.scope if own is not None else self.settings.scope)
        issuer = own.issuer if own is not None else (await self.accounts.discover()).issuer
        row = await self.link.turn(
            partial(self._open, pairing=pairing, strategy=strategy, wish=wish, own=own, issuer=issuer)
        )
        ends_at = self._clock.now().boot_s + wish.wait_s
        while True:
            row = await self._reload(row.handoff_id)
            match row.state:
                case "done":
                    return row
                case "cancelling" | "cancelled" | "gone" | "revoking":
                    why = row.problem or row.reason or row.state
                    raise LocalError(f"the handoff did not come about: {why}", hint="see: token-relay phone status")
                case "offered" if row.reason == "accepted" and row.strategy == "mint":
                    await self.obtaining.mint(row, wish.sign_in, person)
                    continue
                case _:
                    pass
            left_s = ends_at - self._clock.now().boot_s
            if left_s <= 0:
                return row
            changed = self._changed
            if (await self._reload(row.handoff_id)) == row:
                await self._clock.wait(changed, left_s)

    def _choose(self, wanted: Strategy | None) -> Strategy:
        profile = self.settings.profile
        strategy = wanted or self._strategy or profile.strategies[0]
        if strategy not in profile.strategies:
            reason = UNSAFE.get(strategy, "it is not safe with profile {name}").format(name=profile.name)
            raise PolicyError(
                f"strategy {strategy} is refused: {reason}", hint=f"use one of: {', '.join(profile.strategies)}"
            )
        return strategy

    async def _own_grant(self, strategy: Strategy) -> Grant | None:
        if strategy == "mint":
            return None
        for grant in reversed(await self.accounts.grants()):
            is_ours = (grant.client_id, grant.profile) == (self.settings.client_id, self.settings.profile.name)
            # Of an earlier configuration: the companion would refuse another client's grant after it has left, and
            # another profile's strategy may spend it.
            if is_ours and grant.refresh_token is not None and grant.state in ("held", "refreshing", "uncertain"):
                return grant
        raise PersonNeededError(
            "nobody is signed in on this phone", hint="token-relay phone sign-in --username U, or --browser"
        )

    def _open(
        self, turn: Turn, *, pairing: Pairing, strategy: Strategy, wish: HandoffWish, own: Grant | None, issuer: str
    ) -> PhoneHandoff:
        current = turn.tx.get(Pairing, pairing.pairing_id)
        assert current is not None
        if (row := self.steps.open_handoff(turn.tx, current)) is not None:
            return row  # one open handoff per pairing: the second command joins it
        turn.tx.put(replace(current, renew_denied=False))  # the person asks: the device may be renewed again
        lease_days = self._lease_days if wish.lease_days is None else wish.lease_days
        like = PhoneHandoff(
            handoff_id="",
            pairing_id=pairing.pairing_id,
            grant_id=own.grant_id if own else "",
            state="new",
            reason="",
            strategy=strategy,
            scope=normalise_scope(wish.scope),
            lease_days=lease_days,
            created="",
            created_at=0,
            expires_at=0,
            issuer=issuer,
            client_id=self.settings.client_id,
            subject=own.subject if own else "",
            account=own.account if own else "",
            profile=self.settings.profile.name,
        )
        return self.steps.offer(turn, current, like)

    async def _reload(self, handoff_id: str) -> PhoneHandoff:
        row = await self.link.turn(lambda turn: turn.tx.get(PhoneHandoff, handoff_id))
        if row is None:
            raise LocalError("the device was forgotten meanwhile")
        return row

    # -- the rest of what a person asks ----------------------------------------------------------------

    async def cancel(self, device: str) -> PhoneHandoff:
        """Give up the open handoff of a device; what becomes of it only the companion's disk knows."""
        pairing = await self.pairing_of(device)

        def step(turn: Turn) -> str:
            row = self.steps.open_handoff(turn.tx, pairing)
            if row is None:
                raise LocalError("no handoff to this device is open", hint="to end a finished one: phone revoke")
            if phone_may(state_of(row), "cancel"):  # not while CANCEL is under way
                self.steps.step(turn, pairing, row.handoff_id, "cancel")
            return row.handoff_id

        handoff_id = await self.link.turn(step)
        return await self._until(handoff_id, ("done", "cancelled", "gone"), wait_s=10.0)

    async def revoke(self, device: str, *, wait_s: float) -> list[PhoneHandoff]:
        """Take every grant of a device away; REVOKE is durable when this begins to wait, and never expires."""
        pairing = await self.pairing_of(device)
        ids = await self.link.turn(lambda turn: revoke_device(turn, self.steps, pairing.peer_id))
        ends_at = self._clock.now().boot_s + wait_s
        rows = []
        for handoff_id in ids:
            rows.append(await self._until(handoff_id, ("gone",), wait_s=ends_at - self._clock.now().boot_s))
        return rows

    async def unpair(self, device: str) -> list[PhoneHandoff]:
        """Revoke what the device holds and retire the pairing; it is deleted when nothing is open any more."""
        rows = await self.revoke(device, wait_s=10.0)
        pairing = await self.pairing_of(device)

        def step(turn: Turn) -> None:
            if all(row.state == "gone" for row in rows):
                forget_device(turn, self.steps, pairing.peer_id)
            else:
                for row in turn.tx.select(Pairing, peer_id=pairing.peer_id):
                    turn.tx.put(replace(row, state="retired"))

        await self.link.turn(step)
        return rows

    async def forget(self, device: str) -> int:
        """Give a device up without asking it; returns how many live handoffs that ended."""
        pairing = await self.pairing_of(device)
        return await self.link.turn(lambda turn: forget_device(turn, self.steps, pairing.peer_id))

    async def _until(self, handoff_id: str, states: tuple[str, ...], *, wait_s: float) -> PhoneHandoff:
        ends_at = self._clock.now().boot_s + wait_s
        while True:
            changed = self._changed
            row = await self._reload(handoff_id)
            left_s = ends_at - self._clock.now().boot_s
            if row.state in states or left_s <= 0:
                return row
            await self._clock.wait(changed, left_s)
