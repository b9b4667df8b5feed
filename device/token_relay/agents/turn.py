"""One turn: what a step may do inside the one transaction, and what it leaves for after the commit.

A step reads and writes records, queues *requests* (outbox rows, sealed once, resent byte-identical until they are
settled), gives
*answers* (sealed, sent once, never stored), writes events. Nothing leaves before the commit;
:class:`token_relay.agents.link.Link` sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now, Random, Transaction
from token_relay.agents.records import EVENTS_MAX, Counter, Event, Outgoing, Pairing
from token_relay.protocol import delivery
from token_relay.protocol.envelope import NONCE_BYTES, PeerBox
from token_relay.protocol.errors import TransientError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import REQUESTS, VERSION, Body, Head, decode, encode
from token_relay.protocol.topics import peer_topic

log = structlog.get_logger()


@dataclass(slots=True)
class Turn:
    """What one step may do. Collects what is to happen after the commit; not to be kept."""

    tx: Transaction
    own: KeyPair
    now: Now
    random: Random
    box: Callable[[bytes], PeerBox]
    is_duplicate: bool = False
    is_overtaken: bool = False  # a HELLO that came after younger messages of its sender
    in_reply_to: int | None = None
    outgoing: list[tuple[str, bytes]] = field(default_factory=list)
    queued: list[Outgoing] = field(default_factory=list)
    settled: list[Outgoing] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)  # the highest sequence number given out, per pairing
    after: list[Callable[[], None]] = field(default_factory=list)

    @property
    def wall(self) -> int:
        """Unix seconds, for people; never decides alone."""
        return int(self.now.wall_s)

    @property
    def stamp(self) -> str:
        """The present moment as text for a record."""
        return Stamp.of(self.now).to_text()

    def new_id(self) -> str:
        """Return a fresh random 16-byte id as hex."""
        return self.random.bytes(16).hex()

    def request(self, pairing_id: str, body: Body, handoff_id: str = "") -> bytes:
        """Queue a request until it is settled; returns its plaintext.

        Raises:
            TransientError: the pairing has ``OUTBOX_ROWS_MAX`` open requests.
        """
        if len(self.tx.select(Outgoing, pairing_id=pairing_id)) >= delivery.OUTBOX_ROWS_MAX:
            raise TransientError(f"{delivery.OUTBOX_ROWS_MAX} requests to this device are still unanswered")
        pairing, plaintext, envelope, seq = self._seal(pairing_id, body, None)
        row = Outgoing(pairing_id, seq, body.type, handoff_id, envelope, self.stamp)
        self.tx.put(row)
        self.queued.append(row)
        self.outgoing.append((self._topic(pairing), envelope))
        return plaintext

    def answer(self, pairing_id: str, body: Body, *, in_reply_to: int | None = None) -> bytes:
        """Send once, after the commit; returns the plaintext. The peer asks again when it is lost."""
        reply = self.in_reply_to if in_reply_to is None else in_reply_to
        pairing, plaintext, envelope, _ = self._seal(pairing_id, body, reply)
        self.outgoing.append((self._topic(pairing), envelope))
        return plaintext

    def settle(self, pairing_id: str, *, handoff_id: str | None = None, types: frozenset[str] = REQUESTS) -> None:
        """Drop open requests: of one handoff, or (``handoff_id=None``) of the whole pairing."""
        for row in self.tx.select(Outgoing, pairing_id=pairing_id):
            if row.type in types and (handoff_id is None or row.handoff_id == handoff_id):
                self.tx.delete(Outgoing, row.pairing_id, row.seq)
                self.settled.append(row)

    def renumber(self, pairing_id: str, *, up_to: int) -> None:
        """Seal the open requests up to this number anew, under new numbers: the peer takes the old ones no more."""
        pairing = self.tx.get(Pairing, pairing_id)
        assert pairing is not None
        for row in self.tx.select(Outgoing, pairing_id=pairing_id):
            if row.seq <= up_to:
                body = decode(self.box(pairing.peer_key).open_own(row.envelope)).body
                self.tx.delete(Outgoing, row.pairing_id, row.seq)
                self.settled.append(row)
                self.request(pairing_id, body, row.handoff_id)

    def resend(self, pairing_id: str, *, handoff_id: str | None = None, types: frozenset[str] = REQUESTS) -> bool:
        """Send open requests once more after the commit; says whether there were any."""
        pairing = self.tx.get(Pairing, pairing_id)
        rows = [
            row
            for row in self.tx.select(Outgoing, pairing_id=pairing_id)
            if row.type in types and handoff_id in (None, row.handoff_id)
        ]
        if pairing is not None:
            self.outgoing.extend((self._topic(pairing), row.envelope) for row in rows)
        return bool(rows)

    def event(
        self,
        name: str,
        *,
        device: str = "",
        handoff_id: str = "",
        grant_id: str = "",
        generation: int = 0,
        detail: str = "",
        trace_id: str = "",
        correlation_id: str = "",
    ) -> None:
        """Write a row of the audit table, and log it after the commit. No secret has a way in."""
        counter = self.tx.get(Counter, "events") or Counter("events", 0)
        number = counter.value + 1
        self.tx.put(Counter("events", number))
        row = Event(number, self.wall, name, device, handoff_id, grant_id, generation, detail, trace_id, correlation_id)
        self.tx.put(row)
        self.tx.delete(Event, number - EVENTS_MAX)
        known = {k: v for k in Event.__slots__ if k not in ("number", "at", "name") and (v := getattr(row, k))}
        self.after.append(lambda: log.info(name, **known))

    def _seal(self, pairing_id: str, body: Body, in_reply_to: int | None) -> tuple[Pairing, bytes, bytes, int]:
        pairing = self.tx.get(Pairing, pairing_id)
        assert pairing is not None, "a message needs its pairing"
        seq = max(pairing.seq_sent, self.used.get(pairing_id, 0)) + 1
        pairing = replace(pairing, seq_sent=seq)
        self.tx.put(pairing)
        self.used[pairing_id] = seq
        head = Head(
            v=VERSION,
            type=body.type,
            pairing_id=pairing_id,
            sender=device_id(self.own.public_key),
            recipient=pairing.peer_id,
            seq=pairing.seq_sent,
            sent_at=self.wall if self.now.is_synced else 0,
            in_reply_to=in_reply_to,
        )
        plaintext = encode(head, body)
        envelope = self.box(pairing.peer_key).seal(plaintext, self.random.bytes(NONCE_BYTES))
        return pairing, plaintext, envelope, pairing.seq_sent

    def keep_numbers(self) -> None:
        """Make the given-out numbers stand, whatever older copy of a pairing a step wrote back after sealing."""
        for pairing_id, seq in self.used.items():
            pairing = self.tx.get(Pairing, pairing_id)
            if pairing is not None and pairing.seq_sent < seq:
                self.tx.put(replace(pairing, seq_sent=seq))

    def _topic(self, pairing: Pairing) -> str:
        return peer_topic(recipient=pairing.peer_id, sender=device_id(self.own.public_key))
