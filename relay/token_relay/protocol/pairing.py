"""Pairing: one scan of a QR code gives two devices each other's static key.

The companion shows an :class:`Invitation` (its public key and a one-time secret); whoever can read it can take part,
once. Four messages follow. PAIR1 and PAIR2 travel in a mailbox whose name follows from the secret; each is

    "RTP1" (4) | fresh public key (32) | nonce (24) | crypto_box (16 + 4096)

and its plaintext is a MAC (32) under the secret over the transcript so far, then JSON. PAIR3 and PAIR4 are ordinary
envelopes naming the transcript's hash: they prove that both ends own their static keys, and before that nothing is
active.

Four properties: the phone knows the companion's key from the QR; the companion knows the phone's since only a reader of
the QR has the secret; both confirm one transcript; a second attempt with the same secret fails. If somebody
photographs the QR and is faster, the companion shows *their* check number, and the honest phone is told that the
invitation was used. Anybody who has seen an invitation can use it up or say that it is over; nobody can use one twice.

Two short messages say in the mailbox that it came to nothing: ENDED answers a PAIR1 that came too late, and DECLINED is
the phone's, when the person does not confirm. Each is

    magic (4) | reason (1) | seconds (4, big-endian) | MAC (32)

and its MAC is under the secret, over the transcript so far: an old one says nothing about a new attempt. Programs from
before they existed drop them for their length.

This module is pure: keys, nonces and ids come in as arguments, wire bytes go out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from nacl.bindings import crypto_box_easy_afternm, crypto_box_open_easy_afternm
from nacl.exceptions import CryptoError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.protocol.envelope import BOX_OVERHEAD_BYTES, NONCE_BYTES, PADDED_BYTES, pad, shared_key, unpad
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import Hex16, Hex32, Text, Version1
from token_relay.protocol.secret import Secret
from token_relay.protocol.wire_json import encode_json, parse_object

INVITATION_PREFIX = "RTR1:"
INVITATION_VERSION = 1
INVITATION_LIFETIME_S = 600.0  # boot time; long enough to find the phone, too short for most who photograph the screen
INVITATION_BAD_TRIES_MAX = 3
SECRET_BYTES = 16
HINT_BYTES_MAX = 64
INVITATION_CHARS_MAX = 256
PASTED_CHARS_MAX = 4096  # with the words around it
CHECK_DIGITS = 6
_PREFIX = re.compile(r"R\s*T\s*R\s*([0-9]{1,3})\s*:", re.IGNORECASE)
_BASE32 = re.compile(r"[A-Z2-7]*", re.IGNORECASE | re.ASCII)
_UP_TO_HINT_CHARS = 80  # of base32: the 50 bytes up to the length of the broker's address

PAIR_MAGIC = b"RTP1"
PAIR_HEADER_BYTES = 4 + 32 + NONCE_BYTES
PAIR_BYTES = PAIR_HEADER_BYTES + BOX_OVERHEAD_BYTES + PADDED_BYTES[0]
MAC_BYTES = 32

ENDED_MAGIC = b"RTE1"
DECLINED_MAGIC = b"RTD1"
ENDING_HEADER_BYTES = 4 + 1 + 4
ENDING_BYTES = ENDING_HEADER_BYTES + MAC_BYTES
SECONDS_MAX = 2**32 - 1

EndReason = Literal["other", "used", "declined", "expired", "bad_tries", "replaced"]
"""Why an invitation cannot be used: its place is its code, and a code that a reader does not know is "other"."""

DeclineReason = Literal["other", "not_confirmed", "name_refused", "interrupted"]
"""Why a phone gives up after PAIR2, in the same way."""


class PairingSecret(Secret[bytes]):
    """The one-time secret of an invitation, 16 bytes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the QR code holds. ``broker`` is an address such as ``mqtts://host:8883``, or empty."""

    public_key: bytes
    secret: PairingSecret
    broker: str = ""

    def octets(self) -> bytes:
        """Return the bytes that both transcripts begin with: version, key, secret, hint; without the checksum."""
        hint = self.broker.encode()
        if len(hint) > HINT_BYTES_MAX:
            raise ValueError(f"broker address is longer than {HINT_BYTES_MAX} bytes")
        if not (self.broker.isascii() and self.broker.isprintable()):
            raise ValueError("broker address is not printable ASCII, so nobody could read the invitation again")
        return bytes([INVITATION_VERSION]) + self.public_key + self.secret.reveal() + bytes([len(hint)]) + hint

    def text(self) -> str:
        """Return the text of the QR code: upper case, so that QR's compact alphanumeric mode fits."""
        octets = self.octets()
        return INVITATION_PREFIX + base64.b32encode(octets + _checksum(octets)).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> Invitation:
        """Read an invitation that a person pasted or a camera read.

        Spaces, line breaks and case do not matter, nor do words around it.

        Raises:
            PeerError: ``bad_invitation`` or ``unsupported``; the message says what is wrong.
        """
        octets = _decode(text)
        body, checksum = octets[:-4], octets[-4:]
        if len(body) < 50 or not hmac.compare_digest(checksum, _checksum(body)):
            raise PeerError("bad_invitation", "the invitation is incomplete or mistyped", hint=_COPY)
        if body[0] != INVITATION_VERSION:
            raise PeerError("unsupported", f"invitation version {body[0]} is not supported", hint=_UPDATE)
        hint_bytes = body[50:]
        if len(hint_bytes) != body[49] or len(hint_bytes) > HINT_BYTES_MAX:
            raise PeerError("bad_invitation", "the invitation is malformed", hint=_COPY)
        try:
            broker = hint_bytes.decode("ascii")
        except UnicodeDecodeError as exc:
            raise PeerError("bad_invitation", "the invitation is malformed", hint=_COPY) from exc
        if not broker.isprintable():
            raise PeerError("bad_invitation", "the invitation is malformed", hint=_COPY)
        return cls(body[1:33], PairingSecret(body[33:49]), broker)

    @property
    def mailbox_id(self) -> bytes:
        """The 16 bytes that name the mailbox; they say nothing about the secret."""
        return _keyed(self.secret, b"rtr1-mbx", b"")[:16]


