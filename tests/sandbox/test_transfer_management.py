"""The management API: scopes, closed schemas, pages of lists, and every route that the sandbox has."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.sandbox_client import PASSWORD_USER
from tests.sandbox.transfer_kit import AUDIENCE, BASE, CLIENT_ID, WEB_ID, Browser, desk, user_id, web
from token_relay.sandbox.provider.core import MANAGEMENT_ROUTES
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.management import clients, grants
from token_relay.sandbox.provider.world.auth0_clients import MANAGER_ID, MANAGER_SECRET, WEB_SECRET
from token_relay.sandbox.provider.world.model import CLIENTS_MAX

OWNER = user_id(PASSWORD_USER)


def test_a_token_comes_from_client_credentials_with_the_scopes_that_were_asked_for() -> None:
    one = desk()
    token = one.manager("read:clients read:logs")
    assert one.manage("GET", "clients", token=token).status == 200
    refused = one.manage("PATCH", f"clients/{WEB_ID}", {"name": "x"}, token=token)
    assert (refused.status, refused.json["errorCode"]) == (403, "insufficient_scope")
    assert "update:clients" in refused.json["message"]
    fields = {"grant_type": "client_credentials", "audience": f"{BASE}/api/v2/"}
    manager = {"client_id": MANAGER_ID, "client_secret": MANAGER_SECRET}
    web_client = {"client_id": WEB_ID, "client_secret": WEB_SECRET}
    for wrong, status in (
        ({**manager, "client_secret": "wrong"}, 401),
        ({**manager, "scope": "delete:everything"}, 403),
        ({**manager, "audience": "https://other.example/"}, 403),
        (web_client, 403),
        ({"client_id": CLIENT_ID}, 403),
    ):
        assert one.send("POST", "/oauth/token", form={**fields, **wrong}).status == status, wrong


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic abc"])
def test_without_a_good_token_everything_is_401(header: str) -> None:
    one = desk()
    headers = {"authorization": header} if header else {}
    for path in ("clients", "nothing/at/all", "refresh-tokens/x"):
        reply = one.send("GET", f"/api/v2/{path}", headers=headers)
        assert (reply.status, reply.json["statusCode"]) == (401, 401)


def test_an_access_token_of_a_person_and_an_expired_one_are_not_taken() -> None:
    one = desk()
    token = one.manager()
    person = one.refresh(one.sign_in()).json["access_token"]
    assert one.manage("GET", "clients", token=person).status == 401
    one.now += 86_400
    assert one.manage("GET", "clients", token=token).status == 401


@pytest.mark.parametrize("route", MANAGEMENT_ROUTES, ids=lambda route: f"{route.method} {'/'.join(route.path)}")
def test_every_route_demands_its_scope(route: Any) -> None:
    one = desk()
    others = "read:clients" if "read:clients" not in route.scopes[0] else "read:logs"
    path = "/".join(route.path).replace("*", "x")
    reply = one.manage(route.method, path, {}, token=one.manager(others))
    assert (reply.status, reply.json["errorCode"]) == (403, "insufficient_scope")


# -- clients ------------------------------------------------------------------------------------------------------


def test_a_client_is_created_read_changed_and_deleted() -> None:
    one = desk()
    made = one.manage(
        "POST",
        "clients",
        {
            "name": "new",
            "app_type": "native",
            "grant_types": ["password", "refresh_token"],
            "session_transfer": {"can_create_session_transfer_token": True},
        },
    )
    assert made.status == 201
    assert made.json["client_secret"]
    name = made.json["client_id"]
    assert one.exchange(one.sign_in(client_id=name), client_id=name).status == 200
    changed = one.manage("PATCH", f"clients/{name}", {"description": "d", "callbacks": ["https://a.example/cb"]})
    assert changed.status == 200
    assert (changed.json["name"], changed.json["description"], changed.json["callbacks"]) == (
        "new",
        "d",
        ["https://a.example/cb"],
    )
    assert changed.json["session_transfer"]["can_create_session_transfer_token"] is True
    without = one.manage("GET", f"clients/{name}", token=one.manager("read:clients"))
    assert "client_secret" not in without.json
    assert one.manage("DELETE", f"clients/{name}").status == 204
    assert one.manage("GET", f"clients/{name}").status == 404


def test_a_call_needs_a_bearer_token_and_a_body_of_json() -> None:
    one = desk()
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": f"Basic {one.manager()}"}):
        refused = one.send("GET", "/api/v2/clients", headers=headers)
        assert (refused.status, refused.json["errorCode"]) == (401, "missing_token")
    form = {"name": "new"}
    headers = {"authorization": f"Bearer {one.manager()}"}
    refused = one.send("POST", "/api/v2/clients", form=form, headers=headers)
    assert (refused.status, refused.json["errorCode"]) == (400, "invalid_body")
    assert "content type" in refused.json["message"]


@pytest.mark.parametrize("name", ["name", "app_type", "callbacks", "is_first_party", "client_metadata"])
def test_a_setting_that_every_client_has_cannot_be_null(name: str) -> None:
    refused = desk().manage("PATCH", f"clients/{WEB_ID}", {name: None})
    assert refused.status == 400
    assert refused.json["message"] == f"Payload validation error: {name} must not be null"


def test_a_client_is_not_created_over_another_one() -> None:
    one = desk()
    before = one.provider.state.clients[WEB_ID]
    refused = one.manage("POST", "clients", {"name": "new", "client_id": WEB_ID})
    assert (refused.status, refused.json["errorCode"]) == (400, "invalid_body")
    assert one.provider.state.clients[WEB_ID] is before


def test_there_is_a_limit_to_clients() -> None:
    one = desk()
    clients = one.provider.state.clients
    clients.update({f"more-{number}": clients[WEB_ID] for number in range(CLIENTS_MAX - len(clients) - 1)})
    assert one.manage("POST", "clients", {"name": "the last"}).status == 201
    refused = one.manage("POST", "clients", {"name": "one too many"})
    assert (refused.status, refused.json["errorCode"]) == (403, "too_many_entities")


@pytest.mark.parametrize("more", [{"client_id": CLIENT_ID}, {"client_id": CLIENT_ID, "audience": "https://a.example"}])
def test_refresh_tokens_are_revoked_by_id_or_by_whose_they_are_not_both(more: dict[str, str]) -> None:
    one = desk()
    token = one.sign_in()
    refused = one.manage("POST", "refresh-tokens/revoke", {"ids": [one.family_of(token)], **more})
    assert (refused.status, refused.json["errorCode"]) == (400, "invalid_body")
    assert one.refresh(token).status == 200


@pytest.mark.parametrize("what", ["refresh-tokens", "sessions"])
@pytest.mark.parametrize("paging", ["page=0", "per_page=1", "include_totals=false"])
def test_what_belongs_to_a_person_is_listed_by_pages_too(what: str, paging: str) -> None:
    one = desk()
    one.sign_in()
    Browser(one).form_sign_in()
    path = f"users/{user_id(PASSWORD_USER).replace('|', '%7C')}/{what}"
    (name,) = one.manage("GET", path).json
    assert one.manage("GET", f"{path}?{paging}").json == one.manage("GET", path).json[name]


def test_a_doubled_slash_in_a_path_changes_nothing() -> None:
    one = desk()
    setting = {"session_transfer": {"allowed_authentication_methods": ["cookie", "query"]}}
    changed = one.manage("PATCH", f"clients//{WEB_ID}", setting)
    assert (changed.status, changed.json["client_id"]) == (200, WEB_ID)
    assert one.manage("GET", f"clients//{WEB_ID}").json == changed.json
    assert one.manage("GET", "users//refresh-tokens").status == 404


def test_session_transfer_shows_every_field_with_its_default() -> None:
    one = desk()
    one.set(WEB_ID, session_transfer={})
    assert one.manage("GET", f"clients/{WEB_ID}").json["session_transfer"] == {
        "can_create_session_transfer_token": False,
        "enforce_cascade_revocation": True,
        "allowed_authentication_methods": [],
        "enforce_device_binding": "ip",
        "allow_refresh_token": False,
        "enforce_online_refresh_tokens": True,
        "delegation": None,
    }
    one.set(WEB_ID, session_transfer=None)
    assert one.manage("GET", f"clients/{WEB_ID}").json["session_transfer"] is None


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"session_transfer": {"can_create": True}}, "session_transfer.can_create"),
        ({"session_transfer": {"enforce_device_binding": "mac"}}, "enforce_device_binding"),
        ({"session_transfer": {"allowed_authentication_methods": ["header"]}}, "allowed_authentication_methods"),
        ({"session_transfer": {"allow_refresh_token": "yes"}}, "allow_refresh_token"),
        ({"session_transfer": {"delegation": {"enforce_device_binding": "none"}}}, "delegation"),
        ({"session_transfer": []}, "session_transfer"),
        ({"refresh_token": {"rotation_type": "rotating"}}, "expiration_type"),
        ({"refresh_token": {"rotation_type": "rotating", "expiration_type": "non-expiring"}}, "expiring"),
        (
            {"refresh_token": {"rotation_type": "rotating", "expiration_type": "expiring", "leeway": -1}},
            "refresh_token.leeway",
        ),
        (
            {"refresh_token": {"rotation_type": "rotating", "expiration_type": "expiring", "token_lifetime": 31557601}},
            "token_lifetime",
        ),
        (
            {
                "refresh_token": {
                    "rotation_type": "rotating",
                    "expiration_type": "expiring",
                    "token_lifetime": 10,
                    "idle_token_lifetime": 11,
                }
            },
            "idle_token_lifetime",
        ),
        ({"name": None}, "name"),
        ({"unknown": 1}, "unknown"),
        ({"client_secret": None, "token_endpoint_auth_method": "client_secret_post"}, "client_secret"),
    ],
)
def test_a_mistake_is_a_400_that_names_the_key_and_never_the_value(body: dict[str, Any], named: str) -> None:
    one = desk()
    reply = one.manage("PATCH", f"clients/{WEB_ID}", body)
    assert (reply.status, reply.json["error"], reply.json["errorCode"]) == (400, "Bad Request", "invalid_body")
    assert named in reply.json["message"]
    assert "mac" not in reply.json["message"]
    assert WEB_SECRET not in reply.text


def test_what_is_not_json_is_a_400() -> None:
    one = desk()
    headers = {"authorization": f"Bearer {one.manager()}"}
    reply = one.send("PATCH", f"/api/v2/clients/{WEB_ID}", form={"name": "x"}, headers=headers)
    assert reply.status == 400
    assert one.send("PUT", "/api/v2/clients", body={}, headers=headers).status == 405
    assert one.send("GET", "/api/v2/nothing", headers=headers).status == 404


def test_lists_are_cut_by_page_and_by_checkpoint_and_fields_are_chosen() -> None:
    one = desk()
    total = one.manage("GET", "clients?include_totals=true").json
    assert (total["start"], total["limit"], total["total"]) == (0, 50, len(total["clients"]))
    names = [client["client_id"] for client in total["clients"]]
    second = one.manage("GET", "clients?page=1&per_page=2&fields=client_id").json
    assert second == [{"client_id": name} for name in names[2:4]]
    found, after = [], ""
    while True:
        part = one.manage("GET", f"clients?take=2&from={after}").json
        found += [client["client_id"] for client in part["clients"]]
        after = part.get("next", "")
        if not after:
            break
    assert found == names
    for wrong in ("page=-1", "per_page=101", "include_totals=maybe", "take=2&from=nonsense"):
        assert one.manage("GET", f"clients?{wrong}").status == 400, wrong


# -- refresh tokens, sessions, device credentials, logs ------------------------------------------------------------


def test_a_refresh_token_is_read_by_an_id_that_stays_through_rotation_and_labelled() -> None:
    one = desk()
    refresh_token = one.sign_in()
    name = one.family_of(refresh_token)
    refresh_token = one.refresh(refresh_token).json["refresh_token"]
    shown = one.manage("GET", f"refresh-tokens/{name}").json
    assert (shown["id"], shown["client_id"], shown["user_id"], shown["rotating"]) == (name, CLIENT_ID, OWNER, True)
    changed = one.manage("PATCH", f"refresh-tokens/{name}", {"refresh_token_metadata": {"device_name": "watch"}})
    assert changed.json["refresh_token_metadata"] == {"device_name": "watch"}
    one.refresh(refresh_token)
    assert one.manage("GET", f"refresh-tokens/{name}").json["refresh_token_metadata"] == {"device_name": "watch"}
    for wrong in ({"a b": "c"}, {"a": "x" * 256}, {f"k{index}": "v" for index in range(26)}, {"a": 1}):
        assert one.manage("PATCH", f"refresh-tokens/{name}", {"refresh_token_metadata": wrong}).status == 400
    assert one.manage("DELETE", f"refresh-tokens/{name}").status == 202
    assert one.manage("GET", f"refresh-tokens/{name}").status == 404
    assert refresh_token not in str(shown)


def test_the_refresh_tokens_of_a_person_are_listed_both_ways_and_ended_together() -> None:
    one = desk()
    names = [one.family_of(one.sign_in()) for _ in range(3)]
    listed = one.manage("GET", f"users/{OWNER}/refresh-tokens").json["tokens"]
    assert [token["id"] for token in listed] == names
    listed = one.manage("GET", f"refresh-tokens?user_id={OWNER}&client_id={CLIENT_ID}").json["refresh_tokens"]
    assert [token["id"] for token in listed] == names
    assert one.manage("GET", "refresh-tokens").status == 400
    assert one.manage("GET", "users/auth0%7Cnobody/refresh-tokens").status == 404
    assert one.manage("POST", "refresh-tokens/revoke", {"user_id": OWNER, "client_id": CLIENT_ID}).status == 202
    assert one.manage("GET", f"users/{OWNER}/refresh-tokens").json["tokens"] == []


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"ids": []}, {"ids": ["a"], "user_id": "b"}, {"user_id": "a", "audience": "b"}, {"ids": ["a"] * 101}),
        *({"ids": ["a"], "client_id": "b"}, {"ids": ["a"], "audience": "b"}, {"client_id": "a"}, {"user_id": None}),
    ],
)
def test_a_bulk_revocation_says_whose(body: dict[str, Any]) -> None:
    assert desk().manage("POST", "refresh-tokens/revoke", body).status == 400


def test_sessions_say_where_they_stem_from() -> None:
    one = desk()
    stt, refresh_token = one.transfer(one.sign_in())
    Browser(one).web_tokens(stt)
    (session,) = one.manage("GET", f"users/{OWNER}/sessions").json["sessions"]
    shown = one.manage("GET", f"sessions/{session['id']}").json
    assert shown["session_transfer"]["parent_refresh_token"]["id"] == one.family_of(refresh_token)
    assert shown["clients"] == [{"client_id": WEB_ID}]
    assert shown["device"]["initial_asn"] == "64500"
    assert one.manage("DELETE", f"users/{OWNER}/sessions").status == 202
    assert one.manage("GET", f"sessions/{session['id']}").status == 404


def test_device_credentials_are_the_older_way_to_the_same_tokens() -> None:
    one = desk()
    token = one.sign_in()
    found = one.manage("GET", f"device-credentials?type=rotating_refresh_token&user_id={OWNER}").json
    assert [credential["id"] for credential in found] == [one.family_of(token)]
    assert one.manage("GET", "device-credentials?type=refresh_token").json == []
    assert one.manage("GET", "device-credentials?type=passport").status == 400
    assert one.manage("DELETE", f"device-credentials/{one.family_of(token)}").status == 204
    assert one.refresh(token).status == 403


def test_the_log_is_read_newest_first_by_checkpoint_and_by_query() -> None:
    one = desk()
    one.set(WEB_ID, session_transfer=web())
    stt, _ = one.transfer(one.sign_in())
    Browser(one).authorize(stt=stt)
    Browser(one).authorize(stt=stt)
    newest = one.manage("GET", "logs?per_page=1").json[0]
    oldest = one.manage("GET", "logs?sort=date:1&per_page=1").json[0]
    assert newest["log_id"] > oldest["log_id"]
    exchanged = one.manage("GET", f'logs?q=type:sertft%20AND%20audience:"{AUDIENCE}"').json
    assert [(record["type"], record["audience"]) for record in exchanged] == [("sertft", AUDIENCE)]
    assert exchanged[0]["location_info"]["country_code"] == "DE"
    assert one.manage("GET", f"logs/{exchanged[0]['log_id']}").json == exchanged[0]
    later = one.manage("GET", f"logs?from={exchanged[0]['log_id']}&take=100").json
    assert all(record["log_id"] > exchanged[0]["log_id"] for record in later)
    assert "w" in {record["type"] for record in later}
    assert one.manage("GET", "logs?q=type:nonsense").status == 400
    assert one.manage("GET", "logs?q=anything").status == 400
    assert one.manage("GET", "logs/none").status == 404


def test_a_call_that_changes_something_is_json_by_a_bearer_who_still_exists_and_is_logged() -> None:
    one = desk()
    token = one.manager()
    for kind in ("Basic", "DPoP", "Token"):
        headers = {"authorization": f"{kind} {token}"}
        assert one.send("GET", "/api/v2/clients", headers=headers).status == 401
    headers = {"authorization": f"Bearer {token}"}
    assert one.send("PATCH", f"/api/v2/clients/{WEB_ID}", form={"name": "x"}, headers=headers).status == 400
    for content_type, status in (("text/plain", 400), ("", 400), ("application/json; charset=utf-8", 200)):
        sent = {**headers, "content-type": content_type}
        request = Request("PATCH", f"/api/v2/clients/{WEB_ID}", b'{"name": "x"}', sent)
        admission = one.provider.admit(request, one.now)
        assert one.provider.commit(request, admission, one.now).response.status == status
    assert [record["description"] for record in one.logs("sapi")] == ["PATCH /api/v2/clients/*"]
    assert one.manage("DELETE", f"clients/{MANAGER_ID}", token=token).status == 204
    assert one.manage("GET", "clients", token=token).status == 401


def test_a_route_with_two_scopes_takes_both() -> None:
    one = desk()
    Browser(one).form_sign_in()
    (session,) = one.live_sessions()
    for scope in ("delete:sessions", "delete:refresh_tokens"):
        reply = one.manage("POST", f"sessions/{session}/revoke", {}, token=one.manager(scope))
        assert (reply.status, reply.json["errorCode"]) == (403, "insufficient_scope")
    both = one.manager("delete:sessions delete:refresh_tokens")
    assert one.manage("POST", f"sessions/{session}/revoke", {}, token=both).status == 202


def test_clients_have_names_of_their_own_in_bounds_and_web_applications_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = desk()
    assert one.manage("POST", "clients", {"name": "again", "client_id": WEB_ID}).status == 400
    assert one.manage("GET", f"clients/{WEB_ID}").json["name"] == "Web application"
    made = one.manage("POST", "clients", {"name": "web", "app_type": "regular_web"}).json
    assert made["token_endpoint_auth_method"] == "client_secret_post"
    asked = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": made["client_id"]}
    assert one.token(**asked).status == 401
    assert one.token(**asked, client_secret=made["client_secret"]).status == 403
    monkeypatch.setattr(clients, "CLIENTS_MAX", len(one.provider.state.clients))
    assert one.manage("POST", "clients", {"name": "one too many"}).status == 403


@pytest.mark.parametrize("name", ["callbacks", "app_type", "allowed_logout_urls", "is_first_party", "client_metadata"])
def test_what_has_no_null_is_not_set_to_it(name: str) -> None:
    one = desk()
    assert name in one.manage("PATCH", f"clients/{WEB_ID}", {name: None}).json["message"]


def test_a_session_that_has_expired_is_shown_to_nobody_and_an_online_grant_is_no_credential() -> None:
    one = desk()
    browser = Browser(one)
    browser.form_sign_in()
    (session,) = one.live_sessions()
    grant = browser.redeem(browser.authorize(scope="openid online_access").code).json["refresh_token"]
    assert one.manage("DELETE", f"device-credentials/{one.family_of(grant)}").status == 204
    assert browser.web_refresh(grant).status == 200
    one.now += 3 * 86_400
    assert one.manage("GET", f"users/{OWNER}/sessions").json["sessions"] == []
    for method, path in (("GET", f"sessions/{session}"), ("DELETE", f"sessions/{session}")):
        assert one.manage(method, path).status == 404
    assert one.manage("POST", f"sessions/{session}/revoke", {}).status == 404


def test_no_list_is_longer_than_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk()
    for _ in range(3):
        one.sign_in()
    assert len(one.manage("GET", "logs?take=2").json) == 2
    assert len(one.manage("GET", "logs?per_page=2").json) == 2
    assert len(one.manage("GET", f"refresh-tokens?user_id={OWNER}&take=2").json["refresh_tokens"]) == 2
    assert len(one.manage("GET", f"users/{OWNER}/refresh-tokens?per_page=2").json) == 2
    monkeypatch.setattr(grants, "CREDENTIALS_MAX", 1)
    assert len(one.manage("GET", "device-credentials?type=rotating_refresh_token").json) == 1
    for number in ("101", "-1", "x", "1e1", "٣"):
        assert one.manage("GET", f"logs?{urlencode({'per_page': number})}").status == 400


PLACES = [
    "/authorize",
    "/activate",
    "/oauth/device/code",
    "/login",
    "/oauth/token",
    "/oauth/revoke",
    "/userinfo",
    "/v2/logout",
    "/samlp/sandbox-saml",
    "/wsfed/sandbox-saml",
    "/sandbox/service-provider",
    *(f"/api/v2/{'/'.join(one.path).replace('*', 'x')}" for one in MANAGEMENT_ROUTES),
]
WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:device_code",
            "form_post",
            AUDIENCE,
            CLIENT_ID,
            WEB_ID,
            WEB_SECRET,
            "none",
            "-1",
            "query",
        ]
    ),
)
NAMES = st.sampled_from(
    [
        "grant_type",
        "client_id",
        "client_secret",
        "refresh_token",
        "audience",
        "session_transfer_token",
        "prompt",
        "page",
        "response_mode",
        "dpop_jkt",
        "device_code",
        "user_code",
        "scope",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE"]),
    place=st.sampled_from(PLACES),
    query=st.dictionaries(NAMES, WORDS, max_size=4),
    form=st.none() | st.dictionaries(NAMES, WORDS, max_size=5),
    body=JSON,
    cookie=WORDS,
    address=WORDS,
    proof=st.none()
    | WORDS
    | st.sampled_from(["e30.e30.", "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7fX0.e30.AA"]),
)
def test_no_request_makes_the_provider_fail(
    method: str,
    place: str,
    query: dict[str, str],
    form: dict[str, str] | None,
    body: Any,
    cookie: str,
    address: str,
    proof: str | None,
) -> None:
    one = desk()
    headers = {
        "authorization": f"Bearer {one.manager()}",
        "cookie": f"auth0={cookie}; auth0_session_transfer_token={cookie}",
        "auth0-forwarded-for": cookie,
    }
    headers |= {} if proof is None else {"dpop": proof}
    reply = one.send(
        method, f"{place}?{urlencode(query)}", form=form, body=None if form else body, headers=headers, ip=address
    )
    assert reply.status < 500 or reply.status == 501
