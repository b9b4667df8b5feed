"""Checks what a step of the demo promises, and describes a broken promise. Pure.

A check says what was expected in words that need no context: a person sees nothing else when it does not hold.
Values that come from a program are shortened; no check is given a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from token_relay.protocol.errors import RelayError

SHOWN_CHARS_MAX = 300  # of what came instead; the logs have the rest

Answer: TypeAlias = dict[str, Any]  # of a program; the tests of `--json` and of the sandbox check its shape

# These change by themselves in a status: time, traffic, and counters of traffic.
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


def lasting(value: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted path, value) for all of a status or a vault, except what changes by itself.

    Two states differ exactly where the sets of their pairs differ.
    """
    if isinstance(value, Mapping):
        for key in value.keys() - VOLATILE:
            yield from lasting(value[key], f"{place}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from lasting(inner, f"{place}[{index}]")
    yield place, type(value) if isinstance(value, Mapping | list | tuple) else value
