"""The rest: keys and hashes, the sealed grant, invitations, pairing transcripts, replay windows."""

from __future__ import annotations

import base64
import hashlib

from nacl.bindings import crypto_box_beforenm

from tests.vectors.vector_kit import (
    BODIES,
    COMPANION,
    DEVICES,
    HANDOFF,
    ONE_TIME,
    OTHER_HANDOFF,
    PAIRING,
    PHONE,
    SEQUENCE_MAX,
    STRANGER,
    TABLET,
    TABLET_PAIRING,
    Case,
    Json,
    Pair,
    b64url,
    compact,
    derive,
    message,
    seal_once,
)

P = 2**255 - 19
ORDER_8 = tuple(  # the two u-coordinates of order 8 on Curve25519
    int.from_bytes(bytes.fromhex(spelled), "little")
    for spelled in (
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    )
)
LOW_ORDER = (0, 1, *ORDER_8, P - 1, P, P + 1)


def devices() -> Case:
    """The devices and pairings of all other files."""
    return {
        "devices": {
            name: {**pair.described(), "raw_id": pair.raw_id.hex(), "device_id": pair.device_id}
            for name, pair in DEVICES.items()
        },
        "pairings": [
            {"pairing_id": PAIRING, "phone": "phone", "companion": "companion"},
            {"pairing_id": TABLET_PAIRING, "phone": "tablet", "companion": "companion"},
        ],
    }


def low_order_points() -> list[bytes]:
    """All 32-byte strings that X25519 multiplies to zero: seven values, each with the unused top bit clear and set."""
    return [(value | top << 255).to_bytes(32, "little") for value in LOW_ORDER for top in (0, 1)]


def keys() -> list[Case]:
    """The key of crypto_box between two static keys, or why there is none."""
    cases: list[Case] = []
    for one, other in (("phone", "companion"), ("companion", "phone"), ("tablet", "companion"), ("stranger", "phone")):
        shared = crypto_box_beforenm(DEVICES[other].public, DEVICES[one].private)
        case: Case = {"name": f"{one}-{other}", "own": one, "peer_public_key": DEVICES[other].public.hex()}
        cases.append({**case, "shared_key": shared.hex()})
    for name in ("phone", "companion"):
        cases.append(
            {"name": f"own-{name}", "reason": "own_key", "own": name, "peer_public_key": DEVICES[name].public.hex()}
        )
    for i, point in enumerate(low_order_points()):
        cases.append(
            {"name": f"low-order-{i}", "reason": "bad_point", "own": "companion", "peer_public_key": point.hex()}
        )
    return cases


# -- The sealed grant --------------------------------------------------------------------------------------

