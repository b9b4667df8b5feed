"""Makes a plan from a seed: its devices, what people and apps do, what goes wrong and when. Pure.

A plan is a list of steps in order of time. It is made of *blocks*: a handoff with faults, a time of ordinary use (apps
ask for tokens, hours to weeks pass), an ending (revoked, lost, replaced). Faults are drawn for a block and placed at
the moment with the most effect: a request's fault before the request, a power cut at a commit of the handoff, a cut
link in the middle of it. So every kind of fault meets every state, and nearly every plan has its handoff, its three
refreshes and its two faults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypeAlias

from token_relay.protocol.handoff import Strategy
from token_relay.provider.profile import PROFILES
from token_relay.sandbox.provider.world.rules import KINDS, Kind
from token_relay.simulation.histories.step import Step
from token_relay.simulation.histories.third_plan import ThirdPart, third_part
from token_relay.simulation.ports.http_faults import PAGES

HOUR_S = 3_600.0
DAY_S = 86_400.0
NAMES: tuple[Kind, ...] = tuple(KINDS)
FAULTS_MIN = 2  # with fewer a schedule does not count
Pace: TypeAlias = Literal["minutes", "hours", "weeks"]
PACES: Mapping[Pace, int] = {"minutes": 919, "hours": 80, "weeks": 1}  # of 1 000 plans; long ones cost most
PAUSES_S = ((61.0, 120.0), (1_800.0, 5_000.0), (4_000.0, 20_000.0), (DAY_S, 4 * DAY_S), (20 * DAY_S, 46 * DAY_S))
PAUSE_WEIGHTS: Mapping[Pace, tuple[int, ...]] = {
    "minutes": (95, 5, 0, 0, 0),
    "hours": (40, 42, 18, 0, 0),
    "weeks": (25, 20, 20, 30, 5),
}
HTTP_FAULTS = ("not_sent", "lost_before", "lost_after", "page", "429", "slow", "cut_json")
ENDPOINTS = ("", "token", "token", "sign-in", "revoke", "openid-configuration")  # a URL's end; "": whichever is next
KINDS_OF_ANSWER = ("ACCEPT", "CANCELLED", "REVOKED", "LOST", "STORED", "REJECT", "CLOSED", "TOKEN", "OFFER")
ENTRA_FAULTS = ("person", "locked_out", "no_refresh_token")


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule."""

    seed: int
    kind: Kind
    phones: int
    companions: int
    lease_days: int
    has_latency: bool
    pairs_live: bool
    settles_long: bool
    steps: tuple[Step, ...]
    third: ThirdPart | None = None

    @property
    def fault_kinds(self) -> tuple[str, ...]:
        """Return the kinds of its faults."""
        return tuple(_kind(step) for step in self.steps if step.is_fault)


@dataclass(slots=True)
class _Draft:
    """A plan in the making."""

    rng: Random
    kind: Kind
    phones: list[str]
    companions: list[str]
    steps: list[Step] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    pace: Pace = "minutes"
    has_latency: bool = False
    now_s: float = 10.0

    def add(self, at_s: float, act: str, end: str = "", *args: str | int | float, is_fault: bool = False) -> None:
        """Add a step."""
        self.steps.append(Step(round(max(at_s, 0.0), 3), act, end, args, is_fault))

    def some_end(self) -> str:
        """Draw a device."""
        return self.rng.choice(self.phones + self.companions)

    def moment(self, span_s: float) -> float:
        """Draw a moment of the block that begins now, a little before it included."""
        return self.now_s + self.rng.uniform(-0.5, span_s)


