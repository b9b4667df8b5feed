"""Promise 15: what comes by one pairing never changes, hides, spends or erases what came by another.

The cause of a commit is the message whose number it accepts; so honest pairings are judged like hostile ones. Every row
of another peer must be as before. Excepted: the primary phone's ROLLBACK; a disk that was really put back; at a phone,
its own grant where the person has asked to *move* it to that peer, and the lock that follows a claim of rollback.

``strangers`` are the hostile devices. What an app gets, where a companion sends requests and whom a command reaches are
judged against them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from token_relay.agents.grants.serving import is_lease_over, normalise_scope, remaining_s
from token_relay.agents.ports import Record
from token_relay.agents.records import (
    CachedToken,
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    PrimaryPhone,
    Seen,
)
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol import messages as m
from token_relay.provider.http import HttpRequest
from token_relay.simulation.lies import HANDOFF_TYPES, OTHER_TYPES, Role, is_endpoint_of
from token_relay.simulation.observer import Tables
from token_relay.simulation.promises.coverage import Pair
from token_relay.simulation.promises.ledger import Check, Ledger, rows

KEPT: tuple[type[Record], ...] = (Pairing, Outgoing, PhoneHandoff, CompanionHandoff, Grant, CachedToken)
LIVES_S = 60.0  # a token that lives so long must be given out, whatever else is on the disk


@dataclass(frozen=True, slots=True)
class _Commit:
    """A commit and the pairing whose message it has accepted."""

    end: str
    by: Pairing
    before: Tables
    after: Tables

    def owner(self, row: Any) -> str:
        """Return the pairing by which a row came; empty for what is the device's own."""
        if not isinstance(row, CachedToken):
            return str(row.pairing_id)
        grant = rows(self.before, Grant).get((row.grant_id,)) or rows(self.after, Grant).get((row.grant_id,))
        return grant.pairing_id if grant is not None else ""

    def peer(self, pairing_id: str) -> str:
        """Return the device at the other end of a pairing."""
        known = rows(self.before, Pairing).get((pairing_id,)) or rows(self.after, Pairing).get((pairing_id,))
        return known.peer_id if known is not None else ""

    def moves(self, grant: Grant) -> bool:
        """Whether the person has asked to move this grant to the sender."""
        asked = (grant.grant_id, self.by.pairing_id, "move")
        handoffs = rows(self.before, PhoneHandoff).values()
        return any((it.grant_id, it.pairing_id, it.strategy) == asked for it in handoffs)


