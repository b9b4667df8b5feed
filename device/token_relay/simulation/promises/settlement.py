"""Judges two promises when the faults have stopped: nothing waits in silence (5), nothing is lost (6).

The person in the simulation does nothing between the last fault and this judgement, so a task that needs a person may
still be open; then each end must say so. What an end *says* is its ``status``, made from its records alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from token_relay.agents.grants.lifecycle import is_asked_again
from token_relay.agents.grants.serving import is_lease_over, state_of
from token_relay.agents.ports import Now
from token_relay.agents.records import (
    UNANSWERED,
    CachedToken,
    CompanionHandoff,
    Grant,
    Outgoing,
    Pairing,
    PhoneHandoff,
    PrimaryPhone,
)
from token_relay.sandbox.provider.memory.state import Family, State
from token_relay.service.status import Surroundings, companion_status, phone_status
from token_relay.simulation.observer import Tables
from token_relay.simulation.promises.ledger import Ledger, phone_row, rows, stored_here
from token_relay.simulation.promises.promises import Promises

SETTLE_HOURS = 8  # a request is sent again at least every 6 hours, a quarter more with its jitter
SETTLED = ("done", "cancelled", "gone")
LET_GO = ("dead", "deleted", "handoff ")
SILENT = "nothing waits in silence"
LOST = "no chain is without a holder"


@dataclass(frozen=True, slots=True)
class JudgedDevice:
    """One end at the judgement. ``is_here`` is False for a device that was lost, for good."""

    name: str
    device_id: str
    kind: str
    tables: Tables
    now: Now
    is_connected: bool = True
    is_here: bool = True

    def status(self) -> dict[str, Any]:
        """Return the end's present ``status``."""
        error = "" if self.is_connected else "connection refused"
        here = Surroundings(self.kind, self.name, self.device_id, "", self.is_connected, error, "", {}, "")
        pairings = list(rows(self.tables, Pairing).values())
        outbox = list(rows(self.tables, Outgoing).values())
        grants = list(rows(self.tables, Grant).values())
        tokens = list(rows(self.tables, CachedToken).values())
        if self.kind == "companion":
            return companion_status(
                here,
                self.now,
                pairings=pairings,
                outbox=outbox,
                grants=grants,
                tokens=tokens,
                primary=list(rows(self.tables, PrimaryPhone).values()),
                problems={},
            )
        return phone_status(
            here,
            self.now,
            pairings=pairings,
            outbox=outbox,
            handoffs=list(rows(self.tables, PhoneHandoff).values()),
            grants=grants,
            tokens=tokens,
            problems={},
            allow_refresh_token_access=True,
        )


def judge(promises: Promises, views: Iterable[JudgedDevice], *, told: int = 0) -> None:
    """Judge a world in which everything has worked again for a while; raises at the first broken promise.

    ``told`` is the number of sign-ins whose error the person saw: each may have left a token at the provider.
    """
    everybody = list(views)
    present = [view for view in everybody if view.is_here]
    promises.ledger.step += 1
    for view in present:
        promises.ledger.doubtful.discard(view.name)
    for view in present:
        met = [other.name for other in present if _can_have_met(promises.ledger, view, other)]
        promises.one_holder.look(view.name, among=met)
    promises.revoked.look_at_all([view.name for view in present])
    by_id = {view.device_id: view for view in everybody}
    for view in present:
        (_judge_companion if view.kind == "companion" else _judge_phone)(promises.ledger, view, by_id)
    _judge_chains(promises.ledger, everybody, told)


def _can_have_met(ledger: Ledger, view: JudgedDevice, other: JudgedDevice) -> bool:
    """Whether the two can have told each other of an older image: only in the pairing by which a grant came."""
    if ledger.ever_restored.isdisjoint((view.name, other.name)):
        return True
    return _knows_pairings_of(view, other) and _knows_pairings_of(other, view)


def _knows_pairings_of(end: JudgedDevice, peer: JudgedDevice) -> bool:
    known = {row.pairing_id for row in rows(end.tables, Pairing).values() if row.state == "active"}
    return {grant.pairing_id for grant in rows(peer.tables, Grant).values() if grant.pairing_id} <= known


def is_quiet(tables: Tables, strange: Set[str] = frozenset()) -> bool:
    """Whether nothing is under way at an end, according to its disk; ``strange`` pairings never come to rest."""
    return (
        all(row.pairing_id in strange for row in rows(tables, Outgoing).values())
        and all(row.state in SETTLED or row.pairing_id in strange for row in rows(tables, PhoneHandoff).values())
        and all(row.state != "ready" or row.pairing_id in strange for row in rows(tables, CompanionHandoff).values())
        and all(
            row.pairing_id in strange or (row.state not in UNANSWERED and not _is_refused(row))
            for row in rows(tables, Grant).values()
        )
    )


