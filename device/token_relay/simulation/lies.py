"""What a hostile peer says: any valid message, with any id that was ever printed, logged or sent.

Pure. :class:`Known` is what it has learnt, :func:`body` makes one message of a type around one id, :func:`grant` a
grant that looks like somebody else's. Every choice comes from the caller's generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from token_relay.agents.records import AuditEvent, CompanionHandoff, Grant, Pairing, PhoneHandoff
from token_relay.protocol import messages as m
from token_relay.protocol.secret import RefreshToken
from token_relay.provider.profile import PROFILES

T = TypeVar("T")
Role = Literal["phone", "companion"]
Whose = Literal["own", "other", "grant", "unknown"]

HOSTILE_HOST = "hostile.example"  # a hostile phone has an identity provider of its own there
OWN_HOST = f"https://{HOSTILE_HOST}"
ENDPOINTS = (  # of a grant; the first two are allowed
    f"{OWN_HOST}/token",
    f"{OWN_HOST}/token",
    "http://127.0.0.1:9999/cgi-bin/reboot?now=1",
    "https://localhost/token",
    "https://[::1]:8443/token",
    "https://router.home.example/token",
)
SCOPES = ("offline_access openid profile", "openid profile", "openid")
NUMBERS = (0, 1, 7, 2**31, 2**40)
HANDOFF_TYPES: dict[Role, tuple[str, ...]] = {  # by the role of the sender
    "phone": ("OFFER", "TOKEN", "CANCEL", "REVOKE", "CLOSED", "REJECT", "LEASE", "HELLO"),
    "companion": ("ACCEPT", "STORED", "CANCELLED", "REVOKED", "LOST", "REJECT", "RENEW", "HELLO"),
}
OTHER_TYPES: dict[Role, tuple[str, ...]] = {"phone": ("ROLLBACK", "PAIR3"), "companion": ("ROLLBACK", "PAIR4")}


def wrong_way(role: Role) -> tuple[str, ...]:
    """Return the types that a device of this role never sends."""
    return tuple(sorted({kind for kind, _ in m.BODIES} - set(HANDOFF_TYPES[role]) - set(OTHER_TYPES[role])))


@dataclass(slots=True)
class Known:
    """All that was ever printed by `status` and `events`, logged or sent, as far as it was looked at."""

    handoffs: dict[str, str] = field(default_factory=dict)  # id → its pairing
    grants: dict[str, None] = field(default_factory=dict)
    challenges: dict[str, None] = field(default_factory=dict)
    accounts: dict[str, None] = field(default_factory=dict)
    subjects: dict[str, None] = field(default_factory=dict)
    clients: dict[tuple[str, str], None] = field(default_factory=dict)  # issuer and client
    devices: dict[str, str] = field(default_factory=dict)  # id → name

    def look(self, tables: Mapping[Any, Mapping[Any, object]]) -> None:
        """Learn what one honest device shows of itself."""
        for pairing in tables.get(Pairing, {}).values():
            assert isinstance(pairing, Pairing)
            self.devices[pairing.peer_id] = pairing.peer_name
            if pairing.challenge:
                self.challenges[pairing.challenge] = None
        for record in (PhoneHandoff, CompanionHandoff):
            for row in tables.get(record, {}).values():
                assert isinstance(row, PhoneHandoff | CompanionHandoff)
                self.handoffs[row.handoff_id] = row.pairing_id
        for grant in tables.get(Grant, {}).values():
            assert isinstance(grant, Grant)
            self.grants[grant.grant_id] = None
            self.accounts[grant.account] = None
            self.subjects[grant.subject] = None
            self.clients[grant.issuer, grant.client_id] = None
        for event in tables.get(AuditEvent, {}).values():
            assert isinstance(event, AuditEvent)
            if event.grant_id:
                self.grants[event.grant_id] = None

    def draw(self, rng: Random, known: Iterable[T], *, but: Sequence[T]) -> T:
        """Draw something known, or one of these."""
        return rng.choice([*known, *but])


def body(kind: str, handoff_id: str, known: Known, rng: Random) -> m.Body:
    """Make a valid body of this type about this id."""
    challenge = known.draw(rng, known.challenges, but=[_hex(rng, 16)])
    match kind:
        case "HELLO":
            return hello(known, rng, _ids(handoff_id, known, rng), challenge)
        case "OFFER":
            issuer, client_id = known.draw(rng, known.clients, but=[(OWN_HOST, "hostile")])
            return m.Offer(
                handoff_id=handoff_id,
                strategy=rng.choice(("branch", "mint", "move")),
                issuer=rng.choice((issuer, OWN_HOST)),
                client_id=client_id,
                scope=rng.choice(SCOPES),
                account=known.draw(rng, known.accounts, but=["somebody"]),
                lease_days=rng.choice((0, 1, 90)),
                expires_at=rng.choice((0, 0, 2**40, 1)),
                renews=rng.choice((None, handoff_id, _ids(handoff_id, known, rng)[-1])),
            )
        case "ACCEPT":
            accept = m.Accept(handoff_id=handoff_id, one_time_key=_hex(rng, 32), offer_hash=_hex(rng, 32))
            return rng.choice((accept, m.Accept2(**dict(accept), grant_version=rng.choice((1, 2, 255)))))
        case "TOKEN":
            return m.Token(handoff_id=handoff_id, sealed=m.encode_base64url(rng.randbytes(200)))
        case "REVOKED":
            said: tuple[m.ProviderSaid, ...] = ("accepted", "refused", "unknown")
            ends_at = rng.choice(NUMBERS)
            return m.Revoked(handoff_id=handoff_id, provider=rng.choice(said), access_token_ends_at=ends_at)
        case "RENEW":
            why: tuple[m.RenewReason, ...] = ("uncertain", "uncertain", "denied", "locked", "forgotten")
            return m.Renew(handoff_id=handoff_id, reason=rng.choice(why), generation=rng.choice(NUMBERS))
        case "REJECT":
            reason = rng.choice(("gone", "unsupported", "not_active", "cancelled", "revoking", "denied"))
            return m.Reject(handoff_id=rng.choice((handoff_id, handoff_id, None)), reason=reason)
        case "LEASE":
            terms = [m.LeaseTerm(handoff_id=each, lease_days=365) for each in _ids(handoff_id, known, rng)]
            return m.Lease(challenge=challenge, handoffs=terms)
        case "ROLLBACK":
            return m.Rollback(seq_sent=rng.choice(NUMBERS), seq_accepted=rng.choice(NUMBERS))
        case "PAIR3" | "PAIR4":
            return (m.Pair3 if kind == "PAIR3" else m.Pair4)(transcript_hash=_hex(rng, 32))
        case _:
            return m.BODIES[kind, 1](handoff_id=handoff_id)  # type: ignore[call-arg]  # the others have only that


def hello(
    known: Known, rng: Random, ids: Iterable[str], challenge: str, *, numbers: tuple[int, int] | None = None
) -> m.Hello:
    """Make a HELLO that claims to know these handoffs, with right or odd ``numbers``; its name may be another's."""
    sent, accepted = numbers or (rng.choice(NUMBERS), rng.choice(NUMBERS))
    states = ("held", "held", "ready", "dead", "locked", "needs_handoff", "done", "released")
    reports = [
        m.HandoffReport(handoff_id=each, state=rng.choice(states), generation=rng.choice((0, 1, 5))) for each in ids
    ]
    said = m.Hello(challenge=challenge, seq_sent=sent, seq_accepted=accepted, handoffs=reports)
    strategies = rng.choice((["branch", "mint", "move"], ["mint"], [], ["hostile"]))
    second = m.Hello2(**dict(said), speaks=rng.choice((2, 255)), strategies=strategies)
    other = rng.choice([*known.devices, "stranger"])
    name = rng.choice((other, other[:6], known.devices.get(other, other), known.devices.get(other, other).upper()))
    return rng.choice((said, second, m.Hello3(**{**dict(second), "speaks": 3}, name=name)))


