"""The decision table of ``/authorize``, row by row, and how a token gets there."""

from __future__ import annotations

from itertools import product

import pytest

from tests.sandbox.sandbox_client import NOON, PASSWORD_USER
from tests.sandbox.transfer_kit import (
    ABROAD,
    CLIENT_ID,
    HOME,
    NEIGHBOUR,
    OTHER_USER,
    SPA_ID,
    WEB_ID,
    Browser,
    desk,
    web,
)
from token_relay.sandbox.provider.memory.state import digest
from token_relay.sandbox.provider.world.client_settings import Binding, SessionTransfer, effective_binding

NOT_FOUND = "session transfer token not found or expired"
PARENT = "parent refresh token not found"
MISMATCH = "device binding validation failed (IP)"


# -- rows ---------------------------------------------------------------------------------------------------------


def test_a_valid_token_without_a_session_signs_the_person_in_with_no_form() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one)
    reply = browser.authorize(stt=stt)
    assert reply.status == 303
    assert reply.code
    assert "auth0" in browser.cookies
    assert one.warnings() == []
    (login,) = one.logs("s")
    assert login["details"]["triggered_by_session_transfer_token"] is True
    again = Browser(one, cookies=dict(browser.cookies)).authorize(SPA_ID)  # single sign-on from now on
    assert again.code


def test_a_valid_token_with_a_session_of_the_same_person_signs_in_and_the_session_goes_on() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    before = one.live_sessions()
    stt, _ = one.transfer(one.sign_in())
    assert browser.authorize(stt=stt).code
    assert one.live_sessions() == before
    assert one.warnings() == []


def test_a_valid_token_with_a_session_of_somebody_else_prompts_and_revokes_that_session() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in(OTHER_USER)
    stt, _ = one.transfer(one.sign_in())
    reply = browser.authorize(stt=stt)
    assert reply.is_login_page
    assert one.live_sessions(OTHER_USER) == []
    assert one.live_sessions() == []
    assert browser.cookies == {}
    assert one.warnings() == ["user mismatch"]


@pytest.mark.parametrize("why", ["unknown", "expired", "used"])
@pytest.mark.parametrize("has_session", [False, True], ids=["no session", "session"])
def test_an_unusable_token_falls_back_to_ordinary_sign_in_with_a_warning(why: str, has_session: bool) -> None:
    one = desk()
    browser = Browser(one)
    if has_session:
        browser.form_sign_in(OTHER_USER)
    stt = "never-issued"
    if why != "unknown":
        stt, _ = one.transfer(one.sign_in())
    if why == "expired":
        one.now = NOON + 60
    if why == "used":
        assert Browser(one).authorize(stt=stt).code
    reply = browser.authorize(stt=stt)
    assert reply.code if has_session else reply.is_login_page
    assert one.warnings() == [NOT_FOUND]
    assert len(one.live_sessions(OTHER_USER)) == has_session


def test_a_token_works_until_the_sixtieth_second_and_not_in_it() -> None:
    for after, works in ((59.9, True), (60.0, False)):
        one = desk()
        stt, _ = one.transfer(one.sign_in())
        one.now = NOON + after
        assert bool(Browser(one).authorize(stt=stt).code) is works


def test_a_token_whose_parent_was_revoked_meanwhile_is_ignored() -> None:
    one = desk()
    for cascade in (True, False):
        one.set(
            CLIENT_ID,
            session_transfer={"can_create_session_transfer_token": True, "enforce_cascade_revocation": cascade},
        )
        stt, refresh_token = one.transfer(one.sign_in())
        assert one.revoke(refresh_token).status == 200
        assert Browser(one).authorize(stt=stt).is_login_page
    assert one.warnings() == [PARENT, PARENT]


def test_a_token_from_another_address_is_rejected_and_used_up() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in(), ip=HOME)
    assert Browser(one, ABROAD).authorize(stt=stt).is_login_page
    assert Browser(one, HOME).authorize(stt=stt).is_login_page
    assert one.warnings() == [MISMATCH, NOT_FOUND]


def test_a_token_of_another_organization_is_rejected() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    assert Browser(one).authorize(stt=stt, organization="org_other").is_login_page
    assert one.warnings() == ["organization mismatch"]


def test_an_organization_of_the_parent_goes_with_its_token() -> None:
    one = desk()
    phone = Browser(one)
    code = phone.submit(phone.authorize(CLIENT_ID, organization="org_one")).code
    refresh_token = phone.redeem(code, CLIENT_ID).json["refresh_token"]
    for organization, works in (("org_one", True), ("org_two", False), ("", True)):
        stt, refresh_token = one.transfer(refresh_token)
        assert bool(Browser(one).authorize(stt=stt, organization=organization).code) is works


