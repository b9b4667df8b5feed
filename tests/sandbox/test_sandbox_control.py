"""The control interface, the world file, and what they refuse in words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.sandbox.sandbox_client import NOON, OTP_USER, PASSWORD_USER, SCOPE, Reply, SandboxClient, Start
from token_relay.protocol.errors import ConfigError
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_USERS, parse_world

SECRET = "hunter2-in-a-message"


@pytest.mark.asyncio
async def test_users_are_added_by_name_with_or_without_a_password(entra: SandboxClient) -> None:
    assert (await entra.ordered("users", username="New@Contoso.example"))["username"] == "new@contoso.example"
    assert (await entra.sign_in("new@contoso.example"))["refresh_token"]
    await entra.ordered("users", username="pw@contoso.example", password="long enough")
    challenged = await entra.begin("pw@contoso.example")
    assert challenged.json["challenge_type"] == "password"
    listed = (await entra.request("GET", "/sandbox/users")).json["users"]
    assert {"username": "pw@contoso.example", "kind": "password"} in listed
    assert "long enough" not in (await entra.request("GET", "/sandbox/users")).text


@pytest.mark.asyncio
async def test_an_account_is_changed_and_deleted_with_all_that_it_has_signed_in_to(entra: SandboxClient) -> None:
    async def order(method: str, **body: Any) -> Reply:
        headers = {"Content-Type": "application/json"}
        return await entra.request(method, "/sandbox/users", data=json.dumps(body).encode(), headers=headers)

    tokens = await entra.sign_in(PASSWORD_USER)
    off = await order("PATCH", username=PASSWORD_USER, disabled=True)
    assert off.json["disabled"] is True and (await entra.refresh(tokens["refresh_token"])).json["error_codes"] == [
        50057
    ]
    assert (await order("PATCH", username=PASSWORD_USER, disabled=False)).json["disabled"] is False
    by_code = await order("PATCH", username=OTP_USER, password="Long-enough-9")
    assert by_code.status == 400 and "no password" in by_code.json["detail"]
    for method in ("PATCH", "DELETE"):
        gone = await order(method, username="nobody@contoso.example")
        assert gone.status == 404 and gone.json["detail"] == "there is no such user"
    assert (await order("DELETE", username=PASSWORD_USER)).status == 200
    assert (await entra.refresh(tokens["refresh_token"])).json["error"] == "invalid_grant"
    assert [event["reason"] for event in await entra.events() if event["kind"] == "family_killed"] == ["user_deleted"]


ANIMAL: dict[str, Any] = {
    "source": "https://example.com/errors",
    "seen": "A front door.",
    "profiles": ["strict"],
    "answer": {"status": 502},
    "then": {"grant": "uncertain", "caller": "offline"},
}
BAD_ORDERS: list[tuple[str, dict[str, Any], str]] = [
    ("users", {}, "username"),
    ("users", {"username": "a b"}, "username"),
    ("users", {"username": "x@y.example", "pasword": SECRET}, "pasword"),
    ("users", {"username": "x@y.example", "password": 7}, "password"),
    ("users", {"username": "x@y.example", "password": ""}, "password"),
    ("clients", {"client_id": "c", "redirect_uris": "http://x"}, "redirect_uris"),
    ("policy", {"access_token_lifetime_s": 0}, "access_token_lifetime_s"),
    ("policy", {"code_length": 3}, "code_length"),
    ("policy", {"leeway": 3}, "leeway"),
    ("faults", {"name": "down", "times": -1}, "times"),
    ("faults", {"name": "answer"}, "needs answer"),
    ("faults", {"name": "answer", "answer": {"status": 200, "body": "{refresh_token}"}}, "needs committed"),
    ("animals", {"animal": ANIMAL, "tims": 3}, "tims"),
    ("animals", {"animal": {**ANIMAL, "seen": ""}}, "animal.seen"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 99}}}, "animal.answer.status"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 200, "headers": [["X", "a\r\nb"]]}}}, "headers"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 200, "headers": [["X"]]}}}, "headers"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 200, "body": "x", "body_base64": "eA=="}}}, "exclude"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 200, "body_base64": "?"}}}, "base64"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 200, "body": "{x 999999}"}}}, "filled"),
    ("animals", {"animal": {**ANIMAL, "answer": {"status": 200, "raw": True, "body": SECRET}}}, "raw"),
    ("animals", {"animal": ANIMAL, "endpoint": "revoke", "grant_type": "password"}, "grant_type"),
    ("faults", {"name": "down", "endpoint": "nowhere"}, "endpoint"),
    ("revoke", {"user": "x"}, "username"),
    ("clock", {"advance_s": -1}, "advance_s"),
    ("clock", {"advance_s": "5"}, "advance_s"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("path", "body", "key"), BAD_ORDERS)
async def test_a_bad_order_is_400_names_the_key_and_never_shows_the_value(
    entra: SandboxClient, path: str, body: dict[str, Any], key: str
) -> None:
    reply = await entra.order(path, **body)
    assert reply.status == 400
    assert key in reply.json["detail"]
    assert SECRET not in reply.text


@pytest.mark.asyncio
async def test_what_is_not_json_is_refused(entra: SandboxClient) -> None:
    json_type = {"Content-Type": "application/json"}
    for body in (b"", b"{", b"[" * 60_000, b'"' + SECRET.encode(), b"\xff", b"[]"):
        reply = await entra.request("POST", "/sandbox/users", data=body, headers=json_type)
        assert reply.status == 400, body[:10]
        assert SECRET not in reply.text
    as_form = await entra.request("POST", "/sandbox/users", data={"username": "x@y.example"})
    assert as_form.status == 415
    too_long = await entra.request("POST", "/sandbox/users", data=b"x" * 65_537, headers=json_type)
    assert too_long.status == 413


@pytest.mark.asyncio
async def test_unknown_paths_name_the_known_ones_and_wrong_methods_the_right_ones(entra: SandboxClient) -> None:
    reply = await entra.request("GET", "/sandbox/nothing")
    assert reply.status == 404 and "faults" in reply.json["paths"]
    wrong = await entra.request("DELETE", "/sandbox/policy")
    assert wrong.status == 405 and "GET and POST" in wrong.json["detail"]
    assert (await entra.request("POST", "/sandbox/events")).status == 405
    assert (await entra.order("revoke", username="nobody@x.example")).status == 404
    assert (await entra.request("GET", "/sandbox/events?after=x")).status == 400
    assert (await entra.request("GET", "/sandbox/events?wait_s=nan")).status == 400
    assert (await entra.request("GET", "/sandbox/mailbox/x?wait_s=61")).status == 400


@pytest.mark.asyncio
async def test_web_pages_and_strange_host_names_cannot_give_orders(entra: SandboxClient) -> None:
    body = {"username": "x@y.example"}
    foreign = await entra.request("POST", "/sandbox/users", json=body, headers={"Origin": "https://evil.example"})
    assert foreign.status == 403
    rebound = await entra.request("GET", "/sandbox/mailbox/x", headers={"Host": "evil.example"})
    assert rebound.status == 403


@pytest.mark.asyncio
async def test_a_policy_keeps_what_is_not_said(auth0: SandboxClient) -> None:
    changed = await auth0.ordered("policy", access_token_lifetime_s=42)
    assert changed["access_token_lifetime_s"] == 42
    assert changed["leeway_s"] == 30
    assert (await auth0.ordered("policy", refresh_idle_lifetime_s=None))["refresh_idle_lifetime_s"] is None


@pytest.mark.asyncio
async def test_code_length_is_a_knob(entra: SandboxClient) -> None:
    await entra.ordered("policy", code_length=6, code_lifetime_s=5)
    challenged = await entra.begin(OTP_USER)
    assert challenged.json["code_length"] == 6 == len(await entra.code(OTP_USER))
    await entra.ordered("clock", advance_s=5)
    assert (await entra.request("GET", f"/sandbox/mailbox/{OTP_USER}")).status == 404


@pytest.mark.asyncio
async def test_a_mailbox_can_be_waited_for(entra: SandboxClient) -> None:
    first = await entra.native("initiate", username=OTP_USER, challenge_type="oob redirect")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(entra.request("GET", f"/sandbox/mailbox/{OTP_USER}?wait_s=30"))
        await entra.native("challenge", continuation_token=first.json["continuation_token"])
    assert waiting.result().status == 200
    assert waiting.result().text == await entra.code(OTP_USER)
    assert waiting.result().headers["content-type"] == "text/plain; charset=utf-8"
    empty = await entra.request("GET", "/sandbox/mailbox/nobody@x.example?wait_s=0.02")
    assert empty.status == 404


@pytest.mark.asyncio
async def test_events_are_numbered_ordered_and_can_be_waited_for(entra: SandboxClient) -> None:
    await entra.sign_in()
    events = await entra.events()
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    answered = [(event["kind"], event["endpoint"], event["status"]) for event in events[:2]]
    assert answered == [("request_answered", "initiate", 200), ("request_answered", "challenge", 200)]
    kinds = [event["kind"] for event in events[2:]]
    assert kinds == ["token_request_received", "signed_in", "token_request_answered"]
    assert events[3]["username"] == PASSWORD_USER and events[3]["at"] == NOON
    last = events[-1]["id"]
    nothing = await entra.request("GET", f"/sandbox/events?after={last}&wait_s=0.02")
    assert nothing.json == {"events": [], "last_event_id": last}
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(entra.request("GET", f"/sandbox/events?after={last}&wait_s=30"))
        await entra.ordered("revoke", username=PASSWORD_USER)
    assert waiting.result().json["events"][0]["kind"] == "token_revoked"


@pytest.mark.asyncio
async def test_events_and_state_never_hold_a_token_or_a_code(each: SandboxClient) -> None:
    tokens = await each.sign_in(OTP_USER)
    await each.refresh(tokens["refresh_token"])
    await each.token(grant_type=tokens["refresh_token"], client_id=tokens["refresh_token"])  # a confused client
    reply = await each.request("GET", "/sandbox/events")
    shown = reply.text + (await each.request("GET", "/sandbox/state")).text + repr(each.server.provider.state)
    assert "SANDBOXMARK" not in shown
    for token in ("access_token", "id_token"):
        assert tokens[token].rpartition(".")[2] not in shown


@pytest.mark.asyncio
async def test_the_clock_only_goes_forward_and_drives_everything(entra: SandboxClient) -> None:
    assert (await entra.request("GET", "/sandbox/clock")).json == {"now": NOON, "offset_s": 0}
    assert await entra.ordered("clock", advance_s=1.5) == {"now": NOON + 1.5, "offset_s": 1.5}
    assert (await entra.order("clock", advance_s=400 * 365 * 86_400)).status == 400


@pytest.mark.asyncio
async def test_state_counts(entra: SandboxClient) -> None:
    await entra.sign_in()
    state = (await entra.request("GET", "/sandbox/state")).json
    assert (state["profile"], state["users"], state["families_alive"], state["refresh_tokens"]) == ("entra", 6, 1, 1)


# -- the world file ---------------------------------------------------------------------------------------------

WORLD = """\
tenant = "fabrikam"

