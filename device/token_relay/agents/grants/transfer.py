"""One exchange for a session transfer token: an errand of a flight.

The exchange holds the token from the provider's answer until the flight has settled: only then the refresh token that
came with it is on disk. :meth:`TransferExchange.answer` gives it out once, and never for a grant that died meanwhile.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import assert_never

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.grants.answers import event_of, problem_of, words_of
from token_relay.agents.grants.pauses import shown_s
from token_relay.agents.grants.refusals import Key
from token_relay.agents.grants.serving import profile_of
from token_relay.agents.ports import Now
from token_relay.agents.records import Grant
from token_relay.agents.token_source import TokenRefused, TransferGranted
from token_relay.agents.turn import Turn
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import session_transfer
from token_relay.provider.http import Http
from token_relay.provider.outcome import Denied, OutcomeUnknown, TokenOutcome, Unavailable
from token_relay.provider.session_transfer import Exchanged, ExchangeOutcome, ExchangeRefused

PAUSE_S = 2.0  # between two exchanges of one grant: each may rotate its refresh token
CHECK_CLIENT = "check at the provider that this client may create session transfer tokens"


class TransferExchange:
    """The exchange of one caller; nobody shares it, since its token works once."""

    scope = ""
    handoff_id = ""
    wants_access_token = False

    def __init__(self) -> None:
        self._outcome: ExchangeOutcome | None = None
        self._sent: Stamp | None = None
        self._issuer = ""
        self._is_stored = False

    def key(self, grant_id: str) -> Key | None:
        """Return None: its refusal is nobody else's."""
        return None

    def begin(self, turn: Turn, grant: Grant) -> bool:
        """Write nothing: the grant's intent is enough."""
        return True

    async def send(self, http: Http, grant: Grant, refresh_token: RefreshToken, sent: Stamp) -> TokenOutcome:
        """Send the request; return what it means to the grant."""
        self._sent, self._issuer, self._is_stored = sent, grant.issuer, False
        self._outcome = await session_transfer.exchange(
            http,
            profile_of(grant),
            token_endpoint=grant.token_endpoint,
            client_id=grant.client_id,
            refresh_token=refresh_token,
            audience=session_transfer.audience_of(grant.issuer),
            issuer=grant.issuer,
        )
        return session_transfer.for_grant(self._outcome)

    def settle(self, turn: Turn, grant: Grant | None) -> None:
        """Allow the answer once this transaction is on disk; never when it came too late."""
        turn.after.append(partial(self._settled, is_stored=grant is not None))

    def _settled(self, *, is_stored: bool) -> None:
        self._is_stored = is_stored

    def is_refused_alone(self, outcome: TokenOutcome, grant: Grant) -> bool:
        """Return whether the provider refused the exchange; whether it means the grant too, a refresh tells."""
        return isinstance(self._outcome, ExchangeRefused | Denied)

    def event(self, outcome: TokenOutcome) -> tuple[str, str]:
        """Return the name and detail of the event to write."""
        match self._outcome:
            case Exchanged(token=None, problem=problem):
                return "session_transfer_refused", problem
            case Exchanged():
                return "session_transfer_issued", ""
            case ExchangeRefused(error=error):
                return "session_transfer_refused", error
            case _:
                return event_of(outcome)

    def answer(self, now: Now) -> TransferGranted | TokenRefused | None:
        """Return what the caller gets after the flight; None when the grant's state says why it gets nothing."""
        outcome, self._outcome = self._outcome, None
        if outcome is None or not self._is_stored:
            return None
        match outcome:
            case Exchanged(token=None, problem=problem):
                return TokenRefused("transfer_refused", f"no session transfer token: {problem}", CHECK_CLIENT)
            case Exchanged(token=token, expires_in_s=expires_in_s):
                assert token is not None and self._sent is not None
                elapsed = elapsed_s(self._sent, now)
                left = 0.0 if elapsed is None else expires_in_s - elapsed
                if left <= 0:
                    return TokenRefused(
                        "offline", "the session transfer token came too late to be used", "ask again now"
                    )
                at = datetime.fromtimestamp(now.wall_s, UTC).replace(microsecond=0) + timedelta(seconds=int(left))
                return TransferGranted(token, at, left, self._issuer)
            case ExchangeRefused(error=error, retry_after_s=retry_after_s):
                detail = f"the provider refuses the exchange: {error}"
                return TokenRefused("transfer_refused", detail, CHECK_CLIENT, retry_after_s)
            case Unavailable(retry_after_s=retry_after_s) | OutcomeUnknown(retry_after_s=retry_after_s):
                return TokenRefused("offline", problem_of(outcome), _when(retry_after_s), retry_after_s)
            case Denied():
                detail = f"the provider refuses the exchange: {words_of(outcome)}"
                return TokenRefused("transfer_refused", detail, CHECK_CLIENT)
            case _:
                assert_never(outcome)


def _when(retry_after_s: float | None) -> str:
    return f"ask again in {shown_s(retry_after_s)}" if retry_after_s else "ask again in a minute"
