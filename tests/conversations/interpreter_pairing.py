"""Pairings of one end, after pairing.md: a pending one, PAIR3 and PAIR4, what becomes of the older ones.

It knows no handoff; what happens to those of an older pairing is said by the phone. The mailbox is another module's.
"""

from tests.conversations.interpreter_hello import Greetings
from tests.conversations.interpreter_state import Impossible, Message, Pairing, Refused
from tests.conversations.table import Json


class Pairings(Greetings):
    """Makes pairings pending and active, and retires the older ones."""

    def retire(self, p: Pairing) -> None:
        """What becomes of the handoffs of a pairing that a newer one replaces."""

    def content(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        """A message of handoffs."""
        raise NotImplementedError

    def pair(self, step: Json) -> None:
        """PAIR1 and PAIR2 have passed: a pending pairing is stored, and a phone opens PAIR3."""
        pairing_id = step.get("pairing_id", "$p1")
        if pairing_id in self.disk.pairings:
            raise Impossible("this pairing is there already")
        self.store_pending(pairing_id, step.get("transcript", "$t" + pairing_id[2:]), str(step.get("peer", 1)))

    def store_pending(self, pairing_id: str, transcript: str, peer: str) -> None:
        """One transaction deletes other pending pairings and stores this one."""
        for other in self.pairings(None, "pending"):
            self.drop(other)
        p = Pairing(pairing_id, peer, "pending", transcript, self.now)
        self.disk.pairing_ids.add(pairing_id)
        self.disk.pairings[pairing_id] = p
        if self.end == "phone":
            self.open(p, "PAIR3", {"transcript_hash": transcript})

    def drop(self, p: Pairing) -> None:
        """Delete a pairing."""
        del self.disk.pairings[p.pairing_id]
        self.memory.fleeting.pop(p.pairing_id, None)

    def is_too_old(self, p: Pairing) -> bool:
        """Whether a pending pairing is over."""
        return self.now - p.stored_at > self.table.time("pairing_s")

    def activate(self, p: Pairing) -> None:
        """The pairing is active, and older ones with this peer become retired."""
        for other in self.pairings(p.peer, "active"):
            self.retire(other)
            other.state = "retired"
        p.state = "active"
        self.disk.primary = self.disk.primary or p.peer

    def handle(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        if m.type in ("PAIR3", "PAIR4"):
            self._prove(p, m)
        else:
            self.content(p, m, is_repetition)

    def _prove(self, p: Pairing, m: Message) -> None:
        if m.body["transcript_hash"] != p.transcript:
            raise Refused("wrong_transcript")
        if m.type == "PAIR3":
            if p.state == "pending":
                if self.is_too_old(p):
                    raise Refused("invitation_expired")
                self.activate(p)
            self.say(p, "PAIR4", {"transcript_hash": p.transcript}, m.seq)
        elif p.state == "pending":
            if self.is_too_old(p):
                self.drop(p)
                raise Refused("wrong_pairing")
            self.settle(p, p.requests)
            self.activate(p)
            self.greet(p)

    def due(self) -> list[float]:
        times = super().due()
        if self.end == "phone":
            times += [p.stored_at + self.table.time("pairing_s") + 1 for p in self.pairings(None, "pending")]
        return times

    def fall_due(self) -> None:
        super().fall_due()
        if self.end == "phone":
            for p in self.pairings(None, "pending"):
                if self.is_too_old(p):
                    self.drop(p)
