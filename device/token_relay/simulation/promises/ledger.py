"""The knowledge that the checks of a simulated history share: who holds which chain, which uses may be repeated.

It comes only from the primary sources: holders from the durable tables of every end, chains and families from the
provider's own memory and its event log, excuses from the faults of the world. Nothing here asks an agent.

A *link* of a chain is one refresh-token value, named by its family and the generation that the provider gave it. Every
link belongs to one chain: its parent's, except that a token from ``branch`` begins a new chain.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import compress
from operator import is_not
from typing import Any, ClassVar, TypeVar

from token_relay.agents.grants.serving import may_be_sent
from token_relay.agents.ports import Now, Record
from token_relay.agents.records import CompanionHandoff, Grant, PhoneHandoff
from token_relay.protocol.secret import Secret
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.tokens.issued import read_refresh
from token_relay.simulation.observer import Tables

R = TypeVar("R", bound=Record)
Link = tuple[str, int]  # family and generation


class ViolationError(AssertionError):
    """A promise is broken. Its text names the promise, the step, the end, and the observation."""

    def __init__(self, promise: int, title: str, *, step: int, end: str, seen: str) -> None:
        super().__init__(f"promise {promise} ({title}) is broken at step {step}, end {end or 'none'}: {seen}")
        self.promise = promise
        self.end = end
        self.step = step


def rows(tables: Tables, record: type[R]) -> Mapping[tuple[str | int, ...], R]:
    """Return one table; empty when nothing was ever written into it."""
    return tables.get(record, {})  # type: ignore[return-value]  # a mapping by type cannot say so


def changed(before: Tables, after: Tables, record: type[R]) -> Iterator[tuple[R | None, R | None]]:
    """Yield the rows of a table that a commit wrote or deleted, each as (before, after)."""
    old, new = rows(before, record), rows(after, record)
    if old is new:
        return
    # A commit writes few rows of many, and this runs after each: unchanged objects are skipped in C.
    for key, row in compress(new.items(), map(is_not, map(old.get, new), new.values())):
        was = old.get(key)
        if was != row:
            yield was, row
    if not old.keys() <= new.keys():
        for key, row in old.items():
            if key not in new:
                yield row, None


def form_of(request: HttpRequest) -> dict[str, str | Secret[str]]:
    """Return a request's form as a mapping."""
    return dict(request.form or ())


def read_link(provider: State, token: Secret[str]) -> Link | None:
    """Return which link a token is, None when the provider did not issue it."""
    entry = read_refresh(provider.token_key, token.reveal())
    return (entry.family_id, entry.generation) if entry is not None else None


@dataclass(slots=True)
class Use:
    """One token request with one link: its sender, and whether its answer is open, came, or is lost."""

    end: str
    link: Link
    chain: str
    request: HttpRequest
    is_branch: bool
    fate: str = "open"  # open, answered; without a verdict: page, lost


