"""Proof of possession at the token endpoint and beyond, and online refresh tokens, which public clients need it for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from tests.sandbox.sandbox_client import NOON, PASSWORD_USER, REDIRECT_URI, VERIFIER
from tests.sandbox.transfer_kit import (
    BASE,
    CLIENT_ID,
    SPA_ID,
    WEB_ID,
    Browser,
    Desk,
    Reply,
    claims_of,
    desk,
    user_id,
    web,
)
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET
from token_relay.sandbox.provider.world.model import PASSWORD

TOKEN = f"{BASE}/oauth/token"
DESCRIPTION = "Authorization server requires nonce in DPoP proof"


def ath_of(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


class Holder:
    """A client with a key of its own."""

    def __init__(self, one: Desk) -> None:
        self.one, self.key, self.nonce, self._count = one, ECKey.generate_key("P-256"), "", 0

    @property
    def thumbprint(self) -> str:
        return str(self.key.thumbprint())

    def proof(
        self, url: str = TOKEN, method: str = "POST", *, header: dict[str, Any] | None = None, **more: Any
    ) -> str:
        self._count += 1
        claims = {"jti": f"{id(self)}-{self._count}", "htm": method, "htu": url, "iat": int(self.one.now)}
        if self.nonce:
            claims["nonce"] = self.nonce
        claims = {name: value for name, value in {**claims, **more}.items() if value is not None}
        public = self.key.as_dict(private=False)
        return jwt.encode({"typ": "dpop+jwt", "alg": "ES256", "jwk": public, **(header or {})}, claims, self.key)

    def token(self, *, proof: str | None = None, **fields: str) -> Reply:
        """Ask the token endpoint; a demanded nonce is taken, as every client does."""
        form = {"client_id": CLIENT_ID, **fields}
        while True:
            headers = {"dpop": proof or self.proof()}
            reply = self.one.send("POST", "/oauth/token", form=form, headers=headers)
            fresh = dict(reply.headers)["DPoP-Nonce"]
            if proof or reply.status == 200 or reply.json["error"] != "use_dpop_nonce" or fresh == self.nonce:
                return reply
            self.nonce = fresh

    def sign_in(self, scope: str = "openid profile offline_access", **more: str) -> dict[str, Any]:
        reply = self.token(grant_type="password", username=PASSWORD_USER, password=PASSWORD, scope=scope, **more)
        assert reply.status == 200, reply.text
        return dict(reply.json)

    def look(self, token: str, path: str = "/userinfo", *, kind: str = "DPoP", **more: Any) -> Reply:
        proof = self.proof(f"{BASE}{path}", "GET", **{"ath": ath_of(token), **more})
        return self.one.send("GET", path, headers={"authorization": f"{kind} {token}", "dpop": proof})


# -- proofs -------------------------------------------------------------------------------------------------------


def test_a_public_client_is_told_a_nonce_first_and_then_gets_tokens_bound_to_its_key() -> None:
    holder = Holder(desk())
    form = {"grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD, "scope": "openid offline_access"}
    refused = holder.token(proof=holder.proof(), **form)
    assert (refused.status, refused.json["error"]) == (400, "use_dpop_nonce")
    assert refused.json["error_description"] == DESCRIPTION
    holder.nonce = dict(refused.headers)["DPoP-Nonce"]
    reply = holder.token(**form, audience="https://api.example")
    assert (reply.status, reply.json["token_type"]) == (200, "DPoP")
    assert claims_of(reply.json["access_token"])["cnf"] == {"jkt": holder.thumbprint}
    assert "DPoP-Nonce" in dict(reply.headers)


def test_a_bound_refresh_token_works_with_its_key_only_and_a_refused_key_does_not_spend_it() -> None:
    holder = Holder(desk())
    token = holder.sign_in()["refresh_token"]
    assert holder.one.refresh(token).json["error"] == "invalid_grant"
    assert Holder(holder.one).token(grant_type="refresh_token", refresh_token=token).json["error"] == "invalid_grant"
    reply = holder.token(grant_type="refresh_token", refresh_token=token)
    assert (reply.status, reply.json["token_type"]) == (200, "DPoP")
    assert holder.one.logs("ferrt") == []


def test_a_bound_refresh_token_is_exchanged_for_a_transfer_token_with_its_key_only() -> None:
    holder = Holder(desk())
    token = holder.sign_in()["refresh_token"]
    fields = {"grant_type": "refresh_token", "refresh_token": token, "audience": "urn:127.0.0.1:session_transfer"}
    assert holder.one.exchange(token).status == 403
    reply = holder.token(**fields)
    assert (reply.status, reply.json["token_type"]) == (200, "N_A")
    assert Browser(holder.one).authorize(stt=reply.json["access_token"]).code


def test_an_unbound_refresh_token_with_a_proof_gives_a_bound_access_token_and_stays_unbound() -> None:
    one = desk()
    holder = Holder(one)
    reply = holder.token(grant_type="refresh_token", refresh_token=one.sign_in())
    assert reply.json["token_type"] == "DPoP"
    assert one.refresh(reply.json["refresh_token"]).json["token_type"] == "Bearer"


def test_a_confidential_clients_refresh_token_is_not_bound_and_needs_no_nonce() -> None:
    one = desk()
    holder, browser = Holder(one), Browser(one)
    fields = {"client_id": WEB_ID, "client_secret": WEB_SECRET}
    code = browser.form_sign_in().code
    redeemed = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT_URI}
    reply = holder.token(**fields, **redeemed, code_verifier=VERIFIER)
    assert (reply.status, reply.json["token_type"], holder.nonce) == (200, "DPoP", "")
    refresh = {"grant_type": "refresh_token", "refresh_token": reply.json["refresh_token"]}
    stale = holder.token(proof=holder.proof(nonce="stale"), **fields, **refresh)
    assert stale.json["error"] == "use_dpop_nonce"  # it needs none, but a wrong one is wrong
    assert browser.web_refresh(reply.json["refresh_token"]).json["token_type"] == "Bearer"


def spoiled(change: Callable[[Holder], str]) -> Reply:
    one = desk()
    holder = Holder(one)
    token = holder.sign_in()["refresh_token"]
    reply = holder.token(proof=change(holder), grant_type="refresh_token", refresh_token=token)
    if reply.status == 400:
        assert holder.token(grant_type="refresh_token", refresh_token=token).status == 200, "it was spent"
    return reply


@pytest.mark.parametrize(
    "change",
    [
        lambda one: "nonsense",
        lambda one: "é",
        lambda one: one.proof(htm="GET"),
        lambda one: one.proof(f"{BASE}/oauth/revoke"),
        lambda one: one.proof("https://elsewhere.example/oauth/token"),
        lambda one: one.proof(iat=int(NOON) - 301),
        lambda one: one.proof(iat=int(NOON) + 301),
        lambda one: one.proof(iat="now"),
        lambda one: one.proof(f"{BASE}/oauth/token/else"),
        lambda one: one.proof(iat=True),
        lambda one: one.proof(jti=None),
        lambda one: one.proof(jti=""),
        lambda one: one.proof(more="x" * 8_192),
        lambda one: by_rsa(one, 1_024),
        lambda one: one.proof(jti="x" * 257),
        lambda one: one.proof(header={"typ": "JWT"}),
        lambda one: one.proof(header={"jwk": one.key.as_dict(private=True)}),
        lambda one: one.proof(header={"jwk": ECKey.generate_key("P-256").as_dict(private=False)}),
        lambda one: one.proof(header={"jwk": {"kty": "EC"}}),
        lambda one: shared_key(one),
        lambda one: one.proof()[:-4] + "AAAA",
    ],
)
@pytest.mark.filterwarnings("ignore:Key size should be")  # the library's own word about a small key
def test_a_proof_that_is_not_right_is_refused_and_spends_nothing(change: Callable[[Holder], str]) -> None:
    reply = spoiled(change)
    assert (reply.status, reply.json["error"]) == (400, "invalid_dpop_proof")


def by_rsa(holder: Holder, bits: int, algorithm: str = "RS256") -> str:
    key = RSAKey.generate_key(bits)
    header = {"typ": "dpop+jwt", "alg": algorithm, "jwk": key.as_dict(private=False)}
    claims = {"jti": "a", "htm": "POST", "htu": TOKEN, "iat": int(NOON), "nonce": holder.nonce}
    return jwt.encode(header, claims, key, algorithms=[algorithm])


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_a_proof_by_an_rsa_key_of_the_usual_size_is_taken(algorithm: str) -> None:
    holder = Holder(desk())
    holder.sign_in()
    fields = {"grant_type": "refresh_token", "refresh_token": holder.one.sign_in()}
    assert holder.token(proof=by_rsa(holder, 2_048, algorithm), **fields).json["token_type"] == "DPoP"


def shared_key(holder: Holder) -> str:
    key = OctKey.import_key(b"k" * 32)
    header = {"typ": "dpop+jwt", "alg": "HS256", "jwk": key.as_dict(private=True)}
    claims = {"jti": "a", "htm": "POST", "htu": TOKEN, "iat": int(NOON), "nonce": holder.nonce}
    return jwt.encode(header, claims, key)


def test_a_proof_is_taken_once_and_its_address_may_have_a_query() -> None:
    one = desk()
    holder = Holder(one)
    token = holder.sign_in()["refresh_token"]
    proof = holder.proof(f"{TOKEN}?a=b#c")
    assert holder.token(proof=proof, grant_type="refresh_token", refresh_token=token).status == 200
    again = holder.token(proof=proof, grant_type="refresh_token", refresh_token=token)
    assert (again.status, again.json["error"]) == (400, "invalid_dpop_proof")


def test_a_nonce_lives_between_five_and_ten_minutes_and_the_provider_clock_that_was_set_does_not_matter() -> None:
    one = desk()
    holder = Holder(one)
    holder.sign_in()
    fields = {"grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD}
    one.now += 299
    assert holder.token(proof=holder.proof(), **fields).status == 200
    one.now += 601
    assert holder.token(proof=holder.proof(), **fields).json["error"] == "use_dpop_nonce"
    holder.sign_in()
    one.now = (one.now // 300 + 2) * 300
    assert holder.token(proof=holder.proof(), **fields).json["error"] == "use_dpop_nonce"
    one.provider.state.clock_offset_s = 36 * 3_600
    assert holder.sign_in()


def test_an_action_that_is_asked_sees_one_request_and_the_proof_counts_once() -> None:
    one = desk(action=lambda event: {"commands": []})
    holder = Holder(one)
    token = holder.sign_in()["refresh_token"]
    assert holder.token(grant_type="refresh_token", refresh_token=token).status == 200


@pytest.mark.parametrize("asked", [{}, {"audience": "https://api.example"}], ids=["opaque", "signed"])
def test_a_bound_access_token_is_good_with_a_proof_for_it_only(asked: dict[str, str]) -> None:
    one = desk()
    holder = Holder(one)
    token = holder.sign_in(**asked)["access_token"]
    for path in ("/userinfo", "/sandbox/resource"):
        assert holder.look(token, path).status == 200
        assert holder.look(token, path, kind="Bearer").status == 401
        assert Holder(one).look(token, path).status == 401
        assert holder.look(token, path, ath="other").status == 401
        assert holder.look(token, path, htm="POST").status == 401
        assert one.send("GET", path, headers={"authorization": f"DPoP {token}"}).status == 401
        proof = holder.proof(f"{BASE}{path}", "GET", ath=ath_of(token))
        sent = {"authorization": f"DPoP {token}", "dpop": proof}
        assert [one.send("GET", path, headers=sent).status for _ in range(2)] == [200, 401]
    unbound = one.refresh(one.sign_in()).json["access_token"]
    assert holder.look(unbound).status == 401
    assert 'DPoP error="invalid_token"' in dict(holder.look(unbound).headers)["WWW-Authenticate"]


def test_a_code_that_was_asked_for_with_a_key_is_redeemed_with_that_key_only_and_burnt_by_another() -> None:
    one = desk()
    holder, browser = Holder(one), Browser(one)
    browser.form_sign_in()
    fields = {"grant_type": "authorization_code", "client_id": SPA_ID, "redirect_uri": REDIRECT_URI}

    def redeem(who: Holder, code: str) -> Reply:
        return who.token(**fields, code=code, code_verifier=VERIFIER)

    code = browser.authorize(SPA_ID, dpop_jkt=holder.thumbprint).code
    assert redeem(holder, code).json["token_type"] == "DPoP"
    code = browser.authorize(SPA_ID, dpop_jkt=holder.thumbprint).code
    assert redeem(Holder(one), code).json["error"] == "invalid_grant"
    assert redeem(holder, code).json["error"] == "invalid_grant"
    assert browser.authorize(SPA_ID, dpop_jkt="short").location["error"] == "invalid_request"


def test_discovery_names_the_algorithms() -> None:
    found = desk().send("GET", "/.well-known/openid-configuration").json
    assert found["dpop_signing_alg_values_supported"] == ["ES256", "RS256", "PS256"]


# -- online refresh tokens ----------------------------------------------------------------------------------------

ONLINE = "openid online_access"


def online(client_id: str = WEB_ID, *, action: Any = None) -> tuple[Desk, Browser, str]:
    one = desk(action=action)
    browser = Browser(one)
    browser.form_sign_in()
    reply = browser.redeem(browser.authorize(client_id, scope=ONLINE).code, client_id)
    assert reply.status == 200, reply.text
    return one, browser, str(reply.json["refresh_token"])


def test_an_online_refresh_token_does_not_rotate_and_ends_with_its_session() -> None:
    _, browser, token = online()
    for _ in range(3):
        reply = browser.web_refresh(token)
        assert reply.status == 200
        assert "refresh_token" not in reply.json
    browser.send("GET", "/v2/logout")
    assert browser.web_refresh(token).status == 403


def test_an_online_refresh_token_ends_when_its_session_expires_and_no_sooner() -> None:
    one, browser, token = online()
    one.now += 3 * 86_400 - 1
    assert browser.web_refresh(token).status == 200
    one.now += 1
    assert browser.web_refresh(token).status == 403


def test_revoking_an_online_refresh_token_ends_its_session() -> None:
    one, browser, token = online()
    assert len(one.live_sessions()) == 1
    assert one.revoke(token, WEB_ID, client_secret=WEB_SECRET).status == 200
    assert one.live_sessions() == []
    assert browser.authorize(prompt="none").location["error"] == "login_required"


def test_an_action_that_revokes_an_online_refresh_token_ends_its_session() -> None:
    one, browser, token = online(action=on_refresh({"do": "revoke", "of": "refresh_token", "reason": "enough"}))
    assert browser.web_refresh(token).json == {"error": "access_denied", "error_description": "enough"}
    assert one.live_sessions() == []


def on_refresh(command: dict[str, str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda event: {"commands": [command] if "refresh_token" in event else []}


def test_the_management_api_does_not_see_online_refresh_tokens() -> None:
    one, _, token = online()
    name, owner = one.family_of(token), user_id(PASSWORD_USER)
    assert one.manage("GET", f"users/{owner}/refresh-tokens").json["tokens"] == []
    assert one.manage("GET", "device-credentials?type=refresh_token").json == []
    for method in ("GET", "DELETE"):
        assert one.manage(method, f"refresh-tokens/{name}").status == 404


def test_online_and_offline_access_together_are_refused_everywhere() -> None:
    one = desk()
    both = "openid online_access offline_access"
    text = "Cannot request both online_access and offline_access scopes"
    sent_back = Browser(one).authorize(scope=both).location
    assert (sent_back["error"], sent_back["error_description"]) == ("invalid_request", text)
    refused = one.token(grant_type="password", username=PASSWORD_USER, password=PASSWORD, scope=both)
    assert (refused.status, refused.json) == (400, {"error": "invalid_request", "error_description": text})
    assert one.send("POST", "/oauth/device/code", form={"client_id": CLIENT_ID, "scope": both}).status == 400


def test_a_password_gives_no_online_refresh_token() -> None:
    reply = desk().token(grant_type="password", username=PASSWORD_USER, password=PASSWORD, scope=ONLINE)
    assert reply.status == 200
    assert "refresh_token" not in reply.json


def test_a_public_client_proves_its_key_for_an_online_refresh_token_and_the_code_is_not_spent_without() -> None:
    one = desk()
    holder, browser = Holder(one), Browser(one)
    browser.form_sign_in()
    code = browser.authorize(SPA_ID, scope=ONLINE).code
    refused = browser.redeem(code, SPA_ID)
    assert (refused.status, refused.json["error"]) == (400, "invalid_request")
    fields = {"grant_type": "authorization_code", "client_id": SPA_ID, "redirect_uri": REDIRECT_URI}
    tokens = holder.token(**fields, code=code, code_verifier=VERIFIER).json
    more = {"grant_type": "refresh_token", "client_id": SPA_ID, "refresh_token": tokens["refresh_token"]}
    assert holder.token(**more).status == 200
    assert one.refresh(tokens["refresh_token"], client_id=SPA_ID).status == 403


def test_in_a_transferred_session_the_web_clients_setting_decides_over_online_access_too() -> None:
    one = desk()
    for allowed in (False, True):
        one.set(WEB_ID, session_transfer=web(allow_refresh_token=allowed, enforce_online_refresh_tokens=False))
        stt, _ = one.transfer(one.sign_in())
        browser = Browser(one)
        tokens = browser.redeem(browser.authorize(stt=stt, scope=ONLINE).code).json
        assert ("refresh_token" in tokens) is allowed
    browser.send("GET", "/v2/logout")
    assert browser.web_refresh(tokens["refresh_token"]).status == 403