class _PairFields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)
    v: Version1
    static_key: Hex32
    name: Annotated[Text, Field(min_length=1, max_length=64)]
    nonce: Hex16


class Pair1Fields(_PairFields):
    """What the phone sends: its static key, its name, fresh randomness."""

    type: Literal["PAIR1"]


class Pair2Fields(_PairFields):
    """What the companion sends: the same, and the id of the new pairing."""

    type: Literal["PAIR2"]
    pairing_id: Hex16


def seal_pair1(invitation: Invitation, *, fresh: KeyPair, nonce: bytes, fields: Pair1Fields) -> bytes:
    """Return PAIR1: sealed by a fresh key to the companion's static key. The caller keeps ``fresh`` for PAIR2."""
    return _seal(
        own=fresh,
        peer_public_key=invitation.public_key,
        nonce=nonce,
        secret=invitation.secret,
        person=b"rtr1-pm1",
        before=invitation.octets(),
        fields=fields,
    )


def open_pair1(invitation: Invitation, wire: bytes, *, static: KeyPair) -> Pair1Fields:
    """Open PAIR1 at the companion.

    Raises:
        PeerError: any reason; it counts as one of the invitation's three bad tries.
    """
    value = _open(
        wire,
        own=static,
        secret=invitation.secret,
        person=b"rtr1-pm1",
        before=invitation.octets(),
    )
    try:
        fields = Pair1Fields.model_validate(value)
    except ValidationError:
        raise PeerError("bad_field") from None
    if bytes.fromhex(fields.static_key) == static.public_key:
        raise PeerError("own_key")
    return fields


def seal_pair2(invitation: Invitation, pair1: bytes, *, fresh: KeyPair, nonce: bytes, fields: Pair2Fields) -> bytes:
    """Return PAIR2: sealed by a fresh key to the fresh key that PAIR1 came with."""
    return _seal(
        own=fresh,
        peer_public_key=sender_key(pair1),
        nonce=nonce,
        secret=invitation.secret,
        person=b"rtr1-pm2",
        before=_transcript(invitation, pair1),
        fields=fields,
    )


