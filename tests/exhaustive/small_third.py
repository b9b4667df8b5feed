"""One disk with two pairings, an honest one and a hostile one, around the cores of the protocol; every interleaving.

The disk holds rows by (pairing, handoff), grants, and data keys by name, as `docs/spec/handoff.md` wants it. The honest
peer speaks of its one handoff only. The hostile peer says every type with every id that was ever printed, logged or
sent: its own handoff, the honest handoff, the honest grant. Messages may come in any order, any number of times.

The law is promise 15: an action of one pairing leaves the other's part of the disk as it was. :class:`Disk` has one
switch for each barrier; with a barrier down the search finds a short story.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.exhaustive.small_world import AT_THE_COMPANION, AT_THE_PHONE
from token_relay.protocol import handoff as core
from token_relay.protocol.handoff import CompanionEffect as C
from token_relay.protocol.handoff import PhoneEffect as P

HONEST, HOSTILE = "honest", "hostile"
HANDOFF, GRANT, OWN_HANDOFF = "h", "g", "x"
IDS = {HONEST: (HANDOFF,), HOSTILE: (OWN_HANDOFF, HANDOFF, GRANT)}
LAW = "What comes by one pairing changes nothing of another"


class Grant(NamedTuple):
    """A stored grant; on a phone it is the person's own and came by no pairing."""

    grant: str
    pairing: str
    handoff: str
    state: str = "held"


class State(NamedTuple):
    """One end's disk."""

    rows: frozenset[tuple[str, str, core.PhoneState | core.CompanionState]] = frozenset()
    grants: frozenset[Grant] = frozenset()
    keys: frozenset[str] = frozenset()

    def of(self, pairing: str) -> tuple[object, ...]:
        """Return what came by a pairing, or by none; a grant counts as readable while its key is there."""
        rows = frozenset(row for row in self.rows if row[0] == pairing)
        kept = (grant for grant in self.grants if grant.pairing in (pairing, ""))
        return rows, frozenset((grant, any(key.endswith(grant.grant) for key in self.keys)) for grant in kept)


@dataclass(frozen=True)
class Disk:
    """The end, and which of its barriers stand."""

    end: str = "companion"
    keys_have_spaces: bool = True  # grant:… and handoff:…:…
    rows_by_pairing: bool = True
    grants_by_pairing: bool = True  # what a handoff erases or supersedes is looked for in its own pairing
    rollback_is_own: bool = True  # a claim of rollback locks what came by its own pairing

    def key(self, kind: str, pairing: str, name: str) -> str:
        """Return the name of a data key."""
        if not self.keys_have_spaces:
            return name
        return f"grant:{name}" if kind == "grant" else f"handoff:{pairing}:{name}"


class Found(NamedTuple):
    """The number of states, and the story of the first broken law."""

    states: int
    way: tuple[str, ...] = ()


def begin(disk: Disk) -> State:
    """Return the disk before anything came; a phone has its person's grant and an open handoff with each peer."""
    if disk.end == "companion":
        return State()
    key = disk.key("grant", "", GRANT)
    rows = frozenset((pairing, IDS[pairing][0], core.Offered()) for pairing in (HONEST, HOSTILE))
    return State(rows, frozenset({Grant(GRANT, "", "")}), frozenset({key}))


def search(disk: Disk) -> Found:
    """Walk through every state, or to the first action that touches what is another's."""
    first = begin(disk)
    before: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        for by, action, after in successors(disk, state):
            other = HONEST if by == HOSTILE else HOSTILE
            if after.of(other) != state.of(other):
                return Found(len(before), (*_way(before, state), action))
            if after not in before:
                before[after] = (state, action)
                waiting.append(after)
    return Found(len(before))


