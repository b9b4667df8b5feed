"""The pictures of the pages: few, small, each made by `make pictures` and shown somewhere."""

from __future__ import annotations

import re
import struct
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = sorted([*DOCS.glob("img/*.png"), *DOCS.glob("img/*.jpg")])
BYTES_MAX = 100 * 1024


def test_there_are_at_most_eight_and_none_is_large() -> None:
    assert 0 < len(PICTURES) <= 8
    assert {path.name: path.stat().st_size for path in PICTURES if path.stat().st_size > BYTES_MAX} == {}
    for path in PICTURES:
        width, height = struct.unpack(">II", path.read_bytes()[16:24])  # PNG (third edition) §11.2.1, IHDR
        assert 900 <= width <= 1440 and 200 <= height <= 1000, path.name


def test_each_comes_of_the_script() -> None:
    made = re.findall(r'^ +picture\("([a-z-]+)"', (DOCS / "img/make_pictures.py").read_text(), re.MULTILINE)
    assert sorted(made) == [path.stem for path in PICTURES]


def test_each_is_shown_with_words_for_who_does_not_see_it() -> None:
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    shown = {
        name: words
        for page in pages
        for words, name in re.findall(r"!\[([^]]*)\]\((?:docs/)?img/([^)]+)\)", page.read_text())
    }
    for path in PICTURES:
        assert len(shown.get(path.name, "").split()) > 4, path.name
