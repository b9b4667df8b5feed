"""Envelope cases up to the plaintext: valid ones, and those refused for frame, box or padding."""

from __future__ import annotations

from tests.vectors.vector_kit import (
    BODIES,
    BODIES_2,
    BODY_3,
    BOTH_WAYS,
    COMPANION,
    HANDOFF,
    INTEGER_MAX,
    LARGE,
    PHONE,
    SEQUENCE_MAX,
    SMALL,
    STRANGER,
    TABLET,
    TO_COMPANION,
    TYPES,
    Case,
    Envelopes,
    append,
    b64,
    box,
    compact,
    cut,
    derive,
    lost_4,
    message,
    pad,
    put,
    second,
    spelled,
    third,
    topic,
    with_body,
    xor,
)

HEADER, TAG, BOX_SMALL, BOX_LARGE = 60, 16, 60 + 16 + SMALL, 60 + 16 + LARGE


def exactly(size: int, kind: str = "STORED") -> bytes:
    """A valid message of exactly so many bytes: spaces between JSON tokens are allowed."""
    text = compact(message(kind)).encode()
    return text[:-1] + b" " * (size - len(text)) + text[-1:]


def valid(sealed_grant: str) -> list[Case]:
    """Every type in every direction it travels, then the edges of what is allowed."""
    out = Envelopes()

    def add(name: str, plaintext: bytes | Case, **more: str) -> None:
        octets = plaintext if isinstance(plaintext, bytes) else compact(plaintext).encode()
        out.sealed(name, "", pad(octets), shown=spelled(octets), **more)

    for kind in TYPES:
        if kind in BOTH_WAYS:
            for to in ("companion", "phone"):
                add(f"{kind.lower()}-to-{to}", message(kind, to=to), to=to)
        elif kind == "TOKEN":
            add("token", with_body("TOKEN", sealed=sealed_grant))
        else:
            add(kind.lower(), message(kind), to="companion" if kind in TO_COMPANION else "phone")

    add("hello-without-handoffs", with_body("HELLO", handoffs=[]))
    many: list[Case] = [
        {"handoff_id": derive(f"handoff {i}", 16).hex(), "state": "a" + "_9" * 15 + "z", "generation": INTEGER_MAX}
        for i in range(64)
    ]
    add("hello-with-64-handoffs", with_body("HELLO", handoffs=list(many)))
    largest = {**BODIES["HELLO"], "seq_sent": SEQUENCE_MAX}
    add("hello-largest-numbers", message("HELLO", body=largest, seq=SEQUENCE_MAX))
    for to in ("companion", "phone"):
        add(f"hello-2-to-{to}", message("HELLO", body=BODIES_2["HELLO"], to=to, v=2), to=to)
    add("hello-2-of-a-later-program", second("HELLO", speaks=255, strategies=["mint", "device_code", "s" * 32]))
    add("hello-2-without-strategies", second("HELLO", strategies=[]))
    add("hello-2-largest", second("HELLO", handoffs=list(many), strategies=["s" * 32] * 16))
    for to in ("companion", "phone"):
        add(f"hello-3-to-{to}", message("HELLO", body=BODY_3, to=to, v=3), to=to)
    add("hello-3-of-a-later-program", third(speaks=255))
    for name, text in (("shortest", "k"), ("blanks-inside", "k  2"), ("longest", "\U0001f4df" * 64)):
        add(f"hello-3-name-{name}", third(name=text))
    for reason in ("bad_field", "bad_sealed_box", "bad_grant", "no_one_time_key", "no_handoff", "unknown"):
        add(f"lost-4-{reason.replace('_', '-')}", lost_4(reason=reason, field=""), to="phone")
    add("lost-4-largest", lost_4(field="\U0001f4df" * 256), to="phone")
    add("hello-3-largest", third(handoffs=list(many), strategies=["s" * 32] * 16, name="\U0001f4df" * 64))
    for version in (1, 2, 255):
        add(f"accept-2-grant-{version}", second("ACCEPT", grant_version=version), to="phone")
    for strategy in ("mint", "move"):
        add(f"offer-{strategy}", with_body("OFFER", strategy=strategy))
    add("offer-renews", with_body("OFFER", renews=derive("older handoff", 16).hex()))
    add("offer-no-lease-no-expiry", with_body("OFFER", lease_days=0, expires_at=0))
    add("offer-longest-lease", with_body("OFFER", lease_days=365, expires_at=INTEGER_MAX))
    add("offer-empty-texts", with_body("OFFER", client_id="", scope="", account="", issuer="x"))
    add("offer-256-code-points-beyond-bmp", with_body("OFFER", account="\N{PARROT}" * 256))
    add("offer-longest-texts", with_body("OFFER", issuer="i" * 512, client_id="c" * 256, scope="s" * 1024))
    add("offer-unicode-account", with_body("OFFER", account="Zoë \N{NO-BREAK SPACE}Ñandú \N{LINE SEPARATOR} 試験"))
    add("reject-of-a-handoff", with_body("REJECT", handoff_id=HANDOFF, reason="done"))
    add("reject-slug-of-32", with_body("REJECT", reason="r" * 32))
    add("lease-64-terms", with_body("LEASE", handoffs=[{"handoff_id": c["handoff_id"], "lease_days": 0} for c in many]))
    add(
        "revoked-none-known",
        message("REVOKED", body={**BODIES["REVOKED"], "provider": "unknown", "access_token_ends_at": 0}),
        to="phone",
    )
    for said in ("refused", "unreachable", "unsupported"):
        add(f"revoked-{said}", message("REVOKED", body={**BODIES["REVOKED"], "provider": said}), to="phone")
    for why in ("denied", "person", "expired", "locked", "forgotten"):
        add(f"renew-{why}", message("RENEW", body={**BODIES["RENEW"], "reason": why}), to="phone")
    add(
        "head-largest-numbers",
        message("STORED", seq=SEQUENCE_MAX, sent_at=INTEGER_MAX, in_reply_to=INTEGER_MAX),
        to="phone",
    )
    add("head-smallest-numbers", message("STORED", seq=1, sent_at=0, in_reply_to=0), to="phone")
    add("json-other-field-order", dict(reversed(message("CLOSED").items())))
    add(
        "json-white-space",
        b" \t\r\n" + compact(message("CLOSED")).replace(",", " ,\n").replace(":", "\t: ").encode() + b"\n",
    )
    add("json-escapes", compact(message("CLOSED")).replace("CLOSED", r"\u0043LOS\u0045D").encode())
    add("token-longest-sealed", with_body("TOKEN", sealed="A" * 15_000))
    for size in (SMALL - 1, SMALL, LARGE - 1):
        add(f"plaintext-of-{size}", exactly(size, "CLOSED"))
    return out.cases


