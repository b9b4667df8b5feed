"""Does what Postman does with the shipped collection, and knows every line of script that stands in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import requests

from tests.watchdog import HANG_S

Json = dict[str, Any]
FRESH = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.variables\.replaceIn\("([^"]+)"\)\);')
STATUS = re.compile(r'pm\.test\("status \d+", \(\) => pm\.response\.to\.have\.status\((\d+)\)\);')
SAVE = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.json\(\)\.([\w.\[\]]+)\);')
SAVE_TEXT = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.text\(\)\);')


@dataclass
class Runner:
    """One person at Postman; ``variables`` is what the collection remembers."""

    collection: Json
    base_url: str
    variables: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        known = {one["key"]: one["value"] for one in self.collection["variable"]}
        self.variables = known | {"base_url": self.base_url}

    def filled(self, text: str) -> str:
        """Put the variables in."""
        known = {**self.variables, "$guid": str(uuid4())}
        return re.sub(r"\{\{([$\w]+)\}\}", lambda found: known[found[1]], text)

    def prepared(self, item: Json) -> dict[str, str]:
        """Run what comes before the request, and return the form that it sends."""
        for line in lines(item, "prerequest"):
            found = FRESH.fullmatch(line)
            assert found, f"a script that nobody runs: {line}"
            self.variables[found[1]] = self.filled(found[2])
        form = {one["key"]: self.filled(one["value"]) for one in item["request"].get("body", {}).get("urlencoded", [])}
        assert all(form.values()), item["name"]  # nothing that an earlier answer should have brought is missing
        return form

    def send(self, item: Json) -> requests.Response:
        """Send one request, and do with its answer what the item says."""
        form, request = self.prepared(item), item["request"]
        raw = request.get("body", {}).get("raw")
        answer = requests.request(
            request["method"],
            self.filled(request["url"]["raw"]),
            data=form or None,
            json=None if raw is None else json.loads(self.filled(raw)),
            timeout=HANG_S,
        )
        for line in lines(item, "test"):
            if found := STATUS.fullmatch(line):
                assert answer.status_code == int(found[1]), f"{item['name']}: {answer.text}"
            elif found := SAVE_TEXT.fullmatch(line):
                self.variables[found[1]] = answer.text
            elif found := SAVE.fullmatch(line):
                self.variables[found[1]] = str(picked(answer.json(), found[2]))
            else:
                raise AssertionError(f"{item['name']}: a script that nobody runs: {line}")
        return answer


def path_of(item: Json) -> str:
    """Return the path below the tenant; empty for what is the sandbox's alone."""
    return str(item["request"]["url"]["raw"]).partition("{{tenant}}")[2]


def lines(item: Json, when: str) -> Iterator[str]:
    """Yield the lines of one script of an item."""
    for event in item["event"]:
        assert event["listen"] in ("prerequest", "test"), item["name"]
        if event["listen"] == when:
            yield from event["script"]["exec"]


def picked(value: Any, place: str) -> Any:
    """Return what a path such as ``methods[0].id`` means."""
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", place):
        value = value[name]
        if index:
            value = value[int(index)]
    return value
