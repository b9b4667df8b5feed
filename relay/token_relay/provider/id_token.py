"""Check an id_token: who signed in, as far as the provider's signature says so.

An id_token is no credential here; it names the person in ``status`` and ties a grant to a subject, so that a
handoff of somebody else's account is noticed. It is accepted with RS256 or ES256 only, by a key that the provider
publishes, for this client and, where one was sent, with this sign-in's nonce. OpenID Connect Core 1.0 §3.1.3.7.

The caller brings the wall clock; on a device whose clock is not synced, there is nothing to check it against.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from token_relay.protocol.secret import IdToken
from token_relay.provider.http import Http, HttpRequest, HttpResponse, url_problem
from token_relay.provider.oauth import find_retry_after_s
from token_relay.provider.outcome import Unavailable
from token_relay.provider.tokens import ProviderError, parse_object, shown

LEEWAY_S = 120.0  # two clocks, each set by NTP, and a sign-in that took a moment
KEYS_MAX = 64  # Entra publishes some 5, Auth0 2
RSA_BITS_MIN = 2_048  # RFC 7518 §3.3
KID_CHARS_MAX = 256
SUB_CHARS_MAX = 255  # OpenID Connect Core §2
ALGORITHMS = ("RS256", "ES256")


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One public key that may sign id_tokens."""

    kid: str
    algorithm: str
    key: RSAKey | ECKey


Jwks = tuple[PublishedKey, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """Who signed in: ``sub`` is unique at the issuer; ``name`` and ``username`` are for a person's eyes only."""

    sub: str
    name: str = ""
    username: str = ""


async def fetch_jwks(http: Http, jwks_uri: str) -> Jwks | Unavailable:
    """Fetch the provider's public keys.

    Raises:
        ProviderError: something else came; the provider, or the URL, is wrong.
    """
    if (problem := url_problem(jwks_uri)) != "":
        raise ProviderError("jwks_unusable", f"the address of the provider's keys {problem}")
    answer = await http.request(HttpRequest("GET", jwks_uri, headers={"accept": "application/json"}))
    if not isinstance(answer, HttpResponse):
        return Unavailable(answer.reason)
    if answer.status >= 500 or answer.status in (408, 429):
        return Unavailable(f"HTTP {answer.status} instead of the provider's keys", find_retry_after_s(answer.headers))
    if answer.status != 200:
        raise ProviderError("jwks_unusable", f"HTTP {answer.status} instead of the provider's keys")
    return parse_jwks(answer.body)


def parse_jwks(body: bytes) -> Jwks:
    """Read a JWK set; keys that cannot sign with RS256 or ES256 are skipped. RFC 7517 §5.

    Raises:
        ProviderError: not a JWK set, too many keys, or no usable key in it.
    """
    parsed = parse_object(body)
    entries = parsed[0].get("keys") if parsed else None
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise ProviderError("jwks_unusable", f"the provider's keys are not a set of at most {KEYS_MAX}")
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _read_key(entry)) is not None)
    if not keys:
        raise ProviderError("jwks_unusable", "the provider publishes no key for RS256 or ES256")
    return keys


def _read_key(entry: dict[str, object]) -> PublishedKey | None:
    kid = entry.get("kid", "")
    if not isinstance(kid, str) or len(kid) > KID_CHARS_MAX or entry.get("use", "sig") != "sig":
        return None
    match entry:
        case {"kty": "RSA", "n": str(n), "e": str(e)} if entry.get("alg", "RS256") == "RS256":
            return _import_key(kid, {"kty": "RSA", "n": n, "e": e})
        case {"kty": "EC", "crv": "P-256", "x": str(x), "y": str(y)} if entry.get("alg", "ES256") == "ES256":
            return _import_key(kid, {"kty": "EC", "crv": "P-256", "x": x, "y": y})
        case _:
            return None


