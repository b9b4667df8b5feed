"""One finding of ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. ``hint`` says what to try; with ``is_ok`` it is only a note, since nothing is wrong."""

    name: str
    is_ok: bool
    detail: str = ""
    hint: str = ""

    @property
    def mark(self) -> str:
        """Return the word at the start of the line."""
        if not self.is_ok:
            return "FAIL"
        return "note" if self.hint else "ok"

    def as_json(self) -> dict[str, str | bool]:
        """Return the finding in the shape of ``--json``."""
        return {"name": self.name, "ok": self.is_ok, "detail": self.detail, "hint": self.hint}
