"""Puts a third end into some plans: a hostile peer is paired and says what it likes between the honest steps. Pure.

Its draws come from a generator of their own, so the rest of a plan is the same with and without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, get_args

from token_relay.simulation.world.lies import HANDOFF_TYPES, OTHER_TYPES, Role, Whose, wrong_way

if TYPE_CHECKING:
    from token_relay.simulation.histories.plan import Plan, Step

SHARE = 0.1  # of all plans: such a history takes twice the time of another
MESSAGES: dict[Role, tuple[int, int]] = {"phone": (8, 20), "companion": (4, 14)}
NUMBERS = ("next", "same", "old", "jump")
SAID_THERE: tuple[Whose, ...] = ("own", "other", "other", "other", "other", "own", "own")  # an own one may settle it
NAMES = ("third", "third", "name", "short", "id")  # as it is shown: its own name, or that of another device


def with_third_end(plan: Plan, new_step: type[Step]) -> Plan:
    """Return the plan, in some seeds with a third end and its steps."""
    random = Random(f"third {plan.seed}")  # noqa: S311  # a reproducible draw, no secret
    if random.random() >= SHARE:
        return plan
    role = random.choice(get_args(Role))
    steps = [*plan.steps, *_steps(plan, role, random, new_step)]
    return replace(
        plan,
        third=role,
        manners=random.choice((0.3, 0.8, 1.0)),
        has_latency=plan.has_latency or random.random() < 0.5,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
    )


@dataclass(slots=True)
class _Draft:
    """The steps of a third end in the making."""

    plan: Plan
    role: Role
    random: Random
    new_step: type[Step]
    steps: list[Step] = field(default_factory=list)

    def add(self, at_s: float, act: str, end: str = "", *args: str | int | float, is_fault: bool = False) -> None:
        """Add a step of everybody's."""
        self.steps.append(self.new_step(round(max(at_s, 0.0), 3), act, end, args, is_fault))

    def third(self, at_s: float, act: str, end: str = "", *args: str | int | float) -> None:
        """Add a step of the third end, or of people and apps about it."""
        self.add(at_s, f"third_{act}", end, *args)

    def say(self, at_s: float, kind: str, whose: Whose) -> None:
        """Have it say something."""
        number = self.random.choices(NUMBERS, (90, 3, 3, 4))[0]
        self.third(at_s, "say", "", kind, whose, number, int(self.random.random() < 0.5))


def _steps(plan: Plan, role: Role, random: Random, new_step: type[Step]) -> list[Step]:
    draft = _Draft(plan, role, random, new_step)
    ends_s = max((step.at_s for step in plan.steps), default=10.0)
    busy = [step.at_s for step in plan.steps if step.act in ("hand_off", "cancel", "revoke", "token", "unpair")]
    phones, watches = _names("phone", plan.phones), _names("watch", plan.companions)
    for peer in watches if role == "phone" else phones:
        if random.random() < 0.8 or not draft.steps:
            draft.third(random.uniform(0.5, 4.0), "befriend", peer, random.choice(NAMES))

    def moment() -> float:
        if busy and random.random() < 0.7:
            return random.choice(busy) + random.uniform(-0.2, 3.0)
        return random.uniform(5.0, ends_s + 30.0)

    if role == "companion":
        for _ in range(random.choice((0, 1, 2))):
            phone, at_s = random.choice(phones), moment()
            draft.third(at_s, "give", phone)
            if random.random() < 0.4:
                act = random.choice(("cancel", "revoke", "revoke", "forget", "unpair"))
                draft.third(at_s + random.choice((0.1, 1.0, 5.0, 60.0)), act, phone)
        _in_the_middle(draft, random.choice(phones), random.choice(watches), random.uniform(6.0, ends_s + 60.0))
    else:
        for _ in range(random.choice((1, 2, 3))):
            draft.third(random.uniform(5.0, ends_s), "say", "", "OFFER", "unknown", "next", 0)
        for _ in range(random.choice((1, 2, 4))):
            at_s, by = random.uniform(6.0, ends_s + 40.0), random.choice(("", "account"))
            draft.third(at_s, "ask", random.choice(watches), by)
    for _ in range(random.randint(*MESSAGES[role])):
        kinds = random.choices((HANDOFF_TYPES[role], OTHER_TYPES[role], wrong_way(role)), (90, 5, 5))[0]
        draft.say(moment(), random.choice(kinds), random.choices(get_args(Whose), (35, 35, 20, 10))[0])
    return draft.steps


def _in_the_middle(draft: _Draft, phone: str, watch: str, at_s: float) -> None:
    """Hand off to an honest and a hostile device at once, stop both at the same place, and let the hostile one speak.

    The places are passed in a moment otherwise, so its messages would seldom meet them.
    """
    random = draft.random
    until_s = at_s + random.uniform(20.0, 40.0)
    place = random.choice(("silent", "silent", "no provider", "no receipt"))
    match place:
        case "silent":
            draft.add(at_s - 0.1, "cut", watch, "both", is_fault=True)
            draft.add(until_s, "heal", watch)
            draft.third(at_s - 0.1, "mute")
            draft.third(until_s, "unmute")
        case "no provider":
            draft.add(at_s - 0.1, "http_cut", phone, is_fault=True)
            draft.add(until_s, "http_heal", phone)
        case _:
            draft.add(at_s - 0.1, "withhold", "", "STORED", is_fault=True)
            draft.add(until_s, "release")
    draft.add(at_s, "hand_off", phone, watch, "")
    draft.third(at_s, "give", phone)
    if place == "silent" and (act := random.choice(("", "cancel", "revoke"))):
        draft.add(at_s + 2.0, act, phone, watch)
        draft.third(at_s + 2.0, act, phone)
    kinds = list(HANDOFF_TYPES[draft.role])
    for whose in SAID_THERE:
        at_s += 0.7
        draft.say(at_s + 2.0, random.choice(kinds), whose)


def _names(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}{number}" for number in range(1, count + 1)]
