"""Each animal over real sockets: a sandbox in its own process, armed by ``sandbox ctl``, and the HTTP client of the
agents. It reads what the simulated one reads, so the replays in virtual time speak for the devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cli_kit import Shell
from tests.watchdog import HANG_S
from tests.zoo.zoo_kit import ANIMALS, ANIMALS_DIR
from token_relay.cli.parsing import DONE, USAGE
from token_relay.host.http import AioHttp
from token_relay.provider.http import AnswerLost, HttpRequest, HttpResponse, NotSent
from token_relay.provider.oauth import classify
from token_relay.provider.outcome import Refreshed
from token_relay.provider.profile import STRICT
from token_relay.sandbox.provider.world.model import CLIENT_ID, PASSWORD
from token_relay.simulation.ports.http import read_answer

FORM = (("client_id", CLIENT_ID), ("grant_type", "refresh_token"), ("refresh_token", "none"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The provider of a sandbox that runs in a process of its own."""
    words = ["sandbox", "--http-port", "0", "--mqtt-port", "0", "--profile", "auth0", "--no-links", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "token_relay.cli", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["http"]
        finally:
            process.terminate()
            process.communicate(timeout=HANG_S)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    return Shell(monkeypatch, {"HOME": str(tmp_path), "COLUMNS": "100"})


async def ask(url: str, form: tuple[tuple[str, str], ...] = FORM) -> HttpResponse | NotSent | AnswerLost:
    http = AioHttp()
    try:
        return await http.request(HttpRequest("POST", f"{url}/oauth/token", form=form, timeout_s=HANG_S))
    finally:
        await http.close()


@pytest.mark.parametrize("name", ANIMALS)
@pytest.mark.asyncio
async def test_the_client_of_the_agents_reads_what_the_simulated_one_reads(url: str, shell: Shell, name: str) -> None:
    file = str(ANIMALS_DIR / f"{name}.toml")
    ran = shell("sandbox", "ctl", "fault", "answer", file, "--url", url, "--times", "1", "--endpoint", "token")
    assert ran.code == DONE, ran
    there, here = await ask(url), read_answer(ANIMALS[name].answer.response(None).raw)
    if isinstance(here, AnswerLost):
        assert isinstance(there, AnswerLost)
    else:
        assert isinstance(there, HttpResponse)
        assert (there.status, there.body) == (here.status, here.body)
        assert there.headers.get("content-type") == here.headers.get("content-type")
        assert classify(STRICT, there) == classify(STRICT, here)
        assert there.status == ANIMALS[name].answer.status


SIGN_IN = (
    ("client_id", CLIENT_ID),
    ("grant_type", "password"),
    ("username", "password@contoso.example"),
    ("password", PASSWORD),
    ("scope", "openid profile offline_access"),
)


@pytest.mark.parametrize("name", ["ok-chunked", "ok-raw-deflate", "ok-early-hints", "ok-bom", "ok-under-html"])
@pytest.mark.asyncio
async def test_an_answer_that_borrows_brings_tokens_that_are_good(url: str, shell: Shell, name: str) -> None:
    first = classify(STRICT, await ask(url, SIGN_IN))
    assert isinstance(first, Refreshed) and first.refresh_token is not None
    ran = shell("sandbox", "ctl", "fault", "answer", str(ANIMALS_DIR / f"{name}.toml"), "--url", url)
    assert ran.code == DONE, ran
    second = classify(STRICT, await ask(url, (*FORM[:2], ("refresh_token", first.refresh_token.reveal()))))
    assert isinstance(second, Refreshed) and second.refresh_token is not None and second.access_token is not None
    third = classify(STRICT, await ask(url, (*FORM[:2], ("refresh_token", second.refresh_token.reveal()))))
    assert isinstance(third, Refreshed) and third.problem == ""


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.asyncio
async def test_the_provider_has_carried_it_out_only_when_told_to(url: str, shell: Shell, committed: bool) -> None:
    first = classify(STRICT, await ask(url, SIGN_IN))
    assert isinstance(first, Refreshed) and first.refresh_token is not None
    words = ("fault", "answer", str(ANIMALS_DIR / "nginx-502.toml"), "--url", url, "--times", "1")
    assert shell("sandbox", "ctl", *words, *(["--commit"] if committed else [])).code == DONE
    mark = events(shell, url)
    page = await ask(url, (*FORM[:2], ("refresh_token", first.refresh_token.reveal())))
    assert isinstance(page, HttpResponse) and page.status == 502
    kinds = events(shell, url)[len(mark) :]
    assert kinds.count("refresh_committed") == kinds.count("answer_lost") == committed


def events(shell: Shell, url: str) -> list[str]:
    ran = shell("sandbox", "ctl", "events", "--url", url, "--json")
    return [event["kind"] for event in json.loads(ran.out)["events"]]


def test_a_file_that_is_no_animal_is_refused_with_the_key_and_arms_nothing(
    url: str, shell: Shell, tmp_path: Path
) -> None:
    good = (ANIMALS_DIR / "nginx-502.toml").read_text()
    for text, said in (
        (good.replace("status = 502", "status = 99"), "animal.answer.status"),
        (good.replace("[then]", "[than]"), "animal.than"),
        (good + "kind = 1979-05-27", "not TOML"),
        ("source = ", "not TOML"),
        ("\udc80", "not TOML"),
        ("x = [" + "[" * 5000, "not TOML"),
    ):
        file = tmp_path / "animal.toml"
        file.write_bytes(text.encode(errors="surrogateescape"))
        ran = shell("sandbox", "ctl", "fault", "answer", str(file), "--url", url)
        assert ran.code == USAGE and said in ran.err, ran
    for words, said in (
        (("answer",), "needs FILE"),
        (("error_500", str(file)), "needs FILE"),
        (("answer", str(tmp_path / "none.toml")), "cannot read"),
        (("answer", str(ANIMALS_DIR / "ok-plain.toml"), "--endpoint", "tokn"), "'token'"),
    ):
        ran = shell("sandbox", "ctl", "fault", *words, "--url", url)
        assert ran.code == USAGE and said in ran.err, ran
    assert json.loads(shell("sandbox", "ctl", "faults", "--url", url, "--json").out)["faults"] == []
