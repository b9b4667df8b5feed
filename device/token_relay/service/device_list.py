"""Answers ``devices``: reads the vault, asks the devices of the page whether they are there, and shows the page."""

from __future__ import annotations

from collections.abc import Mapping

from token_relay.agents.pairings import pairing_of
from token_relay.agents.phone.agent import PhoneAgent
from token_relay.agents.ports import Transaction
from token_relay.agents.records import Grant, Outgoing, Pairing, PhoneHandoff
from token_relay.protocol.errors import ConfigError, LocalError
from token_relay.service import devices
from token_relay.service.actions import action
from token_relay.service.control import JSON
from token_relay.service.runtime import number_of, text_of

WAIT_S = 2.0  # for the answers of the devices on the page; a living one answers within milliseconds
WAIT_S_MAX = 30.0
LIMIT = 100  # rows of a page where nobody says
HEADED = ("device_id", "name", "heard_at")  # said once of a device, and not of each of its pairings


class DeviceList:
    """The devices of one phone, as they are looked at."""

    def __init__(self, agent: PhoneAgent) -> None:
        self._agent = agent

    async def answer(self, args: Mapping[str, JSON]) -> dict[str, JSON]:
        """Return a page of devices, or with ``device`` one of them whole.

        Raises:
            LocalError: there is no such device, or no such place in the list. ConfigError: a wrong argument.
        """
        wait_s = number_of(args, "wait_s", WAIT_S, low=0, high=WAIT_S_MAX)
        if device := text_of(args, "device"):
            return await self._whole(device, wait_s)
        only, after = text_of(args, "only"), text_of(args, "after")
        if only not in ("", "needs-me"):
            raise ConfigError("only must be needs-me")
        limit = int(number_of(args, "limit", LIMIT, low=1, high=devices.ROWS_MAX))
        rows = await self.rows()
        shown, _ = devices.page(_only(rows, only), after=after, limit=limit)
        if wait_s:
            await self._ask({row["device_id"] for row in shown}, wait_s)
            rows = await self.rows()
        now = int(self._agent.turns.clock.now().wall_s)
        shown, place = devices.page(_only(rows, only), after=after, limit=limit)
        return {"devices": list(shown), "summary": dict(devices.summary(rows)), "next": place, "now": now}

    async def rows(self) -> list[devices.Json]:
        """Return the rows of all devices, in order, by what is known without asking them."""

        def read(tx: Transaction) -> tuple[list[Pairing], list[PhoneHandoff], list[Grant]]:
            return tx.select(Pairing), tx.select(PhoneHandoff), tx.select(Grant, pairing_id="")

        agent = self._agent
        pairings, handoffs, own = await agent.turns.read(read)
        phone = devices.PhoneSide(agent.turns.clock.now(), own, agent.link.estranged(), agent.settings.profile)
        known = devices.devices_of(pairings, handoffs, agent.roll_call.of(pairings))
        return devices.device_rows(known, phone)

    async def _ask(self, ids: set[str], wait_s: float) -> None:
        def read(tx: Transaction) -> list[str]:
            return [row.pairing_id for row in tx.select(Pairing, state="active") if row.peer_id in ids]

        await self._agent.roll_call.ask(await self._agent.turns.read(read), wait_s)

    async def _whole(self, device: str, wait_s: float) -> dict[str, JSON]:
        pairing = await self._agent.turns.read(lambda tx: pairing_of(tx, device))
        await self._ask({pairing.peer_id}, wait_s)

        def read(tx: Transaction) -> list[devices.Json]:
            pairings = tx.select(Pairing, peer_id=pairing.peer_id)
            mine = [row.pairing_id for row in pairings]
            outbox = [row for each in mine for row in tx.select(Outgoing, pairing_id=each)]
            handoffs = [row for each in mine for row in tx.select(PhoneHandoff, pairing_id=each)]
            return devices.whole_rows(pairings, outbox, handoffs, self._agent.settings.profile)

        whole = await self._agent.turns.read(read)
        row = next((row for row in await self.rows() if row["device_id"] == pairing.peer_id), None)
        if row is None:
            raise LocalError("the device was forgotten meanwhile")
        shown = [{key: value for key, value in other.items() if key not in HEADED} for other in whole]
        waits = action("bring_device_online", row["name"]) if row["state"] == "waiting" else None  # as status says
        return {"device": {**row, "pairings": shown}, "action": row["action"] or waits}


def _only(rows: list[devices.Json], only: str) -> list[devices.Json]:
    return [row for row in rows if row["state"] == "needs_me"] if only else rows
