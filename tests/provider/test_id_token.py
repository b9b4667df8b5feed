"""An id_token is accepted from the right issuer, for this client, in its time, with a published key; else refused."""

from __future__ import annotations

import base64
import hmac
import json
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.provider.provider_kit import MARK, assert_no_secret
from token_relay.protocol.secret import IdToken
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent, is_loopback
from token_relay.provider.id_token import Jwks, NoKeys, Subject, _check_times, check_id_token, fetch_jwks, parse_jwks
from token_relay.provider.tokens import ProviderError

NOW_S = 1_800_000_000
ISSUER = "https://p.example/v2.0"
RSA = RSAKey.generate_key(2048, parameters={"kid": "rsa"})
EC = ECKey.generate_key("P-256", parameters={"kid": "ec"})
OTHER = RSAKey.generate_key(2048, parameters={"kid": "rsa"})
CLAIMS: dict[str, object] = {
    "iss": ISSUER,
    "aud": "app",
    "sub": "sub-1",
    "iat": NOW_S - 5,
    "exp": NOW_S + 3600,
    "nonce": "n-1",
    "name": "Ann",
    "preferred_username": "ann@example.com",
}
JWKS_BODY = json.dumps({"keys": [RSA.as_dict(private=False), EC.as_dict(private=False) | {"use": "sig"}]}).encode()
JWKS = parse_jwks(JWKS_BODY)
CASES = tomllib.loads((Path(__file__).parent / "cases/id_tokens.toml").read_text("utf-8"))["case"]
KEYS: dict[str, RSAKey | ECKey | OKPKey] = {
    "A": RSA,
    "B": OTHER,
    "P256": EC,
    "P384": ECKey.generate_key("P-384"),
    "P521": ECKey.generate_key("P-521"),
    "K1": ECKey.generate_key("secp256k1"),
    "ED": OKPKey.generate_key("Ed25519"),
}


def signed(claims: dict[str, object], key: RSAKey | ECKey = RSA, **header: object) -> IdToken:
    alg = "ES256" if isinstance(key, ECKey) else "RS256"
    return IdToken(jwt.encode({"alg": alg, "kid": key.kid} | header, claims, key, algorithms=[alg]))


def check(token: IdToken, *, nonce: str | None = "n-1", jwks: Jwks | NoKeys = JWKS) -> Subject:
    return check_id_token(token, jwks, issuer=ISSUER, client_id="app", nonce=nonce, now_wall_s=float(NOW_S))


@pytest.mark.parametrize("key", [RSA, EC])
def test_a_genuine_token_names_the_person(key: RSAKey | ECKey) -> None:
    assert check(signed(CLAIMS, key)) == Subject("sub-1", name="Ann", username="ann@example.com")


def test_without_a_nonce_of_ours_none_is_asked_for() -> None:
    claims = {name: value for name, value in CLAIMS.items() if name != "nonce"}
    assert check(signed(claims), nonce=None).sub == "sub-1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"iss": "https://evil.example"}, "id_token_issuer"),
        ({"iss": ISSUER + "/"}, "id_token_issuer"),
        ({"iss": None}, "id_token_issuer"),
        ({"aud": "other"}, "id_token_audience"),
        ({"aud": None}, "id_token_audience"),
        ({"aud": ["app", "other"]}, "id_token_audience"),  # several audiences need azp
        ({"azp": "other"}, "id_token_audience"),
        ({"exp": NOW_S - 120}, "id_token_time"),
        ({"exp": None}, "id_token_time"),
        ({"exp": "soon"}, "id_token_time"),
        ({"exp": 1e300}, "id_token_time"),
        ({"iat": NOW_S + 121}, "id_token_time"),
        ({"iat": None}, "id_token_time"),
        ({"iat": True}, "id_token_time"),
        ({"nbf": NOW_S + 121}, "id_token_time"),
        ({"nonce": "n-2"}, "id_token_nonce"),
        ({"nonce": None}, "id_token_nonce"),
        ({"nonce": 7}, "id_token_nonce"),
        ({"sub": ""}, "id_token_subject"),
        ({"sub": None}, "id_token_subject"),
        ({"sub": 7}, "id_token_subject"),
        ({"sub": "x" * 256}, "id_token_subject"),
        ({"sub": "a\nb"}, "id_token_subject"),
    ],
)
def test_each_wrong_claim_is_refused_by_name(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ProviderError) as caught:
        check(signed(CLAIMS | change))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "change",
    [{"exp": NOW_S - 119}, {"iat": NOW_S + 120}, {"nbf": NOW_S + 120}, {"aud": ["app", "other"], "azp": "app"}],
)
def test_two_minutes_between_clocks_are_forgiven(change: dict[str, object]) -> None:
    assert check(signed(CLAIMS | change)).sub == "sub-1"


