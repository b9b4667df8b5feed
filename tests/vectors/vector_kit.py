"""What all vector scripts share: the devices, how a message is built and sealed, how a case is written.

Nothing here imports the relay: keys, hashes and boxes come straight from libsodium and hashlib, JSON from the
standard library, so that a mistake in the program cannot hide in the vectors that test it. There is no randomness:
every key, nonce and id is SHAKE-256 of a label.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from nacl.bindings import crypto_box_beforenm, crypto_box_easy_afternm, crypto_scalarmult_base

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]
Case = dict[str, Json]

SENT_AT = 1_767_225_600  # 2026-01-01T00:00:00Z
SMALL, LARGE = 4096, 16384


def derive(label: str, size: int) -> bytes:
    """Return ``size`` bytes that stand for randomness."""
    return hashlib.shake_256(b"token relay test vector: " + label.encode()).digest(size)


@dataclass(frozen=True)
class Pair:
    """An X25519 key pair; a device's or a fresh one."""

    private: bytes
    public: bytes

    @classmethod
    def of(cls, label: str) -> Pair:
        private = derive(label, 32)
        return cls(private, crypto_scalarmult_base(private))

    @property
    def raw_id(self) -> bytes:
        return hashlib.blake2b(self.public, digest_size=32).digest()[:16]

    @property
    def device_id(self) -> str:
        return base64.b32encode(self.raw_id).decode().rstrip("=").lower()

    def described(self) -> Case:
        return {"private_key": self.private.hex(), "public_key": self.public.hex()}


PHONE = Pair.of("device phone")
COMPANION = Pair.of("device companion")
TABLET = Pair.of("device tablet")  # another phone of the same companion
STRANGER = Pair.of("device stranger")
DEVICES = {"phone": PHONE, "companion": COMPANION, "tablet": TABLET, "stranger": STRANGER}

PAIRING = derive("pairing phone companion", 16).hex()
TABLET_PAIRING = derive("pairing tablet companion", 16).hex()
HANDOFF = derive("handoff", 16).hex()
OTHER_HANDOFF = derive("other handoff", 16).hex()
ONE_TIME = Pair.of("one-time key")
INTEGER_MAX = 2**53 - 1
SEQUENCE_MAX = 2**52

TO_COMPANION = ("OFFER", "TOKEN", "CLOSED", "CANCEL", "REVOKE", "LEASE", "PAIR3")
TO_PHONE = ("ACCEPT", "STORED", "CANCELLED", "REVOKED", "LOST", "RENEW", "PAIR4")
BOTH_WAYS = ("HELLO", "REJECT", "ROLLBACK")
TYPES = TO_COMPANION + TO_PHONE + BOTH_WAYS

BODIES: dict[str, Case] = {
    "HELLO": {
        "challenge": derive("challenge", 16).hex(),
        "seq_sent": 7,
        "seq_accepted": 5,
        "handoffs": [{"handoff_id": HANDOFF, "state": "held", "generation": 3}],
    },
    "OFFER": {
        "handoff_id": HANDOFF,
        "strategy": "branch",
        "issuer": "https://login.example/tenant/v2.0",
        "client_id": "c0ffee00-0000-4000-8000-000000000001",
        "scope": "offline_access openid",
        "account": "ada@example.org",
        "lease_days": 90,
        "expires_at": SENT_AT + 86_400,
        "renews": None,
    },
    "ACCEPT": {
        "handoff_id": HANDOFF,
        "one_time_key": ONE_TIME.public.hex(),
        "offer_hash": derive("an offer hash", 32).hex(),
    },
    "TOKEN": {"handoff_id": HANDOFF, "sealed": "AAAA"},
    "STORED": {"handoff_id": HANDOFF},
    "CLOSED": {"handoff_id": HANDOFF},
    "CANCEL": {"handoff_id": HANDOFF},
    "CANCELLED": {"handoff_id": HANDOFF},
    "REVOKE": {"handoff_id": HANDOFF},
    "REVOKED": {"handoff_id": HANDOFF, "provider": "accepted", "access_token_ends_at": SENT_AT + 3600},
    "LOST": {"handoff_id": HANDOFF},
    "RENEW": {"handoff_id": HANDOFF, "reason": "uncertain", "generation": 4},
    "REJECT": {"handoff_id": None, "reason": "unsupported"},
    "LEASE": {
        "challenge": derive("challenge", 16).hex(),
        "handoffs": [{"handoff_id": HANDOFF, "lease_days": 90}],
    },
    "ROLLBACK": {"seq_sent": 41, "seq_accepted": 40},
    "PAIR3": {"transcript_hash": derive("a transcript", 32).hex()},
    "PAIR4": {"transcript_hash": derive("a transcript", 32).hex()},
}

