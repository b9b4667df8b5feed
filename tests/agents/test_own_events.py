"""The phone looks before it acts on a handoff: the companion or the person may have ended it meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.agents.guard_kit import count, say
from tests.agents.test_phone_guards import accept, offered
from tests.agents.world_kit import running
from token_relay.agents.records import Grant, Outgoing
from token_relay.protocol import messages as m
from token_relay.provider import oauth
from token_relay.provider.outcome import Denied, TokenOutcome

pytestmark = pytest.mark.asyncio


async def test_a_second_cancel_waits_for_the_answer_to_the_first() -> None:
    async with running("entra") as world:
        await offered(world)
        for _ in range(2):
            row = await world.within(world.phone.agent.cancel("watch"))
            assert row.state == "cancelling"
        assert len(await world.phone.rows(Outgoing, type="CANCEL")) == 1


async def test_a_denial_that_comes_after_the_end_is_noted_and_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = asyncio.Event()

    async def refresh(*args: Any, **options: Any) -> TokenOutcome:
        await answers.wait()
        return Denied("final", "invalid_grant")

    monkeypatch.setattr(oauth, "refresh", refresh)
    async with running("entra") as world:
        row = await offered(world)
        await say(world.watch, accept(row))
        await say(world.watch, m.Reject(handoff_id=row.handoff_id, reason="gone"))
        before = await world.phone.handoff()
        assert (before.state, before.is_obtaining) == ("cancelling", True)
        answers.set()
        await world.clock.advance(1)
        after = await world.phone.handoff()
        assert (after.state, after.is_obtaining, after.orphans) == ("cancelling", False, 0)
        assert "invalid_grant" in after.problem
        assert (await world.phone.one(Grant)).state == "dead"
        assert count(world, world.phone, world.watch, m.Cancel) == 1
