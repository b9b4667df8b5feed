"""Only a graphical browser is started, without the terminal, and nobody waits for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from token_relay.cli.graphical_browser import TEXT_BROWSERS, open_graphical

URL = "https://idp.example/authorize?state=x&y=%25"
# It tells the pipe its number, its name, its arguments, and whether it could take the terminal; then it runs on.
FAKE = """\
#!/bin/sh
if [ -t 0 ] || [ -t 1 ] || [ -t 2 ]; then where=terminal; else where=aside; fi
printf '%s|%s|%s|%s\\n' $$ "${0##*/}" "$*" "$where" > "$PIPE"
exec /bin/sleep 1000
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    os.mkfifo(tmp_path / "pipe")
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "PIPE": str(tmp_path / "pipe")}


def install(directory: Path, name: str) -> Path:
    program = directory / name
    program.write_text(FAKE)
    program.chmod(0o755)
    return program


def started(directory: Path) -> str:
    """Return what the one browser said; it still runs, and is ended here."""
    pid, _, said = (directory / "pipe").read_text("utf-8").strip().partition("|")
    os.kill(int(pid), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1]) == -signal.SIGKILL
    return said


@pytest.mark.parametrize("display", [{"DISPLAY": ":0"}, {"WAYLAND_DISPLAY": "wayland-0"}])
def test_a_browser_of_the_desktop_is_started_aside(
    tmp_path: Path, env: dict[str, str], display: dict[str, str]
) -> None:
    install(tmp_path, "xdg-open")
    assert open_graphical(URL, env | display, "linux")
    assert started(tmp_path) == f"xdg-open|{URL}|aside"


def test_without_a_display_nothing_is_started(tmp_path: Path, env: dict[str, str]) -> None:
    for name in ("xdg-open", "firefox", "w3m"):
        install(tmp_path, name)
    assert not open_graphical(URL, env, "linux")
    assert not open_graphical(URL, env | {"DISPLAY": ""}, "linux")


@pytest.mark.parametrize("name", sorted(TEXT_BROWSERS))
def test_a_text_browser_is_never_started(tmp_path: Path, env: dict[str, str], name: str) -> None:
    install(tmp_path, name)
    (tmp_path / "x-www-browser").symlink_to(tmp_path / name)
    display = {"DISPLAY": ":0", "BROWSER": f"{name}:{tmp_path}/{name} %s", "PATH": str(tmp_path)}
    assert not open_graphical(URL, env | display, "linux")


@pytest.mark.parametrize(("named", "arguments"), [("helper", URL), ("helper --tab %s -q", f"--tab {URL} -q")])
def test_the_program_that_the_person_names_is_started_without_a_display_too(
    tmp_path: Path, env: dict[str, str], named: str, arguments: str
) -> None:
    install(tmp_path, "helper")
    assert open_graphical(URL, env | {"BROWSER": f"missing:'broken:{named}"}, "linux")
    assert started(tmp_path) == f"helper|{arguments}|aside"


def test_on_a_mac_its_opener_is_started(tmp_path: Path, env: dict[str, str]) -> None:
    install(tmp_path, "open")
    assert open_graphical(URL, env, "darwin")
    assert started(tmp_path) == f"open|{URL}|aside"


def test_a_program_that_cannot_be_started_is_passed_over(tmp_path: Path, env: dict[str, str]) -> None:
    install(tmp_path, "xdg-open").write_text("#!/nonexistent/interpreter\n")
    install(tmp_path, "firefox")
    assert open_graphical(URL, env | {"DISPLAY": ":0", "PATH": str(tmp_path)}, "linux")
    assert started(tmp_path) == f"firefox|{URL}|aside"
