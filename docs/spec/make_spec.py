"""Makes what follows from protocol.json: the tables of these pages, both state diagrams, and messages.schema.json.

``make protocol`` writes them. A page has a table between two comments that name it; everything else of the page is
written by hand. A test makes all of it again and compares.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TABLE, SCHEMA = HERE / "protocol.json", HERE / "messages.schema.json"
PAGES = ("README", "delivery", "envelope", "handoff", "messages", "pairing")
PLACE = re.compile(r"(<!-- protocol\.json: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

Json = Mapping[str, Any]
JSON_SAID = {"boolean": "`true` or `false`", "integer": "number"}


# -- Tables of the pages -----------------------------------------------------------------------------------


def _rows(heads: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = heads.split(" | ")
    yield f"| {heads} |"
    yield f"|{' --- |' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(row)} |".replace("|  |", "| |")


def _code(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _choice(values: list[str]) -> str:
    *most, last = [f'`"{value}"`' for value in values]
    return f"{', '.join(most)} or {last}" if most else last


def _type(field: Json) -> str:
    """Say a field's type as the pages do."""
    low, high = field.get("min"), field.get("max")
    if "one_of" in field:
        said = _choice(field["one_of"])
    elif "array_of" in field:
        of = field["array_of"]
        what = "objects" if of == "each" else f"{of['type']}s" + (f" up to {of['max']}" if "max" in of else "")
        said = f"array of 0 to {high} {what}"
    elif "shown" in field:
        said = f"{field['type']}, {field['shown']}"
    elif field["type"] == "text" and low:
        said = f"text, {low} to {high} code points"
    elif high is not None:
        said = f"{field['type']} {low}" + (f" to {high}" if high != low else "")
    elif low:
        said = f"{field['type']}, at least {low}"
    else:
        said = str(field["type"])
    return said + (" or null" if field.get("null") else "")


def _fields(fields: list[Json], head: str = "field") -> Iterator[str]:
    rows = ((f"`{field['name']}`", _type(field), field.get("meaning", "")) for field in fields)
    yield from _rows(f"{head} | type | meaning", rows)


def _checks(checks: list[Json], head: str = "reason") -> Iterator[str]:
    rows = ((str(check["number"]), check["check"], check.get("effect") or _code(check["reasons"])) for check in checks)
    yield from _rows(f"# | check | {head}", rows)


def _who(table: Json) -> Iterator[str]:
    """Yield who says what; types that say the same of themselves share a row."""
    to = {"phone": "companion", "companion": "phone", "either": "either"}
    alike: dict[tuple[str, ...], list[str]] = {}
    for kind, message in table["messages"].items():
        said = (message["from"], to[message["from"]], message["kind"], message["answered_by"] or "–")
        is_verdict = said == ("companion", "phone", "answer", "–") and kind != "PAIR4"
        key = said if is_verdict else (*said, kind)
        alike.setdefault(key, []).append(kind)
    yield from _rows("type | from | to | kind | answered by", ((", ".join(of), *key[:4]) for key, of in alike.items()))


def _machine(end: Json) -> Iterator[str]:
    rows = (
        (", ".join(row["states"]), ", ".join(row["events"]), row["next"], ", ".join(row["effects"]))
        for row in end["rows"]
    )
    yield from _rows("state | event | next | effects", rows)


def reasons(table: Json) -> dict[str, list[str]]:
    """Return every reason for which a message is refused, with the places where it is counted."""
    places: dict[str, dict[str, list[str]]] = {}

    def of(checks: list[Json], page: str, what: str) -> None:
        for check in checks:
            for reason in check["reasons"]:
                where = f"[{what}]({check.get('page', page)}.md)"
                numbers = places.setdefault(reason, {}).setdefault(where, [])
                if str(check["number"]) not in numbers:
                    numbers.append(str(check["number"]))

    of(table["checks"], "delivery", "check")
    for row in table["content_reasons"]:
        places.setdefault(row["reason"], {}).setdefault("[check](delivery.md)", []).append(
            f"21 ({', '.join(row['of'])})"
        )
    of(table["grant"]["checks"], "messages", "sealed grant")
    for side in ("companion", "ended", "pair1", "stored"):
        of(table["mailbox_checks"][side], "pairing", "companion's mailbox")
    of(table["mailbox_checks"]["phone"], "pairing", "phone's mailbox")
    of(table["invitation_checks"], "pairing", "invitation")
    return {reason: [f"{where} {', '.join(at)}" for where, at in by.items()] for reason, by in places.items()}


