"""Refreshing, rotation, reuse, expiry and revocation under each profile."""

from __future__ import annotations

import pytest

from tests.sandbox.sandbox_client import OTP_USER, PASSWORD_USER, SCOPE, SandboxClient
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD

pytestmark = pytest.mark.asyncio
DAY_S = 86_400


async def test_a_refresh_answers_with_a_new_token_and_a_working_access_token(each: SandboxClient) -> None:
    tokens = await each.sign_in()
    reply = await each.refresh(tokens["refresh_token"])
    assert reply.status == 200
    assert reply.json["refresh_token"] != tokens["refresh_token"]
    assert reply.json["access_token"] != tokens["access_token"]
    resource = await each.resource(reply.json["access_token"])
    assert resource.status == 200
    assert resource.json["username"] == PASSWORD_USER
    assert resource.json["exp"] == 1_800_000_000 + 3600
    (event,) = await each.events("refresh_committed")
    assert (event["generation"], event["used_generation"], event["client_id"]) == (2, 1, CLIENT_ID)


# -- entra ------------------------------------------------------------------------------------------------------


async def test_entra_old_tokens_stay_valid_so_two_holders_go_on_from_one_ancestor(entra: SandboxClient) -> None:
    ancestor = (await entra.sign_in())["refresh_token"]
    one = (await entra.refresh(ancestor)).json["refresh_token"]
    two = (await entra.refresh(ancestor)).json["refresh_token"]
    for token in (one, two, ancestor):
        assert (await entra.refresh(token)).status == 200
    assert not await entra.events("reuse_detected", "family_killed")


async def test_entra_refresh_answers_always_hold_every_field(entra: SandboxClient) -> None:
    token = (await entra.sign_in(scope="api://sandbox/read offline_access"))["refresh_token"]
    reply = await entra.refresh(token, scope="api://sandbox/read")
    assert {"access_token", "refresh_token", "id_token", "client_info", "expires_in"} <= set(reply.json)


async def test_entra_idle_time_counts_anew_with_each_token(entra: SandboxClient) -> None:
    first = (await entra.sign_in())["refresh_token"]
    await entra.ordered("clock", advance_s=89 * DAY_S)
    second = (await entra.refresh(first)).json["refresh_token"]
    await entra.ordered("clock", advance_s=DAY_S)
    idle = await entra.refresh(first)
    assert (idle.status, idle.json["error"], idle.json["error_codes"]) == (400, "invalid_grant", [700082])
    await entra.ordered("clock", advance_s=88 * DAY_S)
    assert (await entra.refresh(second)).status == 200


async def test_entra_after_a_code_by_email_the_family_lives_a_day_and_does_not_slide(entra: SandboxClient) -> None:
    token = (await entra.sign_in(OTP_USER))["refresh_token"]
    await entra.ordered("clock", advance_s=DAY_S - 1)
    token = (await entra.refresh(token)).json["refresh_token"]
    await entra.ordered("clock", advance_s=1)
    ended = await entra.refresh(token)
    assert (ended.json["error"], ended.json["error_codes"]) == ("invalid_grant", [70008])


async def test_entra_revoking_a_user_ends_what_was_signed_in_before_and_nothing_later(entra: SandboxClient) -> None:
    before = await entra.sign_in()
    other = await entra.sign_in(OTP_USER)
    await entra.ordered("revoke", username=PASSWORD_USER)
    refused = await entra.refresh(before["refresh_token"])
    assert (refused.status, refused.json["error"], refused.json["error_codes"]) == (400, "invalid_grant", [50173])
    assert (await entra.events("refresh_denied"))[-1]["code"] == 50173
    assert (await entra.resource(before["access_token"])).status == 200  # lives to its end
    after = await entra.sign_in()
    assert (await entra.refresh(after["refresh_token"])).status == 200
    assert (await entra.refresh(other["refresh_token"])).status == 200


async def test_entra_replacing_a_user_does_not_bring_revoked_tokens_back(entra: SandboxClient) -> None:
    tokens = await entra.sign_in()
    await entra.ordered("revoke", username=PASSWORD_USER)
    await entra.ordered("users", username=PASSWORD_USER, password="another one")
    assert (await entra.refresh(tokens["refresh_token"])).json["error_codes"] == [50173]


