"""What a person may say of a provider's behaviour: ``[provider.behaviour]``, and profile files. Pure.

Each setting is a field of :class:`~token_relay.protocol.behaviour.Behaviour`; what is not said comes from the profile
beneath. A profile file is what ``token-relay provider probe`` writes, or a person.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo

from token_relay.host.config_values import Section
from token_relay.protocol.behaviour import LEEWAY_S_MAX, Behaviour, Codes, Lifetime, Takes
from token_relay.provider.profile import Profile, described

TRIES_MAX = 16


class BehaviourSettings(Section):
    """What the provider does with refresh tokens; a setting that is not there is the profile's."""

    invalidates_on_use: bool | None = Field(
        default=None, description="Whether using a refresh token ends the old value, at once or after leeway_s."
    )
    leeway_s: Annotated[int, Field(ge=0, le=LEEWAY_S_MAX)] | None = Field(
        default=None, description="Seconds for which a used refresh token still works, where a use invalidates it."
    )
    refresh_gives_new: bool | None = Field(
        default=None, description="Whether a refresh answers with another refresh token."
    )
    reuse_takes: Takes | None = Field(
        default=None,
        description="What ends when a spent token is used again: nothing, family (what came of the same sign-in), "
        "session (of the same browser session), user, or unknown.",
    )
    reuse_kills_access_tokens: bool | None = Field(
        default=None, description="Whether access tokens end with it before their time."
    )
    revocation_takes: Takes | None = Field(
        default=None, description="What ends when a token is revoked; the words of reuse_takes."
    )
    can_revoke_token: bool | None = Field(
        default=None, description="Whether this client can revoke a token by itself (RFC 7009)."
    )
    idle_lifetime_s: Lifetime | None = Field(
        default=None, description="Seconds without use after which a grant ends; 0: no such end, or not known."
    )
    absolute_lifetime_s: Lifetime | None = Field(
        default=None, description="Seconds from the sign-in to the end of a grant; 0: no such end, or not known."
    )
    otp_lifetime_s: Lifetime | None = Field(
        default=None, description="The same after a sign-in with a one-time code, where it differs."
    )
    takes_claims: bool | None = Field(default=None, description="Whether a refresh may carry a claims challenge.")
    takes_resource: bool | None = Field(
        default=None, description="Whether a refresh names its API by resource (RFC 8707)."
    )
    temporary_codes: Codes | None = Field(default=None, description="AADSTS codes of refusals that will pass.")
    final_codes: Codes | None = Field(
        default=None, description="AADSTS codes that end a token; with none, every invalid_grant does."
    )

    @property
    def said(self) -> dict[str, object]:
        """What was said, and what follows from it: without invalidation there is no reuse to speak of."""
        said = {name: getattr(self, name) for name in Behaviour.model_fields if getattr(self, name) is not None}
        if said.get("invalidates_on_use") is False:
            said = {"leeway_s": 0, "reuse_takes": "nothing", "reuse_kills_access_tokens": False} | said
        return said

    def over(self, base: Profile) -> Profile:
        """Return the profile with what was said in place of its own. Raises ValueError: the two do not fit."""
        said = self.said
        if not said:
            return base
        behaviour = Behaviour.model_validate({**dict(base.behaviour), **said})
        if behaviour.leeway_s and not behaviour.invalidates_on_use:
            raise ValueError("leeway_s needs invalidates_on_use = true")
        return described(base, behaviour)


class ProfileFile(BehaviourSettings):
    """A profile file, and beside the settings what a measurement saw."""

    measured_at: datetime | None = None
    leeway_between_s: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=2)] | None = None
    narrower_scope: Literal["given", "refused", "whole", "untried"] | None = None
    saw: Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=TRIES_MAX)] = Field(default=[])

    @property
    def measured_at_s(self) -> int:
        """When it was measured, as Unix seconds; 0: nobody said."""
        return int(self.measured_at.timestamp()) if self.measured_at is not None else 0


ProfileReader = Callable[[Path], ProfileFile]


def _read(value: object, info: ValidationInfo) -> object:
    """Read the file that a setting names, with the reader that the context has. Raises ValueError."""
    context = info.context if isinstance(info.context, dict) else {}
    read, base = context.get("read_profile"), context.get("base")
    if not callable(read) or not isinstance(value, str):
        raise ValueError("must be the path of a file")
    path = Path(value)
    return read(base / path if isinstance(base, Path) else path)


ProfileFromFile = Annotated[ProfileFile, BeforeValidator(_read)]


def problem_of(error: ValidationError) -> str:
    """Say in one line what is wrong in a profile file."""
    found = []
    for one in error.errors(include_input=False, include_url=False, include_context=False)[:3]:
        key = ".".join(str(part) for part in one["loc"])
        what = "no such setting" if one["type"] == "extra_forbidden" else one["msg"].removeprefix("Value error, ")
        found.append(f"{key}: {what[:1].lower()}{what[1:]}" if key else what)
    return "; ".join(found)
