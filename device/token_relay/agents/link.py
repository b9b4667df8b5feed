"""The link: it judges what arrives from the peers and hands it on inside one turn; HELLO; restored backups.

:class:`Link` opens what arrives, judges it against the replay window, hands it to the agent's :class:`Handler` inside a
turn (:mod:`.turns`), and returns only when the effect is durable, so that the channel may acknowledge. It also greets
(HELLO) and notices restored backups (ROLLBACK).

It drops what cannot be opened or makes no sense, and counts it by reason: such a message changes nothing on disk. So
it drops what a peer sends too often, as each accepted message is a commit; a request comes again until it is answered.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol, get_args

import structlog

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.failures import where
from token_relay.agents.pairings import give_up_old
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.rates import Rate, Rates
from token_relay.agents.records import Outgoing, OwnName, Pairing, RestoredEnd, Seen
from token_relay.agents.refused import RefusedMessages
from token_relay.agents.renaming import SELF, note_name
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol import delivery
from token_relay.protocol.envelope import parse_header
from token_relay.protocol.errors import PeerError, TransientError, VaultError
from token_relay.protocol.handoff import Strategy
from token_relay.protocol.identity import id_text
from token_relay.protocol.messages import (
    REQUESTS,
    SPEAKS,
    HandoffReport,
    Head,
    Hello,
    Hello2,
    Hello3,
    Message,
    Pair4,
    Reject,
    Rollback,
    UnsupportedError,
    decode,
    envelope_digest,
)
from token_relay.protocol.topics import PeerTopic, parse_topic

log = structlog.get_logger()

ROLLBACK_JUMP = 2 * delivery.WINDOW  # well past anything the peer may have seen from our lost future
GREET_FIRST_S = 3600.0  # what a restored end is told in the first answer may get lost
GREET_EVERY_S = 6 * 3600.0  # a connection may last for months, and a lease must still be renewed
STRAY_S = 60.0  # by then a peer that knows the active pairing has answered in it
ASK_EVERY_S = 600.0  # between greetings that a HELLO of the peer gives rise to
CHALLENGED_S = 60.0  # so long an answer to our last greeting may be on its way

ANSWERS = Rate(1, delivery.ANSWER_PAUSE_S)
ASKED = Rate(1, ASK_EVERY_S)
NAMES = Rate(4, 3600.0)  # of one peer: a person who renames it once more is heard within the hour
# What a pairing may cost in commits, and so in wear. At a reconnect all that an honest peer has open comes twice: out
# of the broker's queue, and sent again. All else are greetings, leases and refusals, a handful at each connection.
REQUESTS_RATE = Rate(3 * delivery.OUTBOX_ROWS_MAX, 10.0)
OTHERS_RATE = Rate(60, 10.0)
LAST_RATE = Rate(6, 60.0)  # for the newest HELLO of a flood: a broker that kept hundreds for us floods us honestly
LAST_AFTER_S = 1.0

PAIRING_TYPES = frozenset({"PAIR3", "PAIR4"})  # no other type counts before a pairing is active


class _OneHelloTooManyError(PeerError):
    """A HELLO of a pairing that sends too many."""

    def __init__(self, pairing_id: str) -> None:
        super().__init__("too_often")
        self.pairing_id = pairing_id


class Handler(Protocol):
    """The agent's part: what each message means. Every method runs inside the transaction."""

    def on_message(self, turn: Turn, pairing: Pairing, message: Message, plaintext: bytes) -> None:
        """Apply a new message, or answer a repeated request anew (``turn.is_duplicate``)."""
        ...

    def report(self, tx: Transaction, pairing: Pairing) -> list[HandoffReport]:
        """Return the live handoffs of a pairing, for HELLO."""
        ...

    def on_hello(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> bool:
        """React to the peer's HELLO, which the link has answered; False: the peer claims less than we know of it."""
        ...

    def on_rollback(self, turn: Turn, pairing: Pairing, *, who: RestoredEnd) -> None:
        """A restored backup was noticed: ``who`` is "self" or "peer"."""
        ...

    def is_leased(self, tx: Transaction, pairing: Pairing) -> bool:
        """Return whether something here ends unless the peer answers a greeting of ours."""
        ...


class Mailbox(Protocol):
    """The agent's part in pairing: a device that is not paired yet speaks in a mailbox."""

    async def receive(self, mailbox_id: bytes, payload: bytes) -> None:
        """Take what lies in a mailbox; it may stay in memory. Raises PeerError when nothing waits for it."""
        ...


class Link:
    """The link of one agent to all its peers."""

    def __init__(self, turns: Turns, *, handler: Handler, mailbox: Mailbox) -> None:
        self._turns = turns
        self._clock = turns.clock
        self._handler = handler
        self._mailbox = mailbox
        self._refused = RefusedMessages(turns)
        self._rates = Rates()
        self._last_hellos: dict[str, tuple[str, bytes]] = {}  # the newest of each pairing that sends too many
        self._to_ask: set[str] = set()  # pairings whose list of handoffs was overtaken, and is asked for later
        self._newer: dict[str, int] = {}  # per pairing: from which number on we send what an old peer does not know
        self._strays: dict[str, float] = {}  # peers that greet in another pairing than the active one, since when

    # -- receiving -------------------------------------------------------------------------------------

    async def receive(self, topic: str, payload: bytes, *, is_last: bool = False) -> None:
        """Take one message from the channel; when this returns, its effect is durable and it may be acknowledged.

        A dropped message may be acknowledged too. What lies in a mailbox may stay in memory: pairing repeats it.
        ``is_last``: it is the newest HELLO of a flood, and comes a second time.

        Raises:
            VaultError: the disk refused; the message must not be acknowledged and will come again.
        """
        try:
            match parse_topic(topic):
                case PeerTopic(recipient, sender) if recipient == self._turns.own_id:
                    if id_text(parse_header(payload).sender) != sender:
                        raise PeerError("wrong_sender")
                    step = partial(self._accept, sender=sender, envelope=payload, is_last=is_last)
                    await self._turns.hear(sender, len(payload), step)
                case PeerTopic() | None:
                    raise PeerError("wrong_topic")
                case mailbox:
                    await self._mailbox.receive(mailbox.mailbox_id, payload)
        except VaultError:
            raise
        except _OneHelloTooManyError as exc:
            await self._refused.tell(_sender(topic), exc)
            if exc.pairing_id not in self._last_hellos:
                self._turns.spawn(self._hear_last(exc.pairing_id))
            self._last_hellos[exc.pairing_id] = topic, payload
        except (PeerError, TransientError) as exc:
            refusal = exc if isinstance(exc, PeerError) else PeerError("outbox_full")
            await self._refused.tell(_sender(topic), refusal)
        except Exception as exc:
            # A bug of ours. Nothing was kept. Delivered again at once, it would fail again and hold up every message
            # behind it. What matters is a request, and its sender repeats that in its own time.
            log.error("message_failed", error_type=type(exc).__name__, where=where(exc.__traceback__))
            self._turns.count_reject("internal_error")

    async def _hear_last(self, pairing_id: str) -> None:
        """Take the newest HELLO of a flood after all: its list of handoffs and its challenge are those that count."""
        await self._clock.sleep(LAST_AFTER_S)
        topic, payload = self._last_hellos.pop(pairing_id)
        await self.receive(topic, payload, is_last=True)

    def _accept(self, turn: Turn, sender: str, envelope: bytes, *, is_last: bool = False) -> None:
        candidates = turn.tx.select(Pairing, peer_id=sender)
        if not candidates:
            raise PeerError("unknown_sender")
        plaintext = self._turns.box(candidates[0].peer_key).open(envelope)
        message, head = _read(plaintext)
        turn.heard.opened(head, message.body if message else None)
        if head.sender != sender or head.recipient != self._turns.own_id:
            raise PeerError("id_mismatch")
        pairing = next((p for p in candidates if p.pairing_id == head.pairing_id), None)
        if pairing is None:
            if head.type == "HELLO":
                self._note_stray(turn, candidates, sent_at=head.sent_at)
            raise PeerError("wrong_pairing")
        if not self._is_to_be_heard(turn, pairing, head, envelope_digest(envelope), is_last=is_last):
            return
        high_before, pairing = pairing.seq_high, turn.row(Pairing, pairing.pairing_id)
        if message is None:
            if pairing.state != "pending" and head.type != "REJECT":  # or two versions would never stop
                turn.answer(pairing.pairing_id, Reject(handoff_id=None, reason="unsupported"))
            self._refused.note(turn, sender, PeerError("unsupported"))
            return
        if pairing.state == "pending" and head.type not in PAIRING_TYPES:
            raise PeerError("not_active")
        match message.body:
            case Hello() as hello:
                self._greeted(turn, pairing, head, hello, high_before=high_before)
                if pairing.state == "retired":
                    self._note_stray(turn, candidates)
            case Rollback() as claim:
                self._rolled_back_here(turn, pairing, claim.seq_accepted)
            case Reject(handoff_id=None, reason="unsupported") if self._is_too_new(pairing, head):
                turn.change(Pairing, pairing.pairing_id, speaks=0 if pairing.speaks > 2 else 1, strategies="")
                del self._newer[pairing.pairing_id]
                self._hello(turn, pairing.pairing_id, in_reply_to=None)
            case _:
                self._handler.on_message(turn, pairing, message, plaintext)
                if isinstance(message.body, Pair4) and pairing.state == "pending":
                    self.greet(turn, pairing)  # before the first handoff, each end knows what the other one knows

    def _is_to_be_heard(self, turn: Turn, pairing: Pairing, head: Head, digest: bytes, *, is_last: bool) -> bool:
        """Judge a message by the replay window, and move the window on; False: go no further with it."""
        seen = turn.tx.get(Seen, pairing.pairing_id, head.seq)
        verdict = delivery.judge(
            seq=head.seq, high=pairing.seq_high, seen_digest=seen.digest if seen else None, digest=digest
        )
        match verdict:
            case "new":
                self._spend(turn, pairing, head, is_last=is_last)
                turn.in_reply_to = head.seq
                self._advance(turn, pairing, head.seq, digest)
                return True
            case "duplicate":
                turn.in_reply_to, turn.is_duplicate = head.seq, True
                self._refused.note(turn, pairing.peer_id, PeerError("duplicate"))
                if head.type not in REQUESTS or not self._may(f"{pairing.pairing_id}:{head.seq}", turn.now):
                    return False
                self._spend(turn, pairing, head, is_last=is_last)
                return True
            case "too_old":
                self._refused.note(turn, pairing.peer_id, PeerError("too_old"))
                if pairing.state != "pending" and self._may(f"{pairing.pairing_id}:too_old", turn.now):
                    self._spend(turn, pairing, head, is_last=is_last)
                    self.greet(turn, pairing)  # a peer restored from far back learns it from our numbers
                return False
            case "conflict":
                self._spend(turn, pairing, head, is_last=is_last)
                self._note_rollback(turn, pairing)
                self._refused.note(turn, pairing.peer_id, PeerError("conflict"))
                return False

    def _advance(self, turn: Turn, pairing: Pairing, seq: int, digest: bytes) -> None:
        high = max(pairing.seq_high, seq)
        for old in delivery.forgotten(old_high=pairing.seq_high, new_high=high):
            turn.tx.delete(Seen, pairing.pairing_id, old)
        turn.tx.put(Seen(pairing.pairing_id, seq, digest))
        turn.change(Pairing, pairing.pairing_id, seq_high=high, heard_at=turn.wall, heard=turn.stamp)
        if pairing.state != "retired":  # pending: it pairs again just now
            self._strays.pop(pairing.peer_id, None)

    def _note_stray(self, turn: Turn, pairings: list[Pairing], *, sent_at: int | None = None) -> None:
        """A peer greets in a pairing that is over here. If it knows the active one, it greets or answers in that too.

        ``sent_at``: the pairing is unknown here and has no window; what was sent before the active one proves nothing.
        """
        active = next((row for row in pairings if row.state == "active"), None)
        silent_s = elapsed_s(Stamp.from_text(active.heard), turn.now) if active is not None and active.heard else None
        if active is None or (silent_s is not None and silent_s < STRAY_S):
            return
        if sent_at is None and self._may(f"{active.pairing_id}:stray", turn.now):
            self.greet(turn, active)
        if sent_at is None or sent_at > active.paired_at:
            self._strays.setdefault(active.peer_id, turn.now.boot_s)

    def estranged(self) -> frozenset[str]:
        """Return the peers that greet in a pairing that is over here and are silent in the active one, for status."""
        now = self._clock.now()
        return frozenset(peer for peer, since in list(self._strays.items()) if now.boot_s - since >= STRAY_S)

    def _spend(self, turn: Turn, pairing: Pairing, head: Head, *, is_last: bool) -> None:
        """Count a commit that this pairing costs, once it is made; what we asked for counts as a request does.

        Raises:
            PeerError: it has cost too many of late.
        """
        is_asked = head.type == "LEASE" and pairing.challenge != ""
        if head.in_reply_to is not None:
            is_asked |= turn.tx.get(Outgoing, pairing.pairing_id, head.in_reply_to) is not None
        kinds = [("requests", REQUESTS_RATE) if head.type in REQUESTS or is_asked else ("others", OTHERS_RATE)]
        kinds += [("last", LAST_RATE)] if is_last else []
        for kind, rate in kinds:
            key = f"{pairing.pairing_id}:{kind}"
            if self._rates.allows(key, rate, turn.now.boot_s):
                turn.after.append(partial(self._rates.count, key, rate, turn.now.boot_s))
                return
        if head.type == "HELLO":
            raise _OneHelloTooManyError(pairing.pairing_id)
        raise PeerError("too_often")

    def _may(self, what: str, now: Now, rate: Rate = ANSWERS) -> bool:
        is_allowed = self._rates.allows(what, rate, now.boot_s)
        if is_allowed:
            self._rates.count(what, rate, now.boot_s)
        return is_allowed

    # -- HELLO and ROLLBACK ----------------------------------------------------------------------------

    def greet(self, turn: Turn, pairing: Pairing) -> None:
        """Send HELLO with a fresh challenge after the commit."""
        self._hello(turn, pairing.pairing_id, in_reply_to=None)

    def _hello(self, turn: Turn, pairing_id: str, *, in_reply_to: int | None, version: int = 0) -> None:
        """Send HELLO after the commit, in this version or in the highest that the peer may know: that is 2 at first."""
        pairing, challenge = turn.row(Pairing, pairing_id), turn.new_id()
        if in_reply_to is None:
            turn.change(Pairing, pairing_id, challenge=challenge, challenged=turn.stamp)
        body = Hello(
            challenge=challenge,
            seq_sent=pairing.seq_sent + 1,  # this message included
            seq_accepted=pairing.seq_high,
            handoffs=self._handler.report(turn.tx, pairing),
        )
        highest = min(version or pairing.speaks or 2, SPEAKS)
        if highest > 1:
            body = Hello2(**dict(body), speaks=SPEAKS, strategies=list(get_args(Strategy)))
            self._newer.setdefault(pairing_id, body.seq_sent)
        own = turn.tx.get(OwnName, SELF)
        if highest > 2 and own is not None:
            body = Hello3(**dict(body), name=own.called)
        turn.in_reply_to = in_reply_to
        turn.answer(pairing_id, body)

    def _greeted(self, turn: Turn, pairing: Pairing, head: Head, hello: Hello, *, high_before: int) -> None:
        pairing_id = pairing.pairing_id
        claim = delivery.PeerNumbers(head.seq, hello.seq_sent, hello.seq_accepted)
        if delivery.we_are_rolled_back(claim, seq_sent=pairing.seq_sent):
            self._rolled_back_here(turn, pairing, hello.seq_accepted)
        elif delivery.peer_is_rolled_back(claim, high=high_before, peer_accepted=pairing.peer_accepted):
            self._note_rollback(turn, pairing, accepted=hello.seq_accepted)
        else:
            turn.change(Pairing, pairing_id, peer_accepted=max(pairing.peer_accepted, hello.seq_accepted))
        is_answer = head.in_reply_to is not None
        if not is_answer:
            version = hello.speaks if isinstance(hello, Hello2) else 1
            self._hello(turn, pairing_id, in_reply_to=head.seq, version=version)
            if self._may(f"{pairing_id}:resend", turn.now):  # up to 256 envelopes for one of the peer's
                turn.resend(pairing_id)
        turn.is_overtaken = head.seq < pairing.seq_high
        if not self._handler.on_hello(turn, turn.row(Pairing, pairing_id), hello, is_answer=is_answer):
            self._note_rollback(turn, pairing)
        if turn.is_overtaken:
            self._ask(turn, pairing_id)
        else:
            self._to_ask.discard(pairing_id)
            self._learn(turn, turn.row(Pairing, pairing_id), hello, is_answer=is_answer)
        # A peer that is there for seconds, and lost our last greeting with its session, can vouch for a lease yet.
        wants_lease = not is_answer and self._handler.is_leased(turn.tx, pairing)
        if wants_lease and _is_challenged(turn, pairing_id):
            if self._may(f"{pairing_id}:lease", turn.now, ASKED):
                turn.after.append(lambda: self._turns.spawn(self._greet_unanswered(pairing_id)))
        elif wants_lease and self._may(f"{pairing_id}:ask", turn.now, ASKED):
            self.greet(turn, pairing)

    async def _greet_unanswered(self, pairing_id: str) -> None:
        """Greet anew once no answer to our last greeting may be on its way any more, if none has come."""
        await self._clock.sleep(CHALLENGED_S)

        def step(turn: Turn) -> None:
            pairing = turn.tx.get(Pairing, pairing_id)
            if pairing is not None and pairing.challenge and self._handler.is_leased(turn.tx, pairing):
                self.greet(turn, pairing)

        await self._turns.run(step)

    def _ask(self, turn: Turn, pairing_id: str) -> None:
        """Greet anew: the list of handoffs in the peer's HELLO was overtaken. Later, if that was done of late."""
        if self._may(f"{pairing_id}:ask", turn.now, ASKED):
            self._hello(turn, pairing_id, in_reply_to=None)
        else:
            turn.after.append(lambda: self._turns.spawn(self._ask_later(pairing_id)))

    async def _ask_later(self, pairing_id: str) -> None:
        if pairing_id in self._to_ask:
            return
        self._to_ask.add(pairing_id)
        await self._clock.sleep(ASK_EVERY_S)

        def step(turn: Turn) -> None:
            if turn.tx.get(Pairing, pairing_id) is not None:
                self._hello(turn, pairing_id, in_reply_to=None)

        if pairing_id in self._to_ask:  # no whole list came meanwhile
            self._to_ask.discard(pairing_id)
            await self._turns.run(step)

    def _learn(self, turn: Turn, pairing: Pairing, hello: Hello, *, is_answer: bool) -> None:
        """Write what the peer knows. A greeting in version 1 leaves it open: it may be old, or take us for old."""
        if isinstance(hello, Hello2):
            speaks = min(hello.speaks, SPEAKS)
            turn.change(Pairing, pairing.pairing_id, speaks=speaks, strategies=" ".join(hello.strategies))
            self._newer[pairing.pairing_id] = pairing.seq_sent + 1
            if isinstance(hello, Hello3) and pairing.state == "active":
                note_name(turn, pairing, hello.name, may=lambda: self._may(f"{pairing.peer_id}:name", turn.now, NAMES))
        elif not is_answer and pairing.speaks > 1:
            turn.change(Pairing, pairing.pairing_id, speaks=0)

    def _is_too_new(self, pairing: Pairing, head: Head) -> bool:
        """Whether this REJECT says that the peer does not know what we have sent since it last spoke version 2 or 3.

        It counts once for each: version 3 falls to 2, in which every peer is greeted that may be new, and 2 to 1.
        """
        since = self._newer.get(pairing.pairing_id)
        return since is not None and head.in_reply_to is not None and head.in_reply_to >= since

    def _note_rollback(self, turn: Turn, pairing: Pairing, *, accepted: int | None = None) -> None:
        """The peer claims less than we have on disk: tell it our numbers, at most once per pause.

        ``accepted``: what it says it has accepted. What it accepted in its lost future no longer counts, or each HELLO
        would look like another rollback.
        """
        turn.change(Pairing, pairing.pairing_id, speaks=0)  # its program may be older too
        if not self._may(f"{pairing.pairing_id}:rollback", turn.now):
            return
        current = turn.change(Pairing, pairing.pairing_id, rollback="peer")
        if accepted is not None:
            turn.change(Pairing, pairing.pairing_id, peer_accepted=accepted)
        turn.answer(pairing.pairing_id, Rollback(seq_sent=current.seq_sent + 1, seq_accepted=current.seq_high))
        turn.event("peer_rollback_noticed", device=pairing.peer_id)
        self._handler.on_rollback(turn, turn.row(Pairing, pairing.pairing_id), who="peer")

    def _rolled_back_here(self, turn: Turn, pairing: Pairing, accepted: int) -> None:
        """We were restored from an older image: jump past every number the peer may know, then tell the agent."""
        sent = turn.row(Pairing, pairing.pairing_id).seq_sent
        jumped = max(sent, accepted) + ROLLBACK_JUMP
        current = turn.change(Pairing, pairing.pairing_id, seq_sent=jumped, rollback="self", speaks=0)
        turn.event("own_rollback_noticed", device=pairing.peer_id)
        self._handler.on_rollback(turn, current, who="self")
        turn.renumber(pairing.pairing_id, up_to=sent)  # they carry numbers that the peer has seen, or left behind
        self._hello(turn, pairing.pairing_id, in_reply_to=None)

    # -- sending ---------------------------------------------------------------------------------------

    def greet_all(self, turn: Turn) -> None:
        """Greet every peer anew, as this device has another name now."""
        for pairing in turn.tx.select(Pairing, state="active"):
            self.greet(turn, pairing)

    async def connected(self) -> None:
        """Greet every peer and send every open request again; called at each connection.

        When this returns the challenges are durable, and old requests of retired pairings are dropped.
        """

        def step(turn: Turn) -> None:
            rows: list[tuple[str, Outgoing]] = []
            for pairing in turn.tx.select(Pairing):
                if pairing.state != "pending":
                    self.greet(turn, pairing)
                if pairing.state == "retired":
                    give_up_old(turn, pairing)
                rows.extend((pairing.peer_id, row) for row in turn.tx.select(Outgoing, pairing_id=pairing.pairing_id))
            turn.after.append(lambda: self._turns.send_all(rows))  # before any later turn settles or queues

        await self._turns.run(step)

    async def greet_loop(self) -> None:
        """Greet every active peer, after 1, 2 and 4 hours and then every 6, however long the connection lasts."""

        def step(turn: Turn) -> None:
            for pairing in turn.tx.select(Pairing):
                if pairing.state == "active":
                    self.greet(turn, pairing)
                elif pairing.state == "retired":
                    give_up_old(turn, pairing)

        wait_s = GREET_FIRST_S
        while True:
            await self._clock.sleep(wait_s)
            wait_s = min(2 * wait_s, GREET_EVERY_S)
            try:
                await self._turns.run(step)
            except VaultError as exc:
                log.error("vault_refused", detail=str(exc))


def _is_challenged(turn: Turn, pairing_id: str) -> bool:
    """Return whether the peer may still answer our last greeting."""
    pairing = turn.row(Pairing, pairing_id)
    age_s = elapsed_s(Stamp.from_text(pairing.challenged), turn.now) if pairing.challenge else None
    return age_s is not None and age_s < CHALLENGED_S


def _sender(topic: str) -> str:
    """Return the device that a topic names, for a log; a topic of another form says nothing that is safe to write."""
    place = parse_topic(topic)
    return place.sender if isinstance(place, PeerTopic) else ""


def _read(plaintext: bytes) -> tuple[Message | None, Head]:
    """Return a message with its head, or only the head when we do not know its type or version."""
    try:
        message = decode(plaintext)
    except UnsupportedError as exc:
        return None, exc.head
    return message, message.head
