"""``sandbox ctl`` against a real sandbox: what it does there, what it prints, and how it says no."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_kit import Ran, Shell
from tests.watchdog import HANG_S
from token_relay.cli import main as cli
from token_relay.cli.commands.sandbox_ctl_options import duration
from token_relay.cli.parsing import DONE, FAILED, INTERRUPTED, NOT_RUNNING, USAGE
from token_relay.sandbox.control import api as control
from token_relay.sandbox.links.orders import LINK_NAMES
from token_relay.sandbox.main import SandboxOptions, run
from token_relay.sandbox.provider.world.model import FAULT_NAMES

USER = "password@contoso.example"


class Running:
    """A sandbox in a thread, and the command line in front of it."""

    def __init__(self, shell: Shell, facts: dict[str, Any]) -> None:
        self.shell, self.facts = shell, facts
        self.url = str(facts["http"])

    def __call__(self, *words: str) -> Ran:
        return self.shell("sandbox", "ctl", *words, "--url", self.url)

    def json(self, *words: str) -> dict[str, Any]:
        ran = self(*words, "--json")
        assert ran.code == DONE and ran.err == "", ran
        found = json.loads(ran.out)
        assert isinstance(found, dict) and ran.out.count("\n") == 1
        return found

    def connect(self, link: str) -> socket.socket:
        host, _, port = self.facts["links"][link].rpartition(":")
        return socket.create_connection((host, int(port)), timeout=HANG_S)


@contextmanager
def sandbox(shell: Shell, **options: Any) -> Iterator[Running]:
    said: list[str] = []
    started = threading.Event()
    holder: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    async def serve() -> None:
        def write(text: str) -> None:
            said.append(text)
            started.set()

        task = asyncio.current_task()
        assert task is not None
        holder.append((asyncio.get_running_loop(), task))
        await run(SandboxOptions(http_port=0, mqtt_port=0, as_json=True, **options), write=write)

    def work() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(HANG_S) and said, "the sandbox did not start"
        yield Running(shell, json.loads(said[0]))
    finally:
        for loop, task in holder:
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
        thread.join()


@pytest.fixture
def running(shell: Shell) -> Iterator[Running]:
    with sandbox(shell) as one:
        yield one


# -- what it does ------------------------------------------------------------------------------------------


def test_links_are_cut_healed_and_slowed_by_name_or_all_at_once(running: Running) -> None:
    links = running.json("links")["links"]
    assert [link["name"] for link in links] == list(LINK_NAMES)
    assert {link["name"]: link["address"] for link in links} == running.facts["links"]
    assert {link["state"] for link in links} == {"whole"}
    (cut,) = running.json("cut", "phone-broker")["links"]
    assert (cut["name"], cut["state"], cut["how"], cut["direction"]) == ("phone-broker", "cut", "refuse", "both")
    with pytest.raises(ConnectionRefusedError):
        running.connect("phone-broker")
    running.connect("companion-broker").close()
    (one_way,) = running.json("cut", "phone-provider", "--direction", "down")["links"]
    assert (one_way["how"], one_way["direction"]) == ("drop", "down")
    slowed = running.json("slow", "all", "--latency", "1.5", "--rate", "1000")["links"]
    assert [(link["state"], link["latency_s"], link["bytes_per_s"]) for link in slowed] == [("slow", 1.5, 1000)] * 4
    assert {link["state"] for link in running.json("heal", "all")["links"]} == {"whole"}
    running.connect("phone-broker").close()
    events = running.json("events")["events"]
    assert [(event["link"], event["state"]) for event in events if event["kind"] == "link_changed"] == [
        ("phone-broker", "cut"),
        ("phone-provider", "cut"),
        ("all", "slow"),
        ("all", "whole"),
    ]


def test_a_person_sees_a_table_of_the_links(running: Running) -> None:
    running("cut", "companion-provider", "--how", "drop", "--direction", "up")
    running("slow", "phone-broker", "--latency", "2")
    ran = running("links")
    assert ran.code == DONE
    assert "cut drop up" in ran.out and "slow 2 s" in ran.out and running.facts["links"]["phone-broker"] in ran.out


def test_a_fault_meets_the_next_requests_and_is_listed_until_then(running: Running) -> None:
    words = ("fault", "error_503", "--times", "2", "--endpoint", "discovery", "--retry-after", "7")
    assert running.json(*words) == {"armed": 1}
    listed = running.json("faults")
    assert listed["faults"][0] | {"left": 2, "name": "error_503", "endpoint": "discovery"} == listed["faults"][0]
    assert listed["known"] == list(FAULT_NAMES)
    for _ in range(2):
        with pytest.raises(urllib.request.HTTPError) as met:
            discover(running)
        assert met.value.code == 503 and met.value.headers["Retry-After"] == "7"
        met.value.close()
    discover(running)
    running("fault", "slow", "--seconds", "0.01", "--grant-type", "refresh_token")
    assert running.json("faults", "--clear") == {"armed": 0}
    assert running.json("faults")["faults"] == []


def discover(running: Running) -> None:
    url = f"{running.url}/contoso.onmicrosoft.com/v2.0/.well-known/openid-configuration"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=HANG_S) as answer:
        assert answer.status == 200


def test_the_clock_goes_forward_and_is_shown(running: Running) -> None:
    before = running.json("clock")
    after = running.json("clock", "+36h")
    assert before["offset_s"] == 0 and after["offset_s"] == 36 * 3600
    assert 36 * 3600 <= after["now"] - before["now"] < 36 * 3600 + 60
    assert running.json("clock", "90s")["offset_s"] == 36 * 3600 + 90
    assert "1 d 12 h" in running("clock").out


def test_a_revoked_user_is_named_and_an_unknown_one_is_answered_with_those_there_are(running: Running) -> None:
    assert running.json("revoke", USER) == {"username": USER}
    ran = running("revoke", "nobody@contoso.example")
    assert ran.code == FAILED and "no such user" in ran.err and USER in ran.err


def test_events_can_be_asked_for_by_trace(running: Running) -> None:
    running("fault", "error_500", "--times", "2", "--endpoint", "jwks")
    for _ in range(2):
        url = f"{running.url}/contoso.onmicrosoft.com/discovery/v2.0/keys"
        with pytest.raises(urllib.request.HTTPError) as met:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=HANG_S)
        met.value.close()
    first, first_answered, second, second_answered = running.json("events")["events"]
    assert first["trace_id"] == first_answered["trace_id"] != second["trace_id"]
    assert running.json("events", "--trace-id", second["trace_id"])["events"] == [second, second_answered]
    assert running.json("events", "--after", str(second_answered["id"]))["events"] == []
    line, answered = running("events", "--trace-id", first["trace_id"]).out.splitlines()
    assert "request_answered" in answered and "status=500" in answered
    assert "fault_met" in line and "fault=error_500" in line and "endpoint=jwks" in line


def test_more_events_than_one_answer_holds_are_all_listed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "EVENTS_PER_ANSWER_MAX", 2)
    for _ in range(5):
        running("heal", "all")
    events = running.json("events")["events"]
    assert [event["id"] for event in events] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("is_json", [True, False])
def test_followed_events_come_as_they_happen_and_end_cleanly_at_an_interrupt(running: Running, is_json: bool) -> None:
    running("heal", "phone-broker")
    words = ["sandbox", "ctl", "events", "--follow", "--url", running.url, *(["--json"] if is_json else [])]
    with subprocess.Popen(
        [sys.executable, "-m", "token_relay.cli", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert "phone-broker" in process.stdout.readline()
            running("cut", "companion-broker")
            line = process.stdout.readline()
            assert "companion-broker" in line
            if is_json:
                assert json.loads(line)["kind"] == "link_changed"
            process.send_signal(signal.SIGINT)
            rest, err = process.communicate(timeout=HANG_S)
        finally:
            process.kill()
    assert (process.returncode, rest, err.strip()) == (INTERRUPTED, "", "interrupted")


# -- how it says no ----------------------------------------------------------------------------------------


def test_no_sandbox_is_said_with_the_way_to_start_one(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for words in (("links",), ("cut", "all"), ("clock", "+1h"), ("events", "--follow")):
        ran = shell("sandbox", "ctl", *words, "--url", url)
        assert ran.code == NOT_RUNNING and f"no sandbox answers at {url}" in ran.err
        assert "token-relay sandbox" in ran.err and ran.out == ""
    error = json.loads(shell("sandbox", "ctl", "links", "--url", url, "--json").out)["error"]
    assert (error["code"], error["exit"]) == ("not_running", NOT_RUNNING)


def test_an_unknown_link_or_fault_is_answered_with_all_names(running: Running) -> None:
    ran = running("cut", "phone-brokr")
    assert ran.code == USAGE and all(name in ran.err for name in (*LINK_NAMES, "all"))
    ran = running("fault", "eror_500")
    assert ran.code == USAGE and all(name in ran.err for name in FAULT_NAMES)
    ran = running("fault", "error_500", "--endpoint", "tokn")
    assert ran.code == USAGE and "'token'" in ran.err


def test_what_does_not_fit_together_is_refused_and_changes_nothing(running: Running) -> None:
    for words, text in (
        (("cut", "all", "--how", "refuse", "--direction", "up"), "only be cut with drop"),
        (("slow", "all"), "needs --latency or --rate"),
        (("slow", "all", "--latency", "601"), "latency_s"),
        (("fault", "slow"), "slow needs seconds"),
        (("clock", "+20d", "--url", "http://192.0.2.1"), "this machine only"),
        (("clock", "+20d", "--url", "ftp://127.0.0.1"), "must be http"),
        (("clock", "+20d", "--url", "http://127.0.0.1:x"), "must be http"),
    ):
        ran = running.shell("sandbox", "ctl", *words[:2], "--url", running.url, *words[2:])
        assert ran.code == USAGE and text in ran.err, (words, ran)
    assert {link["state"] for link in running.json("links")["links"]} == {"whole"}
    assert running.json("clock")["offset_s"] == 0 and running.json("faults")["faults"] == []


def test_a_sandbox_without_links_says_so_and_still_takes_the_rest(shell: Shell) -> None:
    with sandbox(shell, links=False) as running:
        assert running.facts["links"] == {} and "--http-route" not in json.dumps(running.facts["init"])
        ran = running("cut", "all")
        assert ran.code == FAILED and "has no links" in ran.err and "--no-links" in ran.err
        assert running.json("clock", "+1h")["offset_s"] == 3600


def test_what_answers_but_is_no_sandbox_is_said(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65_536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        ran = shell("sandbox", "ctl", "links", "--url", f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert ran.code == FAILED and "is not a sandbox" in ran.err


# -- command lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount_s"),
    [("+36h", 129_600), ("90s", 90), ("2d", 172_800), ("+5m", 300), ("7", 7), ("1.5h", 5_400), ("0", 0)],
)
def test_times_are_spelled_as_people_do(text: str, amount_s: float) -> None:
    assert duration(text) == amount_s
    assert cli.parse(["sandbox", "ctl", "clock", text]).advance == amount_s


@pytest.mark.parametrize("text", ["", "-1h", "h", "1w", "1h30m", "٣h", "nan", "9999999d", "1e3", "+ 1h"])
def test_other_times_are_refused(shell: Shell, text: str) -> None:
    ran = shell("sandbox", "ctl", "clock", "--", text)
    assert ran.code == USAGE and "time forward" in ran.err


def test_the_printed_command_lines_make_agents_that_use_the_links(running: Running, tmp_path: Path) -> None:
    import shlex
    import tomllib

    links = running.facts["links"]
    for kind in ("phone", "companion"):
        words = shlex.split(running.facts["init"][kind])
        assert words[0] == "token-relay"
        home = tmp_path / kind
        assert running.shell(*words[1:], "--home", str(home)).code == DONE
        config = tomllib.loads((home / "config.toml").read_text())
        assert config["http_route"] == links[f"{kind}-provider"]
        assert config["broker"]["url"] == f"mqtt://{links[f'{kind}-broker']}"
