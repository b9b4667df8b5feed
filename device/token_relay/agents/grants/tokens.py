"""What a grant's tokens leave on disk, and their end; inside the transaction of whoever calls."""

from __future__ import annotations

from dataclasses import replace

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import SCOPE_SETS_MAX, profile_of, remaining_s, with_state
from token_relay.agents.records import CachedToken, Grant
from token_relay.agents.turn import Turn
from token_relay.provider.outcome import Refreshed


def cache_token(turn: Turn, grant: Grant, scope: str, sent: Stamp, tokens: Refreshed) -> None:
    """Store an access token with its end, in the transaction that stores its refresh token."""
    cached = turn.tx.select(CachedToken, grant_id=grant.grant_id)
    if len(cached) >= SCOPE_SETS_MAX and all(token.scope != scope for token in cached):
        oldest = min(cached, key=lambda token: remaining_s(token, turn.now))
        turn.tx.delete(CachedToken, oldest.grant_id, oldest.scope)
    turn.tx.put(
        CachedToken(
            grant_id=grant.grant_id,
            scope=scope,
            granted_scope=tokens.scope or scope or grant.scope,
            token_type=tokens.token_type,
            received=sent.to_text(),
            expires_in_s=tokens.expires_in_s,
            generation=grant.generation,
            access_token=tokens.access_token,
        )
    )


def erase_grant(turn: Turn, grant: Grant) -> None:
    """Destroy a grant's key, its tokens and its cached access tokens; a row without secrets says what happened."""
    for token in turn.tx.select(CachedToken, grant_id=grant.grant_id):
        turn.tx.delete(CachedToken, token.grant_id, token.scope)
    turn.tx.put(replace(grant, refresh_token=None))
    turn.tx.erase_key(grant.grant_id)


def lock_grants(turn: Turn, reason: str, *, only_spent: bool = False) -> None:
    """Lock this device's own grants, which may be another's by now; ``only_spent``: only those that a use spends."""
    for grant in turn.tx.select(Grant, pairing_id=""):
        may_be_theirs = not only_spent or profile_of(grant).invalidates_on_use
        if may_be_theirs and grant.state not in ("dead", "locked"):
            turn.tx.put(with_state(grant, lifecycle.Locked(grant.generation, reason)))
            turn.event("grant_locked", grant_id=grant.grant_id, detail=reason)


def access_token_ends_at(turn: Turn, grant_id: str) -> int:
    """Return the Unix time at which the last cached access token of a grant ends, 0 when there is none."""
    left = [remaining_s(token, turn.now) for token in turn.tx.select(CachedToken, grant_id=grant_id)]
    longest = max(left, default=0.0)
    return int(turn.now.wall_s + longest) if longest > 0 else 0
