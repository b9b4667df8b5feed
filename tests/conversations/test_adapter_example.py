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
EXAMPLE = ROOT / "docs/examples/adapter-companion.cjs"
PAGE = ROOT / "docs/spec/adapter.md"
PASSED_ABOVE = 25
LINES = 40

MISTAKES = {
    "an answer names no message": ("in_reply_to, body })", "in_reply_to: null, body })", "expected PAIR4"),
    "the hash is of another text": ("update(text)", 'update(text + " ")', "body.offer_hash"),
    "no state changes": ('row.next !== "same"', "false", ".handoffs"),
    "a number is used twice": ("++disk.seq", "(disk.seq ||= 1)", "was used before, for another envelope"),
    "a field is left out": (", access_token_ends_at: 0", "", "access_token_ends_at"),
    "a tombstone is forgotten": ('disk.handoffs[handoff_id] ?? "NONE"', '"NONE"', "expected"),
}


@pytest.fixture(scope="module")
def node() -> str:
    """The program; tests/needs.py says where it comes from."""
    found = needs.node()
    if found is None:
        pytest.skip(
            f"node {needs.NODE_MAJOR_MIN} or newer is not installed: docs/examples/adapter-companion.cjs not run"
        )
    return found[0]


def results(node: str, example: Path) -> dict[str, Any]:
    """Play all conversations of the companion, as the page says it."""
    words = ["--end", "companion", "--level", "plain", "--json", "--", node, str(example)]
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
    spoilt = tmp_path / "examples" / EXAMPLE.name
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
    assert len(EXAMPLE.read_text().splitlines()) == LINES
    assert f"in {LINES} lines" in " ".join(page.split())
