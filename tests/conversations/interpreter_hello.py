"""HELLO, ROLLBACK and what they tell, after delivery.md: greetings, answers, what the peer knows, a restored disk.

It knows nothing of a list of handoffs but that HELLO has one. What is listed, what the peer's list means, and what a
device does that finds itself restored, is said by the classes below it.
"""

import contextlib

from tests.conversations.interpreter_link import Link
from tests.conversations.interpreter_state import Message, Pairing, Refused, Request, Resends
from tests.conversations.table import Json


class Greetings(Link):
    """Greets, answers greetings, and judges whose disk was restored."""

    # --- what the classes below say -------------------------------------------------------------------------

    def listed(self, p: Pairing) -> list[Json]:
        """The live handoffs, newest last."""
        raise NotImplementedError

    def take_list(self, p: Pairing, m: Message) -> bool:
        """Make of the peer's list what there is to be made. Returns whether it proves that the peer was restored."""
        raise NotImplementedError

    def restored(self, p: Pairing) -> None:
        """What this end does with its handoffs when it was restored."""
        raise NotImplementedError

    def greeted(self, p: Pairing, m: Message) -> None:
        """What is said to a HELLO beside the answer to it."""

    def met(self, p: Pairing) -> None:
        """More that follows from any HELLO."""

    def wants_challenge(self, p: Pairing) -> bool:
        """Whether a LEASE is wanted that answers a fresh challenge."""
        return False

    def unanswered(self, p: Pairing) -> bool:
        """Whether an own challenge may still be answered."""
        young = self.now - p.challenge_at < self.table.time("challenge_s")
        return p.challenge is not None and young

    # --- sending --------------------------------------------------------------------------------------------

    def _hello(self, p: Pairing, v: int, in_reply_to: int | None, challenge: str) -> None:
        listed = self.listed(p)[-self.table.limit("handoffs_listed") :]
        body: Json = {"challenge": challenge, "seq_sent": "=seq", "seq_accepted": p.high, "handoffs": listed}
        if v >= 2:
            body |= {"speaks": self.table.speaks, "strategies": "*"}
        if v >= 3:
            body["name"] = self.name
        self.say(p, "HELLO", body, in_reply_to, v)

    def greet(self, p: Pairing) -> None:
        if not self.memory.is_connected:
            return
        p.challenge = "unknown" if self.is_quiet else self.names.fresh("c")
        p.challenge_at = self.now
        self._hello(p, self.table.highest("HELLO", p.speaks or 2), None, p.challenge)

    def rollback(self, p: Pairing, in_reply_to: int | None) -> None:
        """Tell the peer that it was restored."""
        self.forget_peer(p)
        if self.once(p, "rollback"):
            self.say(p, "ROLLBACK", {"seq_sent": "=seq", "seq_accepted": p.high}, in_reply_to)

    def conflict(self, p: Pairing) -> None:
        if p.state != "pending":
            self.rollback(p, None)

    def forget_peer(self, p: Pairing) -> None:
        """Nothing is known of the peer any more."""
        p.speaks, p.strategies = 0, []

    # --- receiving ------------------------------------------------------------------------------------------

    def on_hello(self, p: Pairing, m: Message, high: int) -> None:
        """A HELLO; `high` is the highest number accepted before it."""
        body, is_greeting = m.body, m.in_reply_to is None
        sent = self.number(p.pairing_id, body["seq_sent"], m.seq)
        accepted = self.number(p.pairing_id, body["seq_accepted"])
        is_overtaken = m.seq < high
        own_loss = accepted > p.own
        peer_loss = not own_loss and m.seq > high and (sent < high or accepted < p.claimed)
        before = list(p.requests)
        if own_loss:
            self.jump(p, accepted)
        elif peer_loss:
            p.claimed = accepted
            self.rollback(p, m.seq)
        else:
            p.claimed = max(p.claimed, accepted)
        if is_greeting:
            self._answer(p, m, [] if own_loss else before)
        if not is_overtaken:
            self.fleeting(p).due.pop("list", None)
            if self.take_list(p, m) and not own_loss:  # of two losses it acts on its own alone
                self.rollback(p, m.seq)
        self.greeted(p, m)
        if not is_overtaken:  # also what was forgotten on a loss: this very HELLO tells it again
            self._learn(p, m)
        self.met(p)
        self._greet_anew(p, is_overtaken, is_greeting)
        self._stray(p)

    def _answer(self, p: Pairing, m: Message, open_requests: list[Request]) -> None:
        """One HELLO, which lists what stood before the peer's list was taken, and all open requests again."""
        v = 1 if m.v == 1 else self.table.highest("HELLO", m.body["speaks"])
        self._hello(p, v, m.seq, self.names.fresh("c"))
        if self.once(p, "resend round"):
            self.send_again(p, open_requests)
            for request in p.requests:
                if not open_requests and request.is_sent:  # it went out under a new number in this very step
                    self.out.append(self._item(p, {"again": request.label, "times": [0, 1]}))

    def _learn(self, p: Pairing, m: Message) -> None:
        if m.v >= 2:
            p.spoke_from = 0
            p.speaks, p.strategies = m.body["speaks"], m.body["strategies"]
        elif m.in_reply_to is None and p.speaks >= 2:
            self.forget_peer(p)

    def _greet_anew(self, p: Pairing, is_overtaken: bool, is_greeting: bool) -> None:
        """The two things that make a device greet on a HELLO, at most once in ten minutes."""
        due, once = self.fleeting(p).due, self.fleeting(p).once
        wants_lease = is_greeting and p.state == "active" and self.wants_challenge(p)
        free_at = once.get("greet anew", float("-inf")) + self.table.time("ask_every_s")
        if is_overtaken:
            if self.once(p, "greet anew", "ask_every_s"):
                self.greet(p)
            else:
                due["list"] = free_at
        if wants_lease:
            if self.unanswered(p):
                if self.once(p, "greet for a lease", "ask_every_s"):
                    due["lease"] = self.now + self.table.time("challenge_s")
            elif self.once(p, "greet anew", "ask_every_s"):
                self.greet(p)

    def _stray(self, p: Pairing) -> None:
        """A HELLO in a retired pairing, of a peer that may not know the active one."""
        if p.state != "retired":
            return
        for other in self.pairings(p.peer, "active"):
            silent = self.now - other.heard_at >= self.table.time("stray_s")
            if silent and self.once(other, "stray"):
                self.greet(other)

    def on_rollback(self, p: Pairing, m: Message) -> None:
        """The peer says that this device was restored."""
        self.jump(p, self.number(p.pairing_id, m.body["seq_accepted"]))

    def jump(self, p: Pairing, accepted: int) -> None:
        """This device was restored: it leaves room for numbers that it forgot, and makes its requests anew."""
        self.forget_peer(p)
        p.own = max(p.own, accepted) + self.table.limit("rollback_jump")
        self.restored(p)
        for request in list(p.requests):
            if request.step != self.step:
                request.resends, request.queued_wall = Resends(self.now), self.wall_now()
                self.renumber(p, request)
        self.greet(p)

    def on_unsupported(self, p: Pairing, m: Message) -> bool:
        """REJECT `unsupported`. Returns whether it is of a message that was sent in version 2 or above."""
        if m.in_reply_to is None or not p.spoke_from or m.in_reply_to < p.spoke_from or p.speaks == 1:
            return False
        if p.speaks >= 3:
            self.forget_peer(p)
        else:
            p.speaks, p.strategies = 1, []
        p.spoke_from = 0
        self.greet(p)
        return True

    # --- time -----------------------------------------------------------------------------------------------

    def _next_greeting(self) -> float:
        """After an hour; the pauses double, up to the longest."""
        pause, at = self.table.time("greet_first_s"), self.memory.started_at
        for _ in range(self.memory.greetings + 1):
            at += pause
            pause = min(2 * pause, self.table.time("greet_every_s"))
        return at

    def due(self) -> list[float]:
        times = [self._next_greeting()]
        for p in self.pairings():
            times += self.fleeting(p).due.values()
        return times

    def fall_due(self) -> None:
        if self._next_greeting() <= self.now:
            self.memory.greetings += 1
            self.judge_retired()
            for p in self.pairings(None, "active"):
                self.greet(p)
        for p in self.pairings():
            due = self.fleeting(p).due
            for what in [what for what, at in due.items() if at <= self.now]:
                del due[what]
                self._late(p, what)

    def _late(self, p: Pairing, what: str) -> None:
        """What was put off."""
        fleeting = self.fleeting(p)
        if what.startswith("obtain "):
            self.out.append({"obtain": what.removeprefix("obtain ")})
        if what == "list" and self.once(p, "greet anew", "ask_every_s"):
            self.greet(p)
        if what == "lease" and self.wants_challenge(p) and p.challenge:
            self.greet(p)
        if what == "late hello" and fleeting.late_hello is not None and self.memory.is_connected:
            m, fleeting.late_hello = fleeting.late_hello, None
            if fleeting.late_hellos.take(self.now) and m.seq not in p.seen:
                with contextlib.suppress(Refused):
                    self.accept(p, m, True, False)
