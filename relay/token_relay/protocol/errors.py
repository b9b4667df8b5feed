"""Error families, split by what the caller does next.

Expected outcomes are values, not exceptions (see :mod:`token_relay.provider.oauth`); these are for the rest.
Messages are lower case, without a full stop and without any secret; they name the thing and the limit.
``hint`` says what a person can try.
"""

from __future__ import annotations


class RelayError(Exception):
    """Root of the project's errors.

    Attributes:
        hint: what a person can try next, or an empty string.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TransientError(RelayError):
    """Nothing is lost; try again later."""


class PeerError(RelayError):
    """The other end, or whoever speaks in its name, broke the protocol: count it and drop the message.

    Attributes:
        reason: stable snake_case slug, listed in ``docs/spec/``.
    """

    def __init__(self, reason: str, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or reason.replace("_", " "), hint=hint)
        self.reason = reason

    @property
    def fields(self) -> str:
        """The names of the fields that were wrong, where the message has them; or empty."""
        return "" if str(self) == self.reason.replace("_", " ") else str(self)

    def told(self) -> str:
        """Return the reason for a log, with the names of the fields."""
        return f"{self.reason}: {self.fields}" if self.fields else self.reason


class LocalError(RelayError):
    """This end is set up or used wrongly; a person must change something here."""


class ConfigError(LocalError):
    """A configuration file or option is wrong; the message names file and key."""


class PolicyError(LocalError):
    """Refused by a rule that somebody set on purpose (exit code 5)."""


class PersonNeededError(LocalError):
    """Nothing continues until a person acts; ``hint`` names the one action (exit code 4)."""


class VaultError(LocalError):
    """The vault cannot be opened, read or written; the state on disk is as it was before the call."""


class LocalProtocolError(AssertionError):
    """This end asked its own state machine for what makes no sense in that state: a bug of the caller, as in h11.

    It is no :class:`RelayError`, so that no handler takes it for one of the expected failures above. Nothing was
    decided; the transaction ends with it, and the driver logs it as the bug that it is.
    """
