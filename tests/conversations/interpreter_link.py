"""One end's link to its peers, after delivery.md: numbers, the window, checks, open requests, resends, time.

It knows no handoff. What a message means is said by the classes below it (`handle`); what is listed in HELLO, too.
Invariants: a message that is refused leaves no trace; a number is made for each envelope; what is sent goes to `out`.
"""

import copy
import re
from typing import Any

from tests.conversations.interpreter_state import (
    Bucket,
    Disk,
    Fleeting,
    Impossible,
    Memory,
    Message,
    Names,
    Pairing,
    Refused,
    Request,
    Resends,
)
from tests.conversations.table import Json, Table

# Damage to an envelope, and the reason for which it is refused (checks 1 to 9 and 13).
SPOILT = {
    "topic": "wrong_topic",
    "mailbox": "wrong_mailbox",
    "length": "bad_length",
    "magic": "bad_magic",
    "sender": "wrong_sender",
    "unknown_sender": "unknown_sender",
    "recipient": "wrong_recipient",
    "box": "bad_box",
    "padding": "bad_padding",
    "json": "bad_json",
    "duplicate_key": "duplicate_key",
    "id_mismatch": "id_mismatch",
}


class Link:
    """Numbers, checks 10 to 20, the outbox and the clock of one end."""

    end = ""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.disk = Disk()
        self.memory = Memory(0.0)
        self.names = Names()
        self.now = 0.0
        self.step = 0
        self.name = ""
        self.wall = 0
        self.out: list[Json] = []
        self.counted = ("", "")  # the reason and field of a TOKEN that ended its handoff
        self.is_quiet = False  # greetings are not listed: a wait of an hour and more
        self.heard: dict[str, int] = {}  # the highest number that the peer has got, by pairing
        self.kept: dict[str, tuple[Disk, dict[str, int]]] = {}
        self.last_own: dict[tuple[str, str], int] = {}  # number of the last message of that label
        self.last_digest: dict[tuple[str, str], str] = {}  # digest of the last message of that label, either way
        self.high_before = 0  # the highest number accepted before the message that is handled now

    # --- what the classes below say -------------------------------------------------------------------------

    def handle(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        """Check 21 and the effect."""
        raise NotImplementedError

    def due(self) -> list[float]:
        """When something falls due by itself, resends excepted."""
        return []

    def fall_due(self) -> None:
        """Do what is due now."""

    # --- small things ---------------------------------------------------------------------------------------

    def fleeting(self, p: Pairing) -> Fleeting:
        """What is remembered of the pairing until the power is cut."""
        every = self.table.time("allowance_every_s")

        def bucket(limit: str, each: float) -> Bucket:
            most = self.table.limit(limit)
            return Bucket(most, each, most, self.now)

        return self.memory.fleeting.setdefault(
            p.pairing_id,
            Fleeting(
                bucket("requests_at_once", every),
                bucket("others_at_once", every),
                bucket("last_hellos_at_once", self.table.time("last_hello_every_s")),
            ),
        )

    def once(self, p: Pairing, what: str, every: str = "answer_pause_s") -> bool:
        """Whether this was not done in the last so many seconds; then it counts as done now."""
        times = self.fleeting(p).once
        if self.now - times.get(what, float("-inf")) < self.table.time(every):
            return False
        times[what] = self.now
        return True

    def wall_now(self) -> float:
        """Unix seconds."""
        return self.wall + self.now

    def pairings(self, peer: str | None = None, *states: str) -> list[Pairing]:
        """The pairings with this peer in these states."""
        return [
            p
            for p in self.disk.pairings.values()
            if (peer is None or p.peer == peer) and (not states or p.state in states)
        ]

    def number(self, p_id: str, value: Any, seq: int | None = None) -> int:
        """The number that a symbol of an input stands for."""
        if isinstance(value, int):
            return value
        if value == "=seq" and seq is not None:
            return seq
        found = re.fullmatch(r"\$heard(?:\(([^)]*)\))?([+-]\d+)?", value)
        if found:
            heard = self.kept[found[1]][1] if found[1] else self.heard
            return max(0, heard.get(p_id, 0) + int(found[2] or 0))
        found = re.fullmatch(r"@(.+)", value)
        if found and (p_id, found[1]) in self.last_own:
            return self.last_own[p_id, found[1]]
        raise Impossible(f"no number {value}")

    # --- sending --------------------------------------------------------------------------------------------

    def say(self, p: Pairing, kind: str, body: Json, in_reply_to: int | None = None, v: int | None = None) -> int:
        """Make an envelope and send it. Returns its number."""
        v = self.table.highest(kind, p.speaks) if v is None else v
        p.own += 1
        label = " ".join([kind, *([body["handoff_id"]] if body.get("handoff_id") else [])])
        self.last_own[p.pairing_id, label] = self.last_own[p.pairing_id, kind] = p.own
        self.last_digest[p.pairing_id, label] = f"own {p.pairing_id} {p.own} {self.step}"
        if kind == "HELLO" and v >= 2 and not p.spoke_from:
            p.spoke_from = p.own
        if self.memory.is_connected:
            self._leaves(p, p.own)
            if not (self.is_quiet and kind == "HELLO" and in_reply_to is None):
                self.out.append(self._item(p, {"type": kind, "v": v, "in_reply_to": in_reply_to, "body": body}))
        return p.own

    def _leaves(self, p: Pairing, number: int) -> None:
        self.heard[p.pairing_id] = max(self.heard.get(p.pairing_id, 0), number)

    def _item(self, p: Pairing, item: Json) -> Json:
        return item if p.pairing_id == "$p1" else {**item, "pairing": p.pairing_id}

    def open(self, p: Pairing, kind: str, body: Json) -> None:
        """Open a request. It is stored before it leaves, and sent at once if there is a connection."""
        if len(p.requests) >= self.table.limit("open_requests"):
            raise Refused("outbox_full")
        v = self.table.highest(kind, p.speaks)
        request = Request(kind, body.get("handoff_id"), body, v, 0, self.wall_now(), Resends(self.now), step=self.step)
        p.requests.append(request)
        self.renumber(p, request)

    def renumber(self, p: Pairing, request: Request) -> None:
        """Make the envelope of a request, and send it."""
        request.number = self.say(p, request.type, request.body, None, request.v)
        request.is_sent = self.memory.is_connected
        if request.is_sent:
            request.resends.sent(self.table, self.now)

    def send_again(self, p: Pairing, which: list[Request]) -> None:
        """Send open requests, the same bytes each. What this very step has opened is on its way already."""
        for request in which:
            if request.step == self.step and request.is_sent:
                continue
            if request.is_sent:
                self.out.append(self._item(p, {"again": request.label}))
            else:
                item = {"type": request.type, "v": request.v, "in_reply_to": None, "body": request.body}
                self.out.append(self._item(p, item))
            request.is_sent = True
            request.resends.sent(self.table, self.now)
            self._leaves(p, request.number)

    def of_handoff(self, p: Pairing, handoff_id: str, *kinds: str) -> list[Request]:
        """The open requests of a handoff, all or of these types."""
        return [r for r in p.requests if r.handoff_id == handoff_id and (not kinds or r.type in kinds)]

    def settle(self, p: Pairing, which: list[Request]) -> None:
        """Drop open requests."""
        p.requests = [r for r in p.requests if all(r is not other for other in which)]

    # --- receiving ------------------------------------------------------------------------------------------

    def receive(self, m: Message, head: Json, body: Any, spoilt: str | None) -> None:
        """Checks 1 to 21. Raises Refused; then nothing is kept, except of `unsupported` and `conflict`."""
        if spoilt is not None and spoilt != "id_mismatch":
            raise Refused(SPOILT[spoilt])
        wrong = self.table.wrong_head(head)
        if wrong is not None:
            raise Refused("bad_field", wrong)
        is_known = self.table.knows(m.type, m.v)
        if is_known:
            wrong = self.table.wrong_body(m.type, m.v, body)
            if wrong is not None:
                raise Refused("bad_field", wrong)
        if spoilt is not None:
            raise Refused(SPOILT[spoilt])
        p = self.disk.pairings.get(m.pairing)
        if p is None:
            raise Refused("wrong_pairing" if self.disk.pairings else "unknown_sender")
        self.judge(p, m, is_known)

    def judge(self, p: Pairing, m: Message, is_known: bool) -> None:
        """Checks 15 to 21."""
        fleeting = self.fleeting(p)
        if m.seq <= p.high - self.table.limit("replay_window"):
            if p.state != "pending" and self.once(p, "too old"):
                self.spend(p, m)
                self.greet(p)
            raise Refused("too_old")
        is_repetition = m.seq in p.seen
        if is_repetition and p.seen[m.seq] != m.digest:
            self.spend(p, m)
            self.conflict(p)
            raise Refused("conflict")
        if is_repetition:
            last = fleeting.answered_again.get(m.seq, float("-inf"))
            if not self.table.is_request(m.type) or self.now - last < self.table.time("answer_pause_s"):
                raise Refused("duplicate")
        self.spend(p, m)
        if is_repetition:
            fleeting.answered_again[m.seq] = self.now
        self.accept(p, m, is_known, is_repetition)

    def spend(self, p: Pairing, m: Message) -> None:
        """A commit that this message costs; the pairing must have one left."""
        fleeting = self.fleeting(p)
        answers_us = m.in_reply_to is not None and any(r.number == m.in_reply_to for r in p.requests)
        is_big = self.table.is_request(m.type) or answers_us
        if not (fleeting.requests if is_big else fleeting.others).take(self.now):
            if m.type == "HELLO" and self.table.knows(m.type, m.v):
                fleeting.late_hello = m
                fleeting.due.setdefault("late hello", self.now + self.table.time("last_hello_after_s"))
            raise Refused("too_often")

    def accept(self, p: Pairing, m: Message, is_known: bool, is_repetition: bool) -> None:
        """Checks 18 to 21 of a message that may be written down."""
        is_full = len(p.requests) >= self.table.limit("open_requests") - 8
        before = copy.deepcopy(self.disk) if is_full else None
        high, had = p.high, m.seq in p.seen
        self.high_before = high
        p.high = max(p.high, m.seq)
        p.seen[m.seq] = m.digest
        try:
            if not is_known:
                if p.state != "pending" and m.type != "REJECT":
                    self.say(p, "REJECT", {"handoff_id": None, "reason": "unsupported"}, m.seq, 1)
                raise Refused("unsupported")
            if p.state == "pending" and m.type not in ("PAIR3", "PAIR4"):
                raise Refused("not_active")
            if not self.table.travels_from(m.type, "companion" if self.end == "phone" else "phone"):
                raise Refused("wrong_direction")
            self.handle(p, m, is_repetition)
        except Refused as refused:
            if refused.reason == "unsupported":
                raise
            p.high = high
            if not had:
                del p.seen[m.seq]
            if before is not None:
                self.disk = before
            self.out.clear()
            raise
        if not is_repetition:
            p.heard_at = self.now

    def greet(self, p: Pairing) -> None:
        """Send HELLO with `in_reply_to` null."""
        raise NotImplementedError

    def conflict(self, p: Pairing) -> None:
        """The peer was restored: a number of it was used twice."""
        raise NotImplementedError

    # --- connection, power, time ----------------------------------------------------------------------------

    def connect(self) -> None:
        """A connection is there: HELLO to each peer, and all open requests again."""
        self.memory.is_connected = True
        self.judge_retired()
        for p in self.pairings():
            if p.state != "pending":
                self.greet(p)
            self.send_again(p, p.requests)

    def judge_retired(self) -> None:
        """Drop what a retired pairing asks in vain; a companion's."""

    def power_cut(self) -> None:
        """The power is cut and comes back."""
        self.memory = Memory(self.now)
        for p in self.pairings():
            for r in p.requests:
                r.resends.forget(self.table, self.now)
        self.begin_again()

    def begin_again(self) -> None:
        """What a start does."""

    def pass_time(self, seconds: float) -> None:
        """So much time passes; what falls due is done."""
        until = self.now + seconds
        counts: dict[int, list[int]] = {}
        seen: list[tuple[Pairing, Request]] = []
        while True:
            upcoming = [t for t in self.due() if t <= until]
            to = max(self.now, min(upcoming, default=until))
            for p in self.pairings():
                for r in p.requests:
                    if self.memory.is_connected:
                        low, high = r.resends.wait(self.table, to)
                        if id(r) not in counts:
                            seen.append((p, r))
                        have = counts.setdefault(id(r), [0, 0])
                        have[0], have[1] = have[0] + low, have[1] + high
            self.now = to
            if not upcoming:
                break
            self.fall_due()
        for p, r in seen:
            low, high = counts[id(r)]
            if high:
                self.out.append(self._item(p, {"again": r.label, "times": [low, high]}))
