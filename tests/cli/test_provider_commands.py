"""`provider show`, and the questions of `provider probe`; the measurement itself: tests/probe and tests/e2e."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_kit import Agent, Pipe, Shell, context
from token_relay.cli.prompts import Sources
from token_relay.cli.terminal_person import TerminalPerson
from token_relay.host.config_template import template
from token_relay.service.control import JSON

PROVIDER = {"url": "https://id.example", "client_id": "phone"}


def configure(directory: Path, more: str = "", **provider: Any) -> None:
    values = {f"provider.{name}": value for name, value in (PROVIDER | provider).items()}
    text = template("phone", {"name": "phone", "broker.url": "mqtt://127.0.0.1", **values})
    (directory / "config.toml").write_text(text.replace("[provider.behaviour]\n", f"[provider.behaviour]\n{more}\n"))
    (directory / "config.toml").chmod(0o600)


def shown(shell: Shell, directory: Path) -> dict[str, Any]:
    ran = shell("provider", "show", "--home", str(directory), "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_each_value_says_where_it_comes_from(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "measured.toml").write_text('leeway_s = 5\nreuse_takes = "family"\nleeway_between_s = [5, 30]\n')
    configure(tmp_path, "leeway_s = 2", profile="hydra", profile_file="measured.toml")
    found = shown(shell, tmp_path)
    assert (found["behaviour"]["leeway_s"], found["sources"]["leeway_s"]) == (2, "config")
    assert (found["behaviour"]["reuse_takes"], found["sources"]["reuse_takes"]) == ("family", "file")
    assert found["sources"]["revocation_takes"] == "profile hydra"
    assert found["refuted"] is None  # no agent runs


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://id.example", "default"),
        ("https://t.eu.auth0.com/", "profile auth0, guessed"),
        ("https://contoso.ciamlogin.com", "profile entra, guessed"),
    ],
)
def test_a_provider_of_which_nothing_was_said(url: str, source: str, shell: Shell, tmp_path: Path) -> None:
    configure(tmp_path, url=url)
    assert set(shown(shell, tmp_path)["sources"].values()) == {source}


def test_a_person_reads_one_line_for_each_value(shell: Shell, tmp_path: Path) -> None:
    configure(tmp_path, "invalidates_on_use = false")
    ran = shell("provider", "show", "--home", str(tmp_path))
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["invalidates_on_use", "false", "config"] in lines
    assert ["revocation_takes", "unknown", "default"] in lines
    assert "strategies branch, mint, move" in ran.out.splitlines()[0]
    assert "the agent does not run" in ran.err


def test_what_was_refuted_is_the_agents_to_say(shell: Shell, agent: Agent) -> None:
    row: dict[str, JSON] = {
        "issuer": "https://id.example",
        "why": "a token was refused; the provider counts as strict",
        "at": 1,
    }
    configure(agent.directory)
    agent.replies("status", {"refuted": [row]})
    with agent.running():
        assert shown(shell, agent.directory)["refuted"] == [row]
        ran = shell("provider", "show", "--home", str(agent.directory))
    assert "refuted: https://id.example: a token was refused; the provider counts as strict" in ran.out


FAULTS = [
    ("leeway_s = 301", "provider.behaviour.leeway_s: input should be less than or equal to 300"),
    ("leeway = 3", "provider.behaviour.leeway: no such setting (did you mean provider.behaviour.leeway_s?)"),
    ('reuse_takes = "all"', "provider.behaviour.reuse_takes: input should be 'nothing', 'family'"),
    ("invalidates_on_use = false\nleeway_s = 3", "leeway_s needs invalidates_on_use = true"),
]


@pytest.mark.parametrize(("more", "said"), FAULTS)
def test_a_wrong_description_is_refused_with_its_line(more: str, said: str, shell: Shell, tmp_path: Path) -> None:
    configure(tmp_path, more)
    ran = shell("provider", "show", "--home", str(tmp_path))
    assert ran.code == 2
    assert said in ran.err
    assert ":0:" not in ran.err and "config.toml:" in ran.err


FILES = [
    ("leeway = 3\n", "leeway: no such setting"),
    ("leeway_s = 'x'\n", "leeway_s: input should be a valid integer"),
    ("[\n", "not TOML"),
    (None, "profile file is missing"),
]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_a_wrong_profile_file_is_refused(text: str | None, said: str, shell: Shell, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "measured.toml").write_text(text)
    configure(tmp_path, profile_file="measured.toml")
    ran = shell("provider", "show", "--home", str(tmp_path))
    assert ran.code == 2
    assert f"provider.profile_file: {said}" in ran.err


def test_a_profile_file_that_others_may_write_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "measured.toml").write_text("leeway_s = 3\n")
    (tmp_path / "measured.toml").chmod(0o666)
    configure(tmp_path, profile_file="measured.toml")
    assert "may be written by other users" in shell("provider", "show", "--home", str(tmp_path)).err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("http://id.example", "--client-id", "c"), "plain http is refused"),
        (("https://id.example", "--client-id", "c", "--write", "/nowhere/file"), "a directory that does not exist"),
        (("https://id.example", "--client-id", "c", "--username", "u", "--browser"), "not allowed with argument"),
        (("https://id.example", "--client-id", "c", "--client-secret-file", "f"), "needs token_endpoint_auth_method"),
    ],
)
def test_a_probe_that_cannot_be_is_refused_before_anybody_signs_in(
    words: tuple[str, ...], said: str, shell: Shell
) -> None:
    ran = shell("provider", "probe", *words)
    assert ran.code == 2
    assert said in ran.err


class Keyboard(Pipe):
    """A terminal; ``has_ctrl_c``: that is what is pressed when it is read."""

    def __init__(self, typed: str = "", *, has_ctrl_c: bool = False) -> None:
        super().__init__(typed)
        self._has_ctrl_c = has_ctrl_c

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # as of StringIO
        if self._has_ctrl_c:
            signal.raise_signal(signal.SIGINT)
        return super().readline(size)


def test_ctrl_c_at_a_question_cancels_and_leaves_time_to_clear_up() -> None:
    cleared: list[str] = []

    async def command() -> None:
        person = TerminalPerson(context(Keyboard("y\n", has_ctrl_c=True)), Sources())
        try:
            await person.ask("confirm", "sign-in 1: go on?")
        finally:
            await asyncio.sleep(0)
            cleared.append("yes")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(command())
    assert cleared == ["yes"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("typed", "answer"), [("y\n", "yes"), ("n\n", None), ("\n", None)])
def test_each_sign_in_is_asked_for(typed: str, answer: str | None) -> None:
    person = TerminalPerson(context(Keyboard(typed)), Sources())
    assert asyncio.run(person.ask("confirm", "sign-in 1: go on?")) == answer
