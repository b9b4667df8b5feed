"""What a session transfer token does not stand for: a second factor and consent. And how the answer travels."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.sandbox_client import OTP_USER, PASSWORD_USER, REDIRECT_URI
from tests.sandbox.test_transfer_table import delegated
from tests.sandbox.transfer_kit import (
    ABROAD,
    AUDIENCE,
    BASE,
    CLIENT_ID,
    HOME,
    OTHER_USER,
    SPA_ID,
    WEB_ID,
    Browser,
    Desk,
    Reply,
    claims_of,
    desk,
    web,
)
from token_relay.sandbox.actions.worker import run
from token_relay.sandbox.provider.memory.accounts import User
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET
from token_relay.sandbox.provider.world.model import PASSWORD

MFA_USER = "mfa@contoso.example"


def code_of(one: Desk, address: str = MFA_USER) -> str:
    return one.provider.state.mailboxes[address].code.reveal()


def person(one: Desk, username: str = PASSWORD_USER) -> User:
    return one.provider.state.users[username]


def needs_two(one: Desk, username: str = PASSWORD_USER) -> None:
    person(one, username).mfa = "required"


# -- the second factor ----------------------------------------------------------------------------------------------


def test_a_token_stands_for_the_first_factor_only() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    needs_two(one)
    browser = Browser(one)
    page = browser.authorize(stt=stt)
    assert page.is_login_page
    assert "A code was sent to you" in page.text
    assert one.live_sessions() == []
    assert not browser.submit(page, password=PASSWORD).code
    assert browser.submit(page, password=code_of(one, PASSWORD_USER)).code
    (login,) = one.logs("s")
    assert login["details"]["triggered_by_session_transfer_token"] is True
    assert one.warnings() == []
    assert browser.authorize(SPA_ID, prompt="none").code  # the session remembers it


def test_a_session_behind_the_second_factor_hangs_on_the_native_grant() -> None:
    one = desk()
    stt, refresh_token = one.transfer(one.sign_in())
    needs_two(one)
    browser = Browser(one)
    browser.submit(browser.authorize(stt=stt), password=code_of(one, PASSWORD_USER))
    assert len(one.live_sessions()) == 1
    one.revoke(refresh_token)
    assert one.live_sessions() == []


def test_a_native_grant_that_is_revoked_before_the_second_factor_opens_nothing() -> None:
    one = desk()
    stt, refresh_token = one.transfer(one.sign_in())
    needs_two(one)
    browser = Browser(one)
    page = browser.authorize(stt=stt)
    one.revoke(refresh_token)
    assert browser.submit(page, password=code_of(one, PASSWORD_USER)).status == 400
    assert one.live_sessions() == []
    assert one.warnings() == ["parent refresh token not found"]


def test_the_token_is_used_up_when_the_second_factor_is_asked_for() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    needs_two(one)
    Browser(one).authorize(stt=stt)
    page = Browser(one).authorize(stt=stt)
    assert "A code was sent" not in page.text
    assert one.warnings() == ["session transfer token not found or expired"]


def test_whoever_has_the_token_needs_the_code_of_its_person_and_not_of_another() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    needs_two(one)
    needs_two(one, OTHER_USER)
    browser = Browser(one)
    page = browser.authorize(stt=stt)
    assert not browser.submit(page, OTHER_USER, code_of(one, PASSWORD_USER)).code
    assert not browser.submit(page, OTHER_USER, PASSWORD).code
    assert one.live_sessions(OTHER_USER) == []


def test_who_signs_in_instead_at_that_page_gets_a_session_of_his_own() -> None:
    one = desk()
    stt, refresh_token = one.transfer(one.sign_in())
    needs_two(one)
    browser = Browser(one)
    page = browser.authorize(stt=stt)
    page = browser.submit(page, OTP_USER, "")
    assert browser.submit(page, OTP_USER, code_of(one, OTP_USER)).code
    one.revoke(refresh_token)
    assert len(one.live_sessions(OTP_USER)) == 1
    assert one.logs("s")[-1]["details"]["triggered_by_session_transfer_token"] is False


def test_where_no_page_may_be_shown_a_second_factor_is_login_required_and_the_text_says_why() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    needs_two(one)
    answer = Browser(one).authorize(stt=stt, prompt="none").location
    assert (answer["error"], answer["error_description"]) == ("login_required", "Multifactor authentication required")
    assert one.logs("fsa")[0]["details"]["triggered_by_session_transfer_token"] is True


def test_a_delegated_login_is_interaction_required_in_place_of_any_page() -> None:
    one = desk()
    stt = delegated(one, delegation={"allow_delegated_access": True})
    needs_two(one)
    assert Browser(one).authorize(stt=stt).location["error"] == "interaction_required"
    one = desk()
    stt = delegated(one, delegation={"allow_delegated_access": True})
    one.set(WEB_ID, is_first_party=False)
    assert Browser(one).authorize(stt=stt).location["error"] == "interaction_required"


def test_the_form_asks_for_the_second_factor_too_and_a_session_without_it_is_asked_once_more() -> None:
    one = desk()
    browser = Browser(one)
    page = browser.submit(browser.authorize(prompt="login"), MFA_USER)
    assert "A code was sent" in page.text
    assert browser.submit(page, MFA_USER, code_of(one)).code
    other = Browser(one)
    other.form_sign_in()
    needs_two(one)
    assert "A code was sent" in other.authorize().text
    assert other.authorize(prompt="none").location["error_description"] == "Multifactor authentication required"


def test_a_password_alone_is_mfa_required_at_the_token_endpoint() -> None:
    one = desk()
    reply = one.token(grant_type="password", username=MFA_USER, password=PASSWORD, scope="openid")
    assert (reply.status, reply.json["error"]) == (403, "mfa_required")
    assert reply.json["mfa_token"]
    assert one.logs("fepft")[0]["user_name"] == MFA_USER


def test_an_action_is_asked_after_the_second_factor() -> None:
    one = desk(action=lambda event: {"commands": []})
    stt, _ = one.transfer(one.sign_in())
    needs_two(one)
    one.asked.clear()
    browser = Browser(one)
    page = browser.authorize(stt=stt)
    assert one.asked == []
    assert browser.submit(page, password=code_of(one, PASSWORD_USER)).code
    (question,) = one.asked
    assert question.event["session_transfer_token"]


# -- consent --------------------------------------------------------------------------------------------------------


def answer(browser: Browser, page: Reply, action: str) -> Reply:
    ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
    assert ticket is not None, page.text
    return browser.send("POST", "/login", form={"ticket": unescape(ticket[1]), "action": action})


def test_a_token_does_not_stand_for_consent_which_is_asked_once() -> None:
    one = desk()
    one.set(WEB_ID, is_first_party=False)
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one)
    page = browser.authorize(stt=stt)
    assert not page.code
    assert "Web application asks for:" in page.text
    assert "offline_access" in page.text
    granted = answer(browser, page, "accept")
    assert browser.redeem(granted.code).status == 200
    assert browser.authorize(prompt="none").code
    assert "asks for:" in browser.authorize(scope="openid more").text


def test_consent_is_for_one_api_and_one_client() -> None:
    one = desk()
    for client_id in (WEB_ID, SPA_ID):
        one.set(client_id, is_first_party=False)
    browser = Browser(one)
    page = browser.submit(browser.authorize(audience="https://a.example"))
    ticket = re.search(r'name="ticket" value="([^"]+)"', page.text)
    assert ticket is not None
    assert browser.send("POST", "/login", form={"ticket": unescape(ticket[1]), "action": "accept"}).code
    assert browser.authorize(audience="https://a.example").code
    for client_id, asked in ((WEB_ID, {"audience": "https://b.example"}), (SPA_ID, {"audience": "https://a.example"})):
        assert "asks for" in browser.authorize(client_id, **asked).text
    assert (
        "asks for" in browser.authorize(audience="https://a.example", scope="openid profile offline_access more").text
    )


def test_who_declines_sends_the_application_away_and_stays_signed_in() -> None:
    one = desk()
    one.set(WEB_ID, is_first_party=False)
    browser = Browser(one)
    page = browser.submit(browser.authorize())
    declined = answer(browser, page, "deny")
    assert declined.location["error"] == "access_denied"
    assert one.logs("f")[-1]["description"] == "User did not authorize the request"
    assert answer(browser, page, "accept").status == 400
    assert len(one.live_sessions()) == 1


def test_where_no_page_may_be_shown_consent_is_consent_required() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    one.set(WEB_ID, is_first_party=False)
    assert browser.authorize(prompt="none").location["error"] == "consent_required"
    assert browser.authorize(SPA_ID, prompt="none").code


def test_prompt_consent_asks_for_a_client_of_our_own_too() -> None:
    browser = Browser(desk())
    browser.form_sign_in()
    assert "asks for:" in browser.authorize(prompt="consent").text


def test_consent_counts_from_the_browser_of_the_person_who_was_asked() -> None:
    one = desk()
    one.set(WEB_ID, is_first_party=False)
    browser, stranger = Browser(one), Browser(one)
    page = browser.submit(browser.authorize())
    stranger.form_sign_in(OTHER_USER, SPA_ID)
    for other in (stranger, Browser(one)):
        assert answer(other, page, "accept").status == 400
    assert answer(browser, page, "accept").code


# -- how the answer travels -------------------------------------------------------------------------------------------


def test_form_post_brings_code_and_errors_in_a_form_and_no_address() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one)
    reply = browser.authorize(stt=stt, response_mode="form_post")
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', reply.text))
    assert reply.status == 200
    assert f'action="{REDIRECT_URI}"' in reply.text
    assert (fields["state"], unescape(fields["iss"])) == ("s", f"{BASE}/")
    assert "Location" not in dict(reply.headers)
    assert browser.redeem(fields["code"]).status == 200
    refused = Browser(one).authorize(prompt="none", response_mode="form_post")
    assert 'value="login_required"' in refused.text
    assert 'value="invalid_scope"' in Browser(one).authorize(scope='"', response_mode="form_post").text
    assert Browser(one).authorize(response_mode="smoke").location["error"] == "invalid_request"


# -- for whom a server asks -------------------------------------------------------------------------------------------


def exchanged_at(one: Desk, headers: dict[str, str]) -> str:
    """Exchange a web client's refresh token from a server at home; return where that counts as done."""
    browser = Browser(one, HOME)
    token = browser.redeem(browser.form_sign_in().code).json["refresh_token"]
    fields = {"grant_type": "refresh_token", "client_id": WEB_ID, "client_secret": WEB_SECRET, "audience": AUDIENCE}
    reply = one.send("POST", "/oauth/token", form={**fields, "refresh_token": token}, headers=headers)
    assert reply.status == 200, reply.text
    return [str(record["ip"]) for record in one.logs("sertft")][-1]


