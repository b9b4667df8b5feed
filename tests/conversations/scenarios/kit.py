"""Words in which a scenario is told: steps as they stand in a file, without numbers and without any expectation.

Names are those that the file will have: an end's own handoffs, challenges and one-time keys are ``$h1``, ``$c1``,
``$k1`` in the order in which it makes them, so a peer's message can name them before they exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Step = dict[str, Any]

ISSUER = "https://login.example/tenant/v2.0"
CLIENT_ID = "6f1c0f52-3d2a-4c6b-9a4e-2f6d1d4b7a10"
SCOPE = "openid profile offline_access"
ACCOUNT = "ada@login.example"
TOKEN_ENDPOINT = "https://login.example/tenant/oauth2/v2.0/token"
SUBJECT = "5b0c1f6e-ada"
NOW = 1767225600  # when every conversation begins
SIGNED_IN_AT = NOW - 600


@dataclass(frozen=True, slots=True)
class Scenario:
    """One conversation to be: ``covers`` are the rows, reasons and rules that it is there for."""

    name: str
    end: Literal["phone", "companion"]
    about: str
    steps: tuple[Step, ...]
    covers: tuple[str, ...] = ()
    begin: Literal["paired", "new"] = "paired"
    level: Literal["plain", "envelope"] = "plain"
    speaks: int = 1


def told(
    end: Literal["phone", "companion"],
    name: str,
    about: str,
    covers: str | Iterable[str],
    *steps: Step | tuple[Step, ...],
    **more: Any,
) -> Scenario:
    """A conversation whose steps may come in groups."""
    flat: list[Step] = []
    for step in steps:
        flat += step if isinstance(step, tuple) else [step]
    keys = (covers,) if isinstance(covers, str) else tuple(covers)
    return Scenario(f"{end}-{name}", end, about, tuple(flat), keys, **more)


def receive(kind: str, body: Step | None = None, **head: Any) -> Step:
    """A message of the peer; ``head`` may have ``v``, ``seq``, ``in_reply_to``, ``pairing``, ``sent_at``."""
    spoil = {"spoil": head.pop("spoil")} if "spoil" in head else {}
    return {"do": "receive", "message": {"type": kind, **head, "body": body or {}}, **spoil}


def again(step: int) -> Step:
    """The very same bytes as in another step, by its number in the file."""
    return {"do": "receive", "again": step}


def wait(seconds: float) -> Step:
    """Time passes."""
    return {"do": "wait", "seconds": seconds}


def do(what: str, **more: Any) -> Step:
    """Anything else that happens to an end."""
    return {"do": what, **more}


def hello(*handoffs: tuple[str, str, int], **more: Any) -> Step:
    """A greeting of the peer in version 1, which lists these handoffs: id, state, generation."""
    head = {name: more.pop(name) for name in ("seq", "in_reply_to", "pairing", "sent_at") if name in more}
    v = 3 if "name" in more else 2 if "speaks" in more else 1
    listed = [{"handoff_id": h, "state": state, "generation": generation} for h, state, generation in handoffs]
    body = {"challenge": "*", "seq_sent": "=seq", "seq_accepted": "$heard", "handoffs": listed, **more}
    return receive("HELLO", body, v=v, **head) if v > 1 else receive("HELLO", body, **head)


# -- What a companion says to a phone, and what a person does with it --------------------------------------


def offer(strategy: str = "branch", lease_days: int = 0, account: str | None = None, scope: str = SCOPE) -> Step:
    """A person asks for a handoff; with ``mint`` nobody knows who will sign in, unless it is said."""
    account = account if account is not None else "" if strategy == "mint" else ACCOUNT
    of = {"issuer": ISSUER, "client_id": CLIENT_ID, "scope": scope, "account": account}
    return do("offer", strategy=strategy, lease_days=lease_days, **of)


def accept(h: str = "$h1", key: str = "$k1", **more: Any) -> Step:
    """ACCEPT of an OFFER; ``grant_version`` makes it version 2."""
    head = {name: more.pop(name) for name in ("seq", "in_reply_to", "pairing") if name in more}
    v = {"v": 2} if "grant_version" in more else {}
    body = {"handoff_id": h, "one_time_key": key, "offer_hash": f"#OFFER {h}", **more}
    return receive("ACCEPT", body, **v, **head)


def says(kind: str, h: str = "$h1", **head: Any) -> Step:
    """STORED, CANCELLED, LOST, CLOSED, CANCEL, REVOKE, or REVOKED by a provider that cannot be asked."""
    more = {"provider": "unsupported", "access_token_ends_at": 0} if kind == "REVOKED" else {}
    return receive(kind, {"handoff_id": h, **more}, **head)


def reject(h: str | None = "$h1", reason: str = "expired", **head: Any) -> Step:
    """REJECT, about a handoff or about none."""
    return receive("REJECT", {"handoff_id": h, "reason": reason}, **head)


def renew(h: str = "$h1", reason: str = "uncertain", generation: int = 2, **head: Any) -> Step:
    """RENEW of a handoff's grant."""
    return receive("RENEW", {"handoff_id": h, "reason": reason, "generation": generation}, **head)