def make_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    rng = Random(f"plan {seed}")  # noqa: S311  # a reproducible draw, no secret
    phones = rng.choices((1, 2), (94, 6))[0]
    companions = rng.choices((1, 2), (91, 9))[0]
    kind = rng.choice(NAMES)
    draft = _Draft(rng, kind, _names("phone", phones), _names("watch", companions))
    draft.has_latency = rng.random() < 0.2
    draft.pace = rng.choices(list(PACES), list(PACES.values()))[0]
    lease_days = rng.choices((90, 0, 1, 3, 30), (60, 10, 10, 10, 10))[0]
    if rng.random() < 0.0005:
        _withheld(draft)
    else:
        for _ in range(rng.choices((1, 2, 3), (93, 6, 1))[0]):
            _handoff(draft)
            _life(draft)
            if rng.random() < 0.2:
                _ending(draft)
    third = third_part(seed, draft.steps, phones=draft.phones, watches=draft.companions)
    steps = [*draft.steps, *third.steps] if third is not None else draft.steps
    return Plan(
        seed,
        kind,
        phones,
        companions,
        lease_days,
        has_latency=draft.has_latency or (third is not None and third.has_latency),
        pairs_live=rng.random() < 0.05,
        settles_long=rng.random() < 0.02,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
        third=third,
    )


def _names(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}{number}" for number in range(1, count + 1)]


# -- Blocks ------------------------------------------------------------------------------------------------


def _handoff(draft: _Draft) -> None:
    """A handoff, with faults and people in the middle of it."""
    rng = draft.rng
    phone, watch = rng.choice(draft.phones), rng.choice(draft.companions)
    strategies: tuple[Strategy, ...] = PROFILES[KINDS[draft.kind].client].strategies
    strategy = rng.choices(strategies, (60, 25, 15)[: len(strategies)])[0]
    span_s = rng.choice((0.2, 3.0, 30.0, 600.0))
    for _ in range(rng.choices((0, 1, 2, 3), (20, 45, 25, 10))[0]):
        _fault(draft, span_s, near=(phone, watch))
    draft.add(draft.now_s, "hand_off", phone, watch, strategy)
    if rng.random() < 0.25:
        act = rng.choices(
            ("cancel", "revoke", "pair", "hand_off", "forget", "sign_out", "sign_in", "lose", "erase", "unpair"),
            (25, 15, 12, 15, 5, 5, 5, 3, 5, 5),
        )[0]
        at_s = draft.moment(span_s)
        if rng.random() < 0.6:  # while its messages are under way, which takes a second or two then
            at_s = draft.now_s + rng.uniform(0.0, 2.0)
            draft.has_latency = True
        _person(draft, act, at_s, (phone, watch), strategy)
        if act == "cancel" and rng.random() < 0.2:  # and gives the device up before it has answered
            _person(draft, "forget", at_s + rng.uniform(0.05, 0.5), (phone, watch), "")
    if rng.random() < 0.25:  # the person tries again: mint wants them twice when the device was away
        draft.add(draft.now_s + span_s + rng.uniform(5.0, 900.0), "hand_off", phone, watch, strategy)
    draft.now_s += span_s + 1_000.0 + (HOUR_S if draft.pace != "minutes" and rng.random() < 0.5 else 0.0)


def _life(draft: _Draft) -> None:
    """Apps ask, time passes, requests fail."""
    rng = draft.rng
    for _ in range(rng.choice((2, 2, 3))):
        end = rng.choice(draft.companions) if rng.random() < 0.85 else rng.choice(draft.phones)
        if rng.random() < 0.3 or sum(step.is_fault for step in draft.steps) < FAULTS_MIN:
            _fault(draft, 20.0, near=(end,))
        for other in sorted({end, *(draft.companions if rng.random() < 0.2 else ())}):
            is_forced = rng.random() < 0.9
            uid = rng.choices((0, 1000, 1001), (86, 7, 7))[0]
            draft.add(draft.now_s, "token", other, "force" if is_forced else "", uid)
        low_s, high_s = rng.choices(PAUSES_S, PAUSE_WEIGHTS[draft.pace])[0]
        draft.now_s += rng.uniform(low_s, high_s)