def test_without_an_allowed_method_a_token_is_not_looked_at() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    one.set(WEB_ID, session_transfer={"allowed_authentication_methods": []})
    assert Browser(one).authorize(stt=stt).is_login_page
    one.set(WEB_ID, session_transfer=web())
    assert Browser(one).authorize(stt=stt).code  # it was not used up


@pytest.mark.parametrize(
    ("allowed", "by"), list(product((["cookie"], ["query"], ["cookie", "query"], None), ("cookie", "query")))
)
def test_a_token_is_accepted_only_by_an_allowed_way(allowed: list[str] | None, by: str) -> None:
    one = desk()
    one.set(WEB_ID, session_transfer={"allowed_authentication_methods": allowed})
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one)
    if by == "cookie":
        browser.cookies["auth0_session_transfer_token"] = stt
        reply = browser.authorize()
    else:
        reply = browser.authorize(stt=stt)
    works = by in (allowed or [])
    assert bool(reply.code) is works
    if by == "cookie":
        assert ("auth0_session_transfer_token" in browser.cookies) is not works  # a used one is taken away


def test_at_authorize_only_the_cookie_of_the_documents_counts() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one, cookies={"session_transfer_token": stt})
    assert browser.authorize().is_login_page
    assert Browser(one, cookies={"auth0_session_transfer_token": stt}).authorize().code  # it was not used up
    stt, _ = one.transfer(one.sign_in())
    one.provider.state.lenient.add("transfer-cookie")
    assert Browser(one, cookies={"session_transfer_token": stt}).authorize().code


def test_silent_authentication_works_with_a_token_and_is_login_required_without_a_good_one() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    assert Browser(one).authorize(stt=stt, prompt="none").code
    refused = Browser(one).authorize(stt=stt, prompt="none")
    assert refused.location["error"] == "login_required"
    assert [(log["type"], log["details"]["triggered_by_session_transfer_token"]) for log in one.logs("ssa", "fsa")] == [
        ("ssa", True),
        ("fsa", True),
    ]


def test_prompt_login_shows_the_form_and_leaves_the_token_alone() -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    assert Browser(one).authorize(stt=stt, prompt="login").is_login_page
    assert Browser(one).authorize(stt=stt).code


# -- delegation ---------------------------------------------------------------------------------------------------


def delegated(one: object, **setting: object) -> str:
    """A token in one person's name that says that the other acts."""
    from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET

    assert isinstance(one, type(desk()))
    one.set(WEB_ID, session_transfer=web(can_create_session_transfer_token=True, **setting))
    tokens = []
    for username in (PASSWORD_USER, OTHER_USER):
        browser = Browser(one)
        tokens.append(browser.redeem(browser.form_sign_in(username).code).json["id_token"])
    kind = "urn:ietf:params:oauth:token-type:id_token"
    reply = one.send(
        "POST",
        "/oauth/token",
        form={
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "client_id": WEB_ID,
            "client_secret": WEB_SECRET,
            "audience": "urn:127.0.0.1:session_transfer",
            "subject_token": tokens[0],
            "subject_token_type": kind,
            "actor_token": tokens[1],
            "actor_token_type": kind,
        },
    )
    assert reply.status == 200, reply.text
    return str(reply.json["access_token"])


def test_a_token_with_an_actor_over_any_session_is_an_error_page_and_revokes_nothing() -> None:
    for username in (PASSWORD_USER, OTHER_USER):
        one = desk()
        stt = delegated(one, delegation={"allow_delegated_access": True})
        browser = Browser(one)
        browser.form_sign_in(username)
        before = one.live_sessions(username)
        reply = browser.authorize(stt=stt)
        assert reply.status == 400
        assert not reply.is_login_page
        assert one.live_sessions(username) == before


def test_a_token_with_an_actor_at_a_client_that_forbids_it_is_the_login_page() -> None:
    one = desk()
    stt = delegated(one)
    assert Browser(one).authorize(stt=stt).is_login_page
    assert one.warnings() == ["the client does not allow delegated access"]


def test_a_delegated_session_says_who_acts_has_no_refresh_token_and_ends_after_two_hours() -> None:
    from tests.sandbox.transfer_kit import claims_of

    one = desk()
    stt = delegated(one, delegation={"allow_delegated_access": True}, allow_refresh_token=True)
    browser = Browser(one)
    tokens = browser.web_tokens(stt, audience="https://api.example")
    assert "refresh_token" not in tokens
    assert claims_of(tokens["id_token"])["act"]["sub"] == claims_of(tokens["access_token"])["act"]["sub"]
    assert claims_of(tokens["id_token"])["act"]["sub"] != claims_of(tokens["id_token"])["sub"]
    one.now += 7_200
    assert browser.authorize(prompt="none").location["error"] == "login_required"


def test_whoever_came_with_a_token_has_proven_themselves_when_the_native_grant_began() -> None:
    one = desk()
    refresh_token = one.sign_in()
    one.now += 100
    browser = Browser(one)
    assert browser.authorize(stt=one.transfer(refresh_token)[0]).code
    assert browser.authorize(max_age="100").code
    assert browser.authorize(max_age="99").is_login_page


