"""The revocation graph: what ends with what, by name and after any sequence of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.sandbox.sandbox_client import PASSWORD_USER
from tests.sandbox.transfer_kit import CLIENT_ID, OTHER_USER, SPA_ID, WEB_ID, Browser, Desk, desk, user_id, web
from token_relay.sandbox.provider.tokens.cascade import is_online, setting_of
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET

NATIVE = {"can_create_session_transfer_token": True}


def story(**setting: Any) -> tuple[Desk, str, Browser, str]:
    """A native grant, a browser that came from it, and that browser's own refresh token."""
    one = desk()
    one.set(WEB_ID, session_transfer=web(allow_refresh_token=True, **setting))
    stt, refresh_token = one.transfer(one.sign_in())
    browser = Browser(one)
    return one, refresh_token, browser, browser.web_tokens(stt)["refresh_token"]


def by_holder(one: Desk, token: str) -> None:
    assert one.revoke(token).status == 200


def by_administrator(one: Desk, token: str) -> None:
    assert one.manage("DELETE", f"refresh-tokens/{one.family_of(token)}").status == 202


def by_bulk(one: Desk, token: str) -> None:
    assert one.manage("POST", "refresh-tokens/revoke", {"ids": [one.family_of(token)]}).status == 202


def by_device_credential(one: Desk, token: str) -> None:
    assert one.manage("DELETE", f"device-credentials/{one.family_of(token)}").status == 204


def by_reuse(one: Desk, token: str) -> None:
    second = one.refresh(token).json["refresh_token"]
    one.refresh(second)
    assert one.refresh(token).status == 403


def by_deleting_the_client(one: Desk, token: str) -> None:
    assert one.manage("DELETE", f"clients/{CLIENT_ID}").status == 204


@pytest.mark.parametrize(
    "way", [by_holder, by_administrator, by_bulk, by_device_credential, by_reuse, by_deleting_the_client]
)
def test_the_end_of_the_native_grant_ends_sessions_and_web_grants(way: Callable[[Desk, str], None]) -> None:
    one, refresh_token, browser, web_token = story()
    way(one, refresh_token)
    assert one.live_sessions() == []
    assert browser.web_refresh(web_token).status == 403
    assert browser.authorize(prompt="none").location["error"] == "login_required"
    assert "cascade" in {log["details"]["cause"] for log in one.logs("srrt")}


def test_without_enforced_cascade_sessions_and_web_grants_outlive_the_native_grant() -> None:
    one, refresh_token, browser, web_token = story()
    one.set(CLIENT_ID, session_transfer={**NATIVE, "enforce_cascade_revocation": False})
    by_holder(one, refresh_token)
    assert browser.authorize(prompt="none").code
    assert browser.web_refresh(web_token).status == 200


def test_rotation_is_no_revocation() -> None:
    one, refresh_token, browser, web_token = story()
    for _ in range(5):
        refresh_token = one.refresh(refresh_token).json["refresh_token"]
    assert browser.web_refresh(web_token).status == 200


def test_the_end_of_the_session_ends_online_grants_and_nothing_upwards() -> None:
    one, refresh_token, browser, web_token = story()
    (session_id,) = one.live_sessions()
    assert one.manage("DELETE", f"sessions/{session_id}").status == 202
    assert browser.web_refresh(web_token).status == 403
    assert one.refresh(refresh_token).status == 200


def test_an_offline_grant_outlives_its_session_unless_both_are_revoked() -> None:
    one, _, browser, web_token = story(enforce_online_refresh_tokens=False)
    assert browser.send("GET", "/v2/logout").status == 200
    assert one.live_sessions() == []
    reply = browser.web_refresh(web_token)
    assert reply.status == 200
    one, _, browser, web_token = story(enforce_online_refresh_tokens=False)
    (session_id,) = one.live_sessions()
    assert one.manage("POST", f"sessions/{session_id}/revoke").status == 202
    assert browser.web_refresh(web_token).status == 403


