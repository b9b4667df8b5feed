"""The tenant's log: one record for each thing that Auth0 would log, in its spelling, without any secret.

:data:`DESCRIPTIONS` has the meaning of the types. Records are kept in order, the oldest go
first, and the driver repeats each as a structlog event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from token_relay.sandbox.provider.http_values import JsonValue, stamp

LOGS_MAX = 10_000
LogType = Literal[
    "s", "f", "ssa", "fsa", "slo", "w", "sertft", "fertft", "ferrt", "srrt", "seacft", "feacft", "seccft", "feccft",
    "sepft", "fepft", "sdel", "sdeleacft", "fdeleacft", "sdelsa", "fdelsa", "resource_cleanup", "sapi",
    "sede", "fede",
]  # fmt: skip
LOG_TYPES: tuple[str, ...] = get_args(LogType)
DESCRIPTIONS: dict[LogType, str] = {
    "s": "Success Login",
    "f": "Failed Login",
    "ssa": "Success Silent Auth",
    "fsa": "Failed Silent Auth",
    "slo": "Success Logout",
    "w": "Warning during login",
    "sertft": "Successful Refresh Token exchange",
    "fertft": "Failed Refresh Token exchange",
    "ferrt": "Failed exchange of Rotating Refresh Token",
    "srrt": "Refresh Token revoked",
    "seacft": "Success Exchange",
    "feacft": "Failed Exchange",
    "seccft": "Success Exchange",
    "feccft": "Failed Exchange",
    "sepft": "Success Exchange",
    "fepft": "Failed Exchange",
    "sdel": "Success Delegation login",
    "sdeleacft": "Success Delegation code exchange",
    "fdeleacft": "Failed Delegation code exchange",
    "sdelsa": "Success Delegation silent auth",
    "fdelsa": "Failed Delegation silent auth",
    "resource_cleanup": "Objects over a limit were removed",
    "sapi": "Success API Operation",
    "sede": "Success Exchange of a device code",
    "fede": "Failed Exchange of a device code",
}
# Why a session transfer token did not sign anybody in.
TOKEN_NOT_FOUND = "Single Sign-On failed: session transfer token not found or expired"  # noqa: S105  # no secret
BINDING_FAILED = "Single Sign-On failed: device binding validation failed ({binding})"
ORGANIZATION_MISMATCH = "Single Sign-On failed: organization mismatch"
USER_MISMATCH = "Single Sign-On failed: user mismatch"
PARENT_NOT_FOUND = "Single Sign-On failed: parent refresh token not found"
# Ours: the five above are documented.
METHOD_NOT_ALLOWED = "Single Sign-On failed: the client does not accept session transfer tokens by {method}"
DELEGATION_NOT_ALLOWED = "Single Sign-On failed: the client does not allow delegated access"
DELEGATION_OVER_SESSION = "Single Sign-On failed: delegated access over an existing session"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record. ``at`` is the provider's time."""

    number: int
    at: float
    type: LogType
    fields: dict[str, JsonValue]

    @property
    def log_id(self) -> str:
        """The record's id; ids sort as the records do."""
        return f"90020{self.number:019d}"

    def as_json(self) -> dict[str, JsonValue]:
        """Return the record as ``/api/v2/logs`` shows it."""
        return {"date": stamp(self.at), "type": self.type, **self.fields, "log_id": self.log_id, "_id": self.log_id}
