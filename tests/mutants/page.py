"""The page about the mutants: its words, and the table that a run fills in."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from tests.mutants.catalogue import Mutant

HEAD = """# Mutants

A promise is worth what its test notices. Each row below is a mistake in the protocol that somebody could make in good
faith. `make mutants` applies it to a copy of the source, alone, and runs the tests that should see it: a test must
fail. A mutant that does not import, or that ends by time-out, does not count; nor does one whose tests were not green
before. `make mutants ONLY=tombstone-missing` runs one, or all of a room;
`make mutants DRAW=10 SEED=TEXT` ten that the text draws, as CI does with the commit's hash.

*Masked* means that other code keeps the promise too: the mistake alone changes nothing that a test could see. It is
shown so: with only those other layers taken away the test is green, with the mistake as well it is red.

The table is written by `make mutants WRITE=docs/mutants.md`; `make test` checks that every entry still fits the source.
"""


def short(node: str) -> str:
    """Return a test's name as a page shows it: without folders, and without parameters that are long."""
    path, _, name = node.partition("::")
    function, bracket, parameters = name.partition("[")
    return (
        f"{path.rsplit('/', 1)[-1]}::{function}{bracket}{parameters if len(parameters) < 30 else '…]'}"
        if name
        else node
    )


def page_of(mutants: list[Mutant], fates: Mapping[str, tuple[str, str]]) -> str:
    """Return the page; ``fates`` has what became of each mutant, and the test that failed."""
    lines = [HEAD]
    for room, group in groupby(mutants, key=lambda mutant: mutant.room):
        lines += [f"## {room}", "", "| mutant | the mistake | killed by |", "| --- | --- | --- |"]
        for mutant in group:
            fate, by = fates[mutant.id]
            test = f"`{short(by).partition('[')[0].partition('::')[2]}`"
            if fate == "masked" and mutant.layers is not None:
                test = f"masked by {mutant.layers.name}; without: {test}"
            lines.append(f"| `{mutant.id}` | {mutant.mistake} | {test} |")
        lines.append("")
    return "\n".join(lines)
