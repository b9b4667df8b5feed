"""What one end keeps: on its disk, and in memory until the power is cut.

`Disk` is all that is durable. `keep` copies it, `restore` puts the copy back, `restart` leaves it and makes a new
`Memory`. Nothing here decides anything, except when a request can be sent again: the pauses are drawn at random, so a
request has not one next time but a few possible ones, each with the pause that it is at (`Resends`).
"""

from dataclasses import dataclass, field

from tests.conversations.table import Json, Table


class Refused(Exception):
    """The message is refused for this reason, and leaves no trace."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.field = reason, field


class Impossible(Exception):
    """An own event, or a request of the runner, that makes no sense now."""


@dataclass(frozen=True)
class Message:
    """A message that came: the head with its symbols resolved, the body as the conversation has it."""

    type: str
    v: int
    seq: int
    in_reply_to: int | None
    pairing: str
    body: Json
    sent_at: int
    digest: str  # the same for the same bytes


Slot = tuple[int, bool]  # sendings so far, and whether the request counts as old


@dataclass
class Resends:
    """When a request may be sent again. Each possibility is an interval of the next sending.

    The pages leave open whether a sending at a connection or at HELLO counts among those that double the pause, or
    begins them anew, so all of that is kept. A count of sendings is therefore a range.
    """

    queued_at: float
    slots: dict[Slot, tuple[float, float]] = field(default_factory=dict)

    def _after(self, table: Table, sent: int, early: float, late: float) -> dict[Slot, tuple[float, float]]:
        """The possibilities after sending number `sent`, which was between `early` and `late`."""
        eager, slots = table.time("resend_eager_s"), {}
        low, high = table.drawn("resend_first_s")
        most = table.time("resend_max_s")
        pause = table.time("resend_first_s")
        for _ in range(sent - 1):
            pause = min(pause * 2, most)
        if pause >= most:  # later sendings are all alike
            sent = 20
        if early < self.queued_at + eager:
            slots[sent, False] = (early + low * pause, min(late, self.queued_at + eager) + high * pause)
        if late >= self.queued_at + eager:
            low, high = table.drawn("resend_idle_s")
            idle = table.time("resend_idle_s")
            slots[20, True] = (max(early, self.queued_at + eager) + low * idle, late + high * idle)
        return slots

    def sent(self, table: Table, now: float) -> None:
        """It was sent at a connection or at HELLO, or for the first time."""
        for n in {n for n, _ in self.slots} or {0}:
            found = [self._after(table, count, now, now) for count in {1, max(n, 1), n + 1}]
            kept = {slot: (max(low, now), max(high, now)) for slot, (low, high) in self.slots.items()}
            self.slots = _hull([*found, kept])

    def forget(self, table: Table, now: float) -> None:
        """After a power cut: how often it was sent need not be known, nor when."""
        most = max((n for n, _ in self.slots), default=0)
        late = max((high for _, high in self.slots.values()), default=now)
        for n in range(1, most + 1):
            for slot, (_, high) in self._after(table, n, now, now).items():
                self.slots[slot] = (now, max(high, late))

    def wait(self, table: Table, until: float) -> tuple[int, int]:
        """How often it is sent until then, at least and at most."""
        level, count, final, counts = self.slots, 0, [], []
        while level:
            following: list[dict[Slot, tuple[float, float]]] = []
            for slot, (low, high) in level.items():
                if high > until:  # it may be that nothing more is due
                    final.append({slot: (max(low, until), high)})
                    counts.append(count)
                if low <= until:
                    following.append(self._after(table, slot[0] + 1, low, min(high, until)))
            level, count = _hull(following), count + 1
        self.slots = _hull(final)
        return (min(counts), max(counts)) if counts else (0, 0)


def _hull(of: list[dict[Slot, tuple[float, float]]]) -> dict[Slot, tuple[float, float]]:
    hull: dict[Slot, tuple[float, float]] = {}
    for slots in of:
        for slot, (low, high) in slots.items():
            have = hull.get(slot, (low, high))
            hull[slot] = (min(low, have[0]), max(high, have[1]))
    return hull


@dataclass
class Request:
    """An open request. `number` is that of its envelope; sent again it is the same envelope."""

    type: str
    handoff_id: str | None
    body: Json
    v: int
    number: int
    queued_wall: float
    resends: Resends
    is_sent: bool = False
    step: int = -1  # in which step it was opened

    @property
    def label(self) -> str:
        return self.type if self.handoff_id is None else f"{self.type} {self.handoff_id}"


@dataclass
class Grant:
    """What a companion stores of a handoff."""

    fields: Json
    generation: int = 1
    state: str = "held"
    lease_days: int = 0
    lease_from: float = 0.0
    has_access_token: bool = False


@dataclass
class Handoff:
    """A row of either table. The upper half is the phone's, the lower the companion's."""

    handoff_id: str
    state: str
    offer: Json = field(default_factory=dict)
    begun: float = 0.0
    key: str | None = None  # the one-time key, as long as it is there
    token: Json = field(default_factory=dict)  # what the provider gave, as far as it is known
    accept: str = ""  # digest of the ACCEPT that the phone went by
    grant_v: int = 1
    heard: int = 0  # the highest generation that the companion has told
    is_held: bool = False  # with move: the token stays here too, until the companion has decided

    offer_digest: str = ""
    grant: Grant | None = None
    wants: str | None = None  # the reason of RENEW, as long as the grant cannot go on
    lost: tuple[str, str] = ("unknown", "")
    provider: str = "unknown"
    ends_at: Json = field(default_factory=dict)


@dataclass
class Pairing:
    """One pairing: its state, both counters, the window, the open requests, the handoffs."""

    pairing_id: str
    peer: str
    state: str
    transcript: str
    stored_at: float
    own: int = 0
    high: int = 0
    seen: dict[int, str] = field(default_factory=dict)
    claimed: int = 0  # the highest `seq_accepted` that the peer ever claimed
    speaks: int = 0  # 0: nothing is known of the peer
    strategies: list[str] = field(default_factory=list)
    spoke_from: int = 0  # the first own number in version 2 or above since the peer last spoke such a version
    requests: list[Request] = field(default_factory=list)
    handoffs: dict[str, Handoff] = field(default_factory=dict)
    unknown: int = 0  # handoffs that came from the companion's word alone
    challenge: str | None = None
    challenge_at: float = 0.0
    heard_at: float = float("-inf")  # when a new message of it was last taken
    may_renew: bool = True


@dataclass
class Disk:
    """All that is durable."""

    pairings: dict[str, Pairing] = field(default_factory=dict)
    pairing_ids: set[str] = field(default_factory=set)  # also of those that were deleted
    primary: str | None = None  # the phone whose word counts for the grants of all
    is_locked: bool = False  # the phone's own grants


@dataclass
class Bucket:
    """An allowance: so many at once, then one each so many seconds."""

    most: float
    every: float
    have: float
    at: float

    def take(self, now: float) -> bool:
        self.have = min(self.most, self.have + (now - self.at) / self.every)
        self.at = now
        if self.have < 1:
            return False
        self.have -= 1
        return True


@dataclass
class Fleeting:
    """What is known of one pairing until the power is cut. Times are those of the last time."""

    requests: Bucket
    others: Bucket
    late_hellos: Bucket
    answered_again: dict[int, float] = field(default_factory=dict)
    once: dict[str, float] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)  # what comes later, by name
    late_hello: Message | None = None


@dataclass
class Memory:
    """What is lost when the power is cut."""

    started_at: float
    is_connected: bool = False
    greetings: int = 0
    fleeting: dict[str, Fleeting] = field(default_factory=dict)
    asking: dict[tuple[str, str], float] = field(default_factory=dict)  # revocations at the provider, and their end


@dataclass
class Names:
    """Symbols for what an end makes by itself, numbered in the order in which it makes them."""

    last: dict[str, int] = field(default_factory=dict)

    def fresh(self, letter: str) -> str:
        self.last[letter] = self.last.get(letter, 0) + 1
        return f"${letter}{self.last[letter]}"
