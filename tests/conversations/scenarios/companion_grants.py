"""What the companion's end owes about grants beside its table: RENEW, REVOKED, leases, OFFERs."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.conversations.scenarios.companion import ASK, DONE, PAIRED_AGAIN, STORED, refresh
from tests.conversations.scenarios.kit import (
    NOW,
    Step,
    again,
    do,
    hello,
    offered,
    receive,
    reject,
    says,
    stored,
    token,
    told,
    wait,
)

DAY_S = 86_400


_of = partial(told, "companion")


_of = partial(told, "companion")


REVOCATION = "https://login.example/tenant/oauth2/v2.0/revoke"


def _lease(challenge: str, *terms: tuple[str, int], **head: Any) -> Step:
    listed = [{"handoff_id": h, "lease_days": days} for h, days in terms]
    return receive("LEASE", {"challenge": challenge, "handoffs": listed}, **head)


RENEWALS = [
    _of(
        "renew-uncertain",
        "handoff.md, Renewal: a grant that cannot go on asks for another",
        "renew asked: uncertain",
        stored(profile="strict"),
        refresh("uncertain"),
        wait(3),
    ),
    _of(
        "renew-denied",
        "handoff.md, Renewal: denied is asked once, the grant is over",
        "renew asked: denied",
        stored(),
        refresh("denied"),
        hello(DONE),
    ),
    _of(
        "renew-person",
        "handoff.md, Renewal: the provider wants the person",
        "renew asked: person",
        stored(),
        refresh("person"),
    ),
    _of(
        "renew-forgotten",
        "handoff.md, Renewal: somebody at the companion had the grant erased",
        "renew asked: forgotten",
        stored(),
        do("erase"),
    ),
    _of(
        "renew-again-at-hello",
        "handoff.md, Renewal: uncertain is asked again at the phone's HELLO",
        "renew asked at HELLO",
        stored(profile="strict"),
        refresh("uncertain"),
        reject(None, "later", in_reply_to="@RENEW $h1"),
        hello(DONE),
    ),
    _of(
        "renew-not-again-at-hello",
        "handoff.md, Renewal: only uncertain is asked again",
        "renew not asked at HELLO",
        stored(),
        refresh("person"),
        reject(None, "person_needed", in_reply_to="@RENEW $h1"),
        hello(DONE),
    ),
    _of(
        "renew-settled-by-offer",
        "handoff.md: an OFFER that the companion takes settles every open RENEW",
        "renew settled by OFFER",
        stored(profile="strict"),
        refresh("uncertain"),
        offered("$h2", renews="$h1"),
        token("$h2", "$k2", profile="strict"),
    ),
    _of(
        "renew-after-nothing",
        "handoff.md, Renewal: asked again when the READY handoff has come to nothing",
        "renew after READY",
        stored(profile="strict"),
        refresh("uncertain"),
        offered("$h2", renews="$h1"),
        says("CANCEL", "$h2"),
    ),
    _of(
        "renew-reject-of-another",
        "messages.md: in_reply_to of REJECT says which request it answers",
        "renew REJECT passed over",
        stored(profile="strict"),
        refresh("uncertain"),
        reject(None, "later", in_reply_to=1),
    ),
]

REVOCATIONS = [
    _of(
        "revoked-unsupported",
        "handoff.md, Revocation: no endpoint: REVOKED says unsupported at once",
        "revoked unsupported",
        STORED,
        says("REVOKE"),
        wait(3),
        again(2),
    ),
    *(
        _of(
            f"revoked-{said}",
            "handoff.md, Revocation: the provider is asked first, and REVOKED follows",
            f"revoked {said}",
            offered(),
            token(revocation_endpoint=REVOCATION, profile="auth0"),
            says("CLOSED"),
            says("REVOKE"),
            do("provider", handoff_id="$h1", says=said),
        )
        for said in ("accepted", "refused", "unreachable")
    ),
    _of(
        "revoked-unknown",
        "handoff.md, Revocation: there is no grant to revoke",
        "revoked unknown",
        says("REVOKE"),
        says("REVOKE"),
    ),
    _of(
        "revoked-while-asking",
        "handoff.md, SEND_REVOKED: not while the provider is being asked",
        "revoked while asking",
        offered(),
        token(revocation_endpoint=REVOCATION, profile="auth0"),
        says("CLOSED"),
        says("REVOKE"),
        says("REVOKE"),
        do("provider", handoff_id="$h1", says="accepted"),
        says("REVOKE"),
    ),
    _of(
        "revoked-power-cut",
        "handoff.md, Revocation: the power fails meanwhile: unknown",
        "revoked power cut",
        offered(),
        token(revocation_endpoint=REVOCATION, profile="auth0"),
        says("CLOSED"),
        says("REVOKE"),
        do("restart"),
        do("connect"),
        says("REVOKE"),
    ),
    _of(
        "revoked-renew-settled",
        "handoff.md: REVOKE drops every open request of its handoff",
        "revoke settles",
        stored(profile="strict"),
        refresh("uncertain"),
        says("REVOKE"),
    ),
]

LEASES = [
    _of(
        "lease-runs-out",
        "handoff.md, Lease: no access token and no refresh after its end",
        "lease ended",
        stored(lease_days=1),
        ASK,
        wait(DAY_S + 60),
        ASK,
    ),
    _of(
        "lease-none", "handoff.md, Lease: 0 days is no lease", "lease none", stored(lease_days=0), wait(40 * DAY_S), ASK
    ),
    _of(
        "lease-taken",
        "handoff.md, Lease: LEASE with the challenge of the latest greeting renews it",
        "lease taken",
        stored(lease_days=1),
        do("connect"),
        _lease("$c1", ("$h1", 7)),
        wait(2 * DAY_S),
        ASK,
    ),
    _of(
        "lease-from-the-challenge",
        "handoff.md, Lease: it counts from the challenge, not from the arrival of LEASE",
        "lease from challenge",
        stored(lease_days=30),
        do("connect"),
        wait(1800),
        _lease("$c1", ("$h1", 1)),
        wait(DAY_S - 1860),
        ASK,
        wait(300),
        ASK,
    ),
    _of(
        "lease-other-challenge",
        "handoff.md, Lease: any other challenge is stale",
        "reason stale_challenge",
        stored(lease_days=1),
        do("connect"),
        _lease("$d1", ("$h1", 7)),
        _lease("$c1", ("$h1", 7)),
    ),
    _of(
        "lease-used-up",
        "handoff.md, Lease: one LEASE uses its challenge up",
        "lease answered already",
        stored(lease_days=1),
        do("connect"),
        _lease("$c1", ("$h1", 7)),
        _lease("$c1", ("$h1", 9)),
    ),
    _of(
        "lease-older-greeting",
        "delivery.md: a later greeting replaces the challenge",
        "lease of an older greeting",
        stored(lease_days=1),
        do("connect"),
        do("connect"),
        _lease("$c1", ("$h1", 7)),
        _lease("$c2", ("$h1", 7)),
    ),
    _of(
        "lease-names",
        "handoff.md, Lease: it covers the grants that it names",
        "lease names",
        stored(lease_days=1),
        wait(1),
        offered("$h2", account="bob@login.example", lease_days=1),
        token("$h2", "$k2", subject="bob", account="bob@login.example"),
        says("CLOSED", "$h2"),
        do("connect"),
        _lease("$c1", ("$h2", 7), ("$h8", 7)),
        wait(DAY_S + 60),
        ASK,
        do("ask", handoff_id="$h2"),
    ),
    _of(
        "lease-empty",
        "handoff.md, Lease: other grants keep the lease that they have",
        "lease empty",
        stored(lease_days=1),
        do("connect"),
        _lease("$c1"),
        wait(DAY_S + 60),
        ASK,
    ),
    _of(
        "lease-after-its-end",
        "handoff.md, Lease: until a LEASE comes",
        "lease given back",
        stored(lease_days=1),
        wait(DAY_S + 60),
        ASK,
        do("connect"),
        _lease("$c1", ("$h1", 1)),
        ASK,
    ),
    _of(
        "lease-short-connection",
        "delivery.md: greeted by a phone, a companion with a lease greets anew",
        "lease short connection",
        stored(lease_days=1),
        hello(DONE),
        _lease("$c2", ("$h1", 7)),
    ),
    _of(
        "lease-late-token",
        "handoff.md, Lease: it begins at sent_at of TOKEN, if that is earlier",
        "lease late TOKEN",
        offered(lease_days=1),
        token(sent_at=NOW - 80_000),
        says("CLOSED"),
        wait(7200),
        ASK,
    ),
    _of(
        "lease-another-pairing",
        "handoff.md, Lease: only grants of this pairing",
        "lease other pairing",
        stored(lease_days=1),
        PAIRED_AGAIN,
        do("connect"),
        _lease("$c2", ("$h1", 7), pairing="$p2"),
        wait(DAY_S + 60),
        ASK,
    ),
]

OFFERS = [
    _of(
        "offer-expired",
        "handoff.md: an OFFER whose expires_at is past",
        "offer refused expired",
        offered(expires_at=NOW - 10),
    ),
    _of(
        "offer-not-active",
        "handoff.md: an OFFER in a retired pairing",
        "offer refused not_active",
        stored(),
        PAIRED_AGAIN,
        offered("$h2", pairing="$p1"),
        offered("$h3", pairing="$p2"),
    ),
    _of(
        "offer-changed",
        "delivery.md: an OFFER with this id and another plaintext",
        "reason offer_changed",
        offered(),
        offered(lease_days=9),
        token(),
    ),
    _of(
        "offer-changed-stored",
        "delivery.md: where the handoff is not READY, its state is answered",
        "offer changed, STORED",
        STORED,
        offered(lease_days=9),
    ),
    _of(
        "offer-replaces",
        "handoff.md: another OFFER of the pairing replaces the READY one",
        "offer replaces",
        offered(),
        offered("$h2"),
        token("$h2", "$k2"),
        token(),
    ),
    _of(
        "accept-names-the-last",
        "messages.md: ACCEPT has the same one-time key each time",
        "ACCEPT again",
        offered(),
        wait(3),
        again(0),
        token(),
    ),
    _of(
        "cancel-before-offer",
        "handoff.md, law 4: CANCEL leaves a tombstone in NONE",
        "law 4",
        says("CANCEL"),
        offered(),
    ),
    _of(
        "revoke-before-offer",
        "handoff.md, law 4: REVOKE leaves a tombstone in NONE",
        "law 4 REVOKE",
        says("REVOKE"),
        offered(),
    ),
    _of(
        "token-before-offer",
        "handoff.md, law 5: a TOKEN that finds no READY handoff leaves a tombstone",
        "law 5",
        receive("TOKEN", {"handoff_id": "$h1", "sealed": "AAAA"}),
        offered(),
    ),
    _of(
        "late-cancel",
        "handoff.md: CANCEL after STORED is answered STORED",
        "late CANCEL",
        STORED,
        says("CANCEL"),
        says("CLOSED"),
    ),
]

SCENARIOS = [*RENEWALS, *REVOCATIONS, *LEASES, *OFFERS]
