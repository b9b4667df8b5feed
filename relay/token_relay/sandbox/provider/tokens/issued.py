"""What a token says about itself, so that the provider does not have to remember it.

An old refresh token may stay good for months after its use, and every access token lives its hour. A table of them
would grow with each refresh, and a table with a limit would forget valid tokens under load. So, as at the real
services:

* **Refresh tokens** carry family, generation and idle end under a keyed MAC; nobody can make or change one without
  the key, and each is the only one of its generation. A row in the table is kept only while a use would still change
  it (:mod:`token_relay.sandbox.provider.tokens.rotation`). A token without a row was superseded long ago.
* **Access tokens and id_tokens** are signed anyway. Their ``jti`` (``uti`` under ``entra``) names family, generation
  and the event after which they were made. The provider remembers only which of them were revoked one by one.
* **Opaque access tokens** (``auth0``) say the same under the MAC, in place of a signature.

A token signed with a key that is no longer published is unknown.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from hashlib import blake2b
from math import inf
from typing import Literal

from token_relay.sandbox.marked_tokens import MARK
from token_relay.sandbox.provider.http_values import JsonValue
from token_relay.sandbox.provider.memory.state import AccessEntry, Family, RefreshEntry, State, digest

MAC_BYTES = 16


# -- refresh tokens ------------------------------------------------------------------------------------------------


def find_refresh(state: State, value: str) -> RefreshEntry | None:
    """Return what is known of a refresh token, or None when the provider did not issue it."""
    return state.refresh_tokens.get(digest(value)) or read_refresh(state.token_key, value)


def refresh_value(key: bytes, entry: RefreshEntry) -> str:
    """Write a refresh token."""
    idle = "" if entry.idle_expires_at is None else entry.idle_expires_at.hex()
    return _written("rt", key, f"{entry.family_id} {entry.generation} {idle}".encode())


def read_refresh(key: bytes, value: str) -> RefreshEntry | None:
    """Read a genuine refresh token as it was when issued, but superseded. None if it is not genuine."""
    text = _read("rt", key, value)
    if text is None:
        return None
    family_id, generation, idle = text.decode().split(" ")  # ours: the MAC is right
    return RefreshEntry(family_id, int(generation), float.fromhex(idle) if idle else None, superseded_at=-inf)


def _written(kind: Literal["rt", "at"], key: bytes, text: bytes) -> str:
    return f"{kind}.{MARK}.{(text + _mac(kind, key, text)).hex()}"


def _read(kind: Literal["rt", "at"], key: bytes, value: str) -> bytes | None:
    """Return what a genuine token of this kind says, else None."""
    begins = f"{kind}.{MARK}."
    rest = value.removeprefix(begins)
    try:
        octets = bytes.fromhex(rest)
    except ValueError:
        return None
    text, mac = octets[:-MAC_BYTES], octets[-MAC_BYTES:]
    is_spelled_so = value.startswith(begins) and octets.hex() == rest  # one token has one spelling
    return text if is_spelled_so and hmac.compare_digest(mac, _mac(kind, key, text)) else None


def _mac(kind: Literal["rt", "at"], key: bytes, text: bytes) -> bytes:
    person = b"sandbox-refresh" if kind == "rt" else b"sandbox-access"
    return blake2b(text, key=key, digest_size=MAC_BYTES, person=person).digest()


# -- access tokens and id_tokens -----------------------------------------------------------------------------------


def token_id(state: State, family: Family, kind: Literal["at", "id"] = "at") -> str:
    """Return the ``jti`` of a token that is about to be made."""
    number = state.rng.randbytes(16).hex()
    return f"{MARK}-{kind}.{family.family_id}.{family.generation}.{state.next_event_id}.{number}"


def opaque_access(state: State, claims: Mapping[str, JsonValue]) -> str:
    """Write an access token that only the provider can read; it holds what the provider needs of the claims."""
    kept = {name: claims[name] for name in ("jti", "exp", "scope", "cnf") if name in claims}
    return _written("at", state.token_key, json.dumps(kept, separators=(",", ":")).encode())


def claims_of(state: State, value: str) -> dict[str, JsonValue] | None:
    """Return what a genuine token says, signed or opaque; None for any other. It may have expired."""
    opaque = _read("at", state.token_key, value)
    return state.signer.verify(value) if opaque is None else dict(json.loads(opaque))


def find_access(state: State, value: str, kind: Literal["at", "id"] = "at") -> AccessEntry | None:
    """Return what an access token (or id_token) says, or None when it is not ours. It may have expired."""
    claims = claims_of(state, value)
    if claims is None:
        return None
    scope = claims.get("scp") or claims.get("scope") or ""
    match claims.get("jti") or claims.get("uti"), claims.get("exp"), scope:
        case str(name), int(expires_at), str(words) if name.startswith(f"{MARK}-{kind}."):
            _, family_id, generation, seq, _ = name.split(".")  # ours: the signature is right
            aud = claims.get("aud")
            return AccessEntry(
                name.removeprefix(f"{MARK}-"),
                family_id,
                words,
                expires_at,
                int(seq),
                is_cae=state.urls.profile == "entra" and "xms_cc" in claims,
                generation=int(generation),
                is_for_userinfo=aud is None or (isinstance(aud, list) and state.urls.url("userinfo") in aud),
            )
        case _:
            return None


def live_access(state: State, value: str, now: float) -> tuple[AccessEntry, Family] | str:
    """Return what is known of a good access token and its grant, or what is wrong with it."""
    entry = find_access(state, value)
    family = state.families.get(entry.family_id) if entry is not None else None
    if entry is None or family is None:
        return "the access token is unknown"
    if is_revoked(state, entry, family):
        return "the access token was revoked"
    return "the access token is expired" if now >= entry.expires_at else (entry, family)


def is_revoked(state: State, entry: AccessEntry, family: Family) -> bool:
    """Return whether an access token was revoked: with its family, by itself, or by the next use of its grant."""
    if family.access_tokens_dead or entry.token_id in state.revoked_access_tokens:
        return True
    if not state.rules.use_kills_issued or entry.generation == 0:
        return False
    rows = [state.refresh_tokens.get(name) for name in family.rows]
    return not any(row and row.generation == entry.generation and row.superseded_at is None for row in rows)
