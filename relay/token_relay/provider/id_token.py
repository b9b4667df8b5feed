"""Check an id_token: who signed in, as far as the provider's signature says so.

An id_token is no credential here; it names the person in ``status`` and ties a grant to a subject, so that a
handoff of somebody else's account is noticed. It is for this client and, where one was sent, has this sign-in's nonce.
OpenID Connect Core 1.0 §3.1.3.7.

What is proven wrong is refused: a claim, a signature, an algorithm without a public key (``none``, ``HS256``), a key of
another kind than the algorithm's. What cannot be judged here (an algorithm that we do not know, no key set, no key of
that name) is accepted with :attr:`Subject.unverified`: the token came from the token endpoint itself, over TLS or
loopback, which item 6 of that section allows in place of the signature. Every token endpoint is such a URL:
:func:`token_relay.provider.discovery.discover` takes no other.

The caller brings the wall clock; on a device whose clock is not synced, there is nothing to check it against.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from token_relay.protocol.secret import IdToken
from token_relay.provider.http import Http, HttpRequest, HttpResponse, is_loopback, url_problem
from token_relay.provider.tokens import ProviderError, parse_object, shown

LEEWAY_S = 120.0  # two clocks, each set by NTP, and a sign-in that took a moment
YEAR_9999_S = 253_402_300_799.0  # the last moment that can be written
RSA_BITS_MIN = 2_048  # RFC 7518 §3.3
KID_CHARS_MAX = 256
SUB_CHARS_MAX = 255  # OpenID Connect Core §2
# The kind of key for each algorithm that we can verify: RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2.
ALGORITHMS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519",
    "Ed25519": "Ed25519",
}
_PUBLIC_KEY_ALGORITHM = re.compile(r"(?!HS)(?!none)[A-Za-z0-9-]{1,16}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """One public key that may sign id_tokens: with ``algorithm``, or with any of its ``kind`` when that is empty."""

    kid: str
    kind: str
    algorithm: str
    key: RSAKey | ECKey | OKPKey

    def fits(self, algorithm: str) -> bool:
        """Return whether the provider means this key for ``algorithm``. RFC 8725 §3.1."""
        return self.kind == ALGORITHMS[algorithm] and self.algorithm in ("", algorithm)


Jwks = tuple[PublishedKey, ...]


@dataclass(frozen=True, slots=True)
class NoKeys:
    """The provider's keys cannot be had; nothing follows from that for a token."""

    reason: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Who signed in: ``sub`` is unique at the issuer; ``name`` and ``username`` are for a person's eyes only.

    ``sid`` names the browser session at the provider, where it tells. ``unverified`` says why the signature could not
    be judged; it is empty when the signature is right. ``user_id`` is what the provider's administration calls the
    person, where that is not ``sub``: Entra's ``oid``.
    """

    sub: str
    name: str = ""
    username: str = ""
    sid: str = ""
    unverified: str = ""
    user_id: str = ""


async def fetch_jwks(http: Http, jwks_uri: str | None) -> Jwks | NoKeys:
    """Fetch the provider's public keys."""
    if jwks_uri is None:
        return NoKeys("the provider names no address of its keys (jwks_uri)")
    if (problem := url_problem(jwks_uri)) != "":
        return NoKeys(f"the address of the provider's keys {problem}")
    answer = await http.request(HttpRequest("GET", jwks_uri, headers={"accept": "application/json"}))
    if not isinstance(answer, HttpResponse):
        return NoKeys(f"the provider's keys cannot be had: {answer.reason}")
    if answer.status != 200:
        return NoKeys(f"HTTP {answer.status} instead of the provider's keys")
    return parse_jwks(answer.body)


def parse_jwks(body: bytes) -> Jwks | NoKeys:
    """Read a JWK set; keys that we cannot use are skipped. The size of the answer limits their number. RFC 7517 §5."""
    parsed = parse_object(body)
    entries = parsed[0].get("keys") if parsed else None
    if not isinstance(entries, list):
        return NoKeys("the provider's keys are not a JWK set")
    return tuple(key for entry in entries if isinstance(entry, dict) and (key := _read_key(entry)) is not None)


def _read_key(entry: dict[str, object]) -> PublishedKey | None:
    kid, algorithm = entry.get("kid") or "", entry.get("alg") or ""
    if not isinstance(kid, str) or len(kid) > KID_CHARS_MAX or entry.get("use", "sig") != "sig":
        return None
    if not isinstance(algorithm, str):
        return None
    key: RSAKey | ECKey | OKPKey
    # Only the members that make up the key.
    try:
        match entry:
            case {"kty": "RSA", "n": str(n), "e": str(e)} if _bits(n) >= RSA_BITS_MIN:  # the library would only warn
                kind, key = "RSA", RSAKey.import_key({"kty": "RSA", "n": n, "e": e})
            case {"kty": "EC", "crv": str(kind), "x": str(x), "y": str(y)} if kind in ALGORITHMS.values():
                key = ECKey.import_key({"kty": "EC", "crv": kind, "x": x, "y": y})
            case {"kty": "OKP", "crv": "Ed25519", "x": str(x)}:
                kind, key = "Ed25519", OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
                algorithm = "" if algorithm in ("EdDSA", "Ed25519") else algorithm  # two names of one algorithm
            case _:
                return None
    except (JoseError, ValueError, TypeError, OverflowError):  # points off the curve, broken base64, e = 1
        return None
    is_known = ALGORITHMS.get(algorithm) == kind if algorithm else kind in ALGORITHMS.values()
    return PublishedKey(kid, kind, algorithm, key) if is_known else None


