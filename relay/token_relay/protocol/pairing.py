"""Pairing: one scan of a QR code gives two devices each other's static key.

The companion shows an :class:`Invitation` (its public key and a one-time secret); whoever can read it can take part,
once. Four messages follow. PAIR1 and PAIR2 travel in a mailbox whose name follows from the secret; each is

    "RTP1" (4) | fresh public key (32) | nonce (24) | crypto_box (16 + 4096)

and its plaintext is a MAC (32) under the secret over the transcript so far, then JSON. PAIR3 and PAIR4 are ordinary
envelopes naming the transcript's hash: they prove that both ends own their static keys, and before that nothing is
active.

Four properties: the phone knows the companion's key from the QR; the companion knows the phone's since only a reader of
the QR has the secret; both confirm one transcript; a second attempt with the same secret fails. If somebody
photographs the QR and is faster, the companion shows *their* check number, and the honest phone gets no answer. Anybody
who has seen an invitation can use it up; nobody can use one twice.

This module is pure: keys, nonces and ids come in as arguments, wire bytes go out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nacl.bindings import crypto_box_easy_afternm, crypto_box_open_easy_afternm
from nacl.exceptions import CryptoError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from token_relay.protocol.envelope import BOX_OVERHEAD_BYTES, NONCE_BYTES, PADDED_BYTES, pad, shared_key, unpad
from token_relay.protocol.errors import PeerError
from token_relay.protocol.identity import KeyPair
from token_relay.protocol.messages import Hex16, Hex32, Text, Version1, encode_json, parse_object
from token_relay.protocol.secret import Secret

INVITATION_PREFIX = "RTR1:"
INVITATION_VERSION = 1
INVITATION_LIFETIME_S = 600.0  # boot time; long enough to find the phone, too short for most who photograph the screen
INVITATION_BAD_TRIES_MAX = 3
SECRET_BYTES = 16
HINT_BYTES_MAX = 64
INVITATION_CHARS_MAX = 256
CHECK_DIGITS = 6

PAIR_MAGIC = b"RTP1"
PAIR_HEADER_BYTES = 4 + 32 + NONCE_BYTES
PAIR_BYTES = PAIR_HEADER_BYTES + BOX_OVERHEAD_BYTES + PADDED_BYTES[0]
MAC_BYTES = 32


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
        """Read an invitation that a person pasted or a camera read; spaces and case do not matter.

        Raises:
            PeerError: ``bad_invitation`` or ``unsupported``; the message says what is wrong.
        """
        compact = "".join(text.split()).upper()
        if len(compact) > INVITATION_CHARS_MAX or not compact.startswith(INVITATION_PREFIX):
            raise PeerError("bad_invitation", "this is not an invitation", hint="it begins with RTR1:")
        encoded = compact.removeprefix(INVITATION_PREFIX)
        try:
            octets = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
        except (binascii.Error, ValueError) as exc:
            raise PeerError("bad_invitation", "the invitation has a character that cannot be in it") from exc
        body, checksum = octets[:-4], octets[-4:]
        if len(body) < 50 or not hmac.compare_digest(checksum, _checksum(body)):
            raise PeerError("bad_invitation", "the invitation is incomplete or mistyped", hint="copy all of it")
        if body[0] != INVITATION_VERSION:
            raise PeerError("unsupported", f"invitation version {body[0]} is not supported", hint="update this program")
        hint_bytes = body[50:]
        if len(hint_bytes) != body[49] or len(hint_bytes) > HINT_BYTES_MAX:
            raise PeerError("bad_invitation", "the invitation is malformed")
        try:
            broker = hint_bytes.decode("ascii")
        except UnicodeDecodeError as exc:
            raise PeerError("bad_invitation", "the invitation is malformed") from exc
        if not broker.isprintable():
            raise PeerError("bad_invitation", "the invitation is malformed")
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


def _transcript(invitation: Invitation, *wires: bytes) -> bytes:
    return hashlib.blake2b(invitation.octets() + b"".join(wires), digest_size=32, person=b"rtr1-pth").digest()


def _keyed(secret: PairingSecret, person: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=secret.reveal(), digest_size=32, person=person).digest()


def _checksum(octets: bytes) -> bytes:
    return hashlib.blake2b(octets, digest_size=4, person=b"rtr1-inv").digest()