async def test_entra_a_token_of_another_client_is_refused(entra: SandboxClient) -> None:
    await entra.ordered("clients", client_id="other-client")
    token = (await entra.sign_in())["refresh_token"]
    refused = await entra.refresh(token, client_id="other-client")
    assert (refused.json["error"], refused.json["error_codes"]) == ("invalid_grant", [70000])
    unknown = await entra.refresh(token, client_id="nobody")
    assert (unknown.json["error"], unknown.json["error_codes"]) == ("unauthorized_client", [700016])
    assert (await entra.refresh(token)).status == 200


async def test_entra_has_no_revocation_endpoint(entra: SandboxClient) -> None:
    assert (await entra.request("POST", f"{entra.authority}/oauth2/v2.0/revoke", data={"token": "x"})).status == 404


# -- auth0 ------------------------------------------------------------------------------------------------------


async def test_auth0_refuses_with_403_and_one_text_for_every_cause(auth0: SandboxClient) -> None:
    reply = await auth0.refresh("nonsense")
    assert reply.status == 403
    assert reply.json == {"error": "invalid_grant", "error_description": "Unknown or invalid refresh token."}
    tokens = await auth0.sign_in()
    await auth0.ordered("revoke", username=PASSWORD_USER)
    again = await auth0.refresh(tokens["refresh_token"])
    assert (again.status, again.json) == (403, reply.json)


async def test_auth0_previous_token_gets_another_successor_within_the_leeway(auth0: SandboxClient) -> None:
    first = (await auth0.sign_in())["refresh_token"]
    second = (await auth0.refresh(first)).json["refresh_token"]
    await auth0.ordered("clock", advance_s=30)  # the end of the leeway is still inside
    third = (await auth0.refresh(first)).json["refresh_token"]
    assert len({first, second, third}) == 3
    assert not await auth0.events("reuse_detected")
    assert (await auth0.refresh(third)).status == 200


async def test_auth0_previous_token_after_the_leeway_kills_the_family(auth0: SandboxClient) -> None:
    tokens = await auth0.sign_in()
    second = (await auth0.refresh(tokens["refresh_token"])).json
    await auth0.ordered("clock", advance_s=30.001)
    assert (await auth0.refresh(tokens["refresh_token"])).status == 403
    assert (await auth0.refresh(second["refresh_token"])).status == 403  # the rightful holder is out, too
    (event,) = await auth0.events("reuse_detected")
    assert (event["generation"], event["latest_generation"]) == (1, 2)
    assert [event["reason"] for event in await auth0.events("family_killed")] == ["reuse"]
    assert (await auth0.resource(second["access_token"])).status == 200  # a JWT lives on


async def test_auth0_second_to_last_token_kills_even_within_the_leeway(auth0: SandboxClient) -> None:
    first = (await auth0.sign_in())["refresh_token"]
    second = (await auth0.refresh(first)).json["refresh_token"]
    third = (await auth0.refresh(second)).json["refresh_token"]
    assert (await auth0.refresh(first)).status == 403
    assert (await auth0.refresh(third)).status == 403


async def test_auth0_a_repeated_token_is_second_to_last_after_the_repetition(auth0: SandboxClient) -> None:
    first = (await auth0.sign_in())["refresh_token"]
    second = (await auth0.refresh(first)).json["refresh_token"]
    third = (await auth0.refresh(first)).json["refresh_token"]
    assert (await auth0.refresh(second)).status == 200  # now the previous one
    assert (await auth0.refresh(third)).status == 200  # previous in its turn: the fourth is the newest
    assert (await auth0.refresh(first)).status == 403


async def test_auth0_leeway_is_a_knob(auth0: SandboxClient) -> None:
    await auth0.ordered("policy", leeway_s=0)
    first = (await auth0.sign_in())["refresh_token"]
    assert (await auth0.refresh(first)).status == 200
    assert (await auth0.refresh(first)).status == 403


async def test_auth0_absolute_lifetime_is_not_extended_by_rotation(auth0: SandboxClient) -> None:
    token = (await auth0.sign_in())["refresh_token"]
    await auth0.ordered("clock", advance_s=30 * DAY_S - 1)
    token = (await auth0.refresh(token)).json["refresh_token"]
    await auth0.ordered("clock", advance_s=1)
    assert (await auth0.refresh(token)).status == 403
    assert (await auth0.events("refresh_denied"))[-1]["reason"] == "expired"