def grant(known: Known, rng: Random, offer: m.Offer, **tie: str) -> m.GrantPayload:
    """Make a grant for an OFFER of ours; account, subject and endpoints may be anybody's."""
    endpoint = rng.choice(ENDPOINTS)
    revocation = rng.choice((None, endpoint, rng.choice(ENDPOINTS)))
    profile = rng.choice(("strict", "entra", "auth0", "hostile"))
    payload = m.GrantPayload(
        v=1,
        handoff_id=offer.handoff_id,
        refresh_token=RefreshToken(f"hostile-{_hex(rng, 16)}"),
        issuer=offer.issuer,
        client_id=offer.client_id,
        token_endpoint=endpoint,
        revocation_endpoint=revocation,
        scope=SCOPES[0],
        audience="",
        subject=known.draw(rng, known.subjects, but=["", "somebody"]),
        account=known.draw(rng, known.accounts, but=["somebody"]),
        profile=profile,
        signed_in_at=0,
        is_otp=False,
        is_sole=rng.random() < 0.5,
        **tie,
    )
    behaviour = PROFILES.get(profile, PROFILES["entra"]).behaviour
    return rng.choice((payload, m.GrantPayload2(**{**dict(payload), "v": 2}, behaviour=behaviour)))


def is_endpoint_of(url: str, issuer: str) -> bool:
    """Whether the rule for endpoints lets a companion without ``provider.hosts`` send there for this issuer."""
    asked, owner = urlsplit(url), urlsplit(issuer)
    return asked.scheme == "https" and bool(asked.hostname) and asked.hostname == owner.hostname


def _ids(handoff_id: str, known: Known, rng: Random) -> list[str]:
    """Return a few ids, this one among them."""
    others = rng.sample(list(known.handoffs), min(2, len(known.handoffs))) if rng.random() < 0.5 else []
    return list(dict.fromkeys([handoff_id, *others]))


def _hex(rng: Random, count: int) -> str:
    return rng.randbytes(count).hex()
