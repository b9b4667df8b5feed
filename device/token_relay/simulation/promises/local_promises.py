"""The promises about tokens for apps on a device: only as the policy allows (11), none after the lease (12)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

from token_relay.agents.elapsed import Stamp
from token_relay.agents.grants.serving import lease_of
from token_relay.agents.ports import Now
from token_relay.agents.records import CachedToken, Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.agents.token_source import Peer, TokenGranted, TokenQuery, TokenRefused
from token_relay.apps.policy import Policy
from token_relay.simulation.observer import Tables
from token_relay.simulation.promises.ledger import Check, Ledger, rows

DAY_S = 86_400.0
MARK_SLACK_S = 3_900.0  # the lease is marked hourly: a power cut may forget that much, and a start takes moments
SENT_KEPT = 256  # of a phone's messages; a later LEASE would answer a challenge that ended long ago


class PolicyHeld(Check):
    """11. The policy of the moment allowed each token that a uid got."""

    number = 11
    title = "a token given to a uid was allowed by its policy then"

    def asked(self, end: str, peer: Peer, policy: Policy, query: TokenQuery, granted_scope: str | None) -> None:
        """Judge one answer of the token API; ``granted_scope`` is None for a refusal."""
        if granted_scope is None or peer.uid in (0, policy.owner_uid):
            self.ledger.checks[self.number] += 1
            return
        wide = set(granted_scope.split()) | set(query.scope.split())
        allowing = [
            rule
            for rule in policy.rules
            if rule.uid in (None, peer.uid)
            and (rule.gid is None or rule.gid == peer.gid or rule.gid in peer.groups)
            and (rule.scopes is None or (bool(query.scope) and wide <= rule.scopes))
            and (rule.accounts is None or query.account in rule.accounts)
            and (rule.audiences is None or query.audience in rule.audiences)
        ]
        self.hold(bool(allowing), end, f"uid {peer.uid} got scope {granted_scope!r} that no rule gives it")


class LeaseHeld(Check):
    """12. No token after the lease's end, and only the phone's answer to a fresh challenge renews a lease.

    The check sums the used time itself, from the end's own clock readings: boot time over all boots since the phone's
    answer, and synced wall time. An end that was put back to an older image starts with that image's knowledge.
    """

    number = 12
    title = "no token after the lease's end"
    tables = (Grant, Pairing)

    def __init__(self, ledger: Ledger, lease_of_message: Callable[[str, bytes], tuple[str, str] | None]) -> None:
        super().__init__(ledger)
        self.lease_of_message = lease_of_message  # (pairing_id, challenge) of a LEASE, None for anything else
        self.sent: dict[str, deque[tuple[bytes, frozenset[str]]]] = defaultdict(lambda: deque(maxlen=SENT_KEPT))
        self.begun: dict[tuple[str, str], tuple[Now, tuple[str, ...]]] = {}
        self.challenged: dict[tuple[str, str], Now] = {}
        self.boots: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)  # boot id → first, last boot time

    def published(self, end: str, topic: str, payload: bytes) -> None:
        """Keep a phone's latest messages, and which of its pairings had a REVOKE queued; they are read when needed."""
        tables = self.ledger.tables.get(end, {})
        if not rows(tables, PhoneHandoff):
            return
        outbox = rows(tables, Outgoing).values()
        revoking = frozenset(row.pairing_id for row in outbox if row.type == "REVOKE")
        self.sent[end].append((payload, revoking))

    def _is_answered(self, end: str, challenge: str) -> bool:
        """Whether a phone has answered this challenge while no REVOKE of the grant was waiting."""
        for phone, sent in self.sent.items():
            for payload, revoking in reversed(sent):
                found = self.lease_of_message(phone, payload)
                if found is not None and found[1] == challenge:
                    self.hold(found[0] not in revoking, phone, "LEASE was sent while REVOKE waited in the outbox")
                    return True
        return False

    def stopped(self, end: str, *, crashed: bool) -> None:
        """Note the length of this boot."""
        self._read_clock(end)

    def committed(self, end: str, before: Tables, after: Tables) -> None:
        """Follow when each lease began, and by which phone's answer."""
        now = self._read_clock(end)
        if now is None:
            return
        for was, pairing in self.ledger.changed(before, after, Pairing):
            if pairing is not None and pairing.challenge and (was is None or was.challenge != pairing.challenge):
                self.challenged[end, pairing.pairing_id] = now
        for was_grant, grant in self.ledger.changed(before, after, Grant):
            if grant is None or not grant.handoff_id or not grant.lease_days:
                continue
            if grant.pairing_id in self.ledger.strange:
                continue  # no honest phone gives its lease
            if was_grant is None:
                self.begun[end, grant.grant_id] = (now, tuple(self.boots[end]))
            elif _is_renewed(was_grant, grant):
                pairing = rows(before, Pairing).get((grant.pairing_id,))
                challenge = pairing.challenge if pairing is not None else ""
                is_given = bool(challenge) and self._is_answered(end, challenge)
                self.hold(is_given, end, "a lease was renewed without the phone's answer to a challenge")
                since = self.challenged.get((end, grant.pairing_id), now)
                self.begun[end, grant.grant_id] = (since, tuple(self.boots[end]))

    def restored(self, end: str, tables: Tables) -> None:
        """Start from the older image's knowledge of its leases."""
        for grant in rows(tables, Grant).values():
            held = lease_of(grant)
            if held is not None:
                begun = _now_of(held.marked, -held.used_s)
                self.begun[end, grant.grant_id] = (begun, tuple(self.boots[end]))

    def served(self, end: str, query: TokenQuery, answer: TokenGranted | TokenRefused) -> None:
        """Check that a token belongs to a grant whose lease runs."""
        now = self._read_clock(end)
        if now is None or not isinstance(answer, TokenGranted):
            return
        tables = self.ledger.tables.get(end, {})
        for token in rows(tables, CachedToken).values():
            if token.access_token != answer.access_token:
                continue
            grant = rows(tables, Grant).get((token.grant_id,))
            if grant is None or not grant.lease_days or (end, grant.grant_id) not in self.begun:
                continue
            used_s = self._used_s(end, *self.begun[end, grant.grant_id], now)
            limit_s = grant.lease_days * DAY_S + MARK_SLACK_S
            self.hold(used_s <= limit_s, end, f"a token {used_s - limit_s:.0f} s after the end of the lease")

    def _read_clock(self, end: str) -> Now | None:
        now = self.ledger.clock_of(end)
        if now is not None:
            first, _ = self.boots[end].get(now.boot_id, (now.boot_s, now.boot_s))
            self.boots[end][now.boot_id] = (first, now.boot_s)
        return now

    def _used_s(self, end: str, begun: Now, boots_then: tuple[str, ...], now: Now) -> float:
        boots = self.boots[end]
        _, last_s = boots.get(begun.boot_id, (0.0, begun.boot_s))
        used_s = max(0.0, last_s - begun.boot_s)
        later = [boot for boot in boots if boot not in boots_then and boot != begun.boot_id]
        used_s += sum(max(0.0, boots[boot][1] - boots[boot][0] - MARK_SLACK_S) for boot in later)
        if now.is_synced and begun.is_synced:
            used_s = max(used_s, now.wall_s - begun.wall_s)
        return used_s


def _is_renewed(was: Grant, grant: Grant) -> bool:
    """Whether the used time became less, or counts from another moment: a mark only adds to it."""
    is_given_anew = bool(was.lease_wall) and grant.lease_wall != was.lease_wall
    return bool(was.lease_marked) and (grant.lease_used_s < was.lease_used_s or is_given_anew)


def _now_of(stamp: Stamp, shift_s: float) -> Now:
    return Now(stamp.boot_id, stamp.boot_s + shift_s, stamp.wall_s + shift_s, stamp.is_synced)
