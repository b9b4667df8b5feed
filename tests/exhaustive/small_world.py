"""One pairing as a small explicit model around the two cores of :mod:`token_relay.protocol.handoff`.

What is on each disk (states, outbox, accepted numbers, the grant), what is in memory only (a token that was obtained
and not yet released), and a network that is a *set* of messages. A message in it may come now, later or never, so delay
and reordering need no action of their own. What is in an outbox may be sent again at any time, so it may also come at
any time; a copy of it may come even after it was settled. Answers carry no number here: one that comes twice counts as
new. The real link drops it, so the cores are asked for more than they will ever meet.

A handler is: read, decide, commit, acknowledge, send. Power may go before the commit, between commit and
acknowledgement (the message stays in the network) and between acknowledgement and sending (answers are lost, what is
in the outbox is not).

Two kinds of world. In a *counted* one each fault takes something from a :class:`Budget`. In an *open* one
(``budget=None``) nothing is counted: every message ever sent may come any number of times or never, as new or as a
duplicate, and the power may go whenever it likes. All that a counted world can do an open one can, and it has fewer
states, since its network never forgets.

:func:`successors` lists every action that is possible in a state, with the state after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from token_relay.protocol import handoff as core
from token_relay.protocol.handoff import CompanionEffect as C
from token_relay.protocol.handoff import PhoneEffect as P

PhoneStepper = Callable[[core.PhoneState, core.PhoneEvent], core.PhoneStep]
CompanionStepper = Callable[[core.CompanionState, core.CompanionEvent], core.CompanionStep]

AT_THE_PHONE: dict[str, core.PhoneEvent] = {
    "ACCEPT": "accept",
    "STORED": "stored",
    "CANCELLED": "cancelled",
    "REVOKED": "revoked",
    "LOST": "lost",
    "REJECT": "reject",
}
AT_THE_COMPANION: dict[str, core.CompanionEvent] = {
    "OFFER": "offer",
    "TOKEN": "token",
    "CLOSED": "closed",
    "CANCEL": "cancel",
    "REVOKE": "revoke",
    "REJECT": "reject",
}


class Packet(NamedTuple):
    """A message; ``number`` is a request's sequence number, 0 for an answer."""

    to: str  # "phone" or "companion"
    type: str
    handoff: int
    number: int

    def __str__(self) -> str:
        """Such as ``STORED 2 of handoff 1``, leaving out what is plain."""
        number = f" {self.number}" if self.number > 1 else ""
        return f"{self.type}{number}" + (f" of handoff {self.handoff + 1}" if self.handoff else "")


class Handoff(NamedTuple):
    """Both ends of one handoff, and three facts that only an observer knows."""

    phone: core.PhoneState = core.New()
    is_usable: bool = False  # `move`: the phone may use the token
    is_held: bool = False  # `move`: kept for the day the companion says CANCELLED
    in_memory: bool = False  # obtained, not released: gone when the power goes
    companion: core.CompanionState = core.NoHandoff()
    has_key: bool = False
    has_grant: bool = False
    revoked_seen: bool = False  # the phone has accepted REVOKED
    was_stored: bool = False  # the grant was on the companion's disk
    said_dead: bool = False  # CANCELLED, LOST or REVOKED has left the companion


class Budget(NamedTuple):
    """How much may still go wrong, and what people may still do."""

    crashes: int = 0
    losses: int = 0
    duplicates: int = 0
    cancels: int = 0
    revokes: int = 0
    damages: int = 0  # the one-time key of a READY handoff is lost
    denials: int = 0  # the provider ends the grant


class State(NamedTuple):
    """Everything that the future depends on; equal worlds are one state, whatever led there."""

    handoffs: tuple[Handoff, ...]
    phone_outbox: frozenset[Packet] = frozenset()
    companion_outbox: frozenset[Packet] = frozenset()
    seen: frozenset[Packet] = frozenset()  # requests that their receiver has accepted, as far as they may come again
    network: frozenset[Packet] = frozenset()


@dataclass(frozen=True)
class Rules:
    """What is under test: the cores, and each barrier of the driver by itself."""

    phone_step: PhoneStepper = core.phone_step
    companion_step: CompanionStepper = core.companion_step
    strategy: str = "mint"
    has_duplicate_guard: bool = True  # off: the cores alone must stand a request that comes twice
    sends_after_commit: bool = True
    keeps_window: bool = True  # the accepted number is in the transaction of its effect


Action = tuple[str, ...]


class BrokenLawError(Exception):
    """An action did what it must never do."""

    action: Action = ()


NOTHING = Budget()


def begin(*, handoffs: int, strategy: str) -> State:
    """Return the world before the person has done anything."""
    first = Handoff(is_usable=strategy == "move")
    return State((first, *(Handoff(),) * (handoffs - 1)))


