"""The authorization request: the address that a person's browser opens to sign in.

RFC 6749 §4.1.1, RFC 7636, RFC 8707, OpenID Connect Core §3.1.2.1 and §11.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit

from token_relay.protocol.secret import Code

# What the program itself decides, and what would change how the answer comes back; no setting may name these.
OWN_PARAMETERS = frozenset(
    {
        *("response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce", "prompt"),
        *("code_challenge", "code_challenge_method", "code_verifier", "audience", "resource", "dpop_jkt"),
        *("request", "request_uri", "client_secret", "client_assertion", "client_assertion_type", "id_token_hint"),
    }
)


def pkce_pair(random32: bytes) -> tuple[Code, str]:
    """Return (code_verifier, code_challenge) from 32 fresh random bytes, method S256. RFC 7636 §4.1, §4.2."""
    if len(random32) != 32:
        raise ValueError("a code verifier is made of 32 random bytes")
    verifier = _base64url(random32)
    return Code(verifier), _base64url(hashlib.sha256(verifier.encode()).digest())


def authorization_url(
    *,
    authorization_endpoint: str,
    client_id: str,
    redirect_uri: str,
    scope: str,
    state: str,
    nonce: str,
    code_challenge: str,
    prompt: str = "",
    audience: str = "",
    resource: str = "",
    login_hint: str = "",
    more: Mapping[str, str] | None = None,
) -> str:
    """Build the URL for the person's browser. ``audience`` is Auth0's; ``more`` holds no :data:`OWN_PARAMETERS`.

    ``login_hint``: the account that has to sign in; the provider may heed it. OpenID Connect Core §3.1.2.1.
    """
    query = [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", redirect_uri),
        ("scope", scope),
        ("state", state),
        ("nonce", nonce),
        ("code_challenge", code_challenge),
        ("code_challenge_method", "S256"),
    ]
    named = {"prompt": prompt, "audience": audience, "resource": resource, "login_hint": login_hint}
    query += {**{name: value for name, value in named.items() if value}, **(more or {})}.items()
    parts = urlsplit(authorization_endpoint)
    joined = "&".join(filter(None, (parts.query, urlencode(query))))  # §3.1: the endpoint's own query stays
    return urlunsplit(parts._replace(query=joined))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
