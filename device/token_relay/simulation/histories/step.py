"""One event of a plan. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One event: ``at_s`` virtual seconds from the beginning, at device ``end`` or for the whole world ("")."""

    at_s: float
    act: str
    end: str = ""
    args: tuple[str | int | float, ...] = ()
    is_fault: bool = False

    def text(self) -> str:
        """Return it as a line of a history."""
        return " ".join(filter(None, (self.act, self.end, *(f"{arg}" for arg in self.args))))
