"""The phone's end: handoffs after the rows of the table, RENEW, LEASE, orphans, what a restored phone does.

States and effects come from the table; each effect is one method here (`_effect`). What the pages say beside the tables
is here too, each with the page's words in the comment.
"""

import json
from typing import Any

from tests.conversations.interpreter_mailbox import Mailboxes
from tests.conversations.interpreter_state import Handoff, Impossible, Message, Pairing, Refused
from tests.conversations.table import Json, Table

# Points of low order of Curve25519: with them no secret is shared.
LOW_ORDER = {
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
}
SHOWN = {  # as HELLO names the live states
    "OFFERED": "offered",
    "ACCEPTED": "offered",
    "RELEASED": "released",
    "DONE": "done",
    "CANCELLING": "cancelling",
    "REVOKING": "revoking",
}
EVENTS = {"ACCEPT": "accept", "STORED": "stored", "CANCELLED": "cancelled", "REVOKED": "revoked", "LOST": "lost"}
LOOK_EVERY_S = 3600  # between two looks for pairings that are over
OBTAINED_AGAIN_S = 600  # by then at the latest, says adapter.md
TOKEN_FIELDS = (
    "refresh_token",
    "token_endpoint",
    "revocation_endpoint",
    "audience",
    "subject",
    "account",
    "profile",
    "signed_in_at",
    "is_otp",
    "scope",
)


