"""The promises about messages: a durable effect before PUBACK (8), no secret (9), no number twice (10)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from token_relay.agents.records import AuditEvent, Pairing, PhoneHandoff, Seen
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.envelope import ENVELOPE_BYTES
from token_relay.protocol.messages import envelope_digest
from token_relay.protocol.topics import PREFIX
from token_relay.sandbox.marked_tokens import MARK, find_marked
from token_relay.simulation.observer import Tables
from token_relay.simulation.promises.ledger import Check, Ledger, rows

MAILBOX_PREFIX = f"{PREFIX}/pair/"


class PubackMeansDurable(Check):
    """8. PUBACK leaves only when the effect is durable, or the message was refused, or is a duplicate."""

    number = 8
    title = "PUBACK leaves only after the effect is durable"
    tables = (Seen,)

    def __init__(self, ledger: Ledger, refusals_of: Callable[[str], Mapping[str, int]]) -> None:
        super().__init__(ledger)
        self.refusals_of = refusals_of
        self.before: dict[tuple[str, bytes], int] = {}
        self.durable: dict[str, set[bytes]] = defaultdict(set)  # messages whose effect is on disk

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Note new rows of the window; a pairing that is deleted later deletes its rows, not their effect."""
        self.durable[end].update(seen.digest for _, seen in self.ledger.changed(before, after, Seen) if seen)

    def restored(self, end: str, tables: Tables) -> None:
        """Take only the image's content as durable."""
        self.durable[end] = {seen.digest for seen in rows(tables, Seen).values()}

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        """Note how many messages the end had refused so far."""
        self.before[end, payload] = sum(self.refusals_of(end).values())

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        """Check that the window on disk has the message, or that the end counted it as refused or repeated."""
        refusals = self.refusals_of(end)
        self.hold(not refusals.get("internal_error"), end, "a message met an internal error")
        before = self.before.pop((end, payload), None)
        if topic.startswith(MAILBOX_PREFIX):
            return  # nothing in a mailbox has an effect that must last: PAIR3 proves the pairing
        digest = envelope_digest(payload)
        is_durable = digest in self.durable[end]
        is_refused = before is not None and sum(refusals.values()) > before
        self.hold(is_durable or is_refused, end, "a message was acknowledged and is neither on disk nor refused")


class NoLeak(Check):
    """9. A marked secret leaves only in envelopes, in the provider's TLS request and in the permitted reply."""

    number = 9
    title = "no secret leaves but by its doors"
    tables = (AuditEvent, PhoneHandoff)

    def __init__(self, ledger: Ledger, *, is_sealed: bool) -> None:
        super().__init__(ledger)
        self.is_sealed = is_sealed  # real envelopes; identity crypto shows what a seal would hide

    def published(self, end: str, topic: str, payload: bytes) -> None:
        """Check that topics hold no token and payloads are envelopes."""
        self.hold(MARK not in topic, end, "a token in a topic")
        self.hold(len(payload) in ENVELOPE_BYTES or topic.startswith(MAILBOX_PREFIX), end, "a payload is no envelope")
        if self.is_sealed:
            self.hold(not find_marked(payload), end, f"a token in clear in a message to {topic}")

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        """Check that a refusal holds no token, and a reply no refresh token."""
        if isinstance(answer, TokenRefused):
            self.hold(MARK not in f"{answer.detail}{answer.action}", end, "a token in a refusal")
        else:
            link = self.ledger.link_of(answer.access_token)
            self.hold(link is None, end, "a refresh token was given to an app")
            self.hold(MARK not in f"{answer.scope}{answer.issuer}{answer.token_type}", end, "a token in a reply")

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Clear columns are shown by `status` and `events`."""
        for _, event in self.ledger.changed(before, after, AuditEvent):
            if event is not None:
                self.hold(MARK not in f"{event.detail}{event.device}{event.trace_id}", end, "a token in an event")
        for _, row in self.ledger.changed(before, after, PhoneHandoff):
            if row is not None:
                self.hold(MARK not in f"{row.problem}{row.account}{row.subject}", end, "a token in a handoff's row")

    def logged(self, text: str) -> None:
        """Check what an agent writes to its log."""
        self.hold(not find_marked(text.encode()), "", "a token in the log")


class SequenceOnce(Check):
    """10. A sequence number is accepted at most once per pairing and direction, across crashes."""

    number = 10
    title = "a sequence number is accepted once"
    tables = (Seen,)

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.accepted: dict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Compare each new row of the window with all that were ever in it."""
        for was, seen in self.ledger.changed(before, after, Seen):
            if seen is None:
                continue
            window = self.accepted[end, seen.pairing_id]
            is_new = was is None and seen.seq not in window
            self.hold(is_new, end, f"number {seen.seq} was accepted a second time")
            window[seen.seq] = seen.digest

    def restored(self, end: str, tables: Tables) -> None:
        """Take over an older window: later messages may come again, and are noticed as a rollback."""
        for seen in rows(tables, Seen).values():
            self.accepted[end, seen.pairing_id][seen.seq] = seen.digest
        for (name, pairing_id), window in self.accepted.items():
            if name == end:
                left = rows(tables, Pairing).get((pairing_id,))
                high = left.seq_high if left is not None else 0
                for seq in [seq for seq in window if seq > high or (pairing_id, seq) not in rows(tables, Seen)]:
                    del window[seq]