def _ending(draft: _Draft) -> None:
    """Something final, and what comes after."""
    rng = draft.rng
    phone, watch = rng.choice(draft.phones), rng.choice(draft.companions)
    act = rng.choices(
        ("revoke", "lose", "forget", "erase", "unpair", "provider_revokes", "sign_out", "pair", "hand_off"),
        (30, 8, 8, 10, 8, 12, 8, 8, 8),
    )[0]
    if rng.random() < 0.6:
        _fault(draft, 10.0, near=(phone, watch))
    if rng.random() < 0.4:
        draft.add(draft.now_s - 0.05, "token", watch, "force", 0)  # a refresh is under way when it comes
    _person(draft, act, draft.now_s, (phone, watch), "")
    if act == "revoke" and rng.random() < 0.2:
        draft.add(draft.now_s + 15.0, "forget", phone, watch)  # revoke --lost, and the device is given up
    draft.now_s += rng.choice((5.0, 100.0, 2 * HOUR_S, 2 * DAY_S if draft.pace == "weeks" else HOUR_S))
    draft.add(draft.now_s, "token", watch, "", 0)
    if rng.random() < 0.5:
        draft.now_s += 10.0
        draft.add(draft.now_s, "sign_in", phone)
        draft.add(draft.now_s + 5.0, "hand_off", phone, watch, "")
        draft.now_s += 100.0


def _withheld(draft: _Draft) -> None:
    """A broker that withholds REVOKE and delivers the rest for 60 days; the lease is what ends it."""
    rng = draft.rng
    phone, watch = draft.phones[0], draft.companions[0]
    _handoff(draft)
    for _ in range(3):
        draft.add(draft.now_s, "token", watch, "force", 0)
        draft.now_s += rng.uniform(100.0, 40_000.0)
    draft.add(draft.now_s - 1.0, "withhold", "", "REVOKE", is_fault=True)
    draft.add(draft.now_s, "revoke", phone, watch)
    ends_s = draft.now_s + 60 * DAY_S
    while draft.now_s < ends_s:
        draft.now_s += rng.uniform(2 * DAY_S, 9 * DAY_S)
        draft.add(draft.now_s, "token", watch, "force", 0)
        if rng.random() < 0.3:
            draft.add(draft.now_s + 1.0, "cut", watch, "both", is_fault=True)
            draft.add(draft.now_s + rng.uniform(2.0, DAY_S), "heal", watch)
    draft.add(ends_s, "release")


def _person(draft: _Draft, act: str, at_s: float, pair: tuple[str, str], strategy: str) -> None:
    """Add a person's command to the draft."""
    phone, watch = pair
    match act:
        case "lose":
            if len(draft.lost) < len(draft.companions) - 1 or draft.rng.random() < 0.5:
                draft.add(at_s, "lose", watch)
                draft.lost.add(watch)
        case "erase":
            draft.add(at_s, "erase", watch, draft.rng.choice(("grants", "pairings")))
        case "provider_revokes":
            draft.add(at_s, "provider_revokes", "", is_fault=True)
        case "sign_in" | "sign_out":
            draft.add(at_s, act, phone)
        case "hand_off":
            other = draft.rng.choice(draft.companions)
            draft.add(at_s, "hand_off", phone, other, strategy)
        case _:
            draft.add(at_s, act, phone, watch)


# -- Faults ------------------------------------------------------------------------------------------------


def _fault(draft: _Draft, span_s: float, *, near: tuple[str, ...]) -> None:
    make = draft.rng.choices([make for make, _ in _FAULTS], [weight for _, weight in _FAULTS])[0]
    end = draft.rng.choice(near) if draft.rng.random() < 0.85 else draft.some_end()
    make(draft, end, span_s)


def _for_a_while(draft: _Draft, at_s: float, span_s: float) -> float:
    """Draw when a fault that lasts is over."""
    return at_s + draft.rng.choices((0.5, 5.0, span_s, 300.0, 3 * HOUR_S), (24, 24, 24, 24, 4))[0] * draft.rng.uniform(
        0.3, 1.0
    )