class OthersUntouched(Check):
    """15. Compares, at each commit that accepts a message, all rows of every other peer."""

    number = 15
    title = "what comes by one pairing leaves alone what came by another"
    tables = (*KEPT, Seen)

    def __init__(self, ledger: Ledger, read: Callable[[bytes], m.Message | None]) -> None:
        super().__init__(ledger)
        self.read = read
        self.met: Counter[Pair] = Counter()
        self._came: dict[tuple[str, str, int], str] = {}  # what a message was, for the text of a violation
        self._issuers: dict[str, set[tuple[str, str]]] = {}  # of each end: issuer and endpoint of every grant ever

    # -- what a message changes ------------------------------------------------------------------------

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Find the message that is the cause of this commit, and what it did to the rows of others."""
        for _, pairing in self.ledger.changed(before, after, Pairing):
            if pairing is not None and pairing.peer_id in self.ledger.strangers:
                self.ledger.strange.add(pairing.pairing_id)
        if self.ledger.strange:
            endpoints = self._issuers.setdefault(end, set())
            for _, grant in self.ledger.changed(before, after, Grant):
                if grant is not None and grant.pairing_id:
                    endpoints |= {(grant.issuer, url) for url in (grant.token_endpoint, grant.revocation_endpoint)}
        for _, seen in self.ledger.changed(before, after, Seen):
            if seen is not None and (by := rows(before, Pairing).get((seen.pairing_id,))) is not None:
                self._compare(_Commit(end, by, before, after), seen.seq)
                return

    def _compare(self, commit: _Commit, seq: int) -> None:
        said = self._came.get((commit.end, commit.by.pairing_id, seq), "a message")
        for record in KEPT:
            for was, row in self.ledger.changed(commit.before, commit.after, record):
                owner = commit.owner(was or row)
                if owner != commit.by.pairing_id and commit.peer(owner) != commit.by.peer_id:
                    is_right = any(self._excuses(commit, was, row))
                    self.hold(is_right, commit.end, f"{said} of {commit.by.peer_name} changed {_spell(was, row)}")
        self.ledger.checks[self.number] += 1

    def _excuses(self, commit: _Commit, was: Any, row: Any) -> Iterator[bool]:
        is_primary = commit.end.startswith("watch") and primary_of(commit.before) == commit.by.peer_id
        yield (is_primary or commit.end in self.ledger.ever_restored) and _is_lock(was, row)
        if isinstance(was, Grant) and not was.pairing_id:
            yield commit.moves(was) or _is_lock(was, row)
        if isinstance(was, CachedToken) and (grant := rows(commit.before, Grant).get((was.grant_id,))) is not None:
            yield not grant.pairing_id and commit.moves(grant)

    # -- what is hidden --------------------------------------------------------------------------------

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        """A grant answers for the phone that brought it, and takes no living token of another out of sight."""
        tables = self.ledger.tables.get(end, {})
        if self.ledger.strange.isdisjoint(key[0] for key in rows(tables, Pairing)):
            return
        wanted = {phone or primary_of(tables) for phone in query.phones}
        if isinstance(answer, TokenGranted):
            for token in rows(tables, CachedToken).values():
                if token.access_token == answer.access_token:
                    grant = rows(tables, Grant)[token.grant_id,]
                    by = rows(tables, Pairing).get((grant.pairing_id,))
                    is_kept = by is None or by.peer_id in wanted
                    self.hold(is_kept, end, f"an app got a token of {grant.grant_id[:8]}, another phone's grant")
            return
        if query.claims or query.force_refresh or answer.error in ("denied", "busy", "refused"):
            return
        asked = [grant for grant in _grants_of(tables, wanted - self.ledger.strangers) if _fits(grant, query)]
        people = {(grant.issuer, grant.client_id, grant.subject) for grant in asked}
        hidden = next((grant for grant in asked if self._lives(end, tables, grant, query)), None)
        seen = f"an app got {answer.error!r} although grant {hidden.grant_id[:8] if hidden else ''} has a living token"
        self.hold(hidden is None or len(people) > 1, end, seen)

    def _lives(self, end: str, tables: Tables, grant: Grant, query: TokenQuery) -> bool:
        now = self.ledger.clock_of(end)
        token = rows(tables, CachedToken).get((grant.grant_id, normalise_scope(query.scope)))
        if now is None or token is None or grant.state != "held" or is_lease_over(grant, now):
            return False
        return remaining_s(token, now) > max(LIVES_S, query.min_valid_s)

    def named(self, end: str, spelled: str, wanted: str, reached: str, refusal: str) -> None:
        """A command reaches the device that is meant or is refused, and never refused with the whole id."""
        is_right = reached == wanted or (not reached and spelled != wanted)
        self.hold(is_right, end, f"{spelled!r} is {wanted[:6]} and reached {reached[:6] or refusal!r}")

    # -- where requests go -----------------------------------------------------------------------------

    def requested(self, end: str, request: HttpRequest) -> None:
        """A companion sends only where the rule for endpoints lets it."""
        if not (known := self._issuers.get(end)):
            return
        is_endpoint = any(url == request.url and is_endpoint_of(url, issuer) for issuer, url in known)
        is_lookup = request.form is None and any(is_endpoint_of(request.url, issuer) for issuer, _ in known)
        self.hold(is_endpoint or is_lookup, end, f"a request went to {request.url}")

    # -- what was reached ------------------------------------------------------------------------------

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        """Note a stranger's message with the state of the row that it meets, and whose id it names."""
        tables = self.ledger.tables.get(end, {})
        if self.ledger.strange.isdisjoint(key[0] for key in rows(tables, Pairing)):
            return
        message = self.read(payload)
        if message is None or message.head.pairing_id not in self.ledger.strange:
            return
        kind, pairing_id = message.head.type, message.head.pairing_id
        self._came[end, pairing_id, message.head.seq] = kind
        role: Role = "phone" if end.startswith("watch") else "companion"
        for handoff_id in _ids_of(message.body) if kind in HANDOFF_TYPES[role] else ("",):
            place = whose_row(tables, role, pairing_id, handoff_id)
            place = place if kind in HANDOFF_TYPES[role] else "any" if kind in OTHER_TYPES[role] else "wrong_way"
            self.met[f"third_{role}", place, kind] += 1


