"""The mailbox of one end, after pairing.md: invitation, PAIR1, PAIR2, ENDED and DECLINED, until there is a pairing.

One exchange is known at a time, the last one; ended ones before it are counted as of another mailbox. All of it lives
in memory: a power cut ends it. What is checked of the bytes is not modelled: a spoilt message names its reason.
"""

from dataclasses import dataclass

from tests.conversations.interpreter_pairing import Pairings
from tests.conversations.interpreter_state import Impossible, Pairing, Refused
from tests.conversations.table import Json, Table

SPOILT = {
    "length": "bad_length",
    "magic": "bad_magic",
    "box": "bad_box",
    "padding": "bad_padding",
    "mac": "bad_mac",
    "json": "bad_json",
    "duplicate_key": "duplicate_key",
    "field": "bad_field",
    "fresh_key": "own_key",
    "fresh_point": "bad_point",
    "static_key": "own_key",
    "static_point": "bad_point",
    "another_key": "wrong_sender",
}
ENDED = {"used": 1, "declined": 2, "expired": 3, "bad_tries": 4, "replaced": 5}
NOT_CONFIRMED = 1
PEER = "1"


@dataclass
class Exchange:
    """What one end knows of the exchange that is under way, or was the last."""

    begun: float
    pair1: str | None = None  # digest of the PAIR1 that was accepted, or that went out
    pair2: tuple[str, str] | None = None  # the pairing and the transcript
    ended: str | None = None
    bad_tries: int = 0
    looked_at: int = 0


class Mailboxes(Pairings):
    """Shows an invitation, or scans one."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.exchange: Exchange | None = None

    def power_cut(self) -> None:
        self.exchange = None
        super().power_cut()

    def mailbox(self, kind: str, digest: str, step: Json) -> None:
        """A message in the mailbox."""
        spoil = step.get("spoil", {}).get("kind")
        reason = SPOILT[spoil] if spoil else None
        if self.end == "companion":
            self._at_companion(kind, digest, reason, is_used_up=spoil == "static_point")
        else:
            self._at_phone(kind, step, reason)

    # --- the companion --------------------------------------------------------------------------------------

    def invite(self, step: Json) -> Json:
        """An invitation is shown; it ends the one before."""
        if self.end != "companion":
            raise Impossible("a phone shows no invitation")
        for p in self.pairings(None, "pending"):
            self.drop(p)
        self.exchange = Exchange(self.now)
        return {"invitation": "*"}

    def activate(self, p: Pairing) -> None:
        super().activate(p)
        exchange = self.exchange
        if exchange is not None and self.end == "companion" and exchange.pair2 and exchange.pair2[0] == p.pairing_id:
            exchange.ended = exchange.ended or "used"

    def _is_expired(self, exchange: Exchange) -> bool:
        return self.now - exchange.begun >= self.table.time("pairing_s")

    def _at_companion(self, kind: str, digest: str, reason: str | None, *, is_used_up: bool) -> None:
        exchange = self.exchange
        if exchange is None:
            raise Refused("wrong_mailbox")
        if kind == "ENDED":
            return
        if exchange.ended is None and self._is_expired(exchange):
            exchange.ended = "expired"
        if exchange.pair1 is None and exchange.ended is None:
            if is_used_up:  # check 16 comes behind that
                exchange.pair1 = digest
                raise Refused(str(reason))
            self._first_pair1(exchange, kind, digest, reason)
            return
        exchange.looked_at += 1
        if exchange.looked_at > self.table.limit("ended_messages"):
            raise Refused("too_often")
        if exchange.ended is None and kind == "PAIR1" and digest == exchange.pair1:
            self.out.append({"again": "PAIR2"})
            return
        if exchange.ended is None and kind == "DECLINED":
            if reason is not None:
                raise Refused(reason)
            exchange.ended = "declined"
            for p in self.pairings(None, "pending"):
                self.drop(p)
            return
        if reason is not None or kind != "PAIR1":
            raise Refused(reason or "bad_length")
        ended = exchange.ended or "used"
        self.out.append({"mailbox": "ENDED", "reason": ENDED[ended]})
        raise Refused("invitation_expired" if ended == "expired" else "invitation_used")

    def _first_pair1(self, exchange: Exchange, kind: str, digest: str, reason: str | None) -> None:
        if reason is None and kind != "PAIR1":
            reason = "bad_length"
        if reason is not None:
            exchange.bad_tries += 1
            if exchange.bad_tries >= self.table.limit("bad_tries"):
                exchange.ended = "bad_tries"
            raise Refused(reason)
        exchange.pair1 = digest
        pairing, transcript = self.names.fresh("p"), self.names.fresh("t")
        exchange.pair2 = pairing, transcript
        self.store_pending(pairing, transcript, PEER)
        self.out.append({"mailbox": "PAIR2", "name": self.name, "pairing": pairing, "transcript": transcript})

    # --- the phone ------------------------------------------------------------------------------------------

    def scan(self, step: Json) -> None:
        """A person scans an invitation: PAIR1 goes out, and again, until something comes."""
        if self.end != "phone" or not self.memory.is_connected:
            raise Impossible("no phone that is connected")
        self.exchange = Exchange(self.now)
        self.out.append({"mailbox": "PAIR1", "name": self.name})

    def _is_waiting(self) -> bool:
        exchange = self.exchange
        if exchange is None or exchange.ended or exchange.pair2:
            return False
        return self.now - exchange.begun < self.table.time("pair1_for_s")

    def _at_phone(self, kind: str, step: Json, reason: str | None) -> None:
        exchange = self.exchange
        if exchange is None or not self._is_waiting():
            raise Refused("wrong_mailbox")
        if kind == "ENDED" and reason is None:
            exchange.ended = "told"
            return
        if kind != "PAIR2" or reason is not None:
            raise Refused(reason or "bad_length")
        pairing = step.get("pairing", "$p1")
        exchange.pair2 = pairing, step.get("transcript", "$t" + pairing[2:])

    def confirm(self, step: Json) -> None:
        """The person says that both show the same number."""
        pairing, transcript = self._asked()
        if pairing in self.disk.pairing_ids:
            raise Refused("pairing_id_reused")
        self.store_pending(pairing, transcript, PEER)

    def decline(self, step: Json) -> None:
        """The person says that they do not."""
        self._asked()
        if self.memory.is_connected:
            self.out.append({"mailbox": "DECLINED", "reason": NOT_CONFIRMED})

    def _asked(self) -> tuple[str, str]:
        exchange = self.exchange
        if self.end != "phone" or exchange is None or exchange.pair2 is None or exchange.ended:
            raise Impossible("nothing is to be confirmed")
        exchange.ended = "asked"
        return exchange.pair2

    def pass_time(self, seconds: float) -> None:
        before, every = self.now, self.table.time("pair1_every_s")
        is_waiting = self.end == "phone" and self._is_waiting() and self.memory.is_connected
        super().pass_time(seconds)
        if is_waiting and self.exchange is not None:
            begun, life = self.exchange.begun, self.table.time("pair1_for_s")
            count = int(min(self.now - begun, life) // every) - int(min(before - begun, life) // every)
            if count:
                self.out.append({"again": "PAIR1", "times": [max(0, count - 1), count + 1]})
