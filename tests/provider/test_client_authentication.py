"""A confidential client proves itself with its own secret or key, at its own provider and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from tests.provider.http_kit import raw_answer, read_request, serve
from token_relay.agents.ports import Now
from token_relay.host.client_credentials import AuthenticatedHttp, read_credentials
from token_relay.host.config import CompanionConfig, PhoneConfig
from token_relay.host.config_file import check_config
from token_relay.host.http import AioHttp
from token_relay.protocol.errors import ConfigError
from token_relay.protocol.secret import ClientKey, ClientSecret, Code, RefreshToken
from token_relay.provider import oauth, session_transfer
from token_relay.provider.client_authentication import ByKey, BySecret, authenticate, key_algorithm, key_problem
from token_relay.provider.http import ClientIdentity, HttpRequest, HttpResponse
from token_relay.provider.profile import AUTH0, STRICT

MARK = "marked-secret"
CLIENT = ClientIdentity("https://p.example", "relay", "https://p.example/token")
NOW_S = 1_800_000_000.5
KEYS: dict[str, Any] = {
    "RS256": RSAKey.generate_key(2048, private=True),
    "ES256": ECKey.generate_key("P-256", private=True),
    "ES384": ECKey.generate_key("P-384", private=True),
    "ES512": ECKey.generate_key("P-521", private=True),
    "EdDSA": OKPKey.generate_key("Ed25519", private=True),
}


def small_rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=1024)  # too small on purpose
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def request() -> HttpRequest:
    return HttpRequest("POST", "https://p.example/token", form=(("client_id", "relay"),), client=CLIENT)


def proven(credential: BySecret | ByKey, client: ClientIdentity = CLIENT) -> HttpRequest:
    return authenticate(request(), client, credential, now_wall_s=NOW_S, jti="j1")


def form_of(sent: HttpRequest) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value.reveal() for name, value in sent.form or ()}


# -- The proof ---------------------------------------------------------------------------------------------


def test_a_secret_in_the_header_is_the_example_of_rfc_6749() -> None:
    client = ClientIdentity("https://p.example", "s6BhdRkqt3", "https://p.example/token")
    sent = proven(BySecret(ClientSecret("gX1fBat3bV"), is_basic=True), client)
    assert sent.authorization is not None
    assert sent.authorization.reveal() == "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"  # §2.3.1
    assert "client_secret" not in form_of(sent)
    assert "czZC" not in repr(sent)


def test_a_secret_in_the_header_is_encoded_as_a_form_is() -> None:
    client = ClientIdentity("https://p.example", "a:b c", "https://p.example/token")
    sent = proven(BySecret(ClientSecret("p%/é"), is_basic=True), client)
    assert sent.authorization is not None
    # printf 'a%%3Ab+c:p%%25%%2F%%C3%%A9' | base64
    assert sent.authorization.reveal() == "Basic YSUzQWIrYzpwJTI1JTJGJUMzJUE5"


def test_a_secret_in_the_form() -> None:
    sent = proven(BySecret(ClientSecret(MARK), is_basic=False))
    assert form_of(sent) == {"client_id": "relay", "client_secret": MARK}
    assert sent.authorization is None
    assert MARK not in repr(sent)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by this test's reading of it
@pytest.mark.parametrize("form", ["jwk", "pem"])
@pytest.mark.parametrize("algorithm", KEYS)
def test_an_assertion_is_signed_for_this_provider_and_one_minute(algorithm: str, form: str) -> None:
    key = KEYS[algorithm]
    text = (
        json.dumps({**key.as_dict(private=True), "kid": "k1"}) if form == "jwk" else key.as_pem(private=True).decode()
    )
    assert key_problem(ClientKey(text)) == ""
    assert key_algorithm(ClientKey(text)) == algorithm
    sent = form_of(proven(ByKey(ClientKey(text))))
    assert sent["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    token = jwt.decode(sent["client_assertion"], key, algorithms=[algorithm])
    kid = {"kid": "k1"} if form == "jwk" else {}
    assert token.header == {"alg": algorithm, "typ": "JWT", **kid}
    assert token.claims == {
        "iss": "relay",
        "sub": "relay",
        "aud": ["https://p.example", "https://p.example/token"],
        "iat": 1_800_000_000,
        "exp": 1_800_000_060,
        "jti": "j1",
    }


def test_a_jwk_may_name_its_algorithm() -> None:
    text = json.dumps({**KEYS["RS256"].as_dict(private=True), "alg": "PS256"})
    sent = form_of(proven(ByKey(ClientKey(text))))
    assert jwt.decode(sent["client_assertion"], KEYS["RS256"], algorithms=["PS256"]).header["alg"] == "PS256"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MARK, "neither a JWK nor PEM"),
        ('{"kty": "RSA", "n": "marked-secret"}', "neither a JWK nor PEM"),
        ('{"kty": "RSA"', "neither a JWK nor PEM"),
        ("[" * 10_000, "neither a JWK nor PEM"),
        ('{"a":' * 3_000, "neither a JWK nor PEM"),
        (json.dumps(OctKey.generate_key(256).as_dict(private=True)), "not a key for RSA"),
        (json.dumps(KEYS["ES256"].as_dict(private=False)), "is a public key"),
        (KEYS["RS256"].as_pem(private=False).decode(), "is a public key"),
        (small_rsa_key(), "less than 2048 bits"),
        (json.dumps(ECKey.generate_key("secp256k1", private=True).as_dict(private=True)), "not a key for RSA"),
        (json.dumps(OKPKey.generate_key("X25519", private=True).as_dict(private=True)), "not a key for RSA"),
        (json.dumps({**KEYS["ES256"].as_dict(private=True), "alg": "RS256"}), "not for this kind of key"),
        (json.dumps({**KEYS["ES256"].as_dict(private=True), "kid": 7}), "neither a JWK nor PEM"),
    ],
    ids=map(str, range(13)),
)
@pytest.mark.filterwarnings("ignore:Key size should be")
def test_a_key_that_cannot_sign_is_refused_without_a_word_of_it(text: str, words: str) -> None:
    problem = key_problem(ClientKey(text))
    assert words in problem
    assert MARK not in problem


# -- Whose it is -------------------------------------------------------------------------------------------


class Recorder:
    """The port below; it keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[HttpRequest] = []

    async def request(self, request: HttpRequest) -> HttpResponse:
        self.sent.append(request)
        return HttpResponse(200, {}, b"{}")


