"""The life of a stored grant against a provider, small enough to be walked through completely.

The grant's decisions are :mod:`token_relay.agents.grants.lifecycle`'s. The provider is a dozen lines: which token
values still work, until when, and what ends when a spent one is used again; where that is not known, all that could.
Another device has a grant of the same person and session, a *sibling*, unless the grant is said to be held alone. A
token value is its number in the chain. Time goes in steps of 30 s, so a leeway is one step. A crash may find the
request at home, on its way, processed, or answered; the clock of the next boot is not synced, so nobody knows how long
the power was off. A page may come in place of the provider's answer, or of the request. A request takes a step at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle as core
from token_relay.agents.ports import Now
from token_relay.protocol.secret import AccessToken, RefreshToken
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable
from token_relay.provider.profile import Profile

STEP_S = 30
STEPS_MAX = 6
ACCESS_TOKEN_STEPS = 3
CHAIN_MAX = 3
LOOKS_MAX = 20  # of a grant with which nothing goes wrong any more
NEVER = Stamp("boot0", 0.0, 0.0, is_synced=False)
FINAL = Denied("final", "invalid_grant")
CLIENT = Denied("client", "invalid_client")
LOST = OutcomeUnknown("timeout")
PAGE = OutcomeUnknown("503 text/html", "page")
BUSY = Unavailable("too many requests")

Begin = Callable[..., core.Begin | core.Wait | core.Stop]
Settle = Callable[[core.Refreshing, TokenOutcome, Profile], core.GrantState]


class Faults(NamedTuple):
    """What may still go wrong."""

    crashes: int
    losses: int
    pages: int  # a whole answer without a verdict, before or after the commit
    refusals: int  # of the client, or 429: certainly not processed


class Rules(NamedTuple):
    """One world: the provider, whether there is a sibling, and the decisions."""

    profile: Profile
    holds_alone: bool = False
    begin: Begin = core.begin_refresh
    settle: Settle = core.settle_refresh

    @property
    def reaches_sibling(self) -> bool:
        """Whether a spent value that is used again ends the sibling, for all that the device can know."""
        return not self.holds_alone and self.profile.reuse_takes in ("session", "user", "unknown")


class Open(NamedTuple):
    """What an observer knows of the uses of the value on disk that have no verdict."""

    first: tuple[int, int]  # boot and step of the first
    last: tuple[int, int]
    late: int = 0  # requests after the leeway
    is_lost: bool = False  # one of them has brought no whole answer
    is_over: bool = False  # the first request has ended: another is sent *again*


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
    is_sibling_dead: bool = False
    reuses: int = 0
    went_wrong: bool = False
    open: Open | None = None
    is_denied: bool = False
    wrong: str = ""  # a law that the last step broke


def successors(life: Life, rules: Rules) -> Iterator[tuple[str, Life]]:
    """Yield everything that may happen next."""
    is_waiting = life.request or life.answer >= 0
    is_in_time = not is_waiting or (life.open is not None and life.step == life.open.last[1])
    if life.step < STEPS_MAX and is_in_time:
        yield "time passes", life._replace(step=life.step + 1)
    if not is_waiting and life.token < CHAIN_MAX:
        decision = _decided(life, rules)
        if isinstance(decision, core.Begin):
            begun = life._replace(grant=_folded(decision.state, rules))
            yield "refreshes", _sent(begun, rules)
            if life.faults.crashes:
                yield "begins, and the power goes before it sends", _rebooted(_sent(begun, rules))
        elif decision.state != life.grant:
            yield f"looks at it: {type(decision).__name__}", life._replace(grant=decision.state)
    if life.request:
        yield "the provider processes the request", _processed(life, rules)
        if life.faults.losses:
            yield "the request is lost", _settled(_less(life, losses=1), LOST, rules)
        if life.faults.pages:
            yield "a page comes, and the provider has seen nothing", _settled(_less(life, pages=1), PAGE, rules)
        if life.faults.refusals:
            yield "the provider is busy", _settled(_less(life, refusals=1), BUSY, rules)
            yield "the client is refused", _settled(_less(life, refusals=1), CLIENT, rules)
    if life.answer >= 0:
        yield "the answer arrives", _settled(life, _outcome(life.answer), rules)
        if life.faults.losses:
            yield "the answer is lost", _settled(_less(life, losses=1), LOST, rules)
        if life.faults.pages:
            yield "a page comes in place of the answer", _settled(_less(life, pages=1), PAGE, rules)
    if is_waiting and life.faults.crashes:
        yield "the power goes", _rebooted(life)


def _decided(life: Life, rules: Rules) -> core.Begin | core.Wait | core.Stop:
    now = Now(f"boot{life.boot}", float(life.step * STEP_S), 0.0, is_synced=False)
    ends_in_s = (life.access_ends - life.step) * STEP_S if life.access_ends else None
    return rules.begin(life.grant, rules.profile, now, access_token_ends_in_s=ends_in_s, holds_alone=rules.holds_alone)


def _folded(state: core.Refreshing, rules: Rules) -> core.Refreshing:
    """Leave out what decides nothing: how many attempts there were; where nothing is spent, when."""
    intent = replace(state.intent, attempts=1)
    if not rules.profile.invalidates_on_use:
        intent = replace(intent, started=NEVER, sent=NEVER)
    return replace(state, intent=intent)


def _sent(life: Life, rules: Rules) -> Life:
    """Send the value on disk; judge by what the observer knows whether it may be sent again."""
    profile, here, known = rules.profile, (life.boot, life.step), life.open
    life = life._replace(request=life.token)
    if known is None or not known.is_over:
        return life._replace(open=Open(here, here))
    elapsed_s = (life.step - known.first[1]) * STEP_S if known.first[0] == life.boot else None
    is_inside = bool(profile.old_token_s) and elapsed_s is not None and elapsed_s < (profile.old_token_s or 0)
    if not profile.invalidates_on_use or is_inside:
        return life._replace(open=known._replace(last=here))  # as often as it likes
    wrong = ""
    if known.is_lost and rules.reaches_sibling:
        wrong = "after a lost answer a value is not sent again where that could end the sibling"
    elif life.step < life.access_ends:
        wrong = "a value that may be spent is not sent before the access token has ended"
    elif known.last[0] == life.boot and (life.step - known.last[1]) * STEP_S < min(60 * 2**known.late, 3600):
        wrong = "late tries keep their pace"
    return life._replace(open=known._replace(last=here, late=known.late + 1), wrong=wrong)


def _less(life: Life, **spent: int) -> Life:
    left = life.faults._replace(**{name: getattr(life.faults, name) - count for name, count in spent.items()})
    return life._replace(faults=left, went_wrong=True)


def _rebooted(life: Life) -> Life:
    known = life.open
    known = known._replace(is_lost=True, is_over=True) if known is not None else None
    return _less(life, crashes=1)._replace(boot=life.boot + 1, request=0, answer=-1, open=known)


def _processed(life: Life, rules: Rules) -> Life:
    value, profile, life = life.request, rules.profile, life._replace(request=0)
    if life.is_family_dead or life.step >= dict(life.valid).get(value, -1):
        takes = profile.reuse_takes
        is_beyond = rules.reaches_sibling
        return life._replace(
            answer=0,
            is_family_dead=life.is_family_dead or takes != "nothing",
            is_sibling_dead=life.is_sibling_dead or is_beyond,
            reuses=life.reuses + 1,
        )
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
    return Refreshed(RefreshToken(str(answer)), AccessToken("access"), "Bearer", 90.0, "")


def _settled(life: Life, outcome: TokenOutcome, rules: Rules) -> Life:
    assert isinstance(life.grant, core.Refreshing) and life.open is not None
    known: Open | None = life.open
    match outcome:
        case OutcomeUnknown(came=came):
            known = life.open._replace(is_over=True, is_lost=life.open.is_lost or came == "lost")
        case Refreshed() | Denied(kind="final"):
            known = None
        case _:
            known = life.open if life.open.is_over else None  # not processed: as before
    after = rules.settle(life.grant, outcome, rules.profile)
    life = life._replace(grant=after, request=0, answer=-1, open=known)
    life = life._replace(is_denied=life.is_denied or outcome is FINAL)
    match outcome:
        case Refreshed(refresh_token=RefreshToken() as token):
            return life._replace(token=int(token.reveal()), access_ends=life.step + ACCESS_TOKEN_STEPS)
        case _:
            return life


def broken(life: Life, rules: Rules) -> str:
    """Name the law that this state breaks, or return an empty string."""
    profile = rules.profile
    if life.wrong:
        return life.wrong
    if isinstance(life.grant, core.Erased) and not life.is_denied:
        return "only a verdict of the provider erases"
    if not core.keeps_refresh_token(life.grant) and not life.is_denied:
        return "only a verdict of the provider erases"
    if life.reuses and not life.went_wrong:
        return "reuse is seen only after a crash, a lost answer or a page"
    is_sealed = isinstance(life.grant, core.NeedsHandoff) and life.grant.reason == "uncertain"
    if is_sealed and not profile.invalidates_on_use:
        return "a provider that does not invalidate never ends a grant by a lost answer"
    if is_sealed and not (life.open is not None and life.open.is_lost):
        return "a grant is given up only after an answer was lost"
    is_quiet = not life.request and life.answer < 0
    is_good = not life.is_family_dead and life.step < dict(life.valid)[life.token]
    if isinstance(life.grant, core.Held) and is_quiet and not is_good:
        return "HELD means that the token on disk works"
    if is_quiet and life.step == STEPS_MAX and not _comes_to_an_end(life, rules):
        return "when nothing more goes wrong a verdict comes, or the handoff that replaces it"
    return ""


def _comes_to_an_end(life: Life, rules: Rules) -> bool:
    """Whether a grant comes to rest when all that is sent is processed and answered, and waits are waited out."""
    may_seal = life.open is not None and life.open.is_lost
    for _ in range(LOOKS_MAX):
        if isinstance(life.grant, core.Held | core.Erased):
            return True
        match _decided(life, rules):
            case core.Stop(state):
                return may_seal and state == core.NeedsHandoff(life.grant.generation, "uncertain")
            case core.Wait(state, seconds):
                life = life._replace(grant=state, step=life.step + max(1, int(-(-seconds // STEP_S))))
            case core.Begin(state):
                processed = _processed(_sent(life._replace(grant=state), rules), rules)
                life = _settled(processed, _outcome(processed.answer), rules)
                if life.wrong:
                    return False
    return False


class Walk(NamedTuple):
    """What a walk came to."""

    lives: frozenset[Life]
    law: str = ""
    way: tuple[str, ...] = ()


def walk(rules: Rules, faults: Faults) -> Walk:
    """Walk through every reachable life, or to the first that breaks a law."""
    first = Life(faults)
    came_by: dict[Life, tuple[Life, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        life = queue.popleft()
        if law := broken(life, rules):
            way = []
            while (before := came_by[life]) is not None:
                life, what = before
                way.append(what)
            return Walk(frozenset(came_by), law, tuple(reversed(way)))
        for what, after in successors(life, rules):
            if after not in came_by:
                came_by[after] = (life, what)
                queue.append(after)
    return Walk(frozenset(came_by))
