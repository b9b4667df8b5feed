"""The map is that of the tree: picture and table come from the imports, each path and function on the page exists.

A file that was moved or a function that got another name fails here, with the place where it is now.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
HALVES = [ROOT / half / "token_relay" for half in ("relay", "device")]
PATH = re.compile(r"(?P<path>[\w.-]+/[\w./-]*|[\w-]+\.(?:md|toml|py))(?::(?P<name>\w+))?")
Edges = frozenset[tuple[str, str]]
TOPICS_MIN = 30
DOCSTRING_LINES_MAX = 5
# What a newcomer looked for and did not find.
LOOKED_FOR = (
    "QR code",
    "prompts",
    "/authorize",
    "copied card",
    "options of `sandbox`",
    "exit codes",
    "watchdog",
    "rotation",
)


@pytest.fixture(scope="module")
def rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_rooms", ROOT / "docs" / "img" / "make_rooms.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def edges(rooms: ModuleType) -> Edges:
    found: Edges = rooms.imports_between(rooms.sources())
    assert len(found) > 20
    return found


# -- Picture and table -------------------------------------------------------------------------------------


def test_picture_and_table_are_those_that_the_imports_make(rooms: ModuleType, edges: Edges) -> None:
    rooms.check_rooms(rooms.sources())
    assert rooms.draw(edges) == rooms.PICTURE.read_text(encoding="utf-8"), "run: make docs-img"
    page = PAGE.read_text(encoding="utf-8")
    assert rooms.with_table(page, edges) == page, "run: make docs-img"


def test_the_picture_says_in_words_what_it_shows_and_asks_for_nothing_else(rooms: ModuleType) -> None:
    root = ElementTree.parse(rooms.PICTURE).getroot()
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert {"title", "desc", "text"} <= set(names) and not set(names) & {"script", "image", "foreignObject"}
    (described,) = [element.text or "" for element in root.iter() if element.tag.endswith("desc")]
    shown = {element.text for element in root.iter() if element.get("font-weight") == "700"}
    for room in rooms.ROOMS:
        assert f"{room} imports " in described and room in shown
    assert "prefers-color-scheme: dark" in rooms.PICTURE.read_text(encoding="utf-8")


def test_a_further_import_between_two_rooms_changes_nothing(rooms: ModuleType, edges: Edges) -> None:
    line = "from token_relay.protocol.topics import peer_topic as further\n"
    assert rooms.imports_between({"device/token_relay/agents/link.py": line}) == {("agents", "protocol")} <= edges


@pytest.mark.parametrize(
    "line",
    [
        "import token_relay.cli.main",
        "def late():\n    from token_relay import cli",
        "if TYPE_CHECKING:\n    from token_relay.cli import main",
    ],
)
def test_an_import_that_points_back_is_drawn_in_red(rooms: ModuleType, edges: Edges, line: str) -> None:
    found = rooms.imports_between({"device/token_relay/vault/store.py": line})
    assert found == {("vault", "cli")} and not found & edges
    before = rooms.draw(edges).count('class="back"')
    assert rooms.draw(edges | found).count('class="back"') == before + 1


def test_an_arrow_that_follows_from_others_is_left_out_and_no_other(rooms: ModuleType) -> None:
    edges = frozenset({("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"), ("a", "c"), ("b", "e"), ("a", "f")})
    kept = {("a", "b"), ("b", "c"), ("c", "d"), ("b", "e"), ("a", "f")}
    assert rooms.without_those_that_follow(edges) == kept


def test_a_room_without_a_box_and_a_box_without_a_room_are_named(rooms: ModuleType) -> None:
    files = rooms.sources()
    with pytest.raises(SystemExit, match="device/token_relay/attic: add it to ROOMS"):
        rooms.check_rooms([*files, "device/token_relay/attic/old.py"])
    with pytest.raises(SystemExit, match="relay/token_relay/pki: add it to ROOMS"):
        rooms.check_rooms([path for path in files if "/pki/" not in path])


def test_each_arrow_has_its_way_and_none_runs_through_a_third_box(rooms: ModuleType, edges: Edges) -> None:
    forward = rooms.without_those_that_follow(frozenset(edge for edge in edges if not rooms.points_back(edge)))
    ways = rooms.routes(forward)
    assert set(ways) == forward and len(forward) > 10
    for (a, b), points in ways.items():
        for (x1, y1), (x2, y2) in pairwise(points):
            assert x1 == x2 or y1 == y2
            for name, box in rooms.ROOMS.items():
                is_beside = max(x1, x2) < box.x or min(x1, x2) > box.right
                is_apart = is_beside or max(y1, y2) < box.y or min(y1, y2) > box.bottom
                assert name in (a, b) or is_apart, f"{a} -> {b} runs through {name}: move a box in ROOMS"


def test_any_import_can_be_drawn(rooms: ModuleType) -> None:
    for a in rooms.ROOMS:
        for b in rooms.ROOMS:
            if a != b:
                drawn = rooms.draw(frozenset({(a, b)}))
                assert drawn.count("marker-end") == 1 and ('class="back"' in drawn) == rooms.points_back((a, b))


# -- Paths and names ---------------------------------------------------------------------------------------


def place(name: str) -> Path | None:
    """Find what a page calls by this path: in a room of either half, or from the root."""
    return next((base / name for base in (*HALVES, ROOT) if (base / name).exists()), None)


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return what a file defines: functions, methods, classes and values of the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def spans(text: str) -> Iterator[tuple[str, str]]:
    """Yield each path that a text names in backticks, with the name after its colon."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", outside):
        found = PATH.fullmatch(span)
        if found and "//" not in span:
            yield found["path"], found["name"] or ""


