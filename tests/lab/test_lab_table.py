"""docs/lab.md says where everything is: each page is there, and what it calls is in the tenant log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.visitor import NEXT, Shown, Visitor, visiting
from token_relay.sandbox.lab.flows import flows
from token_relay.sandbox.lab.native_calls import operations

pytestmark = pytest.mark.asyncio

PAGE = Path(__file__).parents[2] / "docs" / "lab.md"
NEW_PASSWORD = "Wrong-Horse-8"


def rows() -> list[tuple[str, str]]:
    """Page and live call of each row of the table."""
    text = PAGE.read_text(encoding="utf-8").partition("## What is where")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [(page.strip("`"), call.strip("`")) for _, page, call in cells[2:]]


async def act(visitor: Visitor, place: str) -> Shown:
    """Do what the page is for, as a person would."""
    room, _, name = place.partition("/")
    if room == "flows":
        return await visitor.walk(name, new_password=NEW_PASSWORD, password=NEW_PASSWORD if name == "sign-up" else "")
    if room == "reference":
        values = (await visitor.get(place)).values(NEXT)
        return await visitor.post(place, **values)
    if room.startswith("browser"):
        return await visitor.sign_in_in_browser(place.partition("#")[2])
    assert place == "find-email", place
    return await visitor.post(place, phone="+14255550100")


async def test_each_page_is_there_and_each_live_call_is_in_the_tenant_log() -> None:
    called = 0
    async with visiting() as visitor:
        for place, call in rows():
            if call:
                page = await act(visitor, place)
                newest = visitor.lab.room.live.calls[0]
                assert newest.path.endswith(call), (place, newest.path)
                assert newest.trace_id in page.traces, place
                assert await visitor.is_logged(newest.trace_id), place
                called += 1
            where = "" if place == "start" else place.partition("#")[0]
            assert (await visitor.get(where)).status == 200, place
    assert called >= 25


async def test_the_table_has_each_flow_each_endpoint_and_each_entry_of_the_lab() -> None:
    places = {place for place, _ in rows()}
    assert {f"flows/{name}" for name in flows()} | {f"reference/{name}" for name in operations()} <= places
    async with visiting() as visitor:
        page = await visitor.get("")
        nav = page.text.partition("<nav")[2].partition("</nav>")[0]
        entries = {part.partition('"')[0] for part in nav.split(f'href="{visitor.lab.server.root}')[1:]} - {"", "flows"}
        assert len(entries) > 5 and entries <= places, entries - places