# -- 5 -----------------------------------------------------------------------------------------------------


def _judge_phone(ledger: Ledger, view: JudgedDevice, by_id: Mapping[str, JudgedDevice]) -> None:
    status = view.status()
    slug = status["action"]["slug"] if status["action"] else ""
    shown = {row["handoff_id"]: (device, row) for device in status["devices"] for row in device["handoffs"]}
    pairings = rows(view.tables, Pairing)
    latest: dict[str, PhoneHandoff] = {}
    for row in sorted(rows(view.tables, PhoneHandoff).values(), key=lambda row: row.created_at):
        latest[row.pairing_id] = row
        if row.pairing_id in ledger.strange:
            continue  # a stranger answers when it likes
        look(ledger, row.state in SETTLED or _may_wait(row, slug, view, by_id), view.name, _spell(row, slug))
        if row.state not in SETTLED:
            known = shown.get(row.handoff_id)
            look(ledger, known is not None, view.name, f"status does not show {_spell(row, slug)}")
    for pairing_id, row in latest.items():
        pairing = pairings.get((pairing_id,))
        peer = by_id.get(pairing.peer_id) if pairing is not None and pairing.state == "active" else None
        if peer is not None and peer.is_here and row.state == "done":
            _agree(ledger, view, peer, row, slug)
    in_flight = any(use.fate == "open" and use.end == view.name for use in ledger.uses)
    for grant in rows(view.tables, Grant).values():
        look(
            ledger,
            in_flight or not (grant.state in UNANSWERED or _is_refused(grant)),
            view.name,
            f"grant {grant.grant_id[:8]} is still {grant.state}, and the provider is there",
        )


def _may_wait(row: PhoneHandoff, slug: str, view: JudgedDevice, by_id: Mapping[str, JudgedDevice]) -> bool:
    """Whether an open handoff may wait: for the person, or a device that is lost or has forgotten us. Both named."""
    pairing = rows(view.tables, Pairing).get((row.pairing_id,))
    if (row.state, row.reason, row.strategy) == ("offered", "accepted", "mint"):
        # One action at a time: another device may come first. Without its pairing it is given up after 24 hours.
        return bool(slug) or (pairing is not None and pairing.state == "retired")
    peer = by_id.get(pairing.peer_id) if pairing is not None else None
    theirs = rows(peer.tables, Pairing).get((row.pairing_id,)) if peer is not None and peer.is_here else None
    knows_us = theirs is not None and theirs.state != "pending"  # pending: put back to the middle of the pairing
    return not knows_us and (pairing is None or pairing.state != "active" or bool(slug))


def _agree(ledger: Ledger, view: JudgedDevice, companion: JudgedDevice, row: PhoneHandoff, slug: str) -> None:
    """A grant that is over on the companion is known to be over on the phone."""
    pairing = rows(companion.tables, Pairing).get((row.pairing_id,))
    if pairing is None or pairing.state != "active":
        return  # only the companion has finished this pairing: no phone listens to it, and its person pairs again
    theirs = stored_here(companion.tables, row.pairing_id, row.handoff_id)
    every = rows(companion.tables, Grant).values()
    grants = [it for it in every if (it.pairing_id, it.handoff_id) == (row.pairing_id, row.handoff_id)]
    is_sealed = any((grant.state, grant.reason) == ("needs_handoff", "uncertain") for grant in grants)
    if theirs is not None and (theirs.state == "dead" or is_sealed):
        look(ledger, row.device_state not in ("held", "refreshing"), view.name, f"thinks {_spell(row, slug)} is alive")


