"""The list of all refusals is whole, and a run knows which of them it has met."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import refusals
from tests.watchdog import HANG_S

MET = """
from tests import refusals
refusals.record()
from token_relay.protocol.errors import RelayError
from token_relay.protocol.pairing import Invitation
for text in ("x", "y"):
    try:
        Invitation.from_text(text)
    except RelayError:
        pass
"""


def test_errors_below_the_roots_are_found_wherever_they_are_made() -> None:
    tree = ast.parse(
        "class Odd(RelayError): ...\n"
        "class Odder(errors.Odd): ...\n"
        "def look():\n"
        "    refused = Odder('slug', f'no {name}')\n"
        "    raise Odd\n"
        "class Even(Exception): ...\n"
        "def leave(): raise Even('x')\n"
    )
    names = refusals.families([tree])
    assert {"Odd", "Odder"} <= names and "Even" not in names
    found = list(refusals._in(tree, "x.py", names))
    assert [str(one) for one in found] == ["x.py:4 in look: f'no {name}'"]


def test_the_list_has_the_product_and_not_what_only_tests_run() -> None:
    found = refusals.refusals()
    assert len(found) >= 480  # what there was when the list was made, less a tenth
    assert len(set(found)) == len(found)
    assert not any("/simulation/" in one.file or "/sandbox/mqtt/" in one.file for one in found)
    assert any(one.file == "relay/token_relay/sandbox/main.py" for one in found)


def test_what_a_process_refuses_is_noted_once_by_its_place(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], refusals.VARIABLE: str(tmp_path)}
    words = [sys.executable, "-c", MET]
    subprocess.run(words, check=True, cwd=refusals.ROOT, env=env, timeout=HANG_S)
    [noted] = [path.read_text().splitlines() for path in tmp_path.iterdir()]
    assert len(noted) == 1
    met = set(refusals.refusals()) - set(refusals.unmet(tmp_path))
    assert [(one.file, one.function) for one in met] == [("relay/token_relay/protocol/pairing.py", "_decode")]


def test_without_a_directory_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(refusals.VARIABLE, raising=False)
    refusals.record()
    assert refusals.inherited() == {}


def test_every_exemption_is_of_a_refusal_that_there_is_and_has_its_reason() -> None:
    found = refusals.exemptions()
    assert len(found) <= 8
    for exemption in found:
        assert exemption.why.endswith(".") and len(exemption.why.split()) >= 8
        assert any(exemption.means(one) for one in refusals.refusals()), exemption
