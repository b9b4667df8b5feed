"""How a run looks to a person: a bar while it runs, a table at its end; plain text where nobody looks."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.chaos.plan import Kill, Tally

PLAIN_EVERY = 50
COLUMNS = {
    "kills": "kills",
    "in_window": "in window",
    "unstored": "unstored",
    "lost": "lost",
    "healed": "healed",
    "reuses": "reuse",
    "back_s_median": "back in s",
}


class Watcher:
    """Shows progress on standard error; use with ``with``."""

    def __init__(self, total: int, tally: Tally) -> None:
        self._tally = tally
        self._total = total
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("kills"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("kills", total=total, said="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_kill(self, kill: Kill) -> None:
        """Count one more."""
        tally = self._tally
        said = f"{kill.profile} {kill.victim}, {tally.window_share:.0%} in the window, {len(tally.problems)} problems"
        self._progress.update(self._task, advance=1, said=said)
        if not self._console.is_terminal and len(tally.kills) % PLAIN_EVERY == 0:
            sys.stderr.write(f"{len(tally.kills)} of {self._total}: {said}\n")


def show(found: dict[str, Any]) -> None:
    """Print the table and the problems."""
    console = Console()
    table = Table(title=f"kill -9, seed {found['seed']}, {found['took_s']:.0f} s", box=SIMPLE, pad_edge=False)
    for name in ("profile", "victim"):
        table.add_column(name, no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for row in [*found["groups"], {"profile": "all", "victim": "", **found["total"]}]:
        table.add_row(row["profile"], row["victim"], *(str(row[name]) for name in COLUMNS))
    console.print(table)
    hits = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found["total"]["hits"].items())
    console.print(f"hit: {hits}; {found['window_share']:.0%} inside the refresh window", soft_wrap=True)
    for problem in found["problems"]:
        console.print(problem, style="red", markup=False, soft_wrap=True)
    console.print("all as promised" if not found["problems"] else f"{len(found['problems'])} problems")
