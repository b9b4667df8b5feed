"""One refresh token for several APIs: what ``refresh_token.policies`` of a client lets it ask for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.transfer_kit import CLIENT_ID, Desk, claims_of, desk

API, BILLING = "https://api.example", "https://billing.example"
USERINFO = "http://127.0.0.1:8400/userinfo"
ROTATING = {"rotation_type": "rotating", "expiration_type": "expiring"}
POLICIES = [{"audience": API, "scope": ["read:data"]}, {"audience": BILLING, "scope": ["read:bills", "pay:bills"]}]
SCOPE = "openid offline_access read:data write:data"


def signed_in(policies: Any = POLICIES) -> tuple[Desk, str]:
    one = desk()
    one.set(CLIENT_ID, refresh_token={**ROTATING, "policies": policies})
    return one, one.sign_in(scope=SCOPE, audience=API)


def access(one: Desk, refresh_token: str, **more: str) -> tuple[str, str, dict[str, Any]]:
    """Refresh; return the access token's API and scope, and the log's details of it."""
    reply = one.refresh(refresh_token, **more)
    assert reply.status == 200, reply.text
    claims = claims_of(reply.json["access_token"])
    assert claims["scope"] == reply.json["scope"]
    record = one.logs("sertft")[-1]
    api = str(claims["aud"][0] if "openid" in claims["scope"] else claims["aud"])
    assert record["audience"] == api
    return api, claims["scope"], record["details"]


def test_another_api_of_the_policies_gets_a_token_with_the_policys_scopes() -> None:
    one, token = signed_in()
    audience, scope, details = access(one, token, audience=BILLING)
    assert (audience, scope) == (BILLING, "openid offline_access read:bills pay:bills")
    assert (details["policy_used"], details["requested_audience"]) == ("mrrt", BILLING)


def test_the_grant_and_its_rotation_stay_one_whatever_api_is_asked_for() -> None:
    one, first = signed_in()
    second = one.refresh(first, audience=BILLING).json["refresh_token"]
    third = one.refresh(second).json
    assert claims_of(third["access_token"])["aud"] == [API, USERINFO]
    assert one.family_of(first) == one.family_of(third["refresh_token"])
    assert one.refresh(first, audience=BILLING).status == 403
    assert one.refresh(third["refresh_token"], audience=BILLING).status == 403


def test_scopes_outside_the_policy_are_left_out_and_never_added() -> None:
    one, token = signed_in()
    assert access(one, token, audience=BILLING, scope="read:bills write:data")[1] == "read:bills"
    one, token = signed_in()
    assert access(one, token, audience=BILLING, scope="write:data")[1] == ""


def test_for_the_grants_own_api_what_was_granted_and_the_policy_count_together() -> None:
    one, token = signed_in([{"audience": API, "scope": ["read:data", "delete:data"]}])
    assert access(one, token, audience=API)[:2] == (API, f"{SCOPE} delete:data")
    one, token = signed_in()
    audience, scope, details = access(one, token)
    assert (audience, scope, details["policy_used"]) == (API, SCOPE, "refresh_token_user_grant")


def test_an_api_outside_the_policies_is_ignored_and_the_answer_is_for_the_grants_own() -> None:
    one, token = signed_in()
    audience, scope, details = access(one, token, audience="https://other.example")
    assert (audience, scope, details["policy_used"]) == (API, SCOPE, "refresh_token_user_grant")


@pytest.mark.parametrize("policies", [None, []])
def test_without_policies_another_api_is_refused(policies: Any) -> None:
    one, token = signed_in(policies)
    reply = one.refresh(token, audience=BILLING)
    assert (reply.status, reply.json["error"]) == (403, "access_denied")


def test_a_policy_that_is_taken_away_counts_at_the_next_exchange() -> None:
    one, token = signed_in()
    token = one.refresh(token, audience=BILLING).json["refresh_token"]
    one.set(CLIENT_ID, refresh_token=ROTATING)
    assert one.refresh(token, audience=BILLING).status == 403


def test_policies_are_for_first_party_clients_and_lives_without_end_neither_for_others_nor_for_pages() -> None:
    one = desk()
    endless = {"rotation_type": "non-rotating", "expiration_type": "expiring", "infinite_token_lifetime": True}
    for body, named in (
        ({"is_first_party": False, "refresh_token": {**ROTATING, "policies": POLICIES}}, "policies"),
        ({"is_first_party": False, "refresh_token": endless}, "third-party"),
        ({"app_type": "spa", "refresh_token": endless}, "single-page"),
    ):
        reply = one.manage("PATCH", f"clients/{CLIENT_ID}", body)
        assert (reply.status, reply.json["errorCode"]) == (400, "invalid_body")
        assert named in reply.json["message"]


def test_a_setting_that_names_no_idle_life_has_thirty_days_or_its_whole_life_where_that_is_less() -> None:
    for life_s, idle_s in ((31_557_600, 2_592_000), (60, 60)):
        one = desk()
        setting = {"rotation_type": "rotating", "expiration_type": "expiring", "token_lifetime": life_s}
        one.set(CLIENT_ID, refresh_token=setting)
        token = one.sign_in()
        one.now += idle_s - 1
        token = one.refresh(token).json["refresh_token"]
        one.now += idle_s
        assert one.refresh(token).status == 403


def test_an_action_may_deny_a_refresh() -> None:
    denies = {"commands": [{"do": "deny", "reason": "not from there"}]}
    one = desk(action=lambda event: denies if "refresh_token" in event else {"commands": []})
    reply = one.refresh(one.sign_in())
    assert (reply.status, reply.json) == (403, {"error": "access_denied", "error_description": "not from there"})
