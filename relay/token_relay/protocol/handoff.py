"""Both ends of a handoff as state machines, in one module so that the protocol can be read in one place.

::

    phone      NEW -> OFFERED -> RELEASED -> DONE
               OFFERED | RELEASED -> CANCELLING -> CANCELLED | DONE     any -> REVOKING -> GONE     any -> GONE
    companion  NONE -> READY -> STORED -> DEAD        NONE | READY -> DEAD
    messages   OFFER -> ACCEPT -> TOKEN -> STORED -> CLOSED;  CANCEL -> CANCELLED | STORED;  REVOKE -> REVOKED

The laws, each a test:

* RELEASED is durable, with the sealed TOKEN in the outbox, before its first byte leaves; the phone never uses
  that token again.
* Only the companion's disk ends RELEASED. Nothing is taken back because time passed: a timeout cannot tell lost
  from late.
* A repeated TOKEN never overwrites a stored grant, which may have been rotated since.
* CANCEL and REVOKE leave a tombstone (DEAD) in every state, NONE included. The answer to CANCEL after STORED is STORED.
* A TOKEN that finds no READY handoff leaves a tombstone, and the answer to it is LOST.
* Only ``move`` gives the phone its token back, and only on CANCELLED.

Pure: :func:`phone_step` and :func:`companion_step` map a state and an event to the next state and effects. The caller
commits all of it in one transaction and acts afterwards. A peer's event that makes no sense in a state changes nothing:
it may be late, or repeated, or come from a restored disk. An event of our own that makes no sense is a bug of the
caller and raises :class:`.LocalProtocolError`. A caller that cannot know asks :func:`phone_may` or
:func:`companion_may` first. ``docs/spec/handoff.md`` draws both machines.

The two step functions are long because each is one table, written as one ``match``: cut up, no reader would see that
every state meets every event.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal, assert_never, get_args

from token_relay.protocol.errors import LocalProtocolError

Strategy = Literal["branch", "mint", "move"]  # how the companion's chain comes about; a provider's profile chooses

# -- The phone's end ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class New:
    """Nothing is on disk yet."""


@dataclass(frozen=True, slots=True)
class Offered:
    """OFFER is in the outbox, or (``is_accepted``) ACCEPT is here and the token is being obtained."""

    is_accepted: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """The sealed TOKEN is in the outbox; the token is no longer ours."""


@dataclass(frozen=True, slots=True)
class Done:
    """The companion's receipt is here."""


@dataclass(frozen=True, slots=True)
class Cancelling:
    """CANCEL is in the outbox; the companion decides."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The companion never stored it and never will."""


@dataclass(frozen=True, slots=True)
class Revoking:
    """REVOKE is in the outbox."""


GoneReason = Literal["revoked", "lost", "forgotten", "superseded", "rollback"]


@dataclass(frozen=True, slots=True)
class Gone:
    """Over, and why."""

    reason: GoneReason


PhoneState = New | Offered | Released | Done | Cancelling | Cancelled | Revoking | Gone
PhoneStateName = Literal["new", "offered", "released", "done", "cancelling", "cancelled", "revoking", "gone"]  # on disk

PhoneOwnEvent = Literal[
    "offer",  # the person, or a permitted renewal, starts it
    "sealed",  # the token was obtained and sealed to the one-time key
    "cancel",  # the person, or the offer's age, gives up
    "revoke",  # the person takes it away
    "forget",  # the person gives the device up
    "superseded",  # a newer handoff of the same grant is DONE
]
PhonePeerEvent = Literal["accept", "stored", "cancelled", "revoked", "lost", "reject"]  # the message of that name
PhoneEvent = Literal[PhoneOwnEvent, PhonePeerEvent]


class PhoneEffect(Enum):
    """What the phone's agent does in the transaction of the step (``OBTAIN_TOKEN``: after it)."""

    SEND_OFFER = auto()
    OBTAIN_TOKEN = auto()
    SEND_TOKEN = auto()
    SEND_CLOSED = auto()
    SEND_CANCEL = auto()
    SEND_REVOKE = auto()
    SEND_STATUS = auto()  # REJECT naming the state: the companion holds on to something that is over
    RESEND = auto()  # the open request once more
    SETTLE = auto()  # drop this handoff's open requests
    RETURN_TOKEN = auto()  # `move` only: the token is the phone's again
    WIPE_TOKEN = auto()  # `move` only: it never will be


@dataclass(frozen=True, slots=True)
class PhoneStep:
    """The next state, and what to do in the order given."""

    state: PhoneState
    effects: tuple[PhoneEffect, ...] = ()


def phone_step(state: PhoneState, event: PhoneEvent) -> PhoneStep:
    """Decide what an event means to the phone's end of one handoff.

    Raises:
        LocalProtocolError: an event of our own that makes no sense in this state; ask :func:`phone_may` before.
    """
    step = _phone_step(state, event)
    if step is None and event in get_args(PhoneOwnEvent):
        raise LocalProtocolError(f"{event!r} makes no sense to the phone's end in {state}")
    return step or PhoneStep(state)


