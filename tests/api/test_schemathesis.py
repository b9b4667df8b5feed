"""schemathesis reads the shipped document and looks for an answer of the sandbox that does not stand there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.api import make
from tests.watchdog import HANG_S
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD, PolicyModel
from token_relay.sandbox.server import SandboxServer

DOCUMENT: dict[str, Any] = json.loads((make.ROOT / "docs" / "api" / make.OPENAPI).read_text(encoding="utf-8"))
PROGRAM = Path(sys.executable).with_name("schemathesis")
PATIENT = DEFAULT_WORLD.model_copy(update={"policy": PolicyModel(password_tries_max=1000)})  # wrong ones are tried
# What the service does with a field that is not its own is not said, nor can a document say which tokens are good.
UNSAID = "negative_data_rejection,positive_data_acceptance"
pytestmark = pytest.mark.asyncio


async def run(document: dict[str, Any], directory: Path, *words: str) -> dict[str, Any]:
    """Run it against a sandbox of its own; return its report."""
    (directory / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    async with SandboxServer(PATIENT, "entra", rng=Random(7)) as server:
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "run", "openapi.json", "--url", f"{server.base_url}/contoso.onmicrosoft.com", "--seed", "1"),
            *("--checks", "all", "--exclude-checks", UNSAID, "--no-shrink", "--no-color", "--continue-on-failure"),
            *("--report", "json", "--report-json-path", "report.json", *words),
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(make.ROOT),
                "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks",
                "SANDBOX_BASE_URL": server.base_url,
            },
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(HANG_S):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    report: dict[str, Any] = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    assert report["complete"] and not report["errors"], said.decode()
    assert (process.returncode == 0) == (not report["failures"]), said.decode()
    return {**report, "said": said.decode()}


async def test_no_answer_is_met_that_the_document_does_not_have(tmp_path: Path) -> None:
    report = await run(DOCUMENT, tmp_path, "--max-examples", "25")
    assert report["failures"] == [], report["said"]
    assert report["operations"]["tested"] == len(DOCUMENT["paths"])
    accepted = {
        operation: sum(phase["accepted"] for phase in phases.values())
        for operation, phases in report["valid_rates"].items()
    }
    assert min(accepted.values()) > 0, accepted  # both kinds of answer were looked at, at each endpoint


@pytest.mark.parametrize("lacking", ["status", "member"])
async def test_an_answer_that_the_document_lacks_is_found(tmp_path: Path, lacking: str) -> None:
    document, path = deepcopy(DOCUMENT), "/signup/v1.0/start"
    if lacking == "status":
        del document["paths"][path]["post"]["responses"]["400"]
    else:
        document["components"]["schemas"]["Continued"]["properties"]["continuation_token"] = {"type": "integer"}
    report = await run(document, tmp_path, "--max-examples", "5", "--include-path", path)
    wanted = {"status": "UndefinedStatusCode", "member": "JsonSchemaError"}[lacking]
    assert [one["type"] for one in report["failures"]] == [wanted]
