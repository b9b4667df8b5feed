"""Whether a device is there, judged by when it was heard and when it was greeted. Pure.

* ``online``: it was heard after the phone's last greeting, and not long ago.
* ``silent``: it was greeted, and no answer came. It may be off, asleep, or cut off.
* ``unknown``: nobody has asked of late, or the answer may still be on its way.
"""

from __future__ import annotations

from typing import Literal

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.agents.ports import Now
from token_relay.agents.records import Pairing

PresenceName = Literal["online", "silent", "unknown"]

ANSWER_S = 1.0  # an answer takes milliseconds, on a slow network more; a person may wait longer for it
ONLINE_S = 180.0  # since it was heard; a list that is watched asks again before (roll_call.ASKS)


def presence(pairing: Pairing, now: Now, *, connected_at: float) -> PresenceName:
    """Judge a device by when it was heard and when it was last greeted, in the connection that began then."""
    heard_s, asked_s = ages_s(pairing, now, connected_at)
    if heard_s is not None and heard_s <= asked_s:
        return "online" if heard_s <= ONLINE_S else "unknown"
    return "silent" if asked_s >= ANSWER_S else "unknown"


def ages_s(pairing: Pairing, now: Now, connected_at: float) -> tuple[float | None, float]:
    """Return how long ago a device was heard, and greeted in this connection: at the latest when that began."""
    connected_s, challenged_s = now.boot_s - connected_at, age_s(pairing.challenged, now)
    is_of_now = challenged_s is not None and challenged_s <= connected_s + ANSWER_S
    return age_s(pairing.heard, now), challenged_s if challenged_s is not None and is_of_now else connected_s


def age_s(stamp: str, now: Now) -> float | None:
    """Return how many seconds ago a stamp was made, or None: it is empty, or no clock can say."""
    return elapsed_s(Stamp.from_text(stamp), now) if stamp else None