# What the second version of a message has besides.
BODIES_2: dict[str, Case] = {
    "HELLO": {**BODIES["HELLO"], "speaks": 2, "strategies": ["branch", "mint", "move"]},
    "ACCEPT": {**BODIES["ACCEPT"], "grant_version": 2},
}
BODY_3: Case = {**BODIES_2["HELLO"], "speaks": 3, "name": "kitchen"}  # HELLO is the only one with a third


LOST_4: Case = {**BODIES["LOST"], "reason": "grant_mismatch", "field": "issuer, client_id"}


def compact(value: Json) -> str:
    """Return JSON without spaces, non-ASCII characters as they are: the form that the relay writes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def message(kind: str, *, body: Json = "sample", to: str = "", **head: Json) -> Case:
    """Return a whole message of a type, in the direction it travels.

    ``head`` replaces fields of the head, with ``from_`` for ``from``; a field that is not in it is an error.
    """
    to = to or ("phone" if kind in TO_PHONE else "companion")
    sender, recipient = (COMPANION, PHONE) if to == "phone" else (PHONE, COMPANION)
    value: Case = {
        "v": 1,
        "type": kind,
        "pairing_id": PAIRING,
        "from": sender.device_id,
        "to": recipient.device_id,
        "seq": 7,
        "sent_at": SENT_AT,
        "in_reply_to": None,
    }
    changed = {name.rstrip("_"): field for name, field in head.items()}
    assert changed.keys() <= value.keys()
    value |= changed
    value["body"] = dict(BODIES.get(kind, {})) if body == "sample" else body
    return value


def with_body(kind: str, **fields: Json) -> Case:
    """Return a message whose body differs from the sample in these fields."""
    return message(kind, body={**BODIES[kind], **fields})


def second(kind: str, **fields: Json) -> Case:
    """Return a message of version 2 whose body differs from the sample in these fields."""
    return message(kind, body={**BODIES_2[kind], **fields}, v=2)


def third(**fields: Json) -> Case:
    """Return a HELLO of version 3 whose body differs from the sample in these fields."""
    return message("HELLO", body={**BODY_3, **fields}, v=3)


def lost_4(**fields: Json) -> Case:
    """Return a LOST of version 4 whose body differs from the sample in these fields."""
    return message("LOST", body={**LOST_4, **fields}, v=4)


def without(kind: str, field: str) -> Case:
    """Return a message whose body lacks a field."""
    return message(kind, body={name: value for name, value in BODIES[kind].items() if name != field})


def pad(plaintext: bytes, size: int = 0) -> bytes:
    """Append 0x80 and zeros, to the size asked for or the smaller one that has room."""
    size = size or (SMALL if len(plaintext) < SMALL else LARGE)
    assert len(plaintext) < size
    return plaintext + b"\x80" + bytes(size - len(plaintext) - 1)


def box(sender: Pair, recipient_public: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """NaCl crypto_box: authenticator (16), then the ciphertext."""
    return crypto_box_easy_afternm(plaintext, nonce, crypto_box_beforenm(recipient_public, sender.private))


def seal_once(plaintext: bytes, recipient_public: bytes, ephemeral: Pair) -> bytes:
    """libsodium crypto_box_seal with the ephemeral key given."""
    nonce = hashlib.blake2b(ephemeral.public + recipient_public, digest_size=24).digest()
    return ephemeral.public + box(ephemeral, recipient_public, nonce, plaintext)


def topic(*, to: Pair, sender: Pair) -> str:
    """The topic from one device to another."""
    return f"relay/v1/{to.device_id}/from/{sender.device_id}"


def b64(data: bytes) -> str:
    """Base64 with padding. RFC 4648 §4."""
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    """Base64url without padding. RFC 4648 §5."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def spelled(plaintext: bytes) -> Case:
    """Show a plaintext as text where it is UTF-8, else as hex."""
    try:
        return {"plaintext": plaintext.decode()}
    except UnicodeDecodeError:
        return {"plaintext_hex": plaintext.hex()}


