"""docs/api is what the models say, and every request of the collection works against a sandbox."""

from __future__ import annotations

import json
import random
import re
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientSession

from tests.api import make
from token_relay.provider.native_auth import wire
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD
from token_relay.sandbox.provider.world.rules import Urls
from token_relay.sandbox.server import SandboxServer

HINT = "docs/api is not what the models say: make openapi"
DOCUMENT: dict[str, Any] = make.openapi()
STATUS = re.compile(r'pm\.test\("status \d+", \(\) => pm\.response\.to\.have\.status\((\d+)\)\);')
SAVE = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.json\(\)\.([\w.\[\]]+)\);')
FRESH = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.variables\.replaceIn\("([^"]+)"\)\);')
SAVE_TEXT = re.compile(r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.text\(\)\);')


@pytest.mark.parametrize("name", [make.OPENAPI, make.POSTMAN])
def test_the_files_are_what_the_models_say(name: str) -> None:
    assert (make.ROOT / "docs" / "api" / name).read_text(encoding="utf-8") == make.files()[name], HINT


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()), set())
    return set()


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    schemas = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) == schemas


def test_operations_have_names_of_their_own() -> None:
    names = [path["post"]["operationId"] for path in DOCUMENT["paths"].values()]
    assert len(set(names)) == len(names) == len(wire.ENDPOINTS)


def test_every_native_endpoint_of_the_sandbox_is_described_and_no_other() -> None:
    urls = Urls("entra", "http://127.0.0.1:8400", "contoso")
    paths = set(DOCUMENT["paths"])
    for path in paths:
        assert urls.endpoint(f"/contoso.onmicrosoft.com{path}"), path
    used = {item["request"]["url"]["raw"].partition("{{tenant}}")[2] for _, items in make.folders() for item in items}
    assert used - {""} == paths  # the collection makes every call at least once


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_a_form_has_no_null_and_says_what_is_required(path: str) -> None:
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"][make.FORM]["schema"]
    body = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert body["additionalProperties"] is False
    assert "client_id" in body["required"]
    assert '"null"' not in json.dumps(body)


@pytest.mark.asyncio
async def test_the_requests_of_the_collection_run_against_a_sandbox_and_run_again() -> None:
    collection = json.loads((make.ROOT / "docs" / "api" / make.POSTMAN).read_text(encoding="utf-8"))
    server = SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(7), signer=SharedKeySigner(b"s" * 32))
    async with server, ClientSession() as session:
        for _ in range(2):
            count = await run_collection(session, server.base_url, collection)
            assert count == sum(len(folder["item"]) for folder in collection["item"]) > 35


async def run_collection(session: ClientSession, base_url: str, collection: dict[str, Any]) -> int:
    """Do what Postman does with the collection; return how many requests were sent."""
    models = {endpoint.request.path: make.answer_of(endpoint) for endpoint in wire.ENDPOINTS}
    variables = {one["key"]: one["value"] for one in collection["variable"]} | {"base_url": base_url}

    def filled(text: str) -> str:
        known = {**variables, "$guid": str(uuid4())}
        return re.sub(r"\{\{([$\w]+)\}\}", lambda found: known[found[1]], text)

    count = 0
    for folder in collection["item"]:
        for item in folder["item"]:
            where = f"{folder['name']}: {item['name']}"
            request, scripts = item["request"], {one["listen"]: one["script"]["exec"] for one in item["event"]}
            for line in scripts.pop("prerequest", ()):
                found = FRESH.fullmatch(line)
                assert found, f"{where}: a script that nobody runs: {line}"
                variables[found[1]] = filled(found[2])
            body = request.get("body", {})
            form = {one["key"]: filled(one["value"]) for one in body.get("urlencoded", [])}
            assert all(form.values()), where  # nothing that an earlier answer should have brought is missing
            sent = {"json": json.loads(filled(body["raw"]))} if "raw" in body else {"data": form or None}
            async with session.request(request["method"], filled(request["url"]["raw"]), **sent) as answer:
                text = await answer.text()
            for line in scripts.pop("test"):
                if found := STATUS.fullmatch(line):
                    assert answer.status == int(found[1]), f"{where}: {text}"
                elif found := SAVE_TEXT.fullmatch(line):
                    variables[found[1]] = text
                elif found := SAVE.fullmatch(line):
                    variables[found[1]] = str(picked(json.loads(text), found[2]))
                else:
                    raise AssertionError(f"{where}: a script that nobody runs: {line}")
            assert not scripts, where
            if form:
                path = request["url"]["raw"].partition("{{tenant}}")[2]
                model = models[path] if answer.status == 200 else wire.NativeRefusal
                model.model_validate(json.loads(text))
            count += 1
    return count


def picked(value: Any, place: str) -> Any:
    """Return what a path such as ``methods[0].id`` means."""
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", place):
        value = value[name]
        if index:
            value = value[int(index)]
    return value
