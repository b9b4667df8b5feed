"""Turns: run a step in one transaction, then send what it left. The same object runs in production and in simulation.

:mod:`.turn` says what a step may do. :class:`Turns` commits it, sends what it queued and resends that until it is
settled. All parts of an agent use it; :class:`token_relay.agents.link.Link` takes what arrives.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.failures import guarded
from token_relay.agents.ports import Ports, Transaction
from token_relay.agents.pulse import Pulse
from token_relay.agents.records import Identity, Outgoing
from token_relay.agents.traffic import Heard, Outbound, Traffic
from token_relay.agents.turn import Turn, outbound
from token_relay.protocol import delivery
from token_relay.protocol.envelope import PeerBox
from token_relay.protocol.errors import PeerError, TransientError, VaultError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.topics import peer_topic

T = TypeVar("T")
log = structlog.get_logger()

REASONS_MAX = 64
IDLE_S = 86_400.0  # the sleep of a loop that waits for nothing in particular: new work wakes it
BOXES_MAX = 64  # cached shared keys; a phone with more companions computes some of them anew


@dataclass(slots=True)
class _Due:
    """When to send an open request again; in memory, since each new connection resends everything anyway."""

    message: Outbound
    queued: str
    attempts: int
    at_boot_s: float


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a step raised, on its way to the caller."""

    error: Exception


class Turns:
    """The turns of one agent. Every method may be called as soon as it is made."""

    def __init__(self, ports: Ports, identity: Identity) -> None:
        self.own = KeyPair(identity.public_key, identity.private_key)
        self.own_id = device_id(self.own.public_key)
        self.channel = ports.channel
        self.clock = ports.clock
        self.random = ports.random
        self.rejects: Tally[str] = Tally()
        self.traffic = Traffic()
        self.events_written = Pulse()
        self._vault = ports.vault
        self._tasks = ports.tasks
        self._new_box = ports.new_box
        self._boxes: dict[bytes, PeerBox] = {}
        self._due: dict[tuple[str, int], _Due] = {}
        self._wake = asyncio.Event()

    async def run(self, step: Callable[[Turn], T]) -> T:
        """Run one step in one transaction, then send what it left; durable when this returns.

        Cancelling the caller does not stop it half-way: the commit and what follows it belong to the agent.

        Raises:
            VaultError: the disk refused; nothing happened, nothing was sent.
            RuntimeError: the agent is being stopped; nothing began.
            What the step raises: nothing of it was kept, nothing was sent.
        """
        turn = self._run(step)
        try:
            task = self._tasks.create_task(turn)
        except RuntimeError:  # the agent is being stopped: nothing begins any more
            turn.close()
            raise
        result = await asyncio.shield(task)
        if isinstance(result, _Raised):
            raise result.error
        return result

    async def _run(self, step: Callable[[Turn], T]) -> T | _Raised:
        now = self.clock.now()

        def run(tx: Transaction) -> tuple[Turn, T]:
            turn = Turn(tx, self.own, now, self.random, self.box)
            return turn, step(turn)

        try:
            turn, result = await self._vault.run(run)
        except Exception as exc:  # handed to the caller: raised here it would take the whole agent down
            return _Raised(exc)
        self._finish(turn)
        return result

    async def read(self, step: Callable[[Transaction], T]) -> T:
        """Read in one transaction; nothing is sent. Raises VaultError, or what the step raises."""
        return await self._vault.run(step)

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run work beside everything else; its failure is logged and ends nothing else."""
        task = self._tasks.create_task(guarded(work, event="task_failed"))
        task.add_done_callback(lambda _: work.close())  # the agent may stop before its first step

    def box(self, peer_key: bytes) -> PeerBox:
        """Return what seals to, and opens from, this peer."""
        box = self._boxes.get(peer_key)
        if box is None:
            if len(self._boxes) >= BOXES_MAX:
                self._boxes.clear()
            box = self._boxes[peer_key] = self._new_box(self.own, peer_key)
        return box

    def count_reject(self, reason: str) -> None:
        """Count a message that was dropped, by reason; the number of reasons is bounded."""
        if reason in self.rejects or len(self.rejects) < REASONS_MAX:
            self.rejects[reason] += 1
        log.debug("message_dropped", reason=reason)

    # -- sending ---------------------------------------------------------------------------------------

    def _finish(self, turn: Turn) -> None:
        self.traffic.came(turn.heard, turn.now.wall_s)
        for row in turn.queued:
            message = next(one for one in turn.outgoing if one.envelope is row.envelope)
            self._schedule(_Due(message, row.queued, 1, 0.0))
        for row in turn.settled:  # also what this turn has queued itself
            self._due.pop((row.pairing_id, row.seq), None)
        for message in turn.outgoing:
            if self.channel.is_connected:
                self.spawn(self.send(message))
            else:
                is_kept = (message.pairing_id, message.seq) in self._due
                self.traffic.went(message, "queued" if is_kept else "not_sent", turn.now.wall_s)
        for call in turn.after:
            call()
        if turn.events:
            self.traffic.wrote(turn.events, turn.now.wall_s)
            self.events_written.beat()

    async def send(self, message: Outbound) -> bool:
        """Publish a message once; returns whether the broker has said that it has it."""
        self.traffic.went(message, "sent", self._wall())
        topic = peer_topic(recipient=message.device, sender=self.own_id)
        is_at_broker = await self.channel.publish(topic, message.envelope)
        if is_at_broker:
            self.traffic.went(message, "at_broker", self._wall())
        return is_at_broker

    async def hear(self, device: str, size: int, step: Callable[[Turn], T]) -> T:
        """Run the step of a message that came, as :meth:`run` does, and note in the journal what became of it."""
        heard = Heard(device, size)

        def begin(turn: Turn) -> T:
            turn.heard = heard
            return step(turn)

        try:
            return await self.run(begin)
        except VaultError:  # it comes again
            raise
        except Exception as exc:
            is_full = isinstance(exc, TransientError)
            heard.dropped(exc.reason if isinstance(exc, PeerError) else "outbox_full" if is_full else "internal_error")
            self.traffic.came(heard, self._wall())
            raise

    def _wall(self) -> float:
        return self.clock.now().wall_s

    def send_all(self, rows: list[tuple[str, Outgoing]]) -> None:
        """Make these open requests, with their devices, due now and forget all others: the connection is new."""
        now = self.clock.now()
        self._due = {
            (row.pairing_id, row.seq): _Due(outbound(device, row), row.queued, 0, now.boot_s) for device, row in rows
        }
        self._wake.set()

    def _schedule(self, due: _Due) -> None:
        now = self.clock.now()
        age = elapsed_s(Stamp.from_text(due.queued), now)
        delay = delivery.resend_delay_s(attempts=due.attempts, age_s=delivery.RESEND_EAGER_S if age is None else age)
        due.at_boot_s = now.boot_s + delay * self.random.uniform(*delivery.RESEND_DRAWN)
        self._due[(due.message.pairing_id, due.message.seq)] = due
        self._wake.set()

    async def resend_loop(self) -> None:
        """Send open requests again when they are due; runs until cancelled."""
        while True:
            now = self.clock.now()
            for due in [d for d in self._due.values() if d.at_boot_s <= now.boot_s]:
                if self.channel.is_connected:
                    due.attempts += 1
                    self.spawn(self.send(due.message))
                self._schedule(due)
            self._wake.clear()
            next_s = min((d.at_boot_s for d in self._due.values()), default=now.boot_s + IDLE_S) - now.boot_s
            await self.clock.wait(self._wake, max(next_s, 0.05))