def _way(before: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    way = []
    while (step := before[state]) is not None:
        state, action = step
        way.append(action)
    return tuple(reversed(way))


def successors(disk: Disk, state: State) -> Iterator[tuple[str, str, State]]:
    """Yield who acts, what it does, and the disk afterwards."""
    for pairing, ids in IDS.items():
        for name in ids:
            if disk.end == "companion":
                for kind, event in (*AT_THE_COMPANION.items(), ("spoilt TOKEN", "bad_token")):
                    yield pairing, f"{pairing}: {kind} {name}", _companion(disk, state, pairing, name, event)
            else:
                for kind, to_phone in AT_THE_PHONE.items():
                    yield pairing, f"{pairing}: {kind} {name}", _phone(disk, state, pairing, name, to_phone)
        if disk.end == "companion":
            yield pairing, f"{pairing}: ROLLBACK", _rollback(disk, state, pairing)
    for row_pairing, name, held in state.rows:  # a person's commands, which are about one device
        if disk.end == "phone" and isinstance(held, core.Done):
            yield row_pairing, f"person: revoke {row_pairing}", _phone(disk, state, row_pairing, name, "revoke")


class _Turn:
    """A transaction on the disk."""

    def __init__(self, disk: Disk, state: State, pairing: str, name: str) -> None:
        self.disk, self.pairing, self.name = disk, pairing, name
        self.rows = {(row[0], row[1]): row[2] for row in state.rows}
        self.grants = set(state.grants)
        self.keys = set(state.keys)
        self.place = (pairing, name)
        if not disk.rows_by_pairing:
            self.place = next((known for known in self.rows if known[1] == name), self.place)

    def end(self) -> State:
        rows = frozenset((*place, state) for place, state in self.rows.items())
        return State(rows, frozenset(self.grants), frozenset(self.keys))

    def erase_handoff_key(self) -> None:
        self.keys.discard(self.disk.key("handoff", self.pairing, self.name))

    def erase_grants(self, *, but: str = "") -> None:
        for grant in list(self.grants):
            is_here = grant.pairing == self.pairing or not self.disk.grants_by_pairing
            if is_here and grant.handoff != but and (but or grant.handoff == self.name):
                self.grants.remove(grant)
                self.keys.discard(self.disk.key("grant", self.pairing, grant.grant))


def _companion(disk: Disk, state: State, pairing: str, name: str, event: core.CompanionEvent) -> State:
    turn = _Turn(disk, state, pairing, name)
    before = turn.rows.get(turn.place, core.NoHandoff())
    step = core.companion_step(before, event)  # type: ignore[arg-type]  # a companion's disk
    if step.state != before:
        turn.rows[turn.place] = step.state
    for effect in step.effects:
        match effect:
            case C.MAKE_KEY:
                turn.keys.add(disk.key("handoff", pairing, name))
            case C.ERASE_KEY:
                turn.erase_handoff_key()
            case C.ERASE_GRANT:
                turn.erase_grants()
            case C.STORE_GRANT:
                turn.erase_grants(but=name)  # it supersedes an older one of the same person
                grant = GRANT if (pairing, name) == (HONEST, HANDOFF) else f"of {pairing}:{name}"
                turn.grants.add(Grant(grant, pairing, name))
                turn.keys.add(disk.key("grant", pairing, grant))
            case _:
                pass  # an answer goes to the sender
    return turn.end()


def _phone(disk: Disk, state: State, pairing: str, name: str, event: core.PhoneEvent) -> State:
    turn = _Turn(disk, state, pairing, name)
    before = turn.rows.get(turn.place, core.New())
    step = core.phone_step(before, event)  # type: ignore[arg-type]  # a phone's disk
    if turn.place not in turn.rows and event != "stored":
        return state  # only a receipt makes a row of what the phone does not know
    if step.state != before:
        turn.rows[turn.place] = step.state
    for effect in step.effects:
        match effect:
            case P.OBTAIN_TOKEN:  # it comes, and is sealed, in a later transaction
                turn.rows[turn.place] = core.phone_step(step.state, "sealed").state
                turn.keys.add(disk.key("handoff", pairing, name))
            case P.WIPE_TOKEN | P.RETURN_TOKEN:
                turn.erase_handoff_key()
            case _:
                pass
    return turn.end()


def _rollback(disk: Disk, state: State, pairing: str) -> State:
    def locked(grant: Grant) -> Grant:
        is_meant = grant.pairing == pairing or not disk.rollback_is_own
        return grant._replace(state="locked") if is_meant else grant

    return state._replace(grants=frozenset(locked(grant) for grant in state.grants))