def test_a_delegated_session_is_not_continued_as_the_person_s_own() -> None:
    one = desk()
    browser = Browser(one)
    browser.authorize(stt=delegated(one, delegation={"allow_delegated_access": True}))
    (acting,) = [each for each in one.provider.state.sessions.values() if each.is_delegated]
    assert browser.authorize().code
    assert browser.authorize(SPA_ID, prompt="none").location["error"] == "interaction_required"
    assert browser.submit(browser.authorize(prompt="login")).code
    assert acting.session_id not in one.provider.state.sessions
    stt, _ = one.transfer(one.sign_in())
    again = Browser(one)
    again.authorize(stt=delegated(one, delegation={"allow_delegated_access": True}))
    assert again.authorize(stt=stt).code
    own = one.provider.state.session_cookies[digest(again.cookies["auth0"])]
    assert not one.provider.state.sessions[own].is_delegated


@pytest.mark.parametrize("why", ["used", "somebody else's"])
def test_a_cookie_that_was_looked_at_is_taken_away(why: str) -> None:
    one = desk()
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one)
    if why == "used":
        Browser(one).authorize(stt=stt)
    else:
        browser.form_sign_in(OTHER_USER)
    browser.cookies["auth0_session_transfer_token"] = stt
    assert browser.authorize().is_login_page
    assert "auth0_session_transfer_token" not in browser.cookies


def test_a_token_that_met_somebody_else_s_session_is_used_up() -> None:
    for is_delegated in (False, True):
        one = desk()
        stt = delegated(one, delegation={"allow_delegated_access": True}) if is_delegated else ""
        stt = stt or one.transfer(one.sign_in())[0]
        browser = Browser(one)
        browser.form_sign_in(OTHER_USER)
        assert not browser.authorize(stt=stt).code
        assert Browser(one).authorize(stt=stt).is_login_page


def test_the_cookie_of_a_delegated_session_ends_with_the_browser() -> None:
    one = desk()
    reply = Browser(one).authorize(stt=delegated(one, delegation={"allow_delegated_access": True}))
    cookies = [value for name, value in reply.headers if name == "Set-Cookie" and value.startswith("auth0")]
    assert len(cookies) == 2 and not any("Max-Age" in value for value in cookies)


# -- binding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("binding", "place", "works"),
    [
        ("ip", HOME, True),
        ("ip", NEIGHBOUR, False),
        ("ip", ABROAD, False),
        ("asn", HOME, True),
        ("asn", NEIGHBOUR, True),
        ("asn", ABROAD, False),
        ("asn", "192.0.2.1", False),  # nobody knows where that is
        ("none", HOME, True),
        ("none", NEIGHBOUR, True),
        ("none", ABROAD, True),
    ],
)
def test_a_binding_holds_the_token_to_its_place(binding: str, place: str, works: bool) -> None:
    one = desk()
    one.set(WEB_ID, session_transfer=web(enforce_device_binding=binding))
    stt, _ = one.transfer(one.sign_in(), ip=HOME)
    assert bool(Browser(one, place).authorize(stt=stt).code) is works
    if not works:
        assert one.warnings() == [f"device binding validation failed ({binding.upper()})"]


def test_two_addresses_that_nobody_knows_are_two_places() -> None:
    one = desk()
    one.set(WEB_ID, session_transfer=web(enforce_device_binding="asn"))
    stt, _ = one.transfer(one.sign_in(), ip="192.0.2.1")
    assert not Browser(one, "192.0.2.2").authorize(stt=stt).code


@pytest.mark.parametrize(("native", "web_side"), list(product((None, "ip", "asn", "none"), repeat=2)))
def test_of_two_bindings_the_stricter_counts_and_ip_where_nobody_set_one(
    native: str | None, web_side: str | None
) -> None:
    strict = {"none": 0, "asn": 1, "ip": 2}
    told = [strict[one] for one in (native, web_side) if one is not None]
    wanted = max(told) if told else 2
    settings = [
        SessionTransfer() if one is None else SessionTransfer.model_validate({"enforce_device_binding": one})
        for one in (native, web_side)
    ]
    found: Binding = effective_binding(*settings)
    assert strict[found] == wanted


def test_the_address_counts_from_forwarded_for_only_on_loopback() -> None:
    from token_relay.sandbox.provider.world.network_table import client_address

    assert client_address("127.0.0.1", "203.0.113.7, 10.0.0.1") == "203.0.113.7"
    assert client_address("::1", "2001:db8::1") == "2001:db8::1"
    assert client_address("192.0.2.1", "203.0.113.7") == "192.0.2.1"
    assert client_address("127.0.0.1", "nonsense") == "127.0.0.1"
    assert client_address("::ffff:127.0.0.1", "203.0.113.7") == "203.0.113.7"
