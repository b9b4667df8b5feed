"""What happens before a refresh token that may be spent is sent again.

Sending the same value again repairs a lost answer: inside the provider's leeway, or once outside it. That chance must
not be wasted on a connection that loses the next answer too: at a provider whose leeway is for the previous token
alone, the second lost answer costs the grant. So the provider is first asked for something that costs nothing, its
metadata; any answer will do.
"""

from __future__ import annotations

import asyncio

from token_relay.agents.grants import lifecycle
from token_relay.agents.grants.serving import profile_of, state_of
from token_relay.agents.ports import Clock
from token_relay.agents.records import Grant
from token_relay.provider import discovery
from token_relay.provider.http import Http

RETRY_S = 1.0  # between attempts inside a provider's leeway, which is some tens of seconds
RETRY_S_MAX = 5.0
LAST_S = 5.0  # of a leeway: then the value is sent once to a silent provider too, as it is worth less later
CHECK_S = 5.0  # for one answer, inside the leeway


def retry_s(attempt: int) -> float:
    """Return the pause before the ``attempt``-th try inside a leeway."""
    return min(RETRY_S * attempt, RETRY_S_MAX)


async def wait_for(http: Http, clock: Clock, grant: Grant) -> str:
    """Inside the leeway, wait until the provider answers; outside it, ask once. Return why it is silent, or nothing."""
    attempt = 0
    while True:
        left_s = lifecycle.leeway_left_s(state_of(grant), profile_of(grant), clock.now())
        blind_in_s = left_s - LAST_S if grant.intent_attempts == 1 else left_s
        if left_s and blind_in_s <= 0:
            return ""
        silence = await _silence(http, grant, min(CHECK_S, blind_in_s) if left_s else None)
        if not silence or not left_s:
            return silence
        attempt += 1
        await clock.sleep(retry_s(attempt))


async def _silence(http: Http, grant: Grant, timeout_s: float | None) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            found = await discovery.discover(http, grant.issuer)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    if not isinstance(found, discovery.DiscoveryFailed) or not found.is_temporary:
        return ""
    # Inside a leeway an error page counts as silence: the next answer would be one too. Later, waiting gains nothing.
    return found.reason if timeout_s is not None or not found.status else ""
