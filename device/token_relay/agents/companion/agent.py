"""The companion's agent: takes grants from its phones, keeps them alive, gives them up when told to.

:mod:`.messages` takes the messages; :mod:`.steps` changes handoffs and reacts to changes of grants. The agent reaches
the world only through the ports that it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from token_relay.agents.companion import phones
from token_relay.agents.companion.endpoints import Endpoints
from token_relay.agents.companion.invitations import Invitations
from token_relay.agents.companion.messages import CompanionMessages
from token_relay.agents.companion.phones import Phones
from token_relay.agents.companion.steps import CompanionSteps
from token_relay.agents.damage import mend
from token_relay.agents.grants.keeper import GrantKeeper
from token_relay.agents.grants.tokens import delete_grant
from token_relay.agents.link import Link
from token_relay.agents.pairings import delete_pairing
from token_relay.agents.ports import Ports
from token_relay.agents.records import CompanionHandoff, Grant, Identity, Pairing, PrimaryPhone, handoff_key
from token_relay.agents.renaming import own_name, rename_self, settle_own_name
from token_relay.agents.token_source import NamedPhone
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns


class CompanionAgent:
    """One companion: its protocol with its phones, and its grants. See :class:`token_relay.agents.agent.Agent`."""

    def __init__(
        self,
        ports: Ports,
        identity: Identity,
        *,
        name: str,
        broker_url: str,
        idle_days: int | None = None,
        provider_hosts: Collection[str] = (),
    ) -> None:
        self._name = name
        self.turns = turns = Turns(ports, identity)
        due = asyncio.Event()
        self.endpoints = Endpoints(ports.http, provider_hosts)
        self.steps = CompanionSteps(turns, name=name, http=ports.http, gate=self.endpoints, due=due)
        self.keeper = GrantKeeper(
            ports, turns, watcher=self.steps, due=due, idle_days=idle_days, book=Phones(), gate=self.endpoints
        )
        self.invitations = Invitations(turns, name=name, broker_url=broker_url)
        self.messages = CompanionMessages(turns, steps=self.steps, invitations=self.invitations, due=due)
        self.link = Link(turns, handler=self.messages, mailbox=self.invitations)

    # -- commands --------------------------------------------------------------------------------------

    async def forget(self, *, pairing: bool) -> dict[str, int]:
        """Erase every grant here, and with ``pairing`` every pairing; durable when it returns how many of each."""

        def step(turn: Turn) -> dict[str, int]:
            grants = [grant for grant in turn.tx.select(Grant) if grant.state != "dead"]
            for grant in grants:
                self.steps.end_grant(turn, grant, "forgotten")
                self.steps.ask_renewal(turn, grant, "forgotten")
            pairings = turn.tx.select(Pairing) if pairing else []
            for row in pairings:
                _delete_pairing(turn, row)
            if pairing:
                turn.tx.delete(PrimaryPhone, phones.SELF)
            turn.event("forgotten", detail=f"{len(grants)} grants, {len(pairings)} pairings")
            return {"grants": len(grants), "pairings": len(pairings)}

        return await self.turns.run(step)

    async def forget_phone(self, word: str) -> dict[str, int]:
        """Erase one phone's grants and pairings, and nothing of the other phones; durable when it returns.

        Raises:
            LocalError: no phone is called so, or several could be.
        """

        def step(turn: Turn) -> dict[str, int]:
            phone = phones.named(turn.tx, word)
            pairings, count = turn.tx.select(Pairing, peer_id=phone.device_id), 0
            for row in pairings:
                for grant in turn.tx.select(Grant, pairing_id=row.pairing_id):
                    if grant.state != "dead":
                        self.steps.end_grant(turn, grant, "forgotten")
                        count += 1
                    delete_grant(turn, grant.grant_id)
                _delete_pairing(turn, row)
            turn.event("phone_forgotten", device=phone.device_id, detail=f"{count} grants, {len(pairings)} pairings")
            phones.note_forgotten(turn, phone.device_id)
            return {"grants": count, "pairings": len(pairings)}

        return await self.turns.run(step)

    async def choose_primary(self, word: str) -> NamedPhone:
        """Make a phone primary; durable when it returns. Raises LocalError as :meth:`forget_phone`."""

        def step(turn: Turn) -> NamedPhone:
            phone = phones.named(turn.tx, word)
            phones.make_primary(turn, phone.device_id)
            return replace(phone, is_primary=True)

        return await self.turns.run(step)

    async def rename(self, name: str) -> str:
        """Call this device so, and tell its phones; durable when it returns what it was called. Raises LocalError."""

        def step(turn: Turn) -> str:
            before = rename_self(turn, name, self._name)
            self.link.greet_all(turn)
            turn.after.append(lambda: self.steps.is_called(name))
            return before

        return await self.turns.run(step)

    async def start(self) -> None:
        """Pick up after a restart; durable when it returns.

        A REVOKE whose provider call was cut off has "unknown" as answer.
        """

        def step(turn: Turn) -> None:
            mend(turn, self.steps)
            for row in turn.tx.select(CompanionHandoff, provider_said="asking"):
                turn.change(CompanionHandoff, *row.at, provider_said="unknown")
            phones.choose_oldest(turn)
            settle_own_name(turn, self._name)
            turn.after.append(partial(self.steps.is_called, own_name(turn.tx, self._name)))

        await self.turns.run(step)

    async def mend(self) -> None:
        """Act on rows that the vault has given up; durable when it returns."""
        await self.turns.run(lambda turn: mend(turn, self.steps))

    def works(self) -> list[Coroutine[Any, Any, None]]:
        """See :class:`token_relay.agents.agent.Agent`."""
        return [self.turns.resend_loop(), self.keeper.run(), self.link.greet_loop()]

    def network_is_up(self) -> None:
        """The broker is connected: work that waits for the provider may try again at once."""
        self.keeper.network_is_up()


def _delete_pairing(turn: Turn, pairing: Pairing) -> None:
    """Delete a pairing with its handoffs and their keys."""
    delete_pairing(turn, pairing.pairing_id)
    for handoff in turn.tx.select(CompanionHandoff, pairing_id=pairing.pairing_id):
        turn.tx.delete(CompanionHandoff, *handoff.at)
        turn.tx.erase_key(handoff_key(*handoff.at))
