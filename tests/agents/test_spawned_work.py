"""Work that an agent spawns: a stop may come before its first step, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from tests.properties.one_end import turns


@pytest.mark.parametrize("loops", [0, 1, 2])
def test_work_that_is_cancelled_before_it_began_leaves_no_warning(loops: int) -> None:
    begun: list[str] = []

    async def work() -> None:
        begun.append("work")
        await asyncio.Event().wait()

    async def stop_at_once() -> None:
        async with asyncio.TaskGroup() as tasks:
            turns(tasks).spawn(work())
            for _ in range(loops):
                await asyncio.sleep(0)
            raise ValueError("the agent stops")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ExceptionGroup):
            asyncio.run(stop_at_once())
        gc.collect()
    assert begun == ["work"] * bool(loops)
    assert [str(one.message) for one in caught] == []
