"""What the phone does when one of its own grants changes, inside the transaction of the change."""

from __future__ import annotations

from token_relay.agents.grants import revocation
from token_relay.agents.ports import Transaction
from token_relay.agents.records import USABLE, Grant, HandoffKey, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.agents.turns import Turns
from token_relay.protocol.handoff import PhoneStateName
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http

NOWHERE: frozenset[PhoneStateName] = frozenset({"cancelled", "gone"})  # no device has a grant of such a handoff


def is_only(tx: Transaction, grant: Grant, *, given: HandoffKey | None = None) -> bool:
    """Return whether neither this phone nor a device has another grant of the same client at the provider.

    ``given``: the handoff that gives this very grant away.
    """
    own = tx.select(Grant, pairing_id="", issuer=grant.issuer, client_id=grant.client_id)
    handoffs = tx.select(PhoneHandoff, issuer=grant.issuer, client_id=grant.client_id)
    is_elsewhere = any(row.state not in NOWHERE and row.at != given for row in handoffs)
    return all(row.grant_id == grant.grant_id for row in own) and not is_elsewhere


class OwnGrants:
    """Implements :class:`token_relay.agents.grants.flight.GrantWatcher`."""

    reauth_action = "token-relay phone sign-in --username U, or --browser"

    def __init__(self, turns: Turns, http: Http) -> None:
        self._turns = turns
        self._http = http

    def holds_alone(self, turn: Turn, grant: Grant) -> bool:
        """Return whether this phone signed in for it, and neither it nor a device has another one."""
        return grant.is_sole and is_only(turn.tx, grant)

    def awaits_handoff(self, turn: Turn, grant: Grant) -> bool:
        """Return False: no handoff replaces the phone's own grant."""
        return False

    def on_grant_changed(self, turn: Turn, before: Grant, after: Grant) -> None:
        """Write an event when somebody has to sign in again."""
        if after.state not in USABLE and not (before.refused and before.refused == after.reason):
            turn.event("sign_in_needed", grant_id=after.grant_id, detail=after.reason)

    def on_late_token(self, turn: Turn, grant: Grant, refresh_token: RefreshToken) -> None:
        """A refresh brought a token after its grant had ended: have it revoked, unless a companion has that chain.

        After a sign-out, which ends what hangs together, but not after a newer sign-in of the same client.
        """
        is_signed_out = not turn.tx.select(Grant, pairing_id="", issuer=grant.issuer, client_id=grant.client_id)
        if grant.reason != "moved" and revocation.may_ask(grant, is_revoked=is_signed_out):
            turn.after.append(lambda: self._turns.spawn(self._revoke(grant, refresh_token)))

    async def _revoke(self, grant: Grant, refresh_token: RefreshToken) -> None:
        said = await revocation.ask(self._http, grant, refresh_token)
        await self._turns.run(lambda turn: turn.event("revoked_at_provider", grant_id=grant.grant_id, detail=said))
