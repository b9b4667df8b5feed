"""Which (state x event) pairs of the protocol's machines a run has reached, and which it must reach.

The machines stay as they are: while :func:`watching` is open, the agents call them through a wrapper that notes the
pair. Pairs that are unreachable by design are listed here with the reason, and so are pairs that are too rare to be
required. ``make simulate`` fails when it never reaches another pair (its plans are too tame), or when it reaches a pair
that is listed as unreachable (the reason is wrong).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import token_relay.agents.companion.steps as companion_steps
import token_relay.agents.phone.steps as phone_steps
from token_relay.agents.grants import lifecycle
from token_relay.protocol import handoff
from token_relay.provider.outcome import Came, DenialKind, Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.simulation.lies import HANDOFF_TYPES, OTHER_TYPES, Role, wrong_way

Pair = tuple[str, str, str]  # machine, state, event

PHONE_STATES = ("new", "offered", "accepted", "released", "done", "cancelling", "cancelled", "revoking", "gone")
COMPANION_STATES = ("none", "ready", "stored", "dead")
GRANT_STATES = ("held", "refreshing", "uncertain", "needs_handoff", "locked", "dead")
OUTCOMES = (
    "refreshed",
    "refreshed without a refresh token",
    *(f"denied {kind}" for kind in get_args(DenialKind)),
    "unavailable",
    *get_args(Came),
)


def _pairs(machine: str, states: str, events: str, reason: str) -> dict[Pair, str]:
    return {(machine, state, event): reason for state in states.split() for event in events.split()}


ILLEGAL: dict[Pair, str] = {
    **_pairs("phone", " ".join(PHONE_STATES[1:]), "offer", "a handoff's id is fresh: it is offered once, in NEW"),
    **_pairs(
        "phone", "new offered released done cancelling cancelled revoking gone", "sealed", "the token follows ACCEPT"
    ),
    **_pairs("phone", "new done cancelling cancelled revoking gone", "cancel", "only what is open is given up, once"),
    **_pairs("phone", "new cancelled", "revoke", "nothing is there to be taken away"),
    **_pairs("phone", "revoking", "revoke", "it is under way"),
    **_pairs(
        "phone", "new offered accepted released cancelling cancelled revoking gone", "superseded", "only DONE can be"
    ),
    **_pairs("companion", "none ready dead", "ended", "only a stored grant can end"),
    **_pairs("companion", "none stored dead", "replaced", "another OFFER replaces what is READY alone"),
}
"""Events of an end's own for which the state is wrong: the step raises, so the caller looks first."""

UNREACHABLE: dict[Pair, str] = {
    **ILLEGAL,
    **_pairs("phone", "new cancelled gone", "forget", "what is not on disk, or over, is not asked to be forgotten"),
    **_pairs("companion", "none stored dead", "token", "only for READY is a TOKEN opened; else it is `bad_token`"),
    **_pairs("grant", "dead", "begin", "its refresh token is erased, and the keeper looks there first"),
}
"""Pairs that are unreachable by design while the ends are honest, including restored ones."""

RARE: dict[Pair, str] = {
    **_pairs(
        "phone",
        "new offered accepted released done cancelled revoking gone",
        "lost reject revoked cancelled",
        "an answer to a request that a restored phone has forgotten, or that came later than the next one",
    ),
    **_pairs("phone", "cancelled", "stored", "cancelled, and only then a restored companion"),
    **_pairs("phone", "cancelling", "revoke", "the person changes their mind before CANCEL is answered"),
    **_pairs(
        "companion", "ready", "bad_token", "sealed to the key of an ACCEPT that a restored companion has forgotten"
    ),
    **_pairs("grant", "locked needs_handoff", "begin", "locked or refused between two attempts of one flight"),
}
"""Legal pairs that are met now and then, not required of ten thousand seeds. `tests/core` has tables with each."""


