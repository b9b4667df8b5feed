"""Faults on command, each with the proof by events of what was committed and what was not."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from aiohttp import ClientConnectionError, ClientError

from tests.sandbox.sandbox_client import PASSWORD_USER, SandboxClient
from token_relay.sandbox.provider.core import GETS
from token_relay.sandbox.provider.world.model import CLIENT_ID, FAULT_NAMES

pytestmark = pytest.mark.asyncio


async def one_line(client: SandboxClient, refresh_token: str, *, reset: bool) -> tuple[asyncio.StreamWriter, Any]:
    """Send a refresh over a connection of our own, which we can end as we like; returns its end."""
    parts = urlsplit(client.token_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    body = urlencode({"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": refresh_token})
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    writer.write((head + body).encode())
    await writer.drain()
    if reset:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return writer, reader


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_vanishes_before_the_commit_has_used_nothing(each: SandboxClient, reset: bool) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="hold_before_commit", grant_type="refresh_token")
    writer, _ = await one_line(each, token, reset=reset)
    held = await each.wait_for("request_held")
    assert held["when"] == "before_commit"
    writer.close()
    await each.wait_for("request_lost", after=held["id"])
    await each.request("DELETE", "/sandbox/faults")
    assert not await each.events("refresh_committed")
    reply = await each.refresh(token)
    assert reply.status == 200
    assert [event["generation"] for event in await each.events("refresh_committed")] == [2]


async def test_a_request_held_before_the_commit_goes_on_when_released(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="hold_before_commit", grant_type="refresh_token")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(each.refresh(token))
        await each.wait_for("request_held")
        assert not await each.events("refresh_committed")
        await each.request("DELETE", "/sandbox/faults")
    assert waiting.result().status == 200
    assert len(await each.events("refresh_committed")) == 1


async def test_a_hold_with_seconds_ends_by_itself(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="hold_before_commit", endpoint="token", seconds=0.05)
    assert (await each.refresh(token)).status == 200


@pytest.mark.parametrize("name", ["hold_after_commit", "drop_after_commit"])
async def test_an_answer_lost_after_the_commit_is_one_rotation(each: SandboxClient, name: str) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name=name, grant_type="refresh_token")
    writer, reader = await one_line(each, token, reset=False)
    committed = await each.wait_for("refresh_committed")
    if name == "hold_after_commit":
        assert (await each.wait_for("request_held"))["when"] == "after_commit"
        writer.close()
    lost = await each.wait_for("answer_lost", after=committed["id"])
    assert lost["fault"] == name and lost["trace_id"] == committed["trace_id"]
    if name == "drop_after_commit":
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
    assert [event["generation"] for event in await each.events("refresh_committed")] == [2]
    again = await each.refresh(token)
    profile = each.server.provider.state.urls.profile
    assert again.status == {"entra": 200, "auth0": 200, "strict": 400}[profile]  # leeway repairs, strict punishes


async def test_a_held_answer_arrives_when_released(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="hold_after_commit", grant_type="refresh_token")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(each.refresh(token))
        await each.wait_for("request_held")
        assert len(await each.events("refresh_committed")) == 1
        await each.request("DELETE", "/sandbox/faults")
    assert waiting.result().status == 200
    assert not await each.events("answer_lost")


@pytest.mark.parametrize("name", ["drop_before_commit", "down"])
async def test_a_connection_cut_before_the_commit_has_used_nothing(each: SandboxClient, name: str) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name=name, endpoint="token")
    with pytest.raises(ClientConnectionError):
        await each.refresh(token)
    assert not await each.events("refresh_committed")
    assert (await each.events("request_lost"))[0]["fault"] == name
    assert (await each.refresh(token)).status == 200


WRONG_ANSWERS = [
    ({"name": "error_500"}, 500, {}),
    ({"name": "error_502"}, 502, {}),
    ({"name": "error_503"}, 503, {}),
    ({"name": "error_503", "retry_after_s": 7}, 503, {"retry-after": "7"}),
    ({"name": "throttle_429"}, 429, {"retry-after": "1"}),
    ({"name": "throttle_429", "retry_after_s": 120}, 429, {"retry-after": "120"}),
    ({"name": "html"}, 200, {"content-type": "text/html; charset=utf-8"}),
    ({"name": "redirect", "location": "http://127.0.0.1:9/x"}, 307, {"location": "http://127.0.0.1:9/x"}),
]


@pytest.mark.parametrize(("fault", "status", "headers"), WRONG_ANSWERS)
@pytest.mark.parametrize("committed", [False, True])
async def test_a_wrong_answer_commits_only_when_told_to(
    each: SandboxClient, fault: dict[str, Any], status: int, headers: dict[str, str], committed: bool
) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", **fault, committed=committed, grant_type="refresh_token")
    reply = await each.refresh(token)
    assert reply.status == status
    assert {name: reply.headers[name] for name in headers} == headers
    assert len(await each.events("refresh_committed")) == committed
    assert len(await each.events("answer_lost")) == committed


PAGE = {"status": 404, "headers": [["Content-Type", "text/html"], ["X-Edge", "a: b"]], "body": "<h1>gone</h1>"}


@pytest.mark.parametrize("committed", [False, True])
async def test_an_answer_word_for_word_replaces_that_of_a_revocation(strict: SandboxClient, committed: bool) -> None:
    token = (await strict.sign_in())["refresh_token"]
    await strict.ordered("faults", name="answer", answer=PAGE, endpoint="revoke", committed=committed)
    url = strict.server.provider.state.urls.url("revoke")
    reply = await strict.request("POST", url, data={"client_id": CLIENT_ID, "token": token})
    assert (reply.status, reply.text, reply.headers["x-edge"]) == (404, "<h1>gone</h1>", "a: b")
    assert len(await strict.events("token_revoked")) == len(await strict.events("answer_lost")) == committed
    assert (await strict.refresh(token)).status == (400 if committed else 200)


async def test_every_endpoint_gives_an_answer_word_for_word_and_commits_only_when_told_to(each: SandboxClient) -> None:
    urls = each.server.provider.state.urls
    known = sorted({name for _, name in urls._paths()})
    assert {"token", "discovery", "jwks"} <= {*known}
    for endpoint in known:
        for committed in (False, True):
            before = len(await each.events("answer_lost"))
            await each.ordered("faults", name="answer", answer=PAGE, endpoint=endpoint, committed=committed)
            method = "GET" if endpoint in GETS else "POST"
            reply = await each.request(method, urls.url(endpoint), data=None if method == "GET" else {"x": "y"})
            assert (reply.status, reply.text) == (404, "<h1>gone</h1>"), endpoint
            assert len(await each.events("answer_lost")) == before + committed, endpoint


async def test_an_answer_for_ever_meets_each_request_until_it_is_cleared(strict: SandboxClient) -> None:
    token = (await strict.sign_in())["refresh_token"]
    await strict.ordered("faults", name="answer", answer=PAGE, endpoint="token", times=0)
    assert [(await strict.refresh(token)).status for _ in range(5)] == [404] * 5
    await strict.request("DELETE", "/sandbox/faults")
    assert (await strict.refresh(token)).status == 200


async def test_a_huge_answer_is_larger_than_a_client_takes(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="huge", endpoint="token")
    assert len((await each.refresh(token)).text) > 262_144
    assert not await each.events("refresh_committed")


async def test_cut_json_commits_and_cannot_be_parsed(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="cut_json", endpoint="token")
    reply = await each.refresh(token)
    assert reply.status == 200 and reply.text.startswith("{") and not reply.text.endswith("}")
    assert len(await each.events("refresh_committed")) == 1
    assert len(await each.events("answer_lost")) == 1


async def test_a_client_that_does_not_wait_for_a_slow_answer_has_used_nothing(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="slow", seconds=60, endpoint="token")
    impatient = asyncio.create_task(each.refresh(token))
    await each.wait_for("token_request_received")
    impatient.cancel()
    await each.wait_for("request_lost")
    assert not await each.events("refresh_committed")


async def test_slow_answers_late(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="slow", seconds=0.5, endpoint="token")
    async with asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(each.refresh(token))
        await each.wait_for("token_request_received")
        assert (await each.request("GET", "/sandbox/policy")).status == 200
        assert not slow.done() and not await each.events("refresh_committed"), "others are answered meanwhile"
    assert slow.result().status == 200


async def test_a_fault_meets_only_what_fits_and_only_so_often(each: SandboxClient) -> None:
    tokens = await each.sign_in()
    await each.ordered("faults", name="error_500", grant_type="refresh_token", times=2)
    assert (await each.token(grant_type="authorization_code")).status == 400  # another grant
    assert (await each.resource(tokens["access_token"])).status == 200
    statuses = [(await each.refresh(tokens["refresh_token"])).status for _ in range(3)]
    assert statuses == [500, 500, 200]


async def test_a_fault_of_a_commit_is_not_used_up_by_reading(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="drop_after_commit")
    urls = each.server.provider.state.urls
    assert (await each.request("GET", urls.url("jwks"))).status == 200
    with pytest.raises(ClientError):
        await each.refresh(token)


async def test_a_fault_waits_for_its_time(each: SandboxClient) -> None:
    token = (await each.sign_in())["refresh_token"]
    await each.ordered("faults", name="error_500", endpoint="token", after_s=10)
    assert (token := (await each.refresh(token)).json["refresh_token"])
    await each.ordered("clock", advance_s=10)
    assert (await each.refresh(token)).status == 500


async def test_an_unknown_fault_is_answered_with_the_list(each: SandboxClient) -> None:
    reply = await each.order("faults", name="gremlins")
    assert reply.status == 400 and reply.json["faults"] == list(FAULT_NAMES)
    for wrong in ({"name": "slow"}, {"name": "html", "endpoint": "revoke", "grant_type": "password"}):
        assert (await each.order("faults", **wrong)).status == 400
    assert (await each.request("GET", "/sandbox/faults")).json["faults"] == []


async def test_stopping_the_server_commits_nothing_that_was_held(strict: SandboxClient) -> None:
    token = (await strict.sign_in(PASSWORD_USER))["refresh_token"]
    await strict.ordered("faults", name="hold_before_commit", grant_type="refresh_token")
    writer, _ = await one_line(strict, token, reset=False)
    await strict.wait_for("request_held")
    await strict.server.stop()
    kinds = [event.kind for event in strict.server.provider.state.events]
    assert "refresh_committed" not in kinds and kinds[-1] == "request_lost"
    writer.close()