@dataclass(slots=True)
class Ledger:
    """The shared memory of all checks of one history."""

    provider: State | None = None
    clock_of: Callable[[str], Now | None] = lambda end: None
    step: int = 0
    time_s: float = 0.0
    tables: dict[str, Tables] = field(default_factory=dict)
    chains: dict[Link, str] = field(default_factory=dict)
    holdings: dict[str, frozenset[str]] = field(default_factory=dict)  # usable chains, by end
    kept: dict[str, frozenset[str]] = field(default_factory=dict)  # on disk, but not to be used: locked, under way
    doubtful: set[str] = field(default_factory=set)  # restored from an older image, and not yet aware of it
    ever_restored: set[str] = field(default_factory=set)
    uses: list[Use] = field(default_factory=list)
    excused: set[Link] = field(default_factory=set)  # uses that may be repeated: crash or loss inside the intent
    excused_families: set[str] = field(default_factory=set)  # a disk that held one of its links was put back
    given_up: dict[str, str] = field(default_factory=dict)  # chain → why its last holder let it go
    held_ever: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # chain → ends
    forgotten: int = 0  # handoffs that the person gave up, whose rows are deleted since
    strangers: frozenset[str] = frozenset()  # ids of hostile devices
    strange: set[str] = field(default_factory=set)  # their pairings
    checks: Counter[int] = field(default_factory=Counter)
    changes: dict[type[Record], list[tuple[Any, Any]]] = field(default_factory=dict)  # of this commit, found so far
    _links: dict[int, tuple[Secret[str], Link | None]] = field(default_factory=dict)

    # -- what the world says ---------------------------------------------------------------------------

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Follow a commit that wrote records which may hold a token."""
        self.tables[end] = after
        for was, row in self.changed(before, after, PhoneHandoff):
            self.forgotten += was is not None and row is None and was.reason == "forgotten"
        self._hold(end, before, after)

    def restored(self, end: str, tables: Tables) -> None:
        """Follow a disk that was put back; the first call for an end is only its beginning."""
        if end not in self.tables:
            self.tables[end] = tables
            self.changes.clear()
            self._hold(end, {}, tables)
            return
        for held in (self.tables.get(end, {}), tables):
            for row in rows(held, Grant).values():
                if row.refresh_token is not None and (link := self.link_of(row.refresh_token)):
                    self.excused_families.add(link[0])
        self.tables[end] = tables
        self.changes.clear()
        self.doubtful.add(end)
        self.ever_restored.add(end)
        self._hold(end, tables, tables)

    def stopped(self, end: str) -> None:
        """Follow a stop: an open intent may be tried again, and no request of this end is in flight any more."""
        for use in self.uses:
            if use.end == end and use.fate == "open":
                use.fate = "lost"
                self.excused.add(use.link)
        for grant in rows(self.tables.get(end, {}), Grant).values():
            is_open = grant.state in ("refreshing", "uncertain") and grant.refresh_token is not None
            if is_open and grant.refresh_token is not None and (link := self.link_of(grant.refresh_token)):
                self.excused.add(link)

    def requested(self, end: str, request: HttpRequest) -> Use | None:
        """Follow a token request with a refresh token; None for any other request."""
        form = form_of(request)
        token = form.get("refresh_token")
        if form.get("grant_type") != "refresh_token" or not isinstance(token, Secret):
            return None
        link = self.link_of(token) or (f"unknown {len(self.uses)}", 0)  # a stranger's own
        use = Use(end, link, self.chain_of(link), request, self._is_branch(end, token))
        self.uses.append(use)
        return use

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
        """Follow what an end got to know of its request."""
        for use in reversed(self.uses):
            if use.request is request and use.end == end and use.fate == "open":
                use.fate = _fate(answer)
                if use.fate in ("page", "lost"):
                    self.excused.add(use.link)
                return

    def provider_said(self, event: Mapping[str, object]) -> None:
        """Follow the provider: each token that it issues gets its chain."""
        kind, family = event.get("kind"), str(event.get("family", ""))
        if kind == "signed_in":
            self.chains[family, 1] = f"{family}/1"
        elif kind == "refresh_committed":
            generation, used = _number(event, "generation"), _number(event, "used_generation")
            parent = self.chain_of((family, used))
            is_branch = any(use.link == (family, used) and use.is_branch and use.fate == "open" for use in self.uses)
            self.chains[family, generation] = f"{family}/{generation}" if is_branch else parent

    def changed(self, before: Tables, after: Tables, record: type[R]) -> list[tuple[R | None, R | None]]:
        """Return the result of :func:`changed`, which runs once for each commit."""
        found = self.changes.get(record)
        if found is None:
            found = self.changes[record] = list(changed(before, after, record))
        return found

    # -- what the checks ask ---------------------------------------------------------------------------

    def link_of(self, token: Secret[str]) -> Link | None:
        """Return which link a token is, None when the provider does not know it."""
        if self.provider is None:
            return None
        cached = self._links.get(id(token))
        if cached is not None and cached[0] is token:
            return cached[1]
        link = read_link(self.provider, token)
        self._links[id(token)] = (token, link)
        return link

    def chain_of(self, link: Link) -> str:
        """Return the chain of a link."""
        return self.chains.get(link, f"{link[0]}/1")

    def newest(self, chain: str) -> Link | None:
        """Return the newest link of a chain."""
        return max((link for link, name in self.chains.items() if name == chain), default=None, key=lambda it: it[1])

    def broken(self, promise: int, title: str, end: str, seen: str) -> ViolationError:
        """Return the error for a broken promise."""
        return ViolationError(promise, title, step=self.step, end=end, seen=seen)

    # -- holding ---------------------------------------------------------------------------------------

    def _hold(self, end: str, before: Tables, after: Tables) -> None:
        usable: set[str] = set()
        kept: set[str] = set()
        for grant in rows(after, Grant).values():
            if grant.refresh_token is not None and (link := self.link_of(grant.refresh_token)):
                (usable if may_be_sent(grant) else kept).add(self.chain_of(link))
        for row in rows(after, PhoneHandoff).values():
            if row.held_token is not None and (link := self.link_of(row.held_token)):
                # `move`: sealed and sent, the phone may look at it again on CANCELLED alone
                (kept if row.state in ("released", "cancelling", "revoking") else usable).add(self.chain_of(link))
        lost = (self.holdings.get(end, frozenset()) | self.kept.get(end, frozenset())) - usable - kept
        for chain in lost:
            self.given_up[chain] = _why_gone(self, before, after)
        for chain in usable:
            self.held_ever[chain].add(end)
        self.holdings[end] = frozenset(usable)
        self.kept[end] = frozenset(kept)

    def _is_branch(self, end: str, token: Secret[str]) -> bool:
        """Whether the phone uses its own token for the companion: a handoff there is obtaining one."""
        tables = self.tables.get(end, {})
        for row in rows(tables, PhoneHandoff).values():
            if row.is_obtaining and row.strategy == "branch":
                grant = rows(tables, Grant).get((row.grant_id,))
                if grant is not None and grant.refresh_token == token and grant.state == "refreshing":
                    return True
        return False


class Check:
    """One promise. ``number`` and ``title`` name it; a subclass has the observer's methods that it wants to be called.

    Its ``committed`` is called only for commits that wrote one of ``tables``.
    """

    number: ClassVar[int] = 0
    title: ClassVar[str] = ""
    tables: ClassVar[tuple[type[Record], ...]] = ()

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def hold(self, is_kept: bool, end: str, seen: str) -> None:
        """Count one check; raise when the promise is broken."""
        self.ledger.checks[self.number] += 1
        if not is_kept:
            raise self.ledger.broken(self.number, self.title, end, seen)


def stored_here(tables: Tables, pairing_id: str, handoff_id: str) -> CompanionHandoff | None:
    """Return a companion's row of a handoff."""
    return rows(tables, CompanionHandoff).get((pairing_id, handoff_id))


