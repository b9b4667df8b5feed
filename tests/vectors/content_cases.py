"""Envelopes that open, but hold something that is refused: JSON, fields, and what only the receiver's state decides."""

from __future__ import annotations

import hashlib

from tests.vectors.vector_kit import (
    BODIES,
    BODIES_2,
    BODY_3,
    COMPANION,
    HANDOFF,
    INTEGER_MAX,
    LOST_4,
    PAIRING,
    PHONE,
    SEQUENCE_MAX,
    STRANGER,
    TABLET,
    TABLET_PAIRING,
    TO_COMPANION,
    TO_PHONE,
    TYPES,
    Case,
    Envelopes,
    Json,
    compact,
    derive,
    lost_4,
    message,
    second,
    third,
    with_body,
    without,
)

GOOD = compact(message("CLOSED"))


def json_faults() -> list[Case]:
    """Not JSON as RFC 8259 has it, not UTF-8, not an object; and keys that come twice."""
    out = Envelopes()
    good = GOOD.encode()
    texts: dict[str, bytes] = {
        "empty": b"",
        "spaces": b"   ",
        "word": b"hello",
        "cut": good[:-1],
        "cut-in-string": good[:40],
        "trailing-comma": good[:-1] + b",}",
        "trailing-text": good + b"x",
        "two-objects": good + good,
        "array": b"[" + good + b"]",
        "string": b'"CLOSED"',
        "number": b"1",
        "null": b"null",
        "single-quotes": good.replace(b'"', b"'"),
        "bare-keys": good.replace(b'"v"', b"v"),
        "comment": good[:-1] + b"/* */}",
        "leading-zero": good.replace(b'"seq":7', b'"seq":07'),
        "plus-sign": good.replace(b'"seq":7', b'"seq":+7'),
        "hex-number": good.replace(b'"seq":7', b'"seq":0x7'),
        "nan": good.replace(b'"seq":7', b'"seq":NaN'),
        "infinity": good.replace(b'"seq":7', b'"seq":Infinity'),
        "minus-infinity": good.replace(b'"seq":7', b'"seq":-Infinity'),
        "raw-newline-in-string": good.replace(b"CLOSED", b"CLO\nSED"),
        "raw-nul-in-string": good.replace(b"CLOSED", b"CLO\x00SED"),
        "bad-escape": good.replace(b"CLOSED", rb"\x43LOSED"),
        "python-true": good.replace(b"null", b"None"),
        "byte-order-mark": b"\xef\xbb\xbf" + good,
        "utf-16": GOOD.encode("utf-16-le"),
        "utf-8-lone-continuation": good.replace(b"CLOSED", b"CLO\x80SED"),
        "utf-8-cut-sequence": good.replace(b"CLOSED", b"CLOSE\xc3"),
        "utf-8-overlong": good.replace(b"CLOSED", b"\xc1\x83LOSED"),
        "utf-8-surrogate": good.replace(b"CLOSED", b"\xed\xa0\x80"),
        "utf-8-beyond-unicode": good.replace(b"CLOSED", b"\xf4\x90\x80\x80"),
        "latin-1": good.replace(b"CLOSED", "CLÖSED".encode("latin-1")),
    }
    for name, text in texts.items():
        out.add(f"json-{name}", "bad_json", text)
    report = '{"handoff_id":"' + HANDOFF + '","state":"held","state":"held","generation":3}'
    hello = compact(with_body("HELLO", handoffs=["REPORT"])).replace('"REPORT"', report)
    twice: dict[str, str] = {
        "v": GOOD.replace('"v":1', '"v":1,"v":1'),
        "v-other-value": GOOD.replace('"v":1', '"v":2,"v":1'),
        "type": GOOD.replace('"type":"CLOSED"', '"type":"REVOKE","type":"CLOSED"'),
        "from": GOOD[:-1] + f',"from":"{PHONE.device_id}"}}',
        "seq": GOOD[:-1] + ',"seq":7}',
        "body": GOOD[:-1] + ',"body":{}}',
        "in-body": GOOD.replace('"handoff_id"', '"handoff_id":null,"handoff_id"'),
        "in-list": hello,
        "spelled-with-escape": GOOD.replace('"v":1', r'"v":1,"\u0076":1'),
        "unknown-key": GOOD[:-1] + ',"x":1,"x":1}',
        "in-unknown-type": GOOD.replace("CLOSED", "FUTURE").replace('"handoff_id"', '"a":1,"a":2,"handoff_id"'),
    }
    for name, doubled in twice.items():
        out.add(f"twice-{name}", "duplicate_key", doubled.encode())
    return out.cases