class Clock:
    def now(self) -> Now:
        return Now("boot", 1.0, NOW_S, is_synced=True)


class Random:
    def __init__(self) -> None:
        self.drawn = 0

    def bytes(self, count: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(count, "big")

    def uniform(self, low: float, high: float) -> float:
        return low


COMPANION = """
name = "kitchen"
[broker]
url = "mqtt://127.0.0.1:1884"
[[client]]
issuer = "https://p.example"
client_id = "relay"
token_endpoint = "https://tokens.example/token"
token_endpoint_auth_method = "client_secret_post"
client_secret_file = "secret"
[[client]]
issuer = "https://q.example/"
client_id = "relay"
token_endpoint_auth_method = "private_key_jwt"
client_key_file = "key"
"""
PHONE = """
name = "phone"
[broker]
url = "mqtt://127.0.0.1:1884"
[provider]
url = "{url}"
client_id = "relay"
token_endpoint_auth_method = "client_secret_basic"
client_secret_file = "secret"
"""


def write(directory: Path, name: str, text: str, mode: int = 0o600) -> None:
    (directory / name).write_text(text)
    (directory / name).chmod(mode)


def companion(directory: Path) -> CompanionConfig:
    write(directory, "secret", f"{MARK}\n")
    write(directory, "key", json.dumps(KEYS["ES256"].as_dict(private=True)))
    config = check_config(CompanionConfig, COMPANION, directory)
    assert isinstance(config, CompanionConfig), config
    return config


def authenticated(config: CompanionConfig | PhoneConfig) -> tuple[AuthenticatedHttp, Recorder]:
    below = Recorder()
    clock: Any = Clock()
    return AuthenticatedHttp(below, lambda: read_credentials(config), clock=clock, random=Random()), below


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("issuer", "client_id", "endpoint", "adds"),
    [
        ("https://p.example", "relay", "https://p.example/token", {"client_secret"}),
        ("https://q.example/", "relay", "https://q.example/token", {"client_assertion", "client_assertion_type"}),
        ("https://q.example", "relay", "https://q.example/token", set()),  # to the letter
        ("https://p.example", "other", "https://p.example/token", set()),
        ("https://evil.example", "relay", "https://evil.example/token", set()),
        ("", "relay", "https://p.example/token", set()),
        # a phone chooses the endpoints of its grant: the secret goes to the issuer's own host, or where configured
        ("https://p.example", "relay", "http://127.0.0.1:8499/steal", set()),
        ("https://p.example", "relay", "https://p.example:8499/token", set()),
        ("https://p.example", "relay", "https://tokens.example/token", {"client_secret"}),
    ],
)
async def test_a_credential_goes_to_its_own_issuer_and_client_alone(
    tmp_path: Path, issuer: str, client_id: str, endpoint: str, adds: set[str]
) -> None:
    http, below = authenticated(companion(tmp_path))
    refresh: dict[str, Any] = {"client_id": client_id, "refresh_token": RefreshToken("rt"), "issuer": issuer}
    await oauth.refresh(http, STRICT, token_endpoint=endpoint, **refresh)
    (sent,) = below.sent
    assert set(form_of(sent)) - {"grant_type", "refresh_token", "client_id"} == adds