def _cut(draft: _Draft, end: str, span_s: float) -> None:
    at_s = draft.moment(span_s)
    draft.add(at_s, "cut", end, draft.rng.choice(("both", "both", "out", "in")), is_fault=True)
    draft.add(_for_a_while(draft, at_s, span_s), "heal", end)


def _noise(draft: _Draft, end: str, span_s: float) -> None:
    at_s = draft.moment(0.0)
    what = draft.rng.choice(("loss", "duplicate", "reorder", "delay"))
    draft.add(at_s, "noise", end, what, round(draft.rng.uniform(0.1, 0.7), 2), is_fault=True)
    draft.add(_for_a_while(draft, at_s, 10 * span_s), "calm_link", end)


def _broker(draft: _Draft, end: str, span_s: float) -> None:
    at_s = draft.moment(span_s)
    what = draft.rng.choice(("broker_forgets", "broker_lies", "broker_down", "withhold", "replay", "replay"))
    match what:
        case "broker_lies":
            draft.add(at_s, "broker_lies", "", round(draft.rng.uniform(0.2, 1.0), 2), is_fault=True)
            draft.add(_for_a_while(draft, at_s, span_s), "broker_honest")
        case "broker_down":
            draft.add(at_s, "broker_down", is_fault=True)
            draft.add(_for_a_while(draft, at_s, span_s), "broker_up")
        case "withhold":
            kinds = (
                "OFFER",
                "ACCEPT",
                "TOKEN",
                "STORED",
                "CLOSED",
                "CANCEL",
                "CANCELLED",
                "REVOKE",
                "REVOKED",
                "RENEW",
            )
            draft.add(at_s, "withhold", "", draft.rng.choice((*kinds, "HELLO", "LEASE", "ROLLBACK")), is_fault=True)
            draft.add(_for_a_while(draft, at_s, 10 * span_s), "release")
        case "replay":
            draft.add(at_s, "replay", "", draft.rng.randint(1, 12), draft.rng.random(), is_fault=True)
        case _:
            draft.add(at_s, what, is_fault=True)


def _rewind(draft: _Draft, end: str, span_s: float) -> None:
    """An end is put back to a moment ago while answers to what it has forgotten are still under way."""
    rng = draft.rng
    at_s = draft.moment(span_s)
    draft.add(at_s, "image", end)
    draft.add(at_s + 0.01, "withhold", "", rng.choice(KINDS_OF_ANSWER), is_fault=True)
    at_s += rng.uniform(0.3, min(span_s, 30.0) + 3.0)
    if rng.random() < 0.4:
        draft.add(at_s - 0.1, rng.choice(("cancel", "revoke")), draft.phones[0], draft.companions[0])
    draft.add(at_s, "restore", end, is_fault=True)
    draft.add(at_s + rng.choice((0.0, 0.2, 3.0, 30.0)), "release")


def _provider(draft: _Draft, end: str, span_s: float) -> None:
    at_s = draft.now_s - 0.2 if draft.rng.random() < 0.7 else draft.moment(span_s)
    if draft.rng.random() < 0.08:
        kind = draft.rng.choice(("unknown_client", "refused_scope", *(ENTRA_FAULTS if draft.kind == "entra" else ())))
        draft.add(at_s, "http", end, kind, 1, 0, 0.0, 0, "token", is_fault=True)
        return
    kind = draft.rng.choices(HTTP_FAULTS, (6, 10, 25, 30, 6, 10, 8))[0]
    is_page = kind == "page"
    kind = draft.rng.choice(tuple(PAGES)) if is_page else kind
    times = draft.rng.choices((1, 2, 3, 12), (68, 20, 9, 3 if is_page else 0))[0]
    # 429 says "not processed" and is believed: a provider that commits and says so is beyond help
    committed = int(is_page and draft.rng.random() < 0.5)
    seconds = draft.rng.choice((1.0, 10.0, 28.0, 45.0)) if kind == "slow" else 0.0
    wait_s = draft.rng.choice((0, 0, 5, 120))
    path = draft.rng.choice(ENDPOINTS)  # a sign-in may make four requests: the last one may leave an orphan
    draft.add(at_s, "http", end, kind, times, committed, seconds, wait_s, path, is_fault=True)


