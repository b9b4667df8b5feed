"""The log: each type that is documented comes of what it is documented for, with its fields."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.sandbox.sandbox_client import NOON, PASSWORD_USER
from tests.sandbox.test_transfer_table import delegated
from tests.sandbox.transfer_kit import AUDIENCE, CLIENT_ID, OTHER_USER, WEB_ID, Browser, Desk, claims_of, desk, web
from token_relay.sandbox.provider.memory.tenant_logs import DESCRIPTIONS, LogType
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET

DOCUMENTED = {
    *("sertft", "fertft", "ferrt", "srrt", "w", "s", "f", "ssa", "fsa"),
    *("sdel", "sdeleacft", "fdeleacft", "sdelsa", "fdelsa", "sede", "fede", "resource_cleanup"),
}


def test_every_documented_type_is_known_and_described() -> None:
    assert set(get_args(LogType)) >= DOCUMENTED
    assert set(DESCRIPTIONS) == set(get_args(LogType))


def test_a_refresh_names_the_access_token_that_came_of_it_and_an_exchange_names_none() -> None:
    one = desk()
    reply = one.refresh(one.sign_in(audience="https://api.example"))
    one.exchange(reply.json["refresh_token"])
    plain, transfer = one.logs("sertft")
    jti = claims_of(reply.json["access_token"])["jti"]
    assert jti == f"SANDBOXMARK-{plain['details']['access_token_jti']}"
    assert set(plain["details"]) == {
        "familyId",
        "tokenCounter",
        "requested_audience",
        "policy_used",
        "access_token_jti",
    }
    assert "access_token_jti" not in transfer["details"]
    assert (transfer["audience"], transfer["details"]["requested_audience"]) == (AUDIENCE, AUDIENCE)


def test_a_failed_exchange_is_told_from_a_failed_refresh_by_its_audience() -> None:
    one = desk()
    token = one.sign_in()
    one.revoke(token)
    for call in (one.exchange, one.refresh):
        assert call(token).status == 403
        assert call("never-issued").status == 403
    audiences = [record.get("audience", "") for record in one.logs("fertft")]
    assert audiences == [AUDIENCE, AUDIENCE, "", ""]
    assert {record["description"] for record in one.logs("fertft")} == {"Unknown or invalid refresh token."}


def transferred(*, allowed: bool = True) -> tuple[Desk, Browser]:
    one = desk()
    stt = delegated(one, delegation={"allow_delegated_access": True})
    browser = Browser(one)
    if allowed:
        assert browser.authorize(stt=stt).code
    return one, browser


def test_a_delegated_login_its_code_and_its_silent_login_are_logged_as_such() -> None:
    one, browser = transferred()
    browser.redeem(browser.authorize(prompt="none").code)
    assert [record["type"] for record in one.logs("sdel", "sdelsa", "sdeleacft", "fdelsa", "fdeleacft")] == [
        "sdel",
        "sdelsa",
        "sdeleacft",
    ]


def test_a_delegated_code_that_fails_and_a_delegated_silent_login_that_fails_are_logged_as_such() -> None:
    one, browser = transferred()
    code = browser.authorize(prompt="none").code
    for _ in range(2):
        browser.redeem(code)
    assert [record["description"] for record in one.logs("fdeleacft")] == ["Invalid authorization code."]
    assert one.logs("feacft") == []
    one.set(WEB_ID, session_transfer=web())  # delegated access is not allowed any more
    assert browser.authorize(prompt="none").location["error"] == "interaction_required"
    assert len(one.logs("fdelsa")) == 1
    assert one.logs("fsa") == []


def test_an_ordinary_code_that_fails_and_an_ordinary_silent_login_that_fails_keep_their_types() -> None:
    one = desk()
    browser = Browser(one)
    browser.redeem("never-issued")
    browser.authorize(prompt="none")
    assert [record["type"] for record in one.logs("feacft", "fsa", "fdelsa", "fdeleacft")] == ["feacft", "fsa"]


# -- the device code ------------------------------------------------------------------------------------------------


def begin(one: Desk, client_id: str = CLIENT_ID, **more: str) -> dict[str, str]:
    fields = {"client_id": client_id, "scope": "openid offline_access", **more}
    reply = one.send("POST", "/oauth/device/code", form=fields)
    assert reply.status == 200, reply.text
    assert (reply.json["expires_in"], reply.json["interval"]) == (900, 5)
    return dict(reply.json)


def poll(one: Desk, device_code: str, **more: str) -> tuple[int, dict[str, str]]:
    kind = "urn:ietf:params:oauth:grant-type:device_code"
    one.now += 5
    reply = one.token(grant_type=kind, device_code=device_code, **more)
    return reply.status, reply.json


def approve(browser: Browser, address: str, username: str = PASSWORD_USER, action: str = "accept") -> str:
    page = browser.send("GET", address.removeprefix("http://127.0.0.1:8400"))
    if 'name="username"' in page.text:
        page = browser.submit(page, username)
    assert 'name="action"' in page.text, page.text
    ticket = page.text.split('name="ticket" value="')[1].split('"')[0]
    return browser.send("POST", "/login", form={"ticket": ticket, "action": action}).text


def test_a_device_without_a_keyboard_is_signed_in_by_a_code_and_that_is_logged() -> None:
    one = desk()
    told = begin(one)
    assert poll(one, told["device_code"])[1]["error"] == "authorization_pending"
    assert "signed in on your device" in approve(Browser(one), told["verification_uri_complete"])
    status, tokens = poll(one, told["device_code"])
    assert status == 200
    (record,) = one.logs("sede")
    assert (record["client_id"], record["user_name"]) == (CLIENT_ID, PASSWORD_USER)
    assert record["details"]["familyId"] == one.family_of(tokens["refresh_token"])
    assert one.exchange(tokens["refresh_token"]).status == 200  # any flow that gives a refresh token will do
    assert poll(one, told["device_code"])[1]["error"] == "invalid_grant"


def test_a_device_that_is_declined_expired_unknown_or_anothers_gets_nothing_and_that_is_logged() -> None:
    one = desk()
    told = begin(one)
    assert "was not signed in" in approve(Browser(one), told["verification_uri_complete"], action="deny")
    assert poll(one, told["device_code"])[1]["error"] == "access_denied"
    late = begin(one)
    one.now += 900
    assert "too old" in Browser(one).send("GET", f"/activate?user_code={late['user_code']}").text
    assert poll(one, late["device_code"])[1]["error"] == "expired_token"
    assert poll(one, "never-issued")[1]["error"] == "invalid_grant"
    one.set(WEB_ID, grant_types=["urn:ietf:params:oauth:grant-type:device_code"])
    others = begin(one, WEB_ID, client_secret=WEB_SECRET)
    assert poll(one, others["device_code"])[1]["error"] == "invalid_grant"
    assert [record["description"] for record in one.logs("fede")] == [
        "The person has said no.",
        "The device code has expired.",
        "The device code is not valid.",
    ]


def test_a_device_that_polls_too_fast_is_told_to_slow_down_for_good() -> None:
    one = desk()
    told = begin(one)
    errors = []
    for wait in (0, 1, 9, 10):
        one.now += wait - 5
        status, answer = poll(one, told["device_code"])
        errors.append((status, answer["error"]))
    assert errors == [(403, "authorization_pending"), *[(429, "slow_down")] * 3]
    assert one.now < NOON + 60


def test_a_user_code_works_once_in_any_writing_and_only_the_person_who_was_asked_answers() -> None:
    one = desk()
    told = begin(one)
    browser = Browser(one)
    typed = told["user_code"].replace("-", "").lower()
    page = browser.submit(browser.send("GET", f"/activate?user_code={typed}"))
    ticket = page.text.split('name="ticket" value="')[1].split('"')[0]
    stranger = Browser(one)
    stranger.form_sign_in(OTHER_USER)
    assert stranger.send("POST", "/login", form={"ticket": ticket, "action": "accept"}).status == 400
    assert browser.send("POST", "/login", form={"ticket": ticket, "action": "accept"}).status == 200
    assert Browser(one).send("GET", f"/activate?user_code={typed}").status == 400


def test_what_a_transferred_session_has_approved_is_worth_nothing_once_that_session_has_ended() -> None:
    one = desk()
    stt, refresh_token = one.transfer(one.sign_in())
    browser = Browser(one)
    browser.authorize(stt=stt)
    told = begin(one)
    approve(browser, told["verification_uri_complete"])
    one.revoke(refresh_token)
    assert poll(one, told["device_code"])[1]["error"] == "access_denied"
    ordinary = Browser(one)
    told = begin(one)
    approve(ordinary, told["verification_uri_complete"])
    ordinary.send("GET", "/v2/logout")
    assert poll(one, told["device_code"])[0] == 200


def test_a_delegated_session_signs_no_device_in() -> None:
    one, browser = transferred()
    one.set(CLIENT_ID, session_transfer={"delegation": {"allow_delegated_access": True}})
    told = begin(one)
    page = browser.send("GET", f"/activate?user_code={told['user_code']}")
    assert page.status == 400
    assert poll(one, told["device_code"])[1]["error"] == "authorization_pending"


@pytest.mark.parametrize("allowed", [True, False])
def test_a_device_that_a_transferred_session_has_approved_hangs_on_its_parent(allowed: bool) -> None:
    one = desk()
    one.set(CLIENT_ID, session_transfer={"can_create_session_transfer_token": True, "allow_refresh_token": allowed})
    stt, refresh_token = one.transfer(one.sign_in())
    browser = Browser(one)
    browser.authorize(stt=stt)
    told = begin(one)
    approve(browser, told["verification_uri_complete"])
    tokens = poll(one, told["device_code"])[1]
    assert ("refresh_token" in tokens) is allowed
    if allowed:
        one.revoke(refresh_token)
        assert one.refresh(tokens["refresh_token"]).status == 403