class _Turn:
    """One transaction at one end, collected; :meth:`ends` says what each place of a power cut leaves."""

    def __init__(self, rules: Rules, state: State, budget: Budget | None) -> None:
        self.rules = rules
        self.is_counted = budget is not None
        self.old = state
        self.handoffs = list(state.handoffs)
        self.phone_outbox = state.phone_outbox
        self.companion_outbox = state.companion_outbox
        self.seen = state.seen
        self.sent: list[Packet] = []

    # -- the phone -------------------------------------------------------------------------------------

    def phone(self, number: int, event: core.PhoneEvent, *, is_duplicate: bool = False) -> None:
        before = self.handoffs[number].phone
        state, effects = _phone(self.rules.phone_step, before, event)
        if is_duplicate and state != before and self.rules.has_duplicate_guard:
            return
        self.handoffs[number] = self.handoffs[number]._replace(phone=state)
        if event == "revoked":
            self.handoffs[number] = self.handoffs[number]._replace(revoked_seen=True)
        for effect in effects:
            self._phone_effect(number, effect)
        if isinstance(state, core.Done) and state != before:
            for other, handoff in enumerate(self.handoffs):
                if other != number and isinstance(handoff.phone, core.Done):
                    self.phone(other, "superseded")

    def _phone_effect(self, number: int, effect: P) -> None:
        match effect:
            case P.SEND_OFFER:
                self._request("companion", "OFFER", number)
            case P.OBTAIN_TOKEN:
                if self.rules.strategy == "move" and number == 0:
                    self.phone(number, "sealed")
            case P.SEND_TOKEN:
                if self.rules.strategy == "move" and number == 0:
                    self.handoffs[number] = self.handoffs[number]._replace(is_usable=False, is_held=True)
                self._request("companion", "TOKEN", number)
            case P.SEND_CLOSED:
                self.sent.append(Packet("companion", "CLOSED", number, 0))
            case P.SEND_STATUS:
                self.sent.append(Packet("companion", "REJECT", number, 0))
            case P.SEND_CANCEL:
                self._request("companion", "CANCEL", number)
            case P.SEND_REVOKE:
                self._request("companion", "REVOKE", number)
            case P.RESEND:
                self.sent.extend(row for row in self.phone_outbox if row.handoff == number)
            case P.SETTLE:
                self.phone_outbox = frozenset(row for row in self.phone_outbox if row.handoff != number)
            case P.RETURN_TOKEN:
                if self.handoffs[number].is_held:
                    self.handoffs[number] = self.handoffs[number]._replace(is_usable=True, is_held=False)
            case P.WIPE_TOKEN:
                self.handoffs[number] = self.handoffs[number]._replace(is_held=False)

    # -- the companion ---------------------------------------------------------------------------------

    def companion(self, number: int, event: core.CompanionEvent, *, is_duplicate: bool = False) -> None:
        handoff = self.handoffs[number]
        before = handoff.companion
        if event == "offer" and isinstance(before, core.NoHandoff) and not is_duplicate:
            for other, that in enumerate(self.handoffs):
                if other != number and isinstance(that.companion, core.Ready):
                    self.companion(other, "replaced")
        if event == "token" and isinstance(before, core.Ready) and not handoff.has_key:
            event = "bad_token"
        state, effects = _companion(self.rules.companion_step, before, event)
        if is_duplicate and state != before and self.rules.has_duplicate_guard:
            return
        if isinstance(before, core.Dead):
            is_tombstone = isinstance(state, core.Dead) and state.was_stored == before.was_stored
            if not is_tombstone:
                raise BrokenLawError("a tombstone is for ever")
        self.handoffs[number] = self.handoffs[number]._replace(companion=state)
        for effect in effects:
            self._companion_effect(number, effect)

    def _companion_effect(self, number: int, effect: C) -> None:
        match effect:
            case C.MAKE_KEY:
                self.handoffs[number] = self.handoffs[number]._replace(has_key=True)
            case C.ERASE_KEY:
                self.handoffs[number] = self.handoffs[number]._replace(has_key=False)
            case C.STORE_GRANT:
                self._store(number)
            case C.ERASE_GRANT:
                self.handoffs[number] = self.handoffs[number]._replace(has_grant=False)
            case C.SEND_STORED:
                rows = [row for row in self.companion_outbox if row.type == "STORED" and row.handoff == number]
                if rows:
                    self.sent.extend(rows)
                else:
                    self._request("phone", "STORED", number)
            case C.SETTLE:
                self.companion_outbox = frozenset(row for row in self.companion_outbox if row.handoff != number)
            case C.SEND_ACCEPT:
                self.sent.append(Packet("phone", "ACCEPT", number, 0))
            case C.SEND_CANCELLED:
                self._last_word("CANCELLED", number)
            case C.SEND_REVOKED:
                self._last_word("REVOKED", number)
            case C.SEND_LOST:
                self._last_word("LOST", number)

    def _last_word(self, packet_type: str, number: int) -> None:
        self.handoffs[number] = self.handoffs[number]._replace(said_dead=True)
        self.sent.append(Packet("phone", packet_type, number, 0))

    def _store(self, number: int) -> None:
        handoff = self.handoffs[number]
        if handoff.has_grant:
            raise BrokenLawError("a repeated TOKEN overwrote a stored grant")
        if handoff.was_stored:
            raise BrokenLawError("a grant that was erased is stored again")
        self.handoffs[number] = self.handoffs[number]._replace(has_grant=True, was_stored=True)
        for other, older in enumerate(self.handoffs):
            if other != number and older.has_grant:
                self.companion(other, "ended")

    # -- sending ---------------------------------------------------------------------------------------

    def _request(self, to: str, packet_type: str, handoff: int) -> None:
        """Queue a request under the smallest number that no message bears which may still come."""
        number = 1
        live = self.old.network | self.phone_outbox | self.companion_outbox if self.is_counted else frozenset()
        while (row := Packet(to, packet_type, handoff, number)) in live:
            number += 1
        if to == "companion":
            self.phone_outbox |= {row}
        else:
            self.companion_outbox |= {row}
        self.sent.append(row)

    def committed(self, network: frozenset[Packet], sent: list[Packet]) -> State:
        settled = (self.old.phone_outbox - self.phone_outbox) | (self.old.companion_outbox - self.companion_outbox)
        outbox = self.phone_outbox | self.companion_outbox
        network = (network | settled | frozenset(sent)) - outbox
        seen = self.seen and self.seen & (network | outbox)
        return State(tuple(self.handoffs), self.phone_outbox, self.companion_outbox, seen, network)


