"""*Find your email*: a phone number, and whose account it is, masked; for people who have opted in. Pure.

No real provider should have it: whoever tries numbers learns who has an account. Here it shows that. So it finds nobody
who has not allowed it, it answers a number of nobody and of somebody who has not allowed it alike, it allows a few
tries in a while for all callers together, and each try is an event.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from token_relay.sandbox.provider.http_values import JsonValue, Response, json_response
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.provider.world.contacts import contact, masked

TRIES_MAX = 5
WITHIN_S = 900.0


class PhoneModel(BaseModel):
    """Whose account is looked for."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    phone: Annotated[str, StringConstraints(min_length=1, max_length=64)]


def find_email(state: State, given: str, now: float) -> Response:
    """Answer 200 with the masked user names, 404, 400 for what is no number, or 429 after too many tries."""
    trace_id = state.guid()

    def answer(status: int, outcome: str, **more: JsonValue) -> Response:
        state.note("email_searched", now, trace_id=trace_id, outcome=outcome)
        return json_response({**more, "trace_id": trace_id}, status)

    tries = state.email_searches
    while tries and tries[0] + WITHIN_S <= now:
        tries.popleft()
    if len(tries) >= TRIES_MAX:
        left_s = int(tries[0] + WITHIN_S - now) + 1
        detail = f"{TRIES_MAX} searches in {WITHIN_S / 60:.0f} minutes are enough"
        refused = answer(429, "too_many", error="temporarily_unavailable", detail=detail)
        return refused.with_headers(("Retry-After", str(left_s)))
    phone = contact("sms", given)
    if phone is None:
        detail = "phone: a phone number such as +14255550100 is wanted"
        return answer(400, "no_number", error="invalid_request", detail=detail)
    tries.append(now)
    names: list[JsonValue] = [
        masked(one.username) for one in state.users.values() if one.is_findable and phone in one.phones
    ]
    if not names:
        return answer(404, "nobody", error="not_found", detail="nobody who allows it has this number")
    return answer(200, "found", usernames=names)
