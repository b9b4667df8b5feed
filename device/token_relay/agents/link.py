"""One turn of the protocol: read, decide, commit, acknowledge, send. The same object in production and in simulation.

A :class:`Turn` is what a step may do inside the one transaction: read and write records, queue a *request* (an
outbox row, sealed once, resent byte-identical until it is settled), give an *answer* (sealed, sent once, never
stored), write an event, and leave work for after the commit. :class:`Link` opens what arrives, judges it against the
replay window, hands it to the agent's :class:`Handler` inside a turn, and returns only when the effect is durable,
so that the channel may acknowledge. It also resends, greets (HELLO) and notices restored backups (ROLLBACK).

What cannot be opened or makes no sense is counted by reason and dropped; nothing is learned from it and nothing grows.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import structlog

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.failures import guarded, where
from token_relay.agents.pairings import give_up_old
from token_relay.agents.ports import Channel, Clock, Now, Random, Transaction, Vault
from token_relay.agents.records import Identity, Outgoing, Pairing, Seen
from token_relay.agents.turn import Turn
from token_relay.protocol import delivery
from token_relay.protocol.envelope import PeerBox, parse_header
from token_relay.protocol.errors import PeerError, TransientError, VaultError
from token_relay.protocol.identity import KeyPair, device_id, id_text
from token_relay.protocol.messages import (
    REQUESTS,
    HandoffReport,
    Head,
    Hello,
    Message,
    Reject,
    Rollback,
    UnsupportedError,
    decode,
    envelope_digest,
)
from token_relay.protocol.topics import PeerTopic, parse_topic, peer_topic

T = TypeVar("T")
log = structlog.get_logger()

ROLLBACK_JUMP = 2 * delivery.WINDOW  # well past anything the peer may have seen from our lost future
REASONS_MAX = 64
GREET_EVERY_S = 12 * 3600.0  # a connection that lasts for months must still renew its lease
STRAY_S = 60.0  # a peer that knows the active pairing has answered in it by then
IDLE_S = 86_400.0  # how long a loop sleeps that waits for nothing in particular: whoever gives it work wakes it
BOXES_MAX = 64  # cached shared keys; a phone with more companions computes some of them anew


class Handler(Protocol):
    """What an agent adds: the meaning of each message. All of it runs inside the transaction."""

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply a new message, or answer a repeated request anew (``turn.is_duplicate``)."""
        ...

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        """Return the live handoffs of a pairing, for HELLO."""
        ...

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        """React to the peer's HELLO, after the link has answered it; False: it claims less than we know of it."""
        ...

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: str) -> None:
        """A restored backup was noticed: ``who`` is "self" or "peer"."""
        ...


