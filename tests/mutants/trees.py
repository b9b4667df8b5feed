"""Copies of the tree in which mutants live, one per worker; the checkout itself is never touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import ROOT, Edit, apply
from tests.watchdog import HANG_S

TIMEOUT_S = 1.5 * HANG_S  # a killer that waits for what never comes has a verdict by then; a mutant that loops has none


@dataclass(frozen=True, slots=True)
class Run:
    """What the tests made of one state of the source. ``problem`` is set when they came to no verdict."""

    seconds: float
    failed: str = ""
    passed: int = 0
    problem: str = ""

    @property
    def is_red(self) -> bool:
        """Whether a test failed, and not merely broke."""
        return bool(self.failed) and not self.problem

    @property
    def is_green(self) -> bool:
        """Whether tests ran and none failed."""
        return not self.failed and not self.problem and self.passed > 0


class Tree:
    """One worker's copy, and the process that runs tests in it. Close it."""

    def __init__(self, place: Path) -> None:
        self._root = place / "tree"
        self._result = place / "result.json"
        self._written_at = int(time.time())
        for name in _files():
            target = self._root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(self._root / part) for part in (".", "relay", "device")),
            "PYTHONPYCACHEPREFIX": str(place / "pycache"),
            "PYTHONHASHSEED": "0",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis"),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.child"],
            cwd=self._root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process; the directory is the caller's."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def run(self, edits: Iterable[Edit], tests: Iterable[str]) -> Run:
        """Apply the edits, run the tests until one fails, undo the edits."""
        changed = apply(edits, lambda file: (self._root / file).read_text())
        before = {file: (self._root / file).read_text() for file in changed}
        self._write(changed)
        try:
            return self._run(list(tests))
        finally:
            self._write(before)

    def _write(self, files: dict[str, str]) -> None:
        # Python knows a compiled file by its source's size and second: give each version a second of its own.
        for file, text in files.items():
            path = self._root / file
            path.write_text(text)
            self._written_at += 1
            os.utime(path, (self._written_at, self._written_at))

    def _run(self, tests: list[str]) -> Run:
        self._result.unlink(missing_ok=True)
        job = {"result": str(self._result), "tests": tests, "timeout_s": TIMEOUT_S}
        begun = time.monotonic()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        seconds = time.monotonic() - begun
        if answer != "ended":
            return Run(seconds, problem=answer or "the worker has ended")
        try:
            found = json.loads(self._result.read_text())
        except (OSError, ValueError):
            output = self._result.with_suffix(".out").read_text(errors="replace")
            return Run(seconds, problem=f"no verdict: {output[-500:]}")
        problem = found["problem"] or (f"error in {found['errors'][0]}" if found["errors"] else "")
        failed = found["failed"][0] if found["failed"] else ""
        return Run(seconds, failed, len(found["passed"]), problem)


def _files() -> list[str]:
    """Return what belongs to the tree: tracked, and new but not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked archive
        tops = ("relay", "device", "tests", "docs", "benchmarks", "certs")
        names = [
            str(p.relative_to(ROOT)) for top in tops for p in (ROOT / top).rglob("*") if "__pycache__" not in p.parts
        ]
        names += ["pyproject.toml", "Makefile", "README.md"]
    return sorted(name for name in names if (ROOT / name).is_file())
