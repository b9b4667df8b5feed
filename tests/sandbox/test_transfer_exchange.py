"""Trading a refresh token for a session transfer token; rotation by a client's own setting; what the log says."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.sandbox_client import NOON, PASSWORD_USER, SCOPE
from tests.sandbox.transfer_kit import AUDIENCE, CLIENT_ID, HOME, WEB_ID, Browser, claims_of, desk, web
from token_relay.sandbox.provider.tokens.session_transfer import ISSUED_TOKEN_TYPE
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET

ROTATING = {"rotation_type": "rotating", "expiration_type": "expiring"}
STEADY = {"rotation_type": "non-rotating", "expiration_type": "non-expiring"}
REFUSED = {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."}
DAY_S = 86_400


# -- the exchange -------------------------------------------------------------------------------------------------


def test_the_exchange_answers_with_an_opaque_token_that_is_no_access_token() -> None:
    one = desk()
    refresh_token = one.sign_in()
    reply = one.exchange(refresh_token)
    assert reply.status == 200
    assert set(reply.json) == {
        "access_token",
        "issued_token_type",
        "token_type",
        "expires_in",
        "refresh_token",
        "id_token",
    }
    assert (reply.json["issued_token_type"], reply.json["token_type"], reply.json["expires_in"]) == (
        ISSUED_TOKEN_TYPE,
        "N_A",
        60,
    )
    assert claims_of(reply.json["id_token"])["nickname"] == "password"
    assert one.refresh(reply.json["refresh_token"]).status == 200
    headers = {"authorization": f"Bearer {reply.json['access_token']}"}
    assert one.send("GET", "/userinfo", headers=headers).status == 401
    (log,) = one.logs("sertft")[:1]
    assert (log["audience"], log["ip"], log["details"]["familyId"]) == (AUDIENCE, HOME, one.family_of(refresh_token))


def test_the_exchange_takes_json_too_and_an_empty_scope_counts_as_omitted() -> None:
    one = desk()
    body = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": one.sign_in(), "scope": ""}
    reply = one.send("POST", "/oauth/token", body={**body, "audience": AUDIENCE})
    assert reply.json["issued_token_type"] == ISSUED_TOKEN_TYPE


def test_without_openid_there_is_no_id_token_and_without_rotation_no_refresh_token() -> None:
    one = desk()
    one.set(CLIENT_ID, refresh_token=STEADY)
    refresh_token = one.sign_in(scope="offline_access")
    reply = one.exchange(refresh_token)
    assert set(reply.json) == {"access_token", "issued_token_type", "token_type", "expires_in"}
    assert one.exchange(refresh_token).status == 200


@pytest.mark.parametrize("domain", ["127.0.0.1", "127.0.0.1:8400"])
def test_the_audience_names_this_host_with_or_without_its_port(domain: str) -> None:
    one = desk()
    assert one.exchange(one.sign_in(), audience=f"urn:{domain}:session_transfer").status == 200
    refused = one.exchange(one.sign_in(), audience="urn:elsewhere.example:session_transfer")
    assert (refused.status, refused.json["error"]) == (403, "access_denied")


def test_a_client_that_may_not_create_tokens_is_refused_and_its_refresh_token_is_not_spent() -> None:
    one = desk()
    refresh_token = one.sign_in()
    one.set(CLIENT_ID, session_transfer=None)
    reply = one.exchange(refresh_token)
    assert (reply.status, reply.json["error"]) == (403, "access_denied")
    assert one.logs("fertft")[-1]["audience"] == AUDIENCE
    assert one.refresh(refresh_token).status == 200


def test_a_refresh_token_of_a_transferred_session_cannot_be_exchanged_again() -> None:
    one = desk()
    one.set(WEB_ID, session_transfer=web(allow_refresh_token=True, can_create_session_transfer_token=True))
    stt, _ = one.transfer(one.sign_in())
    tokens = Browser(one).web_tokens(stt)
    more = {"client_id": WEB_ID, "client_secret": WEB_SECRET}
    reply = one.exchange(tokens["refresh_token"], **more)
    assert (reply.status, reply.json["error"]) == (400, "invalid_request")
    assert one.refresh(tokens["refresh_token"], **more).status == 200


def test_offline_access_gives_no_refresh_token_and_no_error_where_the_web_client_does_not_allow_it() -> None:
    one = desk()
    for allowed in (False, True):
        one.set(WEB_ID, session_transfer=web(allow_refresh_token=allowed))
        stt, _ = one.transfer(one.sign_in())
        tokens = Browser(one).web_tokens(stt)
        assert ("refresh_token" in tokens) is allowed
        assert claims_of(tokens["id_token"])["sid"]
    by_form = Browser(one)
    one.set(WEB_ID, session_transfer=web(allow_refresh_token=False))
    assert "refresh_token" in by_form.redeem(by_form.form_sign_in().code).json  # it concerns transferred sessions


def test_a_confidential_client_proves_itself_and_needs_no_pkce() -> None:
    one = desk()
    browser = Browser(one)
    code = browser.submit(browser.authorize(code_challenge="", code_challenge_method="")).code
    fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": "http://127.0.0.1:51234/callback"}
    for secret in ("", "wrong"):
        refused = one.send("POST", "/oauth/token", form={**fields, "client_id": WEB_ID, "client_secret": secret})
        assert (refused.status, refused.json["error"]) == (401, "invalid_client")
    import base64

    basic = {"authorization": "Basic " + base64.b64encode(f"{WEB_ID}:{WEB_SECRET}".encode()).decode()}
    assert one.send("POST", "/oauth/token", form=fields, headers=basic).status == 200


# -- the setting refresh_token ------------------------------------------------------------------------------------


def with_setting(**setting: Any) -> tuple[Any, str]:
    one = desk()
    one.set(CLIENT_ID, refresh_token=setting)
    return one, one.sign_in()


def test_within_the_leeway_the_previous_token_gets_another_successor_and_nothing_is_logged_as_reuse() -> None:
    one, first = with_setting(**ROTATING, leeway=10)
    assert one.refresh(first).status == 200
    one.now += 10
    again = one.refresh(first)
    assert again.status == 200
    assert one.refresh(again.json["refresh_token"]).status == 200
    assert one.logs("ferrt") == []


def test_the_second_to_last_token_kills_the_family_even_within_the_leeway() -> None:
    one, first = with_setting(**ROTATING, leeway=10)
    second = one.refresh(first).json["refresh_token"]
    third = one.refresh(second).json["refresh_token"]
    reply = one.refresh(first)
    assert (reply.status, reply.json) == (403, REFUSED)
    assert one.refresh(third).json == REFUSED
    (log,) = one.logs("ferrt")
    assert (log["details"]["tokenCounter"], log["details"]["latestCounter"]) == (1, 3)
    assert log["details"]["familyId"] == one.family_of(third)


def test_without_a_leeway_a_second_use_kills_the_family() -> None:
    one, first = with_setting(**ROTATING)
    second = one.refresh(first).json["refresh_token"]
    assert one.refresh(first).json == REFUSED
    assert one.refresh(second).json == REFUSED


def test_a_knob_makes_the_status_of_a_refused_grant_that_of_the_rfc() -> None:
    one = desk()
    one.provider.state.policy = one.provider.state.policy.model_copy(update={"refused_grant_status": 400})
    assert one.refresh("nonsense").status == 400


def test_without_rotation_the_same_token_works_again_and_again() -> None:
    one, token = with_setting(**STEADY)
    for _ in range(3):
        one.now += 400 * DAY_S
        reply = one.refresh(token)
        assert reply.status == 200
        assert "refresh_token" not in reply.json


def test_the_absolute_lifetime_is_fixed_at_the_sign_in_and_the_idle_one_begins_anew() -> None:
    one, token = with_setting(**ROTATING, token_lifetime=1_000, idle_token_lifetime=400)
    for _ in range(2):
        one.now += 399
        token = one.refresh(token).json["refresh_token"]
    one.now = NOON + 1_000
    assert one.refresh(token).json == REFUSED
    one, token = with_setting(**ROTATING, token_lifetime=1_000, idle_token_lifetime=400)
    one.now += 400
    assert one.refresh(token).json == REFUSED


def test_the_idle_lifetime_follows_the_present_setting() -> None:
    one, token = with_setting(**ROTATING, token_lifetime=100_000, idle_token_lifetime=400)
    one.set(CLIENT_ID, refresh_token={**ROTATING, "token_lifetime": 100_000, "idle_token_lifetime": 4_000})
    token = one.refresh(token).json["refresh_token"]
    one.now += 3_999
    assert one.refresh(token).status == 200


def test_switching_rotation_on_ends_the_other_tokens_of_that_kind_at_the_first_exchange() -> None:
    one, first = with_setting(**STEADY)
    second = one.sign_in()
    one.set(CLIENT_ID, refresh_token=ROTATING)
    assert "refresh_token" in one.refresh(first).json
    assert one.refresh(second).json == REFUSED


def test_switching_rotation_off_ends_the_family_at_its_next_exchange() -> None:
    one, first = with_setting(**ROTATING)
    one.set(CLIENT_ID, refresh_token=STEADY)
    assert one.refresh(first).json == REFUSED
    assert one.refresh(one.sign_in()).status == 200


def test_of_two_hundred_and_one_refresh_tokens_the_oldest_goes() -> None:
    one = desk()
    tokens = [one.sign_in() for _ in range(201)]
    assert one.refresh(tokens[0]).json == REFUSED
    assert one.refresh(tokens[1]).status == 200
    (log,) = one.logs("resource_cleanup")
    assert log["details"]["credential_id"] == one.family_of(tokens[0])


def test_who_asks_too_often_is_told_when_to_come_again() -> None:
    one = desk()
    one.provider.state.policy = one.provider.state.policy.model_copy(update={"requests_per_minute_max": 1})
    one.sign_in()
    reply = one.refresh("any")
    assert (reply.status, reply.json["error"]) == (429, "too_many_requests")
    headers = dict(reply.headers)
    assert (headers["Retry-After"], headers["x-ratelimit-remaining"]) == ("60", "0")
    assert headers["x-ratelimit-reset"] == str(int(NOON) + 60)


def test_a_deleted_person_is_named_as_the_cause() -> None:
    one = desk()
    token = one.sign_in()
    del one.provider.state.users[PASSWORD_USER]
    assert one.refresh(token).json["error_description"] == (
        "The refresh_token was generated for a user who doesn't exist anymore."
    )


def test_no_log_record_holds_a_token() -> None:
    one = desk()
    one.set(WEB_ID, session_transfer=web(allow_refresh_token=True))
    stt, refresh_token = one.transfer(one.sign_in(scope=SCOPE))
    tokens = Browser(one).web_tokens(stt)
    Browser(one).authorize(stt=stt)
    one.refresh(tokens["refresh_token"])
    one.revoke(refresh_token)
    text = repr(one.logs()) + repr([event.as_json() for event in one.provider.state.events])
    assert "SANDBOXMARK" not in text
    assert WEB_SECRET not in text
