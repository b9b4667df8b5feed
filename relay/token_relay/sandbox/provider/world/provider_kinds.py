"""What ``--profile`` can play: the three profiles, and how other providers treat refresh tokens.

An imitation has the paths and answers of ``strict``, and the refresh-token rules and error texts of the provider that
it is named after. Paths, discovery and claims are not imitated. The row of each provider says what is known of it and
what is not; for unknown points the sandbox plays the milder rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from token_relay.sandbox.provider.world.model import DAY_S, PolicyModel
from token_relay.sandbox.provider.world.rules import RULES, Rules

_STRICT = RULES["strict"]


@dataclass(frozen=True, slots=True)
class Imitation:
    """Rules, and one sentence that says what is special."""

    rules: Rules
    says: str


IMITATIONS: dict[str, Imitation] = {
    "entra": Imitation(RULES["entra"], "new refresh token each time, the old one stays valid"),
    "auth0": Imitation(RULES["auth0"], "rotation; leeway for the previous token only; reuse ends the family"),
    "strict": Imitation(_STRICT, "rotation without a leeway; reuse ends the family and its access tokens"),
    "okta": Imitation(
        replace(_STRICT, imitates="okta", policy=PolicyModel(leeway_s=30.0)),
        "rotation; leeway 30 s for the previous token; reuse ends the family and its access tokens",
    ),
    "keycloak": Imitation(
        replace(_STRICT, imitates="keycloak", invalidates_on_use=False, reuse_kills_access_tokens=False),
        "revokeRefreshToken=false: any refresh token of a live session works",
    ),
    "keycloak-rotating": Imitation(
        replace(
            _STRICT,
            imitates="keycloak-rotating",
            reuse_kills_access_tokens=False,
            reuse_count_max=0,  # refreshTokenMaxReuse
            texts={
                "stale": "Stale token",
                "reuse": "Maximum allowed refresh token reuse exceeded",
                "family_dead": "Session doesn't have required client",
            },
        ),
        "revokeRefreshToken=true, refreshTokenMaxReuse=0: grace by count; too many uses end the client session",
    ),
    "oidc-provider": Imitation(
        replace(_STRICT, imitates="oidc-provider", texts={"": "grant request is invalid"}),
        "rotation without a leeway; reuse ends the grant with its access tokens; one text for every cause",
    ),
    "hydra": Imitation(
        replace(
            _STRICT, imitates="hydra", branches_in_grace=True, use_kills_issued=True, policy=PolicyModel(leeway_s=30.0)
        ),
        "rotation_grace_period 30 s: each use within it is another branch, and takes the access token issued with "
        "the used one; later reuse ends everything",
    ),
    "duende": Imitation(
        replace(_STRICT, imitates="duende", invalidates_on_use=False, answers="same", reuse_kills_access_tokens=False),
        "ReUse: one refresh token for good, repeated in each answer",
    ),
    "duende-one-time": Imitation(
        replace(_STRICT, imitates="duende-one-time", reuse_takes="nothing", reuse_kills_access_tokens=False),
        "OneTimeOnly: a used token is refused, its successor stays good",
    ),
    "cognito": Imitation(
        replace(
            _STRICT,
            imitates="cognito",
            reuse_takes="nothing",  # whether the family ends is not known
            reuse_kills_access_tokens=False,
            policy=PolicyModel(leeway_s=30.0, refresh_absolute_lifetime_s=30 * DAY_S),
        ),
        "rotation, retry grace 30 s; successors keep the original's remaining life",
    ),
    "google": Imitation(
        replace(
            _STRICT,
            imitates="google",
            invalidates_on_use=False,
            answers="nothing",
            reuse_kills_access_tokens=False,
            revokes_by_access_token=True,
            grants_max=100,
            policy=PolicyModel(refresh_idle_lifetime_s=182 * DAY_S),
            texts={"": "Token has been expired or revoked."},
        ),
        "no rotation, no refresh token in refresh answers; 100 grants per person and client, the oldest goes silently; "
        "revoking any token ends the grant; six months unused",
    ),
}
