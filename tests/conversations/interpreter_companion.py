"""The companion's end: handoffs after the rows of the table, the sealed grant, RENEW, LEASE, revocation.

States, effects and answers come from the table; each effect is one method here (`_effect`). A grant's own life is in it
as far as it is seen: whether it may be used, its generation, why it cannot go on.
"""

from typing import Any

from tests.conversations.interpreter_mailbox import Mailboxes
from tests.conversations.interpreter_state import Grant, Handoff, Impossible, Message, Pairing, Refused
from tests.conversations.table import Json

DAY_S = 86400
EVENTS = {"CANCEL": "cancel", "REVOKE": "revoke", "CLOSED": "closed"}
USABLE = ("held",)


class CompanionEnd(Mailboxes):
    """What a companion must do."""

    end = "companion"

    # --- the table ------------------------------------------------------------------------------------------

    def apply(self, p: Pairing, h: Handoff, event: str, m: Message | None = None, is_repetition: bool = False) -> bool:
        """Do what the row of this state and event says. Returns whether there is one."""
        row = self.table.row("companion", h.state, event)
        if row is None:
            return False
        if is_repetition and row.next != h.state:  # a repeated message never moves anything
            return True
        if h.handoff_id not in p.handoffs and row.next != h.state:
            p.handoffs[h.handoff_id] = h
        was, h.state = h.state, row.next
        gone = h.grant
        for effect in row.effects:
            self._effect(p, h, effect, event, m, gone)
        if was == "READY" and event in ("cancel", "reject", "bad_token"):
            self._ask_again(p, None)
        return True

    def own(self, p: Pairing, h: Handoff, event: str) -> None:
        """An event of this end's own: without a row it is a bug of the program."""
        if not self.apply(p, h, event):
            raise Impossible(f"{event} in {h.state}")

    def _effect(self, p: Pairing, h: Handoff, effect: str, event: str, m: Message | None, gone: Grant | None) -> None:
        body = {"handoff_id": h.handoff_id}
        answered = m.seq if m else None
        if effect == "ANSWER_STATUS":
            self._effect(p, h, self.table.answer(h.state), event, m, gone)
        elif effect == "MAKE_KEY":
            h.key = self.names.fresh("k")
        elif effect == "SEND_ACCEPT":
            self._accept(p, h, answered)
        elif effect == "STORE_GRANT" and m is not None:
            self._store(p, h, m)
        elif effect == "SEND_STORED":
            opened = self.of_handoff(p, h.handoff_id, "STORED")
            if opened:
                self.send_again(p, opened)
            else:
                self.open(p, "STORED", body)
        elif effect == "SEND_CANCELLED":
            self.say(p, "CANCELLED", body, answered)
        elif effect == "SEND_LOST":
            if self.table.highest("LOST", p.speaks) >= 4:
                body |= {"reason": h.lost[0], "field": h.lost[1] or "*"}
            self.say(p, "LOST", body, answered)
        elif effect == "SEND_REVOKED":
            self._revoked(p, h, answered, gone)
        elif effect == "ERASE_KEY":
            h.key = None
        elif effect == "ERASE_GRANT":
            if h.grant is not None:
                h.ends_at = {"ends": "*"}
                if h.grant.fields["revocation_endpoint"] is None:
                    h.provider = "unsupported"
            h.grant, h.wants = None, None
        elif effect == "SETTLE":
            kinds = () if event == "revoke" else ("STORED",)
            self.settle(p, self.of_handoff(p, h.handoff_id, *kinds))

    def _accept(self, p: Pairing, h: Handoff, in_reply_to: int | None) -> None:
        is_last = self.last_digest.get((p.pairing_id, f"OFFER {h.handoff_id}")) == h.offer_digest
        offer_hash = f"#OFFER {h.handoff_id}" if is_last else "*"
        body: Json = {"handoff_id": h.handoff_id, "one_time_key": h.key, "offer_hash": offer_hash}
        if self.table.highest("ACCEPT", p.speaks) >= 2:
            body["grant_version"] = self.table.grant_version
        self.say(p, "ACCEPT", body, in_reply_to)

    # --- OFFER ----------------------------------------------------------------------------------------------

    def _offer(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        handoff_id = m.body["handoff_id"]
        h = p.handoffs.get(handoff_id)
        if h is None:
            facts: dict[str, Any] = {
                "pairing": p.state,
                "handoffs": len(p.handoffs),
                "is_repetition": is_repetition,
            }
            ends = m.body["expires_at"]
            if ends:
                facts["expires_in_s"] = int(self.moment(ends) - self.wall_now())
            reason = self.table.offer_refusal(facts)
            if reason is not None:
                self.say(p, "REJECT", {"handoff_id": handoff_id, "reason": reason}, m.seq)
                return
            h = Handoff(handoff_id, "NONE", m.body, self.now, offer_digest=m.digest)
            for other in list(p.handoffs.values()):
                if other.state == "READY":
                    self.own(p, other, "replaced")
            self.settle(p, [r for r in p.requests if r.type == "RENEW"])
        elif h.state == "READY" and h.offer_digest != m.digest:
            raise Refused("offer_changed")
        self.apply(p, h, "offer", m, is_repetition)

    # --- TOKEN ----------------------------------------------------------------------------------------------

    def moment(self, value: Any) -> float:
        """A time of an input: Unix seconds, or `+N` and `-N` from now."""
        return self.wall_now() + int(value) if isinstance(value, str) else float(value)

    def _token(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        h = self._found(p, m)
        event = "token"
        if h.state == "NONE":
            h.lost = ("no_handoff", "")
        if h.state != "READY":
            rows = [self.table.row(self.end, h.state, name) for name in ("token", "bad_token")]
            said = [row and (row.next, [effect for effect in row.effects if effect != "ERASE_KEY"]) for row in rows]
            if said[0] != said[1]:
                raise Impossible("the table tells tokens apart that are not opened")
        else:
            wrong = self._wrong_token(p, h, m.body["sealed"])
            event = "bad_token" if wrong else "token"
            h.lost = wrong or h.lost
            self.counted = wrong or self.counted
        self.apply(p, h, event, m, is_repetition)

    def _wrong_token(self, p: Pairing, h: Handoff, sealed: Any) -> tuple[str, str] | None:
        """The first check of the sealed grant that fails, and the field."""
        if not isinstance(sealed, dict):
            return "bad_sealed_box", ""
        spoil = sealed.get("spoil")
        if h.key is None:
            return "no_one_time_key", ""
        if spoil == "spelling":
            return "bad_field", "sealed"
        if spoil == "seal" or sealed.get("to", h.key) != h.key:
            return "bad_sealed_box", ""
        if spoil == "json":
            return "bad_grant", ""
        grant = {**sealed["grant"], **(spoil if isinstance(spoil, dict) else {})}
        if any(isinstance(value, float) for value in grant.values()):
            return "bad_grant", ""  # a rule of JSON: no parser says where
        field = self.table.wrong_grant(grant)
        if field is not None:
            return "bad_grant", field
        is_last = self.last_digest.get((p.pairing_id, f"OFFER {h.handoff_id}")) == h.offer_digest
        right: Json = {
            "pairing_id": p.pairing_id,
            "handoff_id": h.handoff_id,
            "phone_key": "$phone_key",
            "companion_key": "$companion_key",
            "one_time_key": h.key,
            "offer_hash": f"#OFFER {h.handoff_id}" if is_last else "another",
            "accept_hash": f"#ACCEPT {h.handoff_id}",
            "issuer": h.offer["issuer"],
            "client_id": h.offer["client_id"],
        }
        first = f"#ACCEPT(1) {h.handoff_id}"  # any of the last 32 will do
        wrong = [name for name in right if grant[name] not in (right[name], "*", first)]
        return ("grant_mismatch", ", ".join(wrong)) if wrong else None

    def _store(self, p: Pairing, h: Handoff, m: Message) -> None:
        sealed = m.body["sealed"]
        spoil = sealed.get("spoil")
        fields = {**sealed["grant"], **(spoil if isinstance(spoil, dict) else {})}
        sent_at = m.sent_at - self.wall if m.sent_at else self.now
        h.grant = Grant(fields, lease_days=h.offer["lease_days"], lease_from=min(self.now, sent_at))
        for other in list(p.handoffs.values()):
            if other is h or other.grant is None:
                continue
            same = all(other.grant.fields[k] == fields[k] for k in ("issuer", "client_id", "subject"))
            if (same and fields["subject"] != "") or other.handoff_id == h.offer["renews"]:
                self.own(p, other, "ended")
                other.wants = None
        for other in p.handoffs.values():
            same = all(other.token.get(k) == fields[k] for k in ("issuer", "client_id", "subject"))
            if (same and fields["subject"] != "") or other.handoff_id == h.offer["renews"]:
                other.wants = None

    # --- messages -------------------------------------------------------------------------------------------

    def _found(self, p: Pairing, m: Message) -> Handoff:
        handoff_id = m.body["handoff_id"]
        h = p.handoffs.get(handoff_id)
        if h is None:
            if m.type != "CLOSED" and len(p.handoffs) >= self.table.limit("handoffs_remembered"):
                raise Refused("too_many_handoffs")
            h = Handoff(handoff_id, "NONE", {}, self.now)
        return h

    def content(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        if m.type == "OFFER":
            self._offer(p, m, is_repetition)
        elif m.type == "TOKEN":
            self._token(p, m, is_repetition)
        elif m.type in EVENTS:
            self.apply(p, self._found(p, m), EVENTS[m.type], m, is_repetition)
        elif m.type == "HELLO":
            self.on_hello(p, m, self.high_before)
        elif m.type == "ROLLBACK":
            self.on_rollback(p, m)
        elif m.type == "LEASE":
            self._lease(p, m)
        elif m.type == "REJECT":
            self._reject(p, m)

    def _reject(self, p: Pairing, m: Message) -> None:
        handoff_id = m.body["handoff_id"]
        if handoff_id is not None:
            if handoff_id in p.handoffs:
                self.apply(p, p.handoffs[handoff_id], "reject", m)
            return
        if m.body["reason"] == "unsupported" and self.on_unsupported(p, m):
            return
        self.settle(p, [r for r in p.requests if r.type == "RENEW" and r.number == m.in_reply_to])

    # --- RENEW ----------------------------------------------------------------------------------------------

    def _wish(self, p: Pairing, h: Handoff, reason: str) -> None:
        h.wants = reason
        if not any(other.state == "READY" for other in p.handoffs.values() if other is not h):
            self._renew(p, h)

    def _renew(self, p: Pairing, h: Handoff) -> None:
        if p.state == "active" and not self.of_handoff(p, h.handoff_id, "RENEW"):
            generation = h.grant.generation if h.grant else h.heard
            self.open(p, "RENEW", {"handoff_id": h.handoff_id, "reason": h.wants, "generation": generation})

    def _ask_again(self, p: Pairing, reason: str | None) -> None:
        """RENEW for grants that cannot go on: for this reason alone, or for any."""
        if any(h.state == "READY" for h in p.handoffs.values()):
            return
        for h in p.handoffs.values():
            if h.wants not in (None, "forgotten") and reason in (None, h.wants):
                self._renew(p, h)

    def met(self, p: Pairing) -> None:
        self._ask_again(p, "uncertain")

    # --- LEASE ----------------------------------------------------------------------------------------------

    def _lease(self, p: Pairing, m: Message) -> None:
        which = "latest" if p.challenge is not None and m.body["challenge"] == p.challenge else "other"
        if not self.table.lease("taken", {"challenge": which}):
            raise Refused("stale_challenge")
        for item in m.body["handoffs"]:
            h = p.handoffs.get(item["handoff_id"])
            if h is not None and h.grant is not None:
                h.grant.lease_days, h.grant.lease_from = item["lease_days"], p.challenge_at
        p.challenge = None

    def wants_challenge(self, p: Pairing) -> bool:
        return any(h.grant is not None and h.grant.lease_days > 0 for h in p.handoffs.values())

    def may_be_used(self, grant: Grant) -> bool:
        """Whether an access token of this grant may leave, and a refresh."""
        return grant.state in USABLE and not self.is_over(grant)

    def is_over(self, grant: Grant) -> bool:
        """Whether its lease has ended."""
        return grant.lease_days > 0 and self.now - grant.lease_from >= grant.lease_days * DAY_S

    # --- HELLO's list, a restored disk ----------------------------------------------------------------------

    def listed(self, p: Pairing) -> list[Json]:
        listed = []
        for h in p.handoffs.values():
            if h.state == "READY":
                listed.append({"handoff_id": h.handoff_id, "state": "ready", "generation": 0})
            elif h.grant is not None:
                grant = h.grant
                listed.append({"handoff_id": h.handoff_id, "state": grant.state, "generation": grant.generation})
        return listed

    def take_list(self, p: Pairing, m: Message) -> bool:
        named = {item["handoff_id"] for item in m.body["handoffs"]}
        if m.seq > self.high_before and len(m.body["handoffs"]) < self.table.limit("handoffs_listed"):
            for h in list(p.handoffs.values()):
                if h.state == "READY" and h.handoff_id not in named:
                    self.apply(p, h, "reject", m)
        return False

    def restored(self, p: Pairing) -> None:
        for of in self.pairings() if p.peer == self.disk.primary else [p]:
            for h in list(of.handoffs.values()):
                if h.state == "READY":
                    self.own(of, h, "replaced")
                if h.grant is not None:
                    h.grant.state, h.wants = "locked", None

    # --- revocation -----------------------------------------------------------------------------------------

    def _revoked(self, p: Pairing, h: Handoff, in_reply_to: int | None, gone: Grant | None) -> None:
        asked = self.memory.asking
        if (p.pairing_id, h.handoff_id) in asked:
            return
        if gone is not None:
            behaviour = gone.fields.get("behaviour", {})
            can = not isinstance(behaviour, dict) or behaviour.get("can_revoke_token", True)
            if gone.fields["revocation_endpoint"] is not None and can:
                asked[p.pairing_id, h.handoff_id] = self.now + self.table.time("revocation_s")
                return
            h.provider = "unsupported"
        self._say_revoked(p, h, in_reply_to)

    def _say_revoked(self, p: Pairing, h: Handoff, in_reply_to: int | None) -> None:
        ends = h.ends_at.get("ends", 0)  # a companion may have refreshed at once, when nobody asked
        body = {"handoff_id": h.handoff_id, "provider": h.provider, "access_token_ends_at": ends}
        if self.memory.is_connected:
            self.say(p, "REVOKED", body, in_reply_to)

    def provider(self, step: Json) -> None:
        """The provider's answer to a revocation."""
        for (pairing_id, handoff_id), _ in list(self.memory.asking.items()):
            if handoff_id == step["handoff_id"] and step.get("pairing", pairing_id) == pairing_id:
                self._provider(pairing_id, handoff_id, step["says"])
                return
        raise Impossible("nothing is being asked")

    def _provider(self, pairing_id: str, handoff_id: str, says: str) -> None:
        del self.memory.asking[pairing_id, handoff_id]
        p = self.disk.pairings[pairing_id]
        h = p.handoffs[handoff_id]
        h.provider = says
        self._say_revoked(p, h, None)

    # --- own events -----------------------------------------------------------------------------------------

    def _held(self, step: Json) -> tuple[Pairing, Handoff, Grant]:
        for p in self.disk.pairings.values():
            h = p.handoffs.get(step["handoff_id"])
            if h is not None and h.grant is not None and step.get("pairing", p.pairing_id) == p.pairing_id:
                return p, h, h.grant
        raise Impossible("no such grant")

    def refresh(self, step: Json) -> None:
        """A refresh of this grant ended."""
        p, h, grant = self._held(step)
        if not self.may_be_used(grant) and h.wants != "person":
            raise Impossible("this grant is not refreshed")
        becomes = step["becomes"]
        if becomes == "rotated":
            grant.generation += 1
            grant.state, grant.has_access_token, h.wants = "held", True, None
        elif becomes == "denied":
            self._end(p, h, grant, "denied")
            h.provider, h.ends_at = "unknown", {}  # the provider itself has ended it, so nobody asks anything
        else:
            grant.state = "needs_handoff"
            if h.wants != becomes:
                self._wish(p, h, becomes)

    def _end(self, p: Pairing, h: Handoff, grant: Grant, reason: str) -> None:
        h.heard, h.token = grant.generation, grant.fields
        self.own(p, h, "ended")
        self._wish(p, h, reason)

    def erase(self, step: Json) -> None:
        """Somebody at the companion has its grants erased."""
        for p in self.disk.pairings.values():
            for h in list(p.handoffs.values()):
                if h.grant is not None:
                    self._end(p, h, h.grant, "forgotten")

    def ask(self, step: Json) -> Json:
        """An application asks for an access token."""
        _, _, grant = self._held(step)
        is_given = self.may_be_used(grant)
        if grant.state == "needs_handoff" and not self.is_over(grant):
            return {"token": "*"}  # an access token of before may be there yet
        grant.has_access_token = grant.has_access_token or is_given
        return {"token": is_given}

    # --- time -----------------------------------------------------------------------------------------------

    def judge_retired(self) -> None:
        for p in self.pairings(None, "retired"):
            old = self.wall_now() - self.table.time("retired_requests_s")
            self.settle(p, [r for r in p.requests if r.type in ("STORED", "RENEW") and r.queued_wall <= old])

    def due(self) -> list[float]:
        return super().due() + list(self.memory.asking.values())

    def fall_due(self) -> None:
        super().fall_due()
        for (pairing_id, handoff_id), at in list(self.memory.asking.items()):
            if at <= self.now:
                self._provider(pairing_id, handoff_id, "unreachable")

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> Json:
        pairings = {}
        for p in self.disk.pairings.values():
            grants = {
                h.handoff_id: {
                    "state": h.grant.state,
                    "generation": h.grant.generation,
                    "may_be_used": self.may_be_used(h.grant),
                }
                for h in p.handoffs.values()
                if h.grant is not None
            }
            pairings[p.pairing_id] = {
                "state": p.state,
                "handoffs": {h.handoff_id: h.state for h in p.handoffs.values()},
                "open": [r.label for r in p.requests],
                "grants": grants,
                "keys": [h.handoff_id for h in p.handoffs.values() if h.key is not None],
            }
        return {"pairings": pairings}
