"""What a step of the demo promises, and how a broken promise is said. Pure.

A check names what was expected in words that stand alone: they are all that a person sees when it does not hold.
Values that come from a program are shortened; a token has no way in, since no check is given one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from token_relay.protocol.errors import RelayError

SHOWN_CHARS_MAX = 300  # of what came instead; the logs have the rest

Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
Answer: TypeAlias = dict[str, Any]  # of a program; the tests of `--json` and of the sandbox hold its shape

# What changes by itself in a status: time, traffic, and what counts traffic.
VOLATILE = frozenset({"clock", "counters", "broker", "heard_at", "lease_left_s"})


class StepFailedError(RelayError):
    """A promise of the story did not hold."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = str(got)[:SHOWN_CHARS_MAX]


def expect(holds: bool, expected: str, got: object) -> None:
    """Go on if it holds; else raise StepFailedError with ``expected`` and what came instead."""
    if not holds:
        raise StepFailedError(expected, got)


def expect_equal(got: object, wanted: object, what: str) -> None:
    """Go on if both are equal. Raises StepFailedError."""
    expect(got == wanted, f"{what}: {wanted}", got)


def lasting(value: Json) -> Json:
    """Return a status without what changes by itself, so that two of them can be compared."""
    if isinstance(value, Mapping):
        return {key: lasting(inner) for key, inner in value.items() if key not in VOLATILE}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [lasting(inner) for inner in value]
    return value


def differences(before: Json, after: Json, place: str = "") -> Iterator[str]:
    """Yield the places where two values differ, as dotted paths."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{place}[{index}]")
    elif before != after:
        yield place or "(the whole)"
