"""The shipped collection in newman, Postman's own runner: again and again in one sandbox."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random

import pytest

from tests import node_packages
from tests.api import make
from tests.watchdog import HANG_S
from token_relay.sandbox.provider.world.model import DEFAULT_WORLD
from token_relay.sandbox.server import SandboxServer

HERE = Path(__file__).parent
COLLECTION = make.ROOT / "docs" / "api" / make.POSTMAN


@pytest.fixture(scope="session")
def newman() -> Path:
    """Return the program."""
    return node_packages.installed(HERE, "newman was") / "node_modules/newman/bin/newman.js"


@pytest.mark.asyncio
async def test_the_collection_can_be_run_again_in_the_same_sandbox(newman: Path, tmp_path: Path) -> None:
    requests = sum(len(folder["item"]) for folder in json.loads(COLLECTION.read_text(encoding="utf-8"))["item"])
    async with SandboxServer(DEFAULT_WORLD, "entra", rng=Random(7)) as server:
        for iterations in (1, 2):  # a second run starts from the file, a second round from the first one's variables
            report = tmp_path / f"{iterations}.json"
            words: list[str | Path] = [
                "run",
                COLLECTION,
                "--env-var",
                f"base_url={server.base_url}",
                "-n",
                str(iterations),
            ]
            words += ["--reporters", "json", "--reporter-json-export", report]
            process = await asyncio.create_subprocess_exec(node_packages.program(), newman, *words)
            try:
                async with asyncio.timeout(HANG_S):
                    await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            run = json.loads(report.read_text(encoding="utf-8"))["run"]
            assert [one["error"]["message"] for one in run["failures"]] == []
            assert run["stats"]["requests"] == {"total": iterations * requests, "pending": 0, "failed": 0}
            assert run["stats"]["assertions"]["total"] == iterations * requests
            assert process.returncode == 0
