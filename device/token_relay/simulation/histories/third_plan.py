"""Puts a third end into some plans: a hostile peer is paired and says what it likes between the honest steps. Pure.

Its draws come from a generator of their own, so the rest of a plan is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import get_args

from token_relay.simulation.histories.step import Step
from token_relay.simulation.lies import HANDOFF_TYPES, OTHER_TYPES, Role, Whose, wrong_way

SHARE = 0.1  # of all plans: such a history takes twice the time of another
MESSAGES: dict[Role, tuple[int, int]] = {"phone": (8, 20), "companion": (4, 14)}
NUMBERS = ("next", "same", "old", "jump")
SAID_THERE: tuple[Whose, ...] = ("own", *("other",) * 4, *("own",) * 4)  # any of its own may settle the handoff
NAMES = ("third", "third", "name", "short", "id")  # as it is shown: its own name, or that of another device


@dataclass(frozen=True, slots=True)
class ThirdPart:
    """A hostile device's part in a plan: what it is paired as, how often it answers as it should, its steps."""

    role: Role
    manners: float
    has_latency: bool
    steps: tuple[Step, ...]


def third_part(seed: int, honest: Sequence[Step], *, phones: Sequence[str], watches: Sequence[str]) -> ThirdPart | None:
    """Return the third end's part beside these honest steps, in some seeds."""
    rng = Random(f"third {seed}")  # noqa: S311  # a reproducible draw, no secret
    if rng.random() >= SHARE:
        return None
    role = rng.choice(get_args(Role))
    steps = _steps(role, rng, honest, phones, watches)
    return ThirdPart(role, rng.choice((0.3, 0.8, 1.0)), rng.random() < 0.5, tuple(steps))


@dataclass(slots=True)
class _ThirdDraft:
    """The steps of a third end in the making."""

    role: Role
    rng: Random
    steps: list[Step] = field(default_factory=list)

    def add(self, at_s: float, act: str, end: str = "", *args: str | int | float, is_fault: bool = False) -> None:
        """Add a step of everybody's."""
        self.steps.append(Step(round(max(at_s, 0.0), 3), act, end, args, is_fault))

    def third(self, at_s: float, act: str, end: str = "", *args: str | int | float) -> None:
        """Add a step of the third end, or of people and apps about it."""
        self.add(at_s, f"third_{act}", end, *args)

    def say(self, at_s: float, kind: str, whose: Whose) -> None:
        """Have it say something."""
        number = self.rng.choices(NUMBERS, (90, 3, 3, 4))[0]
        self.third(at_s, "say", "", kind, whose, number, int(self.rng.random() < 0.5))


def _steps(
    role: Role, rng: Random, honest: Sequence[Step], phones: Sequence[str], watches: Sequence[str]
) -> list[Step]:
    draft = _ThirdDraft(role, rng)
    ends_s = max((step.at_s for step in honest), default=10.0)
    busy = [step.at_s for step in honest if step.act in ("hand_off", "cancel", "revoke", "token", "unpair")]
    for peer in watches if role == "phone" else phones:
        if rng.random() < 0.8 or not draft.steps:
            draft.third(rng.uniform(0.5, 4.0), "befriend", peer, rng.choice(NAMES))

    def moment() -> float:
        if busy and rng.random() < 0.7:
            return rng.choice(busy) + rng.uniform(-0.2, 3.0)
        return rng.uniform(5.0, ends_s + 30.0)

    if role == "companion":
        for _ in range(rng.choice((0, 1, 2))):
            phone, at_s = rng.choice(phones), moment()
            draft.third(at_s, "give", phone)
            if rng.random() < 0.4:
                act = rng.choice(("cancel", "revoke", "revoke", "forget", "unpair"))
                draft.third(at_s + rng.choice((0.1, 1.0, 5.0, 60.0)), act, phone)
        for number in range(1, rng.choice((2, 3))):
            at_s = number * rng.uniform(6.0, ends_s + 60.0)
            _in_the_middle(draft, rng.choice(phones), rng.choice(watches), at_s)
    else:
        for _ in range(rng.choice((1, 2, 3))):
            draft.third(rng.uniform(5.0, ends_s), "say", "", "OFFER", "unknown", "next", 0)
        for _ in range(rng.choice((1, 2, 4))):
            at_s, by = rng.uniform(6.0, ends_s + 40.0), rng.choice(("", "account", "issuer", "phone"))
            draft.third(at_s, "ask", rng.choice(watches), by)
    for _ in range(rng.randint(*MESSAGES[role])):
        kinds = rng.choices((HANDOFF_TYPES[role], OTHER_TYPES[role], wrong_way(role)), (90, 5, 5))[0]
        draft.say(moment(), rng.choice(kinds), rng.choices(get_args(Whose), (35, 35, 20, 10))[0])
    return draft.steps


def _in_the_middle(draft: _ThirdDraft, phone: str, watch: str, at_s: float) -> None:
    """Hand off to an honest and a hostile device at once, stop both at the same place, and let the hostile one speak.

    The places are passed in a moment otherwise, so its messages would seldom meet them.
    """
    rng = draft.rng
    until_s = at_s + rng.uniform(20.0, 40.0)
    place = rng.choice(("silent", "silent", "no token", "no receipt"))
    match place:
        case "silent":
            draft.add(at_s - 0.1, "cut", watch, "both", is_fault=True)
            draft.add(until_s, "heal", watch)
            draft.third(at_s - 0.1, "mute")
            draft.third(until_s, "unmute")
        case "no token":  # the OFFER needs the provider's discovery: only what comes after ACCEPT must fail
            for endpoint in ("token", "sign-in"):
                draft.add(at_s - 0.1, "http", phone, "not_sent", 9, 0, 0.0, 0, endpoint, is_fault=True)
            draft.add(until_s, "http_heal", phone)
        case _:
            draft.add(at_s - 0.1, "withhold", "", "STORED", is_fault=True)
            draft.add(until_s, "release")
    if place != "silent":
        draft.third(at_s - 0.1, "attend")
    draft.add(at_s, "hand_off", phone, watch, "")
    draft.third(at_s, "give", phone)
    if place == "silent" and (act := rng.choice(("", "cancel", "revoke"))):
        draft.add(at_s + 2.0, act, phone, watch)
        draft.third(at_s + 2.0, act, phone)
    kinds = list(HANDOFF_TYPES[draft.role])
    for whose in SAID_THERE:
        at_s += 0.7
        draft.say(at_s + 2.0, rng.choice(kinds), whose)