@pytest.mark.parametrize(
    ("told", "counts"), [(ABROAD, ABROAD), (f" {ABROAD}, 10.0.0.1", ABROAD), ("nonsense", HOME), ("", HOME)]
)
def test_a_trusted_server_says_for_whose_address_it_asks(told: str, counts: str) -> None:
    one = desk()
    setting = web(can_create_session_transfer_token=True)
    one.set(WEB_ID, session_transfer=setting, is_token_endpoint_ip_header_trusted=True)
    assert exchanged_at(one, {"auth0-forwarded-for": told}) == counts


def test_the_address_that_a_trusted_server_told_is_the_one_that_the_token_is_bound_to() -> None:
    one = desk()
    setting = web(can_create_session_transfer_token=True, delegation={"allow_delegated_access": True})
    one.set(WEB_ID, session_transfer=setting, is_token_endpoint_ip_header_trusted=True)
    ids = []
    for username in (PASSWORD_USER, OTHER_USER):
        browser = Browser(one)
        ids.append(browser.redeem(browser.form_sign_in(username).code).json["id_token"])
    kind = "urn:ietf:params:oauth:token-type:id_token"
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        **{"client_id": WEB_ID, "client_secret": WEB_SECRET, "audience": AUDIENCE},
        **{"subject_token": ids[0], "subject_token_type": kind, "actor_token": ids[1], "actor_token_type": kind},
    }
    for place, works in ((ABROAD, True), (HOME, False)):
        reply = one.send("POST", "/oauth/token", form=form, headers={"auth0-forwarded-for": ABROAD})
        assert bool(Browser(one, place).authorize(stt=reply.json["access_token"]).code) is works


