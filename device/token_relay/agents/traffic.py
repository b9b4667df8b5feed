"""The journal of the messages that passed: in memory, the newest ``PASSED_MAX``, for whoever looks at the agent.

It knows of a message what its head and the length of its envelope say, and never what it carries. A message that this
end sends is one row, however often it goes out; each arrival is a row of its own. What comes from nobody paired with
this device is counted elsewhere, by reason, and pushes no row out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from token_relay.agents.pulse import Pulse
from token_relay.agents.records import EVENTS_MAX
from token_relay.protocol.messages import Body, Head

PASSED_MAX = 512  # rows of some 300 bytes; a handoff has ten messages at most

# "queued": a request that waits for a connection. "not_sent": an answer that had none; the peer asks for it again.
# "sent": given to the connection. "at_broker": the broker has said that it has it.
OutState = Literal["queued", "not_sent", "sent", "at_broker"]


@dataclass(frozen=True, slots=True)
class Outbound:
    """A sealed message on its way out, with what the journal tells of it."""

    device: str
    pairing_id: str
    seq: int
    type: str
    handoff_id: str
    envelope: bytes


@dataclass(slots=True)
class Heard:
    """A message that came, as far as its turn got with it; ``type`` is empty until it was opened."""

    device: str = ""
    size: int = 0
    type: str = ""
    handoff_id: str = ""
    seq: int = 0
    state: str = "accepted"  # or "duplicate", or "refused:REASON"

    def opened(self, head: Head, body: Body | None) -> None:
        """Note what the envelope held: only a device that is paired, or was, can have sealed it."""
        self.type, self.seq, self.handoff_id = head.type, head.seq, handoff_of(body)

    def dropped(self, reason: str) -> None:
        """Note why it has changed nothing."""
        self.state = reason if reason == "duplicate" else f"refused:{reason}"


@dataclass(slots=True)
class Passed:
    """One row. ``change`` is of the same count as ``number``: a row that changes gets the next number there."""

    number: int
    change: int
    at: float
    direction: Literal["out", "in"]
    type: str
    device: str
    handoff_id: str
    seq: int
    size: int
    state: str
    times: int


class Traffic:
    """The journal of one agent; ``changed`` beats when a row is new or has changed.

    ``moments`` are those of the newest events by number, finer than the seconds of the audit table: so they stand in
    order with the messages, and with what others saw on the same machine.
    """

    def __init__(self) -> None:
        self.last = 0
        self.moments: dict[int, float] = {}
        self.changed = Pulse()
        self._rows: dict[tuple[str, int], Passed] = {}  # by pairing and number for what goes out, so it is found again

    def went(self, message: Outbound, state: OutState, at: float) -> None:
        """Note how far a message of this end got, for the first time or again."""
        of, key = message, (message.pairing_id, message.seq)
        row = self._rows.get(key)
        if row is None and state != "at_broker":  # or it was pushed out meanwhile
            row = Passed(0, 0, at, "out", of.type, of.device, of.handoff_id, of.seq, len(of.envelope), state, 0)
        elif row is None or state in ("queued", "not_sent"):  # it was sent before, and how far it got stays true
            return
        row.state = state
        row.times += state == "sent"
        self._note(key, row)

    def came(self, heard: Heard, at: float) -> None:
        """Note what became of a message that came, if it was opened."""
        of = heard
        if of.type:
            row = Passed(0, 0, at, "in", of.type, of.device, of.handoff_id, of.seq, of.size, of.state, 1)
            self._note(("", self.last), row)

    def wrote(self, numbers: Iterable[int], at: float) -> None:
        """Note when events were written."""
        for number in numbers:
            self.moments[number] = at
            self.moments.pop(number - EVENTS_MAX, None)

    def rows(self, *, after: int = 0, device: str = "", handoff_id: str = "") -> list[Passed]:
        """Return the rows that are new or have changed since the change ``after``, in the order of their numbers."""
        return [
            row
            for row in self._rows.values()
            if row.change > after and device in ("", row.device) and handoff_id in ("", row.handoff_id)
        ]

    def _note(self, key: tuple[str, int], row: Passed) -> None:
        self.last += 1
        row.number, row.change = row.number or self.last, self.last
        self._rows[key] = row
        if len(self._rows) > PASSED_MAX:
            del self._rows[next(iter(self._rows))]
        self.changed.beat()


def handoff_of(body: Body | None) -> str:
    """Return the handoff that a message is about, or an empty string."""
    return getattr(body, "handoff_id", None) or ""
