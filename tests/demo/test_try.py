"""``token-relay try`` as a person starts it: on a terminal, and beside it a second one, where its lines are typed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

import pytest

from tests.cli.cli_kit import context
from tests.demo.sessions import check_that_nothing_is_left, end_session, of_session
from tests.e2e.processes import eventually
from tests.e2e.terminal import Terminal
from tests.watchdog import HANG_S
from token_relay.cli.demo import kept_running
from token_relay.cli.demo.checks import StepFailedError
from token_relay.cli.demo.kept_running import _free_or_any, _lines, _start_sandbox
from token_relay.cli.demo.programs import Interrupts, Programs
from token_relay.cli.demo.stage import Stage
from token_relay.cli.parsing import HTTP_PORT, MQTT_PORT
from token_relay.sandbox.marked_tokens import find_marked

LAB = r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/open\?key=\S+"
READY = r"Sandbox, phone and companion run until Ctrl-C\."


def environment(place: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place), "LANG": "C.UTF-8"}


@contextlib.contextmanager
def taken(*ports: int) -> Iterator[None]:
    """See to it that nobody can listen on these ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            holder = stack.enter_context(socket.socket())
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # somebody has it already
                holder.bind(("127.0.0.1", port))
                holder.listen()
        yield


@asynccontextmanager
async def trying(place: Path, *options: str) -> AsyncIterator[Terminal]:
    async with Terminal("try", *options, env=environment(place), cwd=place) as terminal:
        try:
            await terminal.sees(READY)
            await terminal.sees(r"phone revoke watch\n")
            yield terminal
        finally:
            end_session(terminal.session)


async def beside(place: Path, first: str, line: str, *answers: str) -> tuple[int, str]:
    """Type a line into a second terminal, after the first one that is needed there; return exit code and text."""
    script = f"{first}\n{line}\n"
    async with Terminal("-c", script, env=environment(place), cwd=place, program=("sh",)) as terminal:
        for answer in answers:
            await terminal.sees(r"\[y/N\]")
            await terminal.types(answer)
        return await terminal.ended(), terminal.text


def printed_lines(text: str) -> list[str]:
    return re.findall(r"^  ((?:export|token-relay) .*)$", text, re.MULTILINE)


@pytest.mark.asyncio
async def test_the_lines_that_it_prints_do_what_it_says_and_ctrl_c_leaves_nothing(place: Path) -> None:
    with taken(HTTP_PORT, MQTT_PORT):
        async with trying(place) as terminal:
            assert terminal.text.count("is taken") == 2
            first, *lines = printed_lines(terminal.text)
            assert first.startswith("export ")
            expected = [
                (r"token-relay companion token --inspect", 0, r'"claims": \{'),
                (r"token-relay phone devices", 0, r"watch"),
                (r"token-relay sandbox ctl cut phone-broker --url http://127\.0\.0\.1:\d+", 0, r"phone-broker +cut"),
                (r"token-relay companion token --force-refresh --inspect", 0, r'"claims": \{'),
                (r"token-relay sandbox ctl heal all --url http://127\.0\.0\.1:\d+", 0, r"phone-broker +whole"),
                (r"token-relay phone revoke watch", 0, r"watch"),
            ]
            assert len(lines) == len(expected)
            for line, (pattern, wanted, shown) in zip(lines, expected, strict=True):
                assert re.fullmatch(pattern, line), line
                code, text = await beside(place, first, line, *(["y"] if "revoke" in line else []))
                assert code == wanted and re.search(shown, text), f"{line}: exit {code}\n{text}"
            code, text = await beside(place, first, "token-relay companion token")
            assert (code, "reauth_required" in text) == (4, True), text

            (home,) = place.iterdir()
            assert f"homes and logs in {home}, removed at the end" in terminal.text
            assert {"phone", "companion", "phone.log", "watch.log", "sandbox.log"} <= {p.name for p in home.iterdir()}
            said = terminal.text.partition("revoke watch\n")[2]
            assert said == "", "what agents log while commands run is in the files, not in the terminal"
            await terminal.interrupts()
            assert await terminal.ended() == 0
            assert terminal.text.endswith("stopping\n")
            check_that_nothing_is_left(terminal.session, place)


@pytest.mark.asyncio
async def test_a_program_that_ends_is_said_with_its_last_lines_and_the_phone_can_be_started_again(place: Path) -> None:
    with taken(HTTP_PORT, MQTT_PORT):
        async with trying(place) as terminal:
            first, *_ = printed_lines(terminal.text)
            os.kill(pid_of(terminal.session, "phone", "run"), signal.SIGKILL)
            told = r"the phone has ended \(exit code -9\)\nlast lines of phone\.log:\n(?:  .*\n)+"
            hint = await terminal.sees(told + r"  hint: start it again in the other terminal: (.*)\n")
            code, text = await beside(place, first, f"{hint[1]} 2>/dev/null & token-relay phone devices && kill $!")
            assert (code, f"homes and logs in {place}" in terminal.text, "watch" in text) == (0, True, True), text
            os.kill(pid_of(terminal.session, "sandbox"), signal.SIGTERM)
            await terminal.sees(r"the sandbox has ended \(exit code 0\)")
            assert await terminal.ended() == 1
            check_that_nothing_is_left(terminal.session, place)