class Envelopes:
    """Collects envelope cases; each nonce follows from the case's name, and names are unique."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self._names: set[str] = set()

    def add(self, name: str, reason: str, plaintext: bytes | Case, **more: Json) -> None:
        """A properly sealed envelope around some plaintext. See :meth:`sealed` for ``more``."""
        octets = plaintext if isinstance(plaintext, bytes) else compact(plaintext).encode()
        self.sealed(name, reason, pad(octets), shown=spelled(octets), **more)

    def sealed(
        self, name: str, reason: str, padded: bytes, *, shown: Mapping[str, Json] | None = None, **more: Json
    ) -> None:
        """An envelope around any padded bytes.

        ``to`` and ``sender`` name devices; ``header_from``/``header_to`` put another id into the header; ``box_from``
        names the device whose key seals. The rest goes into the case as it is.
        """
        to = str(more.pop("to", "companion"))
        sender = str(more.pop("sender", "companion" if to == "phone" else "phone"))
        header_from, header_to = str(more.pop("header_from", sender)), str(more.pop("header_to", to))
        nonce = derive(f"nonce of {name}", 24)
        sealed = box(DEVICES[str(more.pop("box_from", sender))], DEVICES[to].public, nonce, padded)
        header = b"RTR1" + DEVICES[header_from].raw_id + DEVICES[header_to].raw_id + nonce
        self.raw(name, reason, to=to, sender=sender, envelope=b64(header + sealed), **(shown or {}), **more)

    def edited(self, name: str, reason: str, base: str, *edits: Json, to: str = "companion", **more: Json) -> None:
        """A valid envelope of another case, changed byte by byte."""
        self.raw(
            name, reason, to=to, sender="companion" if to == "phone" else "phone", base=base, edit=list(edits), **more
        )

    def opened(self, name: str, reason: str, plaintext: bytes, **more: Json) -> None:
        """A plaintext alone: what a box of the phone would have held."""
        self.raw(name, reason, to="companion", sender="phone", **spelled(plaintext), **more)

    def raw(self, name: str, reason: str, *, to: str, sender: str, **fields: Json) -> None:
        """Write the case down."""
        assert name not in self._names, name
        self._names.add(name)
        where = fields.pop("topic", None) or topic(to=DEVICES[to], sender=DEVICES[sender])
        outcome: Case = {"reason": reason} if reason else {}
        self.cases.append({"name": name, **outcome, "to": to, "topic": where, **fields})


def xor(at: int, octets: str = "01") -> Json:
    """Edit: change the bytes at an offset."""
    return {"op": "xor", "at": at, "hex": octets}


def put(at: int, octets: str) -> Json:
    """Edit: write bytes at an offset."""
    return {"op": "set", "at": at, "hex": octets}


def cut(keep: int) -> Json:
    """Edit: keep only so many first bytes."""
    return {"op": "cut", "keep": keep}


def append(octets: str) -> Json:
    """Edit: append bytes."""
    return {"op": "append", "hex": octets}
