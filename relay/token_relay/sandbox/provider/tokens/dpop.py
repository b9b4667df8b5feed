"""Proof of possession: a client signs each request with a key, and its tokens work with that key only. RFC 9449.

Only ``auth0`` implements it, and only for clients that send a proof. A public client's refresh token is then
bound to its key, a confidential client's is not (§5). A public client has to use the server's nonce (§8): the first
request is answered 400 ``use_dpop_nonce``, and every answer to a request with a proof carries the present nonce. A
proof is checked before a code or a refresh token is read, so a wrong proof spends none.

Ours: nonces live between 5 and 10 minutes. A proof may be 5 minutes old by the provider's clock or by the machine's,
since the former can be set.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import urlsplit

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from token_relay.sandbox.provider.http_values import JsonValue, Refusal, Request, Response, json_response
from token_relay.sandbox.provider.memory.refusals import Trace
from token_relay.sandbox.provider.memory.state import State, remember
from token_relay.sandbox.provider.tokens.issued import claims_of
from token_relay.sandbox.provider.world.model import ClientModel

ALGORITHMS = ("ES256", "RS256", "PS256")
PROOF_CHARS_MAX = 8_192
JTI_CHARS_MAX = 256
AGE_S_MAX = 300.0
NONCE_S = 300.0
PROOFS = jws.JWSRegistry(algorithms=ALGORITHMS)
PROOFS.max_header_length = PROOF_CHARS_MAX  # an RSA key alone is longer than the library's 512
RSA_BITS = range(2_048, 4_097)  # a smaller key proves nothing, a larger one takes the provider's time


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proof says, after its signature was checked."""

    key_thumbprint: str
    claims: dict[str, object]


def nonce(state: State, now: float) -> str:
    """Return the nonce that proofs should use now."""
    return _nonce(state, int(now // NONCE_S))


def binding_of(client: ClientModel | None, trace: Trace) -> str:
    """Return the key that a refresh token of this client is bound to, or an empty string. §5."""
    return "" if client is None or client.is_confidential else trace.key_thumbprint


def prove(state: State, request: Request, trace: Trace, *, client: ClientModel | None) -> str:
    """Return the thumbprint of the key that a token request proves, empty if it has no proof. Raises Refusal."""
    value = request.headers.get("dpop")
    if value is None:
        return ""
    proof = _checked(state, value, request, trace)
    given = proof.claims.get("nonce")
    is_fresh = isinstance(given, str) and _is_nonce(state, given, trace.now)
    if not is_fresh and (given is not None or client is None or not client.is_confidential):
        raise Refusal("use_dpop_nonce", "Authorization server requires nonce in DPoP proof")
    _once(state, proof, trace)
    return proof.key_thumbprint


def shown_token(state: State, request: Request, authorization: str, trace: Trace) -> str | Response:
    """Return a resource request's ``Authorization`` in bearer form, or the refusal of a token without its proof."""
    kind, _, token = authorization.partition(" ")
    bound_to = _bound_to(state, token.strip())
    if kind.lower() != "dpop":
        return _refused("invalid_token", "the access token is bound to a key") if bound_to else authorization
    try:
        proof = _checked(state, request.headers.get("dpop", ""), request, trace)
        _once(state, proof, trace)
    except Refusal as refusal:
        return _refused(refusal.error, refusal.description)
    hashed = base64.urlsafe_b64encode(sha256(token.strip().encode()).digest()).rstrip(b"=").decode()
    if proof.key_thumbprint != bound_to or proof.claims.get("ath") != hashed:
        return _refused("invalid_token", "the proof is for another access token or by another key")
    return f"Bearer {token.strip()}"


def _checked(state: State, value: str, request: Request, trace: Trace) -> Proof:
    """Check all of §4.3, except the nonce and that the proof comes once. Raises Refusal."""
    proof = _verified(value)
    if proof is None:
        raise Refusal("invalid_dpop_proof", "The DPoP proof cannot be verified.")
    claims, path = proof.claims, request.target.partition("?")[0]
    bases = {state.urls.base_url, f"{urlsplit(state.urls.base_url).scheme}://{trace.host}"}
    told = claims.get("htu")
    if claims.get("htm") != request.method or not isinstance(told, str):
        raise Refusal("invalid_dpop_proof", "The DPoP proof is for another request.")
    if told.partition("#")[0].partition("?")[0] not in {f"{base}{path}" for base in bases}:
        raise Refusal("invalid_dpop_proof", "The DPoP proof is for another request.")
    issued_at = claims.get("iat")
    clocks = (trace.now, trace.now - state.clock_offset_s)
    if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
        raise Refusal("invalid_dpop_proof", "The DPoP proof does not say when it was made.")
    if all(abs(clock - issued_at) > AGE_S_MAX for clock in clocks):
        raise Refusal("invalid_dpop_proof", "The DPoP proof is too old or too young.")
    return proof


def _once(state: State, proof: Proof, trace: Trace) -> None:
    """Accept a proof's name, but only once. Raises Refusal."""
    if trace.verdict is not None:
        return  # the same request again, after its Action was asked
    name = sha256(f"{proof.key_thumbprint} {proof.claims['jti']}".encode()).hexdigest()
    if name in state.seen_proofs:
        raise Refusal("invalid_dpop_proof", "The DPoP proof was used before.")
    remember(state.seen_proofs, name, trace.now)


def _verified(value: str) -> Proof | None:
    if not value.isascii() or len(value) > PROOF_CHARS_MAX:
        return None
    try:
        header = jws.extract_compact(value.encode(), registry=PROOFS).protected
        raw = header.get("jwk")
        if header.get("typ") != "dpop+jwt" or header.get("alg") not in ALGORITHMS or not isinstance(raw, dict):
            return None
        if not {"d", "k", "p", "q"}.isdisjoint(raw):
            return None  # a private key, or one that both ends would share
        key = ECKey.import_key(raw) if raw.get("kty") == "EC" else RSAKey.import_key(raw)
        if isinstance(key, RSAKey) and key.raw_value.key_size not in RSA_BITS:
            return None
        claims: dict[str, object] = jwt.decode(value, key, registry=PROOFS).claims
        thumbprint = key.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        return None
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= JTI_CHARS_MAX:
        return None
    return Proof(thumbprint, claims)


def _bound_to(state: State, token: str) -> str:
    """Return the thumbprint inside an access token of ours, else nothing: an unknown token is refused later."""
    bound = (claims_of(state, token) or {}).get("cnf")
    thumbprint = bound.get("jkt") if isinstance(bound, dict) else None
    return thumbprint if isinstance(thumbprint, str) else ""


def _nonce(state: State, window: int) -> str:
    return hmac.new(state.token_key, f"dpop {window}".encode(), sha256).hexdigest()[:32]


def _is_nonce(state: State, given: str, now: float) -> bool:
    window = int(now // NONCE_S)
    good = [_nonce(state, one).encode() for one in (window, window - 1)]
    return any(hmac.compare_digest(given.encode(errors="replace"), one) for one in good)


def _refused(error: str, description: str) -> Response:
    body: dict[str, JsonValue] = {"error": error, "error_description": description}
    challenge = f'DPoP error="{error}", algs="{" ".join(ALGORITHMS)}"'
    return json_response(body, 401).with_headers(("WWW-Authenticate", challenge))
