"""A world whose mosquitto forgets: its default settings, under which a kill -9 loses sessions and queues.

``autosave_on_changes`` is off and ``autosave_interval`` 1800 s by default (mosquitto.conf(5)), so the database is
written at a clean end only. The broker that the documents recommend is set up otherwise; this is the worst case.
"""

from __future__ import annotations

from tests.channel.mosquitto import Mosquitto
from tests.e2e.kit import World


class ForgetfulWorld(World):
    """As :class:`World` with ``broker="mosquitto"``; :meth:`forget` is the broker's kill -9 and restart."""

    async def _start_broker(self) -> None:
        self.mosquitto = Mosquitto(self.directory / "broker", "max_packet_size 20480")
        lines = self.mosquitto.config.read_text().splitlines(keepends=True)
        self.mosquitto.config.write_text("".join(line for line in lines if not line.startswith("autosave")))
        await self.mosquitto.start()

    async def forget(self) -> None:
        """kill -9, and start again on the same port."""
        assert self.mosquitto is not None
        await self.mosquitto.kill()
        assert not (self.mosquitto.directory / "mosquitto.db").exists(), "it has saved something"
        await self.mosquitto.start()
