"""The promises, each a check that looks at every step of a simulated history.

A check sees what the world sees (see :class:`token_relay.simulation.observer.Observer`), never an agent, and raises
:class:`token_relay.simulation.promises.ledger.ViolationError` at the step that breaks its promise. Promises that can be
judged only when the faults have stopped (5, 6) are in :mod:`token_relay.simulation.promises.settlement`; 14 (same seed,
same history) compares two runs and is in the runner.

A disk that was put back to an older image cannot know it before its next contact. Until it has noticed, its content is
in doubt: promises 1 and 3 ignore that end, and check it when it has noticed and at the settlement.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from token_relay.agents.grants.serving import may_be_sent, profile_of
from token_relay.agents.ports import Now, Record
from token_relay.agents.records import AuditEvent, CompanionHandoff, Grant, Pairing, PhoneHandoff
from token_relay.agents.token_source import TokenGranted, TokenQuery, TokenRefused
from token_relay.protocol.messages import Message
from token_relay.protocol.secret import Secret
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.sandbox.provider.memory.state import State
from token_relay.simulation.observer import Observer, Tables
from token_relay.simulation.promises.erasure import ErasedOnlyByVerdict
from token_relay.simulation.promises.ledger import Check, Ledger, Link, Use, form_of, phone_row, rows, stored_here
from token_relay.simulation.promises.local_promises import LeaseHeld, PolicyHeld
from token_relay.simulation.promises.message_promises import NoLeak, PubackMeansDurable, SequenceOnce
from token_relay.simulation.promises.others import OthersUntouched

HOLDING: tuple[type[Record], ...] = (Grant, PhoneHandoff)


class OneHolder(Check):
    """1. A chain has at most one holder: an end whose disk has a link of it in a state in which it may be used."""

    number = 1
    title = "a chain has at most one holder"
    tables = HOLDING

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Compare with all other ends whenever grants change."""
        self.look(end)

    def invalidates_on_use(self) -> bool:
        """Whether this provider's tokens are spent by their use."""
        return self.ledger.provider is None or self.ledger.provider.rules.invalidates_on_use

    def look(self, end: str, *, among: Iterable[str] | None = None) -> None:
        """Compare one end with all others; at the judgement with those that it can have met since (``among``)."""
        is_final = among is not None
        if end in self.ledger.doubtful:
            return
        if not is_final and end in self.ledger.ever_restored and not self.invalidates_on_use():
            return  # nothing is spent: a restored phone learns from the companion's next HELLO what it had moved
        unsure = () if self.invalidates_on_use() else self.ledger.ever_restored
        mine = self.ledger.holdings.get(end, frozenset())
        for other, held in self.ledger.holdings.items():
            is_sure = other in among if among is not None else other not in unsure
            if other != end and is_sure and other not in self.ledger.doubtful:
                both = mine & held
                self.hold(not both, end, f"{other} and {end} both may use {', '.join(sorted(both))}")


class ReuseOnlyAfterLoss(Check):
    """2. The provider sees a link reused only after a crash, a rollback, an answer lost or replaced by a page.

    Each inside a refresh intent. Where reuse may end what others hold, not after a lost answer either: one device's
    risk is not another's.
    """

    number = 2
    title = "reuse is seen only after a crash, an answer lost or replaced by a page, or a rollback inside an intent"

    def provider_said(self, event: Mapping[str, object]) -> None:
        """Look for the excuse of each reuse that the provider noticed."""
        if event.get("kind") != "reuse_detected":
            return
        family, generation = str(event.get("family")), event.get("generation")
        assert isinstance(generation, int)
        link = (family, generation)
        is_excused = link in self.ledger.excused or family in self.ledger.excused_families
        by = next((use.end for use in reversed(self.ledger.uses) if use.link == link), "")
        self.hold(is_excused, by, f"link {generation} of {family} was used again without need")
        was_lost = any(use.fate == "lost" and use.link == link and use.end == by for use in self.ledger.uses)
        if was_lost and by not in self.ledger.ever_restored:
            seen = f"link {generation} of {family} was used again after a lost answer, which may end what others hold"
            self.hold(not self._reaches_others(by, link), by, seen)

    def _reaches_others(self, end: str, link: Link) -> bool:
        for grant in rows(self.ledger.tables.get(end, {}), Grant).values():
            if grant.refresh_token is not None and self.ledger.link_of(grant.refresh_token) == link:
                takes = profile_of(grant).reuse_takes
                return takes in ("session", "user") or (takes == "unknown" and not grant.is_sole)
        return False


