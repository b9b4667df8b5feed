"""The life of a stored grant against a provider, small enough to be walked through completely.

The grant's decisions are :mod:`token_relay.agents.grants.lifecycle`'s. The provider is a dozen lines: which token
values still work, and until when. A token value is its number in the chain. Time goes in steps of 20 s, so a leeway of
30 s is two steps. A crash may find the request at home, on its way, processed, or answered; the clock of the next boot
is not synced, so nobody knows how long the power was off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from token_relay.agents.grants import lifecycle as core
from token_relay.agents.ports import Now
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile

STEP_S = 20
STEPS_MAX = 4
ACCESS_TOKEN_STEPS = 2
CHAIN_MAX = 4
FINAL = Denied("final", "invalid_grant")
UNKNOWN = OutcomeUnknown("timeout")
BUSY = Unavailable("too many requests")

Begin = Callable[..., core.Begin | core.Wait | core.Stop]
Settle = Callable[[core.Refreshing, TokenOutcome, Profile], core.GrantState]


class Faults(NamedTuple):
    """What may still go wrong."""

    crashes: int
    losses: int
    refusals: int  # 429 and the like: certainly not processed


class Life(NamedTuple):
    """The companion's disk and memory, the provider, and what an observer knows."""

    faults: Faults
    grant: core.GrantState = core.Held(1)
    token: int = 1  # on disk
    access_ends: int = 0  # step at which the newest access token ends
    boot: int = 0
    step: int = 0
    request: int = 0  # the value on its way to the provider, 0 when none
    answer: int = -1  # -1: none on its way, 0: denied, else the new value
    valid: tuple[tuple[int, int], ...] = ((1, 99),)  # (value, step after which it is dead)
    is_family_dead: bool = False
    reuses: int = 0
    went_wrong: bool = False


def successors(life: Life, profile: Profile, begin: Begin, settle: Settle) -> Iterator[tuple[str, Life]]:
    """Yield everything that may happen next."""
    now = Now(f"boot{life.boot}", float(life.step * STEP_S), 0.0, is_synced=False)
    is_waiting = life.request or life.answer >= 0
    if life.step < STEPS_MAX:
        yield "time passes", life._replace(step=life.step + 1)
    if not is_waiting and life.token < CHAIN_MAX:
        ends = (life.access_ends - life.step) * STEP_S
        decision = begin(life.grant, profile, now, access_token_ends_in_s=ends if life.access_ends else None)
        begun = life._replace(grant=_folded(decision.state))
        if isinstance(decision, core.Begin):
            yield "refreshes", begun._replace(request=life.token)
            if life.faults.crashes:
                yield "begins, and the power goes before it sends", _rebooted(begun)
        elif begun != life:
            yield f"looks at it: {type(decision).__name__}", begun
    if life.request:
        yield "the provider processes the request", _processed(life, profile)
        if life.faults.losses:
            yield "the request is lost", _settled(_lost(life), UNKNOWN, profile, settle)
        if life.faults.refusals:
            left = life.faults._replace(refusals=life.faults.refusals - 1)
            yield "the provider is busy", _settled(life._replace(faults=left), BUSY, profile, settle)
    if life.answer >= 0:
        yield "the answer arrives", _settled(life, _outcome(life.answer), profile, settle)
        if life.faults.losses:
            yield "the answer is lost", _settled(_lost(life), UNKNOWN, profile, settle)
    if is_waiting and life.faults.crashes:
        yield "the power goes", _rebooted(life)


def _folded(state: core.GrantState) -> core.GrantState:
    """Two attempts are as good as many: only whether there was more than one decides anything."""
    if isinstance(state, core.Refreshing) and state.intent.attempts > 2:
        return replace(state, intent=replace(state.intent, attempts=2))
    return state


def _lost(life: Life) -> Life:
    return life._replace(faults=life.faults._replace(losses=life.faults.losses - 1), went_wrong=True)


def _rebooted(life: Life) -> Life:
    left = life.faults._replace(crashes=life.faults.crashes - 1)
    return life._replace(faults=left, boot=life.boot + 1, request=0, answer=-1, went_wrong=True)


def _processed(life: Life, profile: Profile) -> Life:
    value, life = life.request, life._replace(request=0)
    until = dict(life.valid).get(value, -1)
    if life.is_family_dead or life.step >= until:
        is_dead = life.is_family_dead or profile.reuse_takes != "nothing"
        return life._replace(answer=0, is_family_dead=is_dead, reuses=life.reuses + 1)
    new = max(number for number, _ in life.valid) + 1
    valid = dict(life.valid)
    if profile.old_token_s is not None:
        leeway_ends = life.step + int(-(-profile.old_token_s // STEP_S))
        valid = {number: min(ends, leeway_ends) for number, ends in valid.items()}
    valid[new] = 99
    return life._replace(answer=new, valid=tuple(sorted(valid.items())))


def _outcome(answer: int) -> TokenOutcome:
    if not answer:
        return FINAL
    return Refreshed(RefreshToken(str(answer)), AccessToken("access"), "Bearer", 40.0, "")


def _settled(life: Life, outcome: TokenOutcome, profile: Profile, settle: Settle) -> Life:
    assert isinstance(life.grant, core.Refreshing)
    life = life._replace(grant=settle(life.grant, outcome, profile), request=0, answer=-1)
    match outcome:
        case Refreshed(refresh_token=RefreshToken() as token):
            return life._replace(token=int(token.reveal()), access_ends=life.step + ACCESS_TOKEN_STEPS)
        case _:
            return life


def broken(life: Life, profile: Profile) -> str:
    """Name the law that this state breaks, or return an empty string."""
    if life.reuses and not life.went_wrong:
        return "reuse is seen only after a crash or a lost answer"
    if not profile.invalidates_on_use and not isinstance(life.grant, core.Held | core.Refreshing):
        return "a provider that does not invalidate never ends a grant by a lost answer"
    # What leaves inside the leeway may arrive after it: that one attempt is nobody's mistake.
    if life.reuses > core.LATE_ATTEMPTS_MAX + profile.has_leeway:
        return "a value that may be burnt is sent once more, and not again"
    if life.reuses and profile.reuse_kills_access_tokens and life.step < life.access_ends:
        return "no risky attempt while the cached access token works"
    is_quiet = not life.request and life.answer < 0
    is_good = not life.is_family_dead and life.step < dict(life.valid)[life.token]
    if isinstance(life.grant, core.Held) and is_quiet and not is_good:
        return "HELD means that the token on disk works"
    if isinstance(life.grant, core.Erased) and life.went_wrong:
        return "after a lost answer a denial does not count as the provider's word"
    if isinstance(life.grant, core.NeedsHandoff) and not life.went_wrong:
        return "a grant is given up only after something went wrong"
    return ""


class Walk(NamedTuple):
    """What a walk came to."""

    lives: frozenset[Life]
    law: str = ""
    way: tuple[str, ...] = ()


def walk(
    profile: Profile, faults: Faults, *, begin: Begin = core.begin_refresh, settle: Settle = core.settle_refresh
) -> Walk:
    """Walk through every reachable life, or to the first that breaks a law."""
    first = Life(faults)
    came_by: dict[Life, tuple[Life, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        life = queue.popleft()
        if law := broken(life, profile):
            way = []
            while (before := came_by[life]) is not None:
                life, what = before
                way.append(what)
            return Walk(frozenset(came_by), law, tuple(reversed(way)))
        for what, after in successors(life, profile, begin, settle):
            if after not in came_by:
                came_by[after] = (life, what)
                queue.append(after)
    return Walk(frozenset(came_by))