def _import_key(kid: str, public: dict[str, str | list[str]]) -> PublishedKey | None:
    # Only the members that make up the key: the caller has judged the rest of the entry.
    try:
        if public["kty"] == "EC":
            return PublishedKey(kid, "ES256", ECKey.import_key(public))
        if _bits(str(public["n"])) < RSA_BITS_MIN:
            return None  # refused here, because the library would print a warning
        rsa_key = RSAKey.import_key(public)
    except (JoseError, ValueError, TypeError, OverflowError):  # points off the curve, broken base64, e = 1
        return None
    return PublishedKey(kid, "RS256", rsa_key)


def _bits(modulus: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(modulus + "==")).bit_length()


def check_id_token(
    id_token: IdToken,
    jwks: Jwks,
    *,
    issuer: str,
    client_id: str,
    nonce: str | None,
    now_wall_s: float,
) -> Subject:
    """Return who signed in. ``nonce`` None means that none was sent (native authentication has none).

    Raises:
        ProviderError: with a ``reason`` slug; the sign-in must not be used.
    """
    claims = _verify(id_token, jwks)
    if claims.get("iss") != issuer:
        raise ProviderError("id_token_issuer", "the id_token is from another issuer")
    _check_audience(claims, client_id)
    _check_times(claims, now_wall_s)
    if nonce is not None:
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), nonce.encode()):
            raise ProviderError("id_token_nonce", "the id_token belongs to another sign-in")
    sub = claims.get("sub")
    if not isinstance(sub, str) or not sub or len(sub) > SUB_CHARS_MAX or not sub.isprintable():
        raise ProviderError("id_token_subject", f"the id_token has no sub of 1 to {SUB_CHARS_MAX} characters")
    username = claims.get("preferred_username") or claims.get("email")
    return Subject(sub, name=shown(claims.get("name")), username=shown(username))


def _verify(id_token: IdToken, jwks: Jwks) -> dict[str, object]:
    registry = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    try:
        signed = jws.extract_compact(id_token.reveal().encode())
        header = signed.headers()
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or "crit" in header:
            raise ProviderError("id_token_algorithm", "the id_token is not signed with RS256 or ES256")
        # Without a kid there must be only one key for the algorithm: OpenID Connect Core §10.1.
        candidates = [key for key in jwks if key.algorithm == algorithm and kid in (None, key.kid)]
        if len(candidates) != 1:
            raise ProviderError("id_token_key", "the provider publishes no single key for this id_token")
        is_genuine = jws.validate_compact(signed, candidates[0].key, registry=registry)
    except (JoseError, ValueError, TypeError) as error:
        # The library's message may quote the token; its class says enough.
        raise ProviderError("id_token_malformed", f"the id_token cannot be read ({type(error).__name__})") from None
    if not is_genuine:
        raise ProviderError("id_token_signature", "the id_token's signature is wrong")
    parsed = parse_object(signed.payload)
    if parsed is None or parsed[1]:
        raise ProviderError("id_token_malformed", "the id_token's claims are not a JSON object with distinct keys")
    return parsed[0]


def _check_audience(claims: dict[str, object], client_id: str) -> None:
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if client_id not in named:
        raise ProviderError("id_token_audience", "the id_token is for another client")
    party = claims.get("azp")
    if (party is not None or len(named) > 1) and party != client_id:
        raise ProviderError("id_token_audience", "the id_token was issued to another client")


def _check_times(claims: dict[str, object], now_wall_s: float) -> None:
    for name, is_required in (("exp", True), ("iat", True), ("nbf", False)):
        value = claims.get(name)
        if value is None and not is_required:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
            raise ProviderError("id_token_time", f"the id_token's {name} is missing or no time")
        if name == "exp" and value <= now_wall_s - LEEWAY_S:
            raise ProviderError("id_token_time", "the id_token has expired", hint="is the device's clock right?")
        if name != "exp" and value > now_wall_s + LEEWAY_S:
            raise ProviderError("id_token_time", f"the id_token's {name} is in the future", hint="check the clock")
