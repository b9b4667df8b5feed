"""Who signs the sandbox's JWTs.

The HTTP server signs with RS256 under a key made at its start, as providers do. A simulation of thousands of
histories wants neither the millisecond nor a key that differs from run to run: it takes :class:`SharedKeySigner`,
which is not for anything else, since who can verify with it can also sign.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol, runtime_checkable

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from relay.sandbox.values import JsonValue

KEYS_MAX = 4  # published at a time; a provider has two or three


class Signer(Protocol):
    """Turns claims into a JWT and publishes what is needed to verify it."""

    @property
    def algorithm(self) -> str:
        """JWS algorithm name. RFC 7518 §3.1."""
        ...

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation."""
        ...

    def jwks(self) -> dict[str, JsonValue]:
        """Return the public keys as a JWK Set. RFC 7517 §5."""
        ...


@runtime_checkable
class RollsOver(Protocol):
    """A signer that can take a new key."""

    def roll_over(self, *, keep_old: bool) -> None:
        """Sign with a new key from now on; the former ones stay published only when ``keep_old``."""
        ...


def published(signer: Signer) -> list[dict[str, JsonValue]]:
    """Return the public keys one by one, the oldest first."""
    keys = signer.jwks()["keys"]
    return [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []


class RsaSigner:
    """RS256 under a fresh 2048-bit key, the newest of at most :data:`KEYS_MAX`. RFC 7518 §3.3."""

    algorithm = "RS256"

    def __init__(self) -> None:
        self._keys = [RSAKey.generate_key(2048, auto_kid=True)]

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation; takes about 1.5 ms."""
        key = self._keys[-1]
        return jwt.encode({"alg": self.algorithm, "typ": typ, "kid": key.kid}, claims, key)

    def jwks(self) -> dict[str, JsonValue]:
        """Return the public keys, the oldest first."""
        keys: list[JsonValue] = []
        for key in self._keys:
            public: dict[str, JsonValue] = {name: str(value) for name, value in key.as_dict(private=False).items()}
            keys.append({**public, "use": "sig", "alg": self.algorithm})
        return {"keys": keys}

    def roll_over(self, *, keep_old: bool) -> None:
        """Make a new key, which takes up to a second."""
        kept = self._keys[-(KEYS_MAX - 1) :] if keep_old else []
        self._keys = [*kept, RSAKey.generate_key(2048, auto_kid=True)]


class SharedKeySigner:
    """HS256 under a given key, for simulations only: fast, and the same tokens in each run."""

    algorithm = "HS256"

    def __init__(self, key: bytes) -> None:
        self._key = OctKey.import_key(key)
        self._kid = "simulation"

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation."""
        return jwt.encode({"alg": self.algorithm, "typ": typ, "kid": self._kid}, claims, self._key)

    def jwks(self) -> dict[str, JsonValue]:
        """Return no key: a shared key is not published."""
        return {"keys": []}

    def roll_over(self, *, keep_old: bool) -> None:
        """Sign with a key that follows from the present one."""
        self._key = OctKey.import_key(sha256(self._key.raw_value).digest())
        self._kid += "'"