def framing() -> list[Case]:
    """Refused before any cryptography: length, magic, topic, ids in the header."""
    out = Envelopes()
    for size in (0, 1, 4, 36, HEADER, HEADER + TAG, SMALL, BOX_SMALL - 1):
        out.edited(f"length-{size}", "bad_length", "closed", cut(size))
    out.edited(f"length-{BOX_SMALL + 1}", "bad_length", "closed", append("00"))
    out.edited(f"length-{BOX_LARGE - 1}", "bad_length", "plaintext-of-4096", cut(BOX_LARGE - 1))
    out.edited(f"length-{BOX_LARGE + 1}", "bad_length", "plaintext-of-4096", append("00"))
    out.edited("length-large-cut-to-between", "bad_length", "plaintext-of-4096", cut(8192))
    for at in range(4):
        out.edited(f"magic-byte-{at}", "bad_magic", "closed", xor(at))
        out.edited(f"magic-byte-{at}-case", "bad_magic", "closed", xor(at, "20"))
    for text in ("RTR2", "RTP1", "\0\0\0\0"):
        out.edited(f"magic-{text.encode().hex()}", "bad_magic", "closed", put(0, text.encode().hex()))
    for at in range(16):
        out.edited(f"sender-byte-{at}", "wrong_sender", "closed", xor(4 + at))
        out.edited(f"recipient-byte-{at}", "wrong_recipient", "closed", xor(20 + at, "80"))
    out.sealed("sender-is-tablet", "wrong_sender", pad(b"{}"), header_from="tablet")
    out.sealed("sender-is-recipient", "wrong_sender", pad(b"{}"), header_from="companion")
    out.edited("sender-is-zero", "wrong_sender", "closed", put(4, "00" * 16))
    for kind in ("STORED", "RENEW", "ACCEPT"):
        out.edited(
            f"reflected-{kind.lower()}", "wrong_sender", kind.lower()
        )  # the companion's own words, as if the phone's
    out.edited("recipient-is-tablet", "wrong_recipient", "closed", put(20, TABLET.raw_id.hex()))
    out.edited("recipient-is-sender", "wrong_recipient", "closed", put(20, PHONE.raw_id.hex()))
    out.edited("recipient-is-zero", "wrong_recipient", "closed", put(20, "00" * 16))
    for kind in ("HELLO", "OFFER", "TOKEN", "CLOSED", "CANCEL", "REVOKE", "LEASE", "REJECT"):
        plaintext = message(kind, from_=STRANGER.device_id)
        out.add(f"stranger-{kind.lower()}", "unknown_sender", plaintext, sender="stranger")
    own = {"topic": topic(to=COMPANION, sender=COMPANION), "header_from": "companion", "box_from": "companion"}
    out.add("from-itself", "unknown_sender", message("CLOSED", from_=COMPANION.device_id), sender="companion", **own)
    to, phone = COMPANION.device_id, PHONE.device_id
    topics = {
        "of-another-recipient": topic(to=TABLET, sender=PHONE),
        "reversed": topic(to=PHONE, sender=COMPANION),
        "other-version": f"relay/v2/{to}/from/{phone}",
        "upper-case": f"relay/v1/{to.upper()}/from/{phone}",
        "sender-upper-case": f"relay/v1/{to}/from/{phone.upper()}",
        "without-sender": f"relay/v1/{to}/from/",
        "without-from": f"relay/v1/{to}/{phone}",
        "one-level-more": f"relay/v1/{to}/from/{phone}/x",
        "leading-slash": f"/relay/v1/{to}/from/{phone}",
        "trailing-newline": f"relay/v1/{to}/from/{phone}\n",
        "id-of-25": f"relay/v1/{to}/from/{phone[:-1]}",
        "id-of-27": f"relay/v1/{to}/from/{phone}a",
        "id-with-digit-1": f"relay/v1/{to}/from/{'1' + phone[1:]}",
        "wildcard": f"relay/v1/{to}/from/+",
        "mailbox-id-of-31": "relay/v1/pair/" + "0" * 31,
        "mailbox-id-upper-case": "relay/v1/pair/" + "A" * 32,
    }
    for name, text in topics.items():
        out.edited(f"topic-{name}", "wrong_topic", "closed", topic=text)
    return out.cases


