"""What a run of kills means: where each kill is aimed, where it hit, and whether what followed is as promised. Pure.

Where a kill hit is not what was aimed at. It is read afterwards from two witnesses that know nothing of each other:
the provider's events (the last token request before the kill, and how it ended) and the victim's disk (the generation
of its grant before the kill and after). A commit is *unstored* when the provider made one refresh token more than
the disk has. The disk also says whether the intent is still open: a request of a killed agent has lost its answer
(``refreshing``), while a page came whole and is written down (``uncertain``).

The promises, by profile:

* no open intent: nothing is lost, anywhere, and the provider sees no reuse;
* ``entra``, ``auth0``: nothing is lost: the old token repairs it, the victim being back inside the leeway;
* ``strict``, an answer lost: nobody knows whether the value is spent, and sending it again could end the other agent's
  grant, so it is sealed; the provider sees no reuse, the status says what to do, and doing it once heals it;
* ``strict``, a page: the value is sent once more a minute later. If the provider had not committed, all is well; if it
  had, it sees that one reuse and ends the grant, which is healed as above.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias, get_args

Profile: TypeAlias = Literal["entra", "auth0", "strict"]
Victim: TypeAlias = Literal["companion", "phone"]
Aim: TypeAlias = Literal["random", "asked", "request", "before_commit", "after_commit", "answer", "page"]
Hit: TypeAlias = Literal["idle", "intent", "before_commit", "after_commit", "after_answer", "page"]

PROFILES: tuple[Profile, ...] = ("entra", "auth0", "strict")
IN_WINDOW: frozenset[Hit] = frozenset({"before_commit", "after_commit", "after_answer"})
WINDOW_SHARE_MIN = 0.3  # of all kills; with fewer a run has shown little

# How often each aim is drawn. ``random`` waits a while and kills blindly; ``asked`` kills shortly after an app has
# asked, ``request`` after the provider has received something; the next two while the provider holds the request;
# ``answer`` when it has just let go; ``page`` when a page has come in place of the answer. In ``strict`` that takes a
# minute, so it is drawn less often there.
WEIGHTS: Mapping[Aim, int] = {
    "random": 30,
    "asked": 20,
    "request": 20,
    "before_commit": 40,
    "after_commit": 40,
    "answer": 30,
    "page": 20,
}
STRICT_PAGE_WEIGHT = 10
PAGES = ("error_500", "error_502", "error_503", "html")
PAGE_S_MAX = 0.3
RANDOM_S_MAX = 2.0  # one or two lifetimes of an access token
ASKED_S_MAX = 0.03
REQUEST_S_MAX = 0.02
ANSWER_S_MAX = 0.006  # from the answer until it is on the disk takes 3 to 5 ms
_DELAYS_S_MAX: Mapping[Aim, float] = {
    "random": RANDOM_S_MAX,
    "asked": ASKED_S_MAX,
    "request": REQUEST_S_MAX,
    "answer": ANSWER_S_MAX,
    "page": PAGE_S_MAX,
}


@dataclass(frozen=True, slots=True)
class Shot:
    """One kill as it is planned: ``delay_s`` counts from the moment that the aim names.

    ``page`` is the provider's fault for the aim of that name, ``is_committed`` whether the page comes after the commit.
    """

    aim: Aim
    delay_s: float
    page: str = ""
    is_committed: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill and what came of it.

    ``state`` and ``generation_*`` are the grant's on the disk, ``plain`` says whether the status told what to do.
    """

    profile: Profile
    victim: Victim
    aim: Aim
    hit: Hit
    state: str
    committed: bool
    unstored: int
    generation_before: int
    generation_after: int
    lost: bool
    reuses: int
    plain: bool
    healings: int
    back_s: float


@dataclass(frozen=True, slots=True)
class Watched:
    """A token request that the provider has seen, and how it ended: ``open``, ``lost``, ``committed``, ``answered``."""

    trace_id: str
    end: Literal["open", "request_lost", "refused", "answer_lost", "answered"]
    is_committed: bool


@dataclass(slots=True)
class Tally:
    """All kills of a run, and the sentences that say what was not as promised."""

    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, kill: Kill) -> None:
        self.kills.append(kill)
        self.problems += [f"kill {len(self.kills)}: {why}: {kill}" for why in faults_of(kill)]

    @property
    def window_share(self) -> float:
        hits = sum(kill.hit in IN_WINDOW for kill in self.kills)
        return hits / len(self.kills) if self.kills else 0.0

    def verdict(self) -> list[str]:
        """Return what was not as promised; empty when all of it was."""
        found = list(self.problems)
        if not self.kills:
            found.append("nothing was killed")
        elif self.window_share < WINDOW_SHARE_MIN:
            found.append(f"only {self.window_share:.0%} of the kills hit the refresh window: at least 30 % are wanted")
        return found


