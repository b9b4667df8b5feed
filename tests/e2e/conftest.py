"""What these tests need before the first of them: the repository on the path, and mosquitto on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # plain `pytest` adds each test's own directory only

from tests.channel.mosquitto import MosquittoMissingError, program  # after the path


@pytest.fixture(scope="session", autouse=True)
def _mosquitto_is_installed() -> None:
    try:
        program("mosquitto")
    except MosquittoMissingError as exc:
        pytest.fail(str(exc), pytrace=False)
