"""Makes tests/vectors/conversations: scenarios bring the inputs, the interpreter of the table says what follows.

``python -m tests.conversations.make`` writes every file anew; a test makes them again and compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conversations.interpreter import Interpreter
from tests.conversations.scenarios import (
    companion,
    companion_delivery,
    companion_grants,
    envelope,
    mailbox,
    phone,
    phone_delivery,
    phone_grants,
)
from tests.conversations.scenarios.kit import Scenario, Step
from tests.conversations.table import Table

FILES = Path(__file__).parents[1] / "vectors" / "conversations"
SCENARIOS: tuple[Scenario, ...] = (
    *phone.SCENARIOS,
    *phone_grants.SCENARIOS,
    *phone_delivery.SCENARIOS,
    *companion.SCENARIOS,
    *companion_grants.SCENARIOS,
    *companion_delivery.SCENARIOS,
    *envelope.SCENARIOS,
    *mailbox.SCENARIOS,
)


def _named(value: Any, seq: int, fresh: Iterator[int]) -> Any:
    """Return a message with the peer's own number and fresh challenges in it."""
    if isinstance(value, dict):
        return {key: _named(item, seq, fresh) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, seq, fresh) for item in value]
    if value == "*":
        return f"$d{next(fresh)}"
    return seq if value == "=seq" else value


def steps_of(scenario: Scenario, table: Table) -> Iterator[Step]:
    """Yield the steps of one conversation, with what each must bring.

    Raises:
        Impossible: a step makes no sense where it stands.
    """
    end = Interpreter(scenario.end, table)
    begun = end.begin(scenario.begin)
    state = begun[-1][1].state if begun else None
    fresh = iter(range(1, 1000))
    for told in scenario.steps:
        step = end.filled(told)
        if "message" in step:
            step = {**step, "message": _named(step["message"], step["message"]["seq"], fresh)}
        expected = end.step(step)
        written = {**step, "out": expected.out}
        if expected.refused is not None:
            written["refused"] = expected.refused
        if expected.field not in (None, "", "*"):
            written["field"] = expected.field
        if expected.answer is not None:
            written["answer"] = expected.answer
        if expected.state != state:
            written["state"] = state = expected.state
        yield _plain(written)


def _plain(step: Step) -> Step:
    """Leave away what a message has by default."""
    if "message" not in step:
        return step
    default = {"v": 1, "in_reply_to": None, "pairing": "$p1"}
    message = {key: value for key, value in step["message"].items() if key not in default or value != default[key]}
    return {**step, "message": message}


def content(scenario: Scenario, table: Table) -> Step:
    """Return a conversation as it stands in its file."""
    return {
        "format": 1,
        "name": scenario.name,
        "end": scenario.end,
        "about": scenario.about,
        "covers": list(scenario.covers),
        "level": scenario.level,
        "speaks": scenario.speaks,
        "begin": scenario.begin,
        "steps": list(steps_of(scenario, table)),
    }


def text(conversation: Step) -> str:
    """Spell a conversation: one line for each step, and one for each thing that it must bring."""
    head = {key: value for key, value in conversation.items() if key != "steps"}
    lines = [f" {json.dumps(key)}: {_line(value)}," for key, value in head.items()]
    steps = ",\n".join(_step(step) for step in conversation["steps"])
    return "\n".join(("{", *lines, f' "steps": [\n{steps}', " ]", "}")) + "\n"


def _step(step: Step) -> str:
    first = {key: value for key, value in step.items() if key not in ("out", "state", "refused", "field", "answer")}
    parts = [_line(first)[1:-1]]
    parts += [f"   {json.dumps(key)}: {_line(step[key])}" for key in ("refused", "field", "answer") if key in step]
    outs = ",\n".join(f"    {_line(item)}" for item in step["out"])
    parts.append(f'   "out": [\n{outs}]' if outs else '   "out": []')
    if "state" in step:
        parts.append(f'   "state": {_line(step["state"])}')
    return "  {" + ",\n".join(parts) + "}"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def made(table: Table) -> dict[str, str]:
    """Return every file with its text, as this table says what follows."""
    files = {f"{scenario.name}.json": text(content(scenario, table)) for scenario in SCENARIOS}
    assert len(files) == len(SCENARIOS), "two scenarios have one name"
    return files


def main() -> int:
    """Write all files, and remove those that are made no more."""
    FILES.mkdir(exist_ok=True)
    files = made(Table())
    for old in FILES.glob("*.json"):
        if old.name not in files:
            old.unlink()
    for name, spelled in files.items():
        (FILES / name).write_text(spelled, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