def _bits(modulus: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(modulus + "==")).bit_length()


def check_id_token(
    id_token: IdToken,
    jwks: Jwks | NoKeys,
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
    claims, unverified = _verify(id_token, jwks)
    if claims.get("iss") != issuer:
        raise ProviderError("id_token_issuer", "the id_token is from another issuer")
    _check_audience(claims, client_id)
    _check_times(claims, now_wall_s, is_local=is_loopback(urlsplit(issuer).hostname or ""))
    if nonce is not None:
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), nonce.encode()):
            raise ProviderError("id_token_nonce", "the id_token belongs to another sign-in")
    sub, sid = claims.get("sub"), claims.get("sid")
    if not _is_name(sub):
        raise ProviderError("id_token_subject", f"the id_token has no sub of 1 to {SUB_CHARS_MAX} characters")
    username = claims.get("preferred_username") or claims.get("email")
    return Subject(
        str(sub),
        name=shown(claims.get("name")),
        username=shown(username),
        sid=str(sid) if _is_name(sid) else "",
        unverified=unverified,
        user_id=str(claims["oid"]) if _is_name(claims.get("oid")) else "",
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= SUB_CHARS_MAX and value.isprintable()


def _verify(id_token: IdToken, jwks: Jwks | NoKeys) -> tuple[dict[str, object], str]:
    """Return the claims, and why the signature could not be judged, or an empty string."""
    try:
        signed = jws.extract_compact(id_token.reveal().encode())
        unverified = _judge(signed, jwks)
    except (JoseError, ValueError, TypeError) as error:
        # The library's message may quote the token; its class says enough.
        raise ProviderError("id_token_malformed", f"the id_token cannot be read ({type(error).__name__})") from None
    parsed = parse_object(signed.payload)
    if parsed is None or parsed[1]:
        raise ProviderError("id_token_malformed", "the id_token's claims are not a JSON object with distinct keys")
    return parsed[0], unverified


def _judge(signed: jws.CompactSignature, jwks: Jwks | NoKeys) -> str:
    header = signed.headers()
    algorithm, kid = header.get("alg"), header.get("kid") or ""
    if not isinstance(algorithm, str) or not _PUBLIC_KEY_ALGORITHM.fullmatch(algorithm) or "crit" in header:
        raise ProviderError("id_token_algorithm", "the id_token is not signed in a way that a public key can prove")
    if not isinstance(kid, str):
        raise ProviderError("id_token_malformed", "the id_token's kid is no string")
    if algorithm not in ALGORITHMS:
        return f"it is signed with {algorithm}, which this program cannot check"
    if isinstance(jwks, NoKeys):
        return jwks.reason
    candidates = _candidates(jwks, kid, algorithm)
    if isinstance(candidates, str):
        return candidates
    # Not jws.validate_compact: it prints a warning for "EdDSA", which providers still write.
    verifier = jws.JWSRegistry.algorithms[algorithm]
    text = signed.segments["header"] + b"." + signed.segments["payload"]
    signature = base64.urlsafe_b64decode(signed.segments["signature"] + b"==")
    if not any(verifier.verify(text, signature, key.key) for key in candidates):
        raise ProviderError("id_token_signature", "the id_token's signature is wrong")
    return ""


def _candidates(jwks: Jwks, kid: str, algorithm: str) -> list[PublishedKey] | str:
    """Return the keys that may have signed: all of that name, else those without one. Or why there are none."""
    named = [key for key in jwks if key.kid == kid] if kid else []
    if named and not any(key.fits(algorithm) for key in named):
        raise ProviderError("id_token_key", f"the provider's key of the id_token's name is not for {algorithm}")
    unnamed = [key for key in jwks if not kid or not key.kid]
    candidates = [key for key in named or unnamed if key.fits(algorithm)]
    if not kid and len({key.key.thumbprint() for key in candidates}) > 1:
        raise ProviderError("id_token_key", "the id_token names no key, and the provider has several")  # Core §10.1
    return candidates or f"the provider publishes no key for it ({algorithm})"


def _check_audience(claims: dict[str, object], client_id: str) -> None:
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if client_id not in named:
        raise ProviderError("id_token_audience", "the id_token is for another client")
    party = claims.get("azp")
    if (party is not None or len(named) > 1) and party != client_id:
        raise ProviderError("id_token_audience", "the id_token was issued to another client")


def _check_times(claims: dict[str, object], now_wall_s: float, *, is_local: bool) -> None:
    for name, is_required in (("exp", True), ("iat", True), ("nbf", False)):
        value = claims.get(name)
        if value is None and not is_required:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
            raise ProviderError("id_token_time", f"the id_token's {name} is missing or no time")
        if (value <= now_wall_s - LEEWAY_S) if name == "exp" else (value > now_wall_s + LEEWAY_S):
            what = "has expired" if name == "exp" else "is in the future"
            hint = "set the clock of this machine"
            if is_local:  # both have one clock, unless a person moved the sandbox's
                hint = "start the sandbox anew if its clock was moved (token-relay sandbox), else set the clock here"
            times = f"{name} {_moment(value)}, the clock here says {_moment(now_wall_s)}"
            raise ProviderError("id_token_time", f"the id_token {what}: {times}", hint=hint)


def _moment(at_s: float) -> str:
    return f"{datetime.fromtimestamp(min(at_s, YEAR_9999_S), UTC):%Y-%m-%d %H:%M:%SZ}"