def open_pair2(invitation: Invitation, pair1: bytes, wire: bytes, *, fresh: KeyPair) -> Pair2Fields:
    """Open PAIR2 at the phone; its static key must be the one of the QR code.

    Raises:
        PeerError: any reason; drop the message and go on waiting.
    """
    value = _open(
        wire,
        own=fresh,
        secret=invitation.secret,
        person=b"rtr1-pm2",
        before=_transcript(invitation, pair1),
    )
    try:
        fields = Pair2Fields.model_validate(value)
    except ValidationError:
        raise PeerError("bad_field") from None
    if bytes.fromhex(fields.static_key) != invitation.public_key:
        raise PeerError("wrong_sender")
    return fields


def transcript_hash(invitation: Invitation, pair1: bytes, pair2: bytes) -> bytes:
    """Return the 32 bytes that PAIR3 and PAIR4 name."""
    return _transcript(invitation, pair1, pair2)


def check_number(transcript: bytes) -> str:
    """Return the six digits that both ends show for a transcript hash."""
    digest = hashlib.blake2b(transcript, digest_size=32, person=b"rtr1-sas").digest()
    return f"{int.from_bytes(digest[:8], 'big') % 10**CHECK_DIGITS:0{CHECK_DIGITS}d}"


@dataclass(frozen=True, slots=True)
class Ended:
    """Why an invitation can no longer be used, and for how many seconds."""

    reason: EndReason
    ago_s: int


def seal_ended(invitation: Invitation, pair1: bytes, ended: Ended) -> bytes:
    """Return the companion's answer to a PAIR1 that came too late."""
    code = get_args(EndReason).index(ended.reason)
    header = ENDED_MAGIC + bytes([code]) + min(ended.ago_s, SECONDS_MAX).to_bytes(4, "big")
    return _seal_ending(header, invitation.secret, person=b"rtr1-end", about=_transcript(invitation, pair1))


def open_ended(invitation: Invitation, pair1: bytes, wire: bytes) -> Ended:
    """Open the answer to our PAIR1 at the phone.

    Raises:
        PeerError: any reason; drop the message and go on waiting.
    """
    about = _transcript(invitation, pair1)
    code, ago_s = _open_ending(wire, invitation.secret, magic=ENDED_MAGIC, person=b"rtr1-end", about=about)
    reasons: tuple[EndReason, ...] = get_args(EndReason)
    return Ended(reasons[code] if code < len(reasons) else "other", ago_s)


def seal_declined(invitation: Invitation, transcript: bytes, reason: DeclineReason) -> bytes:
    """Return what a phone says when it gives this exchange up."""
    header = DECLINED_MAGIC + bytes([get_args(DeclineReason).index(reason)]) + bytes(4)
    return _seal_ending(header, invitation.secret, person=b"rtr1-dec", about=transcript)


def open_declined(invitation: Invitation, transcript: bytes, wire: bytes) -> DeclineReason:
    """Open it at the companion that has answered PAIR1.

    Raises:
        PeerError: any reason; drop the message.
    """
    code, _ = _open_ending(wire, invitation.secret, magic=DECLINED_MAGIC, person=b"rtr1-dec", about=transcript)
    reasons: tuple[DeclineReason, ...] = get_args(DeclineReason)
    return reasons[code] if code < len(reasons) else "other"


def sender_key(wire: bytes) -> bytes:
    """Return the fresh public key in a pairing message's header; a sender recognises its own message by it.

    Raises:
        PeerError: ``bad_length`` or ``bad_magic``.
    """
    if len(wire) != PAIR_BYTES:
        raise PeerError("bad_length")
    if wire[:4] != PAIR_MAGIC:
        raise PeerError("bad_magic")
    return wire[4:36]


def _seal(
    *,
    own: KeyPair,
    peer_public_key: bytes,
    nonce: bytes,
    secret: PairingSecret,
    person: bytes,
    before: bytes,
    fields: _PairFields,
) -> bytes:
    header = PAIR_MAGIC + own.public_key + nonce
    text = encode_json(fields.model_dump(mode="json"))
    mac = _keyed(secret, person, before + header + text)
    shared = shared_key(own.private_key, peer_public_key)
    return header + crypto_box_easy_afternm(pad(mac + text), nonce, shared.reveal())


