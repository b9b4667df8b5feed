"""The table of what was seen: one line a check, and the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.booted.machine import MachineError


class NotSeenError(Exception):
    """What should have been seen was not; the text says what was."""


@dataclass
class Report:
    """All checks so far, in order."""

    rows: list[tuple[str, str, str, float]] = field(default_factory=list)

    def check(self, name: str, act: Callable[[], str | None]) -> bool:
        """Run one check; it passes unless it raises. What it returns is shown beside it."""
        began = time.monotonic()
        try:
            detail, mark = act() or "", "ok"
        except (MachineError, NotSeenError) as exc:
            detail, mark = str(exc), "FAIL"
        except (OSError, ValueError, LookupError, AssertionError) as exc:
            detail, mark = f"{type(exc).__name__}: {exc}", "FAIL"
        self.rows.append((mark, name, detail, time.monotonic() - began))
        print(self._line(self.rows[-1]), flush=True)
        return mark == "ok"

    def note(self, name: str, detail: str) -> None:
        """Add a line that is neither: what could not be run, or a figure."""
        self.rows.append(("--", name, detail, 0.0))
        print(self._line(self.rows[-1]), flush=True)

    def summary(self) -> int:
        """Print the counts; return the exit code."""
        failed = [row for row in self.rows if row[0] == "FAIL"]
        passed = sum(row[0] == "ok" for row in self.rows)
        print(f"\n{passed} seen, {len(failed)} not seen, {sum(row[3] for row in self.rows):.0f} s")
        for row in failed:
            print(f"  not seen: {row[1]}")
        return 1 if failed else 0

    @staticmethod
    def _line(row: tuple[str, str, str, float]) -> str:
        mark, name, detail, seconds = row
        return f"{mark:4}  {name:66}  {seconds:5.1f} s  {' | '.join(detail.strip().splitlines())[:900]}".rstrip()


def expect(is_so: bool, otherwise: object) -> None:
    """Raise NotSeenError with what was seen instead."""
    if not is_so:
        raise NotSeenError(str(otherwise))
