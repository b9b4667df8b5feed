"""A browser at ``entra``: single sign-on, prompts and signing out, and how the answer comes back to the application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from tests.sandbox.native_kit import MFA_USER, PASSWORD_USER, RESET_USER, App
from tests.sandbox.sandbox_client import CHALLENGE, REDIRECT_URI, SCOPE, VERIFIER
from token_relay.sandbox.provider.http_values import Request, Response
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD, SINGLE_PAGE

AUTHORITY = "/contoso.onmicrosoft.com/oauth2/v2.0"
PAGE = "http://localhost:3000"
STATE = "eyJpZCI6IjEifQ==|a-b.c_d~e f&g=h/ü"  # as MSAL's, and what else a client may come upon


@dataclass
class EntraBrowser:
    """One browser with its cookies, and the applications in it."""

    app: App
    cookies: dict[str, str] = field(default_factory=dict)

    def send(self, method: str, target: str, form: dict[str, str] | None = None) -> Response:
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        body = b""
        if form is not None:
            body, headers["content-type"] = urlencode(form).encode(), "application/x-www-form-urlencoded"
        request = Request(method, target, body, headers)
        response = self.app.provider.commit(request, self.app.provider.admit(request, self.app.now), self.app.now)
        for name, value in response.response.headers:
            if name == "Set-Cookie":
                pair, _, attributes = value.partition(";")
                cookie, _, content = pair.partition("=")
                self.cookies[cookie] = content
                if "Max-Age=0" in attributes:
                    del self.cookies[cookie]
        return response.response

    def authorize(self, method: str = "GET", **change: str) -> Response:
        asked = {
            "response_type": "code",
            "client_id": SINGLE_PAGE.client_id,
            "redirect_uri": REDIRECT_URI,
            "scope": SCOPE,
            "state": STATE,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **change,
        }
        asked = {name: value for name, value in asked.items() if value}
        if method == "POST":
            return self.send("POST", f"{AUTHORITY}/authorize", asked)
        return self.send("GET", f"{AUTHORITY}/authorize?{urlencode(asked)}")

    def submit(self, page: Response, **fields: str) -> Response:
        text = page.body.decode()
        ticket, action = re.search(r'name="ticket" value="([^"]+)"', text), re.search(r'action="([^"]+)"', text)
        assert ticket is not None and action is not None, text
        return self.send("POST", unescape(action[1]), {"ticket": unescape(ticket[1]), **fields})

    def sign_in(self, username: str = PASSWORD_USER, **change: str) -> Response:
        page = self.authorize(**change)
        assert is_form(page), page.body
        return self.submit(page, username=username, password=PASSWORD)

    def redeem(self, code: str, *, client_id: str = SINGLE_PAGE.client_id, origin: str = PAGE) -> dict[str, object]:
        fields = {"client_id": client_id, "grant_type": "authorization_code", "code": code}
        fields |= {"redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER}
        headers = {"content-type": "application/x-www-form-urlencoded", **({"origin": origin} if origin else {})}
        return self.app.send("POST", f"{AUTHORITY}/token", urlencode(fields).encode(), headers).json


def is_form(page: Response) -> bool:
    return page.status == 200 and b'name="password"' in page.body


def told(answer: Response, part: str = "query") -> dict[str, str]:
    """What a redirect carries back, in its query or its fragment."""
    location = dict(answer.headers)["Location"]
    return {name: values[0] for name, values in parse_qs(getattr(urlsplit(location), part)).items()}


@pytest.fixture
def browser() -> EntraBrowser:
    return EntraBrowser(App())


# -- The way back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "query", "fragment"])
def test_state_comes_back_to_the_letter(browser: EntraBrowser, mode: str) -> None:
    part = mode or "query"
    answer = browser.sign_in(response_mode=mode)
    assert answer.status == 303 and told(answer, part)["state"] == STATE and told(answer, part)["code"]
    assert not told(answer, "fragment" if part == "query" else "query")
    refused = browser.authorize(response_mode=mode, code_challenge="short")
    assert (told(refused, part)["error"], told(refused, part)["state"]) == ("invalid_request", STATE)


def test_a_fragment_stands_behind_the_query_of_the_address(browser: EntraBrowser) -> None:
    answer = browser.sign_in(response_mode="fragment", redirect_uri=f"{REDIRECT_URI}?tab=1")
    assert dict(answer.headers)["Location"].startswith(f"{REDIRECT_URI}?tab=1#code=")


def test_a_form_brings_the_answer_where_it_was_asked_for(browser: EntraBrowser) -> None:
    text = browser.sign_in(response_mode="form_post").body.decode()
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', text))
    assert unescape(fields["state"]) == STATE and f'action="{REDIRECT_URI}"' in text


def test_web_message_is_auth0_s_alone(browser: EntraBrowser) -> None:
    assert told(browser.authorize(response_mode="web_message"))["error"] == "invalid_request"


def test_a_request_may_be_posted(browser: EntraBrowser) -> None:
    assert is_form(browser.authorize("POST"))


def test_a_redirect_uri_with_a_fragment_is_nobody_s(browser: EntraBrowser) -> None:
    assert browser.authorize(redirect_uri=f"{REDIRECT_URI}#x").status == 400


# -- Sessions --------------------------------------------------------------------------------------------------------


def test_a_second_application_needs_no_form(browser: EntraBrowser) -> None:
    first = browser.redeem(told(browser.sign_in())["code"])
    again = browser.authorize(client_id=CLIENT_ID, scope="openid api://orders/Orders.Read")
    second = browser.redeem(told(again)["code"], client_id=CLIENT_ID, origin="")
    assert first["access_token"] and second["access_token"]
    assert browser.app.kinds().count("session_opened") == 1


def test_another_browser_is_not_signed_in(browser: EntraBrowser) -> None:
    browser.sign_in()
    assert is_form(EntraBrowser(browser.app).authorize())
    assert told(EntraBrowser(browser.app).authorize(prompt="none"))["error"] == "login_required"


@pytest.mark.parametrize(
    ("prompt", "is_silent"), [("", True), ("none", True), ("login", False), ("select_account", False)]
)
def test_prompts_of_a_person_who_is_signed_in(browser: EntraBrowser, prompt: str, is_silent: bool) -> None:
    browser.sign_in()
    answer = browser.authorize(prompt=prompt)
    assert (answer.status == 303) is is_silent
    assert is_form(answer) is (prompt == "login")


@pytest.mark.parametrize("prompt", ["create", "consent dance", "None"])
def test_a_prompt_that_nobody_knows_is_refused(browser: EntraBrowser, prompt: str) -> None:
    assert "AADSTS90023" in told(browser.authorize(prompt=prompt))["error_description"]


def test_a_person_may_pick_the_account_or_another_one(browser: EntraBrowser) -> None:
    assert is_form(browser.authorize(prompt="select_account"))  # nothing to pick from
    browser.sign_in()
    page = browser.authorize(prompt="select_account")
    assert PASSWORD_USER in page.body.decode()
    assert told(browser.submit(page, action="continue"))["code"]
    form = browser.submit(browser.authorize(prompt="select_account"), action="other")
    assert is_form(form)
    assert told(browser.submit(form, username=RESET_USER, password=PASSWORD))["code"]
    assert RESET_USER in browser.authorize(prompt="select_account").body.decode()


def test_the_picked_account_is_that_of_the_same_browser(browser: EntraBrowser) -> None:
    browser.sign_in()
    page = browser.authorize(prompt="select_account")
    assert EntraBrowser(browser.app).submit(page, action="continue").status == 400


def test_a_hint_at_another_person_is_not_answered_by_this_session(browser: EntraBrowser) -> None:
    browser.sign_in()
    assert told(browser.authorize(prompt="none", login_hint=PASSWORD_USER.upper()))["code"]
    assert told(browser.authorize(prompt="none", login_hint=RESET_USER))["error"] == "login_required"
    assert is_form(browser.authorize(login_hint=RESET_USER))


def test_a_second_factor_counts_for_the_session(browser: EntraBrowser) -> None:
    page = browser.sign_in(MFA_USER)
    answer = browser.submit(page, username=MFA_USER, password=browser.app.mail(MFA_USER))
    first = browser.redeem(told(answer)["code"])
    second = browser.redeem(told(browser.authorize(prompt="none"))["code"])
    browser.app.order("policy", conditional_access=50076)
    for found in (first, second):
        fields = {"grant_type": "refresh_token", "client_id": SINGLE_PAGE.client_id}
        body = urlencode({**fields, "refresh_token": str(found["refresh_token"])}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded", "origin": PAGE}
        assert browser.app.send("POST", f"{AUTHORITY}/token", body, headers).has_tokens


def test_one_factor_is_not_enough_where_two_are_wanted_since(browser: EntraBrowser) -> None:
    browser.sign_in()
    browser.app.order("policy", conditional_access=50076)
    silent = told(browser.authorize(prompt="none"))
    assert silent["error"] == "interaction_required" and "AADSTS50076" in silent["error_description"]
    assert b"A code was sent to you" in browser.authorize().body


@contextmanager
def signed_in() -> Iterator[EntraBrowser]:
    browser = EntraBrowser(App())
    browser.sign_in()
    assert told(browser.authorize(prompt="none"))["code"]
    yield browser
    assert told(browser.authorize(prompt="none"))["error"] in {"login_required", "interaction_required"}


def test_the_tenant_s_rules_hold_for_sessions_too() -> None:
    with signed_in() as browser:
        browser.app.order("policy", conditional_access=53003)
        assert told(browser.authorize())["error"] == "access_denied"
    with signed_in() as browser:
        browser.app.order("policy", conditional_access=70043, sign_in_frequency_s=600)
        assert told(browser.authorize(prompt="none"))["code"]
        browser.app.order("clock", advance_s=600)
        assert is_form(browser.authorize())


@pytest.mark.parametrize("event", ["password_changed", "revoke_all", "admin_reset_portal", "single_sign_out"])
def test_a_session_ends_with_what_ends_the_person_s_sign_ins(event: str) -> None:
    with signed_in() as browser:
        browser.app.order("revoke", username=PASSWORD_USER, event=event)


def test_a_disabled_person_and_one_who_is_gone_have_no_session() -> None:
    with signed_in() as browser:
        browser.app.order("users", username=PASSWORD_USER, password=PASSWORD, disabled=True)
    with signed_in() as browser:
        del browser.app.provider.state.users[PASSWORD_USER]


def test_a_session_ends_by_time() -> None:
    with signed_in() as browser:
        browser.app.order("clock", advance_s=3 * 86_400)


def test_a_grant_by_session_after_an_email_code_ends_when_the_code_s_own_does(browser: EntraBrowser) -> None:
    user = "otp@contoso.example"
    page = browser.submit(browser.authorize(), username=user, password="")
    browser.submit(page, username=user, password=browser.app.mail(user))
    browser.app.order("clock", advance_s=86_000)
    answer = browser.authorize(client_id=CLIENT_ID, prompt="none")
    token = str(browser.redeem(told(answer)["code"], client_id=CLIENT_ID, origin="")["refresh_token"])
    browser.app.order("clock", advance_s=399)
    assert browser.app.refresh(token).has_tokens
    browser.app.order("clock", advance_s=1)
    assert browser.app.refresh(token).why == ("invalid_grant", "", 70008)


def test_signing_out_ends_the_session_and_no_grant(browser: EntraBrowser) -> None:
    answer = browser.sign_in(client_id=CLIENT_ID)
    token = str(browser.redeem(told(answer)["code"], client_id=CLIENT_ID, origin="")["refresh_token"])
    left = browser.send("GET", f"{AUTHORITY}/logout?{urlencode({'post_logout_redirect_uri': PAGE, 'state': STATE})}")
    assert (left.status, dict(parse_qsl(urlsplit(dict(left.headers)["Location"]).query))) == (303, {"state": STATE})
    assert browser.cookies == {}
    assert is_form(browser.authorize())
    assert browser.app.refresh(token).has_tokens


def test_two_sandboxes_on_one_host_do_not_share_a_cookie(browser: EntraBrowser) -> None:
    browser.sign_in()
    assert list(browser.cookies) == ["ESTSAUTH", "ESTSAUTH_frames"]


# -- Who may redeem --------------------------------------------------------------------------------------------------

SPA, OTHER = SINGLE_PAGE.client_id, CLIENT_ID
WRONG = [(SPA, "", 9002327), (SPA, "http://127.0.0.1:8400", 9002327), (OTHER, PAGE, 9002326)]


@pytest.mark.parametrize(("client_id", "origin", "code"), WRONG)
def test_pages_redeem_what_pages_were_given(browser: EntraBrowser, client_id: str, origin: str, code: int) -> None:
    right = PAGE if client_id == SPA else ""
    refused = browser.redeem(told(browser.sign_in(client_id=client_id))["code"], client_id=client_id, origin=origin)
    assert (refused["error"], refused["error_codes"]) == ("invalid_request", [code])
    given = browser.redeem(told(browser.authorize(client_id=client_id))["code"], client_id=client_id, origin=right)
    fields = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": str(given["refresh_token"])}
    for sent, is_good in ((origin, False), (right, True)):
        headers = {"content-type": "application/x-www-form-urlencoded", **({"origin": sent} if sent else {})}
        answer = browser.app.send("POST", f"{AUTHORITY}/token", urlencode(fields).encode(), headers)
        assert answer.has_tokens is is_good, answer.json
    browser.app.order("lenient", name="spa-redemption")
    code_again = told(browser.authorize(client_id=client_id))["code"]
    assert "access_token" in browser.redeem(code_again, client_id=client_id, origin=origin)


def test_the_page_can_read_why(browser: EntraBrowser) -> None:
    fields = {"grant_type": "authorization_code", "client_id": OTHER, "code": "x", "redirect_uri": REDIRECT_URI}
    headers = {"content-type": "application/x-www-form-urlencoded", "origin": PAGE}
    body = urlencode({**fields, "code_verifier": VERIFIER}).encode()
    answer = browser.app.send("POST", f"{AUTHORITY}/token", body, headers)
    assert answer.json["error_codes"] == [9002326] and PAGE in answer.json["error_description"]
    assert answer.headers["access-control-allow-origin"] == PAGE


def test_native_sign_in_has_no_such_rule(browser: EntraBrowser) -> None:
    token = browser.app.by_password(PASSWORD_USER).json["refresh_token"]
    fields = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": token, "scope": SCOPE}
    headers = {"content-type": "application/x-www-form-urlencoded", "origin": PAGE}
    assert browser.app.send("POST", f"{AUTHORITY}/token", urlencode(fields).encode(), headers).has_tokens
