"""Who sits at the command line, and what he has said beforehand about the way to sign in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from token_relay.protocol.errors import TransientError


class Person(Protocol):
    """Whoever sits at the command line, as :class:`token_relay.service.control.Exchange` offers him."""

    async def ask(self, kind: Any, text: str, **extra: Any) -> str | None:
        """Ask; None when nobody answers."""
        ...

    async def progress(self, step: dict[str, Any]) -> None:
        """Tell how far it is."""
        ...


@dataclass(frozen=True, slots=True)
class SignInOptions:
    """How the person wants to sign in; ``method`` "" lets the profile choose.

    ``mfa_method`` is the second factor's channel, id or masked address; ``contact`` what to register as one.
    ``attributes`` and ``with_password`` are for a new account.
    """

    method: str = ""
    username: str = ""
    open_browser: bool = True
    mfa_method: str = ""
    contact: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    with_password: bool = True


class SignInLostError(TransientError):
    """The answer to the last step of a sign-in was lost: the provider may have issued a token that nobody has."""
