"""Two settings of a client that govern its tokens: ``session_transfer`` and ``refresh_token``.

Both are closed schemas in Auth0's own spelling, for the management API and the world file. A field that nobody set
has its default; only :attr:`SessionTransfer.binding` tells unset from default, since either end may set it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

DeliveryMethod = Literal["cookie", "query"]
Binding = Literal["ip", "asn", "none"]
_CLOSED = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
LIFETIME_S_MAX = 31_557_600  # a year, the API's own limit
LIFETIME_S = 2_592_000  # 30 days, the API's default under rotation
LEEWAY_S_MAX = 86_400  # ours: no limit is documented
_STRICTNESS: tuple[Binding, ...] = ("none", "asn", "ip")


class Delegation(BaseModel):
    """What a web client does with tokens that carry an actor. Their binding cannot be switched off."""

    model_config = _CLOSED
    allow_delegated_access: bool = False
    enforce_device_binding: Literal["ip", "asn"] = "ip"


class SessionTransfer(BaseModel):
    """Who may make session transfer tokens, and who accepts them."""

    model_config = _CLOSED
    can_create_session_transfer_token: bool = False  # native client
    enforce_cascade_revocation: bool = True  # native client
    allowed_authentication_methods: Annotated[list[DeliveryMethod], Field(max_length=2)] | None = []  # web client
    enforce_device_binding: Binding | None = "ip"  # both are read, the stricter counts; null is an older "none"
    allow_refresh_token: bool = False  # web client
    enforce_online_refresh_tokens: bool = True  # web client
    delegation: Delegation | None = None

    @property
    def binding(self) -> Binding | None:
        """The binding that somebody has set, or None."""
        if "enforce_device_binding" not in self.model_fields_set:
            return None
        return self.enforce_device_binding or "none"


class ResourcePolicy(BaseModel):
    """One resource server of a multi-resource refresh token."""

    model_config = _CLOSED
    audience: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    scope: Annotated[list[Annotated[str, StringConstraints(pattern=r"^[!#-\[\]-~]{1,254}$")]], Field(max_length=100)]


LifetimeS = Annotated[int, Field(ge=1, le=LIFETIME_S_MAX)]


class RefreshTokenSetting(BaseModel):
    """Rotation and lifetimes of one client's refresh tokens. Seconds; ``infinite_...`` wins over the number."""

    model_config = _CLOSED
    rotation_type: Literal["rotating", "non-rotating"]
    expiration_type: Literal["expiring", "non-expiring"]
    leeway: Annotated[int, Field(ge=0, le=LEEWAY_S_MAX)] = 0
    token_lifetime: LifetimeS = LIFETIME_S
    idle_token_lifetime: LifetimeS | None = None  # the default is 30 days, or token_lifetime where that is less
    infinite_token_lifetime: bool = False
    infinite_idle_token_lifetime: bool = False
    policies: Annotated[list[ResourcePolicy], Field(max_length=20)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> RefreshTokenSetting:
        if self.rotation_type == "rotating" and self.expiration_type != "expiring":
            raise ValueError("rotation_type rotating needs expiration_type expiring")
        if self.absolute_s is not None and self.idle_s is not None and self.idle_s > self.absolute_s:
            raise ValueError("idle_token_lifetime must not be more than token_lifetime")
        return self

    @property
    def absolute_s(self) -> float | None:
        """From the sign-in to the end; None: no limit."""
        return None if self.expiration_type == "non-expiring" or self.infinite_token_lifetime else self.token_lifetime

    @property
    def idle_s(self) -> float | None:
        """How long a token lives unused; None: no limit."""
        if self.expiration_type == "non-expiring" or self.infinite_idle_token_lifetime:
            return None
        if self.idle_token_lifetime is not None:
            return self.idle_token_lifetime
        return min(LIFETIME_S, self.absolute_s or LIFETIME_S)


@dataclass(frozen=True, slots=True)
class Accepts:
    """What a web client accepts at ``/authorize``."""

    methods: tuple[DeliveryMethod, ...]
    allows_delegated_access: bool
    delegation_binding: Binding


def accepts(setting: SessionTransfer | None) -> Accepts:
    """Return what a client with this setting accepts; without a setting, nothing."""
    if setting is None:
        return Accepts((), False, "ip")
    delegation = setting.delegation or Delegation()
    methods = tuple(setting.allowed_authentication_methods or ())
    return Accepts(methods, delegation.allow_delegated_access, delegation.enforce_device_binding)


def effective_binding(native: SessionTransfer | None, web: SessionTransfer | None) -> Binding:
    """Return the stricter of the bindings that the two ends have set; ``ip`` if neither has set one."""
    told = [one.binding for one in (native, web) if one is not None and one.binding is not None]
    return max(told, key=_STRICTNESS.index, default="ip")
