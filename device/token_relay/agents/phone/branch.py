"""``branch``: a refresh of the phone's own grant, whose new token goes to the companion while the old one stays.

It is the errand of a flight (:mod:`token_relay.agents.grants.errand`). Its intent beside the grant's own is
``is_obtaining``; the transaction that settles the refresh releases the new token. A token that came and was not
released, or whose answer was lost, is an orphan: nobody holds it.
"""

from __future__ import annotations

from dataclasses import replace

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.answers import event_of, problem_of
from token_relay.agents.grants.errand import RefreshErrand
from token_relay.agents.grants.refusals import Key
from token_relay.agents.grants.refuted import note_branch
from token_relay.agents.phone.handoff_rows import state_of
from token_relay.agents.phone.steps import ACCEPTED, PhoneSteps
from token_relay.agents.records import Grant, HandoffKey, Pairing, PhoneHandoff
from token_relay.agents.turn import Turn
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.http import Http
from token_relay.provider.outcome import Denied, OutcomeUnknown, Refreshed, TokenOutcome, Unavailable


class Branch:
    """The errand of one handoff."""

    scope = ""
    wants_access_token = False

    def __init__(self, steps: PhoneSteps, at: HandoffKey) -> None:
        self._steps = steps
        self._at = at
        self.handoff_id = at[1]
        self._outcome: TokenOutcome | None = None

    def key(self, grant_id: str) -> Key | None:
        """Return None: its refusal is nobody else's."""
        return None

    def begin(self, turn: Turn, grant: Grant) -> bool:
        """Mark the handoff with ``is_obtaining`` if it still waits for its token."""
        row = turn.tx.get(PhoneHandoff, *self._at)
        if row is None or state_of(row) != ACCEPTED:
            return False
        orphans = row.orphans + (1 if row.is_obtaining else 0)
        turn.change(PhoneHandoff, *self._at, is_obtaining=True, orphans=orphans)
        return True

    async def send(self, http: Http, grant: Grant, refresh_token: RefreshToken, sent: Stamp) -> TokenOutcome:
        """Send the refresh. For the phone's own grant the answer counts as one without a new token."""
        outcome = self._outcome = await RefreshErrand().send(http, grant, refresh_token, sent)
        return replace(outcome, refresh_token=None, access_token=None) if isinstance(outcome, Refreshed) else outcome

    def is_refused_alone(self, outcome: TokenOutcome, grant: Grant) -> bool:
        """Return False: what the provider refuses here it would refuse to the phone itself."""
        return False

    def event(self, outcome: TokenOutcome) -> tuple[str, str]:
        """Return the event of a refresh."""
        return event_of(outcome)

    def settle(self, turn: Turn, grant: Grant | None) -> None:
        """Release the token, or write in the handoff why none came."""
        row = turn.tx.get(PhoneHandoff, *self._at)
        pairing = turn.tx.get(Pairing, row.pairing_id) if row is not None else None
        if row is None:
            return
        is_orphan = isinstance(self._outcome, OutcomeUnknown)
        match self._outcome:
            case outcome if pairing is None:  # the device was forgotten meanwhile
                is_orphan = isinstance(outcome, Refreshed | OutcomeUnknown)
            case Refreshed(refresh_token=RefreshToken() as new) if grant is None or new != grant.refresh_token:
                assert pairing is not None
                is_orphan = grant is None or not self._steps.release(turn, pairing, row.handoff_id, grant, new)
                if grant is not None:
                    note_branch(turn, grant)
            case Refreshed():  # none, or the phone's own once more: one value in two hands
                self._give_up(turn, "the provider gives no second refresh token: branch cannot work")
            case Denied(kind="final", error=error):
                self._give_up(turn, f"the provider no longer accepts the phone's own grant: {error}")
            case Denied(kind="person" | "client" | "request") as refused:
                self._give_up(turn, problem_of(refused))
            case Denied() | Unavailable() | OutcomeUnknown() as failed:
                self._steps.tell(turn, self._at, problem_of(failed))
            case None:
                pass
        row = turn.row(PhoneHandoff, *self._at)
        turn.change(PhoneHandoff, *self._at, is_obtaining=False, orphans=row.orphans + (1 if is_orphan else 0))

    def _give_up(self, turn: Turn, problem: str) -> None:
        self._steps.give_up(turn, self._at, problem)
