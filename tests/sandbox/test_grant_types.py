"""Grant types under auth0: a client has those that it names, else those of its kind of application."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.native_kit import App
from tests.sandbox.sandbox_client import PASSWORD_USER, Start
from tests.sandbox.transfer_kit import BASE, CLIENT_ID, SPA_ID, WEB_ID, Browser, Desk, Reply, desk
from token_relay.sandbox.provider.world.auth0_clients import CONNECTION, MANAGER_ID, PASSWORD_REALM, WEB_SECRET
from token_relay.sandbox.provider.world.model import PASSWORD, ClientModel

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
PUBLIC = ["implicit", "authorization_code", "refresh_token"]
CONFIDENTIAL = [*PUBLIC, "client_credentials"]
PASSWORD_GRANT = {"grant_type": "password", "username": PASSWORD_USER, "password": PASSWORD, "scope": "openid"}


def ask(one: Desk, client_id: str, **fields: str) -> Reply:
    secret = {"client_secret": WEB_SECRET} if client_id == WEB_ID else {}
    return one.send("POST", "/oauth/token", form={"client_id": client_id, **secret, **fields})


@pytest.mark.parametrize(
    ("app_type", "expected"),
    [("native", PUBLIC), ("spa", PUBLIC), ("regular_web", CONFIDENTIAL), ("non_interactive", CONFIDENTIAL)],
)
def test_the_kind_of_application_decides_and_the_management_api_says_so(app_type: Any, expected: list[str]) -> None:
    one = desk()
    made = one.manage("POST", "clients", {"name": "x", "app_type": app_type}).json
    assert made["grant_types"] == expected
    client_id = made["client_id"]
    assert one.manage("GET", f"clients/{client_id}").json["grant_types"] == expected
    one.set(client_id, grant_types=["password"])
    assert one.manage("GET", f"clients/{client_id}").json["grant_types"] == ["password"]
    one.set(client_id, grant_types=None)
    assert one.manage("GET", f"clients/{client_id}").json["grant_types"] == expected


@pytest.mark.parametrize("client_id", [SPA_ID, WEB_ID])
@pytest.mark.parametrize("fields", [PASSWORD_GRANT, {"grant_type": DEVICE_CODE, "device_code": "x"}])
def test_a_grant_type_that_a_client_does_not_have_is_refused(client_id: str, fields: dict[str, str]) -> None:
    one = desk()
    refused = ask(one, client_id, **fields)
    assert (refused.status, refused.json["error"]) == (403, "unauthorized_client")
    text = f"Grant type '{fields['grant_type']}' not allowed for the client."
    assert refused.json["error_description"] == text
    one.provider.state.lenient.add("grant-types")
    assert ask(one, client_id, **fields).json.get("error") in {None, "invalid_grant"}


def test_a_device_code_is_given_only_to_a_client_that_may_redeem_it() -> None:
    one = desk()
    for client_id, status in ((SPA_ID, 403), (CLIENT_ID, 200)):
        assert one.send("POST", "/oauth/device/code", form={"client_id": client_id}).status == status
    one.provider.state.lenient.add("grant-types")
    assert one.send("POST", "/oauth/device/code", form={"client_id": SPA_ID}).status == 200


def test_grant_types_that_a_client_names_are_all_that_it_has() -> None:
    one = desk()
    token = one.sign_in()
    one.set(CLIENT_ID, grant_types=["password"])
    one.provider.state.lenient.add("grant-types")  # what a client names counts all the same
    assert one.refresh(token).json["error"] == "unauthorized_client"
    assert Browser(one).authorize(CLIENT_ID).location["error"] == "unauthorized_client"
    assert ask(one, CLIENT_ID, **PASSWORD_GRANT).status == 200


def test_a_client_that_cannot_prove_itself_gets_no_token_in_its_own_name() -> None:
    one = desk()
    more = {"api_scopes": ["read:clients"], "grant_types": ["client_credentials"]}
    one.provider.state.clients["open"] = ClientModel.model_validate({"client_id": "open", **more})
    refused = ask(one, "open", grant_type="client_credentials", audience=f"{BASE}/api/v2/")
    assert (refused.status, refused.json["error"]) == (403, "unauthorized_client")


def test_the_clients_of_the_default_world_have_what_the_pages_use_them_for() -> None:
    clients = desk().provider.state.clients
    native = ["authorization_code", "refresh_token", "password", PASSWORD_REALM, DEVICE_CODE]
    assert clients[CLIENT_ID].allowed_grant_types == native
    assert clients[SPA_ID].allowed_grant_types == PUBLIC
    assert clients[MANAGER_ID].allowed_grant_types == CONFIDENTIAL


@pytest.mark.parametrize(
    ("realm", "error"), [(CONNECTION, None), ("Elsewhere", "invalid_request"), ("", "invalid_request")]
)
def test_the_password_of_one_connection_is_a_grant_type_of_its_own(realm: str, error: str | None) -> None:
    one = desk()
    fields = {"grant_type": PASSWORD_REALM, "username": PASSWORD_USER, "password": PASSWORD, "realm": realm}
    assert one.token(**fields).json.get("error") == error
    one.set(CLIENT_ID, grant_types=["password"])
    assert one.token(**fields).json["error"] == "unauthorized_client"


@pytest.mark.asyncio
@pytest.mark.parametrize("profile", ["entra", "strict"])
@pytest.mark.parametrize("grant_type", ["client_credentials", DEVICE_CODE, TOKEN_EXCHANGE])
async def test_what_auth0_alone_grants_is_unsupported_elsewhere(start: Start, profile: Any, grant_type: str) -> None:
    machine = {"client_id": "m", "client_secret": "s", "token_endpoint_auth_method": "client_secret_post"}
    async with start(profile) as client:
        await client.ordered("clients", **machine, api_scopes=["read:clients"], app_type="non_interactive")
        asked = {"audience": f"{client.base}/api/v2/", "device_code": "x", "subject_token": "x", "actor_token": "x"}
        refused = await client.token(grant_type=grant_type, **asked, client_id="m", client_secret="s")
        assert (refused.status, refused.json["error"]) == (400, "unsupported_grant_type")


def test_an_unknown_grant_type_is_unsupported_and_other_services_have_no_such_rule() -> None:
    assert ask(desk(), SPA_ID, grant_type="magic").json["error"] == "unsupported_grant_type"
    assert ClientModel(client_id="x").allowed_grant_types == PUBLIC
    assert App().by_password(PASSWORD_USER).has_tokens
