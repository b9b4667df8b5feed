"""What id_tokens and ``/userinfo`` tell about a person, by the scope. OpenID Connect Core §5.1 and §5.4.

Ours under ``auth0``: ``updated_at`` is the moment of the sign-in, every e-mail address is verified, and ``picture`` is
one of the letters that the real service draws for people without a picture.
"""

from __future__ import annotations

from collections.abc import Collection

from token_relay.sandbox.provider.http_values import JsonValue, stamp
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.memory.state import Family
from token_relay.sandbox.provider.world.model import ProfileName


def person_claims(profile: ProfileName, family: Family, user: User, scope: Collection[str]) -> dict[str, JsonValue]:
    """Return the claims of ``profile`` and ``email``, as far as they were granted."""
    of_profile: dict[str, JsonValue] = {"name": user.name}
    of_email: dict[str, JsonValue] = {"email": user.username}
    match profile:
        case "entra":
            of_profile |= {"preferred_username": user.username, "oid": user.oid}
        case "auth0":
            of_profile["nickname"] = user.username.partition("@")[0]
            of_profile["picture"] = f"https://cdn.auth0.com/avatars/{user.username[:2]}.png"
            of_profile["updated_at"] = stamp(family.born_at)
            of_email["email_verified"] = True
        case "strict":
            return {**of_profile, "preferred_username": user.username, **of_email}
    return (of_profile if "profile" in scope else {}) | (of_email if "email" in scope else {})