def every_pair() -> frozenset[Pair]:
    """Return all pairs, reachable or not."""
    pairs: set[Pair] = set()
    pairs.update(("phone", state, event) for state in PHONE_STATES for event in get_args(handoff.PhoneEvent))
    pairs.update(
        ("companion", state, event) for state in COMPANION_STATES for event in get_args(handoff.CompanionEvent)
    )
    pairs.update(third_end_pairs())
    pairs.update(("grant", state, "begin") for state in GRANT_STATES)
    pairs.update(("grant", "refreshing", outcome) for outcome in OUTCOMES)
    return frozenset(pairs)


def third_end_pairs() -> Iterator[Pair]:
    """Yield what a third end of each role must have said: the type, whose id, and the state of the row it met."""
    met: dict[Role, tuple[str, ...]] = {"phone": COMPANION_STATES[1:], "companion": PHONE_STATES[1:]}
    for role, states in met.items():
        places = [f"{whose}:{state}" for whose in ("own", "other") for state in states]
        for place in (*places, "grant:live", "grant:dead", "unknown:none"):
            yield from ((f"third_{role}", place, kind) for kind in HANDOFF_TYPES[role])
        yield from ((f"third_{role}", "any", kind) for kind in OTHER_TYPES[role])
        yield from ((f"third_{role}", "wrong_way", kind) for kind in wrong_way(role))


def missing(reached: Counter[Pair]) -> list[Pair]:
    """Return the required pairs that were not reached."""
    return sorted(every_pair() - set(UNREACHABLE) - set(RARE) - set(reached))


def contradicted(reached: Counter[Pair]) -> list[Pair]:
    """Return the pairs that were reached although they are listed as unreachable."""
    return sorted(set(UNREACHABLE) & set(reached))


@contextmanager
def watching(reached: Counter[Pair]) -> Iterator[None]:
    """Note every pair that the agents meet while this is open."""

    def phone_step(state: handoff.PhoneState, event: handoff.PhoneEvent) -> handoff.PhoneStep:
        reached["phone", phone_name(state), event] += 1
        return handoff.phone_step(state, event)

    def companion_step(state: handoff.CompanionState, event: handoff.CompanionEvent) -> handoff.CompanionStep:
        reached["companion", companion_name(state), event] += 1
        return handoff.companion_step(state, event)

    begin, settle = lifecycle.begin_refresh, lifecycle.settle_refresh

    def begin_refresh(state: lifecycle.GrantState, *args: Any, **named: Any) -> Any:
        reached["grant", _grant_name(state), "begin"] += 1
        return begin(state, *args, **named)

    def settle_refresh(state: lifecycle.Refreshing, outcome: TokenOutcome, *args: Any) -> lifecycle.GrantState:
        reached["grant", "refreshing", _outcome_name(outcome)] += 1
        return settle(state, outcome, *args)

    wrapped: list[tuple[Any, str, Callable[..., Any]]] = [
        (phone_steps, "phone_step", phone_step),
        (companion_steps, "companion_step", companion_step),
        (lifecycle, "begin_refresh", begin_refresh),
        (lifecycle, "settle_refresh", settle_refresh),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in wrapped]
    for module, name, function in wrapped:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def phone_name(state: handoff.PhoneState) -> str:
    return "accepted" if state == handoff.Offered(is_accepted=True) else type(state).__name__.lower()


def companion_name(state: handoff.CompanionState) -> str:
    match state:
        case handoff.NoHandoff():
            return "none"
        case handoff.HandoffStored():
            return "stored"
        case _:
            return type(state).__name__.lower()


def _grant_name(state: lifecycle.GrantState) -> str:
    return "needs_handoff" if isinstance(state, lifecycle.NeedsHandoff) else type(state).__name__.lower()


def _outcome_name(outcome: TokenOutcome) -> str:
    match outcome:
        case Refreshed(refresh_token=None):
            return "refreshed without a refresh token"
        case Refreshed():
            return "refreshed"
        case Denied(kind=kind):
            return f"denied {kind}"
        case Unavailable():
            return "unavailable"
        case OutcomeUnknown(came=came):
            return came
