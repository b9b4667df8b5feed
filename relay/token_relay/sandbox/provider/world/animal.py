"""An animal: one answer that somebody in the field really sends, and what must become of a grant that meets it.

``sandbox ctl fault answer FILE`` arms a sandbox with it; the project's tests replay a zoo of them through the agents.
The page ``docs/zoo.md`` explains the fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from token_relay.sandbox.provider.world.answer import AnswerModel
from token_relay.sandbox.provider.world.model import EndpointName, FaultModel, Name

Sentence = Annotated[str, StringConstraints(min_length=1, max_length=400)]
# To which requests an answer belongs: of which endpoint, or of which grant type at the token endpoint.
_FITS: dict[str, tuple[EndpointName, str | None]] = {
    "refresh": ("token", "refresh_token"),
    "code": ("token", "authorization_code"),
    "password": ("token", "password"),
    "initiate": ("initiate", None),
    "challenge": ("challenge", None),
    "revocation": ("revoke", None),
}
_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class AskedModel(BaseModel):
    """What was asked for; ``scope`` is a part of the grant's, wanted by one caller."""

    model_config = _CLOSED
    what: Literal["refresh", "code", "password", "initiate", "challenge", "revocation"] = "refresh"
    scope: Annotated[str, StringConstraints(max_length=256)] = ""


class ThenModel(BaseModel):
    """What must become of the grant and of everybody concerned, while the answer stays what it is.

    ``status``: text that ``status`` shows with the grant, or that the refusal of a sign-in says. ``next_try``: ``none``
    comes by itself; ``backoff``: ``seconds`` later at the soonest; ``late``: a try with the intent open, freely
    where a use spends nothing, at once inside a known leeway, else after a minute at the soonest; ``keep_alive``: one
    that nobody asks for, ``seconds`` later at the latest. ``afterwards``: what an app is told once the provider
    answers again.
    """

    model_config = _CLOSED
    grant: Literal["held", "uncertain", "needs_handoff", "locked", "dead", "none"]
    reason: Annotated[str, StringConstraints(max_length=40)] = ""
    caller: Literal["granted", "offline", "refused", "reauth_required", "locked", "accepted", "unreachable"]
    status: Annotated[str, StringConstraints(max_length=200)] = ""
    next_try: Literal["none", "backoff", "late", "keep_alive", "unasked"] = "unasked"
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    kept: bool = True
    afterwards: Literal["granted", "reauth_required", "unasked"] = "granted"


class Animal(BaseModel):
    """One answer: where it is described (``source``), who sends it (``seen``), and under which profiles it is tried."""

    model_config = _CLOSED
    source: Annotated[str, StringConstraints(max_length=400, pattern=r"^https://[!-~]+$")]
    seen: Sentence
    profiles: Annotated[list[Name], Field(min_length=1, max_length=20)]
    asked: AskedModel = AskedModel()
    answer: AnswerModel
    times: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    committed: bool = False
    then: ThenModel

    @model_validator(mode="after")
    def _can_be_armed(self) -> Animal:
        self.fault()
        return self

    def fault(
        self,
        *,
        times: int | None = None,
        committed: bool = False,
        endpoint: EndpointName | None = None,
        grant_type: str | None = None,
    ) -> FaultModel:
        """Return the fault that gives this answer. ``committed``: also where the animal itself does not say so."""
        if endpoint is None and grant_type is None:
            endpoint, grant_type = _FITS[self.asked.what]
        return FaultModel(
            name="answer",
            endpoint=endpoint,
            grant_type=grant_type,
            times=self.times if times is None else times,
            committed=self.committed or committed,
            answer=self.answer,
        )


class AnimalOrder(BaseModel):
    """An animal to be met; what is given here comes before what the animal says."""

    model_config = _CLOSED
    animal: Animal
    times: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    committed: bool = False
    endpoint: EndpointName | None = None
    grant_type: Name | None = None

    @model_validator(mode="after")
    def _can_be_armed(self) -> AnimalOrder:
        self.fault()
        return self

    def fault(self) -> FaultModel:
        """Return the fault that is ordered."""
        return self.animal.fault(
            times=self.times, committed=self.committed, endpoint=self.endpoint, grant_type=self.grant_type
        )
