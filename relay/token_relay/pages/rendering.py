"""Turns values into HTML: Jinja2, with everything escaped, and the filters of :mod:`.words`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from token_relay.pages import words

TEMPLATES = Path(__file__).with_name("templates")


def environment(templates: Sequence[Path]) -> Environment:
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
    return made
