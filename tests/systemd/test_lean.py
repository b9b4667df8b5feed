"""What an agent does not load: memory and a slow start count on a small device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded(statement: str) -> set[str]:
    """Return the modules of a new process after a statement."""
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)"],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return set(ran.stdout.split())


@pytest.mark.parametrize("kind", ["companion", "phone"])
def test_agent_starts_without_what_is_for_terminals_tests_and_certificates(kind: str) -> None:
    modules = loaded(f"import token_relay.cli.commands.serve, token_relay.service.{kind}")
    assert "structlog" in modules and "aiomqtt" in modules
    unwanted = (
        "rich",
        "pygments",
        "segno",
        "jinja2",
        "token_relay.console",
        "token_relay.pages",
        "token_relay.sandbox",
        "token_relay.simulation",
        "token_relay.service.checks",
        "token_relay.host.device_key",
    )
    assert [name for name in modules if name.startswith(unwanted)] == []


def test_rich_is_there_for_whoever_asks_later() -> None:
    assert "rich.console" in loaded("import token_relay.cli.commands.serve; import rich.console")