@pytest.mark.asyncio
async def test_its_lab_has_these_agents_and_each_enter_prints_a_fresh_address(place: Path) -> None:
    async with trying(place) as terminal:
        first = re.search(LAB, terminal.text)
        assert first and "opened once by this address (Enter prints a new one)" in terminal.text
        await terminal.types("")
        second = await terminal.sees(LAB)
        assert second[0] != first[0]
        browser = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))
        (await asyncio.to_thread(browser.open, second[0])).close()
        address = f"{second[0].partition('open?')[0]}relay"

        async def shows_them() -> bool:
            with await asyncio.to_thread(browser.open, address) as answer:
                page = answer.read().decode()
            return "paired with the phone" in page and "Its grant</dt><dd>works, " in page

        await eventually("the first refresh has ended, and the page shows it", shows_them)
        await terminal.interrupts()
        assert await terminal.ended() == 0
        check_that_nothing_is_left(terminal.session, place)


def pid_of(session: int, *words: str) -> int:
    (found,) = (
        pid
        for pid in of_session(session)
        if Path(f"/proc/{pid}/cmdline").read_text().split("\0")[3 : 3 + len(words)] == list(words)
    )
    return found


# -- Without a terminal ------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(place: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "token_relay.cli", "try", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(place),
        cwd=place,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end_session(process.pid)
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_json_is_one_line_and_a_named_home_stays_and_every_stop_signal_is_the_proper_end(
    place: Path, number: signal.Signals
) -> None:
    profile = {signal.SIGINT: "entra", signal.SIGTERM: "auth0", signal.SIGHUP: "strict"}[number]
    user = place / ".local/state/token-relay/phone/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("a home that was there before")
    home = place / "made" / "here"
    with started(place, "--json", "--profile", profile, "--home", "made/here") as process:
        assert process.stdout is not None
        ready: dict[str, Any] = json.loads(process.stdout.readline())
        assert (ready["profile"], ready["device"], ready["homes"]) == (profile, "watch", str(home))
        assert re.fullmatch(LAB, ready["lab"])
        assert ready["environment"] == {"TOKEN_RELAY_HOMES": str(home)}
        process.send_signal(number)
        out, err = process.communicate(timeout=HANG_S)
        assert (process.returncode, out) == (0, ""), err
        assert of_session(process.pid) == []
    assert user.read_text() == "a home that was there before"
    assert [path.name for path in user.parent.iterdir()] == ["config.toml"]
    assert {path.name for path in place.iterdir()} == {".local", "made"}
    assert {"phone", "companion", "phone.log", "watch.log"} <= {path.name for path in home.iterdir()}
    assert home.stat().st_mode & 0o077 == 0
    assert not [path for path in home.rglob("*") if path.is_file() and find_marked(path.read_bytes())]


def test_a_directory_in_use_is_refused_and_left_as_it_is(place: Path) -> None:
    (place / "config.toml").write_text("mine")
    with started(place, "--home", str(place)) as process:
        out, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"token-relay: {place} is not empty: nothing was changed\n  hint: name a new directory with --home\n"
    )
    assert [path.name for path in place.iterdir()] == ["config.toml"]


def test_a_directory_whose_sockets_would_have_too_long_a_name_is_refused_before_anything_is_made(place: Path) -> None:
    with started(place, "--home", "a" * 100) as process:
        _out, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 2
    assert "the limit is 107" in err
    assert not list(place.iterdir())


def test_interrupted_before_it_is_ready_it_leaves_nothing(place: Path) -> None:
    with started(place) as process:
        while not of_session(process.pid)[1:]:  # its first program; all that it waits for is a fork
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=HANG_S)
        assert process.returncode == 130, err
        check_that_nothing_is_left(process.pid, place)


def test_the_ports_of_the_documents_are_used_where_they_are_free() -> None:
    told = context()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert _free_or_any("provider", port, told) == 0
    assert _free_or_any("provider", port, told) == port
    assert cast(Any, told.stderr).getvalue() == f"port {port} is taken: the provider gets another one\n"


def test_a_port_that_somebody_takes_while_it_starts_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.socket() as holder,
        Interrupts() as interrupts,
        Programs(os.environ, interrupts) as programs,
    ):
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        looks = iter([port, 0, 0, 0])  # the first look came too early
        monkeypatch.setattr(kept_running, "_free_or_any", lambda _what, _port, _context: next(looks))
        stage = Stage(programs, "entra")
        with pytest.raises(StepFailedError) as caught:
            stage.start_sandbox(http_port=port)
        assert caught.value.got == f"cannot listen on 127.0.0.1:{port}: Address already in use"
        _start_sandbox(stage, context())
        assert stage.sandbox.look("links") and not [*looks] and programs.count_left() == 1


def test_on_those_ports_the_lines_need_no_address() -> None:
    stage = SimpleNamespace(
        sandbox=SimpleNamespace(facts={"http": "http://127.0.0.1:8400"}), companion=SimpleNamespace(name="watch")
    )
    lines = [line for _what, line in _lines(cast(Stage, stage))]
    assert "token-relay sandbox ctl cut phone-broker" in lines
    assert "token-relay sandbox ctl heal all" in lines
