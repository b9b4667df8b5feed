"""Protocol mistakes, each a core with one answer changed or the driver with one barrier down.

``law`` is the beginning of what the search must find. ``budget`` None is the open world of :mod:`small_world`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.exhaustive.small_world import Budget, Rules
from token_relay.protocol import handoff as core
from token_relay.protocol.handoff import CompanionEffect as C
from token_relay.protocol.handoff import CompanionStep, PhoneStep
from token_relay.protocol.handoff import PhoneEffect as P


@dataclass(frozen=True)
class Mutant:
    """One mistake and the law that it must be seen to break."""

    name: str
    rules: Rules
    law: str
    budget: Budget | None = None

    @property
    def is_about_rest(self) -> bool:
        """Whether the harm shows only when nothing more happens."""
        return self.law in (REST, AT_REST)


def _phone(
    event: core.PhoneEvent, states: type | tuple[type, ...], answer: Callable[[core.PhoneState], PhoneStep]
) -> Callable[[core.PhoneState, core.PhoneEvent], PhoneStep]:
    def step(state: core.PhoneState, came: core.PhoneEvent) -> PhoneStep:
        return answer(state) if came == event and isinstance(state, states) else core.phone_step(state, came)

    return step


def _companion(
    event: core.CompanionEvent, states: type | tuple[type, ...], answer: Callable[[core.CompanionState], CompanionStep]
) -> Callable[[core.CompanionState, core.CompanionEvent], CompanionStep]:
    def step(state: core.CompanionState, came: core.CompanionEvent) -> CompanionStep:
        return answer(state) if came == event and isinstance(state, states) else core.companion_step(state, came)

    return step


def _without(
    event: core.CompanionEvent, effect: C
) -> Callable[[core.CompanionState, core.CompanionEvent], CompanionStep]:
    def step(state: core.CompanionState, came: core.CompanionEvent) -> CompanionStep:
        right = core.companion_step(state, came)
        if came != event:
            return right
        return CompanionStep(right.state, tuple(one for one in right.effects if one is not effect))

    return step


def _phone_without(event: core.PhoneEvent, effect: P) -> Callable[[core.PhoneState, core.PhoneEvent], PhoneStep]:
    def step(state: core.PhoneState, came: core.PhoneEvent) -> PhoneStep:
        right = core.phone_step(state, came)
        if came != event:
            return right
        return PhoneStep(right.state, tuple(one for one in right.effects if one is not effect))

    return step


REST = "without any more faults it never comes to rest"
AT_REST = "at rest "
LAST_WORD = "After CANCELLED, LOST or REVOKED has left"
TOMBSTONE = "a tombstone is for ever"
RECLAIMED = PhoneStep(core.Cancelled(), (P.SETTLE, P.RETURN_TOKEN))
OVERWRITTEN = CompanionStep(core.HandoffStored(), (C.STORE_GRANT, C.ERASE_KEY, C.SEND_STORED))
OVER = (core.NoHandoff, core.Ready)

MUTANTS = (
    Mutant(
        "the phone takes a released token back by itself",
        Rules(strategy="move", phone_step=_phone("cancel", core.Released, lambda state: RECLAIMED)),
        "A chain has at most one holder",
    ),
    Mutant(
        "a receipt that crosses CANCEL gives the token back",
        Rules(strategy="move", phone_step=_phone("stored", core.Cancelling, lambda state: RECLAIMED)),
        "A chain has at most one holder",
    ),
    Mutant(
        "CANCELLED does not give a moved token back",
        Rules(strategy="move", phone_step=_phone_without("cancelled", P.RETURN_TOKEN)),
        "at rest ",
    ),
    Mutant(
        "LOST is ignored",
        Rules(phone_step=_phone("lost", (core.Released, core.Cancelling, core.Done), PhoneStep)),
        REST,
    ),
    Mutant("REVOKED is ignored", Rules(phone_step=_phone("revoked", core.Revoking, PhoneStep)), REST),
    Mutant(
        "CANCEL is forgotten once the token is released",
        Rules(phone_step=_phone("cancel", core.Released, lambda state: PhoneStep(core.Cancelled(), (P.SETTLE,)))),
        AT_REST,
    ),
    Mutant(
        "a cancelled handoff keeps asking",
        Rules(phone_step=_phone_without("cancelled", P.SETTLE)),
        "A handoff that is over has no open request",
    ),
    Mutant(
        "RELEASED without TOKEN in the outbox",
        Rules(phone_step=_phone_without("sealed", P.SEND_TOKEN)),
        AT_REST,
    ),
    Mutant(
        "no tombstone in NONE",
        Rules(
            companion_step=_companion("cancel", core.NoHandoff, lambda state: CompanionStep(state, (C.SEND_CANCELLED,)))
        ),
        LAST_WORD,
    ),
    Mutant(
        "no tombstone in READY",
        Rules(companion_step=_companion("cancel", core.Ready, lambda state: CompanionStep(state, (C.SEND_CANCELLED,)))),
        LAST_WORD,
    ),
    Mutant(
        "no tombstone after REVOKE",
        Rules(
            companion_step=_companion(
                "revoke",
                (core.NoHandoff, core.Ready, core.HandoffStored),
                lambda state: CompanionStep(core.NoHandoff(), (C.ERASE_GRANT, C.ERASE_KEY, C.SEND_REVOKED)),
            )
        ),
        LAST_WORD,
    ),
    Mutant(
        "a damaged TOKEN leaves READY as it was",
        Rules(companion_step=_companion("bad_token", OVER, lambda state: CompanionStep(state, (C.SEND_LOST,)))),
        LAST_WORD,
    ),
    Mutant(
        "a TOKEN overwrites what is stored",
        Rules(companion_step=_companion("token", core.HandoffStored, lambda state: OVERWRITTEN)),
        "a repeated TOKEN overwrote a stored grant",
    ),
    Mutant(
        "a TOKEN is taken by a dead handoff",
        Rules(companion_step=_companion("token", core.Dead, lambda state: OVERWRITTEN)),
        TOMBSTONE,
    ),
    Mutant(
        "an OFFER wakes a dead handoff",
        Rules(
            companion_step=_companion(
                "offer", core.Dead, lambda state: CompanionStep(core.Ready(), (C.MAKE_KEY, C.SEND_ACCEPT))
            )
        ),
        TOMBSTONE,
    ),
    Mutant(
        "CANCEL after STORED is answered CANCELLED",
        Rules(
            companion_step=_companion(
                "cancel", core.HandoffStored, lambda state: CompanionStep(state, (C.SEND_CANCELLED,))
            )
        ),
        LAST_WORD,
    ),
    Mutant(
        "CANCEL erases what is stored",
        Rules(
            companion_step=_companion(
                "cancel",
                core.HandoffStored,
                lambda state: CompanionStep(core.Dead("cancelled"), (C.ERASE_GRANT, C.SEND_CANCELLED)),
            )
        ),
        "CANCELLED is said only of a grant that was never stored",
    ),
    Mutant(
        "the receipt leaves before the grant is stored",
        Rules(companion_step=_companion("token", core.Ready, lambda state: CompanionStep(state, (C.SEND_STORED,)))),
        "STORED leaves only after the grant is on disk",
    ),
    Mutant("REVOKE keeps the grant", Rules(companion_step=_without("revoke", C.ERASE_GRANT)), LAST_WORD),
    Mutant(
        "the one-time key outlives the grant's arrival",
        Rules(companion_step=_without("token", C.ERASE_KEY)),
        "The one-time key is on disk in READY and nowhere else",
    ),
    Mutant("CLOSED is ignored", Rules(companion_step=_without("closed", C.SETTLE)), REST),
    Mutant(
        "a dead handoff does not answer CANCEL",
        Rules(companion_step=_companion("cancel", core.Dead, lambda state: CompanionStep(state, ()))),
        REST,
    ),
    Mutant(
        "messages leave before the commit",
        Rules(sends_after_commit=False),
        "RELEASED is durable before TOKEN leaves",
    ),
    Mutant(
        "the accepted number is not in the transaction of its effect",
        Rules(keeps_window=False),
        "a number is accepted at most once",
        Budget(duplicates=1),
    ),
)
