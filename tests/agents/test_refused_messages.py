"""What an agent tells of a message that it refused; see tests/core/test_vectors.py for every reason of an envelope."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.agents.guard_kit import UNKNOWN, count, deafen, say
from tests.agents.world_kit import running
from token_relay.agents.records import AuditEvent, Outgoing, Pairing, PhoneHandoff
from token_relay.protocol import messages as m
from token_relay.protocol.delivery import OUTBOX_ROWS_MAX

pytestmark = pytest.mark.asyncio


async def test_what_would_open_one_request_too_many_changes_nothing_and_is_told() -> None:
    async with running("entra") as world:
        deafen(world, world.watch)
        pairing = await world.phone.one(Pairing)
        row = Outgoing(pairing.pairing_id, 0, "CANCEL", UNKNOWN, b"", "")
        for number in range(OUTBOX_ROWS_MAX):
            await world.phone.edit(row, seq=10_000 + number, handoff_id=f"{number:032x}")
        with capture_logs() as logs:
            await say(world.watch, m.Stored(handoff_id=UNKNOWN))  # it would be taken away
        assert world.phone.agent.turns.rejects["outbox_full"] == 1
        told = [line for line in logs if line["event"] == "message_refused"]
        assert [(line["log_level"], line["detail"]) for line in told] == [("info", "outbox_full")]
        assert [event for event in await world.phone.rows(AuditEvent) if event.name == "message_refused"] == []
        assert await world.phone.rows(PhoneHandoff) == []
        assert count(world, world.phone, world.watch, m.Closed) == 0