def test_what_a_person_is_shown_is_printable_and_short() -> None:
    subject = check(signed(CLAIMS | {"name": "\x1b[2J" + "x" * 500, "preferred_username": 7}))
    assert subject.name.isprintable()
    assert len(subject.name) == 128
    assert subject.username == ""


# -- The cases of the field --------------------------------------------------------------------------------


def without_nulls(table: Mapping[str, object]) -> dict[str, object]:
    return {name: None if value == "NULL" else value for name, value in table.items()}


def published(entry: Mapping[str, object]) -> dict[str, object]:
    jwk: dict[str, object] = dict(KEYS[str(entry["key"])].as_dict(private=False))
    jwk = {name: value for name, value in jwk.items() if name != "kid"} | without_nulls(entry)
    gone = jwk.pop("drop", [])
    assert isinstance(gone, list)
    return {name: value for name, value in jwk.items() if name not in ("key", *gone)}


def compact(token: Mapping[str, object], claims: Mapping[str, object]) -> IdToken:
    """Sign as the case says; with no key, or as a shared secret, as an attacker would."""
    header = {name: value for name, value in without_nulls(token).items() if name != "key"}
    alg = str(header.get("alg", ""))
    text = ".".join(coded(json.dumps(part).encode()) for part in (header, CLAIMS | without_nulls(claims)))
    if not token["key"]:
        return IdToken(f"{text}.")
    key = KEYS[str(token["key"])]
    if alg == "HS256":
        return IdToken(f"{text}.{coded(hmac.digest(key.as_pem(private=False), text.encode(), 'sha256'))}")
    signature = jws.JWSRegistry.algorithms[alg].sign(text.encode(), key)
    return IdToken(f"{text}.{coded(signature)}")


def coded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_becomes_of_an_id_token_of_the_field(case: dict[str, object]) -> None:
    entries, token, claims = case["keys"], case["token"], case.get("claims", {})
    assert isinstance(entries, list)
    assert isinstance(token, dict)
    assert isinstance(claims, dict)
    others = [published({"key": "B", "kid": f"other-{number}"}) for number in range(int(str(case.get("others", 0))))]
    jwks = parse_jwks(json.dumps({"keys": others + [published(entry) for entry in entries]}).encode())
    verdict, _, words = str(case["outcome"]).partition(": ")
    if verdict == "refused":
        with pytest.raises(ProviderError) as caught:
            check(compact(token, claims), jwks=jwks)
        assert caught.value.reason == words
        assert "\x1b" not in str(caught.value)
        return
    subject = check(compact(token, claims), jwks=jwks)
    assert subject.sub == "sub-1"
    assert words in subject.unverified if verdict == "unverified" else subject.unverified == ""


def test_each_bit_of_a_signature_counts() -> None:
    for name, alg in (("A", "PS256"), ("P521", "ES512"), ("ED", "EdDSA")):
        jwks = parse_jwks(json.dumps({"keys": [published({"key": name, "kid": "k"})]}).encode())
        text, _, signature = compact({"key": name, "alg": alg, "kid": "k"}, {}).reveal().rpartition(".")
        octets = base64.urlsafe_b64decode(signature + "==")
        forged = IdToken(f"{text}.{coded(octets[:-1] + bytes([octets[-1] ^ 1]))}")
        with pytest.raises(ProviderError) as caught:
            check(forged, jwks=jwks)
        assert caught.value.reason == "id_token_signature"


@pytest.mark.parametrize("sid", ["", 7, None, "a\nb", "x" * 256])
def test_a_session_is_named_only_by_text(sid: object) -> None:
    assert check(signed(CLAIMS | {"sid": sid})).sid == ""
    assert check(signed(CLAIMS | {"sid": "s-1"})).sid == "s-1"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: signed(CLAIMS, OTHER), "id_token_signature"),
        (lambda: IdToken("e30.e30.AAAA"), "id_token_malformed"),
        (lambda: IdToken("a.b"), "id_token_malformed"),
        (lambda: IdToken(f"{MARK}"), "id_token_malformed"),
        (lambda: IdToken("ä.ö.ü"), "id_token_malformed"),
        (lambda: IdToken("W10.e30.AAAA"), "id_token_malformed"),  # a header that is a list
        (
            lambda: IdToken(jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, b"[]", RSA)),
            "id_token_malformed",
        ),
        (
            lambda: IdToken(jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, b'{"sub":"a","sub":"b"}', RSA)),
            "id_token_malformed",
        ),
    ],
)
def test_a_forged_or_broken_token_is_refused(make: Callable[[], IdToken], reason: str) -> None:
    with pytest.raises(ProviderError) as caught:
        check(make())
    assert caught.value.reason == reason
    assert_no_secret(caught.value)
    assert caught.value.__cause__ is None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=60) | st.from_regex(r"\A[A-Za-z0-9_-]{0,20}(\.[A-Za-z0-9_-]{0,20}){2}\Z"))