@dataclass(slots=True)
class _Due:
    """When an open request is to be sent again; in memory, since a connection resends everything anyway."""

    topic: str
    row: Outgoing
    attempts: int
    at_boot_s: float


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a step raised, on its way to the caller."""

    error: Exception


class Link:
    """The running protocol of one agent with all its peers."""

    def __init__(
        self,
        *,
        vault: Vault,
        clock: Clock,
        random: Random,
        identity: Identity,
        handler: Handler,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.own = KeyPair(identity.public_key, identity.private_key)
        self.own_id = device_id(self.own.public_key)
        self.rejects: Tally[str] = Tally()
        self.channel: Channel | None = None
        self._vault = vault
        self._clock = clock
        self._random = random
        self._handler = handler
        self._tasks = tasks
        self._boxes: dict[bytes, PeerBox] = {}
        self._due: dict[tuple[str, int], _Due] = {}
        self._answered: dict[str, float] = {}
        self._strays: dict[str, float] = {}  # peers that greet in another pairing than the active one, since when
        self._wake = asyncio.Event()
        self.on_mailbox: Callable[[bytes, bytes], Coroutine[Any, Any, None]] | None = None
        self.make_box: Callable[[KeyPair, bytes], PeerBox] = PeerBox  # a simulation may have a cheaper one

    # -- turns -----------------------------------------------------------------------------------------

    async def turn(self, step: Callable[[Turn], T]) -> T:
        """Run one step in one transaction, then send what it left; durable when this returns.

        Cancelling the caller does not stop it half-way: the commit and what follows it belong to the link.

        Raises:
            VaultError: the disk refused; nothing happened, nothing was sent.
        """
        result = await asyncio.shield(self._tasks.create_task(self._turn(step)))
        if isinstance(result, _Raised):
            raise result.error
        return result

    async def _turn(self, step: Callable[[Turn], T]) -> T | _Raised:
        now = self._clock.now()

        def run(tx: Transaction) -> tuple[Turn, T]:
            turn = Turn(tx, self.own, now, self._random, self._box)
            result = step(turn)
            turn.keep_numbers()
            return turn, result

        try:
            turn, result = await self._vault.run(run)
        except Exception as exc:  # handed to the caller: raised here it would take the whole agent down
            return _Raised(exc)
        self._finish(turn)
        return result

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run work beside everything else; a failure that a later try can mend is logged and ends nothing."""
        task = self._tasks.create_task(guarded(work, event="task_failed"))
        task.add_done_callback(lambda _: work.close())  # a stop may come before its first step

    def _finish(self, turn: Turn) -> None:
        for row in turn.settled:
            self._due.pop((row.pairing_id, row.seq), None)
        envelopes = {envelope for _, envelope in turn.outgoing}
        for row in turn.queued:
            topic = next(topic for topic, envelope in turn.outgoing if envelope is row.envelope)
            self._schedule(_Due(topic, row, 1, 0.0))
        if envelopes and self.channel is not None and self.channel.is_connected:
            for topic, envelope in turn.outgoing:
                self.spawn(self._publish(topic, envelope))
        for call in turn.after:
            call()

    async def _publish(self, topic: str, payload: bytes) -> None:
        if self.channel is not None:
            await self.channel.publish(topic, payload)

    def _box(self, peer_key: bytes) -> PeerBox:
        box = self._boxes.get(peer_key)
        if box is None:
            if len(self._boxes) >= BOXES_MAX:
                self._boxes.clear()
            box = self._boxes[peer_key] = self.make_box(self.own, peer_key)
        return box

    # -- receiving -------------------------------------------------------------------------------------

    async def receive(self, topic: str, payload: bytes) -> None:
        """Take one message from the channel; when this returns, its effect is durable and it may be acknowledged.

        Raises:
            VaultError: the disk refused; the message must not be acknowledged and will come again.
        """
        try:
            match parse_topic(topic):
                case PeerTopic(recipient, sender) if recipient == self.own_id:
                    if id_text(parse_header(payload).sender) != sender:
                        raise PeerError("wrong_sender")
                    await self.turn(lambda turn: self._accept(turn, sender, payload))
                case PeerTopic() | None:
                    raise PeerError("wrong_topic")
                case mailbox:
                    if self.on_mailbox is not None:
                        await self.on_mailbox(mailbox.mailbox_id, payload)
        except VaultError:
            raise
        except (PeerError, TransientError) as exc:
            self.count_reject(exc.reason if isinstance(exc, PeerError) else "outbox_full")
        except Exception as exc:
            # A bug of ours. Nothing was kept; delivered again at once it would fail again, and keep every message
            # behind it away. What matters is a request, which its sender repeats in its own time.
            log.error("message_failed", error_type=type(exc).__name__, where=where(exc.__traceback__))
            self.count_reject("internal_error")

    def count_reject(self, reason: str) -> None:
        """Count a message that was dropped, by reason; the number of reasons is bounded."""
        if reason in self.rejects or len(self.rejects) < REASONS_MAX:
            self.rejects[reason] += 1
        log.debug("message_dropped", reason=reason)

    def _accept(self, turn: Turn, sender: str, envelope: bytes) -> None:
        candidates = [p for p in turn.tx.select(Pairing, peer_id=sender)]
        if not candidates:
            raise PeerError("unknown_sender")
        plaintext = self._box(candidates[0].peer_key).open(envelope)
        unsupported: Head | None = None
        message: Message | None = None
        try:
            message = decode(plaintext)
            head = message.head
        except UnsupportedError as exc:
            head = unsupported = exc.head
        if head.sender != sender or head.recipient != self.own_id:
            raise PeerError("id_mismatch")
        pairing = next((p for p in candidates if p.pairing_id == head.pairing_id), None)
        if pairing is None:
            if head.type == "HELLO":
                self._note_stray(turn, candidates, sent_at=head.sent_at)
            raise PeerError("wrong_pairing")
        digest = envelope_digest(envelope)
        seen = turn.tx.get(Seen, pairing.pairing_id, head.seq)
        verdict = delivery.judge(
            seq=head.seq, high=pairing.seq_high, seen_digest=seen.digest if seen else None, digest=digest
        )
        if verdict == "too_old":
            self._count_after(turn, "too_old")
            if pairing.state != "pending" and self._may_answer(f"{pairing.pairing_id}:too_old", turn.now):
                self.greet(turn, pairing)  # a peer restored from far back learns it from our numbers
            return
        if verdict == "conflict":
            self._note_rollback(turn, pairing, who="peer")
            self._count_after(turn, "conflict")
            return
        turn.in_reply_to = head.seq
        turn.is_duplicate = verdict == "duplicate"
        before = pairing
        if turn.is_duplicate:
            self._count_after(turn, "duplicate")
            if head.type not in REQUESTS or not self._may_answer(f"{pairing.pairing_id}:{head.seq}", turn.now):
                return
        else:
            pairing = self._advance(turn, pairing, head.seq, digest)
        if message is None:
            assert unsupported is not None
            if pairing.state != "pending" and unsupported.type != "REJECT":  # or two versions would never stop
                turn.answer(pairing.pairing_id, Reject(handoff_id=None, reason="unsupported"))
            self._count_after(turn, "unsupported")
            return
        if pairing.state == "pending" and head.type not in ("PAIR3", "PAIR4"):
            raise PeerError("not_active")
        match message.body:
            case Hello() as hello:
                self._greeted(turn, before, pairing, message.head, hello)
                if pairing.state == "retired":
                    self._note_stray(turn, candidates)
            case Rollback() as claim:
                self._rolled_back_here(turn, pairing, claim.seq_accepted)
            case _:
                self._handler.on_message(turn, pairing, message, plaintext)

    def _advance(self, turn: Turn, pairing: Pairing, seq: int, digest: bytes) -> Pairing:
        high = max(pairing.seq_high, seq)
        for old in delivery.forgotten(old_high=pairing.seq_high, new_high=high):
            turn.tx.delete(Seen, pairing.pairing_id, old)
        turn.tx.put(Seen(pairing.pairing_id, seq, digest))
        pairing = replace(pairing, seq_high=high, heard_at=turn.wall, heard=turn.stamp)
        turn.tx.put(pairing)
        if pairing.state != "retired" and pairing.peer_id in self._strays:  # pending: it pairs again just now
            self._strays.pop(pairing.peer_id, None)
        return pairing

    def _note_stray(self, turn: Turn, pairings: list[Pairing], *, sent_at: int | None = None) -> None:
        """A peer greets in a pairing that is over here. One that knows the active one greets, or answers, in that too.

        ``sent_at``: the pairing is unknown here and has no window; what was sent before the active one proves nothing.
        """
        active = next((row for row in pairings if row.state == "active"), None)
        silent_s = elapsed_s(Stamp.from_text(active.heard), turn.now) if active is not None and active.heard else None
        if active is None or (silent_s is not None and silent_s < STRAY_S):
            return
        if sent_at is None and self._may_answer(f"{active.pairing_id}:stray", turn.now):
            current = turn.tx.get(Pairing, active.pairing_id)
            assert current is not None
            self.greet(turn, current)
        if sent_at is None or sent_at > active.paired_at:
            self._strays.setdefault(active.peer_id, turn.now.boot_s)

    def estranged(self) -> frozenset[str]:
        """Return the peers that greet in a pairing that is over here, and are silent in the active one: for status."""
        now = self._clock.now()
        return frozenset(peer for peer, since in list(self._strays.items()) if now.boot_s - since >= STRAY_S)

    def _may_answer(self, what: str, now: Now) -> bool:
        last = self._answered.get(what)
        if last is not None and 0 <= now.boot_s - last < delivery.ANSWER_PAUSE_S:
            return False
        if len(self._answered) >= delivery.WINDOW:
            self._answered.clear()
        self._answered[what] = now.boot_s
        return True

    def _count_after(self, turn: Turn, reason: str) -> None:
        turn.after.append(lambda: self.count_reject(reason))

    # -- HELLO and ROLLBACK ----------------------------------------------------------------------------

    def greet(self, turn: Turn, pairing: Pairing) -> None:
        """Send HELLO with a fresh challenge, as at each connection."""
        self._hello(turn, pairing, in_reply_to=None)

    def _hello(self, turn: Turn, pairing: Pairing, *, in_reply_to: int | None) -> None:
        challenge = turn.new_id()
        if in_reply_to is None:
            turn.tx.put(replace(pairing, challenge=challenge, challenged=turn.stamp))
        body = Hello(
            challenge=challenge,
            seq_sent=pairing.seq_sent + 1,  # this message included
            seq_accepted=pairing.seq_high,
            handoffs=self._handler.report(turn.tx, pairing),
        )
        turn.in_reply_to = in_reply_to
        turn.answer(pairing.pairing_id, body)

    def _greeted(self, turn: Turn, before: Pairing, pairing: Pairing, head: Head, hello: Hello) -> None:
        claim = delivery.PeerNumbers(head.seq, hello.seq_sent, hello.seq_accepted)
        if delivery.we_are_rolled_back(claim, seq_sent=pairing.seq_sent):
            self._rolled_back_here(turn, pairing, hello.seq_accepted)
        elif delivery.peer_is_rolled_back(claim, high=before.seq_high, peer_accepted=pairing.peer_accepted):
            # what it accepted in its lost future no longer counts, or each HELLO would look like another rollback
            self._note_rollback(turn, replace(pairing, peer_accepted=hello.seq_accepted), who="peer")
        else:
            accepted = max(pairing.peer_accepted, hello.seq_accepted)
            turn.tx.put(replace(pairing, peer_accepted=accepted))
        current = turn.tx.get(Pairing, pairing.pairing_id)
        assert current is not None
        is_answer = head.in_reply_to is not None
        if not is_answer:
            self._hello(turn, current, in_reply_to=head.seq)
            if self._may_answer(f"{pairing.pairing_id}:resend", turn.now):  # up to 256 envelopes for one of the peer's
                turn.resend(pairing.pairing_id)
            current = turn.tx.get(Pairing, pairing.pairing_id)
            assert current is not None
        turn.is_overtaken = head.seq < pairing.seq_high
        if not self._handler.on_hello(turn, current, hello, is_answer=is_answer):
            again = turn.tx.get(Pairing, pairing.pairing_id)
            assert again is not None
            self._note_rollback(turn, again, who="peer")

    def _note_rollback(self, turn: Turn, pairing: Pairing, *, who: str) -> None:
        """The peer claims less than we have on disk: tell it our numbers, at most once per pause."""
        if not self._may_answer(f"{pairing.pairing_id}:rollback", turn.now):
            return
        pairing = replace(pairing, rollback="peer")
        turn.tx.put(pairing)
        turn.answer(pairing.pairing_id, Rollback(seq_sent=pairing.seq_sent + 1, seq_accepted=pairing.seq_high))
        turn.event("peer_rollback_noticed", device=pairing.peer_id)
        self._handler.on_rollback(turn, pairing, who=who)

    def _rolled_back_here(self, turn: Turn, pairing: Pairing, accepted: int) -> None:
        """We were restored from an older image: jump past every number the peer may know, then tell the agent."""
        current = turn.tx.get(Pairing, pairing.pairing_id)
        assert current is not None
        sent = current.seq_sent
        current = replace(current, seq_sent=max(sent, accepted) + ROLLBACK_JUMP, rollback="self")
        turn.tx.put(current)
        turn.event("own_rollback_noticed", device=pairing.peer_id)
        self._handler.on_rollback(turn, current, who="self")
        turn.renumber(pairing.pairing_id, up_to=sent)  # they carry numbers that the peer has seen, or left behind
        again = turn.tx.get(Pairing, pairing.pairing_id)
        assert again is not None
        self._hello(turn, again, in_reply_to=None)

    # -- sending ---------------------------------------------------------------------------------------

    async def connected(self) -> None:
        """Greet every peer and send every open request; called at each connection."""

        def step(turn: Turn) -> None:
            rows: list[tuple[str, Outgoing]] = []
            for pairing in turn.tx.select(Pairing):
                if pairing.state != "pending":
                    self.greet(turn, pairing)
                if pairing.state == "retired":
                    give_up_old(turn, pairing)
                topic = peer_topic(recipient=pairing.peer_id, sender=self.own_id)
                rows.extend((topic, row) for row in turn.tx.select(Outgoing, pairing_id=pairing.pairing_id))
            turn.after.append(lambda: self._send_all(rows))  # before any later turn settles or queues

        await self.turn(step)

    async def greet_loop(self) -> None:
        """Greet every peer now and then, however long the connection lasts; runs until cancelled."""

        def step(turn: Turn) -> None:
            for pairing in turn.tx.select(Pairing):
                if pairing.state == "active":
                    self.greet(turn, pairing)
                elif pairing.state == "retired":
                    give_up_old(turn, pairing)

        while True:
            await self._clock.sleep(GREET_EVERY_S)
            try:
                await self.turn(step)
            except VaultError as exc:
                log.error("vault_refused", detail=str(exc))

    def _send_all(self, rows: list[tuple[str, Outgoing]]) -> None:
        now = self._clock.now()
        self._due = {(row.pairing_id, row.seq): _Due(topic, row, 0, now.boot_s) for topic, row in rows}
        self._wake.set()

    def _schedule(self, due: _Due) -> None:
        now = self._clock.now()
        age = elapsed_s(Stamp.from_text(due.row.queued), now)
        delay = delivery.resend_delay_s(attempts=due.attempts, age_s=delivery.RESEND_EAGER_S if age is None else age)
        due.at_boot_s = now.boot_s + delay * self._random.uniform(0.75, 1.25)
        self._due[(due.row.pairing_id, due.row.seq)] = due
        self._wake.set()

    async def resend_loop(self) -> None:
        """Send open requests again when they are due; runs until cancelled."""
        while True:
            self._wake.clear()
            now = self._clock.now()
            for due in [d for d in self._due.values() if d.at_boot_s <= now.boot_s]:
                if self.channel is not None and self.channel.is_connected:
                    due.attempts += 1
                    self.spawn(self._publish(due.topic, due.row.envelope))
                self._schedule(due)
            self._wake.clear()
            next_s = min((d.at_boot_s for d in self._due.values()), default=now.boot_s + IDLE_S) - now.boot_s
            await self._clock.wait(self._wake, max(next_s, 0.05))
