"""A hostile peer beside an honest one, every interleaving: it reaches nothing that came by the other pairing."""

from __future__ import annotations

import pytest

from tests.exhaustive.small_third import Disk, search


@pytest.mark.parametrize("end", ["companion", "phone"])
def test_no_message_with_any_id_touches_what_came_by_another_pairing(end: str) -> None:
    found = search(Disk(end))
    assert not found.way, " -> ".join(found.way)
    assert found.states > 100


@pytest.mark.parametrize(
    ("disk", "last"),
    [
        (Disk("companion", keys_have_spaces=False), "g"),
        (Disk("companion", rows_by_pairing=False), "h"),
        (Disk("companion", grants_by_pairing=False), "h"),
        (Disk("companion", rollback_is_own=False), "ROLLBACK"),
        (Disk("phone", keys_have_spaces=False), "g"),
        (Disk("phone", rows_by_pairing=False), "h"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.end} without a barrier",
)
def test_a_barrier_that_is_down_is_found_with_a_short_story(disk: Disk, last: str) -> None:
    found = search(disk)
    assert 0 < len(found.way) <= 5, found.way
    assert found.way[-1].endswith(last), found.way
