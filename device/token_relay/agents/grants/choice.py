"""Which grant answers a question: first whose, then which of theirs. Writes nothing.

On a companion a grant answers only for the phone that brought it: the primary phone, unless the program, or the rule
that lets it in, names others. So a grant of another phone changes no answer, whatever texts that phone has chosen.
Account, issuer, audience and scope only narrow. Several that are left are refused as ambiguous, never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from shlex import quote
from typing import Protocol

from token_relay.agents.grants.lifecycle import serves_access_tokens
from token_relay.agents.grants.serving import barred_host, is_lease_over, normalise_scope, remaining_s, state_of
from token_relay.agents.ports import Now, Transaction
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.token_source import FittingGrant, NamedPhone, TokenQuery, TokenRefused

SHOWN_MAX = 16  # of ambiguous grants, in an answer
UNWANTED_ENDS = ("denied", "damaged")
USEFULNESS = {"needs_handoff": 2, "locked": 1, "dead": 0}

Whose = tuple[str, ...]


class PhoneBook(Protocol):
    """The phones of a companion; a phone has none."""

    def among(self, tx: Transaction, phones: frozenset[str]) -> Mapping[str, NamedPhone] | TokenRefused | None:
        """Return the pairings whose grants may answer, with their phones; None: there are no phones to choose from."""
        ...

    def find(self, tx: Transaction, word: str) -> NamedPhone | TokenRefused:
        """Return the phone that a person or a program names."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """A grant that fits the question, as it counts now, with its cached access token while that lives."""

    grant: Grant
    token: CachedToken | None
    phone: NamedPhone | None

    @property
    def whose(self) -> Whose:
        """Its phone, issuer, client and person. An empty subject is nobody's: the account tells them apart then."""
        grant, peer = self.grant, self.phone.device_id if self.phone else ""
        person = ("subject", grant.subject) if grant.subject else ("account", grant.account)
        return (peer, grant.issuer, grant.client_id, *person)

    @property
    def is_living(self) -> bool:
        """Whether an access token can come of it without a person."""
        return self.rank[0] > max(USEFULNESS.values())

    @property
    def is_hindered(self) -> bool:
        """Whether it gives no token, and nobody wanted that: its person is still one of those who can be meant.

        Else a program that names nobody would speak for another person from one moment to the next.
        """
        return not self.is_living and (self.grant.state != "dead" or self.grant.reason in UNWANTED_ENDS)

    @property
    def rank(self) -> tuple[int, int, str]:
        """The best is the highest: one that refreshes, one whose access token lives, others; the newest of those."""
        grant = self.grant
        useful = USEFULNESS.get(grant.state, 4)
        return (useful if useful == 4 or self.token is None else 3, grant.stored_at, grant.grant_id)


@dataclass(frozen=True, slots=True)
class Choice:
    """The grant that answers; ``fallback`` is one of the same person whose access token lives, maybe itself."""

    best: Candidate
    fallback: Candidate | None


def candidates(tx: Transaction, query: TokenQuery, now: Now, book: PhoneBook | None) -> list[Candidate] | TokenRefused:
    """Return the grants that fit the question, of the phones that may answer it."""
    among = None if book is None else book.among(tx, query.phones)
    if isinstance(among, TokenRefused):
        return among
    found = []
    for grant in tx.select(Grant):
        if (among is None or grant.pairing_id in among) and _fits(grant, query):
            counts = as_it_counts(grant, now)
            token = tx.get(CachedToken, grant.grant_id, normalise_scope(query.scope))
            is_alive = token is not None and token.access_token is not None and remaining_s(token, now) > 0
            is_served = is_alive and serves_access_tokens(state_of(counts))
            phone = None if among is None else among[grant.pairing_id]
            found.append(Candidate(counts, token if is_served else None, phone))
    return found


def as_it_counts(grant: Grant, now: Now) -> Grant:
    """Return a grant whose lease is over, or whose endpoint is not allowed, as the locked one that it is."""
    if is_lease_over(grant, now):
        return replace(grant, state="locked", reason="lease")
    return replace(grant, state="locked", reason="configuration") if barred_host(grant) else grant


def choose(found: Iterable[Candidate]) -> Choice | tuple[Candidate, ...] | None:
    """Return the grant to answer with; several that could, and nothing says which; or None."""
    groups: dict[Whose, list[Candidate]] = {}
    for candidate in found:
        groups.setdefault(candidate.whose, []).append(candidate)
    bests = sorted((max(group, key=lambda one: one.rank) for group in groups.values()), key=lambda one: one.rank)
    living = tuple(one for one in bests if one.is_living)
    peers = {one.whose[0] for one in living}  # what one phone brought hides nothing that came of another
    hindered = (one for one in bests if one.is_hindered and one.whose[0] in peers)
    several = (*(one for one in hindered if not any(_is_one_person(one.grant, it.grant) for it in living)), *living)
    if living and len(several) > 1:
        return several[::-1]
    if not bests:
        return None
    alive = [one for one in groups[bests[-1].whose] if one.token is not None]
    return Choice(bests[-1], max(alive, key=lambda one: one.rank, default=None))


def ambiguous(several: tuple[Candidate, ...]) -> TokenRefused:
    """Say which grants a question fits."""
    words = [
        f"{_called(one.grant, several) or 'nobody'} at {one.grant.issuer}"
        + (f" from {one.phone.name} ({one.phone.device_id})" if one.phone else "")
        for one in several[:SHOWN_MAX]
    ]
    more = f" and {len(several) - SHOWN_MAX} more" if len(several) > SHOWN_MAX else ""
    grants = tuple(
        FittingGrant(one.grant.issuer, _called(one.grant, several), one.phone.device_id if one.phone else "")
        for one in several[:SHOWN_MAX]
    )
    detail = f"several grants fit: {'; '.join(words)}{more}"
    names = ("account", "issuer", "phone")
    enough = [name for name in names if len({getattr(grant, name) for grant in grants}) == len(grants)]
    told = [f"--{name} {quote(value)}" for name in enough[:1] or names if (value := getattr(grants[0], name))]
    quoted = " ".join(told) or "--account ACCOUNT"
    kind = "companion" if any(one.phone for one in several) else "phone"  # a phone has no phones
    return TokenRefused("ambiguous", detail, f"say which, such as: token-relay {kind} token {quoted}", grants=grants)


def _called(grant: Grant, several: Iterable[Candidate]) -> str:
    """Return the account by which a program can name this grant among several, or the subject where it cannot."""
    others = (one.grant for one in several if one.grant.issuer == grant.issuer and one.grant.account == grant.account)
    return grant.account if all(other.subject == grant.subject for other in others) else grant.subject or grant.account


def _is_one_person(one: Grant, other: Grant) -> bool:
    """Whether two grants of one name are one person's: one client is told two subjects of two people alone."""
    is_one_client = (one.issuer, one.client_id) == (other.issuer, other.client_id)
    are_two = is_one_client and one.subject != other.subject and "" not in (one.subject, other.subject)
    return one.account == other.account and not are_two


def _fits(grant: Grant, query: TokenQuery) -> bool:
    return (
        (not query.account or query.account in (grant.account, grant.subject))
        and (not query.issuer or query.issuer == grant.issuer)
        and (not query.audience or query.audience == grant.audience)
        and set(query.scope.split()) <= set(grant.scope.split())
    )