@cache
def _phone(step: PhoneStepper, state: core.PhoneState, event: core.PhoneEvent) -> tuple[core.PhoneState, tuple[P, ...]]:
    result = step(state, event)
    return result.state, result.effects


@cache
def _companion(
    step: CompanionStepper, state: core.CompanionState, event: core.CompanionEvent
) -> tuple[core.CompanionState, tuple[C, ...]]:
    result = step(state, event)
    return result.state, result.effects


# -- actions -----------------------------------------------------------------------------------------------

Step = tuple[Action, str, State]  # what happens, which item of the budget it takes (or none), the state after it


def successors(rules: Rules, state: State, budget: Budget | None) -> Iterator[Step]:
    """Yield every action that is possible within the budget; without one, in an open world."""
    yield from _work(rules, state, budget)
    yield from _person(rules, state, budget)
    for packet in state.network | state.phone_outbox | state.companion_outbox:
        yield from _deliver(rules, state, packet, budget)
    yield from _faults(state, budget)


def fair_successor(rules: Rules, state: State) -> tuple[Action, State] | None:
    """Return what happens next when nothing goes wrong any more and nobody asks for anything; None: nothing.

    Messages in flight come first. Then each open request is sent again and brought home.
    """
    for action, _, after in _work(rules, state, NOTHING):
        return action, after
    for packets in (state.network, state.phone_outbox | state.companion_outbox):
        for packet in sorted(packets):
            action, _, after = next(_deliver(rules, state, packet, NOTHING))
            if after != state:
                return action, after
    return (
        (("nobody", "has anything to say that helps"), state) if state.phone_outbox | state.companion_outbox else None
    )


def _work(rules: Rules, state: State, budget: Budget | None) -> Iterator[Step]:
    """What an end does by itself: obtain a token, then release it."""
    for number, handoff in enumerate(state.handoffs):
        is_move = rules.strategy == "move" and number == 0
        if handoff.in_memory:
            turn = _Turn(rules, state, budget)
            turn.handoffs[number] = turn.handoffs[number]._replace(in_memory=False)
            if core.phone_may(handoff.phone, "sealed"):  # else the token is dropped: somebody ended it meanwhile
                turn.phone(number, "sealed")
            yield from _outcomes(turn, "phone", ("phone", "releases", _which(number)), None, budget)
        elif handoff.phone == core.Offered(is_accepted=True) and not is_move:
            turn = _Turn(rules, state, budget)
            turn.handoffs[number] = turn.handoffs[number]._replace(in_memory=True)
            yield ("phone", "obtains a token", _which(number)), "", turn.committed(state.network, [])


