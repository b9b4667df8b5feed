"""Write the corpus's first inputs: ``python tests/fuzz/make_corpus.py``. What fuzzing adds later stays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from tests.fuzz import fuzz_targets as t  # noqa: E402  # after the path is set
from token_relay.protocol.messages import Cancel, GrantPayload, Head, Hello, Offer, encode, encode_grant  # noqa: E402
from token_relay.protocol.pairing import Ended, seal_ended  # noqa: E402
from token_relay.protocol.secret import RefreshToken  # noqa: E402

HEX16, HEX32 = "0123456789abcdef" * 2, "0123456789abcdef" * 4
ID = "a" * 26
PROBLEM = {
    "error": "invalid_grant",
    "error_description": "AADSTS50076: more.\r\nTrace ID: 0f6a1b2c-1111-4222-8333-444455556666\r\n",
    "error_codes": [50076],
    "suberror": "mfa_required",
    "continuation_token": "AQAB",
}
TOKENS = {"access_token": "at", "refresh_token": "rt", "token_type": "Bearer", "expires_in": "3600", "scope": "a b"}
BROKER = """
name = "watch"
[broker]
url = "mqtts://broker.example:8883"
ca = "ca.pem"
cert = "device.pem"
key = "device.key"
[token_api]
socket = "token.sock"
"""
POLICY = """
[[allow]]
uid = 1001
scopes = ["openid", "profile"]
[[allow]]
gid = 20
accounts = ["ann@contoso.example"]
audiences = ["https://api.contoso.example"]
"""
WORLD = """
[[users]]
username = "ann@contoso.example"
password = "correct-horse"
[[clients]]
client_id = "00001111-aaaa-2222-bbbb-3333cccc4444"
[[faults]]
name = "slow"
seconds = 2
endpoint = "token"
[policy]
"""
FORM = "content-type: application/x-www-form-urlencoded"
CLIENT = "client_id=00001111-aaaa-2222-bbbb-3333cccc4444"


def _message(body: object) -> bytes:
    head = Head(v=1, type=body.type, pairing_id=HEX16, sender=ID, recipient=ID, seq=7, sent_at=0, in_reply_to=None)  # type: ignore[attr-defined]
    return encode(head, body)  # type: ignore[arg-type]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def seeds() -> dict[str, list[bytes]]:
    """Return the honest inputs of each target; from them the way to the dishonest ones is short."""
    offer = Offer(
        handoff_id=HEX16, strategy="mint", issuer="https://contoso.example/", client_id="client", scope="openid",
        account="ann", lease_days=90, expires_at=0, renews=None,
    )  # fmt: skip
    grant = GrantPayload(
        v=1, pairing_id=HEX16, handoff_id=HEX16, phone_key=HEX32, companion_key=HEX32, one_time_key=HEX32,
        offer_hash=HEX32, accept_hash=HEX32, refresh_token=RefreshToken("rt"), issuer="https://contoso.example/",
        client_id="client", token_endpoint="https://contoso.example/token", revocation_endpoint=None, scope="openid",
        audience="", subject="sub", account="ann", profile="entra", signed_in_at=0, is_otp=False,
    )  # fmt: skip
    hello = Hello(challenge=HEX16, seq_sent=7, seq_accepted=3, handoffs=[])
    claims = {"iss": "https://contoso.example/", "aud": "client", "sub": "s", "exp": 1_800_000_600, "nonce": "nonce"}
    metadata = {"issuer": "https://contoso.example/x", "token_endpoint": "https://contoso.example/token"}
    pair = {"type": "PAIR1", "v": 1, "static_key": HEX32, "name": "phone", "nonce": HEX16}
    return {
        "envelope": [b"RTR1" + bytes(56), b"hello", b"\x80" + bytes(4095)],
        "message": [_message(offer), _message(hello), _message(Cancel(handoff_id=HEX16))],
        "grant": [encode_grant(grant), b"AAAA_-", bytes(64)],
        "invitation": [t.INVITATION.text().encode(), t.INVITATION.octets()],
        "pairing": [
            t.PAIR1[:200],
            _json(pair),
            _json({**pair, "type": "PAIR2", "pairing_id": HEX16}),
            seal_ended(t.INVITATION, b"", Ended("expired", 90)),
        ],
        "topic": [f"relay/v1/{ID}/from/{ID}".encode(), f"relay/v1/pair/{HEX16}".encode(), b"a/+/#"],
        "token_answer": [b"\0" + _json(TOKENS), b"\1" + _json(PROBLEM), b"\x04120\n{}", b"\x05<html>"],
        "discovery": [_json(metadata), _json({**metadata, "jwks_uri": "http://127.0.0.1/keys"})],
        "jwks": [
            t._JWKS,
            _json({"keys": [{"kty": "RSA", "n": "AQAB" * 90, "e": "AQAB"}]}),
            _json({"keys": [{"kty": "EC", "crv": "", "x": "", "y": ""}]}),
        ],
        "id_token": [b'{"alg":"ES256","kid":"one"}\n' + _json(claims), b"e30.e30"],
        "native_auth": [
            b"\n".join(
                [
                    b"\1" + _json({"continuation_token": "AQAB"}),
                    b"\1" + _json({"continuation_token": "AQAB", "challenge_type": "oob", "code_length": 8}),
                    b"\0" + _json(PROBLEM),
                    b"\1" + _json(TOKENS),
                ]
            ),
            b"\1" + _json({"challenge_type": "redirect"}),
        ],
        "mqtt_packets": [
            b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a\x82\x06\0\x01\0\x01a\x01\x32\x07\0\x01a\0\x02hi\xc0\0\xe0\0",
            b"\x10\x13\0\x04MQTT\x05\x02\0\x3c\x05\x11\0\0\0\x0a\0\x01a\x32\x08\0\x01a\0\x02\0hi\x40\x02\0\x01",
        ],
        "config_toml": [BROKER.encode(), b'[provider]\nurl = "https://contoso.example"\nroute = "127.0.0.1:8401"\n'],
        "policy_toml": [POLICY.encode()],
        "world_toml": [WORLD.encode()],
        "control_line": [b'{"v": 1, "command": "status", "args": {}}', b'{"answer": {"id": 1, "value": "x"}}'],
        "token_query": [b"scope=openid%20profile&account=ann&min_valid_s=300", b"timeout_s=5&force_refresh=true"],
        "third_end": [
            b"\0" + b"".join(bytes([kind, who, 0, kind, who, 1, 2, 3]) for kind in (0, 1, 2, 3) for who in range(6)),
            b"\x80" + b"".join(bytes([kind, who, 0, kind, who, 1, 2, 3]) for kind in (0, 1, 3, 6) for who in range(6)),
        ],
        "sandbox_request": [
            f"POST /contoso.onmicrosoft.com/oauth2/v2.0/token\n{FORM}\n\ngrant_type=refresh_token&{CLIENT}".encode(),
            f"POST /oauth/token\n{FORM}\n\ngrant_type=authorization_code&{CLIENT}&code=x&code_verifier=y".encode(),
            f"POST /contoso.onmicrosoft.com/oauth2/v2.0/initiate\n{FORM}\n\n{CLIENT}&username=a".encode(),
            b"GET /authorize?response_type=code&client_id=a&redirect_uri=http%3A%2F%2F127.0.0.1\n\n",
            b"POST /sandbox/faults\ncontent-type: application/json\n\n" + _json({"name": "slow", "seconds": 1}),
            b"POST /sandbox/clock\ncontent-type: application/json\n\n" + _json({"advance_s": 60}),
        ],
    }


def main() -> None:
    """Write them; numbered, so that a change shows in a diff."""
    for name, inputs in seeds().items():
        place = HERE / "corpus" / name
        place.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs, start=1):
            (place / f"seed-{number}").write_bytes(data)
    for name in ("config_toml", "policy_toml", "world_toml"):
        (HERE / "corpus" / name / "found-number-of-5000-digits").write_bytes(b"a = " + b"9" * 5000)


if __name__ == "__main__":
    main()
