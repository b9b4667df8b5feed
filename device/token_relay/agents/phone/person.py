"""Signing in on the phone: the person, their options, the result, and the two ports that a sign-in needs.

:class:`SignIn` is the phone's way to the identity provider's sign-in, :class:`RedirectReceiver` the browser's way back.
In production :mod:`token_relay.agents.phone.sign_in` and :mod:`token_relay.host.loopback_receiver` implement them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from token_relay.agents.elapsed import Stamp
from token_relay.protocol.errors import TransientError
from token_relay.protocol.secret import Code
from token_relay.provider.discovery import ProviderMetadata
from token_relay.provider.native_auth.states import Done, Failed
from token_relay.provider.outcome import Denied, Refreshed


class Person(Protocol):
    """The person at the command line, reached through :class:`token_relay.service.control.Exchange`."""

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        """Ask; None when nobody answers."""
        ...

    async def progress(self, step: dict[str, Any]) -> None:
        """Tell the person what has happened so far."""
        ...


@dataclass(frozen=True, slots=True)
class SignInOptions:
    """How the person wants to sign in; ``method`` "" lets the profile choose.

    ``mfa_method`` is the second factor's channel, id or masked address; ``contact`` is what to register as one.
    ``attributes`` and ``with_password`` are for a new account. ``client_id``: another client than the phone's own.
    """

    method: str = ""
    username: str = ""
    open_browser: bool = True
    mfa_method: str = ""
    contact: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    with_password: bool = True
    client_id: str = ""


class SignInLostError(TransientError):
    """The answer to the last step of a sign-in was lost: the provider may have issued a token that nobody has."""


@dataclass(frozen=True, slots=True)
class SignInNote:
    """Something about a sign-in that the person should hear: ``event`` goes to the audit table with ``text``."""

    event: str
    text: str


@dataclass(frozen=True, slots=True)
class NewGrant:
    """Tokens of a sign-in, and their origin. ``subject``, ``sid`` and ``notes`` are empty until it is checked.

    ``client_id`` is empty for the phone's own client. ``sid`` names the browser session at the provider, where it
    tells. OpenID Connect Back-Channel Logout §2.1.
    """

    tokens: Refreshed
    metadata: ProviderMetadata
    sent: Stamp
    nonce: str | None
    is_otp: bool
    username: str
    subject: str = ""
    sid: str = ""
    notes: tuple[SignInNote, ...] = ()
    client_id: str = ""
    user_id: str = ""


@dataclass(frozen=True, slots=True)
class NotSignedIn:
    """The account was made or the password changed (``done``), but the sign-in after it failed: ``reason``."""

    done: Done
    reason: str


RefusalNote = Callable[[Failed | Denied | None], Awaitable[None]]
"""Takes the provider's last refusal, if any, of a sign-in that failed; for the audit table."""


class SignIn(Protocol):
    """The provider's sign-in. Its tokens are only in memory; the caller stores them.

    Each way of signing in raises PersonNeededError (the provider wants something that this way cannot do), LocalError
    or TransientError (it failed); the message says why and what to try.
    """

    async def authenticate(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant:
        """Have the person sign in; the tokens are not yet judged."""
        ...

    async def sign_up(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant | NotSignedIn:
        """Make an account natively, and sign in where the provider allows it. If it raises, there is no account."""
        ...

    async def reset_password(self, person: Person, options: SignInOptions, note: RefusalNote) -> NewGrant | NotSignedIn:
        """Change a password natively, and sign in where the provider allows it."""
        ...

    async def check(self, new: NewGrant) -> NewGrant:
        """Judge a sign-in; returns it with the subject of the id_token, and with notes for the person.

        An id_token whose signature cannot be judged here does not cost the sign-in: a note says so.

        Raises:
            LocalError, PeerError: it must not be used.
        """
        ...


# -- the browser's way back --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CodeReceived:
    """The provider sent the browser back with an authorization code."""

    code: Code


@dataclass(frozen=True, slots=True)
class SignInRefused:
    """The provider sent the browser back with an error.

    ``error`` is its code, reduced to a slug, ``description`` its own words, cleaned. The ids are those of ``Denied``.
    """

    error: str
    description: str = ""
    codes: tuple[int, ...] = ()
    trace_id: str = ""
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """A browser came, and it was not the answer to this sign-in; ``why`` is a sentence for the person."""

    why: str


class RedirectReceiver(Protocol):
    """Waits where the provider sends the browser at the end of one sign-in, from ``async with`` on. RFC 8252 §7."""

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        ...

    @property
    def redirect_uri(self) -> str:
        """The URI for the authorization request."""
        ...

    async def wait(self) -> CodeReceived | SignInRefused | NotAccepted:
        """Wait for the redirect of this sign-in, or for one that is not accepted; the caller limits the time.

        It may be called again after a cancel, and after :class:`NotAccepted`, which comes once for each reason.
        """
        ...


NewReceiver = Callable[[str], RedirectReceiver]
"""Makes the receiver for the sign-in with this ``state``."""