def _judge_companion(ledger: Ledger, view: JudgedDevice, by_id: Mapping[str, JudgedDevice]) -> None:
    status = view.status()
    has_action = status["action"] is not None
    for row in rows(view.tables, CompanionHandoff).values():
        is_settled = row.state in ("stored", "dead") or has_action or _is_their_turn(row, by_id, ledger.ever_restored)
        look(ledger, is_settled, view.name, f"handoff {row.handoff_id[:8]} is {row.state} and status asks for nothing")
    grants = sorted(rows(view.tables, Grant).values(), key=lambda grant: (grant.stored_at, grant.grant_id))
    in_flight = any(use.fate == "open" and use.end == view.name for use in ledger.uses)
    for grant in grants:
        is_known = grant.state not in UNANSWERED and not _is_refused(grant)
        # the provider is not asked until the phone gives a lease, and seldom while a handoff is READY
        may_not = is_lease_over(grant, view.now) or _awaits_handoff(grant, view) or grant.pairing_id in ledger.strange
        look(ledger, is_known or in_flight or may_not, view.name, f"grant {grant.grant_id[:8]} is still {grant.state}")
    ours = [grant for grant in grants if grant.pairing_id not in ledger.strange] or grants  # a stranger's hides none
    works_on = (grant.state in ("held", "refreshing") or _awaits_handoff(grant, view) for grant in ours)
    if not any(works_on):
        look(ledger, has_action, view.name, "nothing here gives tokens, and status names no action")
    peers = [peer for peer in by_id.values() if peer.is_here and peer is not view]
    # pending: a disk that was put back to the middle of the pairing
    known = {key for peer in peers for key, row in rows(peer.tables, Pairing).items() if row.state != "pending"}
    for request in rows(view.tables, Outgoing).values():
        is_answerable = request.type == "STORED" and (request.pairing_id,) in known
        look(ledger, not is_answerable, view.name, f"STORED of {request.handoff_id[:8]} is unanswered by its phone")


def _is_refused(grant: Grant) -> bool:
    """Whether the provider has refused for now: in peace that ends by itself."""
    return grant.refresh_token is not None and is_asked_again(state_of(grant))


def _awaits_handoff(grant: Grant, view: JudgedDevice) -> bool:
    """Whether an open use of it is tried once a day only, since a handoff that would replace it is READY."""
    if grant.state != "uncertain":
        return False
    handoffs = rows(view.tables, CompanionHandoff).values()
    return any((row.pairing_id, row.state) == (grant.pairing_id, "ready") for row in handoffs)


def _is_their_turn(row: CompanionHandoff, by_id: Mapping[str, JudgedDevice], ever_restored: Set[str]) -> bool:
    """Whether a phone waits with this handoff for its person, and says so; or every phone has forgotten us or it."""
    phones = [view for view in by_id.values() if view.kind == "phone"]
    found = [phone_row(view.tables, row.pairing_id, row.handoff_id) for view in phones]
    if any(theirs is not None and theirs.state == "offered" for theirs in found):
        return True
    if all(theirs is None for theirs in found) and any(view.name in ever_restored for view in phones):
        return True  # put back to before its OFFER: it learns of it at the next contact
    return not any((row.pairing_id,) in rows(view.tables, Pairing) for view in phones if view.is_here)


def _spell(row: PhoneHandoff, slug: str) -> str:
    return f"handoff {row.handoff_id[:8]}: {row.state} {row.reason} ({row.strategy}); action {slug or 'none'}"


def look(ledger: Ledger, is_kept: bool, end: str, seen: str) -> None:
    ledger.checks[5] += 1
    if not is_kept:
        raise ledger.broken(5, SILENT, end, seen)


# -- 6 -----------------------------------------------------------------------------------------------------


def _judge_chains(ledger: Ledger, views: list[JudgedDevice], told: int) -> None:
    """Count the living chains that nobody has: each needs a record that says why."""
    state = ledger.provider
    if state is None:
        return
    held = frozenset().union(*ledger.holdings.values(), *ledger.kept.values())
    named = told + ledger.forgotten
    for view in views:
        for row in rows(view.tables, PhoneHandoff).values():
            is_theirs = row.pairing_id in ledger.strange  # what a stranger was given is its own to lose
            named += row.orphans + (row.state not in ("done", "offered") or is_theirs)
    unheld: list[str] = []
    for chain in sorted(set(ledger.chains.values()) - held):
        ledger.checks[6] += 1
        is_over = not _lives(state, chain, ledger, max((view.now.wall_s for view in views), default=0.0))
        why = ledger.given_up.get(chain, "")
        was_restored = bool(ledger.held_ever[chain] & ledger.ever_restored)
        if is_over or was_restored or any(word in why for word in LET_GO):
            continue
        unheld.append(chain)
    is_forgotten = any(view.kind == "phone" and view.name in ledger.ever_restored for view in views)
    if len(unheld) > named and not is_forgotten:
        seen = f"{len(unheld)} living chains have no holder ({', '.join(unheld)}), and status accounts for {named}"
        raise ledger.broken(6, LOST, "", seen)


def _lives(state: State, chain: str, ledger: Ledger, now: float) -> bool:
    """Whether the provider would still take the newest token of a chain."""
    link = ledger.newest(chain)
    family: Family | None = state.families.get(link[0]) if link is not None else None
    if link is None or family is None or family.is_dead:
        return False
    user = state.users.get(family.username)
    if user is None or family.born_at_seq < user.revoked_at_seq(family.method):
        return False
    return family.expires_at is None or now + state.clock_offset_s < family.expires_at
