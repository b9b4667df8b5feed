"""Rules of the real services that can be switched off one by one: a client's mistake shows only while its rule is kept.

All are kept at the start. Whoever wants a rule out of the way for a while switches it off: ``lenient`` of the world
file, ``sandbox ctl lenient NAME``.
"""

from __future__ import annotations

from typing import Literal, get_args

RuleName = Literal[
    "spa-redemption",
    "one-resource",
    "audience",
    "opaque-token",
    "userinfo-openid",
    "grant-types",
    "transfer-cookie",
    "capabilities",
    "cors",
]
RULE_NAMES: tuple[RuleName, ...] = get_args(RuleName)
SENTENCES: dict[RuleName, str] = {
    "spa-redemption": "entra: codes and refresh tokens of a single-page application are redeemed by cross-origin "
    "requests (AADSTS9002327), those of others are not (AADSTS9002326)",
    "one-resource": "entra: the scopes of one token belong to one resource (AADSTS28000)",
    "audience": "aud names the API that was asked for; under auth0 a list with /userinfo where openid was granted",
    "opaque-token": "auth0: an access token that was asked for without an audience is opaque",
    "userinfo-openid": "auth0: /userinfo answers only tokens that were granted openid",
    "grant-types": "auth0: a client without grant_types has those of its app_type",
    "transfer-cookie": "auth0: at /authorize only the cookie auth0_session_transfer_token counts",
    "capabilities": "entra: unknown words in capabilities are refused",
    "cors": "a page of another origin may call only what the real services open to it",
}
