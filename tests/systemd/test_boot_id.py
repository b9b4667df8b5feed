"""Under the units the kernel's boot id is out of sight (ProcSubset=pid); the service manager names the boot instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from token_relay.agents.elapsed import Stamp, elapsed_s
from token_relay.host.clock import SystemClock, read_boot_id

ID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
PLAIN = ID.replace("-", "")  # as systemd's specifier %b spells it


def test_token_of_this_boot_is_served_after_a_restart_where_proc_sys_is_hidden(tmp_path: Path) -> None:
    def clock() -> SystemClock:
        return SystemClock(boot_id_path=tmp_path / "hidden", boot_id=PLAIN, is_synced=lambda: False)

    elapsed = elapsed_s(Stamp.of(clock().now()), clock().now())
    assert elapsed is not None  # of another boot it would be unknown


def test_both_spellings_name_the_same_boot(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(ID + "\n")
    assert read_boot_id(tmp_path / "boot_id") == ID == read_boot_id(tmp_path / "hidden", PLAIN)


def test_kernel_is_believed_before_the_environment(tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text(ID + "\n")
    assert read_boot_id(tmp_path / "boot_id", "f" * 32) == ID


@pytest.mark.parametrize("given", ["", "%b", "x" * 32, PLAIN + "0", PLAIN[:31], "٣" * 32])
def test_boot_without_a_name_is_like_no_other(tmp_path: Path, given: str) -> None:
    first, second = read_boot_id(tmp_path / "hidden", given), read_boot_id(tmp_path / "hidden", given)
    assert first.startswith("process-") and second.startswith("process-") and first != second
