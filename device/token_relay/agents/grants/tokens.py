"""Stores, locks and erases a grant's tokens, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.refuted import forget_branch
from token_relay.agents.grants.serving import SCOPE_SETS_MAX, columns_of, is_put_away, remaining_s
from token_relay.agents.records import CachedToken, Grant, GrantEndReason, LockedReason, grant_key
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


def end_grant(turn: Turn, grant_id: str, reason: GrantEndReason) -> Grant:
    """Destroy a grant's data key and its tokens; return the row that stays, which says why."""
    _erase_tokens(turn, grant_id)
    dead = lifecycle.Erased(turn.row(Grant, grant_id).generation, reason)
    after = turn.change(Grant, grant_id, **columns_of(dead))
    turn.tx.erase_key(grant_key(grant_id))
    return after


def delete_grant(turn: Turn, grant_id: str) -> None:
    """Destroy a grant's data key, its tokens and its row."""
    _erase_tokens(turn, grant_id)
    forget_branch(turn, grant_id)
    turn.tx.delete(Grant, grant_id)
    turn.tx.erase_key(grant_key(grant_id))


def _erase_tokens(turn: Turn, grant_id: str) -> None:
    for token in turn.tx.select(CachedToken, grant_id=grant_id):
        turn.tx.delete(CachedToken, token.grant_id, token.scope)


def lock_grants(turn: Turn, grants: Iterable[Grant], reason: LockedReason) -> None:
    """Lock those of these grants that are not put away: another device may have them, or may have spent them."""
    for grant in grants:
        if not is_put_away(grant):
            turn.change(Grant, grant.grant_id, **columns_of(lifecycle.Locked(grant.generation, reason)))
            turn.event("grant_locked", handoff_id=grant.handoff_id, grant_id=grant.grant_id, detail=reason)


def access_token_ends_at(turn: Turn, grant_id: str) -> int:
    """Return the Unix time at which the last cached access token of a grant ends, 0 when there is none."""
    left = [remaining_s(token, turn.now) for token in turn.tx.select(CachedToken, grant_id=grant_id)]
    longest = max(left, default=0.0)
    return int(turn.now.wall_s + longest) if longest > 0 else 0
