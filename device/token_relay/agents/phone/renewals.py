"""Decides, inside the transaction, whether RENEW gets a new grant without the person."""

from __future__ import annotations

from token_relay.agents.records import Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.messages import Renew

RENEWALS_MAX = 3  # in RENEWAL_WINDOW_S, with growing pauses; more means that something else is wrong
RENEWAL_WINDOW_S = 24 * 3600
RENEWAL_PAUSES_S = (0, 600, 3600)


def renewal_refusal(
    turn: Turn, pairing: Pairing, row: PhoneHandoff | None, renew: Renew, *, is_open: bool, may_release: bool
) -> str:
    """Return why a renewal is not served without the person, or an empty string.

    ``is_open``: the pairing has an open handoff. ``may_release``: the application's gate is open.
    """
    if row is None or row.state != "done":
        return "gone"
    if is_open:
        return "later"  # what is open answers this RENEW too
    if pairing.renew_denied or pairing.state != "active":
        return "revoked"
    if renew.reason != "uncertain" or row.strategy != "branch" or not may_release:
        return "person_needed"
    if row.is_renewal and renew.generation <= 1:
        return "person_needed"  # the last renewal's first refresh failed: another one would too
    recent = [
        other.created_at
        for other in turn.tx.select(PhoneHandoff, pairing_id=pairing.pairing_id, is_renewal=True)
        if turn.wall - other.created_at < RENEWAL_WINDOW_S
    ]
    if len(recent) >= RENEWALS_MAX:
        return "person_needed"
    if recent and turn.wall - max(recent) < RENEWAL_PAUSES_S[len(recent)]:
        return "later"
    return ""
