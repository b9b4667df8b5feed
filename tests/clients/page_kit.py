"""What docs/clients.md says, word for word: only ports are others, so that tests can run beside each other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import needs
from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SNIPPETS: dict[str, str] = dict(
    re.findall(r"^<!-- tested: ([\w-]+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
START = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]
PLAIN = re.findall(r"^`(token-relay sandbox --http-host localhost)`", PAGE, re.MULTILINE)[0]
REFUSALS = dict(re.findall(r"^\| (MSAL[^|]*) \| `([^`]+)` \|$", PAGE, re.MULTILINE))  # of plain HTTP
PORT, APP_PORT = "8400", "3000"  # of the page
CA_VARIABLES = ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that the page's own lines have started, and what it said."""

    directory: Path
    facts: Mapping[str, Any]

    @property
    def port(self) -> str:
        return str(self.facts["http"]).rpartition(":")[2]

    def snippet(self, name: str, *, app_port: int = 0) -> str:
        """Return the code of the page for this sandbox."""
        text = SNIPPETS[name].replace(PORT, self.port).replace(APP_PORT, str(app_port))
        return text if self.facts["trust"] else text.replace("https://", "http://")

    def command(self, trusting: str, words: Sequence[str]) -> list[str]:
        """Return how a terminal runs this after the line that the sandbox has printed for it."""
        return ["bash", "-c", f'{self.facts["trust"].get(trusting, "")}\nexec "$@"', "bash", *words]

    def run(
        self, trusting: str, words: Sequence[str], *, cwd: Path | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a client to its end."""
        return subprocess.run(
            self.command(trusting, words),
            cwd=cwd or self.directory,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )

    def write(self, name: str, text: str) -> Path:
        """Put a snippet into a file."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path


def environment(**more: str) -> dict[str, str]:
    """Return this machine's, without what may make it trust somebody already, and with our programs on the path."""
    found = needs.node()
    node = [str(Path(found[0]).parent)] if found else []
    path = os.pathsep.join([str(PROGRAMS), *node, os.environ.get("PATH", os.defpath)])
    return {**{name: value for name, value in os.environ.items() if name not in CA_VARIABLES}, "PATH": path, **more}


@contextmanager
def started(directory: Path, profile: str, *, is_plain: bool = False) -> Iterator[Sandbox]:
    """Do what the page says in an empty directory, until the sandbox has said where it is."""
    ours = f"token-relay sandbox --http-port 0 --mqtt-port 0 --json --profile {profile}"
    lines = (PLAIN if is_plain else START).replace("token-relay sandbox", ours)
    process = subprocess.Popen(
        ["bash", "-ec", lines],
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = next(line for line in process.stdout if line.startswith("{"))
        yield Sandbox(directory, json.loads(said))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=HANG_S)
