"""Promise 16: a stored grant's refresh token is erased only by a verdict, a person, its successor, or REVOKE.

The cause is never taken from the words of the agent that erases. A verdict is an answer that the world has handed to
this end; a command is one that the world has run; a handoff is the grant that the same transaction stores; REVOKE is
what a phone's own disk says that the phone has asked for; a moved token is on another disk, or sealed on its way there.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from token_relay.agents.grants.serving import profile_of
from token_relay.agents.records import Grant, PhoneHandoff
from token_relay.protocol.secret import Secret
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.simulation.observer import Tables
from token_relay.simulation.promises.ledger import Check, Ledger, Link, form_of, rows

ASKED_AWAY = ("revoking", "cancelling", "gone", "cancelled")
# What Microsoft's list of errors calls the end of a token: expired, over, bad, sign-in frequency, revoked, older than
# the password
FINAL_AT_ENTRA = frozenset({700082, 70008, 700084, 70043, 70000, 50173, 50132, 50133})


class ErasedOnlyByVerdict(Check):
    """16. Looks at each commit in which a grant loses its refresh token, its row, or that value."""

    number = 16
    title = "a stored grant's refresh token is erased only by a verdict, a person, its successor, or REVOKE"
    tables = (Grant, PhoneHandoff)

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.denied: set[tuple[str, Link]] = set()
        self.commands: dict[str, Counter[str]] = defaultdict(Counter)
        self.asked_away: set[tuple[str, str]] = set()  # pairing and handoff, by a phone
        self.proved: set[tuple[str, str]] = set()  # grants that were ever more than a sign-in that is not yet judged

    def commanded(self, end: str, act: str, *, is_over: bool) -> None:
        """Count the commands that run."""
        self.commands[end][act] += -1 if is_over else 1

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
        """Remember a final denial of exactly this value."""
        token = form_of(request).get("refresh_token")
        if isinstance(token, Secret) and isinstance(answer, HttpResponse) and (link := self.ledger.link_of(token)):
            holder = (row for row in self._grants(end) if row.refresh_token == token)
            is_entra = any(profile_of(row).name == "entra" for row in holder)
            if _is_final(answer, is_entra=is_entra):
                self.denied.add((end, link))

    def restored(self, end: str, tables: Tables) -> None:
        """Take the image's sign-ins as what they are there."""
        self.proved = {known for known in self.proved if known[0] != end}
        self._note_proved(end, rows(tables, Grant).values())

    def _note_proved(self, end: str, grants: Iterable[Grant]) -> None:
        self.proved |= {(end, it.grant_id) for it in grants if (it.state, it.reason) != ("locked", "unverified")}

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Find the cause of each loss."""
        for _, asked in self.ledger.changed(before, after, PhoneHandoff):
            if asked is not None and asked.state in ASKED_AWAY:
                self.asked_away.add((asked.pairing_id, asked.handoff_id))
        for was, grant in self.ledger.changed(before, after, Grant):
            self._note_proved(end, [grant] if grant is not None else [])
            if was is None or was.refresh_token is None or was.pairing_id in self.ledger.strange:
                continue
            if grant is not None and grant.refresh_token == was.refresh_token:
                continue
            link = self.ledger.link_of(was.refresh_token)
            what = f"grant {was.grant_id[:8]} ({was.state} {was.reason})"
            if grant is not None and grant.refresh_token is not None:
                new = self.ledger.link_of(grant.refresh_token)
                is_next = link is not None and new is not None and new[0] == link[0] and new[1] > link[1]
                self.hold(is_next, end, f"{what} has another refresh token, which is not the provider's next")
                continue
            has_cause = any(self._causes(end, was, link, before, after))
            became = f"{grant.state} {grant.reason}" if grant is not None else "deleted"
            self.hold(has_cause, end, f"{what} has lost its refresh token without a cause: it is {became}")

    def _causes(self, end: str, was: Grant, link: Link | None, before: Tables, after: Tables) -> Iterator[bool]:
        yield (end, was.grant_id) not in self.proved
        yield link is not None and (end, link) in self.denied
        old, new = rows(before, Grant), rows(after, Grant)
        successors = [row for key, row in new.items() if row.grant_id != was.grant_id and _is_usable(row)]
        successors = [row for row in successors if _person(row) == _person(was) and row.pairing_id == was.pairing_id]
        if was.pairing_id:
            yield self.commands[end]["forget"] > 0
            yield (was.pairing_id, was.handoff_id) in self.asked_away
            yield any((row.grant_id,) not in old and row.handoff_id != was.handoff_id for row in successors)
            return
        yield self.commands[end]["sign_out"] > 0
        yield self.commands[end]["sign_in"] > 0 and any(not _is_usable(old.get((row.grant_id,))) for row in successors)
        handoffs = rows(after, PhoneHandoff).values()
        yield any(row.held_token == was.refresh_token for row in handoffs)
        given = {row.grant_id for row in handoffs if row.strategy == "move" and row.pairing_id in self.ledger.strange}
        yield was.grant_id in given  # a hostile device may say too early that it has it
        if link is not None:
            chain = self.ledger.chain_of(link)
            yield any(other != end for other in self.ledger.held_ever[chain])

    def _grants(self, end: str) -> Iterator[Grant]:
        yield from rows(self.ledger.tables.get(end, {}), Grant).values()


def _is_usable(grant: Grant | None) -> bool:
    return grant is not None and grant.refresh_token is not None and grant.state == "held"


def _person(grant: Grant) -> tuple[str, str, str]:
    return grant.issuer, grant.client_id, grant.subject


def _is_final(answer: HttpResponse, *, is_entra: bool) -> bool:
    """Whether the provider has said that this token is dead."""
    if not 400 <= answer.status < 500:
        return False
    try:
        said = json.loads(answer.body)
    except ValueError:
        return False
    if not isinstance(said, dict) or said.get("error") != "invalid_grant":
        return False
    codes = said.get("error_codes", [])
    is_known = said.get("suberror") in ("bad_token", "token_expired") or not FINAL_AT_ENTRA.isdisjoint(codes)
    return is_known or not is_entra