def _unreachable(draft: _Draft, end: str, span_s: float) -> None:
    at_s = draft.moment(0.0)
    draft.add(at_s, "http_cut", end, is_fault=True)
    draft.add(_for_a_while(draft, at_s, span_s), "http_heal", end)


def _crash(draft: _Draft, end: str, span_s: float) -> None:
    """Power goes at a commit, or at a moment; it comes back after a while."""
    rng = draft.rng
    at_s = draft.now_s - 0.1 if rng.random() < 0.7 else draft.moment(span_s)
    if rng.random() < 0.25:
        draft.add(at_s - 0.01, "lose_at_crash", end, rng.randint(1, 4), is_fault=True)
    if rng.random() < 0.8:
        draft.add(at_s, "crash_at", end, rng.randint(1, 8), rng.choice(("before", "after")), is_fault=True)
    else:
        draft.add(draft.moment(span_s), "crash", end, is_fault=True)
    draft.add(_for_a_while(draft, at_s + 1.0, span_s), "start", end)


def _disk(draft: _Draft, end: str, span_s: float) -> None:
    rng = draft.rng
    at_s = draft.now_s - 0.1
    what = rng.choices(("full", "fail_next", "restore", "tear"), (30, 40, 25, 5))[0]
    match what:
        case "full":
            draft.add(at_s, "full", end, is_fault=True)
            draft.add(_for_a_while(draft, at_s, span_s), "room", end)
        case "fail_next":
            draft.add(at_s, "fail_next", end, rng.randint(1, 3), is_fault=True)
        case "restore":
            draft.add(rng.uniform(0.0, draft.now_s), "image", end)
            draft.add(draft.moment(span_s) + 2.0, "restore", end, is_fault=True)
        case _:
            draft.add(draft.moment(span_s), "tear", end, is_fault=True)


def _clock(draft: _Draft, end: str, span_s: float) -> None:
    rng = draft.rng
    at_s = draft.moment(span_s)
    what = rng.choices(("jump", "clock_stop", "year_1970", "suspend"), (30, 15, 25, 30))[0]
    match what:
        case "jump":
            jump_s = rng.choice((-1.0, 1.0)) * rng.choice((60.0, HOUR_S, DAY_S, 40 * DAY_S))
            draft.add(at_s, "jump", end, jump_s, is_fault=True)
        case "suspend":
            draft.add(
                at_s,
                "suspend",
                end,
                rng.choices((20.0, 400.0, 9_000.0, 2 * DAY_S), (35, 40, 20, 5))[0],
                is_fault=True,
            )
            return
        case _:
            draft.add(at_s, what, end, is_fault=True)
    draft.add(_for_a_while(draft, at_s, HOUR_S), "sync", end)


_FAULTS: tuple[tuple[Callable[[_Draft, str, float], None], int], ...] = (
    (_cut, 14),
    (_noise, 12),
    (_broker, 14),
    (_provider, 26),
    (_unreachable, 5),
    (_crash, 20),
    (_disk, 9),
    (_clock, 10),
    (_rewind, 8),
)


def _kind(step: Step) -> str:
    """Return the name of a fault for the tally: the act and its kind."""
    detail = step.args[0] if step.args and isinstance(step.args[0], str) else ""
    if step.act == "http" and detail in PAGES:
        return f"commit, then page {detail}" if step.args[2] else f"page {detail}, nothing committed"
    if step.act == "crash_at":
        detail = str(step.args[1])
    return f"{step.act} {detail}".strip()