class RevokedStaysRevoked(Check):
    """3. After REVOKED is accepted by the phone, that handoff never holds a grant again."""

    number = 3
    title = "after REVOKED is accepted that handoff never holds a grant again"
    tables = HOLDING

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.revoked: dict[tuple[str, str], str] = {}  # pairing and handoff → the phone

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Remember revoked handoffs, and check the companions' grants."""
        for _, row in self.ledger.changed(before, after, PhoneHandoff):
            if row is not None and (row.state, row.reason) == ("gone", "revoked") and row.handoff_id:
                self.revoked[row.pairing_id, row.handoff_id] = end
                self._look_everywhere((row.pairing_id, row.handoff_id))
        if self.revoked:
            for was, grant in self.ledger.changed(before, after, Grant):
                if grant is not None and _holds(grant) and (was is None or not _holds(was)):
                    self._look(end, grant)

    def look_at_all(self, ends: Iterable[str]) -> None:
        """Check these ends, also those that were in doubt.

        A companion that was put back after its phone had unpaired it never meets a phone that could tell it.
        """
        for end in ends:
            for grant in rows(self.ledger.tables.get(end, {}), Grant).values():
                if _holds(grant) and (key := (grant.pairing_id, grant.handoff_id)) in self.revoked:
                    tables = self.ledger.tables.get(self.revoked[key], {})
                    row = phone_row(tables, *key)
                    # Nobody can tell it: the phone has forgotten the pairing, or its own disk is as old.
                    knows = (grant.pairing_id,) in rows(tables, Pairing) and row is not None and row.state == "gone"
                    is_kept = end in self.ledger.ever_restored and not knows
                    self.hold(is_kept, end, f"handoff {grant.handoff_id[:8]} was revoked and is held")
                elif _holds(grant):
                    self.hold(True, end, "")

    def _look_everywhere(self, key: tuple[str, str]) -> None:
        for end, tables in self.ledger.tables.items():
            for grant in rows(tables, Grant).values():
                if (grant.pairing_id, grant.handoff_id) == key and _holds(grant):
                    self._look(end, grant)

    def _look(self, end: str, grant: Grant) -> None:
        if grant.handoff_id and end not in self.ledger.doubtful:
            is_kept = (grant.pairing_id, grant.handoff_id) not in self.revoked
            self.hold(is_kept, end, f"handoff {grant.handoff_id[:8]} was revoked and is held ({grant.state})")