@pytest.mark.asyncio
async def test_each_request_of_a_grant_is_authenticated_and_each_assertion_is_new(tmp_path: Path) -> None:
    http, below = authenticated(companion(tmp_path))
    at: dict[str, Any] = {"client_id": "relay", "issuer": "https://q.example/"}
    token: dict[str, Any] = {**at, "token_endpoint": "https://q.example/token"}
    await oauth.refresh(http, STRICT, refresh_token=RefreshToken("rt"), **token)
    code: dict[str, Any] = {
        "code": Code("c"),
        "code_verifier": Code("v"),
        "redirect_uri": "http://127.0.0.1:1/callback",
    }
    await oauth.exchange_code(http, STRICT, **code, **token)
    await session_transfer.exchange(http, AUTH0, refresh_token=RefreshToken("rt"), audience="a", **token)
    await oauth.revoke(http, revocation_endpoint="https://q.example/revoke", token=RefreshToken("rt"), **token)
    await http.request(HttpRequest("GET", "https://q.example/jwks"))
    *proofs, plain = [form_of(sent).get("client_assertion", "") for sent in below.sent]
    assert plain == ""
    claims = [jwt.decode(proof, KEYS["ES256"], algorithms=["ES256"]).claims for proof in proofs]
    assert len({claim["jti"] for claim in claims}) == 4
    assert {tuple(claim["aud"]) for claim in claims} == {("https://q.example/", "https://q.example/token")}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("url", "issuer", "token_endpoint", "is_proven"),
    [
        ("https://p.example", "https://p.example", "https://p.example/token", True),
        ("https://p.example", "https://former.example", "https://former.example/token", False),
        # Entra's issuer has a host made of the tenant's GUID; the token endpoint is known beforehand
        (
            "https://contoso.ciamlogin.com",
            "https://00001111-aaaa.ciamlogin.com/00001111-aaaa/v2.0",
            "https://contoso.ciamlogin.com/contoso.onmicrosoft.com/oauth2/v2.0/token",
            True,
        ),
        (
            "https://contoso.ciamlogin.com",
            "https://00001111-aaaa.ciamlogin.com/00001111-aaaa/v2.0",
            "https://fabrikam.ciamlogin.com/fabrikam.onmicrosoft.com/oauth2/v2.0/token",
            False,
        ),
    ],
)
async def test_the_phone_proves_itself_at_the_provider_of_its_settings(
    tmp_path: Path, url: str, issuer: str, token_endpoint: str, is_proven: bool
) -> None:
    write(tmp_path, "secret", MARK)
    config = check_config(PhoneConfig, PHONE.format(url=url), tmp_path)
    assert isinstance(config, PhoneConfig), config
    http, below = authenticated(config)
    where: dict[str, Any] = {"token_endpoint": token_endpoint, "client_id": "relay", "issuer": issuer}
    await oauth.refresh(http, STRICT, refresh_token=RefreshToken("rt"), **where)
    assert (below.sent[0].authorization is not None) == is_proven


@pytest.mark.asyncio
async def test_a_reload_takes_a_new_secret_and_a_broken_file_leaves_the_former(tmp_path: Path) -> None:
    http, below = authenticated(companion(tmp_path))

    async def secret() -> str:
        await http.request(request())
        return form_of(below.sent[-1])["client_secret"]

    write(tmp_path, "secret", "second\r\nnote")
    assert await secret() == MARK  # read once
    http.reload()
    assert await secret() == "second"
    write(tmp_path, "secret", "")
    with pytest.raises(ConfigError, match="client secret"):
        http.reload()
    assert await secret() == "second"


@pytest.mark.parametrize(
    ("name", "text", "mode", "words"),
    [
        ("secret", MARK, 0o644, "read or written by other users"),
        ("secret", "\n", 0o600, "empty"),
        ("key", MARK, 0o600, "neither a JWK nor PEM"),
        ("key", "{}", 0o604, "read or written by other users"),
        ("key", " \n", 0o600, "is empty"),
        ("key", "x" * 20_000, 0o600, "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_agent_with_its_name(
    tmp_path: Path, name: str, text: str, mode: int, words: str
) -> None:
    config = companion(tmp_path)
    write(tmp_path, name, text, mode)
    with pytest.raises(ConfigError, match=words) as caught:
        read_credentials(config)
    assert str(tmp_path / name) in str(caught.value)
    assert MARK not in str(caught.value) + caught.value.hint


@pytest.mark.asyncio
async def test_the_proof_stands_in_the_request_on_the_wire() -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: Any, writer: Any) -> None:
        seen.append(await read_request(reader))
        writer.write(raw_answer(b"{}"))
        await writer.drain()

    http = AioHttp()
    async with serve(handler) as port:
        url = f"http://127.0.0.1:{port}/token"
        for is_basic in (True, False):
            plain = HttpRequest("POST", url, form=(("client_id", "relay"),), client=CLIENT)
            credential = BySecret(ClientSecret("s e"), is_basic=is_basic)
            await http.request(authenticate(plain, CLIENT, credential, now_wall_s=NOW_S, jti="j"))
    await http.close()
    (basic, first), (post, second) = seen
    assert b"\r\nauthorization: Basic cmVsYXk6cytl\r\n" in basic.replace(b"Authorization", b"authorization")
    assert first == b"client_id=relay"
    assert b"authorization" not in post.lower()
    assert unquote_plus(second.decode()) == "client_id=relay&client_secret=s e"
