"""The page on testing an app: its examples pass as they stand there, and its table names all that there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from token_relay.sandbox.provider.world.rules import KINDS
from token_relay.simulation.pytest_plugin import OPTIONS
from token_relay.simulation.testkit import api as testkit
from token_relay.simulation.testkit.sandbox import SandboxCompanion

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing-your-app.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TESTS = [name for example in EXAMPLES for name in re.findall(r"^async def (test_\w+)", example, re.MULTILINE)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run all examples as a new user does: in an empty directory, without an option and without configuration."""
    directory = tmp_path_factory.mktemp("app")
    for number, example in enumerate(EXAMPLES):
        (directory / f"test_example_{number}.py").write_text(example)
    command = [sys.executable, "-m", "pytest", "-v", "--color=no"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_ADDOPTS", None)
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    return ran.stdout + ran.stderr


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) == 5 and len(TESTS) == 7


@pytest.mark.parametrize("name", TESTS)
def test_an_example_passes_as_it_stands_on_the_page(outcomes: str, name: str) -> None:
    found = re.findall(rf"::{name}(?:\[\w+\])? (\w+)", outcomes)
    assert found and set(found) == {"PASSED"}, outcomes


def test_the_story_of_the_first_example_has_ten_lines() -> None:
    body = EXAMPLES[0].partition("world = relay_world\n")[2]
    assert len(body.splitlines()) <= 10


def public(kind: type) -> list[str]:
    return [name for base in kind.__mro__[:-1] for name in vars(base) if not name.startswith("_")]


@pytest.mark.parametrize(
    "kind",
    [testkit.Phone, testkit.Companion, testkit.Links, testkit.ProviderControls, testkit.TokenAnswer, SandboxCompanion],
    ids=lambda kind: kind.__name__,
)
def test_everything_public_stands_in_the_table(kind: type) -> None:
    table = PAGE.partition("## All there is")[2]
    internal = {"begin", "wait_until_started"}  # of the sandbox's devices, used by the world that owns them
    for name in set(public(kind)) - internal:
        assert re.search(rf"`(?:world\.)?{name}\b", table) or name == "is_granted", name


def test_the_world_its_profiles_and_its_options_stand_in_the_table() -> None:
    table = PAGE.partition("## All there is")[2]
    for name in set(public(testkit.RelayWorld)) - {"close", "describe"}:  # the fixture's part
        assert f"`world.{name}" in table, name
    for name in KINDS:
        assert f"`{name}`" in table
    for option in OPTIONS:
        assert f"{option}=" in table
