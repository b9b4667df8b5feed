"""Turns values into HTML: Jinja2, with everything escaped, and the filters of :mod:`.words`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from token_relay.pages import words
from token_relay.pages.page_hints import way_on

TEMPLATES = Path(__file__).with_name("templates")


def environment(templates: Sequence[Path], hints: Mapping[str, str] = MappingProxyType({})) -> Environment:
    """Return the templates of these directories, and the shared ones."""
    made = Environment(
        loader=FileSystemLoader([*templates, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "duration": words.duration,
        "moment": words.moment,
        "seen_from": words.seen_from,
        "sentence": words.sentence,
        "short": words.short,
        "size": words.size,
    }
    made.globals["way_on"] = partial(way_on, places=hints)
    return made