OFFER_TEXT = compact(message("OFFER")).encode()
OFFER_HASH = hashlib.blake2b(OFFER_TEXT, digest_size=32, person=b"rtr1-msg").hexdigest()
ACCEPT_TEXT = compact(message("ACCEPT", body={**BODIES["ACCEPT"], "offer_hash": OFFER_HASH})).encode()
ACCEPT_HASH = hashlib.blake2b(ACCEPT_TEXT, digest_size=32, person=b"rtr1-msg").hexdigest()
GRANT: Case = {
    "v": 1,
    "pairing_id": PAIRING,
    "handoff_id": HANDOFF,
    "phone_key": PHONE.public.hex(),
    "companion_key": COMPANION.public.hex(),
    "one_time_key": ONE_TIME.public.hex(),
    "offer_hash": OFFER_HASH,
    "accept_hash": ACCEPT_HASH,
    "issuer": BODIES["OFFER"]["issuer"],
    "client_id": BODIES["OFFER"]["client_id"],
    "token_endpoint": "https://login.example/tenant/oauth2/v2.0/token",
    "revocation_endpoint": None,
    "scope": "offline_access openid",
    "audience": "",
    "subject": "subject-1",
    "account": "ada@example.org",
    "profile": "entra",
    "signed_in_at": 1_767_225_000,
    "is_otp": False,
    "refresh_token": "example-refresh-token",
}
BEHAVIOUR: Case = {
    "invalidates_on_use": True,
    "leeway_s": 30,
    "refresh_gives_new": True,
    "reuse_takes": "family",
    "reuse_kills_access_tokens": False,
    "revocation_takes": "session",
    "can_revoke_token": True,
    "idle_lifetime_s": 30 * 86_400,
    "absolute_lifetime_s": 0,
    "otp_lifetime_s": 86_400,
    "takes_claims": False,
    "takes_resource": False,
    "temporary_codes": [50053, 50196],
    "final_codes": [700082],
}
GRANT_2: Case = {**GRANT, "v": 2, "is_sole": True, "behaviour": BEHAVIOUR}
EPHEMERAL = Pair.of("ephemeral key of the grant")
LIFETIME_MAX = 316_224_000
GOOD_BEHAVIOUR: dict[str, tuple[Json, ...]] = {
    "invalidates_on_use": (False,),
    "leeway_s": (0, 300),
    "refresh_gives_new": (False,),
    "reuse_takes": ("nothing", "session", "user", "unknown"),
    "reuse_kills_access_tokens": (True,),
    "revocation_takes": ("nothing", "family", "user", "unknown"),
    "can_revoke_token": (False,),
    "idle_lifetime_s": (0, 1, LIFETIME_MAX),
    "absolute_lifetime_s": (1, LIFETIME_MAX),
    "otp_lifetime_s": (0, LIFETIME_MAX),
    "takes_claims": (True,),
    "takes_resource": (True,),
    "temporary_codes": ([], [0], [2**31 - 1] * 64),
    "final_codes": ([], [0], [2**31 - 1] * 64),
}
_NO_FLAG: tuple[Json, ...] = (0, 1, "true", None)
_NO_TAKES: tuple[Json, ...] = ("", "all", "Family", None, 1)
_NO_LIFE: tuple[Json, ...] = (-1, LIFETIME_MAX + 1, "1", None, True)
_NO_CODES: tuple[Json, ...] = (None, 50053, [True], ["50053"], [-1], [2**31], [50053] * 65)
BAD_BEHAVIOUR: dict[str, tuple[Json, ...]] = {
    "invalidates_on_use": _NO_FLAG,
    "leeway_s": (-1, 301, "30", None, True),
    "refresh_gives_new": _NO_FLAG,
    "reuse_takes": _NO_TAKES,
    "reuse_kills_access_tokens": _NO_FLAG,
    "revocation_takes": _NO_TAKES,
    "can_revoke_token": _NO_FLAG,
    "idle_lifetime_s": _NO_LIFE,
    "absolute_lifetime_s": _NO_LIFE,
    "otp_lifetime_s": _NO_LIFE,
    "takes_claims": _NO_FLAG,
    "takes_resource": _NO_FLAG,
    "temporary_codes": _NO_CODES,
    "final_codes": _NO_CODES,
}


def sealed_grant(plaintext: bytes | Case = GRANT, recipient: bytes = ONE_TIME.public) -> bytes:
    """The grant sealed to a one-time key."""
    octets = plaintext if isinstance(plaintext, bytes) else compact(plaintext).encode()
    return seal_once(octets, recipient, EPHEMERAL)


