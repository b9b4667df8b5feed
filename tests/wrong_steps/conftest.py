"""One set of places for each module of wrong steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wrong_steps.places import Places


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    prepared = Places()
    yield prepared
    prepared.close()
