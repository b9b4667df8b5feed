"""One refresh token for several APIs, by a client's ``refresh_token.policies`` (Auth0: multi-resource refresh tokens).

A refresh that names the audience of a policy gets an access token for that API, with the policy's scopes. For the
API that the person signed in for, the granted scopes and the policy's count together. As documented, an
audience outside the policies and scopes outside the allowed ones are ignored, not refused: the answer is a token for
the grant's own API, or with fewer scopes, so a client has to check what it got.

Only first-party clients have this. For a client without policies this module changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from token_relay.sandbox.provider.memory.state import Family, State
from token_relay.sandbox.provider.world.model import ClientModel
from token_relay.sandbox.provider.world.rules import OIDC_SCOPES


@dataclass(frozen=True, slots=True)
class Target:
    """What a refresh is for; ``policy_used`` is the log's word."""

    audience: str
    scope: tuple[str, ...]
    policy_used: str


def target(state: State, client: ClientModel, family: Family, audience: str, asked: tuple[str, ...]) -> Target | None:
    """Return what this refresh is for, or None if no policy applies."""
    setting = client.refresh_token if state.rules.is_managed and client.is_first_party else None
    policies = {one.audience: tuple(one.scope) for one in (setting.policies if setting else None) or ()}
    if not policies or not audience:
        return None
    if audience not in policies:
        return Target(family.audience, _within(asked, family.scope), "refresh_token_user_grant")
    if audience == family.audience:
        allowed = tuple(dict.fromkeys((*family.scope, *policies[audience])))
        return Target(audience, _within(asked, allowed), "mrrt")
    of_person = tuple(word for word in family.scope if word in OIDC_SCOPES)
    return Target(audience, _within(asked, (*of_person, *policies[audience])), "mrrt")


def _within(asked: tuple[str, ...], allowed: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in asked if word in allowed) if asked else allowed