def grants() -> Case:
    """TOKEN at a companion that holds the one-time key: stored, or why LOST is answered."""
    cases: list[Case] = []
    good = sealed_grant()

    def add(name: str, reason: str, sealed: bytes | str, **more: Json) -> None:
        text = sealed if isinstance(sealed, str) else b64url(sealed)
        cases.append({"name": name, **({"reason": reason} if reason else {}), "sealed": text, **more})

    def content(name: str, reason: str, value: Case | bytes) -> None:
        octets = value if isinstance(value, bytes) else compact(value).encode()
        add(name, reason, sealed_grant(octets), plaintext=octets.decode())

    content("as-the-relay-writes-it", "", GRANT)
    content("other-field-order", "", dict(reversed(GRANT.items())))
    content("with-revocation-endpoint", "", {**GRANT, "revocation_endpoint": "https://login.example/revoke"})
    content("longer-token", "", {**GRANT, "refresh_token": "r" * 9000})
    # Beyond RFC 6749 §A.17; whatever a provider gave is sent on as it is.
    content("token-not-ascii", "", {**GRANT, "refresh_token": "\u00fc\u65e5\u672c"})
    content("token-with-a-tab", "", {**GRANT, "refresh_token": "a\tb\x7f"})
    content("one-time-code-sign-in", "", {**GRANT, "is_otp": True})
    content("nobody-else-holds-one", "", {**GRANT, "is_sole": True})
    content("profile-of-two-words", "", {**GRANT, "profile": "oidc-provider"})
    content("version-2-as-the-relay-writes-it", "", _as_written(GRANT_2))
    content("version-2-others-hold-one", "", {**GRANT_2, "is_sole": False})
    content("version-2-profile-that-nobody-knows", "", {**GRANT_2, "profile": "acme-corp"})
    content("version-2-other-field-order", "", dict(reversed(GRANT_2.items())))
    for field, values in GOOD_BEHAVIOUR.items():
        for i, said in enumerate(values):
            name = f"version-2-{field}-{i}".replace("_", "-")
            content(name, "", {**GRANT_2, "behaviour": {**BEHAVIOUR, field: said}})

    for size in (1, 31, 32, 47, 48 + 1, len(good) - 1):
        add(f"cut-to-{size}", "bad_sealed_box", good[:size])
    add("one-byte-more", "bad_sealed_box", good + b"\0")
    for at in (0, 15, 31, 32, 47, 48, len(good) - 1):
        add(f"byte-{at}-changed", "bad_sealed_box", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    add("sealed-to-another-key", "bad_sealed_box", sealed_grant(GRANT, STRANGER.public))
    add("sealed-to-the-static-key", "bad_sealed_box", sealed_grant(GRANT, COMPANION.public))
    for i, point in enumerate(low_order_points()):
        add(f"ephemeral-low-order-{i}", "bad_sealed_box", point + good[32:])
    for i, text in enumerate(("A", "AB", "AAB", b64url(good)[:-1] + "B", b64url(good) + "A")):
        add(f"not-canonical-base64url-{i}", "bad_field" if i < 3 or not _canonical(text) else "bad_sealed_box", text)

    for field in GRANT:
        content(f"without-{field}".replace("_", "-"), "bad_grant", {k: v for k, v in GRANT.items() if k != field})
    bad: dict[str, Case | bytes] = {
        "empty": b"",
        "not-json": b"hello",
        "array": b"[]",
        "unknown-field": {**GRANT, "x": 1},
        "duplicate-key": compact(GRANT).replace('"v":1', '"v":1,"v":1').encode(),
        "version-2": {**GRANT, "v": 2},
        "version-3": {**GRANT_2, "v": 3},
        "version-2-in-version-1": {**GRANT_2, "v": 1},
        "version-2-float": compact(GRANT_2).replace('"v":2', '"v":2.0').encode(),
        "version-2-without-is-sole": {k: value for k, value in GRANT_2.items() if k != "is_sole"},
        "version-2-without-behaviour": {k: value for k, value in GRANT_2.items() if k != "behaviour"},
        "version-2-unknown-field": {**GRANT_2, "x": 1},
        "version-2-sole-null": {**GRANT_2, "is_sole": None},
        "version-2-behaviour-null": {**GRANT_2, "behaviour": None},
        "version-2-behaviour-text": {**GRANT_2, "behaviour": compact(BEHAVIOUR)},
        "version-2-behaviour-unknown-field": {**GRANT_2, "behaviour": {**BEHAVIOUR, "x": 1}},
        "version-true": {**GRANT, "v": True},
        "version-float": compact(GRANT).replace('"v":1', '"v":1.0').encode(),
        "empty-token": {**GRANT, "refresh_token": ""},
        "token-null": {**GRANT, "refresh_token": None},
        "token-number": {**GRANT, "refresh_token": 5},
        "key-short": {**GRANT, "phone_key": "00"},
        "otp-number": {**GRANT, "is_otp": 0},
        "sole-number": {**GRANT, "is_sole": 1},
        "endpoint-empty": {**GRANT, "token_endpoint": ""},
        "profile-upper-case": {**GRANT, "profile": "Entra"},
        "subject-control-character": {**GRANT, "subject": "\n"},
        "signed-in-negative": {**GRANT, "signed_in_at": -1},
    }
    for field in BEHAVIOUR:
        less: Case = {k: value for k, value in BEHAVIOUR.items() if k != field}
        bad[f"version-2-behaviour-without-{field}".replace("_", "-")] = {**GRANT_2, "behaviour": less}
    for field, values in BAD_BEHAVIOUR.items():
        for i, said in enumerate(values):
            name = f"version-2-{field}-{i}".replace("_", "-")
            bad[f"{name}-bad"] = {**GRANT_2, "behaviour": {**BEHAVIOUR, field: said}}
    for name, value in bad.items():
        content(name, "bad_grant", value)

    zero32, other = "0" * 64, derive("another hash", 32).hex()
    differs: dict[str, tuple[Json, ...]] = {
        "pairing_id": (TABLET_PAIRING, "0" * 32),
        "handoff_id": (OTHER_HANDOFF, "0" * 32),
        "phone_key": (TABLET.public.hex(), COMPANION.public.hex(), zero32),
        "companion_key": (PHONE.public.hex(), zero32),
        "one_time_key": (EPHEMERAL.public.hex(), zero32),
        "offer_hash": (ACCEPT_HASH, other),
        "accept_hash": (OFFER_HASH, other, zero32),
        "issuer": ("https://login.example/tenant/v2.0/", "https://evil.example"),
        "client_id": ("other-client", ""),
    }
    for field, values in differs.items():
        for i, value2 in enumerate(values):
            content(f"other-{field}-{i}".replace("_", "-"), "grant_mismatch", {**GRANT, field: value2})
    return {
        "companion": "companion",
        "phone": "phone",
        "one_time": ONE_TIME.described(),
        "ephemeral": EPHEMERAL.described(),
        "offer": OFFER_TEXT.decode(),
        "offer_hash": OFFER_HASH,
        "accept": ACCEPT_TEXT.decode(),
        "accept_hash": ACCEPT_HASH,
        "cases": list(cases),
    }


def _as_written(grant: Case) -> Case:
    """The relay writes the refresh token last."""
    rest = {name: value for name, value in grant.items() if name != "refresh_token"}
    return {**rest, "refresh_token": grant["refresh_token"]}


def _canonical(text: str) -> bool:
    try:
        return b64url(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) == text
    except ValueError:
        return False


# -- Invitations -------------------------------------------------------------------------------------------

SECRET = derive("secret of the invitation", 16)


def invitation_octets(public_key: bytes, secret: bytes, broker: bytes, *, version: int = 1) -> bytes:
    """What both transcripts begin with."""
    return bytes([version]) + public_key + secret + bytes([len(broker)]) + broker


def invitation_text(octets: bytes) -> str:
    """The text of the QR code."""
    checksum = hashlib.blake2b(octets, digest_size=4, person=b"rtr1-inv").digest()
    return "RTR1:" + base64.b32encode(octets + checksum).decode().rstrip("=")


def mailbox_id(secret: bytes) -> bytes:
    """The name of the mailbox."""
    return hashlib.blake2b(b"", key=secret, digest_size=32, person=b"rtr1-mbx").digest()[:16]


def invitations() -> list[Case]:
    """Texts as a camera reads or a person pastes them."""
    cases: list[Case] = []
    plain = invitation_octets(COMPANION.public, SECRET, b"")
    hinted = invitation_octets(COMPANION.public, SECRET, b"mqtts://broker.example:8883")

    def good(name: str, text: str, broker: str = "") -> None:
        fields: Case = {"public_key": COMPANION.public.hex(), "secret": SECRET.hex(), "broker": broker}
        cases.append({"name": name, "text": text, **fields, "mailbox_id": mailbox_id(SECRET).hex()})

    def bad(name: str, text: str, reason: str = "bad_invitation") -> None:
        cases.append({"name": name, "reason": reason, "text": text})

    good("without-broker", invitation_text(plain))
    good("with-broker", invitation_text(hinted), "mqtts://broker.example:8883")
    longest = "mqtts://" + "b" * 51 + ":8883"
    good("longest-broker", invitation_text(invitation_octets(COMPANION.public, SECRET, longest.encode())), longest)
    good("lower-case", invitation_text(hinted).lower(), "mqtts://broker.example:8883")
    spaced = " ".join(invitation_text(plain)[i : i + 5] for i in range(0, len(invitation_text(plain)), 5))
    good("in-groups-of-five", f"  {spaced}\r\n")
    lines = [invitation_text(hinted)[i : i + 40] for i in range(0, len(invitation_text(hinted)), 40)]
    good("in-lines", "\r\n".join(lines), "mqtts://broker.example:8883")
    good("words-before", f"Invitation: {invitation_text(plain)}")
    good("words-after", f"{invitation_text(plain)} valid for 10 min")
    good("lines-and-words-after", "\n".join([*lines, "compare the numbers"]), "mqtts://broker.example:8883")
    good("in-quotes", f'"{invitation_text(plain)}".')
    good("prompt-before", f"the companion's invitation (RTR1:...): {invitation_text(plain)}")

    text = invitation_text(hinted)
    bad("empty", "")
    bad("prefix-only", "RTR1:")
    bad("other-prefix", "RTR2:" + text[5:], "unsupported")
    bad("words-alone", "token-relay companion pair")
    bad("words-after-without-a-blank", invitation_text(plain) + "VALID")
    bad("longer-than-4096-with-words", "a " * 2048 + text)
    bad("without-prefix", text[5:])
    bad("last-character-missing", text[:-1])
    bad("half", text[: len(text) // 2])
    bad("one-character-more", text + "A")
    bad("character-1", text[:20] + "1" + text[21:])
    bad("character-0", text[:20] + "0" + text[21:])
    bad("hyphen", text[:20] + "-" + text[20:])
    for at in (5, 6, 20, 57, 60, 90, len(text) - 4):
        bad(f"mistyped-{at}", text[:at] + ("B" if text[at] != "B" else "C") + text[at + 1 :])
    bad("two-characters-swapped", text[:30] + text[31] + text[30] + text[32:])
    bad("checksum-of-zeros", "RTR1:" + base64.b32encode(plain + bytes(4)).decode().rstrip("="))
    bad("without-checksum", "RTR1:" + base64.b32encode(plain).decode().rstrip("="))
    bad("too-short-with-checksum", invitation_text(plain[:49]))
    bad("hint-shorter-than-said", invitation_text(plain[:-1] + b"\x05abc"))
    bad("hint-longer-than-said", invitation_text(plain[:-1] + b"\x01abc"))
    bad("hint-of-65", invitation_text(plain[:-1] + bytes([65]) + b"b" * 65))
    bad("hint-not-ascii", invitation_text(invitation_octets(COMPANION.public, SECRET, "mqtts://ö".encode())))
    bad("hint-with-escape", invitation_text(invitation_octets(COMPANION.public, SECRET, b"\x1b[2J")))
    bad("longer-than-256", "RTR1:" + "A" * 252)
    for version in (0, 2, 255):
        octets = invitation_octets(COMPANION.public, SECRET, b"", version=version)
        bad(f"version-{version}", invitation_text(octets), "unsupported")
    return cases


# -- Delivery ----------------------------------------------------------------------------------------------


def delivery() -> Case:
    """Replay windows, the numbers of HELLO, the pauses between resends: worked out by hand from the rules."""

    def window(name: str, *steps: tuple[int, str, str]) -> Case:
        return {"name": name, "steps": [{"seq": seq, "bytes": text, "verdict": said} for seq, text, said in steps]}

    new, duplicate, too_old, conflict = "new", "duplicate", "too_old", "conflict"
    top = SEQUENCE_MAX
    windows: list[Json] = [
        window("in-order", (1, "a", new), (2, "b", new), (3, "c", new)),
        window("gaps-are-fine", (5, "a", new), (900, "b", new), (6, "c", new), (899, "d", new)),
        window("repeated", (1, "a", new), (1, "a", duplicate), (1, "a", duplicate), (2, "b", new), (1, "a", duplicate)),
        window("out-of-order-twice", (9, "a", new), (4, "b", new), (4, "b", duplicate), (9, "a", duplicate)),
        window("same-number-other-bytes", (1, "a", new), (1, "b", conflict), (1, "a", duplicate), (2, "a", new)),
        window("same-bytes-other-number", (1, "a", new), (2, "a", new)),
        window("distance-1023-is-in", (1, "a", new), (1024, "b", new), (1, "a", duplicate), (2, "c", new)),
        window("distance-1024-is-out", (1, "a", new), (1025, "b", new), (1, "a", too_old), (2, "c", new)),
        window(
            "distance-1025-is-out", (1, "a", new), (1026, "b", new), (1, "a", too_old), (2, "c", too_old), (3, "d", new)
        ),
        window("too-old-whatever-the-bytes", (5, "a", new), (5000, "b", new), (5, "x", too_old), (3976, "y", too_old)),
        window("oldest-in-window", (5000, "a", new), (3977, "b", new), (3977, "b", duplicate), (3977, "c", conflict)),
        window(
            "one-step-pushes-one-out",
            (1, "a", new),
            (1024, "b", new),
            (1025, "c", new),
            (1, "a", too_old),
            (2, "d", new),
        ),
        window(
            "a-leap-empties-it",
            (10, "a", new),
            (11, "b", new),
            (100_000, "c", new),
            (11, "b", too_old),
            (98_977, "d", new),
        ),
        window("conflict-moves-nothing", (7, "a", new), (7, "b", conflict), (8, "c", new), (7, "a", duplicate)),
        window(
            "largest-number", (top, "a", new), (top - 1023, "b", new), (top - 1024, "c", too_old), (top, "a", duplicate)
        ),
    ]

    def hello(name: str, numbers: tuple[int, int, int], disk: tuple[int, int, int], peer: bool, own: bool) -> Case:
        claim: Case = {"seq": numbers[0], "seq_sent": numbers[1], "seq_accepted": numbers[2]}
        have: Case = {"seq_high": disk[0], "peer_accepted": disk[1], "seq_sent": disk[2]}
        return {"name": name, "hello": claim, "receiver": have, "peer_rolled_back": peer, "own_rolled_back": own}

    hellos: list[Json] = [
        hello("all-agrees", (11, 11, 20), (10, 20, 20), False, False),
        hello("first-contact", (1, 1, 0), (0, 0, 0), False, False),
        hello("some-of-ours-on-the-way", (11, 11, 18), (10, 15, 20), False, False),
        hello("accepts-less-than-before", (11, 11, 14), (10, 15, 20), True, False),
        hello("sent-less-than-we-accepted", (11, 9, 20), (10, 20, 20), True, False),
        hello("late-hello-proves-nothing", (10, 10, 14), (10, 15, 20), False, False),
        hello("older-hello-proves-nothing", (4, 4, 2), (10, 15, 20), False, False),
        hello("accepted-what-we-never-sent", (11, 11, 21), (10, 20, 20), False, True),
        hello("late-hello-still-shows-our-loss", (4, 4, 21), (10, 20, 20), False, True),
        hello("both-lost", (11, 9, 21), (10, 20, 20), True, True),
    ]
    pauses: list[Json] = [
        {"attempts": attempts, "age_s": age, "pause_s": pause}
        for attempts, age, pause in (
            (1, 0, 2),
            (2, 2, 4),
            (3, 6, 8),
            (4, 14, 16),
            (5, 30, 32),
            (6, 62, 64),
            (7, 126, 128),
            (8, 254, 256),
            (9, 510, 300),
            (10, 810, 300),
            (0, 0, 2),
            (100, 3599, 300),
            (18, 3600, 21_600),
            (1, 3600, 21_600),
            (1000, 100_000, 21_600),
        )
    ]
    return {"windows": windows, "hellos": hellos, "pauses": pauses}


def hashes() -> list[Case]:
    """One example of every use of BLAKE2b."""
    secret, octets = SECRET, invitation_octets(COMPANION.public, SECRET, b"")
    rows: list[tuple[str, str, bytes, bytes, int, int]] = [
        ("device-id", "", b"", COMPANION.public, 32, 16),
        ("message-hash", "rtr1-msg", b"", OFFER_TEXT, 32, 32),
        ("envelope-digest", "rtr1-env", b"", b"an envelope", 16, 16),
        ("invitation-checksum", "rtr1-inv", b"", octets, 4, 4),
        ("mailbox-id", "rtr1-mbx", secret, b"", 32, 16),
        ("pair1-mac", "rtr1-pm1", secret, b"octets, header, JSON", 32, 32),
        ("pair2-mac", "rtr1-pm2", secret, b"transcript, header, JSON", 32, 32),
        ("transcript", "rtr1-pth", b"", octets, 32, 32),
        ("check-number", "rtr1-sas", b"", derive("a transcript", 32), 32, 8),
        ("sealed-box-nonce", "", b"", EPHEMERAL.public + ONE_TIME.public, 24, 24),
    ]
    cases: list[Case] = []
    for name, person, key, data, size, kept in rows:
        digest = hashlib.blake2b(data, key=key, digest_size=size, person=person.encode()).digest()[:kept]
        cases.append(
            {
                "name": name,
                "person": person,
                "key": key.hex(),
                "input": data.hex(),
                "digest_bytes": size,
                "kept_bytes": kept,
                "output": digest.hex(),
            }
        )
    return cases