def phone_may(state: PhoneState, event: PhoneOwnEvent) -> bool:
    """Say whether an event of our own makes sense in this state."""
    return _phone_step(state, event) is not None


def _phone_step(state: PhoneState, event: PhoneEvent) -> PhoneStep | None:
    """Look the step up; None: the event makes no sense in this state."""
    fx = PhoneEffect
    match event:
        case "offer":
            return PhoneStep(Offered(), (fx.SEND_OFFER,)) if isinstance(state, New) else None
        case "accept":
            match state:
                case Offered(is_accepted=False):
                    return PhoneStep(Offered(is_accepted=True), (fx.SETTLE, fx.OBTAIN_TOKEN))
                case Offered():
                    return PhoneStep(state)  # the first ACCEPT counts
                case Released() | Cancelling() | Revoking():
                    return PhoneStep(state, (fx.RESEND,))
                case New() | Done() | Cancelled() | Gone():
                    return PhoneStep(state, (fx.SEND_STATUS,))
        case "sealed":
            match state:
                case Offered(is_accepted=True):
                    return PhoneStep(Released(), (fx.SEND_TOKEN,))
                case _:
                    return None  # cancelled or revoked meanwhile: the caller looks first, and drops the token
        case "stored":
            match state:
                case Offered() | Released() | Cancelling():
                    return PhoneStep(Done(), (fx.SETTLE, fx.WIPE_TOKEN, fx.SEND_CLOSED))
                case Done() | Revoking() | Gone(reason="superseded" | "rollback" | "forgotten"):
                    return PhoneStep(state, (fx.SEND_CLOSED,))
                case New() | Cancelled() | Gone():
                    # The companion says that it holds what it never would, or has erased: its disk was restored, or
                    # the receipt comes late. Take the grant away.
                    return PhoneStep(Revoking(), (fx.SEND_CLOSED, fx.SEND_REVOKE))
        case "cancelled":
            match state:
                case Released() | Cancelling():
                    return PhoneStep(Cancelled(), (fx.SETTLE, fx.RETURN_TOKEN))
                case Offered():
                    return PhoneStep(Cancelled(), (fx.SETTLE,))
                case Done():
                    return PhoneStep(Gone("lost"), (fx.SETTLE,))
                case New() | Revoking() | Cancelled() | Gone():
                    return None
        case "revoked":
            match state:
                case New() | Gone():
                    return None
                case _:
                    return PhoneStep(Gone("revoked"), (fx.SETTLE, fx.WIPE_TOKEN))
        case "lost":
            match state:
                case Released() | Cancelling() | Done():
                    return PhoneStep(Gone("lost"), (fx.SETTLE, fx.WIPE_TOKEN))
                case New() | Offered() | Revoking() | Cancelled() | Gone():
                    return None
        case "reject" | "cancel":
            match state:
                case Offered() | Released():
                    return PhoneStep(Cancelling(), (fx.SETTLE, fx.SEND_CANCEL))
                case _:
                    return None
        case "revoke":
            match state:
                case Gone(reason="rollback"):
                    return PhoneStep(Revoking(), (fx.SEND_REVOKE,))  # given up here, but the companion may hold it
                case New() | Revoking() | Cancelled() | Gone():
                    return None
                case _:
                    return PhoneStep(Revoking(), (fx.SETTLE, fx.SEND_REVOKE))
        case "forget":
            return PhoneStep(Gone("forgotten"), (fx.SETTLE, fx.WIPE_TOKEN))
        case "superseded":
            return PhoneStep(Gone("superseded"), (fx.SETTLE,)) if isinstance(state, Done) else None
        case _:
            assert_never(event)
    raise AssertionError("unreachable")


def is_open(state: PhoneState) -> bool:
    """Say whether this handoff is the pairing's one open handoff."""
    return isinstance(state, Offered | Released | Cancelling)


# -- The companion's end -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoHandoff:
    """Nobody has spoken of this handoff yet."""


@dataclass(frozen=True, slots=True)
class Ready:
    """ACCEPT was sent; the one-time private key is on disk."""


@dataclass(frozen=True, slots=True)
class HandoffStored:
    """The grant is, or was, on disk; :mod:`token_relay.agents.grants.lifecycle` says what became of it."""


DeadReason = Literal["cancelled", "revoked", "lost", "rejected", "replaced", "ended"]


@dataclass(frozen=True, slots=True)
class Dead:
    """The tombstone. ``was_stored`` decides whether CANCEL may still be answered CANCELLED."""

    reason: DeadReason
    was_stored: bool = False


CompanionState = NoHandoff | Ready | HandoffStored | Dead
CompanionStateName = Literal["none", "ready", "stored", "dead"]  # on disk

CompanionOwnEvent = Literal[
    "replaced",  # another OFFER of the same pairing came, or this disk was restored
    "ended",  # the stored grant is over: denied, superseded, forgotten
]
CompanionPeerEvent = Literal[
    "offer",
    "token",  # TOKEN came and its sealed grant opened and agreed in every point
    "bad_token",  # TOKEN came, but did not open or did not agree
    "cancel",
    "revoke",
    "closed",
    "reject",  # REJECT came, or a HELLO that no longer knows the handoff
]
CompanionEvent = Literal[CompanionOwnEvent, CompanionPeerEvent]


