"""The table of the protocol, and the program that makes the pages from it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

SPEC = Path(__file__).parents[2] / "docs" / "spec"


def _load_maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_spec", SPEC / "make_spec.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_spec = _load_maker()


def table() -> dict[str, Any]:
    """Return a copy of the table."""
    content: dict[str, Any] = json.loads((SPEC / "protocol.json").read_text(encoding="utf-8"))
    return content
