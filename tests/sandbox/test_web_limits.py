"""What a page, a ticket, a cookie and an address may not do: each is for one browser, once, and for a while."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urlencode

import pytest

from tests.sandbox.native_kit import MFA_USER, OTP_USER, App
from tests.sandbox.sandbox_client import NOON, PASSWORD_USER, REDIRECT_URI
from tests.sandbox.test_entra_sessions import AUTHORITY, EntraBrowser, is_form, told
from tests.sandbox.transfer_kit import CLIENT_ID, OTHER_USER, SPA_ID, WEB_ID, Browser, Desk, Reply, desk
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PASSWORD, SINGLE_PAGE, ClientModel, UserModel
from token_relay.sandbox.provider.world.rules import RULES

SHOP = ClientModel(
    client_id="shop",
    redirect_uris=["https://shop.example/back"],
    allowed_logout_urls=["https://shop.example/bye"],
    web_origins=[],
)
OTHER_SHOP = ClientModel(client_id="other", allowed_logout_urls=["https://other.example/bye"])


def ticket_of(page: Reply) -> str:
    found = re.search(r'name="ticket" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return unescape(found[1])


def shop_desk() -> Desk:
    return desk(DEFAULT_WORLD.model_copy(update={"clients": [SHOP, OTHER_SHOP]}))


# -- tickets -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser() -> EntraBrowser:
    return EntraBrowser(App())


def test_a_login_form_works_once(browser: EntraBrowser) -> None:
    page = browser.authorize()
    assert told(browser.submit(page, username=PASSWORD_USER, password=PASSWORD))["code"]
    assert browser.submit(page, username=PASSWORD_USER, password=PASSWORD).status == 400


def test_without_sessions_a_login_form_works_once_too() -> None:
    browser = Browser(desk(rules=RULES["strict"]))
    page = browser.authorize(CLIENT_ID)
    assert browser.submit(page).code
    assert browser.submit(page).status == 400


def test_the_form_does_not_say_whether_it_knows_a_name() -> None:
    browser = Browser(desk())
    assert 'name="password" type="password"' in browser.authorize().text
    pages = [browser.submit(browser.authorize(), name, "wrong").text for name in (PASSWORD_USER, "x@contoso.example")]
    known, unknown = (re.sub(r'value="[^"]*"', "", page) for page in pages)
    assert known == unknown and "Wrong user name" in known


def test_the_choice_of_an_account_counts_once_and_only_when_it_was_made(browser: EntraBrowser) -> None:
    browser.sign_in()
    page = browser.authorize(prompt="select_account")
    assert is_form(browser.submit(page, action=""))
    page = browser.authorize(prompt="select_account")
    assert told(browser.submit(page, action="continue"))["code"]
    assert browser.submit(page, action="continue").status == 400


def test_consent_is_given_by_its_button_alone_and_once() -> None:
    one = desk()
    one.set(WEB_ID, is_first_party=False)
    browser = Browser(one)
    for action, is_given in (("", False), ("Accept", False), ("accept", True)):
        page = browser.authorize() if browser.cookies else browser.submit(browser.authorize())
        answer = browser.send("POST", "/login", form={"ticket": ticket_of(page), "action": action})
        assert bool(answer.code) is is_given, action
    again = browser.send("POST", "/login", form={"ticket": ticket_of(page), "action": "accept"})
    assert again.status == 400


def test_of_two_pages_that_ask_about_one_device_the_first_answer_counts() -> None:
    one = desk()
    told_device = one.send("POST", "/oauth/device/code", form={"client_id": CLIENT_ID, "scope": "openid"}).json
    browser = Browser(one)
    browser.form_sign_in()
    pages = [browser.send("GET", f"/activate?user_code={told_device['user_code']}") for _ in range(2)]
    answers = [
        browser.send("POST", "/login", form={"ticket": ticket_of(page), "action": action})
        for page, action in zip(pages, ("deny", "accept"), strict=True)
    ]
    assert [answer.status for answer in answers] == [200, 400]
    polled = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": told_device["device_code"]}
    assert one.token(**polled).json["error"] == "access_denied"


def test_a_credential_that_was_right_counts_for_its_own_person() -> None:
    """While an Action is asked about one person, another name comes with the same form."""
    one = desk(action=lambda event: {"commands": []})
    browser = Browser(one)
    page = browser.authorize()
    meanwhile: list[Reply] = []

    def asked(event: dict[str, object]) -> dict[str, list[str]]:
        if not meanwhile:
            meanwhile.append(page)
            meanwhile[0] = browser.submit(page, OTHER_USER, "wrong")
        return {"commands": []}

    one.action = asked
    assert browser.submit(page).code
    assert meanwhile[0].status == 400
    assert len(one.live_sessions()) == 1 and one.live_sessions(OTHER_USER) == []


def test_a_code_in_the_browser_ends_with_its_lifetime(browser: EntraBrowser) -> None:
    browser.app.order("policy", code_lifetime_s=5)
    page = browser.submit(browser.authorize(), username=OTP_USER, password="")
    code = browser.app.mail(OTP_USER)
    browser.app.order("clock", advance_s=5)
    assert browser.submit(page, username=OTP_USER, password=code).status == 400


def test_a_second_factor_is_a_code_and_not_the_password_again(browser: EntraBrowser) -> None:
    page = browser.sign_in(MFA_USER)
    for wrong in (PASSWORD, "", " "):
        assert browser.submit(page, username=MFA_USER, password=wrong).status == 400
    assert told(browser.submit(page, username=MFA_USER, password=browser.app.mail(MFA_USER)))["code"]


def test_no_login_page_sends_more_than_ten_codes(browser: EntraBrowser) -> None:
    page = browser.authorize()
    answers = [browser.submit(page, username=OTP_USER, password="") for _ in range(11)]
    assert [answer.status for answer in answers] == [200] * 10 + [400]
    assert browser.app.kinds().count("code_sent") == 10


# -- who is signed in, and since when ----------------------------------------------------------------------------------


def test_max_age_counts_from_the_proof_and_not_from_the_latest_use() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    one.now += 300
    assert browser.authorize(max_age="300").code
    one.now += 1
    assert browser.authorize(max_age="300").is_login_page
    assert browser.authorize(max_age="0").is_login_page
    assert browser.authorize(max_age="300", prompt="none").location["error"] == "login_required"
    assert browser.authorize(max_age="302").code
    assert browser.submit(browser.authorize(max_age="300")).code
    assert browser.authorize(max_age="0").code


def test_signing_in_as_somebody_else_ends_the_session_before() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    former = dict(browser.cookies)
    browser.form_sign_in(OTHER_USER)
    assert one.live_sessions() == []
    assert Browser(one, cookies=former).authorize(prompt="none").location["error"] == "login_required"


def test_one_factor_in_a_session_is_one_factor(browser: EntraBrowser) -> None:
    first = browser.redeem(told(browser.sign_in())["code"])
    second = browser.redeem(told(browser.authorize(prompt="none"))["code"])
    browser.app.order("policy", conditional_access=50076)
    for found in (first, second):
        fields = {"grant_type": "refresh_token", "client_id": SINGLE_PAGE.client_id}
        body = urlencode({**fields, "refresh_token": str(found["refresh_token"])}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded", "origin": "http://localhost:3000"}
        assert browser.app.send("POST", f"{AUTHORITY}/token", body, headers).json["error_codes"] == [50076]


def test_a_session_lives_seven_days_at_most_however_often_it_is_used() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    for _ in range(6):
        one.now += 86_400
        assert browser.authorize(prompt="none").code
    one.now = NOON + 7 * 86_400
    assert browser.authorize(prompt="none").location["error"] == "login_required"


def test_a_session_that_is_used_goes_idle_later_and_not_never() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    one.now += 86_400
    assert browser.authorize(prompt="none").code
    one.now += 3 * 86_400
    assert browser.authorize(prompt="none").location["error"] == "login_required"


def test_a_code_of_a_session_that_has_expired_meanwhile_is_worth_nothing() -> None:
    one = desk()
    one.provider.state.policy = one.provider.state.policy.model_copy(update={"session_idle_lifetime_s": 60.0})
    browser = Browser(one)
    code = browser.form_sign_in().code
    one.now += 60
    assert browser.redeem(code).json["error"] == "invalid_grant"


# -- cookies and headers -----------------------------------------------------------------------------------------------


def test_over_https_the_cookie_is_secure_goes_into_frames_and_is_the_only_one() -> None:
    one = desk(base_url="https://127.0.0.1:8400")
    browser = Browser(one)
    reply = browser.submit(browser.authorize(redirect_uri=REDIRECT_URI))
    set_by = [value for name, value in reply.headers if name == "Set-Cookie"]
    assert [value.partition("; ")[2] for value in set_by] == ["Path=/; HttpOnly; Max-Age=604800; Secure; SameSite=None"]
    gone = browser.send("GET", "/v2/logout")
    assert [value for name, value in gone.headers if name == "Set-Cookie"] == [
        "auth0=; Path=/; HttpOnly; Max-Age=0; Secure; SameSite=None"
    ]


PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def test_no_page_is_cached_framed_or_tells_where_it_was() -> None:
    one = desk()
    browser = Browser(one)
    for page in (
        browser.authorize(),
        browser.authorize("nobody"),
        browser.submit(browser.authorize()),
        browser.authorize(prompt="select_account"),
        browser.send("GET", "/activate"),
        browser.send("GET", "/v2/logout"),
    ):
        headers = dict(page.headers)
        found = (headers["Cache-Control"], headers["Content-Security-Policy"], headers["Referrer-Policy"])
        assert found == ("no-store", PAGE_POLICY, "no-referrer"), page.text


def test_a_form_that_posts_itself_runs_its_one_script_and_is_framed_by_nobody() -> None:
    browser = Browser(desk())
    page = browser.submit(browser.authorize(response_mode="form_post"))
    assert 'name="code"' in page.text
    directives = dict(page.headers)["Content-Security-Policy"].split("; ")
    assert [one for one in directives if not one.startswith("script-src 'sha256-")] == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "frame-ancestors 'none'",
    ]
    assert dict(page.headers)["Cache-Control"] == "no-store"
    assert dict(page.headers)["Referrer-Policy"] == "no-referrer"


def test_a_quotation_mark_in_an_address_ends_no_attribute() -> None:
    browser = Browser(desk())
    page = browser.submit(browser.authorize(response_mode="form_post", redirect_uri=f'{REDIRECT_URI}?"><b>'))
    assert "<b>" not in page.text and 'name="code"' in page.text


def test_what_a_person_or_an_application_wrote_is_text_on_every_page() -> None:
    one = desk()
    one.set(WEB_ID, is_first_party=False, name="<i>shop</i>")
    browser = Browser(one)
    assert "<i>" not in browser.authorize(login_hint='"><i>').text
    page = browser.submit(browser.authorize(scope="openid <i>read</i>"))
    assert "asks for" in page.text and "<i>" not in page.text


def test_every_token_answer_says_that_no_cache_keeps_it() -> None:
    one = desk()
    for reply in (one.token(grant_type="nonsense"), one.refresh(one.sign_in())):
        assert (dict(reply.headers)["Cache-Control"], dict(reply.headers)["Pragma"]) == ("no-store", "no-cache")


def test_of_two_cookies_of_one_name_the_first_counts() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    value = browser.cookies["auth0"]
    for cookie, is_in in ((f"auth0={value}; auth0=x", True), (f"auth0=x; auth0={value}", False)):
        browser.cookies = {"auth0": cookie.removeprefix("auth0=")}
        assert bool(browser.authorize(prompt="none").code) is is_in, cookie


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://SHOP.example/back",
        "https://shop.example/back/",
        "https://shop.example/back?next=1",
        "https://shop.example/back/../steal",
        "https://shop.example/",
        "http://shop.example/back",
        "https://shop.example:8443/back",
        "ftp://localhost/",
        "javascript://localhost/%0aalert(1)",
        "http://127.1.2.3/",
        "http://app.localhost/",
        "http://localhost/\\evil.example",
    ],
)
def test_a_registered_address_is_registered_to_the_letter(uri: str) -> None:
    browser = Browser(shop_desk())
    assert browser.authorize("shop", redirect_uri="https://shop.example/back").is_login_page
    reply = browser.authorize("shop", redirect_uri=uri)
    assert reply.status == 400 and "Location" not in dict(reply.headers)


LEAVING = [
    ("https://shop.example/bye", "shop", 303),
    ("https://shop.example/bye", "", 303),
    ("https://shop.example/bye/", "shop", 400),
    ("https://shop.example/bye.evil.example", "shop", 400),
    ("https://other.example/bye", "shop", 400),
    ("https://other.example/bye", "", 303),
    ("https://shop.example/back", "shop", 400),  # an address for codes is none to sign out to
    ("http://localhost:3000/", "shop", 303),
]


@pytest.mark.parametrize("path", ["/v2/logout", "/oidc/logout"])
@pytest.mark.parametrize(("back", "client_id", "status"), LEAVING)
def test_signing_out_leads_to_the_addresses_of_the_client_that_asks_and_ends_the_session_anyway(
    path: str, back: str, client_id: str, status: int
) -> None:
    one = shop_desk()
    browser = Browser(one)
    browser.submit(browser.authorize("shop", redirect_uri=REDIRECT_URI))
    assert one.live_sessions()
    query = {"post_logout_redirect_uri" if "oidc" in path else "returnTo": back, "client_id": client_id}
    reply = browser.send("GET", f"{path}?{urlencode({name: one for name, one in query.items() if one})}")
    assert (reply.status, dict(reply.headers).get("Location", back)) == (status, back)
    assert one.live_sessions() == [] and browser.cookies == {}


def test_signing_out_without_an_address_takes_the_cookie_too() -> None:
    browser = Browser(desk())
    browser.form_sign_in()
    assert browser.send("GET", "/v2/logout").status == 200
    assert browser.cookies == {}


# -- switched off ------------------------------------------------------------------------------------------------------


def test_an_application_that_is_switched_off_shows_no_login_page(browser: EntraBrowser) -> None:
    browser.app.order("clients", client_id="off", disabled=True)
    page = browser.authorize(client_id="off")
    assert page.status == 400 and b"AADSTS7000112" in page.body


def switch_off(one: Desk, username: str = PASSWORD_USER) -> None:
    fields = {"username": username, "password": PASSWORD, "disabled": True}
    one.provider.state.put_user(UserModel.model_validate(fields))


def test_at_auth0_a_person_who_is_switched_off_is_blocked_everywhere() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    device = one.send("POST", "/oauth/device/code", form={"client_id": CLIENT_ID}).json
    page = browser.send("GET", f"/activate?user_code={device['user_code']}")
    browser.send("POST", "/login", form={"ticket": ticket_of(page), "action": "accept"})
    stt, token = one.transfer(one.sign_in())
    code = browser.authorize().code
    switch_off(one)
    blocked = {"error": "unauthorized", "error_description": "user is blocked"}
    by_password = one.token(grant_type="password", username=PASSWORD_USER, password=PASSWORD)
    assert (by_password.status, by_password.json) == (403, blocked)
    assert one.refresh(token).json["error"] == "invalid_grant"
    assert browser.redeem(code).json["error"] == "invalid_grant"
    polled = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": device["device_code"]}
    assert one.token(**polled).json["error"] == "access_denied"
    for answer in (
        browser.submit(browser.authorize(prompt="login")),
        browser.authorize(),
        browser.authorize(prompt="none"),
        Browser(one).authorize(stt=stt),
    ):
        assert {**blocked, "state": "s"}.items() <= answer.location.items()
    wrong = one.token(grant_type="password", username=PASSWORD_USER, password="wrong")
    assert wrong.json["error"] == "invalid_grant"  # who does not know the password learns nothing


def test_at_entra_the_code_of_a_person_who_was_switched_off_meanwhile_is_worth_nothing(browser: EntraBrowser) -> None:
    code = told(browser.sign_in())["code"]
    browser.app.order("users", username=PASSWORD_USER, password=PASSWORD, disabled=True)
    assert browser.redeem(code)["error_codes"] == [50057]


def test_without_sessions_the_form_refuses_a_person_who_is_switched_off() -> None:
    one = desk(rules=RULES["strict"])
    browser = Browser(one)
    code = browser.submit(browser.authorize(CLIENT_ID)).code
    token = browser.redeem(code, CLIENT_ID).json["refresh_token"]
    switch_off(one)
    assert browser.submit(browser.authorize(CLIENT_ID)).status == 400
    assert one.refresh(token).json["error"] == "invalid_grant"


# -- PKCE --------------------------------------------------------------------------------------------------------------


def test_a_verifier_to_a_code_without_a_challenge_is_refused() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    fields = {"grant_type": "authorization_code", "client_id": WEB_ID, "client_secret": WEB_SECRET}
    fields |= {"redirect_uri": REDIRECT_URI}
    for verifier, status in (("A" * 43, 403), ("", 200)):
        code = browser.authorize(code_challenge="", code_challenge_method="").code
        form = {**fields, "code": code, **({"code_verifier": verifier} if verifier else {})}
        assert one.send("POST", "/oauth/token", form=form).status == status


@pytest.mark.parametrize(
    "change",
    [{"code_challenge_method": "plain"}, {"code_challenge": "short"}, {"code_challenge_method": ""}],
)
def test_a_confidential_client_does_pkce_right_or_not_at_all(change: dict[str, str]) -> None:
    assert Browser(desk()).authorize(**change).location["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"response_type": ""}, "unsupported_response_type"),
        ({"response_type": "code id_token", "response_mode": "query"}, "unsupported_response_type"),
        ({"response_mode": "okay"}, "invalid_request"),
        ({"audience": "a" * 513}, "invalid_request"),
        ({"code_challenge": "", "code_challenge_method": ""}, "invalid_request"),
    ],
)
def test_a_public_client_s_request_is_whole(change: dict[str, str], error: str) -> None:
    assert Browser(desk()).authorize(SPA_ID, **change).location["error"] == error


def test_a_state_beyond_all_measure_is_answered_by_a_page() -> None:
    browser = Browser(desk())
    assert browser.authorize(state="s" * 2_049).status == 400
    assert browser.authorize(state="s" * 2_048).is_login_page


def test_a_client_s_scopes_bound_what_it_may_ask_a_browser_for() -> None:
    narrow = SHOP.model_copy(update={"scopes": ["orders.read"]})
    browser = Browser(desk(DEFAULT_WORLD.model_copy(update={"clients": [narrow]})))
    asked = {"redirect_uri": REDIRECT_URI}
    assert browser.authorize("shop", scope="openid orders.read", **asked).is_login_page
    assert browser.authorize("shop", scope="openid orders.write", **asked).location["error"] == "invalid_scope"
