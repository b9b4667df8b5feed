"""Reads `docs/spec/protocol.json`, the one table of the protocol, and answers questions about it.

It knows no rule of the protocol by itself: states, rows, answers, conditions, times and limits are looked up. What it
does know is the form of the table: groups of states, conditions as alternatives of facts, and fields by their types.

Values may be *symbols*: strings that stand for a value that is made when a conversation is played (`$h1`, `#OFFER $h1`,
`=seq`, `*`). A symbol fits the types that its first characters stand for; see `SYMBOLS`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROTOCOL = Path(__file__).parents[2] / "docs" / "spec" / "protocol.json"

Json = dict[str, Any]
Value = str | int | bool | None
Facts = dict[str, Value]

# What a symbol may stand for. Ids are 16 bytes, keys and hashes 32; `$d` is either.
SYMBOLS: list[tuple[str, frozenset[str]]] = [
    (r"\$[hpc]\d+", frozenset({"hex16"})),
    (r"\$[kt]\d+|#.+|\$(phone|companion)_key", frozenset({"hex32"})),
    (r"\$d\d+", frozenset({"hex16", "hex32"})),
    (r"\$heard(\([^)]*\))?([+-]\d+)?|@.+|=seq|[+-]\d+", frozenset({"integer", "sequence"})),
]


@dataclass(frozen=True)
class Row:
    """One cell of a state table: the next state, and what is done."""

    next: str
    effects: list[str]


def _holds(condition: list[Any], facts: Facts) -> bool:
    name, op, wanted = condition
    if name not in facts:  # for example a time that no clock can tell
        return False
    have = facts[name]
    if op == "=":
        return bool(have == wanted)
    if op == "!=":
        return bool(have != wanted)
    if not isinstance(have, int) or not isinstance(wanted, int):
        return False
    return {"<": have < wanted, "<=": have <= wanted, ">=": have >= wanted, ">": have > wanted}[op]


class Table:
    """The table. A copy with one changed cell gives other expectations."""

    def __init__(self, content: Json | None = None) -> None:
        self.content: Json = json.loads(PROTOCOL.read_text("utf-8")) if content is None else content
        self.types: dict[str, Json] = {kind["type"]: kind for kind in self.content["types"]}
        self.messages: dict[str, Json] = self.content["messages"]
        self._rows: dict[tuple[str, str, str], Row] = {}
        for end in ("phone", "companion"):
            for row in self.content[end]["rows"]:
                for state in self.states_of(end, row["states"]):
                    for event in row["events"]:
                        key = (end, state, event)
                        if key in self._rows:
                            raise ValueError(f"two rows for {key}")
                        nxt = state if row["next"] == "same" else row["next"]
                        self._rows[key] = Row(nxt, row["effects"])

    @classmethod
    def read(cls) -> "Table":
        """The table of this checkout."""
        return cls()

    def end(self, name: str) -> Json:
        """The part of one end: states, groups, events, rows."""
        part: Json = self.content[name]
        return part

    # --- states ---------------------------------------------------------------------------------------------

    def states_of(self, end: str, names: list[str]) -> list[str]:
        """The states that these names stand for, groups resolved."""
        groups = self.content[end]["groups"]
        return [state for name in names for state in groups.get(name, [name])]

    def row(self, end: str, state: str, event: str) -> Row | None:
        """The cell, or None where the table has none: nothing happens, or the program made no sense."""
        return self._rows.get((end, state, event))

    def is_open(self, state: str) -> bool:
        """Whether a handoff in this state of the phone is an open one (law 7)."""
        return state in self.content["phone"]["open"]

    def answer(self, state: str) -> str:
        """The effect that stands for ANSWER_STATUS in this state of the companion."""
        for line in self.content["companion"]["answers"]:
            if state in self.states_of("companion", line["states"]):
                return str(line["effect"])
        raise ValueError(f"no answer in {state}")

    # --- conditions -----------------------------------------------------------------------------------------

    def holds(self, when: list[list[list[Any]]], facts: Facts) -> bool:
        """Alternatives, each of conditions that must all hold; none at all is always true."""
        return not when or any(all(_holds(c, facts) for c in alternative) for alternative in when)

    def offer_refusal(self, facts: Facts) -> str | None:
        """The first reason that fits a new OFFER."""
        for line in self.content["offer_refusals"]:
            if self.holds(line["when"], facts):
                return str(line["reason"])
        return None

    def renewal(self, facts: Facts) -> list[str]:
        """The answer to RENEW by the first rule that fits."""
        for rule in self.content["renewal"]["rules"]:
            if self.holds(rule["when"], facts):
                return list(rule["answer"])
        raise ValueError("no rule of RENEW fits")

    def lease(self, which: str, facts: Facts) -> bool:
        """Whether LEASE is `given` by a phone, or `taken` by a companion."""
        return self.holds(self.content["lease"][which]["when"], facts)

    # --- numbers --------------------------------------------------------------------------------------------

    def time(self, name: str) -> int:
        """A time in seconds."""
        return int(self.content["times"][name]["value"])

    def drawn(self, name: str) -> tuple[float, float]:
        """The factors between which a time is drawn."""
        low, high = self.content["times"][name].get("drawn") or (1.0, 1.0)
        return low, high

    def limit(self, name: str) -> int:
        """A limit."""
        value = self.content["limits"][name]
        return int(value["value"] if isinstance(value, dict) else value)

    def tacit_scope(self, profile: str) -> list[str]:
        """Words that the provider of a profile grants without saying so."""
        words: list[str] = self.content["grant"]["tacit_scope"].get(profile, [])
        return words

    @property
    def speaks(self) -> int:
        """The highest message version."""
        return int(self.content["speaks"])

    @property
    def grant_version(self) -> int:
        """The highest version of the sealed grant."""
        return int(self.content["grant_version"])

    # --- messages -------------------------------------------------------------------------------------------

    def is_request(self, kind: str) -> bool:
        """Whether it is repeated until it is answered."""
        return kind in self.messages and self.messages[kind]["kind"] == "request"

    def travels_from(self, kind: str, end: str) -> bool:
        """Whether this end may say it."""
        return self.messages[kind]["from"] in (end, "either")

    def highest(self, kind: str, speaks: int) -> int:
        """The highest version of this message for a peer that knows all versions up to `speaks`."""
        have = [version["v"] for version in self.messages[kind]["versions"]]
        return max(int(v) for v in have if v <= max(1, min(speaks, self.speaks)))

    def knows(self, kind: str, v: int) -> bool:
        """Whether a program of this table knows the type in this version."""
        return kind in self.messages and any(version["v"] == v for version in self.messages[kind]["versions"])

    def fields(self, of: Json, v: int) -> list[Json]:
        """The fields of a message or of the grant in version `v`."""
        fields: dict[str, Json] = {}
        for version in of["versions"]:
            if version["v"] <= v:
                fields |= {field["name"]: field for field in version["fields"]}
                fields |= {field["name"]: field for field in version.get("changed", [])}
        return list(fields.values())

    def wrong_head(self, head: Json) -> str | None:
        """The first field of the head (without `body`) that is not as the table says."""
        return self._wrong([f for f in self.content["head"] if f["name"] != "body"], head, {})

    def wrong_body(self, kind: str, v: int, body: Any) -> str | None:
        """The first field of this body that is not as the table says; `body` where it is no object."""
        if not isinstance(body, dict):
            return "body"
        message = self.messages[kind]
        return self._wrong(self.fields(message, v), body, message.get("each", {}))

    def wrong_grant(self, grant: Json) -> str | None:
        """The same of a sealed grant."""
        versions = [version["v"] for version in self.content["grant"]["versions"]]
        v = grant.get("v")
        if not isinstance(v, int) or isinstance(v, bool) or v not in versions:
            return "v"
        wrong = self._wrong(self.fields(self.content["grant"], v), grant, {})
        if wrong is None and v >= 2 and grant["behaviour"] != "*":
            return self._wrong(self.content["grant"]["behaviour"], grant["behaviour"], {})
        return wrong

    def _wrong(self, fields: list[Json], value: Json, each: Json) -> str | None:
        for field in fields:
            name = field["name"]
            if name not in value:
                if not field.get("optional"):
                    return str(name)
            elif not self._fits(field, value[name], each.get(name)):
                return str(name)
        known = {field["name"] for field in fields}
        return None if value.keys() <= known else "*"  # a name that the peer made up is not told

    def _fits(self, field: Json, value: Any, each: list[Json] | None) -> bool:
        if value is None:
            return bool(field.get("null"))
        if "one_of" in field:
            return value in field["one_of"]
        if "array_of" in field:
            if value == "*":
                return True
            if not isinstance(value, list) or not field.get("min", 0) <= len(value) <= field["max"]:
                return False
            if each is not None:
                return all(isinstance(item, dict) and self._wrong(each, item, {}) is None for item in value)
            return all(self._fits(field["array_of"], item, None) for item in value)
        if value == "*":
            return True
        if field["type"] == "object" or field.get("name") == "sealed":
            return isinstance(value, dict) or (field["type"] != "object" and self._is_text(field, value))
        if isinstance(value, str):
            for pattern, types in SYMBOLS:
                if re.fullmatch(pattern, value) and field["type"] in types:
                    return True
        kind = self.types.get(field["type"], {"json": "string"})
        if kind["json"] == "boolean":
            return isinstance(value, bool)
        if kind["json"] == "integer":
            low, high = int({**kind, **field}["min"]), int({**kind, **field}["max"])
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return self._is_text({**kind, **{k: v for k, v in field.items() if k != "type"}}, value)

    def _is_text(self, kind: Json, value: Any) -> bool:
        if not isinstance(value, str) or not kind.get("min", 0) <= len(value) <= kind.get("max", 16384):
            return False
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            return False
        return "pattern" not in kind or re.search(kind["pattern"].replace("$", r"\Z"), value) is not None