def test_no_text_makes_the_check_raise_anything_else(text: str) -> None:
    try:
        token = IdToken(text)
    except ValueError:
        return
    with pytest.raises(ProviderError):
        check(token)


# -- Keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},  # 24 bits
        {"kty": "RSA", "n": 7, "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},  # not on the curve
        {"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "", "x": "", "y": ""},
        KEYS["K1"].as_dict(private=False),
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        RSA.as_dict(private=False) | {"use": "enc"},
        RSA.as_dict(private=False) | {"alg": "RSA-OAEP"},
        RSA.as_dict(private=False) | {"alg": "ES256"},
        RSA.as_dict(private=False) | {"alg": 7},
        RSA.as_dict(private=False) | {"kid": 7},
        7,
    ],
)
def test_keys_that_cannot_sign_are_passed_over(entry: object) -> None:
    body = json.dumps({"keys": [entry, EC.as_dict(private=False)]}).encode()
    found = parse_jwks(body)
    assert not isinstance(found, NoKeys)
    assert [key.kid for key in found] == ["ec"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 7}', b"<html>"])
def test_what_is_no_key_set_proves_nothing(body: bytes) -> None:
    found = parse_jwks(body)
    assert isinstance(found, NoKeys)
    assert check(signed(CLAIMS), jwks=found).unverified == found.reason


class OneAnswer:
    def __init__(self, answer: HttpResponse | NotSent | AnswerLost) -> None:
        self.answer = answer

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        return self.answer


@pytest.mark.asyncio
async def test_keys_are_fetched_or_the_reason_is_given() -> None:
    uri = "https://p.example/keys"
    found = await fetch_jwks(OneAnswer(HttpResponse(200, {}, JWKS_BODY)), uri)
    assert not isinstance(found, NoKeys)
    assert [key.kid for key in found] == ["rsa", "ec"]
    for answer, words in (
        (AnswerLost("reset"), "reset"),
        (NotSent("no network"), "no network"),
        (HttpResponse(503, {}, b""), "HTTP 503"),
        (HttpResponse(404, {}, b""), "HTTP 404"),
        (HttpResponse(302, {}, JWKS_BODY), "HTTP 302"),
    ):
        missed = await fetch_jwks(OneAnswer(answer), uri)
        assert isinstance(missed, NoKeys)
        assert words in missed.reason
    for nowhere, words in (("http://p.example/keys", "plain http"), (None, "jwks_uri")):
        missed = await fetch_jwks(OneAnswer(HttpResponse(200, {}, JWKS_BODY)), nowhere)
        assert isinstance(missed, NoKeys)
        assert words in missed.reason


@pytest.mark.parametrize(
    ("issuer", "claim", "said", "hint"),
    [
        ("https://p.example", {"iat": NOW_S + 129_600}, "is in the future: iat ", "set the clock of this machine"),
        ("https://p.example", {"exp": NOW_S - 129_600}, "has expired: exp ", "set the clock of this machine"),
        ("https://p.example", {"exp": 0}, "has expired: exp 1970-01-01 00:00:00Z, the clock", "set the clock"),
        ("http://127.0.0.1:8400", {"iat": NOW_S + 129_600}, "is in the future: iat ", "start the sandbox anew"),
        ("https://p.example", {"iat": 2.0**52}, "iat 9999-12-31 23:59:59Z, the clock here", "set the clock"),
    ],
)
def test_a_time_that_does_not_fit_is_told_with_both_clocks(
    issuer: str, claim: dict[str, object], said: str, hint: str
) -> None:
    claims: dict[str, object] = {"exp": NOW_S + 60, "iat": NOW_S} | claim
    is_local = is_loopback(urlsplit(issuer).hostname or "")
    with pytest.raises(ProviderError) as caught:
        _check_times(claims, float(NOW_S), is_local=is_local)
    now = datetime.fromtimestamp(NOW_S, UTC)
    assert said in str(caught.value) and str(caught.value).endswith(f"the clock here says {now:%Y-%m-%d %H:%M:%SZ}")
    assert caught.value.hint.startswith(hint)