def obtained(h: str = "$h1", **token: Any) -> Step:
    """The provider has given the companion's token."""
    usual = {
        "refresh_token": "0.refresh-token-of-the-companion",
        "token_endpoint": TOKEN_ENDPOINT,
        "revocation_endpoint": None,
        "audience": "",
        "subject": SUBJECT,
        "account": ACCOUNT,
        "profile": "entra",
        "signed_in_at": SIGNED_IN_AT,
        "is_otp": False,
        "scope": SCOPE,
    }
    return do("obtained", handoff_id=h, token={**usual, **token})


def minted(h: str = "$h1", **token: Any) -> Step:
    """The person has signed in just now, for the companion alone."""
    return obtained(h, signed_in_at=NOW, **token)


def handed_off(h: str = "$h1", key: str = "$k1", strategy: str = "branch", **of: Any) -> tuple[Step, ...]:
    """A whole handoff at the phone, up to DONE."""
    obtain = () if strategy == "move" else (minted(h),) if strategy == "mint" else (obtained(h),)
    return (offer(strategy, **of), accept(h, key), *obtain, says("STORED", h))


# -- What a phone says to a companion ----------------------------------------------------------------------


def offered(h: str = "$h1", **more: Any) -> Step:
    """OFFER."""
    head = {name: more.pop(name) for name in ("seq", "pairing") if name in more}
    body = {
        "handoff_id": h,
        "strategy": "mint",
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "scope": SCOPE,
        "account": ACCOUNT,
        "lease_days": 0,
        "expires_at": 0,
        "renews": None,
    }
    return receive("OFFER", {**body, **more}, **head)


def token(h: str = "$h1", key: str = "$k1", *, spoil: Any = None, **more: Any) -> Step:
    """TOKEN with a grant that agrees with all that was said; ``more`` are fields of the grant or of the head."""
    head = {name: more.pop(name) for name in ("seq", "pairing", "sent_at") if name in more}
    grant = {
        "v": 1,
        "pairing_id": head.get("pairing", "$p1"),
        "handoff_id": h,
        "phone_key": "$phone_key",
        "companion_key": "$companion_key",
        "one_time_key": key,
        "offer_hash": f"#OFFER {h}",
        "accept_hash": f"#ACCEPT {h}",
        "refresh_token": f"0.refresh-token-of-{h[1:]}",
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "token_endpoint": TOKEN_ENDPOINT,
        "revocation_endpoint": None,
        "scope": SCOPE,
        "audience": "",
        "subject": SUBJECT,
        "account": ACCOUNT,
        "profile": "entra",
        "signed_in_at": SIGNED_IN_AT,
        "is_otp": False,
        **more,
    }
    sealed: Step = {"to": key, "grant": grant}
    if spoil is not None:
        sealed["spoil"] = spoil
    return receive("TOKEN", {"handoff_id": h, "sealed": sealed}, **head)


def stored(h: str = "$h1", key: str = "$k1", *, lease_days: int = 0, **grant: Any) -> tuple[Step, ...]:
    """A whole handoff at the companion, up to CLOSED; ``grant`` are fields of it."""
    return (offered(h, lease_days=lease_days), token(h, key, **grant), says("CLOSED", h))