def primary_of(tables: Tables) -> str:
    """Return the phone that answers for a companion where none is named; it was chosen when it was the only one."""
    return next((chosen.peer_id for chosen in rows(tables, PrimaryPhone).values()), "")


def whose_row(tables: Tables, role: Role, pairing_id: str, handoff_id: str) -> str:
    """Return whose id this is on that disk and the state of its row, such as ``other:stored``."""
    record: type[CompanionHandoff | PhoneHandoff] = CompanionHandoff if role == "phone" else PhoneHandoff
    own = "unknown:none"
    for row in rows(tables, record).values():
        if row.handoff_id == handoff_id:
            is_accepted = (row.state, row.reason) == ("offered", "accepted")
            state = "accepted" if is_accepted else row.state
            if row.pairing_id != pairing_id:
                return f"other:{state}"
            own = f"own:{state}"
    grant = rows(tables, Grant).get((handoff_id,))
    if grant is not None:
        return "grant:live" if grant.refresh_token is not None else "grant:dead"
    return own


def _ids_of(body: m.Body) -> tuple[str, ...]:
    match body:
        case m.Hello(handoffs=reports):
            return tuple(report.handoff_id for report in reports)
        case m.Lease(handoffs=terms):
            return tuple(term.handoff_id for term in terms)
        case _:
            return (getattr(body, "handoff_id", None) or "",)


def _grants_of(tables: Tables, phones: Set[str]) -> Iterator[Grant]:
    for grant in rows(tables, Grant).values():
        by = rows(tables, Pairing).get((grant.pairing_id,))
        is_present = grant.state != "dead" or grant.reason in ("denied", "damaged")  # nobody wanted its end
        if by is not None and by.peer_id in phones and is_present:
            yield grant


def _fits(grant: Grant, query: TokenQuery) -> bool:
    is_meant = not query.account or query.account in (grant.account, grant.subject)
    is_meant = is_meant and query.issuer in ("", grant.issuer) and query.audience in ("", grant.audience)
    return is_meant and set(query.scope.split()) <= set(grant.scope.split())


def _is_lock(was: Any, row: Any) -> bool:
    """Whether this is what an end does that takes its own disk for an older image."""
    match row:
        case Grant(state="locked", reason="rollback"):
            return isinstance(was, Grant) and row.refresh_token == was.refresh_token
        case CompanionHandoff(state="dead", reason="replaced") | PhoneHandoff(state="gone", reason="rollback"):
            return True
        case _:
            return isinstance(was or row, Outgoing | Pairing)  # what the above has queued and settled


def _spell(was: Any, row: Any) -> str:
    shown = row or was
    names = [name for name in shown.__slots__ if was is None or row is None or getattr(was, name) != getattr(row, name)]
    what = "made" if was is None else "deleted" if row is None else ", ".join(names)
    key = "/".join(str(getattr(shown, name))[:8] for name in shown.key)
    return f"{shown.table} {key} ({getattr(shown, 'state', '')}): {what}"