def phone_row(tables: Tables, pairing_id: str, handoff_id: str) -> PhoneHandoff | None:
    """Return a phone's row of a handoff."""
    return rows(tables, PhoneHandoff).get((pairing_id, handoff_id))


def text_of(values: Iterable[str]) -> str:
    """Join names in a stable order."""
    return ", ".join(sorted(values)) or "none"


def _why_gone(ledger: Ledger, before: Tables, after: Tables) -> str:
    """Return the reason in an end's records for a chain that it gave up in this commit; empty without one."""
    reasons = set()
    for was, row in ledger.changed(before, after, Grant):
        if was is not None and was.refresh_token is not None:
            if row is None:
                reasons.add("deleted")
            elif row.refresh_token is None or row.refresh_token != was.refresh_token:
                reasons.add(f"{row.state} {row.reason}".strip())
    for was_handoff, handoff in ledger.changed(before, after, PhoneHandoff):
        if was_handoff is not None and was_handoff.held_token is not None:
            reasons.add(f"handoff {handoff.state} {handoff.reason}".strip() if handoff else "handoff deleted")
    return text_of(reasons) if reasons else ""


def _fate(answer: HttpResponse | NotSent | AnswerLost) -> str:
    """Say whether the sender can know what became of its request."""
    match answer:
        case NotSent() | HttpResponse(status=429):
            return "answered"
        case AnswerLost():
            return "lost"
        case HttpResponse(status=200, body=body):
            return "answered" if body.endswith(b"}") and b'"access_token"' in body else "page"
        case HttpResponse(status=status, body=body):
            return "answered" if 400 <= status < 500 and b'"error"' in body else "page"


def _number(event: Mapping[str, object], name: str) -> int:
    value = event.get(name, 0)
    return value if isinstance(value, int) else 0
