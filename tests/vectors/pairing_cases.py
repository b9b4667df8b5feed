"""Pairing: whole transcripts, then PAIR1, PAIR2, ENDED and DECLINED as nobody should send them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

from tests.vectors.exchange_cases import SECRET, invitation_octets, invitation_text, low_order_points, mailbox_id
from tests.vectors.vector_kit import (
    COMPANION,
    PHONE,
    STRANGER,
    Case,
    Json,
    Pair,
    append,
    b64,
    box,
    compact,
    cut,
    derive,
    pad,
    put,
    xor,
)

ENDED = (
    (1, "used", 0),
    (2, "declined", 90),
    (3, "expired", 86_400),
    (4, "bad_tries", 2**32 - 1),
    (5, "replaced", 7),
    (0, "other", 1),
    (6, "other", 1),
    (255, "other", 1),
)
DECLINED = ((1, "not_confirmed"), (2, "name_refused"), (3, "interrupted"), (0, "other"), (4, "other"), (255, "other"))


def pair_fields(kind: str, static: Pair, name: str, **more: Json) -> Case:
    """The JSON of PAIR1 or PAIR2."""
    nonce = derive(f"nonce field of {kind}", 16).hex()
    return {"v": 1, "static_key": static.public.hex(), "name": name, "nonce": nonce, "type": kind, **more}


def pair_wire(
    fields: Case | bytes,
    *,
    fresh: Pair,
    peer_public: bytes,
    secret: bytes = SECRET,
    person: bytes,
    before: bytes,
    pad_with: Callable[[bytes], bytes] = pad,
) -> bytes:
    """PAIR1 or PAIR2: header, then a box around MAC and JSON."""
    text = fields if isinstance(fields, bytes) else compact(fields).encode()
    nonce = derive(f"pair nonce {person!r} {hashlib.blake2b(text).hexdigest()}", 24)
    header = b"RTP1" + fresh.public + nonce
    mac = hashlib.blake2b(before + header + text, key=secret, digest_size=32, person=person).digest()
    return header + box(fresh, peer_public, nonce, pad_with(mac + text))


def transcript(octets: bytes) -> bytes:
    """The hash of an invitation and the messages that followed."""
    return hashlib.blake2b(octets, digest_size=32, person=b"rtr1-pth").digest()


def check_number(hash_: bytes) -> str:
    """The six digits."""
    digest = hashlib.blake2b(hash_, digest_size=32, person=b"rtr1-sas").digest()
    return f"{int.from_bytes(digest[:8], 'big') % 1_000_000:06d}"


def pairings() -> Case:
    """Whole transcripts, then each message at its reader as nobody should send it."""
    transcripts: list[Case] = []
    names = (
        ("ada's phone", "kitchen", b""),
        ("Telefon von Zoë", "試験", b"mqtts://broker.example:8883"),
        ("p", "c", b""),
    )
    for i, (phone_name, companion_name, broker) in enumerate(names):
        secret = SECRET if i == 0 else derive(f"secret {i}", 16)
        octets = invitation_octets(COMPANION.public, secret, broker)
        mine, theirs = Pair.of(f"fresh phone {i}"), Pair.of(f"fresh companion {i}")
        fields1 = pair_fields("PAIR1", PHONE, phone_name)
        fields2 = pair_fields("PAIR2", COMPANION, companion_name, pairing_id=derive(f"pairing {i}", 16).hex())
        wire1 = pair_wire(
            fields1, fresh=mine, peer_public=COMPANION.public, secret=secret, person=b"rtr1-pm1", before=octets
        )
        wire2 = pair_wire(
            fields2,
            fresh=theirs,
            peer_public=mine.public,
            secret=secret,
            person=b"rtr1-pm2",
            before=transcript(octets + wire1),
        )
        final = transcript(octets + wire1 + wire2)
        transcripts.append(
            {
                "name": f"transcript-{i}",
                "invitation": invitation_text(octets),
                "mailbox_id": mailbox_id(secret).hex(),
                "phone": "phone",
                "companion": "companion",
                "phone_fresh": mine.described(),
                "companion_fresh": theirs.described(),
                "pair1_fields": fields1,
                "pair1": b64(wire1),
                "hash_after_pair1": transcript(octets + wire1).hex(),
                "pair2_fields": fields2,
                "pair2": b64(wire2),
                "transcript_hash": final.hex(),
                "check_number": check_number(final),
                "ended": [
                    {
                        "reason": reason,
                        "ago_s": ago_s,
                        "wire": b64(ending_wire(b"RTE1", code, ago_s, transcript(octets + wire1), secret=secret)),
                    }
                    for code, reason, ago_s in ENDED
                ],
                "declined": [
                    {"reason": reason, "wire": b64(ending_wire(b"RTD1", code, 0, final, secret=secret))}
                    for code, reason in DECLINED
                ],
            }
        )
    first = transcripts[0]
    octets = invitation_octets(COMPANION.public, SECRET, b"")
    wire1, wire2 = base64.b64decode(str(first["pair1"])), base64.b64decode(str(first["pair2"]))
    return {
        "transcripts": list(transcripts),
        "pair1": list(_bad_pair1(octets)),
        "pair2": list(_bad_pair2(octets, wire1, wire2)),
        "ended": list(_bad_endings(b"RTE1", transcript(octets + wire1), transcript(octets + wire1 + wire2), wire2)),
        "declined": list(_bad_endings(b"RTD1", transcript(octets + wire1 + wire2), transcript(octets + wire1), wire2)),
    }


def ending_wire(
    magic: bytes, code: int, seconds: int, about: bytes, *, secret: bytes = SECRET, person: bytes | None = None
) -> bytes:
    """ENDED (RTE1) or DECLINED (RTD1)."""
    header = magic + bytes([code]) + seconds.to_bytes(4, "big")
    person = person or {b"RTE1": b"rtr1-end", b"RTD1": b"rtr1-dec"}[magic]
    return header + hashlib.blake2b(about + header, key=secret, digest_size=32, person=person).digest()


def _bad_endings(magic: bytes, about: bytes, other: bytes, pair2: bytes) -> list[Case]:
    good, code = ending_wire(magic, 1, 90, about), 1
    another_magic, another_person = (b"RTD1", b"rtr1-dec") if magic == b"RTE1" else (b"RTE1", b"rtr1-end")
    wires: dict[str, tuple[str, bytes]] = {
        "empty": ("bad_length", b""),
        "one-byte-less": ("bad_length", good[:-1]),
        "one-byte-more": ("bad_length", good + b"\0"),
        "a-pair2": ("bad_length", pair2),
        "magic-of-the-other": ("bad_magic", ending_wire(another_magic, code, 90, about)),
        "magic-byte-changed": ("bad_magic", good[:3] + b"2" + good[4:]),
        "reason-changed": ("bad_mac", good[:4] + b"\2" + good[5:]),
        "seconds-changed": ("bad_mac", good[:8] + b"\0" + good[9:]),
        "mac-changed": ("bad_mac", good[:-1] + bytes([good[-1] ^ 1])),
        "mac-under-another-secret": ("bad_mac", ending_wire(magic, code, 90, about, secret=derive("secret 1", 16))),
        "mac-of-the-other": ("bad_mac", ending_wire(magic, code, 90, about, person=another_person)),
        "mac-over-the-other-transcript": ("bad_mac", ending_wire(magic, code, 90, other)),
        "mac-over-nothing": ("bad_mac", ending_wire(magic, code, 90, b"")),
        "mac-without-key": ("bad_mac", good[:9] + hashlib.blake2b(about + good[:9], digest_size=32).digest()),
    }
    return [{"name": name, "reason": reason, "wire": b64(wire)} for name, (reason, wire) in wires.items()]


def _common_edits() -> dict[str, tuple[str, list[Json]]]:
    return {
        "empty": ("bad_length", [cut(0)]),
        "one-byte-less": ("bad_length", [cut(4171)]),
        "one-byte-more": ("bad_length", [append("00")]),
        "half": ("bad_length", [cut(2086)]),
        "magic-of-an-envelope": ("bad_magic", [put(0, b"RTR1".hex())]),
        "magic-byte-changed": ("bad_magic", [xor(3)]),
        "fresh-key-changed": ("bad_box", [xor(4)]),
        "fresh-key-last-byte": ("bad_box", [xor(35)]),
        "nonce-changed": ("bad_box", [xor(36)]),
        "nonce-last-byte": ("bad_box", [xor(59)]),
        "tag-changed": ("bad_box", [xor(60)]),
        "ciphertext-changed": ("bad_box", [xor(76)]),
        "mac-changed": ("bad_box", [xor(107)]),
        "last-byte-changed": ("bad_box", [xor(4171)]),
        **{f"fresh-key-low-order-{i}": ("bad_point", [put(4, p.hex())]) for i, p in enumerate(low_order_points())},
    }


def _bad_pair1(octets: bytes) -> list[Case]:
    cases: list[Case] = []
    fresh = Pair.of("fresh phone 0")
    fields = pair_fields("PAIR1", PHONE, "ada's phone")

    def add(name: str, reason: str, value: Case | bytes, **how: object) -> None:
        given: dict[str, object] = {"secret": SECRET, "before": octets, "person": b"rtr1-pm1", "fresh": fresh} | how
        wire = pair_wire(value, peer_public=COMPANION.public, **given)  # type: ignore[arg-type]  # by name, all of them right
        cases.append({"name": name, "reason": reason, "wire": b64(wire)})

    for name, (reason, edits) in _common_edits().items():
        cases.append({"name": name, "reason": reason, "edit": edits})
    cases.append({"name": "fresh-key-is-the-companions", "reason": "own_key", "edit": [put(4, COMPANION.public.hex())]})
    for name, (reason, value, how) in _content(fields, "PAIR1").items():
        add(name, reason, value, **how)
    add("mac-under-another-secret", "bad_mac", fields, secret=derive("secret 1", 16))
    add("mac-of-another-invitation", "bad_mac", fields, before=invitation_octets(PHONE.public, SECRET, b""))
    add("mac-with-another-broker", "bad_mac", fields, before=invitation_octets(COMPANION.public, SECRET, b"x"))
    add("mac-of-pair2", "bad_mac", fields, person=b"rtr1-pm2")
    add("static-key-is-the-companions", "own_key", {**fields, "static_key": COMPANION.public.hex()})
    return cases


def _bad_pair2(octets: bytes, wire1: bytes, wire2: bytes) -> list[Case]:
    cases: list[Case] = []
    fresh, mine = Pair.of("fresh companion 0"), Pair.of("fresh phone 0")
    fields = pair_fields("PAIR2", COMPANION, "kitchen", pairing_id=derive("pairing 0", 16).hex())

    def add(name: str, reason: str, value: Case | bytes, **how: object) -> None:
        given: dict[str, object] = {"secret": SECRET, "before": transcript(octets + wire1), "person": b"rtr1-pm2"}
        given |= {"fresh": fresh, "peer_public": mine.public} | how
        wire = pair_wire(value, **given)  # type: ignore[arg-type]  # by name, all of them right
        cases.append({"name": name, "reason": reason, "wire": b64(wire)})

    for name, (reason, edits) in _common_edits().items():
        cases.append({"name": name, "reason": reason, "edit": edits})
    cases.append({"name": "pair1-reflected", "reason": "own_key", "wire": b64(wire1)})
    for name, (reason, value, how) in _content(fields, "PAIR2").items():
        add(name, reason, value, **how)
    add("sealed-to-the-static-key", "bad_box", fields, peer_public=PHONE.public)
    add("mac-under-another-secret", "bad_mac", fields, secret=derive("secret 1", 16))
    add("mac-without-pair1", "bad_mac", fields, before=transcript(octets))
    add("mac-over-the-invitation-itself", "bad_mac", fields, before=octets)
    add("mac-over-another-pair1", "bad_mac", fields, before=transcript(octets + wire1[:-1] + b"\0"))
    add("mac-of-pair1", "bad_mac", fields, person=b"rtr1-pm1")
    for name, pair in (("phone", PHONE), ("stranger", STRANGER)):
        add(f"static-key-of-{name}", "wrong_sender", {**fields, "static_key": pair.public.hex()})
    without = {key: value for key, value in fields.items() if key != "pairing_id"}
    add("pairing-id-missing", "bad_field", without)
    add("pairing-id-short", "bad_field", {**fields, "pairing_id": "00"})
    return cases


def _content(fields: Case, kind: str) -> dict[str, tuple[str, Case | bytes, dict[str, object]]]:
    text = compact(fields).encode()
    other = "PAIR2" if kind == "PAIR1" else "PAIR1"
    cases: dict[str, tuple[str, Case | bytes]] = {
        "json-empty": ("bad_json", b""),
        "json-cut": ("bad_json", text[:-1]),
        "json-array": ("bad_json", b"[]"),
        "json-not-utf-8": ("bad_json", text[:-1] + b"\xff}"),
        "key-twice": ("duplicate_key", text.replace(b'"v":1', b'"v":1,"v":1')),
        "version-2": ("bad_field", {**fields, "v": 2}),
        "version-true": ("bad_field", {**fields, "v": True}),
        "version-float": ("bad_field", text.replace(b'"v":1', b'"v":1.0')),
        "type-other": ("bad_field", {**fields, "type": other}),
        "unknown-field": ("bad_field", {**fields, "x": 1}),
        "name-empty": ("bad_field", {**fields, "name": ""}),
        "name-of-65": ("bad_field", {**fields, "name": "n" * 65}),
        "name-with-escape": ("bad_field", {**fields, "name": "\x1b[2J"}),
        "nonce-short": ("bad_field", {**fields, "nonce": "00"}),
        "static-key-upper-case": ("bad_field", {**fields, "static_key": "A" * 64}),
        "static-key-missing": ("bad_field", {k: v for k, v in fields.items() if k != "static_key"}),
    }
    result: dict[str, tuple[str, Case | bytes, dict[str, object]]] = {}
    for name, (reason, value) in cases.items():
        result[name] = (reason, value, {})
    result["padding-none"] = ("bad_padding", fields, {"pad_with": lambda octets: (octets + b" " * 4096)[:4096]})
    result["padding-zeros"] = ("bad_padding", fields, {"pad_with": lambda octets: octets + bytes(4096 - len(octets))})
    result["too-short-for-a-mac"] = ("bad_mac", fields, {"pad_with": lambda octets: pad(octets[:31])})
    result["mac-alone-and-changed"] = ("bad_mac", fields, {"pad_with": lambda octets: pad(octets[:31] + b"\0")})
    return result
