"""What a program says that it did: the items of ``did``, in their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

KINDS = {"save": bool, "ack": bool, "send": dict, "obtain": str, "refuse": str}


@dataclass(frozen=True, slots=True)
class Act:
    """One item: ``kind`` is its key, ``field`` stands beside ``refuse`` alone."""

    kind: str
    value: Any
    field: str | None = None


def acts_of(answer: dict[str, Any], complain: Callable[[str], None]) -> list[Act]:
    """Read ``did`` of an answer. Whatever is not of adapter.md is complained about and left out."""
    did = answer.get("did", [])
    if not isinstance(did, list):
        complain(f"`did` is no array: {did!r}")
        return []
    acts: list[Act] = []
    for item in did:
        kind = next((name for name in KINDS if isinstance(item, dict) and name in item), None)
        if kind is None or set(item) - {kind, "field"} or not isinstance(item[kind], KINDS[kind]):
            complain(f"an item of `did` is none of adapter.md: {str(item)[:200]}")
        else:
            acts.append(Act(kind, item[kind], item.get("field")))
    return acts
