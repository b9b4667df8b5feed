"""Whether a message, or a sealed grant, has exactly the fields that docs/spec/protocol.json gives it.

It knows nothing of conversations: one JSON value in, a list of sentences out, empty where all fits. It
reads the table and nothing of the program, so that a field that the program spells wrong is seen here.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parents[2] / "docs" / "spec"
INTEGER_MAX = 2**53 - 1

Fields = list[dict[str, Any]]


@cache
def protocol() -> dict[str, Any]:
    """Return the table."""
    table: dict[str, Any] = json.loads((PAGES / "protocol.json").read_text())
    return table


def requests() -> frozenset[str]:
    """Return the types that are repeated until they are settled."""
    return frozenset(kind for kind, row in protocol()["messages"].items() if row["kind"] == "request")


def versions_of(kind: str) -> list[int]:
    """Return the versions in which a message is written down."""
    return [version["v"] for version in protocol()["messages"][kind]["versions"]]


def fields_of(versions: list[dict[str, Any]], upto: int) -> Fields:
    """Return the fields of one version: those that it brings, and those before it, as it changed them."""
    fields: dict[str, dict[str, Any]] = {}
    for version in versions:
        if version["v"] <= upto:
            for field in (*version["fields"], *version.get("changed", ())):
                fields[field["name"]] = field
    return list(fields.values())


def faults_of_message(message: dict[str, Any], *, sender: str) -> list[str]:
    """Say what is wrong with a whole message of the phone's or the companion's."""
    found = _object(
        message, [field for field in protocol()["head"] if field["name"] != "body"], "", also=frozenset({"body"})
    )
    if found:
        return found
    row = protocol()["messages"].get(message["type"])
    if row is None:
        return [f"no message has the type {message['type']}"]
    if row["from"] not in (sender, "either"):
        found.append(f"{message['type']} is not said by a {sender}")
    if message["v"] not in versions_of(message["type"]):
        return [*found, f"{message['type']} has no version {message['v']}"]
    body = message.get("body")
    if not isinstance(body, dict):
        return [*found, "body: not an object"]
    return found + _object(body, fields_of(row["versions"], message["v"]), "body.", each=row.get("each", {}))


def faults_of_grant(grant: dict[str, Any]) -> list[str]:
    """Say what is wrong with the JSON inside the seal of TOKEN."""
    table = protocol()["grant"]
    fields = fields_of(table["versions"], 2 if grant.get("v") == 2 else 1)
    found = _object(grant, fields, "grant.")
    if not found and "behaviour" in grant:
        found = _object(grant["behaviour"], table["behaviour"], "grant.behaviour.")
    return found


def _object(
    value: dict[str, Any],
    fields: Fields,
    where: str,
    *,
    each: dict[str, Fields] | None = None,
    also: frozenset[str] = frozenset(),
) -> list[str]:
    known = {field["name"]: field for field in fields}
    found = [f"{where}{name}: no such field" for name in value if name not in known and name not in also]
    for name, field in known.items():
        if name in value:
            found += _value(value[name], field, f"{where}{name}", (each or {}).get(name, []))
        elif not field.get("optional"):
            found.append(f"{where}{name}: is missing")
    return found


def _value(value: Any, field: dict[str, Any], where: str, each: Fields) -> list[str]:
    if value is None and field.get("null"):
        return []
    if "one_of" in field:
        return [] if value in field["one_of"] else [f"{where}: not one of {', '.join(field['one_of'])}"]
    if "array_of" in field:
        return _array(value, field, where, each)
    kind = field["type"]
    rule = {**next((row for row in protocol()["types"] if row["type"] == kind), {"json": kind}), **field}
    if rule["json"] == "integer":
        is_right = isinstance(value, int) and not isinstance(value, bool)
        is_right = is_right and rule.get("min", 0) <= value <= rule.get("max", INTEGER_MAX)
    elif rule["json"] == "string":
        is_right = isinstance(value, str) and rule.get("min", 0) <= len(value) <= rule.get("max", INTEGER_MAX)
        is_right = is_right and re.fullmatch(rule.get("pattern", ".*"), value, re.DOTALL) is not None
    else:
        is_right = isinstance(value, {"boolean": bool, "object": dict}[rule["json"]])
    return [] if is_right else [f"{where}: not {_spelled(rule, kind)}"]


def _array(value: Any, field: dict[str, Any], where: str, each: Fields) -> list[str]:
    if not isinstance(value, list) or not field.get("min", 0) <= len(value) <= field["max"]:
        return [f"{where}: not an array of {field.get('min', 0)} to {field['max']}"]
    found: list[str] = []
    for number, item in enumerate(value):
        place = f"{where}.{number}"
        if field["array_of"] != "each":
            found += _value(item, field["array_of"], place, [])
        else:
            found += _object(item, each, f"{place}.") if isinstance(item, dict) else [f"{place}: not an object"]
    return found


def _spelled(rule: dict[str, Any], kind: str) -> str:
    bounds = f" {rule.get('min', 0)} to {rule['max']}" if rule["json"] == "integer" and "max" in rule else ""
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}{bounds}"
