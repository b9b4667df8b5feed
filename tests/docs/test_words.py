"""Holds the plain English that a pattern can find for certain: a program is *it*, a person is *they*, and a relative
clause has its noun ("for callers without an event loop", not "for who has no event loop")."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("relay", "device", "docs", "certs", "systemd")
ENDINGS = {".md", ".py", ".cjs", ".mjs", ".html", ".service", ".socket", ".toml", ".json"}
VERBS = "is|has|does|asks|wants|sends|reads|writes|may|can|cannot|knows|looks|comes|gets|holds|keeps|makes|names"
RULES = {
    "a person is they, a program is it": re.compile(r"\b(?:he|his|him|himself)\b", re.IGNORECASE),
    "say who decides it": re.compile(r"\baffairs?\b", re.IGNORECASE),
    "a relative needs its noun": re.compile(rf"\b(?:for|of|by|from) who\s+(?:{VERBS})\b"),
}


def pages() -> list[Path]:
    found = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in ENDINGS]
    return sorted([*ROOT.glob("*.md"), *found])


def faults(text: str) -> list[tuple[int, str, str]]:
    return [
        (text.count("\n", 0, match.start()) + 1, match.group(), rule)
        for rule, pattern in RULES.items()
        for match in pattern.finditer(text)
    ]


def test_every_page_and_source_is_in_plain_english() -> None:
    paths = pages()
    assert {"README.md", "docs/README.md"} <= {path.relative_to(ROOT).as_posix() for path in paths}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words!r}: {rule}"
        for path in paths
        for line, words, rule in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["asks nobody who he is", "a token of\nhis own", "their affair", "for who has no loop", "seen by who\nasks"]
)
def test_the_patterns_find_what_they_are_for(text: str) -> None:
    assert faults(text)


@pytest.mark.parametrize(
    "text", ["for whoever asks", "a list of those who may read", "she, the history, this", "says who is signed in"]
)
def test_the_patterns_leave_plain_english_alone(text: str) -> None:
    assert not faults(text)