def test_a_server_that_is_not_trusted_is_where_it_is_and_a_public_client_cannot_be_trusted() -> None:
    one = desk()
    one.set(WEB_ID, session_transfer=web(can_create_session_transfer_token=True))
    assert exchanged_at(one, {"auth0-forwarded-for": ABROAD}) == HOME
    reply = one.manage("PATCH", f"clients/{CLIENT_ID}", {"is_token_endpoint_ip_header_trusted": True})
    assert (reply.status, reply.json["errorCode"]) == (400, "invalid_body")


# -- an organization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "name"), [("org_9ybsU1dN2dKfDkBi", None), ("Contoso-Watches", "contoso-watches")])
def test_both_tokens_name_the_organization_by_its_id_and_by_the_name_that_was_asked_for(
    asked: str, name: str | None
) -> None:
    browser = Browser(desk())
    page = browser.authorize(organization=asked, audience="https://orders.example/")
    answer = browser.redeem(browser.submit(page).code).json
    found = [claims_of(answer[token]) for token in ("id_token", "access_token")]
    assert [claims.get("org_name") for claims in found] == [name, name]
    ids = {claims["org_id"] for claims in found}
    assert ids == {asked} if name is None else len(ids) == 1 and ids.pop().startswith("org_")


# -- a narrow grant ---------------------------------------------------------------------------------------------------


def rule_of_the_page() -> Any:
    """The Action that docs/spec/session-transfer.md shows, without a process."""
    text = (Path(__file__).parents[2] / "docs" / "spec" / "session-transfer.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space: dict[str, Any] = {}
    exec(source, space)
    return lambda event: run([space["on_execute_post_login"]], event)


def test_a_narrow_grant_opens_a_whole_session_unless_an_action_looks_at_the_grants_scope() -> None:
    for action, narrow_works in ((None, True), (rule_of_the_page(), False)):
        one = desk(action=action)
        for scope, works in (("openid offline_access", narrow_works), ("openid offline_access web:open", True)):
            stt, _ = one.transfer(one.sign_in(scope=scope))
            assert bool(Browser(one).authorize(stt=stt).code) is works


def test_a_client_without_the_right_gets_no_token_whatever_its_grant_is() -> None:
    one = desk()
    one.set(CLIENT_ID, session_transfer={"can_create_session_transfer_token": False})
    assert one.exchange(one.sign_in()).json["error"] == "access_denied"
