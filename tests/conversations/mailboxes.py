"""The peer's side of pairing.md before there is a pairing: the invitation, PAIR1, PAIR2, ENDED and DECLINED.

A :class:`Mailbox` is one exchange: it makes what the peer publishes there, and opens what the end publishes. A message
of the mailbox that was read is a dict such as ``{"mailbox": "PAIR2", "name": …}``; for ENDED and DECLINED it has
``reason``, the number on the wire.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from nacl.bindings import crypto_box_beforenm, crypto_box_open_easy_afternm
from nacl.exceptions import CryptoError

from tests.conversations.fits import protocol
from tests.conversations.peer import Peer, Sent, UnreadableError, damaged
from tests.vectors.exchange_cases import invitation_octets, invitation_text, mailbox_id
from tests.vectors.pairing_cases import ending_wire, pair_wire, transcript
from tests.vectors.vector_kit import STRANGER, Case, Pair, b64, compact, derive, pad

PAGE = "pairing.md"
LOW_ORDER = bytes(32)  # a public key with which no secret is shared
KEY_AT, SECRET_AT, BROKER_AT = 1, 33, 49
TOPIC = "relay/v1/pair/"


@dataclass
class Mailbox:
    """One invitation and what came of it, as ``peer`` sees it."""

    peer: Peer
    octets: bytes
    number: int = 1
    pairing_id: str = ""
    pair1: bytes = b""  # the one that PAIR2 answers
    pair2: bytes = b""
    _made: list[tuple[bytes, Pair]] = field(default_factory=list)  # every PAIR1 of the peer, with its fresh key

    @classmethod
    def shown_by(cls, peer: Peer, number: int) -> Mailbox:
        """An invitation of the peer's own, for a phone to scan."""
        secret = derive(f"{peer.label} invitation {number}", 16)
        return cls(peer, invitation_octets(peer.own.public, secret, b""), number)

    @classmethod
    def read_from(cls, peer: Peer, text: str, number: int) -> Mailbox:
        """The invitation that the companion under test shows."""
        body = text.removeprefix("RTR1:")
        try:
            octets = base64.b32decode(body + "=" * (-len(body) % 8))
        except binascii.Error:
            raise UnreadableError("the invitation is not base32", PAGE) from None
        octets, checksum = octets[:-4], octets[-4:]
        if not text.startswith("RTR1:") or len(octets) < BROKER_AT + 1 or octets[0] != 1:
            raise UnreadableError("the invitation is not one of version 1", PAGE)
        if checksum != hashlib.blake2b(octets, digest_size=4, person=b"rtr1-inv").digest():
            raise UnreadableError("the checksum of the invitation is wrong", PAGE)
        if octets[KEY_AT:SECRET_AT] != peer.device.public:
            raise UnreadableError("the invitation names another key than the companion's own", PAGE)
        return cls(peer, octets, number)

    @property
    def text(self) -> str:
        """The invitation."""
        return invitation_text(self.octets)

    @property
    def secret(self) -> bytes:
        """What only a reader of the invitation knows."""
        return self.octets[SECRET_AT:BROKER_AT]

    @property
    def topic(self) -> str:
        """Where both ends publish."""
        return TOPIC + mailbox_id(self.secret).hex()

    @property
    def transcript(self) -> str:
        """T, when PAIR1 and PAIR2 have passed."""
        return transcript(self.octets + self.pair1 + self.pair2).hex()

    def made(self, kind: str, *, reason: int = 1, name: str, spoil: str = "", pairing_id: str = "") -> dict[str, str]:
        """Return what the peer publishes as ``kind``, ready for ``receive``."""
        match kind:
            case "PAIR1":
                wire = self._pair(kind, name, self.octets, self.peer.device.public, spoil)
                if not spoil:
                    self.pair1 = self.pair1 or wire
            case "PAIR2":
                before = transcript(self.octets + self.pair1)
                wire = self._pair(kind, name, before, self.pair1[4:36], spoil, pairing_id=pairing_id)
                if not spoil:
                    self.pair2, self.pairing_id = wire, pairing_id
            case _:
                magic = b"RTE1" if kind == "ENDED" else b"RTD1"
                about = transcript(self.octets + self.pair1) if kind == "ENDED" else bytes.fromhex(self.transcript)
                wire = ending_wire(magic, reason, 0, about, secret=bytes(16) if spoil == "mac" else self.secret)
        return {"topic": self.topic, "payload": b64(damaged(wire, spoil))}

    def _pair(self, kind: str, name: str, before: bytes, to: bytes, spoil: str, **more: str) -> bytes:
        fresh = Pair.of(f"{self.peer.label} fresh key {self.number} {kind} {len(self._made)}")
        fields: Case = {
            "v": 1,
            "static_key": self.peer.own.public.hex(),
            "name": name,
            "nonce": derive(f"{self.peer.label} {kind} nonce {self.number}", 16).hex(),
            "type": kind,
            **more,
        }
        match spoil:
            case "field":
                fields["friend"] = 1
            case "static_key":
                fields["static_key"] = self.peer.device.public.hex()
            case "static_point":
                fields["static_key"] = LOW_ORDER.hex()
            case "another_key":
                fields["static_key"] = STRANGER.public.hex()
        text = compact(fields).encode()
        if spoil in ("json", "duplicate_key"):
            text = text[:-1] if spoil == "json" else b'{"v":1,' + text[1:]
        wire = pair_wire(
            text,
            fresh=fresh,
            peer_public=to,
            secret=bytes(16) if spoil == "mac" else self.secret,
            person=b"rtr1-pm1" if kind == "PAIR1" else b"rtr1-pm2",
            before=before,
            pad_with=(lambda plain: plain + bytes(4096 - len(plain))) if spoil == "padding" else pad,
        )
        match spoil:
            case "fresh_key":  # what the receiver could have sent to itself
                wire = wire[:4] + (self.peer.device.public if kind == "PAIR1" else to) + wire[36:]
            case "fresh_point":
                wire = wire[:4] + LOW_ORDER + wire[36:]
        if kind == "PAIR1":
            self._made.append((wire, fresh))
        return wire

    def read(self, send: dict[str, Any]) -> Sent:
        """Open what the end published here. Raises :class:`UnreadableError`."""
        payload = str(send["payload"])
        wire = base64.b64decode(payload)
        if wire[:4] in (b"RTE1", b"RTD1"):
            return Sent(payload, "", self._ending(wire))
        kind = "PAIR1" if self.peer.end == "phone" else "PAIR2"
        if len(wire) != 4172 or wire[:4] != b"RTP1":
            raise UnreadableError("what was published in the mailbox is no message of pairing.md", PAGE)
        before, padded = self._opened(kind, wire)
        plain = padded.rstrip(b"\0")[:-1]
        person = b"rtr1-pm1" if kind == "PAIR1" else b"rtr1-pm2"
        mac = hashlib.blake2b(before + wire[:60] + plain[32:], key=self.secret, digest_size=32, person=person)
        if mac.digest() != plain[:32]:
            raise UnreadableError(f"the MAC of {kind} is wrong", PAGE)
        fields: dict[str, Any] = json.loads(plain[32:])
        names = [row["name"] for row in protocol()["pair1"] if kind == "PAIR2" or row["name"] != "pairing_id"]
        if sorted(fields) != sorted(names) or fields["type"] != kind:
            raise UnreadableError(f"{kind} has other fields than pairing.md gives it", PAGE)
        if fields["static_key"] != self.peer.device.public.hex():
            raise UnreadableError(f"`static_key` of {kind} is not the sender's", PAGE)
        if kind == "PAIR1":
            self.pair1 = wire
        else:
            self.pair1 = next(pair1 for pair1, _ in self._made if transcript(self.octets + pair1) == before)
            self.pair2, self.pairing_id = wire, fields["pairing_id"]
        return Sent(payload, "", {"mailbox": kind, "name": fields["name"]})

    def _opened(self, kind: str, wire: bytes) -> tuple[bytes, bytes]:
        """Return what the MAC begins with, and the padded plaintext."""
        keys = [(self.octets, self.peer.own)]
        if kind == "PAIR2":
            keys = [(transcript(self.octets + pair1), fresh) for pair1, fresh in self._made]
        for before, mine in keys:
            try:
                shared = crypto_box_beforenm(wire[4:36], mine.private)
                return before, crypto_box_open_easy_afternm(wire[60:], wire[36:60], shared)
            except CryptoError:
                continue
        raise UnreadableError(f"the box of {kind} does not open", PAGE)

    def _ending(self, wire: bytes) -> dict[str, Any]:
        kind = "ENDED" if wire[:4] == b"RTE1" else "DECLINED"
        abouts = [transcript(self.octets + pair1) for pair1, _ in self._made]
        if kind == "DECLINED":
            abouts = [bytes.fromhex(self.transcript)]
        seconds = int.from_bytes(wire[5:9], "big")
        if len(wire) != 41 or not any(
            wire == ending_wire(wire[:4], wire[4], seconds, about, secret=self.secret) for about in abouts
        ):
            raise UnreadableError(f"{kind} has a wrong length or a wrong MAC", PAGE)
        return {"mailbox": kind, "reason": wire[4]}
