"""``python -m tests.conversations.mistakes ID [GLOB]``: play conversations against our own end with a mistake in it.

The mistakes lie in mistakes.toml, as exact text of the program to find and text to put in its place. A process of its
own imports the program so changed; it prints the names of the conversations that fail, as JSON.
"""

from __future__ import annotations

import json
import sys
import tomllib
from fnmatch import fnmatch
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tests.conversations.__main__ import FOLDER, read_conversations
from tests.conversations.laws import Told
from tests.conversations.runner import play
from tests.mutants.catalogue import ROOT, Edit, Slug, apply, source

FILE = Path(__file__).with_suffix(".toml")


class Mistake(BaseModel):
    """One mistake, the end that makes it, and a conversation that must see it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Slug
    mistake: str
    end: Literal["phone", "companion"]
    seen_by: str
    edit: Annotated[list[Edit], Field(min_length=1)]


def read_mistakes() -> dict[str, Mistake]:
    """Return all of them by id."""
    found = [Mistake.model_validate(one) for one in tomllib.loads(FILE.read_text())["mistake"]]
    assert len({one.id for one in found}) == len(found), "two mistakes have one id"
    return {one.id: one for one in found}


def plant(mistake: Mistake) -> None:
    """Have the program imported as the mistake makes it; nothing of it may be imported yet.

    Raises:
        DriftError: the mistake does not fit the source any more.
    """
    assert not any(name.startswith("token_relay.") for name in sys.modules)
    changed = {str(ROOT / file): text for file, text in apply(mistake.edit, source).items()}
    as_it_is = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> object:
        text = changed.get(self.get_filename(fullname))
        return as_it_is(self, fullname) if text is None else compile(text, self.path, "exec")

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign,assignment]  # for this process


def main(words: list[str]) -> int:
    """Plant, play, and print the names of those that fail."""
    mistake = read_mistakes()[words[0]]
    plant(mistake)
    from tests.conversations.our_ends import OurEnd  # it imports the program

    failed = []
    wanted = words[1] if len(words) > 1 else "*"
    for file in read_conversations(FOLDER):
        if file["end"] == mistake.end and fnmatch(file["name"], wanted):
            end = OurEnd()
            outcome = play(file, end, level="envelope", told=Told())
            end.close()
            failed += [file["name"]] if outcome.failures else []
    print(json.dumps(failed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
