"""What a provider does with refresh tokens, as it travels in a sealed grant and stands in a file; pure.

All that a companion decides by: it needs no profile of its own. The bounds are there because a phone may say anything:
no value makes a companion ask often. All ``*_s`` are whole seconds, and a lifetime of 0 is none, or one that nobody
knows.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Takes = Literal["nothing", "family", "session", "user", "unknown"]  # what ends with a token
LEEWAY_S_MAX = 300  # inside it a lost answer is asked for again every few seconds, and providers allow 60 s or less
LIFETIME_S_MAX = 10 * 366 * 86_400  # of what is only shown, and what makes a keep-alive rarer
CODES_MAX = 64

Lifetime: TypeAlias = Annotated[int, Field(ge=0, le=LIFETIME_S_MAX)]
Codes: TypeAlias = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=CODES_MAX)]


class Behaviour(BaseModel):
    """One provider's behaviour.

    ``leeway_s``: how long a value still works after it was used, where a use invalidates it. ``reuse_takes`` and
    ``revocation_takes``: what ends when a spent token is used again, and when one is revoked; ``family`` is what came
    of the same sign-in by refreshing, ``session`` all grants of the browser session, ``user`` all of the user.
    ``can_revoke_token``: a public client may ask (RFC 7009). ``otp_lifetime_s`` counts from a sign-in with a one-time
    code. ``takes_resource``: a refresh names its API by ``resource`` (RFC 8707). ``temporary_codes`` are refusals that
    will pass, ``final_codes`` those that end a token; with none, every ``invalid_grant`` does.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    invalidates_on_use: bool
    leeway_s: Annotated[int, Field(ge=0, le=LEEWAY_S_MAX)]
    refresh_gives_new: bool
    reuse_takes: Takes
    reuse_kills_access_tokens: bool
    revocation_takes: Takes
    can_revoke_token: bool
    idle_lifetime_s: Lifetime
    absolute_lifetime_s: Lifetime
    otp_lifetime_s: Lifetime
    takes_claims: bool
    takes_resource: bool
    temporary_codes: Codes
    final_codes: Codes
