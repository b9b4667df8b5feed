"""``python -m tests.mutants [--only ID …] [--draw N --seed TEXT] [--jobs N] [--json] [--write PAGE]``.

Each mistake, and which test sees it.

First the killers run on the source as it is, and must be green. Then each mutant lives in a copy of the tree until a
test fails. Exit code 1 when one survives, does not import, dies by time-out, or is not as its entry says.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.mutants.catalogue import DriftError, Mutant, read_catalogue
from tests.mutants.page import page_of, short
from tests.mutants.trees import Tree

KILLERS_AT_ONCE = 12  # in the run on the source as it is: one process for several, and far from its time-out


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant: ``killed``, ``masked``, ``survived`` or ``wrong`` (the entry, not the program)."""

    id: str
    room: str
    fate: str
    by: str
    seconds: float
    detail: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the mistake was noticed, or shown to be harmless by itself."""
        return self.fate in ("killed", "masked")


def drawn(mutants: list[Mutant], count: int, *, seed: str) -> list[Mutant]:
    """Return so many of them, chosen by the seed alone, in their order."""
    names = {mutant.id for mutant in Random(seed).sample(mutants, min(count, len(mutants)))}
    return [mutant for mutant in mutants if mutant.id in names]


def judge(mutant: Mutant, tree: Tree) -> Verdict:
    """Run one mutant, and its layers where it has some."""

    def verdict(fate: str, by: str = "", detail: str = "") -> Verdict:
        return Verdict(mutant.id, mutant.room, fate, by, round(seconds, 1), detail)

    seconds = 0.0
    try:
        alone = tree.run(mutant.edit, mutant.tests)
        seconds = alone.seconds
        if alone.problem:
            return verdict("wrong", detail=alone.problem)
        layers = mutant.layers
        if layers is None:
            return verdict("killed", alone.failed) if alone.is_red else verdict("survived")
        if alone.is_red:
            return verdict("wrong", alone.failed, "it is killed without its layers being taken away")
        off = tree.run(layers.edit, mutant.tests)
        both = tree.run([*mutant.edit, *layers.edit], mutant.tests)
    except DriftError as exc:
        return verdict("wrong", detail=str(exc))
    seconds += off.seconds + both.seconds
    if not off.is_green:
        return verdict("wrong", off.failed, f"without the layers alone: {off.problem or 'red'}")
    if both.problem:
        return verdict("wrong", detail=both.problem)
    return verdict("masked", both.failed, layers.name) if both.is_red else verdict("survived")


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Apply protocol mistakes one by one.")
    parser.add_argument("--only", nargs="+", metavar="ID", help="these mutants, or all of a room")
    parser.add_argument("--draw", type=int, metavar="N", help="so many of them, drawn by the seed")
    parser.add_argument("--seed", default="", metavar="TEXT", help="with --draw: the same text draws the same mutants")
    parser.add_argument("--jobs", type=int, default=2, help="copies of the tree that work side by side")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table to this page when all is well")
    args = parser.parse_args(arguments)
    mutants = [m for m in read_catalogue() if not args.only or m.id in args.only or m.room in args.only]
    if not mutants:
        parser.error("--only names no mutant and no room")
    if args.draw is not None:
        mutants = drawn(mutants, args.draw, seed=args.seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory, ExitStack() as stack:
        trees = []
        for number in range(min(max(1, args.jobs), len(mutants))):
            (place := Path(directory) / str(number)).mkdir()
            trees.append(stack.enter_context(closing(Tree(place))))
        verdicts = _run(mutants, trees)
    if verdicts is None:
        return 1
    order = {mutant.id: number for number, mutant in enumerate(mutants)}
    verdicts.sort(key=lambda verdict: order[verdict.id])
    bad = [verdict for verdict in verdicts if not verdict.is_good]
    if args.json:
        print(json.dumps({"mutants": [asdict(verdict) for verdict in verdicts], "bad": len(bad)}))
    else:
        _print_table(verdicts)
    if args.write is not None and not bad and not args.only and args.draw is None:
        args.write.write_text(page_of(mutants, {v.id: (v.fate, v.by) for v in verdicts}))
    return 1 if bad else 0


def _run(mutants: list[Mutant], trees: list[Tree]) -> list[Verdict] | None:
    free: queue.Queue[Tree] = queue.Queue()
    for tree in trees:
        free.put(tree)
    killers = sorted({test for mutant in mutants for test in mutant.tests})

    def borrow(work: Mutant | list[str]) -> Verdict:
        tree = free.get()
        try:
            if isinstance(work, Mutant):
                return judge(work, tree)
            run = tree.run((), work)
            return Verdict("", "", "green" if run.is_green else "red", run.failed, run.seconds, run.problem)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        parts = [killers[at : at + KILLERS_AT_ONCE] for at in range(0, len(killers), KILLERS_AT_ONCE)]
        for found in pool.map(borrow, parts):
            if found.fate != "green":
                _say(f"red without any mutant: {found.by or found.detail}")
                return None
        _say(f"{len(killers)} killers are green on the source as it is")
        verdicts = []
        for future in as_completed([pool.submit(borrow, mutant) for mutant in mutants]):
            verdicts.append(found := future.result())
            _say(f"{len(verdicts):3}/{len(mutants)} {found.fate:8} {found.seconds:5.1f} s  {found.id}  {found.detail}")
    return verdicts


def _print_table(verdicts: list[Verdict]) -> None:
    widths = [max(len(getattr(v, name)) for v in verdicts) for name in ("id", "room", "fate")]
    for verdict in verdicts:
        head = "  ".join(f"{getattr(verdict, n):{w}}" for n, w in zip(("id", "room", "fate"), widths, strict=True))
        print(f"{head}  {verdict.seconds:5.1f} s  {short(verdict.by)}")
    fates = [verdict.fate for verdict in verdicts]
    counts = ", ".join(f"{fates.count(f)} {f}" for f in ("killed", "masked", "survived", "wrong"))
    print(f"{len(verdicts)} mutants: {counts}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