async def test_auth0_idle_lifetime_ends_a_token_nobody_used(auth0: SandboxClient) -> None:
    await auth0.ordered("policy", refresh_idle_lifetime_s=100)
    token = (await auth0.sign_in())["refresh_token"]
    await auth0.ordered("clock", advance_s=100)
    assert (await auth0.refresh(token)).status == 403
    assert (await auth0.events("refresh_denied"))[-1]["reason"] == "idle"


async def test_auth0_takes_forms_and_json(auth0: SandboxClient) -> None:
    token = (await auth0.sign_in())["refresh_token"]
    body = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token}
    assert (await auth0.request("POST", "/oauth/token", json=body)).status == 200
    assert (await auth0.request("POST", "/oauth/token", json={**body, "nested": {}})).status == 400
    assert (await auth0.request("POST", "/oauth/token", json=["a"])).status == 400


async def test_auth0_password_grant(auth0: SandboxClient, strict: SandboxClient) -> None:
    given = {"grant_type": "password", "username": PASSWORD_USER, "scope": SCOPE}
    reply = await auth0.token(password=PASSWORD, **given)
    assert reply.status == 200 and reply.json["refresh_token"]
    wrong = await auth0.token(password="wrong", **given)
    assert (wrong.status, wrong.json["error"]) == (403, "invalid_grant")
    by_code = await auth0.token(**{**given, "username": OTP_USER, "password": "x"})
    assert (by_code.status, by_code.json["error"]) == (403, "invalid_grant")
    elsewhere = await strict.token(password=PASSWORD, **given)
    assert (elsewhere.status, elsewhere.json["error"]) == (400, "unsupported_grant_type")


async def test_an_unknown_client_is_401(auth0: SandboxClient) -> None:
    reply = await auth0.refresh("x", client_id="nobody")
    assert (reply.status, reply.json["error"]) == (401, "invalid_client")
    assert "www-authenticate" in reply.headers


async def test_another_audience_than_the_grant_s_is_refused(auth0: SandboxClient) -> None:
    token = (await auth0.sign_in())["refresh_token"]
    reply = await auth0.refresh(token, audience="urn:other")
    assert (reply.status, reply.json["error"]) == (403, "access_denied")
    assert (await auth0.refresh(token)).status == 200


# -- strict -----------------------------------------------------------------------------------------------------


async def test_strict_reuse_kills_the_family_and_its_access_tokens_at_once(strict: SandboxClient) -> None:
    tokens = await strict.sign_in()
    second = (await strict.refresh(tokens["refresh_token"])).json
    assert (await strict.resource(tokens["access_token"])).status == 200
    refused = await strict.refresh(tokens["refresh_token"])  # no leeway, not even within the same second
    assert (refused.status, refused.json["error"]) == (400, "invalid_grant")
    assert (await strict.refresh(second["refresh_token"])).status == 400
    for access_token in (tokens["access_token"], second["access_token"]):
        reply = await strict.resource(access_token)
        assert reply.status == 401
        assert 'error="invalid_token"' in reply.headers["www-authenticate"]


async def test_strict_other_families_of_the_same_person_live_on(strict: SandboxClient) -> None:
    one, two = await strict.sign_in(), await strict.sign_in()
    await strict.refresh(one["refresh_token"])
    await strict.refresh(one["refresh_token"])
    assert (await strict.refresh(two["refresh_token"])).status == 200


# -- scope, RFC 6749 §6 -----------------------------------------------------------------------------------------


async def test_scope_may_be_narrowed_for_one_access_token_and_comes_back(each: SandboxClient) -> None:
    token = (await each.sign_in(scope="read write offline_access"))["refresh_token"]
    narrow = await each.refresh(token, scope="read")
    assert narrow.json["scope"] == "read"
    assert (await each.resource(narrow.json["access_token"])).json["scope"] == "read"
    whole = await each.refresh(narrow.json["refresh_token"])
    assert set(whole.json["scope"].split()) - {"offline_access"} == {"read", "write"}


