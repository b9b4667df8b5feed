"""``sandbox --lab`` as a person and as a program start it: one address, and a fresh one for each Enter."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, Request, build_opener

import pytest
from aiohttp import ClientSession
from aiohttp import CookieJar as Jar

from tests.complaints import no_complaints
from tests.e2e.terminal import ROOT, Terminal
from tests.lab.relay_kit import story
from tests.sockets.sockets_kit import short_directory
from tests.watchdog import HANG_S
from token_relay.cli.demo.lab_ends import LabEnds
from token_relay.cli.main import main
from token_relay.pages.server import Look, PageRoute, PageServer
from token_relay.pages.terminal import viewers
from token_relay.pages.visit import Answer, PageRequest

PORTS = ("--http-port", "0", "--mqtt-port", "0", "--lab-port", "0")
ADDRESS = r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/open\?key=\S+"
# A shell with job control on the terminal that it is given.
SHELL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp('sh', ['sh', '-m', '-c', sys.argv[1]])"
)


def browser() -> OpenerDirector:
    return build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))


@contextmanager
def sandbox(place: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "token_relay.cli", "sandbox", "--json", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=place,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def test_a_program_gets_an_address_that_opens_once_and_another_for_a_line(tmp_path: Path) -> None:
    with sandbox(tmp_path, "--lab", *PORTS) as process:
        assert process.stdout is not None and process.stdin is not None
        facts: dict[str, Any] = json.loads(process.stdout.readline())
        assert re.fullmatch(ADDRESS, facts["lab"])
        mine = browser()
        with mine.open(facts["lab"], timeout=HANG_S) as answer:
            assert answer.status == 200
        with mine.open(facts["lab"].partition("open?")[0], timeout=HANG_S) as answer:
            assert b"The lab" in answer.read()
        with pytest.raises(HTTPError, match="403"):
            browser().open(facts["lab"], timeout=HANG_S)
        process.stdin.write("\n")
        process.stdin.flush()
        again: dict[str, Any] = json.loads(process.stdout.readline())
        assert list(again) == ["lab"] and again["lab"] != facts["lab"]
        with browser().open(again["lab"], timeout=HANG_S) as answer:
            assert answer.status == 200
        process.stdin.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "closed-terminal"])
def test_its_two_agents_end_with_it_and_leave_no_directory(tmp_path: Path, number: signal.Signals) -> None:
    with sandbox(tmp_path, "--lab", *PORTS) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["lab"]
        place, mine = address.partition("open?")[0], browser()
        mine.open(address, timeout=HANG_S).close()
        origin = "/".join(address.split("/")[:3])
        mine.open(Request(f"{place}relay/start", b"", {"Origin": origin}), timeout=HANG_S).close()
        threads = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
        command_lines = [Path(f"/proc/{child}/cmdline").read_text().split("\0") for child in children]
        homes = [Path(line[line.index("--home") + 1]) for line in command_lines]
        assert {home.name for home in homes} == {"phone", "companion"} and all(home.is_dir() for home in homes)
        process.send_signal(number)
        assert process.wait(HANG_S) == 0
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
        assert not [home for home in homes if home.parent.exists()]


def test_without_it_there_is_no_lab(tmp_path: Path) -> None:
    with sandbox(tmp_path, "--http-port", "0", "--mqtt-port", "0") as process:
        assert process.stdout is not None
        assert "lab" not in json.loads(process.stdout.readline())


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with sandbox(tmp_path, "--lab", *PORTS) as first:
        assert first.stdout is not None
        port = json.loads(first.stdout.readline())["lab"].partition("127.0.0.1:")[2].partition("/")[0]
        with sandbox(tmp_path, "--lab", *PORTS[:4], "--lab-port", port) as second:
            _, said = second.communicate(timeout=HANG_S)
            assert second.returncode == 2 and f"cannot listen on 127.0.0.1:{port}" in said


@pytest.mark.parametrize("options", [("--tls-cert", "a.pem", "--tls-key", "b.pem"), ("--http-host", "192.0.2.1")])
def test_a_lab_beside_https_or_another_host_is_refused(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sandbox", "--lab", *PORTS, *options]) == 2
    assert "--lab goes with a sandbox on plain HTTP" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_at_a_terminal_each_enter_prints_a_fresh_address(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    async with Terminal("sandbox", "--lab", *PORTS, env=environment, cwd=tmp_path) as terminal:
        first = await terminal.sees(rf"the lab, opened once by this address \(Enter prints a new one\):\n({ADDRESS})\n")
        await terminal.types("")
        second = await terminal.sees(rf"\n({ADDRESS})\n")
        assert first[1] != second[1]
        await terminal.interrupts()
        assert await terminal.ended() == 0


@pytest.mark.asyncio
async def test_in_the_background_it_leaves_the_terminal_to_its_shell_and_is_not_stopped(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = f"{sys.executable} -m token_relay.cli sandbox --lab {' '.join(PORTS)}"
    later = "while [ ! -e go ]; do sleep 0.1; done"
    script = f"{command} & {later}; read line; echo got $line; kill $!; wait $!; echo ended $?"
    async with Terminal(script, env=environment, cwd=tmp_path, program=(sys.executable, "-c", SHELL)) as terminal:
        address = await terminal.sees(ADDRESS)
        await terminal.types("hello")  # nobody reads it yet, so that the sandbox sees it waiting
        for _ in range(3):  # it goes on: one that has been stopped would not answer
            with pytest.raises(HTTPError, match="403"):
                await asyncio.to_thread(browser().open, f"{address[0]}x", timeout=HANG_S)
        (tmp_path / "go").touch()
        await terminal.sees("got hello")
        await terminal.sees("ended 0")


@pytest.mark.parametrize(
    ("environment", "uid", "found"),
    [
        ({}, 1000, {1000}),
        ({"SUDO_UID": "1000"}, 1000, {1000}),
        ({"SUDO_UID": "1000"}, 0, {0, 1000}),
        ({"SUDO_UID": "root"}, 0, {0}),
        ({"SUDO_UID": "-1"}, 0, {0}),
        ({"SUDO_UID": "9" * 11}, 0, {0}),
    ],
)
def test_who_may_look_is_the_user_and_under_sudo_the_person(
    environment: dict[str, str], uid: int, found: set[int]
) -> None:
    assert viewers(environment, uid) == found


@pytest.mark.asyncio
async def test_after_idle_minutes_an_address_is_wanted_again_and_one_that_was_not_used_still_opens() -> None:
    async def page(request: PageRequest) -> Answer:
        return request.page("onward.html", place="")

    look = Look(templates=[], statics=[], common={"called": "x", "nav": ()})
    me = os.getuid()
    pages = PageServer([PageRoute("", page)], look, owner=lambda _port, _ours: me, uids={me}, idle_s=0.05)
    async with pages as server, ClientSession(cookie_jar=Jar(unsafe=True)) as session:
        await (await session.get(server.address())).read()
        unused, before = server.address(), server._cookie
        assert (await session.get(f"{server.origin}{server.root}")).status == 200
        forgetting = asyncio.create_task(server.forget_when_idle())
        while server._cookie == before:
            await asyncio.sleep(0.01)
        assert (await session.get(f"{server.origin}{server.root}")).status == 403
        forgetting.cancel()
        assert (await session.get(unused)).status == 200
        assert (await session.get(f"{server.origin}{server.root}")).status == 200


@pytest.mark.asyncio
async def test_agents_that_end_while_they_start_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with story() as visitor:
        ends: Any = visitor.lab.room.ends
        monkeypatch.setitem(ends._init, "companion", ends._init["companion"] + " --scope=")
        page = await visitor.post("relay/start")
        assert page.status == 400 and "the two agents do not start" in page.words.lower()
        assert "No phone and no companion run here yet." in (await visitor.get("relay")).words


@pytest.mark.asyncio
@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_browser_that_goes_away_while_the_ends_begin_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, *, is_stopped: bool
) -> None:
    with short_directory() as place, no_complaints():
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        await begin_and_go_away(is_stopped=is_stopped)
        assert [*place.iterdir()] == []


async def begin_and_go_away(*, is_stopped: bool) -> None:
    """Begin to make two agents, which will fail; go away at once. ``is_stopped``: the lab ends meanwhile."""
    ends = LabEnds({kind: f"token-relay {kind} init --nonsense" for kind in ("phone", "companion")}, os.environ)
    asked = asyncio.create_task(ends.start())
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    if is_stopped:
        await ends.stop()
    else:
        starting: Any = ends._starting
        await asyncio.wait({starting})
    await asyncio.get_running_loop().shutdown_default_executor()  # whatever a thread still did is done
