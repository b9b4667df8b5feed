"""A cell: one provider, one mosquitto, one phone, one companion, and a loop that kills one of the agents over and over.

Cells share nothing, so the provider's events of a cell speak of one agent's refreshes: while one is the victim, nobody
asks the other for anything. The loop waits after each kill until the victim is back, with a token that a protected
resource accepted and that a refresh after the restart has brought; so each kill finds a healthy grant, and what is
lost is lost by that kill alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from random import Random
from typing import Any

from tests.chaos.plan import Kill, Profile, Shot, Tally, Victim, draw, hit_of, watched
from tests.chaos.victims import OnDisk, Target
from tests.e2e.kit import PASSWORD, Program, World, eventually, ready
from token_relay.sandbox.marked_tokens import find_marked

ACCESS_TOKEN_LIFETIME_S = 1.0  # an app that asks makes the agent refresh every second or two


class Cell:
    """Use with ``async with``; :meth:`kill_often` as often as wanted."""

    def __init__(self, profile: Profile, random: Random) -> None:
        self.profile = profile
        self.random = random
        self.world = World(profile, "mosquitto", ACCESS_TOKEN_LIFETIME_S)
        self.targets: dict[Victim, Target] = {}

    async def __aenter__(self) -> Cell:
        await self.world.__aenter__()
        try:
            phone, watch = await ready(self.world)
            await phone.hand_off(watch)
            await watch.until_generation(2)
        except BaseException as exc:
            await self.world.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        self.targets = {"companion": Target(watch, phone), "phone": Target(phone, phone)}
        return self

    async def __aexit__(self, *what: Any) -> None:
        await self.world.__aexit__(*what)  # searches everything that was written for marked tokens

    async def kill_often(self, victim: Victim, times: int, tally: Tally, done: Callable[[Kill], None]) -> None:
        """Kill one agent so many times; each kill is judged at once."""
        for _ in range(times):
            kill = await self.kill_once(victim, draw(self.random, self.profile))
            tally.add(kill)
            done(kill)

    async def kill_once(self, victim: Victim, shot: Shot) -> Kill:
        """Kill one agent, start it again, and heal it if its grant is lost; returns what was seen."""
        target = self.targets[victim]
        before = OnDisk("held", (await target.newest())["generation"])
        sandbox = self.world.sandbox
        mark = await self._shoot(target, shot)
        requests = watched(await self._settled(mark))
        if shot.aim in ("before_commit", "after_commit"):
            await sandbox.release()
        disk = target.on_disk()
        commits = sum(one.is_committed for one in requests)
        unstored = commits - (disk.generation - before.generation)
        self._put_away(target.agent.running)
        began_at = time.monotonic()
        await target.agent.run(is_connected=False)
        is_back = await target.comes_back(beyond=disk.generation)
        back_s = time.monotonic() - began_at
        plain, healings = False, 0
        if not is_back:
            plain = await target.says_plainly()
            await target.heal()
            healings = 1
            assert await target.comes_back(beyond=1), "what the status says did not help"
        last = requests[-1] if requests else None
        return Kill(
            profile=self.profile,
            victim=target.victim,
            aim=shot.aim,
            hit=hit_of(requests, unstored=unstored, state=disk.state),
            state=disk.state,
            committed=last is not None and last.is_committed,
            unstored=unstored,
            generation_before=before.generation,
            generation_after=disk.generation,
            lost=not is_back,
            reuses=await sandbox.count("reuse_detected", after=mark),
            plain=plain,
            healings=healings,
            back_s=round(back_s, 3),
        )

    async def _shoot(self, target: Target, shot: Shot) -> int:
        """Kill where the shot says; returns a mark of the provider's events from before it."""
        sandbox = self.world.sandbox
        mark = await sandbox.mark()
        if shot.aim == "before_commit":
            await sandbox.hold_refresh("before_commit")
        elif shot.aim in ("after_commit", "answer"):
            await sandbox.hold_refresh("after_commit")
        elif shot.aim == "page":
            await sandbox.fault(
                shot.page, endpoint="token", grant_type="refresh_token", committed=shot.is_committed, retry_after_s=0
            )
        asking = asyncio.create_task(target.keep_asking() if shot.aim == "random" else target.ask(force=True))
        try:
            if shot.aim == "request":
                await sandbox.event("token_request_received", after=mark)
            elif shot.aim in ("before_commit", "after_commit", "answer"):
                await sandbox.held(mark)
            elif shot.aim == "page":
                await sandbox.event("token_request_answered", after=mark)
            if shot.aim == "answer":
                await sandbox.release()
            await asyncio.sleep(shot.delay_s)
        finally:
            await target.agent.kill()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
        return mark

    async def _settled(self, mark: int) -> list[dict[str, Any]]:
        """Wait until the provider has noticed that its client is gone, and return its events since the mark."""
        sandbox = self.world.sandbox

        async def look() -> list[dict[str, Any]] | None:
            first = await sandbox.events(mark)
            again = await sandbox.events(mark)  # a request that lay in a socket has been read by now
            if first != again or any(one.end == "open" for one in watched(again)):
                return None
            return [*again, {"kind": "end"}]

        return (await eventually("the provider has noticed", look))[:-1]

    def _put_away(self, program: Program) -> None:
        """Judge what a killed program has said and forget it, so that a run of days fits into memory."""
        said = bytes(program.out + program.err)
        assert not find_marked(said) and not find_marked(said, PASSWORD), "a marked secret in a log"
        assert b"Traceback (most" not in said and b"internal_error" not in said, program.text
        self.world.programs.remove(program)