async def test_scope_beyond_the_grant_is_refused_and_rotates_nothing(each: SandboxClient) -> None:
    await each.ordered("clients", client_id=CLIENT_ID, scopes=["read"])
    token = (await each.sign_in(scope="read offline_access"))["refresh_token"]
    for scope in ("read write", 'a"b', "\u00e9"):
        reply = await each.refresh(token, scope=scope)
        assert (reply.status, reply.json["error"]) == (400, "invalid_scope")
    assert not await each.events("refresh_committed", "reuse_detected")
    assert (await each.refresh(token)).status == 200


async def test_without_offline_access_there_is_no_refresh_token(each: SandboxClient) -> None:
    assert "refresh_token" not in await each.sign_in(scope="openid")


async def test_a_client_gets_no_scope_that_it_is_not_allowed(auth0: SandboxClient) -> None:
    await auth0.ordered("clients", client_id="small", scopes=["read"], grant_types=["password"])
    given = {"client_id": "small", "grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD}
    assert (await auth0.token(**given, scope="read openid offline_access")).status == 200
    refused = await auth0.token(**given, scope="read write")
    assert (refused.status, refused.json["error"]) == (400, "invalid_scope")


# -- revocation, RFC 7009 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
async def test_revoking_a_refresh_token_ends_its_family(auth0: SandboxClient, as_json: bool) -> None:
    tokens = await auth0.sign_in()
    body = {"client_id": CLIENT_ID, "token": tokens["refresh_token"], "token_type_hint": "refresh_token"}
    reply = await auth0.request("POST", "/oauth/revoke", **({"json": body} if as_json else {"data": body}))
    assert (reply.status, reply.text) == (200, "")
    assert (await auth0.refresh(tokens["refresh_token"])).status == 403
    assert (await auth0.events("token_revoked"))[0]["token_type"] == "refresh_token"


async def test_strict_revoking_takes_the_access_tokens_along(strict: SandboxClient) -> None:
    tokens = await strict.sign_in()
    await strict.request("POST", "/oauth/revoke", data={"client_id": CLIENT_ID, "token": tokens["refresh_token"]})
    assert (await strict.resource(tokens["access_token"])).status == 401


async def test_revoking_an_access_token(auth0: SandboxClient, strict: SandboxClient) -> None:
    tokens = await strict.sign_in()
    body = {"client_id": CLIENT_ID, "token": tokens["access_token"]}
    assert (await strict.request("POST", "/oauth/revoke", data=body)).status == 200
    assert (await strict.resource(tokens["access_token"])).status == 401
    assert (await strict.refresh(tokens["refresh_token"])).status == 200
    body["token"] = (await auth0.sign_in())["access_token"]
    reply = await auth0.request("POST", "/oauth/revoke", data=body)
    assert (reply.status, reply.json["error"]) == (400, "unsupported_token_type")


async def test_revocation_answers_200_for_unknown_tokens_and_refuses_those_of_others(auth0: SandboxClient) -> None:
    await auth0.ordered("clients", client_id="other-client")
    tokens = await auth0.sign_in()
    send = {"client_id": CLIENT_ID, "token": "unknown"}
    assert (await auth0.request("POST", "/oauth/revoke", data=send)).status == 200
    other = {"client_id": "other-client", "token": tokens["refresh_token"]}
    assert (await auth0.request("POST", "/oauth/revoke", data=other)).status == 400
    assert (await auth0.request("POST", "/oauth/revoke", data={"client_id": CLIENT_ID})).status == 400
    nobody = {"client_id": "nobody", "token": "x"}
    assert (await auth0.request("POST", "/oauth/revoke", data=nobody)).status == 401
    assert (await auth0.refresh(tokens["refresh_token"])).status == 200


# -- the protected resource -------------------------------------------------------------------------------------


async def test_the_resource_refuses_what_is_missing_unknown_or_expired(each: SandboxClient) -> None:
    await each.ordered("policy", access_token_lifetime_s=60)
    tokens = await each.sign_in()
    assert tokens["expires_in"] == 60
    bare = await each.request("GET", "/sandbox/resource")
    assert (bare.status, bare.headers["www-authenticate"]) == (401, "Bearer")
    assert (await each.resource("x.y.z")).status == 401
    assert (await each.resource(tokens["refresh_token"])).status == 401
    await each.ordered("clock", advance_s=59)
    assert (await each.resource(tokens["access_token"])).status == 200
    await each.ordered("clock", advance_s=1)
    assert (await each.resource(tokens["access_token"])).status == 401
