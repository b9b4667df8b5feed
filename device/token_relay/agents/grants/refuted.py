"""A described behaviour that the provider has refuted: from then on its grants count as strict.

Two things refute one. A token was refused that, as described, should have worked a second time: after one lost answer,
within the leeway, or at a provider that does not invalidate. And the phone's own token was refused right after a
``branch``. Either may be a mere coincidence (the grant was revoked at that moment); counting as strict is safe, and a
later measurement of the phone's (:mod:`token_relay.agents.probe`) is believed again.

What one pairing's grants refute says nothing of another's, for a peer may describe what it likes.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Literal

from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import profile_of, state_of
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Counter, Grant, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.behaviour import Behaviour
from token_relay.provider.outcome import Denied, TokenOutcome
from token_relay.provider.profile import STRICT, Profile

ROWS_MAX = 64  # of refuted behaviours; a hostile peer may bring a new one with each grant
Why = Literal["again", "branch"]
SENTENCES: dict[Why, str] = {
    "again": "a used refresh token was refused that should have worked again",
    "branch": "this phone's own refresh token was refused right after a branch",
}
_REFUTED, _BRANCHED = "refuted", "branched"
# These of the companion's states say that its grant has ended too: then something else than the branch ended both.
_ENDED = frozenset({"dead", "erased", "needs_handoff"})


def strict(profile: Profile) -> Profile:
    """Return the profile with the caution of ``strict`` in all that concerns the use of a token."""
    return replace(
        profile,
        strategies=STRICT.strategies,
        old_token_s=STRICT.old_token_s,
        reuse_takes=STRICT.reuse_takes,
        reuse_kills_access_tokens=STRICT.reuse_kills_access_tokens,
        revocation_takes=STRICT.revocation_takes,
    )


def believed(tx: Transaction, profile: Profile, *, issuer: str, pairing_id: str = "", measured_at: int = 0) -> Profile:
    """Return the profile, or :func:`strict` of it when it was refuted after it was measured; issuer "": of any."""
    digest = _digest(profile.behaviour, pairing_id)
    for row in _rows(tx):
        _, _, refuted, of_issuer = row.name.split(" ", 3)
        if refuted == digest and issuer in ("", of_issuer) and row.value >= measured_at:
            return strict(profile)
    return profile


def note_branch(turn: Turn, grant: Grant) -> None:
    """Remember that the last use of the phone's own token was a branch, in the transaction that releases it."""
    turn.tx.put(Counter(f"{_BRANCHED} {grant.grant_id}", turn.wall))


def forget_branch(turn: Turn, grant_id: str) -> None:
    """Forget it, with the grant."""
    turn.tx.delete(Counter, f"{_BRANCHED} {grant_id}")


def look(turn: Turn, grant: Grant, outcome: TokenOutcome) -> None:
    """Judge the outcome of a request; ``grant`` is as it was when the request left. Writes what it refutes."""
    if not isinstance(outcome, Denied) or outcome.kind != "final":
        return
    profile = profile_of(grant)
    if _was_branched(turn.tx, grant):
        why: Why = "branch"
    elif grant.intent_attempts == 2 and grant.intent_came and _should_work(grant, profile, turn):
        why = "again"  # after more lost answers it is no longer the previous token, which a leeway may be for alone
    else:
        return
    digest = _digest(profile.behaviour, grant.pairing_id)
    row = Counter(f"{_REFUTED} {why} {digest} {grant.issuer}", turn.wall)
    if len(_rows(turn.tx)) < ROWS_MAX or turn.tx.get(Counter, row.name) is not None:
        turn.tx.put(row)
    for other in turn.tx.select(Grant, issuer=grant.issuer, pairing_id=grant.pairing_id):
        if profile_of(other).behaviour == profile.behaviour:
            turn.change(Grant, other.grant_id, behaviour=strict(profile).behaviour.model_dump_json())
    detail = f"{SENTENCES[why]}: {grant.issuer} counts as strict now"
    turn.event("behaviour_refuted", grant_id=grant.grant_id, handoff_id=grant.handoff_id, detail=detail)


def listed(tx: Transaction) -> list[dict[str, str | int]]:
    """Return what was refuted here, for a person: issuer, why, when."""
    found: list[dict[str, str | int]] = []
    for row in _rows(tx):
        _, why, _, issuer = row.name.split(" ", 3)
        sentence = SENTENCES["branch" if why == "branch" else "again"]
        found.append({"issuer": issuer, "why": f"{sentence}; the provider counts as strict", "at": row.value})
    return found


def _rows(tx: Transaction) -> list[Counter]:
    return [row for row in tx.select(Counter) if row.name.startswith(f"{_REFUTED} ")]


def _digest(behaviour: Behaviour, pairing_id: str) -> str:
    text = f"{pairing_id} {behaviour.model_copy(update={'takes_resource': False}).model_dump_json()}"
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _was_branched(tx: Transaction, grant: Grant) -> bool:
    """Return whether the last successful use of this token was a branch whose companion is not known to have ended."""
    row = tx.get(Counter, f"{_BRANCHED} {grant.grant_id}")
    if row is None or row.value < grant.refreshed_at:
        return False
    given = tx.select(PhoneHandoff, grant_id=grant.grant_id, strategy="branch")
    return not any(one.device_state in _ENDED for one in given)


def _should_work(grant: Grant, profile: Profile, turn: Turn) -> bool:
    return not profile.invalidates_on_use or lifecycle.leeway_left_s(state_of(grant), profile, turn.now) > 0