def field_faults() -> list[Case]:
    """Well-formed JSON that is not the message it says it is; ``fault`` says what is wrong, for the reader."""
    out = Envelopes()

    def bad(fault: str, name: str, value: Case | bytes) -> None:
        octets = value if isinstance(value, bytes) else compact(value).encode()
        # the decoder's own cases come without a box: it would tell nothing, and they are many
        add = out.opened if fault in ("wrong_type", "bad_id", "bad_text") else out.add
        add(f"{fault}-{name}".replace("_", "-"), "bad_field", octets, fault=fault)

    head = message("CLOSED")
    for field in head:
        bad("missing_field", f"head-{field}", {key: value for key, value in head.items() if key != field})
    for kind, body in BODIES.items():
        bad("missing_field", f"{kind.lower()}-{list(body)[-1]}", without(kind, list(body)[-1]))
    bad("missing_field", "hello-report-state", with_body("HELLO", handoffs=[{"handoff_id": HANDOFF, "generation": 1}]))
    bad("unknown_field", "head", {**head, "x": 1})
    bad("unknown_field", "head-python-name", {**head, "sender": PHONE.device_id})
    bad("unknown_field", "head-python-name-instead", {("sender" if k == "from" else k): v for k, v in head.items()})
    bad("unknown_field", "head-empty-name", {**head, "": None})
    bad("unknown_field", "head-upper-case", {("V" if key == "v" else key): value for key, value in head.items()})
    bad("unknown_field", "head-surrogate", compact(head).replace('"v"', r'"\ud800":1,"v"').encode())
    for kind in ("HELLO", "OFFER", "TOKEN", "STORED", "REJECT", "LEASE"):
        bad("unknown_field", kind.lower(), with_body(kind, extra=None))
    report: Case = {"handoff_id": HANDOFF, "state": "held", "generation": 3}
    bad("unknown_field", "hello-report", with_body("HELLO", handoffs=[{**report, "x": 0}]))
    bad("unknown_field", "lease-term", with_body("LEASE", handoffs=[{"handoff_id": HANDOFF, "lease_days": 1, "x": 0}]))

    wrong_heads: dict[str, tuple[Json, ...]] = {
        "v": ("1", None, True),
        "type": (5, None, ["CLOSED"]),
        "pairing_id": (5, None),
        "from_": (None, 7),
        "to_": (None, ["x"]),
        "seq": ("7", None, True, [7]),
        "sent_at": ("0", None, False),
        "in_reply_to": ("7", False, {}),
        "body": (None, [], "x", 0),
    }
    for name, values in wrong_heads.items():
        for i, value in enumerate(values):
            key = name.rstrip("_")
            bad("wrong_type", f"head-{key}-{i}", {**head, key: value})
    wrong_bodies: tuple[tuple[str, str, Json], ...] = (
        ("HELLO", "handoffs", None),
        ("HELLO", "handoffs", {}),
        ("HELLO", "handoffs", [None]),
        ("OFFER", "lease_days", "90"),
        ("OFFER", "renews", False),
        ("OFFER", "account", None),
        ("REVOKED", "access_token_ends_at", None),
        ("RENEW", "generation", True),
        ("REJECT", "reason", None),
        ("STORED", "handoff_id", 5),
        ("STORED", "handoff_id", None),
    )
    for i, (kind, field, value) in enumerate(wrong_bodies):
        bad("wrong_type", f"{kind.lower()}-{field}-{i}", with_body(kind, **{field: value}))

    for i, spelling in enumerate(("7.0", "7.5", "7e0", "7E2", "-7.0", "1e400")):
        bad("not_an_integer", f"seq-{i}", GOOD.replace('"seq":7', f'"seq":{spelling}').encode())
    bad("not_an_integer", "sent-at", GOOD.replace(f'"sent_at":{head["sent_at"]}', '"sent_at":1767225600.0').encode())
    for spelling in ("-0", "-1", str(INTEGER_MAX + 1), "1" + "0" * 30, "9" * 5000):
        name = spelling if len(spelling) < 20 else f"of-{len(spelling)}-digits"
        bad(
            "out_of_range",
            f"sent-at-{name}",
            GOOD.replace(f'"sent_at":{head["sent_at"]}', f'"sent_at":{spelling}').encode(),
        )
    for name, spelling in (
        ("v", "0"),
        ("v", "256"),
        ("seq", "0"),
        ("seq", str(SEQUENCE_MAX + 1)),
        ("seq", str(INTEGER_MAX)),
    ):
        bad("out_of_range", f"{name}-{spelling}", {**head, name: int(spelling)})
    for kind in ("HELLO", "ROLLBACK"):
        for field in ("seq_sent", "seq_accepted"):
            bad("out_of_range", f"{kind.lower()}-{field}", with_body(kind, **{field: SEQUENCE_MAX + 1}))
    bad("out_of_range", "in-reply-to", {**head, "in_reply_to": INTEGER_MAX + 1})
    bad("out_of_range", "in-unknown-type", GOOD.replace("CLOSED", "FUTURE").replace(f'"{HANDOFF}"', "-1").encode())
    bad("out_of_range", "offer-lease-days", with_body("OFFER", lease_days=366))
    bad("out_of_range", "lease-days", with_body("LEASE", handoffs=[{"handoff_id": HANDOFF, "lease_days": 366}]))
    bad("out_of_range", "hello-65-handoffs", with_body("HELLO", handoffs=[report] * 65))
    bad(
        "out_of_range",
        "lease-65-handoffs",
        with_body("LEASE", handoffs=[{"handoff_id": HANDOFF, "lease_days": 1}] * 65),
    )

    ids: dict[str, Json] = {
        "short": HANDOFF[:-1],
        "long": HANDOFF + "0",
        "upper-case": "A" * 32,
        "not-hex": "g" * 32,
        "newline": HANDOFF + "\n",
        "empty": "",
        "uuid": "12345678-1234-1234-1234-123456789abc",
    }
    for name, value in ids.items():
        bad("bad_id", f"handoff-{name}", with_body("CLOSED", handoff_id=value))
        bad("bad_id", f"pairing-{name}", {**head, "pairing_id": value})
    phone = PHONE.device_id
    for name, text in (("short", phone[:-1]), ("long", phone + "a"), ("upper", phone.upper()), ("digit-1", "1" * 26)):
        bad("bad_id", f"from-{name}", {**head, "from": text})
        bad("bad_id", f"to-{name}", {**head, "to": text})
    bad("bad_id", "accept-key-short", with_body("ACCEPT", one_time_key="0" * 63))
    bad("bad_id", "accept-hash-long", with_body("ACCEPT", offer_hash="0" * 65))
    bad("bad_id", "hello-challenge", with_body("HELLO", challenge="0" * 64))
    bad("bad_id", "pair3-hash", with_body("PAIR3", transcript_hash="0" * 32))

    for kind, body in BODIES_2.items():
        name = f"{kind.lower()}-2"
        for field in [field for field in body if field not in BODIES[kind]]:
            bad("missing_field", f"{name}-{field}", message(kind, body={k: body[k] for k in body if k != field}, v=2))
        bad("missing_field", f"{name}-body-of-version-1", message(kind, v=2))
        bad("unknown_field", f"{name}-body-in-version-1", message(kind, body=body))
        bad("unknown_field", name, second(kind, x=1))
    bad("missing_field", "hello-3-name", message("HELLO", body=BODIES_2["HELLO"] | {"speaks": 3}, v=3))
    bad("unknown_field", "hello-3-body-in-version-2", message("HELLO", body=BODY_3, v=2))
    bad("unknown_field", "hello-3", third(x=1))
    no_names: tuple[Json, ...] = (None, 3, True, ["kitchen"], {})
    for i, value in enumerate(no_names):
        bad("wrong_type", f"hello-3-name-{i}", third(name=value))
    bad("out_of_range", "hello-3-speaks-2", third(speaks=2))
    for i, text in enumerate(("", " kitchen", "kitchen ", " ", "k" * 65, "a\nb", "kitchen\x85", "\x1b[2J")):
        bad("bad_text", f"hello-3-name-{i}", third(name=text))
    for field in ("handoff_id", "reason", "field"):
        bad("missing_field", f"lost-4-{field}", message("LOST", body={k: LOST_4[k] for k in LOST_4 if k != field}, v=4))
    bad("unknown_field", "lost-4-body-in-version-1", message("LOST", body=LOST_4))
    bad("unknown_field", "lost-4", lost_4(x=1))
    for i, value in enumerate(no_names):
        bad("wrong_type", f"lost-4-reason-{i}", lost_4(reason=value))
        bad("wrong_type", f"lost-4-field-{i}", lost_4(field=value))
    for i, text in enumerate(("", "something", "GRANT_MISMATCH", "bad_box")):
        bad("bad_text", f"lost-4-reason-{i}", lost_4(reason=text))
    for i, text in enumerate(("a" * 257, "scope\n", "\x1b[2J")):
        bad("bad_text", f"lost-4-field-{i}", lost_4(field=text))
    no_numbers: tuple[Json, ...] = (None, "2", True, [2])
    for i, value in enumerate(no_numbers):
        bad("wrong_type", f"hello-2-speaks-{i}", second("HELLO", speaks=value))
        bad("wrong_type", f"accept-2-grant-version-{i}", second("ACCEPT", grant_version=value))
    no_strategies: tuple[Json, ...] = (None, "branch", {}, [None], [1], [["branch"]])
    for i, value in enumerate(no_strategies):
        bad("wrong_type", f"hello-2-strategies-{i}", second("HELLO", strategies=value))
    for number in (0, 1, 256):
        bad("out_of_range", f"hello-2-speaks-{number}", second("HELLO", speaks=number))
    for number in (0, 256):
        bad("out_of_range", f"accept-2-grant-version-{number}", second("ACCEPT", grant_version=number))
    bad("out_of_range", "hello-2-17-strategies", second("HELLO", strategies=["mint"] * 17))
    for i, text in enumerate(("", "Branch", "device-code", "s" * 33, "mint move", "mint\n")):
        bad("bad_text", f"hello-2-strategy-{i}", second("HELLO", strategies=[text]))
    for i, text in enumerate(("", "closed", "C" * 17, "9A", "A-B", "CLOSED ", "CLOSED\n", "É")):
        bad("bad_text", f"type-{i}", {**head, "type": text})
    for i, text in enumerate(("", "Held", "9x", "a-b", "s" * 33, "held\n")):
        bad("bad_text", f"slug-{i}", with_body("REJECT", reason=text))
    for name, text in (("nul", "\0"), ("escape", "\x1b[2J"), ("newline", "a\n"), ("delete", "\x7f"), ("c1", "\x85")):
        bad("bad_text", f"account-{name}", with_body("OFFER", account=text))
        bad("bad_text", f"scope-{name}", with_body("OFFER", scope=text))
        bad("bad_text", f"issuer-{name}", with_body("OFFER", issuer=f"https://x{text}"))
    bad(
        "bad_text",
        "account-surrogate",
        compact(with_body("OFFER", account="SURROGATE")).replace("SURROGATE", r"\ud800").encode(),
    )
    bad("bad_text", "account-257", with_body("OFFER", account="a" * 257))
    bad("bad_text", "scope-1025", with_body("OFFER", scope="a" * 1025))
    bad("bad_text", "issuer-513", with_body("OFFER", issuer="a" * 513))
    bad("bad_text", "issuer-empty", with_body("OFFER", issuer=""))
    for kind, field in (("OFFER", "strategy"), ("REVOKED", "provider"), ("RENEW", "reason")):
        for i, text in enumerate(("", "something", str(BODIES[kind][field]).upper())):
            bad("bad_text", f"{kind.lower()}-{field}-{i}", with_body(kind, **{field: text}))
    for i, text in enumerate(("", "AA==", "A+/A", "AA A", "A" * 15_001, "ÄÄ")):
        bad("bad_text", f"token-sealed-{i}", with_body("TOKEN", sealed=text))
    return out.cases


