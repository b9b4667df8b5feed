"""The laws of a handoff, each as a question to one state of :mod:`small_world`; an empty answer is a good one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.exhaustive.small_world import Handoff, State
from token_relay.protocol.handoff import (
    Cancelled,
    Cancelling,
    Dead,
    Done,
    Gone,
    HandoffStored,
    New,
    NoHandoff,
    Offered,
    Ready,
)
from token_relay.protocol.handoff import Released as PhoneReleased

Law = Callable[[State, int, Handoff], bool]


def one_holder(state: State, number: int, handoff: Handoff) -> bool:
    """A chain has at most one holder."""
    return not (handoff.is_usable and handoff.has_grant)


def not_usable_after_released(state: State, number: int, handoff: Handoff) -> bool:
    """The phone never uses a token that it has released, unless CANCELLED came back."""
    return not (handoff.is_usable and isinstance(handoff.phone, PhoneReleased | Done))


def never_after_revoked(state: State, number: int, handoff: Handoff) -> bool:
    """After REVOKED is accepted by the phone that handoff never holds a grant again."""
    return not (handoff.revoked_seen and handoff.has_grant)


def never_after_the_last_word(state: State, number: int, handoff: Handoff) -> bool:
    """After CANCELLED, LOST or REVOKED has left the companion it holds no grant, and never will."""
    return not (handoff.said_dead and (handoff.has_grant or not isinstance(handoff.companion, Dead)))


def done_means_stored(state: State, number: int, handoff: Handoff) -> bool:
    """STORED accepted: the companion's disk holds the grant, or had it and knows what became of it."""
    is_over = isinstance(handoff.companion, Dead) and handoff.companion.was_stored
    return not isinstance(handoff.phone, Done) or is_over or handoff.has_grant


def stored_means_held(state: State, number: int, handoff: Handoff) -> bool:
    """The state STORED and the grant are one."""
    return isinstance(handoff.companion, HandoffStored) == handoff.has_grant


def receipt_after_store(state: State, number: int, handoff: Handoff) -> bool:
    """STORED leaves only after the grant is on disk."""
    return handoff.was_stored or not _is_anywhere(state, number, "STORED")


def cancelled_means_never(state: State, number: int, handoff: Handoff) -> bool:
    """CANCELLED is said only of a grant that was never stored."""
    return not (handoff.was_stored and _is_anywhere(state, number, "CANCELLED"))


def released_before_token(state: State, number: int, handoff: Handoff) -> bool:
    """RELEASED is durable before TOKEN leaves."""
    return not isinstance(handoff.phone, New | Offered) or not _is_anywhere(state, number, "TOKEN")


def key_only_when_ready(state: State, number: int, handoff: Handoff) -> bool:
    """The one-time key is on disk in READY and nowhere else."""
    return not handoff.has_key or isinstance(handoff.companion, Ready)


def one_open(state: State, number: int, handoff: Handoff) -> bool:
    """A handoff that is over has no open request at the phone but REVOKE."""
    if not isinstance(handoff.phone, Done | Cancelled | Gone):
        return True
    return not any(row.handoff == number for row in state.phone_outbox)


LAWS: tuple[Law, ...] = (
    one_holder,
    not_usable_after_released,
    never_after_revoked,
    never_after_the_last_word,
    done_means_stored,
    stored_means_held,
    receipt_after_store,
    cancelled_means_never,
    released_before_token,
    key_only_when_ready,
    one_open,
)


def broken(state: State) -> Iterator[str]:
    """Yield each law that this state breaks, as its first sentence."""
    for number, handoff in enumerate(state.handoffs):
        for law in LAWS:
            if not law(state, number, handoff):
                assert law.__doc__
                yield law.__doc__.rstrip(".")


def unsettled(state: State, *, strategy: str) -> str:
    """Say what is wrong with a state in which nothing more will happen, or return an empty string."""
    for number, handoff in enumerate(state.handoffs):
        if not _agree(handoff):
            return f"at rest the phone says {_name(handoff.phone)}, the companion {_name(handoff.companion)}"
        if strategy != "move" or number:
            continue
        is_dead = isinstance(handoff.phone, Gone) or isinstance(handoff.companion, Dead)
        if not (handoff.is_usable or handoff.has_grant or is_dead):
            return "at rest nobody holds the chain"
        if handoff.phone == Cancelled() and not handoff.is_usable and not handoff.revoked_seen:
            return "at rest the handoff is cancelled and the phone does not have its token back"
    return ""


def _agree(handoff: Handoff) -> bool:
    match handoff.phone:
        case New():
            return isinstance(handoff.companion, NoHandoff)
        case Done():
            return isinstance(handoff.companion, HandoffStored) or handoff.companion == Dead("ended", was_stored=True)
        case Cancelled():
            return isinstance(handoff.companion, Dead) and not handoff.companion.was_stored
        case Gone(reason="revoked"):
            return isinstance(handoff.companion, Dead) and handoff.companion.reason == "revoked"
        case Gone(reason="superseded"):
            return isinstance(handoff.companion, Dead) and handoff.companion.was_stored
        case Gone():
            return isinstance(handoff.companion, Dead)
        case Offered() | PhoneReleased() | Cancelling() | _:
            return False


def _is_anywhere(state: State, number: int, packet_type: str) -> bool:
    places = (state.network, state.phone_outbox, state.companion_outbox)
    return any(row.type == packet_type and row.handoff == number for place in places for row in place)


def _name(state: object) -> str:
    return repr(state)
