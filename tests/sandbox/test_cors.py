"""Which pages may call what, by profile: as at the real services, unless a person names an origin or lifts the rule."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from tests.sandbox.native_kit import App
from tests.sandbox.sandbox_client import REDIRECT_URI
from tests.sandbox.transfer_kit import SPA_ID, Browser, Desk, Reply, desk
from token_relay.sandbox.control.api import control
from token_relay.sandbox.provider.http_values import Request
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, ClientModel

PAGE, STRANGER, SHOP = "http://localhost:3000", "https://stranger.example", "https://shop.example"
FORM = {"content-type": "application/x-www-form-urlencoded"}
ENTRA, NATIVE = "/contoso/oauth2/v2.0/token", "/contoso/oauth2/v2.0/initiate"
SHOP_CLIENT = ClientModel(
    client_id="shop",
    app_type="spa",
    redirect_uris=[f"{SHOP}/back", "com.shop:/back"],
    web_origins=["https://pos.example"],
)


def leave(app: App | Desk, method: str, target: str, origin: str, **form: str) -> str | None:
    """Which origin may read the answer; a preflight must say the same as the request that follows it."""
    sent = {"origin": origin, **(FORM if form else {})}
    answer = request(app, method, target, sent, **form)
    asks = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": "dpop"}
    asked = request(app, "OPTIONS", target, asks)
    allowed = answer.get("access-control-allow-origin")
    if asked.get("access-control-allow-origin") is not None:
        assert asked["access-control-allow-headers"] == "dpop"
    assert "access-control-allow-credentials" not in answer
    return allowed


def request(app: App | Desk, method: str, target: str, headers: dict[str, str], **form: str) -> dict[str, str]:
    one = Request(method, target, urlencode(form).encode(), headers)
    found = app.provider.commit(one, app.provider.admit(one, app.now), app.now).response
    return {name.lower(): value for name, value in found.headers}


def lift(app: App | Desk, rule: str) -> None:
    one = Request("POST", "/sandbox/lenient", json.dumps({"name": rule}).encode(), {"content-type": "application/json"})
    assert control(app.provider, one, app.now).response.status == 200


@pytest.mark.parametrize("origin", [PAGE, STRANGER, "null"])
def test_at_entra_every_page_may_redeem_and_none_may_sign_in_natively(origin: str) -> None:
    app = App()
    for grant_type in ("authorization_code", "refresh_token"):
        assert leave(app, "POST", ENTRA, origin, grant_type=grant_type) == origin
    for grant_type in ("password", "oob", "mfa_oob", "continuation_token"):
        assert leave(app, "POST", ENTRA, origin, grant_type=grant_type) is None
    assert leave(app, "POST", NATIVE, origin, client_id="x") is None
    assert leave(app, "GET", "/contoso/v2.0/.well-known/openid-configuration", origin) == "*"
    assert leave(app, "GET", "/contoso/discovery/v2.0/keys", origin) == "*"
    assert leave(app, "GET", "/contoso/oauth2/v2.0/authorize", origin) is None
    lift(app, "cors")
    assert leave(app, "POST", NATIVE, origin, client_id="x") == origin


REGISTERED = [PAGE, "http://127.0.0.1:1", SHOP, "https://pos.example"]
NOT_REGISTERED = [STRANGER, f"{SHOP}:8443", "http://localhost.stranger.example", "http://[", "null"]


@pytest.mark.parametrize(
    ("origin", "is_let"), [*((one, True) for one in REGISTERED), *((one, False) for one in NOT_REGISTERED)]
)
def test_at_auth0_the_pages_of_registered_applications_may_call(origin: str, is_let: bool) -> None:
    one = desk(DEFAULT_WORLD.model_copy(update={"clients": [SHOP_CLIENT]}))
    for path in ("/oauth/token", "/oauth/revoke"):
        assert (leave(one, "POST", path, origin, client_id="shop") == origin) is is_let
    assert (leave(one, "GET", "/userinfo", origin) == origin) is is_let
    assert leave(one, "GET", "/.well-known/jwks.json", origin) == "*"
    assert leave(one, "GET", "/sandbox/resource", origin) == "*"
    for method, path in (("GET", "/api/v2/clients"), ("POST", "/oauth/device/code"), ("GET", "/authorize")):
        assert leave(one, method, path, origin) is None
    for method, path in (("POST", "/login"), ("GET", "/v2/logout"), ("GET", "/activate")):
        assert leave(one, method, path, origin) is None
    lift(one, "cors")
    assert leave(one, "POST", "/oauth/token", origin, client_id="shop") == origin


@pytest.mark.parametrize("wanted", ["x y", "a;b", "x" * 65, ", ".join(["a"] * 51), "a\r\nb", ""])
def test_a_preflight_allows_names_of_headers_and_nothing_else(wanted: str) -> None:
    asks = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": wanted}
    assert "authorization, " in request(desk(), "OPTIONS", "/oauth/token", asks)["access-control-allow-headers"]


def test_an_answer_that_depends_on_the_origin_says_so_to_caches() -> None:
    one = desk(DEFAULT_WORLD.model_copy(update={"clients": [SHOP_CLIENT]}))
    for origin in (SHOP, STRANGER, ""):
        sent = {"origin": origin} if origin else {}
        assert request(one, "POST", "/oauth/token", {**FORM, **sent}, client_id="shop")["vary"] == "Origin"
    assert "vary" not in request(one, "GET", "/.well-known/jwks.json", {"origin": SHOP})


# -- web_message -----------------------------------------------------------------------------------------------------


def told(reply: Reply) -> tuple[str, dict[str, str]]:
    """Where a page posts its answer, and the answer."""
    assert reply.status == 200, reply.text
    body = reply.text.partition('id="told">')[2].partition("</script>")[0]
    found = json.loads(body)
    return found["origin"], found["response"]


def test_a_message_goes_to_the_origin_of_the_page_alone() -> None:
    browser = Browser(desk())
    refused = browser.authorize(SPA_ID, prompt="none", response_mode="web_message", state="</script><b>")
    assert "</script><b>" not in refused.text
    origin, answer = told(refused)
    assert (origin, answer["error"], answer["state"]) == ("http://127.0.0.1:51234", "login_required", "</script><b>")
    policy = dict(refused.headers)["Content-Security-Policy"]
    assert policy.endswith("frame-ancestors http://127.0.0.1:51234") and "sha256-" in policy
    answer = told(browser.submit(browser.authorize(SPA_ID, response_mode="web_message")))[1]
    assert browser.redeem(answer["code"], SPA_ID).status == 200
    assert told(browser.authorize(SPA_ID, prompt="none", response_mode="web_message"))[1]["code"]
    assert "invalid_scope" in told(browser.authorize(SPA_ID, scope='"', response_mode="web_message"))[1]["error"]


@pytest.mark.parametrize("change", [{}, {"prompt": "none"}, {"scope": '"'}])
def test_an_origin_that_is_not_registered_gets_no_message(change: dict[str, str]) -> None:
    browser = Browser(desk(DEFAULT_WORLD.model_copy(update={"clients": [SHOP_CLIENT]})))
    asked = {"redirect_uri": f"{SHOP}/back", "response_mode": "web_message", **change}
    page = browser.authorize("shop", **asked)
    assert page.status == 403 and "web_origins" in page.text and "told" not in page.text
    registered = SHOP_CLIENT.model_copy(update={"web_origins": [SHOP]})
    browser = Browser(desk(DEFAULT_WORLD.model_copy(update={"clients": [registered]})))
    assert browser.authorize("shop", **asked).status == 200


def test_logout_gives_the_state_back_to_the_letter() -> None:
    state = "eyJpZCI6IjEifQ==|a-b +&=/ü"
    query = urlencode({"post_logout_redirect_uri": f"{REDIRECT_URI}?a=b", "state": state})
    reply = Browser(desk()).send("GET", f"/oidc/logout?{query}")
    assert reply.location == {"a": "b", "state": state}


def test_the_address_to_sign_out_to_is_that_of_the_client_who_asks() -> None:
    clients = [SHOP_CLIENT.model_copy(update={"allowed_logout_urls": [f"{SHOP}/bye"]}), ClientModel(client_id="other")]
    one = desk(DEFAULT_WORLD.model_copy(update={"clients": clients}))
    browser = Browser(one)
    code = browser.submit(browser.authorize("other")).code
    id_token = browser.redeem(code, "other").json["id_token"]
    hints = [({}, 303), ({"client_id": "shop"}, 303), ({"client_id": "other"}, 400), ({"client_id": "nobody"}, 400)]
    for hint, status in [*hints, ({"id_token_hint": id_token}, 400), ({"id_token_hint": "x"}, 303)]:
        query = urlencode({"post_logout_redirect_uri": f"{SHOP}/bye", **hint})
        assert browser.send("GET", f"/oidc/logout?{query}").status == status, hint
