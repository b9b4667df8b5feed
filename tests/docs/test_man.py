"""The manual pages are those that the program makes, roff takes them, and they say what ``--help`` says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests import needs
from tests.watchdog import HANG_S
from token_relay.cli import main as cli
from token_relay.host.config import PhoneConfig, settings

ROOT = Path(__file__).parents[2]
MAN = ROOT / "docs" / "man"
MACROS = {"TH", "SH", "SS", "PP", "TP", "B", "I", "BR", "br", '\\"'}


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_man", MAN / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(page: str) -> str:
    """Return a page as one line of words, without macros and escapes."""
    text = re.sub(r"^\.(?:\\\"|[A-Za-z]+) ?", "", page, flags=re.MULTILINE)
    for written, meant in ((r"\-", "-"), (r"\(ti", "~"), (r"\(aq", "'"), (r"\(ga", "`"), (r"\&", ""), (r"\e", "\\")):
        text = text.replace(written, meant)
    return " ".join(text.split())


def test_pages_in_the_tree_are_those_that_the_program_makes(make: ModuleType) -> None:
    assert set(make.PAGES) == {path.name for path in MAN.iterdir() if path.suffix in (".1", ".5")}
    for name, page in make.PAGES.items():
        assert page() == (MAN / name).read_text(encoding="utf-8"), "run: python docs/man/make.py"


def test_every_option_of_help_stands_in_the_page_with_its_words(make: ModuleType) -> None:
    page = plain((MAN / "token-relay.1").read_text(encoding="utf-8"))
    count = 0
    for group in make.tables():
        for name, command in cli.commands_of(group).items():
            if make.is_leaf(group) and name != group:
                continue
            parser = make.Parser(prog="token-relay")
            command.options(parser)
            assert " ".join(command.description.split()).replace("…", "...") in page, (group, name)
            for action in make.actions_of(parser):
                written, meaning = make.option(action)
                assert f"{written} {' '.join(meaning.split())}".replace("…", "...") in page, (group, name, written)
                count += 1
    assert count > 80


def test_every_setting_stands_in_the_page_with_its_words() -> None:
    page = plain((MAN / "token-relay-config.5").read_text(encoding="utf-8"))
    for key, description in settings(PhoneConfig):
        assert f"{key} {description}".replace("…", "...") in page, key


@pytest.mark.parametrize("name", ["token-relay.1", "token-relay-config.5"])
def test_no_line_of_text_is_taken_for_a_macro(name: str) -> None:
    for line in (MAN / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("."):
            macro = re.match(r"\.([A-Za-z]+|\\\")", line)
            assert macro is not None and macro[1] in MACROS, line
        assert not line.startswith("'") and line.isascii() and line.strip()


@pytest.mark.skipif(needs.missing("groff") != "", reason=needs.missing("groff"))
@pytest.mark.parametrize("name", ["token-relay.1", "token-relay-config.5"])
def test_roff_has_nothing_to_complain_about(name: str) -> None:
    command = ["groff", "-man", "-ww", "-z", "-rLL=78n", "-Tutf8", str(MAN / name)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True).stderr == ""


def test_pages_travel_with_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    for path in MAN.iterdir():
        if path.suffix in (".1", ".5"):
            assert shared[f"docs/man/{path.name}"] == f"share/man/man{path.suffix[1:]}/{path.name}"