def _times(table: Json) -> Iterator[str]:
    for name, time in table["times"].items():
        value = time["value"]
        said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        drawn = "times {:g} to {:g}".format(*time["drawn"]) if "drawn" in time else ""
        yield f"| `{name}` | {said} | {drawn} | {time['what']} |"


class _Seconds(int):
    """A time that can be said in hours or minutes."""

    def __format__(self, unit: str) -> str:
        return str(self // {"": 1, "min": 60, "h": 3600}[unit])


def _numbers(table: Json) -> dict[str, Any]:
    times = {name: time["value"] for name, time in table["times"].items()}
    said = {name: _Seconds(value) if isinstance(value, int) else value for name, value in times.items()}
    return {**table["limits"], **said}


def _plain(rows: list[Json], heads: str, *keys: str) -> Iterator[str]:
    cells = ((row[key] if isinstance(row[key], str) else ", ".join(row[key]) for key in keys) for row in rows)
    yield from _rows(heads, cells)


def tables(table: Json) -> dict[str, list[str]]:
    """Return the lines of each table that a page may name."""
    grant, boxes = table["grant"], table["mailbox_checks"]
    made: dict[str, Iterable[str]] = {
        "types": _rows("type in the tables | JSON | allowed", (
            (row["type"], JSON_SAID.get(row["json"], row["json"]), row["allowed"]) for row in table["types"])),
        "head": _fields(table["head"]),
        "who says what": _who(table),
        "rejects": _plain(table["rejects"], "to | `handoff_id` | reasons", "to", "handoff_id", "reasons"),
        "grant": _fields(grant["versions"][0]["fields"]),
        "grant 2": _fields(grant["versions"][1]["fields"], "field of version 2"),
        "behaviour": _fields(grant["behaviour"], "field of behaviour"),
        "grant checks": _checks(grant["checks"]),
        "pair1": _fields(table["pair1"]),
        "content": _rows("reason | of | cause", (
            (f"`{row['reason']}`", ", ".join(row["of"]), row["cause"]) for row in table["content_reasons"])),
        "reasons": _rows("reason | counted at", (
            (f"`{reason}`", "; ".join(where)) for reason, where in sorted(reasons(table).items()))),
        "invitation checks": _checks(table["invitation_checks"]),
        "limits": _rows("what | limit | where", (
            (row["what"], row["limit"].format(**_numbers(table)), f"[{row['page']}.md]({row['page']}.md)")
            for row in table["limits_shown"])),
        "times": [*_rows("time | seconds | drawn | what", ()), *_times(table)],
        "companion answers": _plain(
            table["companion"]["answers"], "ANSWER_STATUS in | does", "states", "effect"),
        "offer refusals": _rows("# | if | REJECT", (
            (str(at), row["if"], f"`{row['reason']}`") for at, row in enumerate(table["offer_refusals"], 1))),
        "lease conditions": _rows("# | condition", (
            (str(at), said) for at, said in enumerate(table["lease"]["given"]["conditions"], 1))),
        "renewal reasons": _rows("reason | meaning", (
            (_code(row["reasons"]), row["meaning"]) for row in table["renewal"]["reasons"])),
        "renewal rules": _rows("# | if | answer", (
            (str(rule["number"]), rule["if"], _renewal_answer(rule["answer"])) for rule in table["renewal"]["rules"])),
    }  # fmt: skip
    for page in ("envelope", "messages", "delivery"):
        made[f"checks {page}"] = _checks([row for row in table["checks"] if row["page"] == page])
    for name, checks in boxes.items():
        head = "reason" if name == "stored" else "reason or effect"
        made[f"mailbox {name}"] = _checks(checks, head)
    for kind, message in table["messages"].items():
        for version in message["versions"]:
            v = version["v"]
            head = "field" if v == 1 else f"field of version {v}"
            name = kind if v == 1 else f"{kind} {v}"
            made[name] = _fields(version["fields"], head)
        for field, fields in message.get("each", {}).items():
            made[f"{kind} {field}"] = _fields(fields)
    for end in ("phone", "companion"):
        machine = table[end]
        made[f"{end} rows"] = _machine(machine)
        made[f"{end} events"] = _plain(machine["events"], "event | cause", "events", "cause")
        made[f"{end} effects"] = _plain(machine["effects"], "effect | what it does", "effects", "what")
        made[f"{end} drawn"] = drawn(Machine.of(table, end))
    return {name: list(lines) for name, lines in made.items()}


def _renewal_answer(answer: list[str]) -> str:
    kind, *reason = answer
    return {"RESEND": "those requests again", "OFFER": "OFFER with `renews`"}.get(kind) or f"{kind} `{reason[0]}`"


# -- Both machines, drawn ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """What one event does in one state; ``next`` is None where an event of this end's own makes no sense."""

    state: str
    event: str
    next: str | None
    effects: tuple[str, ...]

    @property
    def answer(self) -> tuple[str, str]:
        """Next state and effects, as the table says them."""
        if self.next is None:
            return "raises", ""
        return "same" if self.next == self.state else self.next, ", ".join(self.effects)


@dataclass(frozen=True, slots=True)
class Machine:
    """One end of a handoff."""

    begins: str
    cells: list[Cell]

    @classmethod
    def of(cls, table: Json, end: str) -> Machine:
        """Return every state of one end with every event; a state and an event that fit two rows are an error."""
        part = table[end]
        groups: Json = part["groups"]
        status = {state: row["effect"] for row in part.get("answers", ()) for state in row["states"]}
        found: dict[tuple[str, str], Cell] = {}
        for row in part["rows"]:
            for state in (name for named in row["states"] for name in groups.get(named, [named])):
                for event in row["events"]:
                    effects = tuple(status[state] if effect == "ANSWER_STATUS" else effect for effect in row["effects"])
                    assert (state, event) not in found, f"two rows for {event} in {state}"
                    found[state, event] = Cell(state, event, state if row["next"] == "same" else row["next"], effects)
        cells = []
        for state in part["states"]:
            for event in (*part["own_events"], *part["peer_events"]):
                silent = Cell(state, event, None if event in part["own_events"] else state, ())
                cells.append(found.pop((state, event), silent))
        assert not found, f"no such state or event: {list(found)}"
        return cls(part["begins"][0], cells)


def box(state: str) -> str:
    """Name a state without its reason; each name is one box of the diagram."""
    return state.partition("(")[0]


def _diagram(machine: Machine) -> Iterator[str]:
    """Yield the diagram: what changes a state, and its effects. One arrow for what means the same in every state."""
    cells = machine.cells
    yield from ("```mermaid", "stateDiagram-v2", f"    [*] --> {box(machine.begins)}")
    everywhere = {
        event
        for event in {cell.event for cell in cells}
        if len({(cell.next, cell.effects) for cell in cells if cell.event == event}) == 1
    }
    arrows: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        if cell.next is not None and cell.next != cell.state:
            source = "any" if cell.event in everywhere else box(cell.state)
            events = arrows.setdefault((source, box(cell.next), ", ".join(cell.effects)), [])
            if cell.event not in events:
                events.append(cell.event)
    if everywhere:
        yield "    any: in any state"
    for (source, target, effects), events in arrows.items():
        yield f"    {source} --> {target}: {', '.join(events)} / {effects}"
    yield "```"


def _every_cell(machine: Machine) -> Iterator[str]:
    """Yield the table: each state with each event; events and states with the same answers share a row."""
    answers: dict[str, dict[tuple[str, str], list[str]]] = {}
    for cell in machine.cells:
        answers.setdefault(cell.state, {}).setdefault(cell.answer, []).append(cell.event)
    alike: list[tuple[list[str], dict[tuple[str, str], list[str]]]] = []
    for state, rows in answers.items():
        others = next((states for states, same in alike if same == rows), None)
        if others is None:
            alike.append(([state], rows))
        else:
            others.append(state)
    yield from _rows("state | event | next | effects", (
        (", ".join(states), ", ".join(events), following, effects or "-")
        for states, rows in alike for (following, effects), events in rows.items()))  # fmt: skip


def drawn(machine: Machine) -> list[str]:
    """Return the diagram of one end, and every state with every event."""
    return [*_diagram(machine), "", *_every_cell(machine)]


# -- JSON Schema -------------------------------------------------------------------------------------------


def _bounds(value: Json, is_text: bool) -> Json:
    names = {"min": "minLength", "max": "maxLength"} if is_text else {"min": "minimum", "max": "maximum"}
    names["pattern"] = "pattern"
    return {names[key]: value[key] for key in ("min", "max", "pattern") if key in value}


def _schema_of(field: Json, table: Json, each: Json) -> dict[str, Any]:
    types = {row["type"]: row for row in table["types"]}

    def plain(value: Json) -> dict[str, Any]:
        row = types.get(value["type"])
        kind = row["json"] if row is not None else value["type"]
        own = _bounds(value, is_text=kind == "string")
        if row is None or own:  # its own bounds may be wider than the type's
            return {"type": kind, **_bounds({**(row or {}), **value}, is_text=kind == "string")}
        return {"$ref": f"#/$defs/{row['type'].replace(' ', '_')}"}

    if "one_of" in field:
        schema: dict[str, Any] = {"type": "string", "enum": field["one_of"]}
    elif "array_of" in field:
        items = each[field["name"]] if field["array_of"] == "each" else None
        of = _object(items, table, {}) if items else plain(field["array_of"])
        schema = {"type": "array", "maxItems": field["max"], "items": of}
    elif (field["name"], field["type"]) == ("behaviour", "object"):
        schema = {"$ref": "#/$defs/behaviour"}
    else:
        schema = plain(field)
    return {"anyOf": [schema, {"type": "null"}]} if field.get("null") else schema


def _object(fields: list[Json], table: Json, each: Json) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field["name"]: _schema_of(field, table, each) for field in fields},
        "required": [field["name"] for field in fields if not field.get("optional")],
        "additionalProperties": False,
    }


