"""What stands on the end's disk, against what a file expects: key by key, where the end tells the key at all."""

from __future__ import annotations

from typing import Any

from tests.conversations.laws import Told
from tests.conversations.values import NAME, Known, differences, filled

PARTS = ("state", "handoffs", "open", "may_renew", "held", "grants", "keys")  # of a pairing


def state_differences(expected: dict[str, Any], actual: Any, known: Known, told: Told) -> list[str]:
    """Say where the state is another one, and note in ``told`` what was there to compare."""
    if not isinstance(actual, dict):
        return ["`state` is no object"]
    found: list[str] = []
    for name, wanted in expected.items():
        told.wanted.add(f"state: {name}")
        if name not in actual:
            continue
        told.seen.add(f"state: {name}")
        if name == "pairings":
            found += _pairings(wanted, actual[name], known, told)
        else:
            found += differences(wanted, actual[name], known, f"state.{name}")
    return found


def _pairings(expected: dict[str, Any], actual: Any, known: Known, told: Told) -> list[str]:
    if not isinstance(actual, dict):
        return ["state.pairings: is no object"]
    found: list[str] = []
    left = dict(actual)
    for name, wanted in expected.items():
        pairing = filled(name, known, _unbound) if name in known.names or not NAME.fullmatch(name) else name
        if pairing not in left:
            found.append(f"state.pairings.{name}: is missing")
            continue
        found += _pairing(wanted, left.pop(pairing), known, told, f"state.{name}")
    return found + [f"state.pairings.{name}: should not be there" for name in left]


def _pairing(expected: dict[str, Any], actual: dict[str, Any], known: Known, told: Told, where: str) -> list[str]:
    found: list[str] = []
    for name in sorted(expected, key=PARTS.index):  # handoffs may bring a name that `open` uses
        told.wanted.add(f"state: {name} of a pairing")
        if name not in actual:
            continue
        told.seen.add(f"state: {name} of a pairing")
        wanted, came, place = expected[name], actual[name], f"{where}.{name}"
        if name in ("open", "held", "keys"):
            wanted = sorted(filled(item, known, _unbound) for item in wanted)
            if not isinstance(came, list) or wanted != sorted(map(str, came)):
                found.append(f"{place}: expected {wanted}, is {came}")
        elif name == "grants" and isinstance(came, dict):
            found += _grants(wanted, came, known, place)
        else:
            found += differences(wanted, came, known, place)
    return found


def _grants(expected: dict[str, Any], actual: dict[str, Any], known: Known, where: str) -> list[str]:
    """Grants may leave keys out, too."""
    told = {
        name: {key: value for key, value in wanted.items() if key in actual.get(known.names.get(name, name), {})}
        for name, wanted in expected.items()
    }
    return differences(told, actual, known, where)


def _unbound(name: str) -> str:
    return name
