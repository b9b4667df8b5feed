"""What a token request can come to, as values; matched to the end with ``assert_never``.

The four families differ in what may be done next: :class:`Refreshed` is stored before it is judged,
:class:`Denied` is the provider's no, :class:`Unavailable` was certainly not processed, and
:class:`OutcomeUnknown` is everything else after the first byte of the request left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from token_relay.protocol.secret import AccessToken, IdToken, RefreshToken

DenialKind = Literal["final", "temporary", "person", "configuration"]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A 200 with tokens. Store ``refresh_token`` (when there is one) before looking at anything else.

    ``problem`` names what is wrong with the rest of the answer (no usable access token, unknown
    token_type …), or is empty. ``expires_in_s`` is counted from the moment the request was sent.
    """

    refresh_token: RefreshToken | None
    access_token: AccessToken | None
    token_type: str
    expires_in_s: float
    scope: str
    id_token: IdToken | None = None
    refresh_token_expires_in_s: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """The provider said no. ``kind`` is what it means under the profile; the ids are for the provider's support desk.

    ``final``: this token is dead. ``temporary``: keep it, back off. ``person``: keep it sealed, stop, tell the person.
    ``configuration``: keep it, stop, an operator must change something.
    """

    kind: DenialKind
    error: str
    suberror: str = ""
    codes: tuple[int, ...] = ()
    trace_id: str = ""
    correlation_id: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Certainly not processed: keep the token, back off, at least ``retry_after_s`` where it is given."""

    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """The provider may have processed the request and rotated the token."""

    reason: str


TokenOutcome = Refreshed | Denied | Unavailable | OutcomeUnknown