[policy]
access_token_lifetime_s = 60
leeway_s = 5

[[users]]
username = "ada@fabrikam.example"
password = "analytical"

[[users]]
username = "bob@fabrikam.example"

[[clients]]
client_id = "watch"
redirect_uris = ["com.example.watch:/cb"]
grant_types = ["password", "refresh_token"]
[[faults]]
name = "error_503"
endpoint = "token"
retry_after_s = 3
"""


@pytest.mark.asyncio
async def test_a_world_file_gives_everything(start: Start) -> None:
    world = parse_world(WORLD, file="world.toml")
    async with start("auth0", world) as client:
        given = {"client_id": "watch", "grant_type": "password", "username": "ada@fabrikam.example"}
        first = await client.token(**given, password="analytical", scope=SCOPE)
        assert (first.status, first.headers["retry-after"]) == (503, "3")
        second = await client.token(**given, password="analytical", scope=SCOPE)
        assert second.json["expires_in"] == 60
        assert (await client.token(grant_type="password", client_id=CLIENT_ID)).status == 401
        assert client.server.provider.state.policy.refresh_idle_lifetime_s == 30 * 86_400  # the profile's


def test_what_a_world_file_leaves_out_is_the_default_world_s() -> None:
    world = parse_world('tenant = "fabrikam"\n', file="f")
    assert [user.username for user in world.users] == [user.username for user in DEFAULT_USERS]
    assert [client.client_id for client in world.clients] == [CLIENT_ID]


BAD_WORLDS = [
    ("tenant = \n", "w.toml: not TOML", "line 1"),
    (WORLD.replace("leeway_s = 5", "leeway_s = -5"), "w.toml:5: policy.leeway_s:", ""),
    (WORLD.replace("leeway_s", "leway_s"), "w.toml:5: policy.leway_s:", ""),
    (WORLD.replace('username = "bob', 'user = "bob'), "w.toml:11: users[1].username:", "w.toml:12: users[1].user:"),
    (WORLD.replace('"analytical"', "7"), "w.toml:9: users[0].password:", ""),
    (WORLD.replace('"error_503"', f'"{SECRET}"'), "w.toml:19: faults[0].name:", "hold_before_commit"),
    (WORLD.replace("fabrikam", "Fabri Kam", 1), "w.toml:1: tenant:", ""),
    (WORLD + "\n[[users]]\nusername = 'Bob@fabrikam.example'\n", "w.toml:23: users[2]:", "twice"),
    ("users = 1\n", "w.toml:1: users:", ""),
    ("a" * 1_048_577, "w.toml: longer than", ""),
    ("x = " + "[" * 100_000, "w.toml: not TOML", ""),
]


@pytest.mark.parametrize(("text", "place", "also"), BAD_WORLDS)
def test_a_mistake_in_a_world_file_is_shown_by_file_line_and_key(text: str, place: str, also: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_world(text, file="w.toml")
    message = str(caught.value)
    assert place in message and also in message
    assert SECRET not in message
    assert caught.value.__cause__ is None or "not TOML" in message
