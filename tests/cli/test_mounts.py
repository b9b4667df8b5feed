"""What a home lies on, from the kernel's table of mounts: each file in ``mounts/`` is one machine's.

Its second line says where the home is, what must be found, and which layers' paths can be seen there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.small_disk import may_mount
from tests.cli.cli_kit import Shell
from token_relay.host import mounts
from token_relay.service.checks import machine

TABLES = sorted(Path(__file__).with_name("mounts").glob("*.txt"))
INIT = ("companion", "init", "--broker", "mqtt://127.0.0.1:1884", "--name", "watch", "--json")


@pytest.mark.parametrize("table", TABLES, ids=[table.stem for table in TABLES])
def test_overlay_is_as_lasting_as_its_upper_layer(table: Path) -> None:
    _, said, *rest = table.read_text().split("\n")
    wanted = dict(word.split("=") for word in said.removeprefix("# ").replace("my disk", "my-disk").split(" "))
    there = wanted["there"].replace("my-disk", "my disk").split(",")
    assert mounts.lasting("\n".join(rest), Path(wanted["home"]), there.__contains__) == wanted["lasting"]


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount an overlay whose upper layer lies in memory or on the tests' disk; unmounted at the end."""
    with ExitStack() as stack:

        def mount(what: str, place: Path, options: str) -> None:
            place.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", what, "-o", options, what, str(place)], check=True)
            stack.callback(subprocess.run, ["umount", str(place)], check=True)

        def make(upper: str) -> Path:
            base, merged = tmp_path / upper, tmp_path / f"merged-{upper}"
            base.mkdir()
            if upper == "memory":
                mount("tmpfs", base, "mode=0700")
            for name in ("l", "u", "w"):
                (base / name).mkdir()
            mount("overlay", merged, f"lowerdir={base}/l,upperdir={base}/u,workdir={base}/w")
            merged.chmod(0o755)
            return merged

        yield make


@pytest.fixture(autouse=True)
def ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that ends as soon as it has started, in this process."""

    async def run(*_: object) -> None:
        pass

    monkeypatch.setattr("token_relay.service.companion.run_companion", run)
    monkeypatch.setattr("token_relay.cli.commands.serve.harden_process", lambda: ())
    monkeypatch.setattr("token_relay.cli.commands.serve.configure_logs", lambda context: None)


@pytest.mark.skipif(not may_mount(), reason="no overlay may be mounted here")
def test_real_overlay_in_memory_is_said_at_init_and_run_and_by_doctor(
    overlay: Callable[[str], Path], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", Path("/proc/self/mountinfo"))
    home = overlay("memory") / "home"
    made = shell(*INIT, "--home", str(home))
    (warning,) = json.loads(made.out)["warnings"]
    assert made.code == 0 and warning.startswith(f"{home} lies in memory")
    found = machine.look_at_disk(home)
    assert not found.is_ok and found.detail.startswith("overlay") and "a reboot empties it" in found.detail
    assert f"warning: {home} lies in memory" in shell("companion", "run", "--home", str(home)).err
    if mounts.lasting(Path("/proc/self/mountinfo").read_text(), home.parents[2]) == "disk":
        assert machine.look_at_disk(overlay("disk")).is_ok


@pytest.mark.parametrize(("table", "word"), [("memory", "lies in memory"), ("docker", "cannot be seen")])
def test_init_and_run_warn_of_a_home_that_may_not_last(
    table: str, word: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = "/run/user/1000" if table == "memory" else "/"
    text = (TABLES[0].parent / f"{table}.txt").read_text().replace(f" {point} ", " / ")
    (tmp_path / "mountinfo").write_text(text)
    monkeypatch.setattr(mounts, "MOUNTINFO", tmp_path / "mountinfo")
    made = shell(*INIT, "--home", str(tmp_path / "home"))
    assert made.code == 0 and word in json.loads(made.out)["warnings"][0]
    assert word in shell("companion", "run", "--home", str(tmp_path / "home")).err
    found = machine.look_at_disk(tmp_path)
    assert found.is_ok is (table == "docker") and found.hint
