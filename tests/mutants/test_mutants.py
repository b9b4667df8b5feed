"""The list of mutants fits the source as it is: a change that touches one of them is noticed here."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.__main__ import drawn
from tests.mutants.catalogue import ROOT, DriftError, Edit, Mutant, apply, read_catalogue, source
from tests.mutants.page import HEAD

MUTANTS = read_catalogue()
PAGE = ROOT / "docs" / "mutants.md"
EACH = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.id for mutant in MUTANTS])
ROOMS = ("handoff", "delivery", "lifecycle", "vault", "pairing", "envelope", "phone agent")


@EACH
def test_every_mistake_still_fits_the_source(mutant: Mutant) -> None:
    changed = apply(mutant.edit, source)
    assert changed
    if mutant.layers is not None:
        assert apply(mutant.layers.edit, source)
        assert apply([*mutant.edit, *mutant.layers.edit], source)


@functools.cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of the tests of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


@EACH
def test_every_killer_exists(mutant: Mutant) -> None:
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert (ROOT / path).exists(), test
        assert not name or name.partition("[")[0] in functions(ROOT / path), test


def test_there_are_enough_of_them_everywhere() -> None:
    assert len(MUTANTS) >= 45
    counts = Counter(mutant.room for mutant in MUTANTS)
    assert {room: counts[room] for room in ROOMS if counts[room] < 3} == {}
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)


def test_the_page_tells_of_every_mistake() -> None:
    page = PAGE.read_text()
    assert page.startswith(HEAD)
    for mutant in MUTANTS:
        assert f"| `{mutant.id}` | {mutant.mistake} | " in page, mutant.id
    assert page.count("\n| `") == len(MUTANTS)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("not there", "x", "0 times"),
        ("return", "return", "2 times"),
        ("  # why", "", "stays the same"),
        ("def f():", "def f(:", "not Python"),
    ],
)
def test_a_mistake_that_does_not_fit_is_told(old: str, new: str, why: str) -> None:
    text = "def f():\n    if f:\n        return 1  # why\n    return 2\n"
    with pytest.raises(DriftError, match=why):
        apply([Edit(file="relay/made_up.py", old=old, new=new)], lambda file: text)


def test_ten_are_drawn_by_the_seed_alone() -> None:
    ten = drawn(MUTANTS, 10, seed="a53bc6c")
    assert len(ten) == 10 == len({mutant.id for mutant in ten})
    assert ten == drawn(MUTANTS, 10, seed="a53bc6c")
    assert ten != drawn(MUTANTS, 10, seed="89af503")
    assert [MUTANTS.index(mutant) for mutant in ten] == sorted(map(MUTANTS.index, ten))
    assert drawn(MUTANTS, 10_000, seed="") == MUTANTS