class StoredMeansOnDisk(Check):
    """4. When STORED is accepted, the companion's disk holds the grant or its legitimate successor."""

    number = 4
    title = "STORED accepted means that the grant is on the companion's disk"
    tables = (CompanionHandoff, PhoneHandoff)

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.stored_once: set[tuple[str, str]] = set()  # pairing and handoff

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Remember what companions stored; compare when the phone reaches DONE."""
        for _, row in self.ledger.changed(before, after, CompanionHandoff):
            if row is not None and row.was_stored:
                self.stored_once.add((row.pairing_id, row.handoff_id))
        for was, mine in self.ledger.changed(before, after, PhoneHandoff):
            if mine is None or mine.pairing_id in self.ledger.strange:  # a hostile companion says what it likes
                continue
            if mine.state == "done" and (was is None or was.state != "done"):
                self._compare(end, (mine.pairing_id, mine.handoff_id))

    def _compare(self, end: str, key: tuple[str, str]) -> None:
        handoff_id = key[1]
        holders = {name: found for name, tables in self.ledger.tables.items() if (found := stored_here(tables, *key))}
        if not holders:
            # the person forgot it, or the disk was put back: then the grant was there once
            self.hold(key in self.stored_once, end, f"no disk ever held handoff {handoff_id[:8]}")
            return
        for name, row in holders.items():
            was_here = row.was_stored or (key in self.stored_once and name in self.ledger.ever_restored)
            self.hold(was_here, end, f"{name} never stored handoff {handoff_id[:8]}: it is {row.state} {row.reason}")
            every = rows(self.ledger.tables[name], Grant).values()
            grants = [grant for grant in every if (grant.pairing_id, grant.handoff_id) == key]
            if row.state == "stored":
                is_there = any(grant.refresh_token is not None or not _holds(grant) for grant in grants)
                self.hold(is_there, end, f"{name} says that it stored handoff {handoff_id[:8]} and has no grant of it")


class DurableBeforeSent(Check):
    """7. Every refresh-token value is durable at its sender, with its intent, before it is sent to a provider."""

    number = 7
    title = "a refresh token is sent only after it and its intent are durable"
    tables = (*HOLDING, AuditEvent)

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.intended: dict[str, list[Secret[str]]] = defaultdict(list)
        self.durable: dict[str, list[Secret[str]]] = defaultdict(list)
        self.dropped: Counter[str] = Counter()  # answers that came after their grant's end: to be revoked, not kept

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Each commit of an intent permits one request."""
        for _, event in self.ledger.changed(before, after, AuditEvent):
            self.dropped[end] += event is not None and event.name == "late_answer_dropped"
        for was, grant in self.ledger.changed(before, after, Grant):
            if grant is None or grant.refresh_token is None:
                continue
            if was is None or was.refresh_token != grant.refresh_token:
                self.durable[end].append(grant.refresh_token)
            if grant.state == "refreshing":
                self.intended[end].append(grant.refresh_token)
        for was_handoff, row in self.ledger.changed(before, after, PhoneHandoff):
            is_begun = row is not None and row.is_obtaining
            if is_begun and row is not None and (grant := rows(after, Grant).get((row.grant_id,))) is not None:
                is_new = was_handoff is None or not was_handoff.is_obtaining or was_handoff.orphans != row.orphans
                if is_new and grant.refresh_token is not None:
                    self.intended[end].append(grant.refresh_token)

    def restored(self, end: str, tables: Tables) -> None:
        """Take the image's content as durable."""
        for grant in rows(tables, Grant).values():
            if grant.refresh_token is not None:
                self.durable[end].append(grant.refresh_token)

    def stopped(self, end: str, *, crashed: bool) -> None:
        """Forget the permissions of a process that has ended."""
        self.intended.pop(end, None)
        self.dropped.pop(end, None)

    def requested(self, end: str, request: HttpRequest) -> None:
        """Compare the value that leaves now with the values that were on disk."""
        form = form_of(request)
        token = form.get("refresh_token")
        if isinstance(token, Secret):
            permitted = self.intended[end]
            self.hold(token in permitted, end, "a refresh token was sent whose intent is not on disk")
            permitted.remove(token)
        revoked = form.get("token")
        if isinstance(revoked, Secret) and revoked not in self.durable[end]:
            self.hold(self.dropped[end] > 0, end, "a token was revoked that was never on disk")
            self.dropped[end] -= 1
        elif isinstance(revoked, Secret):
            self.hold(True, end, "")


class OneInFlight(Check):
    """13. At most one token request is in flight for each chain."""

    number = 13
    title = "at most one token request is in flight per chain"

    def used(self, use: Use) -> None:
        """Compare with every other request that is still out."""
        # Promise 1 checks a restored phone that does not know yet that its grant was moved.
        restored = self.ledger.ever_restored
        others = [
            it
            for it in self.ledger.uses
            if it is not use and it.fate == "open" and it.chain == use.chain
            if it.end == use.end or restored.isdisjoint((it.end, use.end))
        ]
        self.hold(not others, use.end, f"two requests with {use.chain} at once")


