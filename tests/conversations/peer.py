"""The other device of a conversation: it makes what reaches the end, and reads what the end sends.

It has the peer's keys and the end's (both are those of tests/vectors/devices.json), so it opens everything. Nothing
here imports the relay: bytes are built as the vectors are, from libsodium and hashlib. Every random value is drawn from
the conversation's name, so that two runs send the same bytes.

At level *plain* a message is its JSON alone, and nothing is sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from nacl.bindings import crypto_box_beforenm, crypto_box_open_easy_afternm, crypto_box_seal_open
from nacl.exceptions import CryptoError

from tests.conversations.values import SIZES
from tests.vectors.vector_kit import (
    COMPANION,
    LARGE,
    PHONE,
    SMALL,
    STRANGER,
    Pair,
    b64,
    b64url,
    box,
    compact,
    derive,
    pad,
    seal_once,
    topic,
)

HEADER = 60
ENVELOPE_BYTES = (4172, 16460)
IN_THE_TEXT = ("json", "duplicate_key", "id_mismatch")  # what "spoil" does before the box, the rest to the envelope


class UnreadableError(Exception):
    """The end sent what its peer could not read: what is wrong, and the page that says how it should be."""

    def __init__(self, what: str, page: str) -> None:
        super().__init__(what)
        self.page = page


@dataclass(frozen=True)
class Sent:
    """What the end sent, opened. ``wire`` is the same for the same bytes only."""

    wire: str
    text: str
    message: dict[str, Any]


@dataclass
class Peer:
    """The peer of ``end`` in the conversation that ``label`` names."""

    end: str
    level: str
    label: str
    hashed_by: str = "blake2b"
    _made: int = 0
    _pairs: dict[str, Pair] = field(default_factory=dict)

    @property
    def own(self) -> Pair:
        """The peer's static keys."""
        return COMPANION if self.end == "phone" else PHONE

    @property
    def device(self) -> Pair:
        """The static keys of the end under test."""
        return PHONE if self.end == "phone" else COMPANION

    # -- what it makes

    def value(self, name: str) -> str:
        """Return the value of a new name."""
        if name[1] == "k":
            pair = self._pairs[name] = Pair.of(f"{self.label} {name}")
            return pair.public.hex()
        return derive(f"{self.label} {name}", SIZES.get(name[1], 16)).hex()

    def wrapped(self, message: dict[str, Any], spoil: str = "") -> tuple[dict[str, str], str]:
        """Return what goes into the request ``receive``, and the plaintext."""
        if spoil == "id_mismatch":
            message = {**message, "from": message["to"], "to": message["from"]}
        text = compact(message)
        if spoil == "json":
            text = text[:-1]
        elif spoil == "duplicate_key":
            text = f'{{"v":{message["v"]},{text[1:]}'
        if self.level == "plain":
            return {"text": text}, text
        return self._envelope(text.encode(), "" if spoil in IN_THE_TEXT else spoil), text

    def _envelope(self, text: bytes, spoil: str) -> dict[str, str]:
        self._made += 1
        nonce = derive(f"{self.label} nonce {self._made}", 24)
        padded = pad(text)
        if spoil == "padding":
            padded = text + bytes(len(padded) - len(text))
        sender = STRANGER if spoil == "unknown_sender" else self.own
        ids = (
            (STRANGER if spoil == "sender" else sender).raw_id,
            (STRANGER if spoil == "recipient" else self.device).raw_id,
        )
        wire = b"RTR1" + b"".join(ids) + nonce + box(sender, self.device.public, nonce, padded)
        wire = damaged(wire, spoil)
        where = topic(to=STRANGER if spoil == "topic" else self.device, sender=sender)
        if spoil == "mailbox":
            where = f"relay/v1/pair/{derive(f'{self.label} mailbox', 16).hex()}"
        return {"topic": where, "payload": b64(wire)}

    def sealed(self, grant: dict[str, Any], key: str, spoil: Any = None) -> str:
        """Return ``sealed`` of a TOKEN."""
        if isinstance(spoil, dict):
            grant = {**grant, **spoil}
        text = compact(grant).encode()
        if spoil == "json":
            text = text[:-1]
        while spoil == "spelling" and (len(text) + (0 if self.level == "plain" else 48)) % 3 != 1:
            text += b" "
        if self.level != "plain":
            self._made += 1
            text = seal_once(text, bytes.fromhex(key), Pair.of(f"{self.label} seal {self._made}"))
        if spoil == "seal":
            text = text[:-1] + bytes([text[-1] ^ 1])
        spelled = b64url(text)
        return spelled[:-1] + chr(ord(spelled[-1]) + 1) if spoil == "spelling" else spelled  # its unused bits were zero

    # -- what it reads

    def read(self, send: dict[str, Any]) -> Sent:
        """Open what the end sent. Raises :class:`UnreadableError`."""
        if self.level == "plain":
            text = send.get("text")
            if not isinstance(text, str):
                raise UnreadableError("`send` has no `text`", "adapter.md")
            return Sent(text, text, _object(text, "messages.md"))
        where, payload = send.get("topic"), send.get("payload")
        if not isinstance(where, str) or not isinstance(payload, str):
            raise UnreadableError("`send` has no `topic` or no `payload`", "adapter.md")
        try:
            wire = base64.b64decode(payload, validate=True)
        except binascii.Error:
            raise UnreadableError("`payload` is not base64", "adapter.md") from None
        if where != topic(to=self.own, sender=self.device):
            wanted = topic(to=self.own, sender=self.device)
            raise UnreadableError(f"it went to the topic {where}, and should go to {wanted}", "topics-and-broker.md")
        text = self._opened(wire)
        return Sent(payload, text, _object(text, "messages.md"))

    def _opened(self, wire: bytes) -> str:
        page = "envelope.md"
        if len(wire) not in ENVELOPE_BYTES:
            raise UnreadableError(f"the envelope has {len(wire)} bytes, not 4172 or 16460", page)
        if wire[:4] != b"RTR1":
            raise UnreadableError("the envelope does not begin with RTR1", page)
        if wire[4:20] != self.device.raw_id:
            raise UnreadableError("bytes 4 to 19 of the envelope are not the raw id of its sender", page)
        if wire[20:36] != self.own.raw_id:
            raise UnreadableError("bytes 20 to 35 of the envelope are not the raw id of the recipient", page)
        try:
            shared = crypto_box_beforenm(self.device.public, self.own.private)
            padded = crypto_box_open_easy_afternm(wire[HEADER:], wire[36:HEADER], shared)
        except CryptoError:
            raise UnreadableError("the box does not open", page) from None
        stripped = padded.rstrip(b"\0")
        if not stripped.endswith(b"\x80") or (len(padded) == LARGE and len(stripped) <= SMALL):
            raise UnreadableError("the padding is wrong", page)
        try:
            return stripped[:-1].decode()
        except UnicodeDecodeError:
            raise UnreadableError("the plaintext is not UTF-8", "messages.md") from None

    def grant(self, sealed: str) -> dict[str, Any]:
        """Open ``sealed`` of a TOKEN with any of the one-time keys that were named. Raises :class:`UnreadableError`."""
        octets = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        if b64url(octets) != sealed:
            raise UnreadableError("`sealed` is not the one spelling in base64url without padding", "messages.md")
        if self.level == "plain":
            return _object(_utf8(octets), "adapter.md")
        for pair in self._pairs.values():
            try:
                return _object(_utf8(crypto_box_seal_open(octets, pair.public, pair.private)), "messages.md")
            except CryptoError:
                continue
        raise UnreadableError("the seal of TOKEN does not open with the one-time key of ACCEPT", "envelope.md")

    def hash_of(self, text: str) -> str:
        """Return the hash of an OFFER or ACCEPT, as this program makes it."""
        if self.hashed_by == "sha256":
            return hashlib.sha256(text.encode()).hexdigest()
        return hashlib.blake2b(text.encode(), digest_size=32, person=b"rtr1-msg").hexdigest()


def damaged(wire: bytes, spoil: str) -> bytes:
    """Return an envelope, or a message of a mailbox, with this done to its bytes."""
    match spoil:
        case "length":
            return wire[:-1]
        case "magic":
            return wire[:3] + b"0" + wire[4:]
        case "box":
            return wire[:-1] + bytes([wire[-1] ^ 1])
        case _:
            return wire


def _utf8(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise UnreadableError("the sealed grant is not UTF-8", "messages.md") from None


def _object(text: str, page: str) -> dict[str, Any]:
    """Read one JSON object as strictly as the pages want it."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise UnreadableError("a key stands twice in one object", page)
        return dict(pairs)

    def refused(number: str) -> Any:
        raise UnreadableError(f"a number is not an integer of 0 or more: {number}", page)

    def counted(number: str) -> Any:
        return refused(number) if number.startswith("-") else int(number)

    try:
        value = json.loads(text, object_pairs_hook=once, parse_float=refused, parse_constant=refused, parse_int=counted)
    except json.JSONDecodeError as error:
        raise UnreadableError(f"it is not JSON: {error}", page) from None
    if not isinstance(value, dict):
        raise UnreadableError("it is not a JSON object", page)
    return value