def box_and_padding() -> list[Case]:
    """A right header around a box that does not open, or that holds what no sender pads like that."""
    out = Envelopes()
    for at in range(24):
        out.edited(f"nonce-byte-{at}", "bad_box", "closed", xor(36 + at))
    for at in range(16):
        out.edited(f"tag-byte-{at}", "bad_box", "closed", xor(HEADER + at, "10"))
    for at in (76, 77, 107, 108, 1024, 4170, 4171):
        out.edited(f"ciphertext-byte-{at}", "bad_box", "closed", xor(at, "ff"))
    out.edited("ciphertext-last-byte-of-large", "bad_box", "plaintext-of-4096", xor(BOX_LARGE - 1, "80"))
    out.edited("box-of-zeros", "bad_box", "closed", put(HEADER, "00" * (TAG + SMALL)))
    out.edited("tag-of-zeros", "bad_box", "closed", put(HEADER, "00" * TAG))
    out.edited("large-cut-to-small", "bad_box", "plaintext-of-4096", cut(BOX_SMALL))
    for name in ("tablet", "stranger", "companion"):
        out.add(f"sealed-by-{name}", "bad_box", message("CLOSED"), box_from=name)
    nonce = derive("nonce of boxed-for-the-tablet", 24)
    wrong = b"RTR1" + PHONE.raw_id + COMPANION.raw_id + nonce
    sealed = box(PHONE, TABLET.public, nonce, pad(compact(message("CLOSED")).encode()))
    out.raw("boxed-for-the-tablet", "bad_box", to="companion", sender="phone", envelope=b64(wrong + sealed))

    def padding(name: str, padded: bytes) -> None:
        out.sealed(f"padding-{name}", "bad_padding", padded)

    text = compact(message("CLOSED")).encode()
    padding("all-zeros", bytes(SMALL))
    padding("all-zeros-large", bytes(LARGE))
    padding("none", (text + b" " * SMALL)[:SMALL])
    padding("marker-81", text + b"\x81" + bytes(SMALL - len(text) - 1))
    padding("marker-01", text + b"\x01" + bytes(SMALL - len(text) - 1))
    padding("zeros-only", text + bytes(SMALL - len(text)))
    padding("last-byte-not-zero", pad(text)[:-1] + b"\x01")
    padding("last-byte-ff", pad(text)[:-1] + b"\xff")
    padding("byte-after-marker", text + b"\x80\x01" + bytes(SMALL - len(text) - 2))
    padding("pkcs7", text + b"\x10" * (SMALL - len(text)))
    for size in (0, len(text), SMALL - 1):
        padding(f"large-for-{size}", pad((text + b" " * SMALL)[:size], LARGE))
    padding("large-last-byte-not-zero", pad(exactly(SMALL, "CLOSED"))[:-1] + b"\x02")
    return out.cases
