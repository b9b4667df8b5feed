"""Who signs the sandbox's JWTs.

The HTTP server signs with RS256 under a key made at its start, as providers do. A simulation of thousands of
histories wants neither the millisecond nor a key that differs from run to run: it takes :class:`SharedKeySigner`,
which is not for anything else, since who can verify with it can also sign.
"""

from __future__ import annotations

from typing import Protocol

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from relay.sandbox.values import JsonValue


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


class RsaSigner:
    """RS256 under a fresh 2048-bit key. RFC 7518 §3.3."""

    algorithm = "RS256"

    def __init__(self) -> None:
        self._key = RSAKey.generate_key(2048, auto_kid=True)

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation; takes about 1.5 ms."""
        return jwt.encode({"alg": self.algorithm, "typ": typ, "kid": self._key.kid}, claims, self._key)

    def jwks(self) -> dict[str, JsonValue]:
        """Return the one public key."""
        public = self._key.as_dict(private=False)
        key: dict[str, JsonValue] = {name: str(value) for name, value in public.items()}
        return {"keys": [{**key, "use": "sig", "alg": self.algorithm}]}


class SharedKeySigner:
    """HS256 under a given key, for simulations only: fast, and the same tokens in each run."""

    algorithm = "HS256"

    def __init__(self, key: bytes) -> None:
        self._key = OctKey.import_key(key)

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation."""
        return jwt.encode({"alg": self.algorithm, "typ": typ, "kid": "simulation"}, claims, self._key)

    def jwks(self) -> dict[str, JsonValue]:
        """Return no key: a shared key is not published."""
        return {"keys": []}
