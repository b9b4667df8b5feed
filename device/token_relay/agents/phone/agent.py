"""The phone's agent: the person's accounts, the devices, and what passes between them.

This module holds the person's commands; :mod:`.obtaining` obtains a companion's token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from shlex import quote
from typing import Any, Literal

import structlog

from token_relay.agents.damage import mend
from token_relay.agents.grants import schedule
from token_relay.agents.grants.answers import refusal
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.serving import may_be_sent, normalise_scope
from token_relay.agents.grants.tokens import end_grant
from token_relay.agents.link import Link
from token_relay.agents.pairings import pairing_of
from token_relay.agents.phone.account import Accounts
from token_relay.agents.phone.account_choice import choose, is_called
from token_relay.agents.phone.account_settings import AccountSettings
from token_relay.agents.phone.devices import (
    clear_up,
    end_unpaired,
    forget_device,
    replace_device,
    restore_requests,
    revoke_device,
)
from token_relay.agents.phone.handoff_rows import Terms, check_scope, check_strategy, state_of
from token_relay.agents.phone.handoffs import Handoffs
from token_relay.agents.phone.obtaining import Obtaining
from token_relay.agents.phone.own_grants import OwnGrants
from token_relay.agents.phone.pairing import PhonePairing
from token_relay.agents.phone.person import Person, SignIn, SignInOptions
from token_relay.agents.phone.roll_call import RollCall
from token_relay.agents.phone.sign_in_advice import OWN_CREDENTIAL
from token_relay.agents.phone.steps import PhoneSteps
from token_relay.agents.ports import Ports
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import USABLE, Grant, HandoffKey, Identity, Pairing, PhoneHandoff
from token_relay.agents.renaming import rename_peer, settle_own_name
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import ConfigError, LocalError, PersonNeededError, PolicyError, VaultError
from token_relay.protocol.handoff import PhoneStateName, Strategy, phone_may
from token_relay.provider.profile import Profile

log = structlog.get_logger()

DECIDED: frozenset[PhoneStateName] = frozenset({"done", "cancelled", "gone"})
ENDED: frozenset[PhoneStateName] = frozenset({"gone"})
UNSAFE = {
    "branch": "profile {name} invalidates a refresh token when it is used: two devices on one chain kill each other",
}


@dataclass(frozen=True, slots=True)
class HandoffWish:
    """What `phone handoff` was asked for; ``strategy`` and ``lease_days``: None means "as configured".

    ``account``: whose grant; empty where only one can be meant, or the person is asked.
    """

    strategy: Strategy | None = None
    scope: str = ""
    lease_days: int | None = None
    wait_s: float = 60.0
    sign_in: SignInOptions | None = None
    account: str = ""
    sign_in_options: tuple[str, ...] = ()  # the options of a sign-in that were given, as the person wrote them


def check_sign_in(strategy: Strategy | Literal[""], wish: HandoffWish) -> None:
    """Raise ConfigError when a handoff was asked for with what its strategy would not heed."""
    if strategy != "mint" and (given := wish.sign_in_options or (("--username",) if wish.sign_in else ())):
        raise ConfigError(
            f"strategy {strategy} does not sign in, so {' and '.join(given)} would not be heeded",
            hint="to say whose grant: --account ACCOUNT",
        )
    typed = wish.sign_in.username if wish.sign_in is not None else ""
    if wish.account and typed and not is_called(wish.account, account=typed, subject=""):
        raise ConfigError(f"--account {wish.account} and --username {typed} name two people", hint="leave one out")


def check_joined(row: PhoneHandoff, wish: HandoffWish, device: str) -> None:
    """Raise LocalError when the open handoff that a wish joins is another one than was asked for."""
    others = []
    if wish.account and row.account and not is_called(wish.account, account=row.account, subject=row.subject):
        others.append(f"of {row.account}")
    if wish.strategy not in (None, row.strategy):
        others.append(f"with strategy {row.strategy}")
    if others:
        said = " ".join(others)
        raise LocalError(f"a handoff {said} to {device} is open", hint=f"token-relay phone cancel {quote(device)}")


class PhoneAgent:
    """One phone: its protocol with its companions, and its accounts."""

    def __init__(
        self,
        ports: Ports,
        identity: Identity,
        *,
        sign_in: SignIn,
        name: str,
        settings: AccountSettings,
        strategy: Strategy | None,
        lease_days: int,
    ) -> None:
        self._clock = ports.clock
        self._name = name
        self._strategy = strategy
        self._lease_days = lease_days
        self.settings = settings
        self.turns = turns = Turns(ports, identity)
        self._changed = changed = Pulse()
        due, accepted = asyncio.Event(), asyncio.Queue[HandoffKey]()
        self.keeper = GrantKeeper(
            ports, turns, watcher=OwnGrants(turns, ports.http), due=due, idle_days=settings.idle_days
        )
        self.accounts = Accounts(
            turns, keeper=self.keeper, sign_in=sign_in, http=ports.http, settings=settings, due=due
        )
        self.steps = PhoneSteps(changed, accepted)
        self.obtaining = Obtaining(
            turns,
            steps=self.steps,
            flights=self.keeper.flights,
            accounts=self.accounts,
            sign_in=sign_in,
            changed=changed,
            accepted=accepted,
        )
        self.pairing = PhonePairing(turns, name=name)
        self.handoffs = Handoffs(
            self.steps, self.pairing, changed, may_release=lambda: settings.allow_refresh_token_access
        )
        self.link = Link(turns, handler=self.handoffs, mailbox=self.pairing)
        self.roll_call = RollCall(turns, self.link, changed)

    # -- running ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Pick up after a restart; durable when it returns.

        Count orphans, go on obtaining what was accepted, and discard a sign-in that was not judged.
        """

        def step(turn: Turn) -> None:
            mend(turn, self)
            self.obtaining.resume(turn)
            self.accounts.discard_unjudged(turn)
            self.accounts.describe_anew(turn)
            settle_own_name(turn, self._name)

        await self.turns.run(step)

    async def mend(self) -> None:
        """Act on rows that the vault has given up; durable when it returns."""
        await self.turns.run(lambda turn: mend(turn, self))

    def on_damage(self, turn: Turn) -> None:
        """See :class:`token_relay.agents.damage.DamagedAgent`."""
        end_unpaired(turn)
        restore_requests(turn, self.steps)

    def on_grant_lost(self, turn: Turn, grant: Grant) -> None:
        """End it; the person signs in again."""
        end_grant(turn, grant.grant_id, "damaged")
        turn.event("sign_in_needed", grant_id=grant.grant_id, detail="damaged")

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """See :class:`token_relay.agents.agent.Agent`."""
        return [
            self.turns.resend_loop(),
            self.keeper.run(),
            self.obtaining.run(),
            self.link.greet_loop(),
            self._tend(),
        ]

    async def _tend(self) -> None:
        """Give up old offers and delete pairings that are over; runs until cancelled."""
        while True:
            wait_s = schedule.BACKOFF_S_MAX
            try:
                wait_s = await self.turns.run(partial(clear_up, steps=self.steps))
            except VaultError as exc:
                log.error("vault_refused", detail=str(exc))
            await self._clock.wait(self.pairing.replaced, max(wait_s, 1.0))
            self.pairing.replaced.clear()

    def network_is_up(self) -> None:
        """The broker is connected: work that waits for the provider may try again at once."""
        self.roll_call.network_is_up()
        self.obtaining.network_is_up()
        self.keeper.network_is_up()

    # -- devices ---------------------------------------------------------------------------------------

    async def pairing_of(self, device: str) -> Pairing:
        """Return the pairing of the device that this word means: active, else retired. Raises LocalError."""
        return await self.turns.read(lambda tx: pairing_of(tx, device))

    async def rename(self, device: str, name: str) -> Pairing:
        """Call a device so from now on; durable when it returns the pairing as it was. Raises LocalError."""
        return await self.turns.run(lambda turn: rename_peer(turn, device, name))

    # -- handoff ---------------------------------------------------------------------------------------

    async def check_wish(self, wish: HandoffWish, person: Person) -> None:
        """Raise what :meth:`hand_off` would raise, whatever the device: before anything is done for it."""
        strategy = self._choose(wish.strategy, await self.turns.read(self.accounts.believed_profile))
        self.accounts.require_refresh_token_access()
        check_sign_in(strategy, wish)
        await self._own_grant(strategy, wish.account, person)

    async def hand_off(self, device: str, wish: HandoffWish, person: Person) -> PhoneHandoff:
        """Give the device a grant, or join the open handoff; returns when it is settled or ``wait_s`` is over.

        The handoff and its OFFER are durable before this waits.

        Raises:
            PolicyError: the application's gate is shut, or the strategy is unsafe with this provider.
            PersonNeededError: somebody must sign in. LocalError: no such device, or the handoff failed.
        """
        self.accounts.require_refresh_token_access()
        strategy = self._choose(wish.strategy, await self.turns.read(self.accounts.believed_profile))
        pairing = await self.pairing_of(device)
        if pairing.state != "active":
            raise LocalError("this device is being unpaired", hint="pair again: token-relay phone pair")
        check_strategy(strategy, pairing)
        row = await self.turns.read(partial(self.steps.open_handoff, pairing=pairing))
        check_sign_in(row.strategy if row is not None else strategy, wish)
        if row is None:
            own = await self._own_grant(strategy, wish.account, person)
            check_scope(wish.scope, own.scope if own is not None else self.settings.scope)
            if self.settings.auth_method != "none":
                await person.progress({"message": OWN_CREDENTIAL})
            issuer = own.issuer if own is not None else (await self.accounts.discover()).issuer
            row = await self.turns.run(
                partial(self._open, pairing=pairing, strategy=strategy, wish=wish, own=own, issuer=issuer)
            )
        check_joined(row, wish, pairing.peer_name)
        ends_at = self._clock.now().boot_s + wish.wait_s
        while True:
            row = await self._reload(row.at)
            match row.state:
                case "done":
                    return row
                case "cancelling" | "cancelled" | "gone" | "revoking":
                    why = row.problem or row.reason or row.state
                    look = f"token-relay phone devices {quote(pairing.peer_name)}"
                    raise LocalError(f"the handoff did not come about: {why}", hint=look)
                case "offered" if row.reason == "accepted" and row.strategy == "mint":
                    await self.obtaining.mint(row, wish.sign_in, person, account=wish.account)
                    continue
                case _:
                    pass
            left_s = ends_at - self._clock.now().boot_s
            if left_s <= 0:
                return row
            changed = self._changed.next
            if (await self._reload(row.at)) == row:
                await self._clock.wait(changed, left_s)

    def _choose(self, wanted: Strategy | None, profile: Profile) -> Strategy:
        strategy = wanted or self._strategy or profile.strategies[0]
        if strategy not in profile.strategies:
            if strategy in self.settings.profile.strategies:
                raise PolicyError(
                    f"strategy {strategy} is refused: the provider has shown that it is not safe there",
                    hint=f"measure it anew: token-relay provider probe {self.settings.url}",
                )
            reason = UNSAFE.get(strategy, "it is not safe with profile {name}").format(name=profile.name)
            raise PolicyError(
                f"strategy {strategy} is refused: {reason}", hint=f"use one of: {', '.join(profile.strategies)}"
            )
        return strategy

    async def _own_grant(self, strategy: Strategy, account: str, person: Person) -> Grant | None:
        if strategy == "mint":
            return None
        sign_in = "token-relay phone sign-in --username U, or --browser"
        # Not a grant of an earlier configuration: the companion would refuse another client's grant after it has left,
        # and another profile's strategy may spend it.
        own = {
            grant.grant_id: grant
            for grant in await self.accounts.grants()
            if (grant.client_id, grant.profile) == (self.settings.client_id, self.settings.profile.name)
            and (may_be_sent(grant) or (grant.refresh_token is not None and grant.state in USABLE))
        }
        if not own:
            raise PersonNeededError("nobody is signed in on this phone", hint=sign_in)
        grant = own[await choose([*own.values()], account, person, "whose grant is handed off")]
        if grant.refresh_token is None or grant.state not in USABLE:
            refused = refusal(grant, sign_in)
            raise PersonNeededError(refused.detail, hint=refused.action)
        return grant

    def _open(
        self, turn: Turn, *, pairing: Pairing, strategy: Strategy, wish: HandoffWish, own: Grant | None, issuer: str
    ) -> PhoneHandoff:
        if (row := self.steps.open_handoff(turn.tx, pairing)) is not None:
            return row  # one open handoff per pairing: the second command joins it
        turn.change(Pairing, pairing.pairing_id, renew_denied=False)  # the person asks: it may be renewed again
        terms = Terms(
            grant_id=own.grant_id if own else "",
            strategy=strategy,
            scope=normalise_scope(wish.scope),
            lease_days=self._lease_days if wish.lease_days is None else wish.lease_days,
            issuer=issuer,
            client_id=(strategy == "mint" and self.settings.companion_client_id) or self.settings.client_id,
            subject=own.subject if own else "",
            account=own.account if own else "",
            profile=self.settings.profile.name,
        )
        return self.steps.offer(turn, pairing, terms)

    async def _reload(self, at: HandoffKey) -> PhoneHandoff:
        row = await self.turns.run(lambda turn: turn.tx.get(PhoneHandoff, *at))
        if row is None:
            raise LocalError("the device was forgotten meanwhile")
        return row

    # -- the rest of what a person asks ----------------------------------------------------------------

    async def cancel(self, device: str) -> PhoneHandoff:
        """Give up the open handoff of a device; CANCEL is durable when this waits, the companion's disk decides."""
        pairing = await self.pairing_of(device)

        def step(turn: Turn) -> HandoffKey:
            row = self.steps.open_handoff(turn.tx, pairing)
            if row is None:
                raise LocalError("no handoff to this device is open", hint="to end a finished one: phone revoke")
            if phone_may(state_of(row), "cancel"):  # not while CANCEL is under way
                self.steps.step(turn, pairing, row.handoff_id, "cancel")
            return row.at

        return await self._until(await self.turns.run(step), DECIDED, wait_s=10.0)

    async def revoke(self, device: str, *, wait_s: float) -> list[PhoneHandoff]:
        """Take away every grant of a device; REVOKE is durable when this begins to wait, and never expires."""
        pairing = await self.pairing_of(device)
        return await self.revoke_of(pairing, wait_s=wait_s)

    async def revoke_of(self, pairing: Pairing, *, wait_s: float) -> list[PhoneHandoff]:
        """As :meth:`revoke`, for a device whose pairing was looked up."""
        revoke = partial(revoke_device, steps=self.steps, device_id=pairing.peer_id)
        return await self._ended(await self.turns.run(revoke), wait_s)

    async def _ended(self, touched: list[HandoffKey], wait_s: float) -> list[PhoneHandoff]:
        ends_at = self._clock.now().boot_s + wait_s
        rows = []
        for at in touched:
            rows.append(await self._until(at, ENDED, wait_s=ends_at - self._clock.now().boot_s))
        return rows

    async def unpair(self, device: str) -> list[PhoneHandoff]:
        """Revoke what the device holds and retire the pairing, durably; it is deleted when nothing is live any more."""
        pairing = await self.pairing_of(device)
        rows = await self.revoke_of(pairing, wait_s=10.0)

        def step(turn: Turn) -> None:
            if all(row.state == "gone" for row in rows):
                forget_device(turn, self.steps, pairing.peer_id)
            else:
                for row in turn.tx.select(Pairing, peer_id=pairing.peer_id):
                    turn.change(Pairing, row.pairing_id, state="retired")

        await self.turns.run(step)
        return rows

    async def replace(self, *, old_id: str, new_id: str, name: str, wait_s: float) -> list[PhoneHandoff]:
        """Have a device take the place and the name of another, which is unpaired; returns what that one had.

        The change is durable when this begins to wait for the old one, and goes on without it.
        """
        change = partial(replace_device, steps=self.steps, old_id=old_id, new_id=new_id, name=name)
        rows = await self._ended(await self.turns.run(change), wait_s)
        if all(row.state == "gone" for row in rows):
            await self.turns.run(lambda turn: forget_device(turn, self.steps, old_id))
        return rows

    async def forget(self, device: str) -> int:
        """Give a device up without asking it; durable when it returns how many live handoffs ended."""
        pairing = await self.pairing_of(device)
        return await self.turns.run(lambda turn: forget_device(turn, self.steps, pairing.peer_id))

    async def _until(self, at: HandoffKey, states: frozenset[PhoneStateName], *, wait_s: float) -> PhoneHandoff:
        ends_at = self._clock.now().boot_s + wait_s
        while True:
            changed = self._changed.next
            row = await self._reload(at)
            left_s = ends_at - self._clock.now().boot_s
            if row.state in states or left_s <= 0:
                return row
            await self._clock.wait(changed, left_s)
