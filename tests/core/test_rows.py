"""What is promised of rows: their states are typed to the disk, and they change by one verb."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from tests.properties.one_end import HANDOFF_ID, PAIRING, Tx, turn_of
from token_relay.agents import records
from token_relay.agents.records import RECORDS, CompanionHandoff, Grant, Pairing, PhoneHandoff

ROOT = Path(__file__).parents[2]
CHANGED = {
    Pairing: records.PairingColumns,
    PhoneHandoff: records.PhoneHandoffColumns,
    CompanionHandoff: records.CompanionHandoffColumns,
    Grant: records.GrantColumns,
}
MISSPELT = """
from token_relay.agents.records import CompanionHandoff, Grant, Pairing, PhoneHandoff, GrantStateName
from token_relay.agents.turn import Turn

def compare(p: Pairing, h: PhoneHandoff, c: CompanionHandoff, g: Grant, turn: Turn) -> None:
    print(p.state == "actve")
    print(h.state == "relaesed")
    print(h.strategy == "bransh")
    print(c.state != "reedy")
    print(c.reason == "revokt")
    print(g.state == "uncertian")
    print(g.reason == "leese")
    turn.change(Grant, "id", state="hled")
    turn.change(Pairing, "id", rollback="other")
    turn.change(PhoneHandoff, "id", handoff_id="another")
    turn.change(CompanionHandoff, "id", sate="ready")
    known: frozenset[GrantStateName] = frozenset({"held", "refershing"})
    print(known)
    match g.state:
        case "lokced":
            print("never")
        case _:
            pass
"""


def test_a_misspelt_state_is_a_type_error(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(MISSPELT)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-error-summary", str(planted)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wrong = {
        int(line.split(":")[1]) for line in found.stdout.splitlines() if "planted.py" in line and ": error:" in line
    }
    lines = MISSPELT.splitlines()
    expected = {
        number
        for number, line in enumerate(lines, 1)
        if ("==" in line or "!=" in line or "turn.change" in line or "refershing" in line)
    } | {number + 1 for number, line in enumerate(lines, 1) if "lokced" in line}
    assert wrong == expected, found.stdout


STATES = ("state", "reason", "strategy", "rollback", "provider_said", "device_state", "device_reason")


def _columns() -> dict[str, set[object]]:
    """The values of each column of state; under one name, those of all records."""
    found: dict[str, set[object]] = {}
    for record in RECORDS:
        for name, hint in get_type_hints(record).items():
            if name in STATES and get_origin(hint) is Literal:
                found.setdefault(name, set()).update(get_args(hint))
    return found


def test_every_column_of_state_lists_its_values() -> None:
    known = _columns()
    for record in RECORDS:
        for name in get_type_hints(record):
            if name in STATES:
                assert name in known, f"{record.__name__}.{name} is bare text"


@pytest.mark.parametrize("record", CHANGED, ids=lambda record: record.__name__)
def test_what_may_change_has_the_type_of_its_column_and_the_key_never_does(record: Any) -> None:
    hints, changed = get_type_hints(record), get_type_hints(CHANGED[record])
    assert changed.items() <= hints.items()
    assert not set(record.key) & set(changed)


def _texts(node: ast.expr) -> list[str] | None:
    if isinstance(node, ast.Tuple | ast.Set | ast.List):
        values = [part.value for part in node.elts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        return values if len(values) == len(node.elts) else None
    return None


def misspelt(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield what mypy does not see: texts in a list beside ``in``, in a pair, and those that a search is given."""
    known = _columns()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr in known:
            for text in _texts(node.comparators[0]) or ():
                if text not in known[node.left.attr]:
                    yield node.lineno, text
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Tuple):
            for part, text in zip(node.left.elts, _texts(node.comparators[0]) or (), strict=False):
                if isinstance(part, ast.Attribute) and part.attr in known and text not in known[part.attr]:
                    yield node.lineno, text
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "select":
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in known and isinstance(value, str) and value not in known[keyword.arg]:
                    yield node.lineno, value


def stale(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield where a row is written whole from a copy, instead of by ``Turn.change``."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        made = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name) and _name(node.value.func) not in ("replace", "get", "row", "change")
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "put":
                (argument,) = node.args
                is_new = isinstance(argument, ast.Call) and _name(argument.func) != "replace"
                if not is_new and not (isinstance(argument, ast.Name) and argument.id in made):
                    yield node.lineno, ast.unparse(argument)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _sources(*rooms: str) -> Iterator[tuple[str, ast.AST]]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def test_every_text_beside_a_column_of_state_is_one_of_its_values() -> None:
    found = [(path, *place) for path, tree in _sources("device", "tests") for place in misspelt(tree)]
    others = ("tests/core/test_rows.py", "tests/conversations/")  # there they are states of the protocol's table
    assert [place for place in found if not place[0].startswith(others)] == []
    planted = (
        'a = row.state in ("held", "uncertian")\n'
        'rows = turn.tx.select(Grant, state="lokced")\n'
        'b = (row.state, row.reason) == ("gone", "rolback")\n'
    )
    assert sorted(misspelt(ast.parse(planted))) == [(1, "uncertian"), (2, "lokced"), (3, "rolback")]


def test_an_agent_writes_a_row_whole_only_when_it_is_new() -> None:
    rooms = [
        (path, tree) for path, tree in _sources("device/token_relay/agents") if not path.endswith("agents/turn.py")
    ]
    assert [(path, *place) for path, tree in rooms for place in stale(tree)] == []
    planted = (
        "def step(turn, row):\n"
        "    turn.tx.put(replace(row, state='held'))\n"
        "    old = turn.tx.get(Grant)\n"
        "    turn.tx.put(old)\n"
    )
    assert [line for line, _ in stale(ast.parse(planted))] == [2, 4]


def test_a_change_keeps_what_was_written_since_the_copy_was_read() -> None:
    tx = Tx(PAIRING)
    turn = turn_of(tx)
    copy = turn.row(Pairing, PAIRING.pairing_id)
    turn.change(Pairing, copy.pairing_id, seq_sent=copy.seq_sent + 5)
    assert turn.change(Pairing, copy.pairing_id, state="retired").seq_sent == copy.seq_sent + 5


def test_a_row_that_is_missing_is_a_mistake_of_ours() -> None:
    turn = turn_of(Tx())
    with pytest.raises(LookupError, match="phone_handoffs"):
        turn.row(PhoneHandoff, HANDOFF_ID)
    with pytest.raises(LookupError, match="grants"):
        turn.change(Grant, "id", state="held")
