"""The answer of an Action about one login, and the question to it.

An Action is a user's program: it may hang, so it cannot run inside a step of the core. A step that needs one
raises :class:`ActionWanted` before it has changed anything; the driver asks the Action, however long that takes, and
carries the whole request out again with the :class:`Verdict`. The verdict counts only for the very event that the
Action saw: if the world has changed meanwhile, the step asks again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from token_relay.sandbox.provider.http_values import JsonValue

COMMANDS_MAX = 100
ANSWER_BYTES_MAX = 65_536
ASKED_MAX = 3  # how often one request may find the world changed under its Action
FAILED_TEXT = "An Action failed."  # what the client is told; the cause is in the log


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Deny(_Command):
    """``api.access.deny``: nobody is signed in."""

    do: Literal["deny"]
    reason: Annotated[str, StringConstraints(max_length=1000)]


class SetExpiry(_Command):
    """``api.session`` and ``api.refreshToken``: an end in milliseconds since 1970, as JavaScript counts."""

    do: Literal["set_expires_at", "set_idle_expires_at"]
    of: Literal["session", "refresh_token"]
    at_ms: Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]


class RevokeCommand(_Command):
    """``api.refreshToken.revoke`` and ``api.session.revoke``."""

    do: Literal["revoke"]
    of: Literal["session", "refresh_token"]
    reason: Annotated[str, StringConstraints(max_length=1000)] = ""


class SetMetadata(_Command):
    """``api.refreshToken.setMetadata``; a value of None removes the key."""

    do: Literal["set_metadata"]
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,255}$")]
    value: Annotated[str, StringConstraints(max_length=255)] | None


class SetClaim(_Command):
    """``api.idToken.setCustomClaim`` and ``api.accessToken.setCustomClaim``."""

    do: Literal["set_claim"]
    of: Literal["id_token", "access_token"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=254)]
    value: str | float | int | bool | None


class SetActor(_Command):
    """``api.authentication.setActor``, in a delegation: who acts in the user's name."""

    do: Literal["set_actor"]
    sub: Annotated[str, StringConstraints(min_length=1, max_length=254)]


Command = Annotated[
    Deny | SetExpiry | RevokeCommand | SetMetadata | SetClaim | SetActor, Field(union_mode="left_to_right")
]


class _WorkerAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
    commands: Annotated[list[Command], Field(max_length=COMMANDS_MAX)] = []
    failure: Annotated[str, StringConstraints(max_length=1000)] = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of asking. ``failure`` is why an Action gave no answer; then nobody is signed in."""

    key: str
    commands: tuple[Command, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """The event that an Action is shown."""

    event: dict[str, JsonValue] = field(repr=False)

    @property
    def key(self) -> str:
        """Names the event: another one has another key."""
        return sha256(json.dumps(self.event, sort_keys=True).encode()).hexdigest()

    def answered(self, raw: bytes) -> Verdict:
        """Read what the Action's process wrote; whatever does not fit is a failure."""
        if len(raw) > ANSWER_BYTES_MAX:
            return self.failed(f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
        try:
            answer = _WorkerAnswer.model_validate_json(raw)
        except ValidationError:
            return self.failed("the answer does not fit the schema")
        return Verdict(self.key, tuple(answer.commands), answer.failure)

    def failed(self, why: str) -> Verdict:
        """Return the verdict of an Action that gave none."""
        return Verdict(self.key, (), why)


class ActionWanted(Exception):  # a step that waits for its driver, not a fault
    """A step stopped, with nothing changed, to ask an Action."""

    def __init__(self, question: Question) -> None:
        super().__init__("an Action has to be asked")
        self.question = question


NO_VERDICT = Verdict("")
