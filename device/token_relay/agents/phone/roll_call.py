"""Asks devices whether they are there: the phone greets those that somebody looks at, and waits for their answer.

The broker is told nothing for the case that a device goes (no will), so one that was switched off is found out by
asking: a HELLO, which a living companion answers at once; :mod:`.presence` judges. Where the broker is not there, or
takes no greeting, nothing is known of any device: none is called silent then.

Each greeting costs a commit at both ends, so a device is greeted at most each ``AGAIN_S``, and where somebody looks
again and again, more seldom (``ASKS``); all that are due share one commit here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from token_relay.agents.link import Link
from token_relay.agents.phone.presence import PresenceName, age_s, ages_s, presence
from token_relay.agents.ports import Transaction
from token_relay.agents.pulse import Pulse
from token_relay.agents.rates import Rate, Rates
from token_relay.agents.records import Pairing
from token_relay.agents.traffic import Outbound
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns

AGAIN_S = 10.0  # between two greetings of one device
ASKS = Rate(20, 120.0)  # three minutes of a list that is watched, then once each two minutes
AT_ONCE = 16  # greetings on their way to the broker


class RollCall:
    """What is known of each device's presence. ``changed`` beats when a device has answered."""

    def __init__(self, turns: Turns, link: Link, changed: Pulse) -> None:
        self._turns = turns
        self._link = link
        self._changed = changed
        self._rates = Rates()
        self._connected_at: float | None = None  # since boot; at each connection every device is greeted
        self._is_broker_mute = False  # it took no greeting of late, though it seems connected

    def network_is_up(self) -> None:
        """The broker is connected, and every device has been greeted."""
        self._connected_at = self._turns.clock.now().boot_s
        self._is_broker_mute = False

    def of(self, pairings: Collection[Pairing]) -> Mapping[str, PresenceName]:
        """Return the presence of the device of each pairing, by pairing id."""
        now, since = self._turns.clock.now(), self._connected_at
        if not self._turns.channel.is_connected or self._is_broker_mute or since is None:
            return {}
        return {pairing.pairing_id: presence(pairing, now, connected_at=since) for pairing in pairings}

    async def ask(self, pairing_ids: Collection[str], wait_s: float) -> None:
        """Greet these devices, as far as that may be, and wait until all have answered or ``wait_s`` is over.

        Raises VaultError: the disk refused; nobody was greeted.
        """
        if not self._turns.channel.is_connected or wait_s <= 0:
            return
        ends_at = self._turns.clock.now().boot_s + wait_s
        greetings = await self._turns.run(partial(self._greet, pairing_ids=pairing_ids))
        sending = list(greetings)
        for _ in greetings[:AT_ONCE]:
            self._turns.spawn(self._send(greetings, sending))
        while (left_s := ends_at - self._turns.clock.now().boot_s) > 0:
            changed = self._changed.next
            if not await self._is_awaited(pairing_ids, wait_s):
                return
            await self._turns.clock.wait(changed, left_s)
        if sending:
            self._is_broker_mute = True

    def _greet(self, turn: Turn, *, pairing_ids: Collection[str]) -> list[Outbound]:
        """Return the greetings that are due; the turn does not send them."""
        for pairing_id in pairing_ids:
            pairing, now_s = turn.tx.get(Pairing, pairing_id), turn.now.boot_s
            if pairing is None or pairing.state != "active" or not self._rates.allows(pairing_id, ASKS, now_s):
                continue
            asked_s = age_s(pairing.challenged, turn.now)
            if asked_s is None or asked_s >= AGAIN_S:
                self._link.greet(turn, pairing)
                turn.after.append(partial(self._rates.count, pairing_id, ASKS, now_s))
        greetings, turn.outgoing = turn.outgoing, []
        return greetings

    async def _send(self, greetings: list[Outbound], untaken: list[Outbound]) -> None:
        """Give the greetings to the broker, one after another; ``untaken`` are those that it has not acknowledged."""
        while greetings:
            greeting = greetings.pop()
            if await self._turns.send(greeting):
                untaken.remove(greeting)
                self._is_broker_mute &= bool(untaken)

    async def _is_awaited(self, pairing_ids: Collection[str], wait_s: float) -> bool:
        """Whether the answer of one of them may still be on its way."""

        def read(tx: Transaction) -> list[Pairing | None]:
            return [tx.get(Pairing, pairing_id) for pairing_id in pairing_ids]

        rows = await self._turns.read(read)
        now, since = self._turns.clock.now(), self._connected_at
        for row in rows:
            if row is not None and row.state == "active" and since is not None:
                heard_s, asked_s = ages_s(row, now, since)
                if asked_s < wait_s and (heard_s is None or heard_s > asked_s):
                    return True
        return False