def _person(rules: Rules, state: State, budget: Budget | None) -> Iterator[Step]:
    for number, handoff in enumerate(state.handoffs):
        asked: list[tuple[core.PhoneEvent, str]] = []
        if isinstance(handoff.phone, core.New):
            is_next = all(not isinstance(other.phone, core.New) for other in state.handoffs[:number])
            if is_next and not any(core.is_open(other.phone) for other in state.handoffs):
                asked.append(("offer", ""))
        else:
            if core.phone_may(handoff.phone, "cancel") and (budget is None or budget.cancels):
                asked.append(("cancel", "cancels"))
            if core.phone_may(handoff.phone, "revoke") and (budget is None or budget.revokes):
                asked.append(("revoke", "revokes"))
        for event, spent in asked:
            turn = _Turn(rules, state, budget)
            turn.phone(number, event)
            for action, also_spent, after in _outcomes(turn, "phone", ("person", event, _which(number)), None, budget):
                yield action, " ".join(filter(None, (spent, also_spent))), after
        if handoff.has_grant and (budget is None or budget.denials):
            turn = _Turn(rules, state, budget)
            turn.companion(number, "ended")
            yield ("provider", "ends the grant of", _which(number)), "denials", turn.committed(state.network, turn.sent)


def _deliver(rules: Rules, state: State, packet: Packet, budget: Budget | None) -> Iterator[Step]:
    if budget is None:
        for is_duplicate in (False, True) if packet.number else (False,):
            yield from _receive(rules, state, packet, budget, is_duplicate=is_duplicate)
        return
    is_duplicate = packet in state.seen
    if is_duplicate and not rules.keeps_window:
        broken = BrokenLawError("a number is accepted at most once")
        broken.action = (packet.to, "receives", str(packet), "once more")
        raise broken
    yield from _receive(rules, state, packet, budget, is_duplicate=is_duplicate)


def _receive(
    rules: Rules, state: State, packet: Packet, budget: Budget | None, *, is_duplicate: bool
) -> Iterator[Step]:
    turn = _Turn(rules, state, budget)
    if packet.number and budget is not None:
        turn.seen |= {packet}
    action = (packet.to, "receives", str(packet))
    try:
        if packet.to == "companion":
            turn.companion(packet.handoff, AT_THE_COMPANION[packet.type], is_duplicate=is_duplicate)
        else:
            turn.phone(packet.handoff, AT_THE_PHONE[packet.type], is_duplicate=is_duplicate)
    except BrokenLawError as exc:
        exc.action = action
        raise
    yield from _outcomes(turn, packet.to, action, packet, budget)
    if budget is not None and budget.duplicates:
        again = turn.committed(state.network | {packet}, turn.sent)
        yield (*action, "and it will come again"), "duplicates", again


def _outcomes(turn: _Turn, end: str, action: Action, packet: Packet | None, budget: Budget | None) -> Iterator[Step]:
    """Yield how one turn may end: well, or with the power cut at each boundary after the commit began."""
    network = turn.old.network
    rest = network if budget is None or packet is None else network - {packet}
    yield action, "", turn.committed(rest, turn.sent)
    if budget is not None and not budget.crashes:
        return
    if not turn.rules.sends_after_commit:
        early = turn.old._replace(network=network | frozenset(turn.sent))
        yield (*action, "| power cut before the commit, after sending"), "crashes", _restarted(early, end)
    cut = _restarted(turn.committed(rest, []), end)
    yield (*action, "| power cut after the commit, before sending"), "crashes", cut
    if rest is not network:
        kept = _restarted(turn.committed(network, []), end)
        yield (*action, "| power cut after the commit, before the acknowledgement"), "crashes", kept


def _which(number: int) -> str:
    return f"(handoff {number + 1})" if number else ""


def _restarted(state: State, end: str) -> State:
    if end == "companion" or not any(handoff.in_memory for handoff in state.handoffs):
        return state
    return state._replace(handoffs=tuple(handoff._replace(in_memory=False) for handoff in state.handoffs))


def _faults(state: State, budget: Budget | None) -> Iterator[Step]:
    if budget is not None and budget.losses:
        for packet in state.network:
            lost = state._replace(network=state.network - {packet})
            yield ("network", "loses", str(packet)), "losses", lost
    if (budget is None or budget.crashes) and any(handoff.in_memory for handoff in state.handoffs):
        yield ("phone", "| power cut before the commit"), "crashes", _restarted(state, "phone")
    if budget is None or budget.damages:
        for number, handoff in enumerate(state.handoffs):
            if isinstance(handoff.companion, core.Ready) and handoff.has_key:
                broken = list(state.handoffs)
                broken[number] = handoff._replace(has_key=False)
                yield (
                    ("companion", "loses the key of", _which(number)),
                    "damages",
                    state._replace(handoffs=tuple(broken)),
                )