def test_an_online_grant_ends_when_its_session_expires() -> None:
    one, refresh_token, browser, web_token = story()
    one.now += 3 * 86_400
    assert browser.web_refresh(web_token).status == 403
    assert one.refresh(refresh_token).status == 200


def test_a_code_of_a_session_that_ended_meanwhile_is_worth_nothing() -> None:
    one, refresh_token, browser, _ = story()
    code = browser.authorize(prompt="none").code
    by_holder(one, refresh_token)
    assert browser.redeem(code).json["error"] == "invalid_grant"


def test_a_second_application_of_the_session_hangs_on_the_native_grant_too() -> None:
    one, refresh_token, browser, _ = story()
    one.set(SPA_ID, session_transfer=web(allow_refresh_token=True))
    tokens = browser.redeem(browser.authorize(SPA_ID).code, SPA_ID).json
    by_holder(one, refresh_token)
    refused = one.refresh(tokens["refresh_token"], client_id=SPA_ID)
    assert refused.status == 403


def test_revoking_a_person_ends_sessions_and_grants() -> None:
    one, refresh_token, browser, web_token = story()
    owner = user_id(PASSWORD_USER)
    assert one.manage("DELETE", f"users/{owner}/sessions").status == 202
    assert browser.web_refresh(web_token).status == 403
    assert one.manage("DELETE", f"users/{owner}/refresh-tokens").status == 202
    assert one.refresh(refresh_token).status == 403


def test_with_the_grant_switch_revoking_one_token_takes_its_like() -> None:
    one = desk()
    one.provider.state.policy = one.provider.state.policy.model_copy(update={"revoking_deletes_grant": True})
    phone, watch = one.sign_in(), one.sign_in()
    by_holder(one, watch)
    assert one.refresh(phone).status == 403