def fields_of(versions: list[Json], v: int) -> list[Json]:
    """Return the fields of one version: those of every version up to it, as it changes them."""
    fields: dict[str, Json] = {}
    for version in versions:
        if version["v"] <= v:
            for field in (*version["fields"], *version.get("changed", ())):
                fields[field["name"]] = field
    return list(fields.values())


def schema(table: Json) -> dict[str, Any]:
    """Return the JSON Schema: every message by type and version, and the sealed grant."""
    types = {
        row["type"].replace(" ", "_"): {"type": row["json"], **_bounds(row, is_text=row["json"] == "string")}
        for row in table["types"]
    }
    bodies = {
        (kind, version["v"]): _object(fields_of(message["versions"], version["v"]), table, message.get("each", {}))
        for kind, message in table["messages"].items()
        for version in message["versions"]
    }
    head = _object([field for field in table["head"] if field["name"] != "body"], table, {})
    messages = {}
    for (kind, v), body in bodies.items():
        properties = {**head["properties"], "v": {"const": v}, "type": {"const": kind}, "body": body}
        messages[f"{kind}_{v}"] = {**head, "properties": properties, "required": [*head["required"], "body"]}
    grants = {
        f"grant_{version['v']}": _object(fields_of(table["grant"]["versions"], version["v"]), table, {})
        for version in table["grant"]["versions"]
    }
    pairs = {}
    for kind in ("PAIR1", "PAIR2"):
        named = [row | {"one_of": [kind]} if kind in row.get("one_of", ()) else row for row in table["pair1"]]
        fields = [row for row in named if kind == "PAIR2" or row["name"] != "pairing_id"]
        pairs[f"{kind}_fields"] = _object(fields, table, {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The plaintext of an envelope",
        "$comment": "Made from protocol.json. A schema sees no duplicate keys, no 7.0 for 7 and no lone surrogates.",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in messages],
        "$defs": {**types, "behaviour": _object(table["grant"]["behaviour"], table, {}), **messages, **grants, **pairs},
    }


# -- All of it ---------------------------------------------------------------------------------------------


def with_tables(page: str, table: Json) -> str:
    """Return a page with its tables made anew."""
    made = tables(table)
    return PLACE.sub(lambda found: "\n".join((found[1], *made[found[2]], "", found[3])), page)


def made(table: Json) -> dict[Path, str]:
    """Return every file that is made, with its text."""
    files = {
        HERE / f"{page}.md": with_tables((HERE / f"{page}.md").read_text(encoding="utf-8"), table) for page in PAGES
    }
    text = json.dumps(schema(table), indent=1, ensure_ascii=False)
    flat = re.sub(
        r"[{\[][^{}\[\]]*[}\]]", lambda found: re.sub(r"\s+", " ", found[0]), text
    )  # what nests nothing: one line
    return {**files, SCHEMA: flat + "\n"}


def main() -> int:
    """Write them."""
    for path, text in made(json.loads(TABLE.read_text(encoding="utf-8"))).items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