def draw(random: Random, profile: Profile) -> Shot:
    """Return the next shot."""
    weights = {**WEIGHTS, "page": STRICT_PAGE_WEIGHT} if profile == "strict" else WEIGHTS
    (aim,) = random.choices(list(weights), list(weights.values()))
    delay_s = random.uniform(0.0, _DELAYS_S_MAX.get(aim, 0.0))
    return Shot(aim, delay_s, random.choice(PAGES), random.random() < 0.5) if aim == "page" else Shot(aim, delay_s)


def watched(events: Iterable[Mapping[str, Any]]) -> list[Watched]:
    """Return the refresh requests in a stretch of the provider's events, in order."""
    found: dict[str, Watched] = {}
    for event in events:
        trace_id, kind = str(event.get("trace_id", "")), event["kind"]
        if kind == "token_request_received" and event.get("grant_type") == "refresh_token":
            found[trace_id] = Watched(trace_id, "open", False)
        elif (one := found.get(trace_id)) is None:
            continue
        elif kind == "refresh_committed":
            found[trace_id] = Watched(trace_id, one.end, True)
        elif kind in ("request_lost", "answer_lost"):
            found[trace_id] = Watched(trace_id, kind, one.is_committed)
        elif kind == "token_request_answered":
            found[trace_id] = Watched(trace_id, "answered" if one.is_committed else "refused", one.is_committed)
    return list(found.values())


def hit_of(requests: Sequence[Watched], *, unstored: int, state: str) -> Hit:
    """Return where a kill hit; ``state`` is the grant's on the disk."""
    last = requests[-1] if requests else None
    if state == "uncertain":
        return "page"
    if unstored and state == "refreshing":
        return "after_answer" if last is not None and last.end == "answered" else "after_commit"
    if state != "refreshing":
        return "idle"
    return "before_commit" if last is not None and not last.is_committed else "intent"


def faults_of(kill: Kill) -> list[str]:
    """Return what this kill shows that was promised not to happen."""
    found = []
    # Inside a leeway a page is followed by another request before the kill, which may have committed too.
    if not 0 <= kill.unstored <= 1 + (kill.aim == "page" and kill.profile != "strict"):
        found.append(f"{kill.unstored} commits are not on the disk, one request at a time was promised")
    is_strict, is_cut = kill.profile == "strict", kill.state == "refreshing"
    is_burnt = is_strict and not is_cut and kill.unstored == 1
    may_be_lost = is_strict and (is_cut or is_burnt)
    if kill.lost and not may_be_lost:
        found.append("a grant was lost")
    if may_be_lost and not kill.lost:
        found.append("a value that may be burnt was sent again, or a burnt one worked")
    if kill.reuses != int(is_burnt):
        found.append(f"the provider saw {kill.reuses} reuses, {int(is_burnt)} were due")
    if kill.lost and not kill.plain:
        found.append("the status did not say what to do")
    if kill.healings != int(kill.lost):
        found.append(f"{kill.healings} healings")
    return found


def summary(kills: Sequence[Kill]) -> dict[str, Any]:
    """Return the figures of some kills as one flat object."""
    hits = Counter(kill.hit for kill in kills)
    backs = sorted(kill.back_s for kill in kills)
    return {
        "kills": len(kills),
        "in_window": sum(kill.hit in IN_WINDOW for kill in kills),
        "hits": {name: hits[name] for name in get_args(Hit)},
        "committed": sum(kill.committed for kill in kills),
        "unstored": sum(kill.unstored for kill in kills),
        "lost": sum(kill.lost for kill in kills),
        "healed": sum(kill.healings for kill in kills),
        "reuses": sum(kill.reuses for kill in kills),
        "back_s_median": round(backs[len(backs) // 2], 2) if backs else 0.0,
        "back_s_max": round(backs[-1], 2) if backs else 0.0,
    }


def report(tally: Tally, *, seed: int, took_s: float) -> dict[str, Any]:
    """Return everything about a run, for ``--json``."""
    groups = sorted({(kill.profile, kill.victim) for kill in tally.kills})
    return {
        "seed": seed,
        "took_s": round(took_s, 1),
        "window_share": round(tally.window_share, 3),
        "problems": tally.verdict(),
        "total": summary(tally.kills),
        "groups": [
            {
                "profile": profile,
                "victim": victim,
                **summary([kill for kill in tally.kills if (kill.profile, kill.victim) == (profile, victim)]),
            }
            for profile, victim in groups
        ],
        "kills": [asdict(kill) for kill in tally.kills],
    }