def where(found: Iterable[Path]) -> str:
    return ", ".join(sorted(str(path.relative_to(ROOT)) for path in found)) or "none"


def problems(text: str) -> list[str]:
    """Say what does not exist, and where something of that name does."""
    wrong = []
    for path, name in spans(text):
        file = place(path)
        if file is None:
            last = path.rstrip("/").rpartition("/")[2]
            wrong.append(
                f"{path} does not exist; of that name: {where(p for base in HALVES for p in base.rglob(last))}"
            )
        elif name and name not in names_in(file):
            now = where(p for base in HALVES for p in base.rglob("*.py") if name in names_in(p))
            wrong.append(f"{path} defines no {name}; these do: {now}")
    return wrong


def test_every_path_and_function_on_the_page_exists() -> None:
    text = PAGE.read_text(encoding="utf-8").replace("`/", "`")  # `/authorize`, `/sandbox/` are addresses
    text = re.sub(r"`(?:authorize|sandbox/)`", "", text)
    found = list(spans(text))
    assert len(found) > 150 and len([name for _, name in found if name]) > 60
    assert problems(text) == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_that_a_contributor_is_sent_to_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name == "CONTRIBUTING.md":
        assert len(list(spans(text))) >= 8
    assert problems(text) == []


def test_every_target_that_a_contributor_is_sent_to_is_in_make_help() -> None:
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    targets = {line.split()[0] for line in shown.stdout.splitlines() if line}
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    named |= set(re.findall(r"`make ([a-z-]+)`", PAGE.read_text(encoding="utf-8")))
    assert {"quick", "check", "test", "test-world", "test-long", "test-fresh", "bench", "mutants"} <= named
    assert sorted(named - targets) == []


def test_the_first_change_begins_where_the_page_says() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    option = (ROOT / "device/token_relay/cli/commands/companion.py").read_text(encoding="utf-8")
    assert 'add_argument("--no-qr", action="store_true", help="' in option and '"--no-qr", action=' in text
    assert "| `--no-qr` |" in (ROOT / "docs/spec/command-line.md").read_text(encoding="utf-8")


def test_a_path_or_function_that_is_gone_is_seen_and_its_new_place_is_named() -> None:
    assert problems("see `agents/phone/link.py` and `agents/link.py:no_such_function`") == [
        "agents/phone/link.py does not exist; of that name: device/token_relay/agents/link.py",
        "agents/link.py defines no no_such_function; these do: none",
    ]
    (said,) = problems("`agents/turn.py:resend_loop`")
    assert said == "agents/turn.py defines no resend_loop; these do: device/token_relay/agents/turns.py"
    assert (
        problems("`agents/turns.py:resend_loop`, `agents/`, `cli/parsing.py:EXIT_CODES`, `token_relay`, `a b/c`") == []
    )


def test_no_room_stands_in_both_halves_so_a_short_path_means_one_file() -> None:
    relay, device = ({path.name for path in half.iterdir() if path.is_dir()} - {"__pycache__"} for half in HALVES)
    assert len(relay) >= 5 and len(device) >= 8 and not relay & device
    assert not [path for half in HALVES for path in half.glob("*.py")]  # one file there would end the namespace


def topics() -> list[list[str]]:
    table = PAGE.read_text(encoding="utf-8").partition("## To change X, open Y")[2]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [row for row in rows if len(row) == 3 and row[0] not in ("to change", "---")]


def test_the_table_has_its_topics_each_with_a_file_and_something_to_run() -> None:
    rows = topics()
    names = [name for name, _, _ in rows]
    assert len(rows) >= TOPICS_MIN and len(set(names)) == len(names)
    for name, files, run in rows:
        assert list(spans(files)), f"{name}: which file?"
        assert list(spans(run)) or re.search(r"`make [a-z-]+`", run), f"{name}: what holds it?"


@pytest.mark.parametrize("what", LOOKED_FOR)
def test_what_a_newcomer_looked_for_is_in_the_table(what: str) -> None:
    assert any(what in name for name, _, _ in topics())


def test_the_page_tells_the_token_s_way_through_every_room_it_passes() -> None:
    way = PAGE.read_text(encoding="utf-8").partition("## The way of the refresh token")[2].partition("\n## ")[0]
    order = [path for path, name in spans(way) if name]
    passed = [
        "agents/phone/account.py", "provider/oauth.py", "protocol/messages.py", "protocol/envelope.py",
        "protocol/handoff.py", "mqtt/channel.py", "agents/link.py", "agents/companion/messages.py", "vault/store.py",
        "agents/grants/flight.py",
    ]  # fmt: skip
    places = [order.index(path) for path in passed]
    assert places == sorted(places)


# -- What a room says of itself ----------------------------------------------------------------------------


def packages() -> list[Path]:
    return sorted(path for half in HALVES for path in half.rglob("__init__.py"))


@pytest.mark.parametrize("path", packages(), ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_every_folder_says_its_theory(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path}: what does it know, what not?"


def test_a_room_s_docstring_is_short_and_importing_it_costs_nothing(rooms: ModuleType) -> None:
    for name, room in rooms.ROOMS.items():
        path = ROOT / room.half / "token_relay" / name / "__init__.py"
        text = path.read_text(encoding="utf-8")
        assert len(ast.parse(text).body) == 1, f"{path}: docstring only"
        lines = (ast.get_docstring(ast.parse(text)) or "").splitlines()
        assert 2 <= len(lines) <= DOCSTRING_LINES_MAX, path
        word = {"pure": "Pure", "ports": "Ports only", "io": "I/O", "world": ""}[room.kind]
        assert word in text, f"{path}: may it touch nothing, ports only, or the world?"
