"""Names that a terminal cannot spell are written with escapes; no command fails because of them."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.cli.cli_kit import Agent, run_process

NAME = "Küche ☕"
TERMINALS = {
    "PYTHONIOENCODING=ascii": ({"PYTHONIOENCODING": "ascii"}, "K\\xfcche \\u2615"),
    "LC_ALL=C without coercion": (
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        "K\\xfcche \\u2615",
    ),
    "Latin-1": ({"PYTHONIOENCODING": "latin-1"}, "Küche \\u2615"),
    "UTF-8": ({"PYTHONIOENCODING": "utf-8"}, NAME),
}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_device_is_named_in_every_terminal(agent: Agent, terminal: str) -> None:
    env, name = TERMINALS[terminal]

    async def status(args: object, exchange: object) -> dict[str, object]:
        return {"agent": "companion", "name": NAME}

    agent.handlers["status"] = status  # type: ignore[assignment]  # a handler without its types
    with agent.running():
        shown = run(agent, "status", env=env)
        as_json = run(agent, "status", "--json", env=env)
    assert (shown.returncode, shown.stderr) == (as_json.returncode, as_json.stderr) == (0, "")
    assert name in shown.stdout
    assert json.loads(as_json.stdout)["name"] == NAME


@pytest.mark.parametrize("terminal", TERMINALS)
def test_an_error_names_a_setting_in_every_terminal(agent: Agent, terminal: str) -> None:
    env, name = TERMINALS[terminal]
    config = agent.directory / "config.toml"
    config.write_text(f'"{NAME}" = 1\n', encoding="utf-8")
    ran = run(agent, "run", "--config", str(config), env=env)
    assert ran.returncode == 2
    assert f"config.toml: {name}: no such setting" in ran.stderr


def run(agent: Agent, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    encoding = env.get("PYTHONIOENCODING", "ascii")
    home = ("--home", str(agent.directory))
    return run_process("companion", *arguments, *home, env=env, cwd=agent.directory, encoding=encoding)
