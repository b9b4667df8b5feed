"""How a confidential client proves itself at the provider's endpoints.

A public client sends its ``client_id`` in the form, and nothing is added here. The credentials are the device's own,
from its own configuration; no grant brings any. A request says whose it is (:class:`.http.ClientIdentity`); the port
that sends it adds the proof as the last thing before it leaves.

Sources: RFC 6749 §2.3.1, RFC 7523 §2.2, OpenID Connect Core §9.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import assert_never
from urllib.parse import quote_plus

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from token_relay.protocol.secret import ClientKey, ClientSecret, Code
from token_relay.provider.http import AuthorizationHeader, ClientIdentity, HttpRequest

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_S = 60.0  # an assertion is made for one request; the rest is for a clock that is a little off
RSA_BITS_MIN = 2_048  # RFC 7518 §3.3
# The default algorithm of each kind of key; a JWK may name another. RFC 7518 §3.1, RFC 8037 §3.1.
DEFAULTS = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_OTHERS = {"RSA": ("RS384", "RS512", "PS256", "PS384", "PS512"), "Ed25519": ("Ed25519",)}


@dataclass(frozen=True, slots=True)
class BySecret:
    """A secret, sent in the header (``is_basic``) or in the form."""

    secret: ClientSecret
    is_basic: bool


@dataclass(frozen=True, slots=True)
class ByKey:
    """A private key that signs an assertion for each request."""

    key: ClientKey


ClientCredential = BySecret | ByKey


@dataclass(frozen=True, slots=True)
class _Signer:
    key: RSAKey | ECKey | OKPKey
    algorithm: str
    kid: str


def authenticate(
    request: HttpRequest, client: ClientIdentity, credential: ClientCredential, *, now_wall_s: float, jti: str
) -> HttpRequest:
    """Return the request with the client's proof; ``jti`` is fresh and random. The key was checked before."""
    form = request.form or ()
    match credential:
        case BySecret(secret, is_basic=True):
            pair = f"{quote_plus(client.client_id)}:{quote_plus(secret.reveal())}"
            value = base64.b64encode(pair.encode()).decode()
            return replace(request, authorization=AuthorizationHeader(f"Basic {value}"))
        case BySecret(secret):
            return replace(request, form=(*form, ("client_secret", secret)))
        case ByKey(key):
            assertion = _assertion(key, client, now_wall_s, jti)
            proof = (("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion))
            return replace(request, form=(*form, *proof))
        case _:
            assert_never(credential)


def _assertion(key: ClientKey, client: ClientIdentity, now_wall_s: float, jti: str) -> Code:
    """Sign who the client is. Providers of today want their issuer as ``aud``, older ones the token endpoint."""
    signer = _signer(key)
    assert not isinstance(signer, str), "checked when it was read"
    header = {"alg": signer.algorithm, "typ": "JWT", **({"kid": signer.kid} if signer.kid else {})}
    claims = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": [client.issuer, client.token_endpoint],
        "iat": int(now_wall_s),
        "exp": int(now_wall_s + ASSERTION_S),
        "jti": jti,
    }
    text = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    # Not jws.serialize_compact: it prints a warning for "EdDSA", which is what providers know.
    signature = jws.JWSRegistry.algorithms[signer.algorithm].sign(text, signer.key)
    return Code((text + b"." + _base64url(signature)).decode())


def key_problem(key: ClientKey) -> str:
    """Say why a key cannot sign, or return an empty string; the text holds nothing of the key."""
    signer = _signer(key)
    return signer if isinstance(signer, str) else ""


def key_algorithm(key: ClientKey) -> str:
    """Return the algorithm with which a key that was checked signs."""
    signer = _signer(key)
    assert not isinstance(signer, str), "checked when it was read"
    return signer.algorithm


def _signer(key: ClientKey) -> _Signer | str:
    text = key.reveal().strip()
    try:
        members = json.loads(text) if text.startswith("{") else {}
        found = _import(text, members)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):  # its words may quote the key
        return "is neither a JWK nor PEM with a private key"
    if found is None:
        return "is not a key for RSA, P-256, P-384, P-521 or Ed25519"
    if not found.is_private:
        return "is a public key; the private one is needed"
    kind = "RSA" if isinstance(found, RSAKey) else str(found.curve_name)
    if isinstance(found, RSAKey) and found.raw_value.key_size < RSA_BITS_MIN:
        return f"is an RSA key of less than {RSA_BITS_MIN} bits"
    algorithm, kid = members.get("alg") or DEFAULTS.get(kind), members.get("kid") or ""
    if kind not in DEFAULTS or not isinstance(kid, str):
        return "is not a key for RSA, P-256, P-384, P-521 or Ed25519"
    if algorithm not in (DEFAULTS[kind], *_OTHERS.get(kind, ())):
        return "names an algorithm (alg) that is not for this kind of key"
    return _Signer(found, str(algorithm), kid)


def _import(text: str, members: dict[str, object]) -> RSAKey | ECKey | OKPKey | None:
    if members:
        match members.get("kty"):
            case "RSA":
                return RSAKey.import_key(members)  # type: ignore[arg-type]  # the library checks each member
            case "EC":
                return ECKey.import_key(members)  # type: ignore[arg-type]
            case "OKP":
                return OKPKey.import_key(members)  # type: ignore[arg-type]
            case _:
                return None
    for kind in (RSAKey, ECKey, OKPKey):
        try:
            return kind.import_key(text)
        except (JoseError, ValueError, TypeError, AttributeError):
            continue
    raise ValueError("no key")


def _base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
