"""Tells of messages that were refused: the reason and the names of fields, never what was in them.

Whoever writes the other end has no other way to learn of it, as nothing is answered. Every refusal is counted, and
logged. What only a peer with our pairing can cause, and only by a mistake of its program, is an event besides; all
else can be made by a broker that repeats what it has seen, and must not cost a commit. A mistake is told once in ten
minutes for each peer and reason, all else once for each reason: neither log nor table can be filled from outside.
"""

from __future__ import annotations

import structlog

from token_relay.agents.ports import Now
from token_relay.agents.rates import Rate, Rates
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.errors import PeerError

log = structlog.get_logger()

TELLS = Rate(1, 600.0)
STRANGER = ""
MISTAKES = frozenset(
    {
        *("bad_padding", "bad_json", "duplicate_key", "bad_field", "conflict", "wrong_direction"),
        *("offer_changed", "wrong_offer", "bad_point", "too_many_handoffs", "stale_challenge", "wrong_transcript"),
    }
)


class RefusedMessages:
    """What one part of an agent refuses."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._rates = Rates()

    async def tell(self, sender: str, exc: PeerError) -> None:
        """Count a refused message and tell of it; durable when it returns. Raises VaultError."""
        self._turns.count_reject(exc.reason)
        is_mistake = exc.reason in MISTAKES
        if self._may(sender if is_mistake else STRANGER, exc.reason, self._turns.clock.now()):
            if is_mistake:
                await self._turns.run(lambda turn: turn.event("message_refused", device=sender, detail=exc.told()))
            else:
                log.info("message_refused", device=sender, detail=exc.told())

    def tell_of_mailbox(self, exc: PeerError) -> None:
        """Count what lay in a mailbox, where nobody is known yet, and tell of it."""
        self._turns.count_reject(exc.reason)
        if self._may(STRANGER, exc.reason, self._turns.clock.now()):
            log.info("message_refused", detail=exc.told())

    def note(self, turn: Turn, peer_id: str, exc: PeerError) -> None:
        """The same inside a turn, when it is committed. A duplicate is no mistake: it is counted alone."""
        reason = exc.reason
        turn.heard.dropped(reason)
        turn.after.append(lambda: self._turns.count_reject(reason))
        if reason == "duplicate" or not self._may(peer_id, reason, turn.now):
            return
        if reason in MISTAKES:
            turn.event("message_refused", device=peer_id, detail=reason)
        else:
            turn.after.append(lambda: log.info("message_refused", device=peer_id, detail=reason))

    def _may(self, sender: str, reason: str, now: Now) -> bool:
        key = f"{sender}:{reason}"
        is_allowed = self._rates.allows(key, TELLS, now.boot_s)
        if is_allowed:
            self._rates.count(key, TELLS, now.boot_s)
        return is_allowed