class CompanionEffect(Enum):
    """What the companion's agent does in the transaction of the step."""

    MAKE_KEY = auto()  # a one-time key pair
    SEND_ACCEPT = auto()
    STORE_GRANT = auto()
    ERASE_KEY = auto()  # the one-time private key
    ERASE_GRANT = auto()
    SEND_STORED = auto()
    SEND_CANCELLED = auto()
    SEND_REVOKED = auto()
    SEND_LOST = auto()
    SETTLE = auto()  # drop this handoff's open requests


@dataclass(frozen=True, slots=True)
class CompanionStep:
    """The next state, and what to do in the order given."""

    state: CompanionState
    effects: tuple[CompanionEffect, ...] = ()


def companion_step(state: CompanionState, event: CompanionEvent) -> CompanionStep:
    """Decide what an event means to the companion's end of one handoff.

    Raises:
        LocalProtocolError: an event of our own that makes no sense in this state; ask :func:`companion_may` before.
    """
    step = _companion_step(state, event)
    if step is None and event in get_args(CompanionOwnEvent):
        raise LocalProtocolError(f"{event!r} makes no sense to the companion's end in {state}")
    return step or CompanionStep(state)


def companion_may(state: CompanionState, event: CompanionOwnEvent) -> bool:
    """Say whether an event of our own makes sense in this state."""
    return _companion_step(state, event) is not None


def _companion_step(state: CompanionState, event: CompanionEvent) -> CompanionStep | None:
    """Look the step up; None: the event makes no sense in this state."""
    fx = CompanionEffect
    match event:
        case "offer":
            match state:
                case NoHandoff():
                    return CompanionStep(Ready(), (fx.MAKE_KEY, fx.SEND_ACCEPT))
                case Ready():
                    return CompanionStep(state, (fx.SEND_ACCEPT,))
                case HandoffStored() | Dead():
                    return CompanionStep(state, (_status(state),))
        case "token":
            match state:
                case Ready():
                    return CompanionStep(HandoffStored(), (fx.STORE_GRANT, fx.ERASE_KEY, fx.SEND_STORED))
                case NoHandoff():
                    return CompanionStep(Dead("lost"), (fx.SEND_LOST,))
                case HandoffStored() | Dead():
                    return CompanionStep(state, (_status(state),))
        case "bad_token":
            match state:
                case NoHandoff() | Ready():
                    return CompanionStep(Dead("lost"), (fx.ERASE_KEY, fx.SEND_LOST))
                case HandoffStored() | Dead():
                    return CompanionStep(state, (_status(state),))
        case "cancel":
            match state:
                case NoHandoff() | Ready():
                    return CompanionStep(Dead("cancelled"), (fx.ERASE_KEY, fx.SEND_CANCELLED))
                case HandoffStored() | Dead():
                    return CompanionStep(state, (_status(state),))
        case "revoke":
            match state:
                case Dead(reason="revoked"):
                    return CompanionStep(state, (fx.SEND_REVOKED,))
                case NoHandoff() | Ready() | HandoffStored() | Dead():
                    was_stored = isinstance(state, HandoffStored) or (isinstance(state, Dead) and state.was_stored)
                    return CompanionStep(
                        Dead("revoked", was_stored), (fx.ERASE_GRANT, fx.ERASE_KEY, fx.SETTLE, fx.SEND_REVOKED)
                    )
        case "closed":
            match state:
                case HandoffStored() | Dead():
                    return CompanionStep(state, (fx.SETTLE,))
                case NoHandoff() | Ready():
                    return None
        case "reject":
            match state:
                case Ready():
                    return CompanionStep(Dead("rejected"), (fx.ERASE_KEY,))
                case _:
                    return None
        case "replaced":
            match state:
                case Ready():
                    return CompanionStep(Dead("replaced"), (fx.ERASE_KEY,))
                case _:
                    return None
        case "ended":
            match state:
                case HandoffStored():
                    # STORED stays in the outbox: the phone must still learn that RELEASED is over
                    return CompanionStep(Dead("ended", was_stored=True), (fx.ERASE_GRANT,))
                case _:
                    return None
        case _:
            assert_never(event)
    raise AssertionError("unreachable")


def _status(state: HandoffStored | Dead) -> CompanionEffect:
    """Return the answer to any question about a handoff that is decided."""
    match state:
        case HandoffStored():
            return CompanionEffect.SEND_STORED
        case Dead(reason="revoked"):
            return CompanionEffect.SEND_REVOKED
        case Dead(was_stored=True):
            return CompanionEffect.SEND_STORED
        case Dead(reason="lost"):
            return CompanionEffect.SEND_LOST
        case Dead():
            return CompanionEffect.SEND_CANCELLED
        case _:
            assert_never(state)
