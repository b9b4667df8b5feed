"""What a token request can come to, as values; matched to the end with ``assert_never``.

The four families differ in what may be done next. :class:`Refreshed` is stored before it is judged. :class:`Denied` is
a verdict: on the token, on the person's sign-in, or on the client. :class:`Unavailable` was certainly not processed.
:class:`OutcomeUnknown` is no verdict: a whole answer that says nothing about the token (a *page*), or no whole answer
(*lost*); in both cases the provider may have processed the request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from token_relay.protocol.secret import AccessToken, IdToken, RefreshToken

Came = Literal["page", "lost"]
DenialKind = Literal["final", "temporary", "person", "client", "request"]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A 200 with tokens. Store ``refresh_token`` (when there is one) before looking at anything else.

    ``problem`` says why there is no usable access token, or is empty. ``note`` names what was odd beside a good one (a
    scope as an array, an ``expires_in`` that cannot be read), or is empty. ``expires_in_s`` is counted from the moment
    the request was sent. ``refresh_token_expires_in_s`` is the life that the provider tells for the refresh token.
    """

    refresh_token: RefreshToken | None
    access_token: AccessToken | None
    token_type: str
    expires_in_s: float
    scope: str
    id_token: IdToken | None = None
    refresh_token_expires_in_s: float | None = None
    problem: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """The provider said no. ``kind`` is what it means under the profile; the ids are for the provider's support desk.

    ``final``: this token is dead, the only kind that erases. ``temporary``: keep it, back off. ``person``: keep it
    sealed, tell the person, ask again slowly. ``client``: the provider refuses the client; keep it, ask again slowly.
    ``request``: the provider refuses what was asked for (scope, audience, claims), whoever asks. ``description`` is the
    provider's own text, cleaned: for the person who signs in, no part of the verdict, and never logged.
    """

    kind: DenialKind
    error: str
    suberror: str = ""
    codes: tuple[int, ...] = ()
    trace_id: str = ""
    correlation_id: str = ""
    retry_after_s: float | None = None
    description: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Certainly not processed: keep the token, back off, at least ``retry_after_s`` where it is given.

    The ids are as in :class:`Denied`, where the provider itself has said so.
    """

    reason: str
    retry_after_s: float | None = None
    trace_id: str = field(default="", compare=False)
    correlation_id: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class OutcomeUnknown:
    """No verdict: the provider may have processed the request and rotated the token.

    ``came`` is ``page`` for a whole answer without a verdict, whose ``reason`` begins with status and media type
    (``503 text/html``); else ``lost``. ``retry_after_s`` is what a page asks for.
    """

    reason: str
    came: Came = "lost"
    retry_after_s: float | None = None


TokenOutcome = Refreshed | Denied | Unavailable | OutcomeUnknown
