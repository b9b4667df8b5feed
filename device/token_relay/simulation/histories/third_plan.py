"""Puts a third end into some plans: a hostile peer is paired and says what it likes between the honest steps. Pure.

Its draws come from a generator of their own, so the rest of a plan is the same with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, get_args

from token_relay.simulation.world.lies import HANDOFF_TYPES, OTHER_TYPES, Role, Whose, wrong_way

if TYPE_CHECKING:
    from token_relay.simulation.histories.plan import Plan, Step

SHARE = 0.12  # of all plans: such a history takes twice the time of another
MESSAGES = (8, 24)
NUMBERS = ("next", "same", "old", "jump")
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


def _steps(plan: Plan, role: Role, random: Random, new_step: type[Step]) -> list[Step]:
    ends_s = max((step.at_s for step in plan.steps), default=10.0)
    busy = [step.at_s for step in plan.steps if step.act in ("hand_off", "cancel", "revoke", "token", "unpair")]
    phones, watches = _names("phone", plan.phones), _names("watch", plan.companions)
    found: list[Step] = []

    def add(at_s: float, act: str, end: str = "", *args: str | int | float) -> None:
        found.append(new_step(round(max(at_s, 0.0), 3), f"third_{act}", end, args))

    def moment(busy_at: Sequence[float] = busy) -> float:
        if busy_at and random.random() < 0.7:
            return random.choice(busy_at) + random.uniform(-0.2, 3.0)
        return random.uniform(5.0, ends_s + 30.0)

    for peer in watches if role == "phone" else phones:
        if random.random() < 0.8 or not found:
            add(random.uniform(0.5, 4.0), "befriend", peer, random.choice(NAMES))
    mine: list[float] = []
    if role == "companion":
        for _ in range(random.choice((1, 1, 2, 3))):
            at_s = moment()
            mine.append(at_s)
            add(at_s, "give", random.choice(phones))
            if random.random() < 0.4:
                act = random.choice(("cancel", "revoke", "revoke", "forget", "unpair"))
                add(at_s + random.choice((0.1, 1.0, 5.0, 60.0)), act, random.choice(phones))
    else:
        for _ in range(random.choice((1, 2, 3))):
            at_s = random.uniform(5.0, ends_s)
            mine.append(at_s)
            add(at_s, "say", "", "OFFER", "unknown", "next", 0)
        for _ in range(random.choice((1, 2, 4))):
            add(random.uniform(6.0, ends_s + 40.0), "ask", random.choice(watches), random.choice(("", "account")))
    for _ in range(random.randint(*MESSAGES)):
        kinds = random.choices((HANDOFF_TYPES[role], OTHER_TYPES[role], wrong_way(role)), (90, 5, 5))[0]
        whose = random.choices(get_args(Whose), (35, 35, 20, 10))[0]
        number = random.choices(NUMBERS, (90, 3, 3, 4))[0]
        at_s = moment(mine if whose == "own" and random.random() < 0.5 else busy)
        add(at_s, "say", "", random.choice(kinds), whose, number, int(random.random() < 0.5))
    return found


def _names(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}{number}" for number in range(1, count + 1)]
