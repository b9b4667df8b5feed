"""The real clocks and the real randomness of this machine."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from token_relay.agents.ports import Clock, Random
from token_relay.host import clock
from token_relay.host.clock import STA_UNSYNC, TIME_ERROR, SystemClock, SystemRandom, is_kernel_synced, read_boot_id

BOOT_ID = "3f0c1b9e-aaaa-4bbb-8ccc-000000000001"


def test_now_reads_boot_time_and_wall_time() -> None:
    system: Clock = SystemClock(is_synced=lambda: True)
    before = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    now = system.now()
    after = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    assert before[0] <= now.boot_s <= after[0]
    assert before[1] <= now.wall_s <= after[1]
    assert now.is_synced is True
    assert SystemClock(is_synced=lambda: False).now().is_synced is False


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(BOOT_ID + "\n")
    assert SystemClock(boot_id_path=tmp_path / "boot_id").now().boot_id == BOOT_ID


@pytest.mark.parametrize("content", [None, b"", b"not an id", b"\xff" * 36, b"0" * 1000])
def test_without_a_boot_id_each_process_has_its_own(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "boot_id"
    if content is not None:
        path.write_bytes(content)
    first, second = read_boot_id(path), read_boot_id(path)
    assert first != second
    assert first.startswith("process-")


def test_one_clock_keeps_its_boot_id(tmp_path: Path) -> None:
    system = SystemClock(boot_id_path=tmp_path / "absent")
    assert system.now().boot_id == system.now().boot_id


def kernel(state: int, status: int) -> Callable[[], Callable[[ctypes._CArgObject], int]]:
    """Return a stand-in for adjtimex that answers so, and has only been asked to read."""

    def adjtimex(pointer: ctypes._CArgObject) -> int:
        timex = ctypes.cast(pointer, ctypes.POINTER(clock._Timex)).contents
        assert timex.modes == 0
        timex.status = status
        return state

    return lambda: adjtimex


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        (0, 0x2001, True),  # TIME_OK; STA_NANO | STA_PLL
        (1, 0x0011, True),  # a leap second is coming: TIME_INS; STA_INS | STA_PLL
        (TIME_ERROR, STA_UNSYNC, False),
        (TIME_ERROR, 0, False),
        (0, STA_UNSYNC, False),
    ],
)
def test_the_wall_clock_is_right_when_the_kernel_says_so(
    monkeypatch: pytest.MonkeyPatch, state: int, status: int, expected: bool
) -> None:
    monkeypatch.setattr(clock, "_adjtimex", kernel(state, status))
    assert is_kernel_synced() is expected


@pytest.mark.parametrize("adjtimex", [kernel(-1, 0), lambda: None])
def test_where_the_kernel_may_not_be_asked_timesyncds_mark_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adjtimex: Callable[[], Callable[[object], int] | None]
) -> None:
    monkeypatch.setattr(clock, "_adjtimex", adjtimex)
    monkeypatch.setattr(clock, "TIMESYNCD_MARK", tmp_path / "synchronized")
    assert is_kernel_synced() is False
    (tmp_path / "synchronized").touch()
    assert is_kernel_synced() is True


def test_the_real_kernel_can_be_asked() -> None:
    assert is_kernel_synced() in (True, False)
    assert SystemClock().now().boot_id == read_boot_id()


@pytest.mark.asyncio
async def test_sleep_sleeps_on_the_monotonic_clock() -> None:
    woke: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await SystemClock().sleep(seconds)
        woke.append(name)

    await asyncio.gather(sleeper("later", 0.1), sleeper("sooner", 0.01))
    assert woke == ["sooner", "later"]


def test_random_bytes_and_jitter_stay_in_bounds() -> None:
    source: Random = SystemRandom()
    assert len(source.bytes(32)) == 32
    assert source.bytes(32) != source.bytes(32)
    assert all(1.5 <= source.uniform(1.5, 2.5) <= 2.5 for _ in range(100))


@pytest.mark.asyncio
async def test_a_sleep_is_cut_into_pieces_and_ends_by_boot_time(monkeypatch: pytest.MonkeyPatch) -> None:
    boot_s, slept = [1000.0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        boot_s[0] += seconds + (3600.0 if len(slept) == 2 else 0.0)  # suspended for an hour in the second piece

    monkeypatch.setattr(time, "clock_gettime", lambda which: boot_s[0])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await SystemClock(is_synced=lambda: True).sleep(4000.0)
    assert slept[:2] == [60.0, 60.0]
    assert max(slept) <= 60.0
    assert boot_s[0] == 5000.0  # and not an hour later