def context_faults() -> list[Case]:
    """Well-formed messages that this receiver, in this state, does not take."""
    out = Envelopes()
    for kind in [*TYPES[:8], "HELLO"]:
        version = 4 if kind == "HELLO" else 3 if kind in BODIES_2 else 2
        out.add(f"version-{version}-{kind.lower()}", "unsupported", message(kind, v=version, to="companion"))
    for kind in ("PING", "A", "HELLO2", "OFFER_2", "X" * 16):
        out.add(f"type-{kind.lower()}", "unsupported", message(kind, body={}))
    for version in (2, 3, 5):
        out.add(f"version-{version}-lost", "unsupported", message("LOST", body=LOST_4, v=version), to="phone")
    out.add("version-255", "unsupported", message("CLOSED", v=255))
    out.add("version-2-other-body", "unsupported", message("OFFER", v=2, body={"new": [{}], "text": ""}))
    out.add("version-2-without-body", "unsupported", {k: v for k, v in message("CLOSED", v=2).items() if k != "body"})
    out.add("unknown-type-body-null", "unsupported", message("FUTURE", body=None))
    out.add("unknown-type-control-characters", "unsupported", message("FUTURE", body={"x": "\x1b"}))

    # crypto_box opens at its own sender as well, so these open; only the ids inside tell
    for kind in TO_PHONE:
        reflected = message(kind, to="phone")
        out.add(f"reflected-{kind.lower()}", "id_mismatch", reflected, box_from="phone")
    swapped = message("CLOSED", from_=COMPANION.device_id, to_=PHONE.device_id)
    out.add("inside-swapped", "id_mismatch", swapped)
    out.add("inside-from-stranger", "id_mismatch", message("CLOSED", from_=STRANGER.device_id))
    out.add("inside-from-tablet", "id_mismatch", message("CLOSED", from_=TABLET.device_id))
    out.add("inside-to-tablet", "id_mismatch", message("CLOSED", to_=TABLET.device_id))
    out.add("inside-to-sender", "id_mismatch", message("CLOSED", to_=PHONE.device_id))
    out.add("inside-unsupported-and-swapped", "id_mismatch", {**swapped, "v": 2})

    other = derive("pairing that nobody has", 16).hex()
    for kind in ("HELLO", "OFFER", "TOKEN", "CANCEL", "REVOKE", "LEASE"):
        out.add(f"unknown-pairing-{kind.lower()}", "wrong_pairing", message(kind, pairing_id=other))
    out.add("pairing-of-the-tablet", "wrong_pairing", message("REVOKE", pairing_id=TABLET_PAIRING))
    out.add("pairing-of-zeros", "wrong_pairing", message("CLOSED", pairing_id="0" * 32))
    flipped = f"{int(PAIRING, 16) ^ 1:032x}"
    out.add("pairing-one-bit-off", "wrong_pairing", message("CLOSED", pairing_id=flipped))
    out.add("pairing-unknown-and-unsupported", "wrong_pairing", message("FUTURE", pairing_id=other))

    for kind in ("HELLO", "OFFER", "TOKEN", "CLOSED", "CANCEL", "REVOKE", "LEASE", "REJECT", "ROLLBACK"):
        out.add(f"pending-{kind.lower()}", "not_active", message(kind), pairing={"state": "pending"})

    high: Case = {"seq_high": 5000}
    for seq in (1, 2, 1000, 2976, 3975, 3976):
        out.add(f"old-seq-{seq}", "too_old", message("CLOSED", seq=seq), pairing=dict(high))
    out.add("old-request", "too_old", message("REVOKE", seq=3976), pairing=dict(high))
    out.add("old-hello-2", "too_old", second("HELLO") | {"seq": 3976}, pairing=dict(high))
    out.add("old-unsupported", "too_old", message("FUTURE", seq=3976), pairing=dict(high))
    out.add(
        "old-under-largest", "too_old", message("CLOSED", seq=SEQUENCE_MAX - 1024), pairing={"seq_high": SEQUENCE_MAX}
    )

    other_bytes = hashlib.blake2b(b"other bytes", digest_size=16, person=b"rtr1-env").hexdigest()
    for seq in (3977, 4000, 4999, 5000):
        seen: Case = {"seq_high": 5000, "seen": {str(seq): other_bytes}}
        out.add(f"conflict-{seq}", "conflict", message("CLOSED", seq=seq), pairing=seen)
    for kind in ("HELLO", "OFFER", "TOKEN", "REVOKE", "FUTURE"):
        seen = {"seq_high": 9, "seen": {"7": other_bytes}}
        out.add(f"conflict-{kind.lower()}", "conflict", message(kind), pairing=seen)

    out.add("pending-hello-2", "not_active", second("HELLO"), pairing={"state": "pending"})
    accept = message("ACCEPT", body=BODIES_2["ACCEPT"], to="companion", v=2)
    out.add("to-companion-accept-2", "wrong_direction", accept)
    for kind in TO_PHONE:
        out.add(f"to-companion-{kind.lower()}", "wrong_direction", message(kind, to="companion"))
    for kind in TO_COMPANION:
        out.add(f"to-phone-{kind.lower()}", "wrong_direction", message(kind, to="phone"), to="phone")
    return out.cases
