"""Token exchange for an agent: who may ask, for what, and with which proof of the two people. RFC 8693 §2.1."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sandbox.sandbox_client import PASSWORD_USER, REDIRECT_URI, VERIFIER
from tests.sandbox.transfer_kit import AUDIENCE, CLIENT_ID, OTHER_USER, WEB_ID, Browser, Desk, Reply, desk, web
from token_relay.sandbox.provider.world.auth0_clients import WEB_SECRET

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
DELEGATING = web(can_create_session_transfer_token=True, delegation={"allow_delegated_access": True})


def grant(one: Desk, username: str) -> dict[str, Any]:
    """The tokens of one who has signed in at the web client."""
    browser = Browser(one)
    return dict(browser.redeem(browser.form_sign_in(username).code).json)


def exchange(one: Desk, person: str, agent: str, **change: str) -> Reply:
    fields = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_id": WEB_ID,
        "client_secret": WEB_SECRET,
        "audience": AUDIENCE,
        "subject_token": person,
        "subject_token_type": ID_TOKEN,
        "actor_token": agent,
        "actor_token_type": ID_TOKEN,
        **change,
    }
    return one.send("POST", "/oauth/token", form={name: value for name, value in fields.items() if value})


def pair(**setting: Any) -> tuple[Desk, dict[str, Any], dict[str, Any]]:
    """A sandbox, a person's tokens and an agent's."""
    one = desk()
    one.set(WEB_ID, session_transfer={**DELEGATING, **setting})
    return one, grant(one, PASSWORD_USER), grant(one, OTHER_USER)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_id": CLIENT_ID, "client_secret": ""}, "unauthorized_client"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"audience": "https://api.example"}, "invalid_target"),
        ({"audience": "urn:other.example:session_transfer"}, "access_denied"),
        ({"audience": ""}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:access_token"}, "invalid_request"),
        ({"actor_token_type": ""}, "invalid_request"),
        ({"actor_token": ""}, "invalid_request"),
        ({"subject_token": "nonsense"}, "invalid_request"),
    ],
)
def test_an_exchange_that_is_not_right_is_refused(change: dict[str, str], error: str) -> None:
    one, person, agent = pair()
    one.set(CLIENT_ID, session_transfer=DELEGATING)
    assert exchange(one, person["id_token"], agent["id_token"], **change).json["error"] == error
    assert exchange(one, person["id_token"], agent["id_token"]).status == 200


def test_a_client_without_the_right_delegates_nothing() -> None:
    one, person, agent = pair(can_create_session_transfer_token=False)
    refused = exchange(one, person["id_token"], agent["id_token"])
    assert refused.json["error"] == "session_transfer_disabled"


@pytest.mark.parametrize("end", ["expired", "revoked"])
@pytest.mark.parametrize("whose", ["subject_token", "actor_token"])
def test_both_id_tokens_must_be_good(whose: str, end: str) -> None:
    one, person, agent = pair()
    meant = person if whose == "subject_token" else agent
    if end == "revoked":
        assert one.revoke(meant["refresh_token"], WEB_ID, client_secret=WEB_SECRET).status == 200
    else:
        one.now += 3_600
        fresh = grant(one, OTHER_USER if whose == "subject_token" else PASSWORD_USER)
        person, agent = (person, fresh) if whose == "subject_token" else (fresh, agent)
    assert exchange(one, person["id_token"], agent["id_token"]).json["error"] == "invalid_request"


@pytest.mark.parametrize("whose", ["subject_token", "actor_token"])
def test_an_access_token_stands_for_nobody(whose: str) -> None:
    one, person, agent = pair()
    asked = {whose: str(person["access_token"])}
    assert exchange(one, person["id_token"], agent["id_token"], **asked).json["error"] == "invalid_request"


def test_whoever_acts_for_somebody_is_no_link_in_another_chain() -> None:
    one, person, agent = pair()
    browser = Browser(one)
    code = browser.authorize(stt=exchange(one, person["id_token"], agent["id_token"]).json["access_token"]).code
    acting = browser.redeem(code).json["id_token"]
    for chain in ((acting, agent["id_token"]), (person["id_token"], acting)):
        assert exchange(one, *chain).json["error"] == "invalid_request"


def test_a_grant_of_a_transferred_session_is_not_delegated() -> None:
    one, _, agent = pair(allow_refresh_token=True)
    stt, _ = one.transfer(one.sign_in())
    browser = Browser(one)
    code = browser.authorize(stt=stt).code
    fields = {"grant_type": "authorization_code", "client_id": WEB_ID, "client_secret": WEB_SECRET, "code": code}
    fields |= {"redirect_uri": REDIRECT_URI, "code_verifier": VERIFIER}
    person = one.send("POST", "/oauth/token", form=fields).json
    assert exchange(one, person["id_token"], agent["id_token"]).json["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("commands", "error"),
    [
        ([], "setactor_required"),
        ([{"do": "set_actor", "sub": "agent|7"}], ""),
        ([{"do": "set_actor", "sub": "agent|7"}, {"do": "deny", "reason": "no"}], "access_denied"),
    ],
)
def test_where_actions_are_one_names_the_actor_and_any_may_deny(commands: list[dict[str, str]], error: str) -> None:
    one = desk(
        action=lambda event: {
            "commands": commands if event["transaction"]["protocol"] == "oauth2-token-exchange" else []
        }
    )
    one.set(WEB_ID, session_transfer=DELEGATING)
    reply = exchange(one, grant(one, PASSWORD_USER)["id_token"], grant(one, OTHER_USER)["id_token"])
    assert reply.json.get("error", "") == error
    if not error:
        code = Browser(one).authorize(stt=reply.json["access_token"]).code
        assert one.provider.state.codes and code
        (session,) = [each for each in one.provider.state.sessions.values() if each.is_delegated]
        assert session.actor == "agent|7"


@pytest.mark.parametrize(("binding", "place", "works"), [("ip", "203.0.113.99", False), ("asn", "203.0.113.99", True)])
def test_a_delegated_token_is_bound_as_the_web_client_says_and_never_unbound(
    binding: str, place: str, works: bool
) -> None:
    delegation = {"allow_delegated_access": True, "enforce_device_binding": binding}
    one, person, agent = pair(delegation=delegation, enforce_device_binding="none")
    stt = exchange(one, person["id_token"], agent["id_token"]).json["access_token"]
    assert bool(Browser(one, place).authorize(stt=stt).code) is works