# -- after any sequence of operations -----------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Native grants, browsers and an administrator, in any order. Cascades are enforced throughout."""

    natives = Bundle("natives")
    transfers = Bundle("transfers")
    codes = Bundle("codes")
    web_tokens = Bundle("web_tokens")

    @initialize()
    def begin(self) -> None:
        self.one = desk()
        self.one.set(WEB_ID, session_transfer=web(allow_refresh_token=True))
        self.one.set(SPA_ID, session_transfer=web(allow_refresh_token=True, enforce_online_refresh_tokens=False))
        kinds = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]
        self.one.set(SPA_ID, grant_types=kinds)
        self.browsers = [Browser(self.one), Browser(self.one)]
        self.token = self.one.manager()

    @rule(target=natives, username=st.sampled_from([PASSWORD_USER, OTHER_USER]))
    def sign_in(self, username: str) -> str:
        return self.one.sign_in(username)

    @rule(target=natives, token=natives)
    def refresh(self, token: str) -> str:
        return str((self.one.refresh(token).json or {}).get("refresh_token", token))

    @rule(target=transfers, token=natives)
    def exchange(self, token: str) -> str:
        return self.exchanged(token)

    def exchanged(self, token: str) -> str:
        return str((self.one.exchange(token).json or {}).get("access_token", "none"))

    @rule(target=codes, stt=transfers, which=st.integers(0, 1), client_id=st.sampled_from([WEB_ID, SPA_ID]))
    def arrive(self, stt: str, which: int, client_id: str) -> tuple[str, str]:
        return self.arrived(stt, which, client_id)

    def arrived(self, stt: str, which: int, client_id: str) -> tuple[str, str]:
        return self.browsers[which].authorize(client_id, stt=stt).code or "none", client_id

    @rule(target=web_tokens, token=natives, which=st.integers(0, 1), client_id=st.sampled_from([WEB_ID, SPA_ID]))
    def come_all_the_way(self, token: str, which: int, client_id: str) -> tuple[str, str]:
        return self.redeemed(self.arrived(self.exchanged(token), which, client_id))

    @rule(target=codes, which=st.integers(0, 1), client_id=st.sampled_from([WEB_ID, SPA_ID]))
    def sso(self, which: int, client_id: str) -> tuple[str, str]:
        return self.browsers[which].authorize(client_id, prompt="none").code or "none", client_id

    @rule(target=codes, which=st.integers(0, 1))
    def sso_for_an_online_grant(self, which: int) -> tuple[str, str]:
        reply = self.browsers[which].authorize(prompt="none", scope="openid online_access")
        return reply.code or "none", WEB_ID

    @rule(target=web_tokens, which=st.integers(0, 1), is_late=st.booleans())
    def sign_a_device_in(self, which: int, is_late: bool) -> tuple[str, str]:
        """A session approves a device, if there is one; it may end before the device asks."""
        if "auth0" not in self.browsers[which].cookies:
            return "none", SPA_ID
        form = {"client_id": SPA_ID, "scope": "openid offline_access"}
        told = self.one.send("POST", "/oauth/device/code", form=form).json
        page = self.browsers[which].send("GET", f"/activate?user_code={told['user_code']}")
        if 'name="action"' not in page.text:
            return "none", SPA_ID
        ticket = page.text.split('name="ticket" value="')[1].split('"')[0]
        self.browsers[which].send("POST", "/login", form={"ticket": ticket, "action": "accept"})
        if is_late:
            self.one.manage("DELETE", f"users/{user_id(PASSWORD_USER)}/sessions", token=self.token)
        kind = "urn:ietf:params:oauth:grant-type:device_code"
        reply = self.one.token(client_id=SPA_ID, grant_type=kind, device_code=told["device_code"])
        return str((reply.json or {}).get("refresh_token", "none")), SPA_ID

    @rule(token=web_tokens)
    def revoke_as_web_client(self, token: tuple[str, str]) -> None:
        value, client_id = token
        secret = {"client_secret": WEB_SECRET} if client_id == WEB_ID else {}
        self.one.revoke(value, client_id, **secret)

    @rule(target=web_tokens, code=codes)
    def redeem(self, code: tuple[str, str]) -> tuple[str, str]:
        return self.redeemed(code)

    def redeemed(self, code: tuple[str, str]) -> tuple[str, str]:
        reply = self.browsers[0].redeem(*code)
        return str((reply.json or {}).get("refresh_token", "none")), code[1]

    @rule(target=web_tokens, token=consumes(web_tokens))
    def web_refresh(self, token: tuple[str, str]) -> tuple[str, str]:
        value, client_id = token
        reply = (
            self.browsers[0].web_refresh(value) if client_id == WEB_ID else self.one.refresh(value, client_id=SPA_ID)
        )
        return str((reply.json or {}).get("refresh_token", value)), client_id

    @rule(token=natives)
    def revoke(self, token: str) -> None:
        self.one.revoke(token)

    @rule(which=st.integers(0, 1))
    def log_out(self, which: int) -> None:
        self.browsers[which].send("GET", "/v2/logout")

    @rule(which=st.integers(0, 9), way=st.sampled_from(["DELETE", "POST"]))
    def end_session(self, which: int, way: str) -> None:
        sessions = list(self.one.provider.state.sessions)
        if sessions:
            name = sessions[which % len(sessions)]
            path = f"sessions/{name}" if way == "DELETE" else f"sessions/{name}/revoke"
            self.one.manage(way, path, token=self.token)

    @rule(seconds=st.sampled_from([1, 59, 3_600, 80_000]))
    def wait(self, seconds: int) -> None:
        self.one.now += seconds
        self.token = self.one.manager()

    @invariant()
    def nothing_outlives_its_cascade(self) -> None:
        if not hasattr(self, "one"):
            return
        state = self.one.provider.state
        dead = {name for name, family in state.families.items() if family.is_dead}
        for session in state.sessions.values():
            assert session.parent_family_id not in dead
        for family in state.families.values():
            if family.is_dead:
                continue
            assert family.parent_family_id not in dead
            if family.is_online or is_online(state, family):
                assert family.session_id in state.sessions
        assert setting_of(state, CLIENT_ID).enforce_cascade_revocation
        assert set(state.session_cookies.values()) == set(state.sessions)


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestNothingOutlivesItsCascade = Histories.TestCase
