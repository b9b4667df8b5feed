"""The signers of the sandbox's JWTs.

The HTTP server signs with RS256 under a key made at its start, as providers do. A simulation of thousands of histories
must not spend a millisecond on each, nor have a key that differs from run to run: it takes :class:`SharedKeySigner`,
which is for nothing else, since whoever can verify with it can also sign.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha1, sha256
from typing import Protocol, runtime_checkable

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey, RSAKey

from token_relay.sandbox.provider.http_values import JsonValue

CERTIFICATE_LASTS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)  # valid at any time of the clock
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

    def verify(self, token: str) -> dict[str, JsonValue] | None:
        """Return the claims of a JWT that a key of ours has signed and that is still published, else None."""
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
        self._certificates = {key.kid: _certificate(key) for key in self._keys}

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation; takes about 1.5 ms."""
        key = self._keys[-1]
        return jwt.encode({"alg": self.algorithm, "typ": typ, "kid": key.kid}, claims, key)

    def verify(self, token: str) -> dict[str, JsonValue] | None:
        """Return the claims of a genuine JWT, else None."""
        return _verify(token, KeySet(list(self._keys)), self.algorithm)

    def jwks(self) -> dict[str, JsonValue]:
        """Return the public keys, the oldest first."""
        keys: list[JsonValue] = []
        for key in self._keys:
            public: dict[str, JsonValue] = {name: str(value) for name, value in key.as_dict(private=False).items()}
            der = self._certificates[key.kid]
            thumbprint = urlsafe_b64encode(sha1(der, usedforsecurity=False).digest()).decode().rstrip("=")
            shown: dict[str, JsonValue] = {"x5t": thumbprint, "x5c": [b64encode(der).decode()]}
            keys.append({**public, **shown, "use": "sig", "alg": self.algorithm})
        return {"keys": keys}

    def roll_over(self, *, keep_old: bool) -> None:
        """Make a new key, which takes up to a second."""
        kept = self._keys[-(KEYS_MAX - 1) :] if keep_old else []
        self._keys = [*kept, RSAKey.generate_key(2048, auto_kid=True)]
        known = self._certificates
        self._certificates = {key.kid: known.get(key.kid) or _certificate(key) for key in self._keys}


class SharedKeySigner:
    """HS256 under a given key, for tests only: fast, and the same tokens in each run."""

    algorithm = "HS256"

    def __init__(self, key: bytes) -> None:
        self._keys, self._rolled = [_shared(key, 0)], 0

    def sign(self, claims: dict[str, JsonValue], *, typ: str = "JWT") -> str:
        """Return the compact serialisation."""
        key = self._keys[-1]
        return jwt.encode({"alg": self.algorithm, "typ": typ, "kid": key.kid}, claims, key)

    def verify(self, token: str) -> dict[str, JsonValue] | None:
        """Return the claims of a genuine JWT, else None."""
        return _verify(token, KeySet(list(self._keys)), self.algorithm)

    def jwks(self) -> dict[str, JsonValue]:
        """Return no key: a shared key is not published."""
        return {"keys": []}

    def roll_over(self, *, keep_old: bool) -> None:
        """Sign with a key that follows from the present one."""
        kept = self._keys[-(KEYS_MAX - 1) :] if keep_old else []
        self._rolled += 1
        self._keys = [*kept, _shared(sha256(self._keys[-1].raw_value).digest(), self._rolled)]


def _certificate(key: RSAKey) -> bytes:
    """Return what ``x5c`` shows: the key in a self-signed certificate, in DER."""
    assert key.private_key is not None, "made here, whole"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox signing key")])
    number = int.from_bytes(sha256(str(key.kid).encode()).digest()[:16])
    builder = x509.CertificateBuilder(name, name, key.public_key, number, *CERTIFICATE_LASTS)
    return builder.sign(key.private_key, SHA256()).public_bytes(Encoding.DER)


def _shared(key: bytes, number: int) -> OctKey:
    return OctKey.import_key(key, {"kid": "simulation" + "'" * number})


def _verify(token: str, keys: KeySet, algorithm: str) -> dict[str, JsonValue] | None:
    try:
        claims: dict[str, JsonValue] = jwt.decode(token, keys, algorithms=[algorithm]).claims
    except (JoseError, ValueError, TypeError):  # not a JWT of ours
        return None
    return claims