def _open(wire: bytes, *, own: KeyPair, secret: PairingSecret, person: bytes, before: bytes) -> dict[str, Any]:
    peer_public_key = sender_key(wire)
    if peer_public_key == own.public_key:
        raise PeerError("own_key")
    header = wire[:PAIR_HEADER_BYTES]
    shared = shared_key(own.private_key, peer_public_key)
    try:
        padded = crypto_box_open_easy_afternm(wire[PAIR_HEADER_BYTES:], header[36:], shared.reveal())
    except CryptoError as exc:
        raise PeerError("bad_box") from exc
    plaintext = unpad(padded)
    mac, text = plaintext[:MAC_BYTES], plaintext[MAC_BYTES:]
    if not hmac.compare_digest(mac, _keyed(secret, person, before + header + text)):
        raise PeerError("bad_mac")
    return parse_object(text)


def _seal_ending(header: bytes, secret: PairingSecret, *, person: bytes, about: bytes) -> bytes:
    return header + _keyed(secret, person, about + header)


def _open_ending(wire: bytes, secret: PairingSecret, *, magic: bytes, person: bytes, about: bytes) -> tuple[int, int]:
    if len(wire) != ENDING_BYTES:
        raise PeerError("bad_length")
    if wire[:4] != magic:
        raise PeerError("bad_magic")
    header, mac = wire[:ENDING_HEADER_BYTES], wire[ENDING_HEADER_BYTES:]
    if not hmac.compare_digest(mac, _keyed(secret, person, about + header)):
        raise PeerError("bad_mac")
    return header[4], int.from_bytes(header[5:], "big")


_COPY = "copy all of it: token-relay companion pair shows it"
_UPDATE = "update token-relay on this device"


def _decode(text: str) -> bytes:
    """Return the octets of an invitation with their checksum, which is not looked at. Raises as ``from_text``."""
    begins = list(_PREFIX.finditer(text)) if len(text) <= PASTED_CHARS_MAX else []
    if not begins:
        raise PeerError("bad_invitation", "this is not an invitation: one begins with RTR1:", hint=_COPY)
    if (version := int(begins[-1][1])) != INVITATION_VERSION:
        raise PeerError("unsupported", f"this invitation is of another version, RTR{version}", hint=_UPDATE)
    encoded = wrong = ""
    for word in text[begins[-1].end() :].split():
        letters = _BASE32.match(word)
        assert letters is not None  # it matches nothing too
        encoded += letters[0].upper()
        wrong = word[letters.end() :][:1]
        if wrong or len(encoded) == _chars(encoded):
            break
    if wrong and len(encoded) != _chars(encoded):
        raise PeerError("bad_invitation", f"the invitation has a character that cannot be in it: {wrong!a}", hint=_COPY)
    try:
        if len(encoded) > INVITATION_CHARS_MAX - len(INVITATION_PREFIX):
            raise ValueError
        return base64.b32decode(encoded + "=" * (-len(encoded) % 8))
    except ValueError:
        raise PeerError("bad_invitation", "the invitation is incomplete or mistyped", hint=_COPY) from None


def _chars(encoded: str) -> int:
    """Return how many characters of base32 an invitation has that begins so; 0 where it is too short to tell."""
    if len(encoded) < _UP_TO_HINT_CHARS:
        return 0
    hint_bytes = base64.b32decode(encoded[:_UP_TO_HINT_CHARS])[-1]
    return -(-(50 + hint_bytes + 4) * 8 // 5)


def _transcript(invitation: Invitation, *wires: bytes) -> bytes:
    return hashlib.blake2b(invitation.octets() + b"".join(wires), digest_size=32, person=b"rtr1-pth").digest()


def _keyed(secret: PairingSecret, person: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=secret.reveal(), digest_size=32, person=person).digest()


def _checksum(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=4, person=b"rtr1-inv").digest()
