"""Asks the provider to revoke a refresh token that this device gives up. RFC 7009.

One request of at most 10 s; the token lives only in the memory of the call. There is no second try: for that, the token
would have to stay on the disk after its grant was erased.
"""

from __future__ import annotations

from typing import assert_never

from token_relay.agents.grants.serving import profile_of
from token_relay.agents.records import Grant
from token_relay.protocol.messages import ProviderSaid
from token_relay.protocol.secret import RefreshToken
from token_relay.provider import oauth
from token_relay.provider.http import Http


def may_ask(grant: Grant, *, is_revoked: bool) -> bool:
    """Return whether the provider of a grant can be asked, and without ending another device's grant.

    ``is_revoked``: the person took the grant away, so the others may end with it. Without that, only where revocation
    is known to end no more than the token's own family.
    """
    profile = profile_of(grant)
    is_safe = is_revoked or profile.revocation_takes in ("nothing", "family")
    return bool(grant.revocation_endpoint) and profile.can_revoke_token and is_safe


async def ask(http: Http, grant: Grant, refresh_token: RefreshToken) -> ProviderSaid:
    """Ask once; return what the provider said."""
    outcome = await oauth.revoke(
        http,
        revocation_endpoint=grant.revocation_endpoint,
        client_id=grant.client_id,
        token=refresh_token,
        issuer=grant.issuer,
        token_endpoint=grant.token_endpoint,
    )
    match outcome:
        case oauth.RevokeAccepted():
            return "accepted"
        case oauth.RevokeRefused():
            return "refused"
        case oauth.RevokeUnreachable():
            return "unreachable"
        case _:
            assert_never(outcome)
