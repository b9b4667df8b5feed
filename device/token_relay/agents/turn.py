"""One turn: what a step may do inside its transaction, and what it leaves for after the commit.

A step reads and writes records, queues *requests* (outbox rows, sealed once, resent byte-identical until they are
settled), gives *answers* (sealed, sent once, never stored), and writes events. Nothing leaves before the commit; then
:class:`token_relay.agents.turns.Turns` sends.

Only :meth:`Turn.change` changes a pairing, a handoff or a grant. It reads the row in the same transaction, so an older
copy of the row can never undo what was written since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, Unpack, overload

import structlog

from token_relay.agents.elapsed import Stamp
from token_relay.agents.ports import Now, Random, Record, Transaction
from token_relay.agents.records import (
    EVENTS_MAX,
    AuditEvent,
    CompanionHandoff,
    CompanionHandoffColumns,
    Counter,
    Grant,
    GrantColumns,
    Outgoing,
    Pairing,
    PairingColumns,
    PhoneHandoff,
    PhoneHandoffColumns,
)
from token_relay.agents.traffic import Heard, Outbound, handoff_of
from token_relay.protocol import delivery
from token_relay.protocol.envelope import NONCE_BYTES, PeerBox
from token_relay.protocol.errors import TransientError
from token_relay.protocol.identity import KeyPair, device_id
from token_relay.protocol.messages import REQUESTS, Body, Head, Request, RequestType, decode, encode

log = structlog.get_logger()

R = TypeVar("R", bound=Record)


@dataclass(slots=True)
class Turn:
    """What one step may do. It collects what is to happen after the commit; nobody keeps it."""

    tx: Transaction
    own: KeyPair
    now: Now
    random: Random
    box: Callable[[bytes], PeerBox]
    is_duplicate: bool = False
    is_overtaken: bool = False  # a HELLO that came after newer messages of its sender
    in_reply_to: int | None = None
    heard: Heard = field(default_factory=Heard)  # the message that this turn is about, if any
    events: list[int] = field(default_factory=list)  # the numbers of those that it writes
    outgoing: list[Outbound] = field(default_factory=list)
    queued: list[Outgoing] = field(default_factory=list)
    settled: list[Outgoing] = field(default_factory=list)
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

    # -- rows ------------------------------------------------------------------------------------------

    def row(self, record: type[R], *key: str | int) -> R:
        """Return a row that must be there. Raises LookupError, a bug of the caller, when it is not."""
        row = self.tx.get(record, *key)
        if row is None:
            raise LookupError(f"a row of {record.table} is missing")
        return row

    @overload
    def change(self, record: type[Pairing], *key: str, **columns: Unpack[PairingColumns]) -> Pairing: ...
    @overload
    def change(self, record: type[PhoneHandoff], *key: str, **columns: Unpack[PhoneHandoffColumns]) -> PhoneHandoff: ...
    @overload
    def change(
        self, record: type[CompanionHandoff], *key: str, **columns: Unpack[CompanionHandoffColumns]
    ) -> CompanionHandoff: ...
    @overload
    def change(self, record: type[Grant], *key: str, **columns: Unpack[GrantColumns]) -> Grant: ...
    def change(self, record: type[Any], *key: str, **columns: Any) -> Any:
        """Write these columns of a row and leave the others as they are by now; returns it. Raises as :meth:`row`."""
        before = self.row(record, *key)
        after = replace(before, **columns)
        if after != before:
            self.tx.put(after)
        return after

    # -- messages --------------------------------------------------------------------------------------

    def request(self, pairing_id: str, body: Request, handoff_id: str = "") -> bytes:
        """Queue a request, to be sent after the commit until it is settled; returns its plaintext.

        Raises:
            TransientError: the pairing has ``OUTBOX_ROWS_MAX`` open requests.
        """
        if len(self.tx.select(Outgoing, pairing_id=pairing_id)) >= delivery.OUTBOX_ROWS_MAX:
            raise TransientError(f"{delivery.OUTBOX_ROWS_MAX} requests to this device are still unanswered")
        plaintext, sealed = self._seal(pairing_id, body, None)
        row = Outgoing(pairing_id, sealed.seq, body.type, handoff_id, sealed.envelope, self.stamp)
        self.tx.put(row)
        self.queued.append(row)
        return plaintext

    def answer(self, pairing_id: str, body: Body, *, in_reply_to: int | None = None) -> bytes:
        """Send an answer once, after the commit; returns its plaintext. The peer asks again when it is lost."""
        reply = self.in_reply_to if in_reply_to is None else in_reply_to
        return self._seal(pairing_id, body, reply)[0]

    def settle(
        self, pairing_id: str, *, handoff_id: str | None = None, types: frozenset[RequestType] = REQUESTS
    ) -> None:
        """Drop open requests: of one handoff, or (``handoff_id=None``) of the whole pairing."""
        for row in self.tx.select(Outgoing, pairing_id=pairing_id):
            if row.type in types and (handoff_id is None or row.handoff_id == handoff_id):
                self.tx.delete(Outgoing, row.pairing_id, row.seq)
                self.settled.append(row)

    def renumber(self, pairing_id: str, *, up_to: int) -> None:
        """Seal the open requests up to this number again, under new numbers: the peer no longer takes the old ones."""
        pairing = self.row(Pairing, pairing_id)
        for row in self.tx.select(Outgoing, pairing_id=pairing_id):
            if row.seq <= up_to:
                body = decode(self.box(pairing.peer_key).open_own(row.envelope)).body
                assert isinstance(body, Request), "the outbox holds requests"
                self.tx.delete(Outgoing, row.pairing_id, row.seq)
                self.settled.append(row)
                self.request(pairing_id, body, row.handoff_id)

    def resend(
        self, pairing_id: str, *, handoff_id: str | None = None, types: frozenset[RequestType] = REQUESTS
    ) -> bool:
        """Send open requests once more after the commit; returns whether there are any."""
        pairing = self.tx.get(Pairing, pairing_id)
        rows = [
            row
            for row in self.tx.select(Outgoing, pairing_id=pairing_id)
            if row.type in types and handoff_id in (None, row.handoff_id)
        ]
        if pairing is not None:
            self.outgoing.extend(outbound(pairing.peer_id, row) for row in rows)
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
        """Write a row of the audit table, and log it after the commit. It takes no secret."""
        counter = self.tx.get(Counter, "events") or Counter("events", 0)
        number = counter.value + 1
        self.tx.put(Counter("events", number))
        row = AuditEvent(
            number, self.wall, name, device, handoff_id, grant_id, generation, detail, trace_id, correlation_id
        )
        self.tx.put(row)
        self.tx.delete(AuditEvent, number - EVENTS_MAX)
        self.events.append(number)
        known = {k: v for k in AuditEvent.__slots__ if k not in ("number", "at", "name") and (v := getattr(row, k))}
        self.after.append(lambda: log.info(name, **known))

    def _seal(self, pairing_id: str, body: Body, in_reply_to: int | None) -> tuple[bytes, Outbound]:
        """Seal a message and have it sent after the commit; returns its plaintext too."""
        seq = self.row(Pairing, pairing_id).seq_sent + 1
        pairing = self.change(Pairing, pairing_id, seq_sent=seq)
        head = Head(
            v=body.version,
            type=body.type,
            pairing_id=pairing_id,
            sender=device_id(self.own.public_key),
            recipient=pairing.peer_id,
            seq=seq,
            sent_at=self.wall if self.now.is_synced else 0,
            in_reply_to=in_reply_to,
        )
        plaintext = encode(head, body)
        envelope = self.box(pairing.peer_key).seal(plaintext, self.random.bytes(NONCE_BYTES))
        sealed = Outbound(pairing.peer_id, pairing_id, seq, body.type, handoff_of(body), envelope)
        self.outgoing.append(sealed)
        return plaintext, sealed


def outbound(device: str, row: Outgoing) -> Outbound:
    """Return an open request as it goes out to this device once more."""
    return Outbound(device, row.pairing_id, row.seq, row.type, row.handoff_id, row.envelope)
