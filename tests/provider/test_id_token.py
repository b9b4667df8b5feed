"""An id_token is accepted from the right issuer, for this client, in its time, with a published key; else refused."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, RSAKey

from tests.provider.provider_kit import MARK, assert_no_secret
from token_relay.protocol.secret import IdToken
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.id_token import Jwks, Subject, check_id_token, fetch_jwks, parse_jwks
from token_relay.provider.outcome import Unavailable
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
JWKS: Jwks = parse_jwks(JWKS_BODY)


def signed(claims: dict[str, object], key: RSAKey | ECKey = RSA, **header: object) -> IdToken:
    alg = "ES256" if isinstance(key, ECKey) else "RS256"
    return IdToken(jwt.encode({"alg": alg, "kid": key.kid} | header, claims, key, algorithms=[alg]))


def check(token: IdToken, *, nonce: str | None = "n-1", jwks: Jwks = JWKS) -> Subject:
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


def hmac_with_public_key() -> IdToken:
    # The classic confusion: a public key taken for a shared secret.
    parts = [json.dumps({"alg": "HS256", "kid": "rsa"}).encode(), json.dumps(CLAIMS).encode()]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = hmac.digest(RSA.as_pem(private=False), text, "sha256")
    return IdToken(f"{text.decode()}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


def test_a_public_key_is_never_taken_for_a_shared_secret() -> None:
    with pytest.raises(ProviderError, match="not signed with RS256 or ES256"):
        check(hmac_with_public_key())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: signed(CLAIMS, OTHER), "id_token_signature"),
        (lambda: signed(CLAIMS, RSA, kid="ec"), "id_token_key"),
        (lambda: signed(CLAIMS, RSA, kid="unknown"), "id_token_key"),
        (lambda: IdToken("eyJhbGciOiJSUzI1NiIsImtpZCI6WyJyc2EiXX0.e30.AAAA"), "id_token_key"),  # kid is a list
        (lambda: IdToken("eyJhbGciOiJub25lIn0.e30."), "id_token_algorithm"),  # {"alg":"none"}
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


def test_without_kid_only_a_key_alone_in_its_kind_may_do() -> None:
    token = IdToken(jwt.encode({"alg": "RS256"}, CLAIMS, RSA, algorithms=["RS256"]))
    assert check(token).sub == "sub-1"
    two = parse_jwks(json.dumps({"keys": [RSA.as_dict(private=False), OTHER.as_dict(private=False)]}).encode())
    with pytest.raises(ProviderError, match="no single key"):
        check(token, jwks=two)


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
        RSA.as_dict(private=False) | {"use": "enc"},
        RSA.as_dict(private=False) | {"alg": "RS512"},
        RSA.as_dict(private=False) | {"kid": 7},
        7,
    ],
)
def test_keys_that_cannot_sign_are_passed_over(entry: object) -> None:
    body = json.dumps({"keys": [entry, EC.as_dict(private=False)]}).encode()
    assert [key.kid for key in parse_jwks(body)] == ["ec"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys": 7}', b'{"keys": []}', b'{"keys": [' + b"7," * 64 + b"7]}"]
)
def test_what_is_no_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(ProviderError):
        parse_jwks(body)


class OneAnswer:
    def __init__(self, answer: HttpResponse | NotSent | AnswerLost) -> None:
        self.answer = answer

    async def request(self, request: HttpRequest) -> HttpResponse | NotSent | AnswerLost:
        return self.answer


@pytest.mark.asyncio
async def test_keys_are_fetched_or_the_reason_is_given() -> None:
    uri = "https://p.example/keys"
    assert await fetch_jwks(OneAnswer(HttpResponse(200, {}, JWKS_BODY)), uri) == JWKS
    assert await fetch_jwks(OneAnswer(AnswerLost("reset")), uri) == Unavailable("reset")
    assert isinstance(await fetch_jwks(OneAnswer(HttpResponse(503, {}, b"")), uri), Unavailable)
    with pytest.raises(ProviderError, match="HTTP 404"):
        await fetch_jwks(OneAnswer(HttpResponse(404, {}, b"")), uri)
    with pytest.raises(ProviderError, match="plain http"):
        await fetch_jwks(OneAnswer(HttpResponse(200, {}, JWKS_BODY)), "http://p.example/keys")
