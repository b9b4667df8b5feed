"""Secrets that do not print.

A token, key, code or password is a :class:`Secret` from the moment it is parsed. Nothing that renders
values by accident shows it: ``repr``, ``str``, ``format``, ``%``, pickling, ``dataclasses.asdict``, a pydantic
dump, a traceback with locals. The one way out is :meth:`Secret.reveal`; its call sites are a short list that
``tests/core/test_secret.py`` keeps.

Limit, stated here because the reader meets it here: CPython copies strings and bytes freely, so a secret is
never *wiped* from memory. The type protects against printing, not against somebody who can read the process.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

T = TypeVar("T", str, bytes)

SECRET_CHARS_MAX = 16_384  # no token, code or password that a provider sends is longer; refuse, never cut


class Secret(Generic[T]):
    """A str or bytes that can be carried, compared and revealed, but not shown."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        if not isinstance(value, str | bytes):
            raise TypeError(f"{type(self).__name__} holds str or bytes")
        if not value or len(value) > SECRET_CHARS_MAX:
            raise ValueError(f"{type(self).__name__} is empty or longer than {SECRET_CHARS_MAX}")
        object.__setattr__(self, "_value", value)

    def reveal(self) -> T:
        """Return the value itself. Every call site is listed in ``tests/core/test_secret.py``."""
        value: T = self._value  # type: ignore[attr-defined]  # set through object.__setattr__
        return value

    def is_in(self, text: str) -> bool:
        """Whether a text that comes from outside repeats this secret."""
        value = self.reveal()
        return (value.decode("latin-1") if isinstance(value, bytes) else value) in text

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return hmac.compare_digest(_octets(self.reveal()), _octets(other.reveal()))

    def __hash__(self) -> int:
        return hash(type(self))  # equal secrets must hash alike; a hash of the value would be a fingerprint

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret is immutable")

    def __deepcopy__(self, memo: object) -> Secret[T]:
        return self

    def __copy__(self) -> Secret[T]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let a pydantic model parse a JSON string straight into this type; dumping shows only the name."""
        from pydantic_core import core_schema

        parse = core_schema.chain_schema(
            [
                core_schema.str_schema(min_length=1, max_length=SECRET_CHARS_MAX, strict=True),
                core_schema.no_info_plain_validator_function(cls),
            ]
        )
        return core_schema.json_or_python_schema(
            json_schema=parse,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), parse]),
            serialization=core_schema.plain_serializer_function_ser_schema(repr),
        )


class RefreshToken(Secret[str]):
    """An OAuth refresh token. RFC 6749 §1.5."""

    __slots__ = ()


class AccessToken(Secret[str]):
    """An OAuth access token. RFC 6749 §1.4."""

    __slots__ = ()


class SessionTransferToken(Secret[str]):
    """Signs a browser in, once, within a minute."""

    __slots__ = ()


class IdToken(Secret[str]):
    """An OpenID Connect id_token: no credential, but it names the person."""

    __slots__ = ()


class Code(Secret[str]):
    """A short-lived credential of a sign-in: one-time code, authorization code, verifier, continuation token."""

    __slots__ = ()


class Password(Secret[str]):
    """A person's password, or the passphrase of a vault."""

    __slots__ = ()


class ClientSecret(Secret[str]):
    """The secret of a confidential client. RFC 6749 §2.3.1."""

    __slots__ = ()


class ClientKey(Secret[str]):
    """A confidential client's private key, as its file has it: a JWK or PEM."""

    __slots__ = ()


class PrivateKey(Secret[bytes]):
    """32 bytes: an X25519 private key, or the key of a secret box."""

    __slots__ = ()

    def __init__(self, value: bytes) -> None:
        if len(value) != 32:
            raise ValueError("a private key has 32 bytes")
        super().__init__(value)


def _octets(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