class Promises(Observer):
    """All checks of one history; give it to the world as an observer.

    ``provider`` is the simulated provider's memory, ``clock_of`` returns an end's clock reading, ``refusals_of`` its
    counts of refusals by reason, ``lease_of_message`` (pairing_id, challenge) of a LEASE that an end sends, ``read`` a
    message of a hostile device.
    """

    def __init__(
        self,
        provider: State | None = None,
        *,
        clock_of: Callable[[str], Now | None] = lambda end: None,
        refusals_of: Callable[[str], Mapping[str, int]] = lambda end: {},
        lease_of_message: Callable[[str, bytes], tuple[str, str] | None] = lambda end, payload: None,
        read: Callable[[bytes], Message | None] = lambda payload: None,
        is_sealed: bool = False,
    ) -> None:
        self.ledger = Ledger(provider=provider, clock_of=clock_of)
        self.others = OthersUntouched(self.ledger, read)
        self.one_holder = OneHolder(self.ledger)
        self.revoked = RevokedStaysRevoked(self.ledger)
        self._stored = StoredMeansOnDisk(self.ledger)
        self.policy = PolicyHeld(self.ledger)
        self._in_flight = OneInFlight(self.ledger)
        self._leaks = NoLeak(self.ledger, is_sealed=is_sealed)
        self.checks: tuple[Check, ...] = (
            self.others,  # first: what a stranger breaks may break another promise as well
            self.one_holder,
            ReuseOnlyAfterLoss(self.ledger),
            self.revoked,
            self._stored,
            DurableBeforeSent(self.ledger),
            PubackMeansDurable(self.ledger, refusals_of),
            self._leaks,
            SequenceOnce(self.ledger),
            self.policy,
            LeaseHeld(self.ledger, lease_of_message),
            self._in_flight,
            ErasedOnlyByVerdict(self.ledger),
        )
        self._committed = [
            (frozenset(check.tables), check.committed)  # type: ignore[union-attr]  # whoever names tables has it
            for check in self.checks
            if check.tables
        ]
        self._stopped = self._who("stopped")
        self._restored = self._who("restored")
        self._published = self._who("published")
        self._delivered = self._who("delivered")
        self._acknowledged = self._who("acknowledged")
        self._requested = self._who("requested")
        self._said = self._who("provider_said")
        self._served = self._who("served")
        self._commanded = self._who("commanded")
        self._answered = self._who("answered")

    @property
    def handoffs(self) -> int:
        """Return the number of handoffs that a companion has stored."""
        return len(self._stored.stored_once)

    def _who(self, name: str) -> list[Callable[..., None]]:
        return [getattr(check, name) for check in self.checks if hasattr(check, name)]

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """A transaction of ``end`` has become durable."""
        self.ledger.step += 1
        self.ledger.changes.clear()
        written = {record for record, held in after.items() if before.get(record) is not held}
        if not written.isdisjoint(HOLDING):
            self.ledger.committed(end, before, after)
        else:
            self.ledger.tables[end] = after
        if end in self.ledger.doubtful and _has_noticed(self.ledger.changed(before, after, Pairing)):
            self.ledger.doubtful.discard(end)
            self.one_holder.look(end)
        for tables, check in self._committed:
            if not tables.isdisjoint(written):
                check(end, before, after)

    def stopped(self, end: str, *, crashed: bool) -> None:
        """``end`` lost its power or was stopped."""
        self.ledger.step += 1
        self.ledger.stopped(end)
        for check in self._stopped:
            check(end, crashed=crashed)

    def restored(self, end: str, tables: Tables) -> None:
        """The disk of ``end`` was put back."""
        self.ledger.step += 1
        self.ledger.restored(end, tables)
        _call(self._restored, end, tables)

    def published(self, end: str, topic: str, payload: bytes) -> None:
        """``end`` gave a message to the broker."""
        self.ledger.step += 1
        _call(self._published, end, topic, payload)

    def delivered(self, end: str, topic: str, payload: bytes) -> None:
        """The broker hands a message to ``end``."""
        _call(self._delivered, end, topic, payload)

    def acknowledged(self, end: str, topic: str, payload: bytes) -> None:
        """PUBACK leaves now."""
        self.ledger.step += 1
        _call(self._acknowledged, end, topic, payload)

    def requested(self, end: str, request: HttpRequest) -> None:
        """``end`` sends a request to the provider."""
        self.ledger.step += 1
        use = self.ledger.requested(end, request)
        if use is not None:
            self._in_flight.used(use)
        _call(self._requested, end, request)

    def answered(self, end: str, request: HttpRequest, answer: HttpResponse | NotSent | AnswerLost) -> None:
        """What ``end`` gets to know of its request."""
        self.ledger.step += 1
        self.ledger.answered(end, request, answer)
        _call(self._answered, end, request, answer)

    def provider_said(self, event: Mapping[str, object]) -> None:
        """The provider's event log got a new entry."""
        self.ledger.provider_said(event)
        _call(self._said, event)

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        """An app on ``end`` asked for an access token."""
        self.ledger.step += 1
        _call(self._served, end, query, answer)

    def commanded(self, end: str, act: str, *, is_over: bool) -> None:
        """A person's command at ``end`` begins or is over."""
        for check in self._commanded:
            check(end, act, is_over=is_over)

    def advanced(self, seconds: float) -> None:
        """World time went on."""
        self.ledger.time_s += seconds

    def logged(self, text: str) -> None:
        """An agent wrote this to its log."""
        self._leaks.logged(text)


def _call(checks: Iterable[Callable[..., None]], *arguments: object) -> None:
    for check in checks:
        check(*arguments)


def _holds(grant: Grant) -> bool:
    return may_be_sent(grant)


def _has_noticed(pairings: Iterable[tuple[Pairing | None, Pairing | None]]) -> bool:
    return any(
        row is not None and row.rollback == "self" and (was is None or was.rollback != "self") for was, row in pairings
    )
