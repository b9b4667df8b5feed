"""The example of docs/spec/adapter.md: it passes what the page says, and fails with a mistake in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import needs

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/examples/adapter-phone.mjs"
PAGE = ROOT / "docs/spec/adapter.md"
PASSED_ABOVE = 70  # conversations of the phone: rows, duplicates, numbers and restarts

MISTAKES = {
    "a resend has a new number": (
        "Object.values(disk.open).forEach(put);",
        "for (const [key, text] of Object.entries(disk.open))"
        " disk.open[key] = send(JSON.parse(text).type, JSON.parse(text).body);",
        "as another envelope",
    ),
    "what is settled stays open": ('effect === "SETTLE"', 'effect === "settle"', ".open: expected"),
    "a repeated STORED is not answered": ('type !== "STORED" || answered.has(seq)', "true", "expected CLOSED"),
    "accept_hash is the OFFER's": ("accept_hash: hash(text)", "accept_hash: body.offer_hash", "grant.accept_hash"),
    "a wrong OFFER is accepted": ("body.offer_hash !== hash(disk.open[`OFFER ${id}`])", "false", "wrong_offer"),
    "HELLO lists nothing": ("disk.handoffs[id] in LIVE)", "false)", "body.handoffs"),
    "a restart forgets ACCEPTED": ('state === "ACCEPTED"', 'state === "accepted"', 'expected {"obtain": "$h1"}'),
    "SEND_STATUS says gone": ('{ DONE: "done", CANCELLED: "cancelled" }[state]', "undefined", "body.reason"),
}


@pytest.fixture(scope="module")
def node() -> str:
    """The program; tests/needs.py says where it comes from."""
    found = needs.node()
    if found is None:
        pytest.skip(
            f"node {needs.NODE_MAJOR_MIN} or newer with npm is not installed: docs/examples/adapter-phone.mjs not run"
        )
    return found[0]


def results(node: str, example: Path) -> dict[str, Any]:
    """Play all conversations of the phone, as the page says it."""
    words = ["--end", "phone", "--level", "plain", "--json", "--", node, str(example)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.conversations", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_example_passes_what_it_plays(node: str) -> None:
    found = results(node, EXAMPLE)
    failed = {one["name"]: one["failures"] for one in found["conversations"] if one["verdict"] == "failed"}
    assert failed == {}
    assert found["passed"] > PASSED_ABOVE
    assert all("does not know" in why or "version" in why or "envelope" in why for why in found["why_not_played"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_example_fails_with_a_mistake_in_it(node: str, mistake: str, tmp_path: Path) -> None:
    right, wrong, words = MISTAKES[mistake]
    text = EXAMPLE.read_text()
    assert text.count(right) == 1
    (tmp_path / "examples").mkdir()
    (tmp_path / "spec").mkdir()
    shutil.copy(ROOT / "docs/spec/protocol.json", tmp_path / "spec")
    spoilt = tmp_path / "examples" / "adapter-phone.mjs"
    spoilt.write_text(text.replace(right, wrong))
    found = results(node, spoilt)
    failures = [
        line
        for one in found["conversations"]
        for failure in one["failures"]
        for line in (failure["came_in"], *failure["what"])
    ]
    assert any(words in line for line in failures), failures


def test_the_page_shows_the_example_whole_and_says_how_much_it_passes() -> None:
    page = PAGE.read_text()
    assert f"```js\n{EXAMPLE.read_text()}```\n" in page
    assert f"more than {PASSED_ABOVE} conversations" in page