class PhoneEnd(Mailboxes):
    """What a phone must do."""

    end = "phone"

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.may_hand_out = True
        self.looked_at = 0.0

    # --- the table ------------------------------------------------------------------------------------------

    def apply(self, p: Pairing, h: Handoff, event: str, m: Message | None = None, is_repetition: bool = False) -> bool:
        """Do what the row of this state and event says. Returns whether there is one."""
        row = self.table.row("phone", h.state, event)
        if row is None:
            return False
        if "SEND_REVOKE" in row.effects and event == "stored" and not self._may_take_away(p):
            raise Refused("too_many_handoffs")
        if is_repetition and row.next != h.state:  # a repeated message never moves anything; STORED wants its answer
            if h.handoff_id in p.handoffs and "SEND_CLOSED" in row.effects:
                self._effect(p, h, "SEND_CLOSED", m, h.state)
            return True
        is_new = h.handoff_id not in p.handoffs and row.next != h.state
        if is_new:
            p.handoffs[h.handoff_id] = h
        was, h.state = h.state, row.next
        for effect in row.effects:
            self._effect(p, h, effect, m, was)
        if h.state == "DONE" and was != "DONE":
            h.heard = max(h.heard, 1)
            self._supersede(p, h)
        return True

    def own(self, p: Pairing, h: Handoff, event: str) -> None:
        """An event of this end's own: without a row it is a bug of the program."""
        if not self.apply(p, h, event):
            raise Impossible(f"{event} in {h.state}")

    def _effect(self, p: Pairing, h: Handoff, effect: str, m: Message | None, was: str) -> None:
        body = {"handoff_id": h.handoff_id}
        answered = m.seq if m else None
        if effect == "SEND_OFFER":
            self.open(p, "OFFER", h.offer)
        elif effect == "SEND_TOKEN":
            h.is_held = h.offer["strategy"] == "move"
            self.open(p, "TOKEN", {**body, "sealed": {"grant": self._grant(p, h)}})
        elif effect in ("SEND_CANCEL", "SEND_REVOKE"):
            self.open(p, effect.removeprefix("SEND_"), body)
        elif effect == "SEND_CLOSED":
            self.say(p, "CLOSED", body, answered)
        elif effect == "SEND_STATUS":
            reason = {"DONE": "done", "CANCELLED": "cancelled"}.get(was, "gone")
            self.say(p, "REJECT", {**body, "reason": reason}, answered)
        elif effect == "RESEND":
            self.send_again(p, self.of_handoff(p, h.handoff_id))
        elif effect == "SETTLE":
            self.settle(p, self.of_handoff(p, h.handoff_id))
        elif effect == "OBTAIN_TOKEN" and h.offer["strategy"] != "move":
            self.out.append({"obtain": h.handoff_id})
        elif effect in ("RETURN_TOKEN", "WIPE_TOKEN"):
            h.is_held = False

    def _supersede(self, p: Pairing, h: Handoff) -> None:
        """The earlier handoffs that this one, which became DONE, takes the place of."""
        if h.handoff_id not in p.handoffs:
            return
        order = list(p.handoffs)
        for other in [p.handoffs[i] for i in order[: order.index(h.handoff_id)]]:
            same = all(other.offer.get(k) == h.offer.get(k) for k in ("issuer", "client_id"))
            subject = h.token.get("subject", "")
            same = same and bool(h.offer) and subject != "" and subject == other.token.get("subject", "")
            if same or other.handoff_id == h.offer.get("renews"):
                self.apply(p, other, "superseded")

    # --- a person -------------------------------------------------------------------------------------------

    def active(self, step: Json) -> Pairing:
        """The pairing that an own event means: the one named, or the newest active one."""
        if "pairing" in step:
            return self.disk.pairings[step["pairing"]]
        found = self.pairings(None, "active")
        if not found:
            raise Impossible("no active pairing")
        return found[-1]

    def opened(self, p: Pairing) -> Handoff | None:
        """The open handoff of a pairing; there is one at most (law 7)."""
        return next((h for h in p.handoffs.values() if self.table.is_open(h.state)), None)

    def offer(self, step: Json) -> None:
        """A person asks for a handoff; a second wish joins the first."""
        p = self.active(step)
        if p.state != "active":
            raise Impossible("the pairing is not active")
        if p.speaks >= 2 and step["strategy"] not in p.strategies:
            return
        if self.disk.is_locked and step["strategy"] != "mint":
            raise Impossible("the own grant is locked")
        p.may_renew = True  # a handoff that a person asks for gives the right back
        if self.opened(p) is None:
            offer = {k: step[k] for k in ("strategy", "issuer", "client_id", "scope", "account", "lease_days")}
            self._begin(p, offer, None)

    def _begin(self, p: Pairing, offer: Json, renews: str | None) -> None:
        handoff_id = self.names.fresh("h")
        offer = {"handoff_id": handoff_id, **offer, "expires_at": "*", "renews": renews}
        self.own(p, Handoff(handoff_id, "NEW", offer, self.now), "offer")

    def find(self, handoff_id: str, step: Json) -> tuple[Pairing, Handoff]:
        """The handoff of this id."""
        for p in self.disk.pairings.values():
            if handoff_id in p.handoffs and step.get("pairing", p.pairing_id) == p.pairing_id:
                return p, p.handoffs[handoff_id]
        raise Impossible(f"no handoff {handoff_id}")

    def obtained(self, step: Json) -> None:
        """The provider has given the token; of a handoff that is over meanwhile it is dropped."""
        p, h = self.find(step["handoff_id"], step)
        if h.state == "ACCEPTED":
            h.token = dict(step["token"])
            fits = len(json.dumps(self._grant(p, h)).encode()) <= self.table.limit("grant_bytes")
            self.own(p, h, "sealed" if fits else "cancel")

    def not_obtained(self, step: Json) -> None:
        """No answer: it is tried again. Refused for good: the handoff is given up."""
        p, h = self.find(step["handoff_id"], step)
        if h.state == "ACCEPTED" and step["why"] == "refused":
            self.own(p, h, "cancel")
        elif h.state == "ACCEPTED":
            self.fleeting(p).due[f"obtain {h.handoff_id}"] = self.now + OBTAINED_AGAIN_S

    def cancel(self, step: Json) -> None:
        p = self.active(step)
        h = self.opened(p)
        if h is None:
            raise Impossible("no handoff is open")
        self.own(p, h, "cancel")

    def revoke(self, step: Json) -> None:
        """The peer's grants are taken away, and its right to renew."""
        peer = self.active(step).peer
        for p in self.pairings(peer):
            p.may_renew = False
            for h in list(p.handoffs.values()):
                self.apply(p, h, "revoke")

    def forget(self, step: Json) -> None:
        """The device is given up, and its pairings are deleted; nothing is sent."""
        for p in self.pairings(self.active(step).peer):
            for h in list(p.handoffs.values()):
                self.own(p, h, "forget")
            self.drop(p)

    # --- messages -------------------------------------------------------------------------------------------

    def content(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        if m.type in EVENTS:
            self._event(p, m, is_repetition)
        elif m.type == "HELLO":
            self.on_hello(p, m, self.high_before)
        elif m.type == "ROLLBACK":
            self.on_rollback(p, m)
        elif m.type == "RENEW":
            self._renew(p, m, is_repetition)
        elif m.type == "REJECT":
            handoff = m.body["handoff_id"]
            if handoff in p.handoffs:
                self.apply(p, p.handoffs[handoff], "reject", m)
            elif handoff is None and m.body["reason"] == "unsupported":
                self.on_unsupported(p, m)

    def _event(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        handoff_id = m.body["handoff_id"]
        h = p.handoffs.get(handoff_id) or Handoff(handoff_id, "NEW", {}, self.now)
        event = EVENTS[m.type]
        if event == "accept" and h.state == "OFFERED":
            self._accept(p, h, m)
            return
        if event == "stored" and h.state == "NEW" and not is_repetition:
            if p.unknown >= self.table.limit("unknown_handoffs"):
                raise Refused("too_many_handoffs")
            p.unknown += 1
        self.apply(p, h, event, m, is_repetition)

    def _accept(self, p: Pairing, h: Handoff, m: Message) -> None:
        """The first ACCEPT that counts gives TOKEN its key, its hash and the version of the grant."""
        if m.body["offer_hash"] != f"#OFFER {h.handoff_id}":
            raise Refused("wrong_offer")
        if m.body["one_time_key"] in LOW_ORDER:
            raise Refused("bad_point")
        h.key, h.accept = m.body["one_time_key"], m.digest
        h.grant_v = min(self.table.grant_version, m.body.get("grant_version", 1))
        self.apply(p, h, "accept", m)
        if h.state == "ACCEPTED" and h.offer["strategy"] == "move":
            self.own(p, h, "sealed")

    def _grant(self, p: Pairing, h: Handoff) -> Json:
        """The sealed grant, with `*` where the conversation does not say what is in it."""
        is_last = self.last_digest.get((p.pairing_id, f"ACCEPT {h.handoff_id}")) == h.accept
        grant: Json = {
            "v": h.grant_v,
            "pairing_id": p.pairing_id,
            "handoff_id": h.handoff_id,
            "phone_key": "$phone_key",
            "companion_key": "$companion_key",
            "one_time_key": h.key,
            "offer_hash": f"#OFFER {h.handoff_id}",
            "accept_hash": f"#ACCEPT {h.handoff_id}" if is_last else "*",
            "issuer": h.offer["issuer"],
            "client_id": h.offer["client_id"],
            **{name: h.token.get(name, "*") for name in TOKEN_FIELDS},
        }
        if "scope" in h.token:  # else nothing is known of what was granted
            tacit = self.table.tacit_scope(h.token.get("profile", ""))
            words = h.token["scope"].split() or h.offer["scope"].split()
            words += [word for word in h.offer["scope"].split() if word in tacit and word not in words]
            grant["scope"] = " ".join(words)
        if h.grant_v >= 2:
            grant |= {"is_sole": False if h.offer["strategy"] == "branch" else "*", "behaviour": "*"}
        return grant

    # --- RENEW and LEASE ------------------------------------------------------------------------------------

    def _renew(self, p: Pairing, m: Message, is_repetition: bool) -> None:
        handoff_id = m.body["handoff_id"]
        h = p.handoffs.get(handoff_id)
        renewals = [other for other in p.handoffs.values() if other.offer.get("renews")]
        begun = [o.begun for o in renewals if self.now - o.begun < self.table.time("renewal_window_s")]
        serving = [o for o in renewals if o.offer["renews"] == handoff_id and self.of_handoff(p, o.handoff_id)]
        opened = self.opened(p)
        facts: dict[str, Any] = {
            "renewal_is_open": bool(serving),
            "state": h.state if h else "NEW",
            "other_is_open": opened is not None and opened is not h,
            "right_taken": not p.may_renew,
            "pairing": p.state,
            "reason": m.body["reason"],
            "strategy": h.offer.get("strategy", "") if h else "",
            "may_hand_out": self.may_hand_out,
            "is_renewal": bool(h and h.offer.get("renews")),
            "generation": m.body["generation"],
            "renewals_24h": len(begun),
            "is_repetition": is_repetition,
        }
        if begun:
            facts["since_last_s"] = int(self.now - max(begun))
        answer = self.table.renewal(facts)
        if answer[0] == "RESEND":
            for other in serving:
                self.send_again(p, self.of_handoff(p, other.handoff_id))
        elif answer[0] == "REJECT":
            self.say(p, "REJECT", {"handoff_id": None, "reason": answer[1]}, m.seq)
        elif h is not None:
            copied = ("strategy", "issuer", "client_id", "scope", "account", "lease_days")
            self._begin(p, {k: h.offer[k] for k in copied}, handoff_id)

    def greeted(self, p: Pairing, m: Message) -> None:
        done = [h for h in p.handoffs.values() if h.state == "DONE"]
        facts: dict[str, Any] = {
            "in_reply_to": m.in_reply_to,
            "done": len(done),
            "revoke_is_open": any(r.type == "REVOKE" for r in p.requests),
            "right_taken": not p.may_renew,
            "pairing": p.state,
        }
        if self.table.lease("given", facts):
            done = done[-self.table.limit("handoffs_listed") :]
            named = [{"handoff_id": h.handoff_id, "lease_days": h.offer.get("lease_days", 0)} for h in done]
            self.say(p, "LEASE", {"challenge": m.body["challenge"], "handoffs": named}, m.seq)

    # --- HELLO's lists --------------------------------------------------------------------------------------

    def listed(self, p: Pairing) -> list[Json]:
        return [
            {"handoff_id": h.handoff_id, "state": SHOWN[h.state], "generation": h.heard}
            for h in p.handoffs.values()
            if h.state in SHOWN
        ]

    def take_list(self, p: Pairing, m: Message) -> bool:
        is_restored = False
        for item in m.body["handoffs"]:
            h = p.handoffs.get(item["handoff_id"])
            if item["state"] == "ready":
                if h is None:
                    self.say(p, "REJECT", {"handoff_id": item["handoff_id"], "reason": "gone"}, m.seq)
                continue
            if h is not None and item["generation"]:
                is_restored = is_restored or item["generation"] < h.heard
                h.heard = max(h.heard, item["generation"])
            is_dead = item["state"] == "dead"
            if h is None or h.state == "GONE(superseded)":
                if not is_dead:
                    self._orphan(p, item["handoff_id"], h)
            elif h.state in ("GONE(revoked)", "GONE(lost)") and not is_dead and self._may_take_away(p):
                self.apply(p, h, "stored", m)
        return is_restored

    def _may_take_away(self, p: Pairing) -> bool:
        """Whether there is room for one more REVOKE of what the companion's word alone has brought."""
        count = sum(1 for r in p.requests if r.type == "REVOKE")
        return count < self.table.limit("unknown_handoffs")

    def _orphan(self, p: Pairing, handoff_id: str, h: Handoff | None) -> None:
        """A grant that the phone does not know counts as GONE(rollback), so that a person can revoke it."""
        if h is None:
            if p.unknown >= self.table.limit("unknown_handoffs"):
                return
            p.unknown += 1
            h = p.handoffs[handoff_id] = Handoff(handoff_id, "NEW", {}, self.now)
        h.state = "GONE(rollback)"

    # --- loss, power, time ----------------------------------------------------------------------------------

    def restored(self, p: Pairing) -> None:
        for h in list(p.handoffs.values()):
            if h.offer.get("strategy") == "move" and h.state in SHOWN:
                self.settle(p, self.of_handoff(p, h.handoff_id))
                h.state, h.is_held = "GONE(rollback)", False
            elif h.state in ("OFFERED", "ACCEPTED"):
                self.own(p, h, "cancel")
        self.disk.is_locked = True

    def retire(self, p: Pairing) -> None:
        for h in list(p.handoffs.values()):
            if self.table.is_open(h.state) and h.state != "CANCELLING":
                self.own(p, h, "cancel")

    def activate(self, p: Pairing) -> None:
        super().activate(p)
        self._clear_up()

    def _clear_up(self) -> None:
        """Delete the retired pairings in which nothing is live any more."""
        for p in self.pairings(None, "retired"):
            if not any(h.state in SHOWN for h in p.handoffs.values()):
                self.drop(p)
        self.looked_at = self.now

    def begin_again(self) -> None:
        self._clear_up()
        self._give_up_old()
        for p in self.pairings():
            for h in p.handoffs.values():
                if h.state == "ACCEPTED":
                    self.out.append({"obtain": h.handoff_id})

    def due(self) -> list[float]:
        times = [*super().due(), self.looked_at + LOOK_EVERY_S]
        for p in self.pairings():
            for h in p.handoffs.values():
                if h.state in ("OFFERED", "ACCEPTED"):
                    times.append(h.begun + self.table.time("offer_s"))
        return times

    def fall_due(self) -> None:
        super().fall_due()
        if self.looked_at + LOOK_EVERY_S <= self.now:
            self._clear_up()
        self._give_up_old()

    def _give_up_old(self) -> None:
        for p in self.pairings():
            for h in list(p.handoffs.values()):
                if h.state in ("OFFERED", "ACCEPTED") and h.begun + self.table.time("offer_s") <= self.now:
                    self.own(p, h, "cancel")

    # --- state ----------------------------------------------------------------------------------------------

    def state(self) -> Json:
        pairings = {}
        for p in self.disk.pairings.values():
            pairings[p.pairing_id] = {
                "state": p.state,
                "handoffs": {h.handoff_id: h.state for h in p.handoffs.values()},
                "open": [r.label for r in p.requests],
                "may_renew": p.may_renew,
                "held": [h.handoff_id for h in p.handoffs.values() if h.is_held],
            }
        return {"pairings": pairings, "own_grants": "locked" if self.disk.is_locked else "held"}
