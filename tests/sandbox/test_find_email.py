"""Find your email, at the control interface: who is found, what is told, and how often one may ask."""

from __future__ import annotations

import pytest

from tests.sandbox.sandbox_client import SandboxClient
from token_relay.sandbox.control.find_email import TRIES_MAX, WITHIN_S

pytestmark = pytest.mark.asyncio

MIA = {
    "username": "mia@contoso.example",
    "password": "correct-horse-7-battery",
    "mfa": "required",
    "methods": [{"channel": "sms", "target": "+14255550111"}, {"channel": "email", "target": "mia@other.example"}],
}


async def test_who_has_opted_in_is_found_by_any_spelling_and_masked(each: SandboxClient) -> None:
    await each.ordered("users", **MIA, findable_by_phone=True)
    reply = await each.order("find-email", phone="+1 425-555 0111")
    assert (reply.status, reply.json["usernames"]) == (200, ["m***a@co***.example"])
    (event,) = await each.events("email_searched")
    assert (event["trace_id"], event["outcome"]) == (reply.json["trace_id"], "found")
    assert "0111" not in str(event) and "mia" not in str(event)
    listed = (await each.request("GET", "/sandbox/users")).json["users"]
    assert [one["username"] for one in listed if one.get("findable_by_phone")] == ["mia@contoso.example"]


async def test_an_address_is_no_number_and_who_has_not_opted_in_is_nobody(each: SandboxClient) -> None:
    await each.ordered("users", **MIA)
    assert (await each.order("find-email", phone="mia@other.example")).status == 400
    assert (await each.order("find-email", phone="+14255550111")).status == 404
    assert (await each.order("find-email", phone=7)).status == 400


async def test_it_ends_after_a_few_tries_and_begins_again_later(each: SandboxClient) -> None:
    for _ in range(TRIES_MAX):
        assert (await each.order("find-email", phone="+14255550111")).status == 404
    refused = await each.order("find-email", phone="+14255550111")
    assert refused.status == 429 and 0 < int(refused.headers["retry-after"]) <= WITHIN_S + 1
    await each.ordered("clock", advance_s=WITHIN_S)
    assert (await each.order("find-email", phone="+14255550111")).status == 404
