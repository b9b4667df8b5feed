"""docs/api is what the models say, and every request of the collection works against a sandbox."""

from __future__ import annotations

import asyncio
import json
import random
import re
from itertools import product
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.api import make
from tests.api.collection import Runner, path_of
from token_relay.provider.native_auth import wire
from token_relay.sandbox.provider.memory.signing import SharedKeySigner
from token_relay.sandbox.provider.world.model import CLIENT_ID, DEFAULT_WORLD
from token_relay.sandbox.provider.world.rules import Urls
from token_relay.sandbox.server import SandboxServer

HINT = "docs/api is not what the models say: make openapi"
DOCUMENT: dict[str, Any] = make.openapi()


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
    used = {path_of(item) for _, items in make.folders() for item in items}
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
    async with server:
        for _ in range(2):
            assert await asyncio.to_thread(run_all, Runner(collection, server.base_url)) > 35


def run_all(runner: Runner) -> int:
    """Run every request; each answer must be one that the models have. Returns how many there were."""
    models = {endpoint.request.path: make.answer_of(endpoint) for endpoint in wire.ENDPOINTS}
    items = [item for folder in runner.collection["item"] for item in folder["item"]]
    for item in items:
        answer = runner.send(item)
        if path := path_of(item):
            model = models[path] if answer.status_code == 200 else wire.NativeRefusal
            model.model_validate(answer.json())
    return len(items)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", DOCUMENT["paths"])
async def test_a_body_that_is_too_long_is_told_so(path: str) -> None:
    assert DOCUMENT["paths"][path]["post"]["responses"]["413"]["content"]["application/json"]["schema"] == make.ref(
        make.TooLong
    )
    server = SandboxServer(DEFAULT_WORLD, "entra", rng=random.Random(7), signer=SharedKeySigner(b"s" * 32))
    async with server, ClientSession() as session:
        url = f"{server.base_url}/contoso.onmicrosoft.com{path}"
        for length, status in ((65_536, 400), (65_537, 413)):
            form = b"client_id=".ljust(length, b"x")
            async with session.post(url, data=form, headers={"Content-Type": make.FORM}) as answer:
                body = await answer.json()
                assert (answer.status, answer.content_type) == (status, "application/json"), body
    assert make.TooLong.model_validate(body, extra="forbid").detail == "the body is longer than 65536 bytes"


WORDS = ("mfa_required", "registration_required", "browser_required", "cp1", "MFA_required")


@pytest.mark.asyncio
@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("schema", ["Initiate", "ResetStart", "SignUpStart"])
async def test_the_document_and_the_sandbox_know_the_same_capabilities(schema: str, is_kept: bool) -> None:
    described = DOCUMENT["components"]["schemas"][schema]["properties"]["capabilities"]
    [path] = [endpoint.request.path for endpoint in wire.ENDPOINTS if endpoint.request.__name__ == schema]
    world = DEFAULT_WORLD.model_copy(update={"lenient": [] if is_kept else ["capabilities"]})
    server = SandboxServer(world, "entra", rng=random.Random(7), signer=SharedKeySigner(b"s" * 32))
    asked = [*WORDS, *map(" ".join, product(WORDS, WORDS))]
    async with server, ClientSession() as session:
        for number, words in enumerate(asked):
            form = {
                "client_id": CLIENT_ID,
                "username": f"{number}@contoso.example" if schema == "SignUpStart" else "reset@contoso.example",
                "challenge_type": wire.CHALLENGE_TYPES,
                "capabilities": words,
            }
            async with session.post(f"{server.base_url}/contoso.onmicrosoft.com{path}", data=form) as answer:
                body = await answer.json()
            is_described = re.search(described["pattern"], words) is not None
            assert answer.status == (200 if is_described or not is_kept else 400), (words, body)
            assert body.get("error_codes", [90100]) == [90100]
