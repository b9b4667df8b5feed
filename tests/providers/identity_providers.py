"""Identity providers that others wrote, each a process of its own: started, asked what it knows, told to revoke.

What is asked goes over the program's standard input, so a provider ends with the test run whatever happens to it, and
nothing but the provider's own pages and endpoints is served.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import select
import subprocess
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from tests import node_packages
from tests.watchdog import HANG_S

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-providers" / "bin" / "python"  # see requirements.txt
USERS = tuple(f"user{number}" for number in range(12))  # one for each story, so that no story meets another's grants
PASSWORD = "correct-horse-7-battery"
CLIENT_ID = "phone"
REDIRECT_PORT = 43985  # of the recipes, where a provider compares it


@dataclass(frozen=True, slots=True)
class Token:
    """A refresh token as its provider knows it; ``family`` is what ends together when one of it is used twice."""

    value: str
    family: str
    user: str
    live: bool


class Provider:
    """One provider; use it with ``with``. Every method blocks, for the moment that a local process needs."""

    program: ClassVar[str]
    rotates = True

    def __init__(self, name: str, *, access_token_s: int = 3600, **options: Any) -> None:
        self.name = name
        self._options = {"access_token_s": access_token_s, "users": USERS, "password": PASSWORD, **options}
        self._asking = threading.Lock()
        self.unused = iter(USERS)  # names of users whom no story has had yet

    def command(self) -> Sequence[str]:
        """Return how the program is started; its options go to standard input."""
        assert PYTHON.exists(), f"{PYTHON} is missing: `make test-world` makes it"
        return (str(PYTHON), str(HERE / self.program))

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="tr-provider-")
        self._errors = Path(self._directory.name) / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                self.command(),
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            self.issuer = str(self._tell({**self._options, "directory": self._directory.name})["issuer"])
            self._look()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._directory.cleanup()

    def _tell(self, told: object) -> Any:
        """Write a line to the program, and return what its next one says."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and the next lines tell how
            process.stdin.write(json.dumps(told).encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANG_S)
        line = process.stdout.readline() if ready else b""
        if not line:
            how = f"ended with {process.wait(HANG_S)}" if ready else f"says nothing for {HANG_S:g} s"
            raise AssertionError(f"{self.name} {how}:\n{self._errors.read_text(errors='replace')[-4000:]}")
        return json.loads(line)

    def _look(self) -> None:
        """Ask for the metadata. The program listens before it has said its issuer, so one request is enough."""
        status, self.metadata = self.request(f"{self.issuer}/.well-known/openid-configuration")
        assert (status, self.metadata["issuer"]) == (200, self.issuer), self.metadata

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urllib.parse.urlsplit(self.issuer)
        assert parts.hostname is not None and parts.port is not None
        return parts.hostname, parts.port

    # -- what the provider itself knows ----------------------------------------------------------------

    def ask(self, do: str, **order: Any) -> Any:
        """Give the program an order and return its answer."""
        with self._asking:
            return self._tell({"do": do, **order})

    def tokens(self, user: str = "") -> list[Token]:
        """Return every refresh token that it issued (to a user), the oldest first."""
        return [Token(**row) for row in self.ask("tokens") if user in ("", row["user"])]

    def live(self, user: str) -> list[Token]:
        """Return those that it would still take."""
        return [token for token in self.tokens(user) if token.live]

    def log(self) -> list[str]:
        """Return what it says of its token endpoint, one line for each request."""
        return list(self.ask("log"))

    def revoke(self, token: Token) -> None:
        """End what this token belongs to, as the provider's administrator does."""
        self.ask("revoke", value=token.value)

    # -- requests past the agents ----------------------------------------------------------------------

    @staticmethod
    def request(url: str, form: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Send one request and return the status and the JSON of the answer."""
        data = None if form is None else urllib.parse.urlencode(form).encode()
        try:
            with urllib.request.urlopen(url, data, timeout=HANG_S) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.loads(exc.read())

    def refresh(self, value: str) -> tuple[int, dict[str, Any]]:
        """Refresh with this value, past all agents: the proof of whether it lives. It spends a live one."""
        form = {"grant_type": "refresh_token", "refresh_token": value, "client_id": CLIENT_ID}
        return self.request(self.metadata["token_endpoint"], form)


class OidcProvider(Provider):
    """npm's oidc-provider; ``rotation`` is always, default (for public clients) or never."""

    program = "oidc_provider.mjs"

    def __init__(self, name: str, *, rotation: Literal["always", "default", "never"], **options: Any) -> None:
        super().__init__(name, rotation=rotation, **options)
        self.rotates = rotation != "never"

    def command(self) -> Sequence[str]:
        node_packages.installed(HERE, "the provider written in JavaScript was")
        return (node_packages.program(), str(HERE / self.program))


class OAuthToolkit(Provider):
    """django-oauth-toolkit, which rotates; ``grace_s`` is how long the value before stays good."""

    program = "oauth_toolkit.py"


class Canaille(Provider):
    """Canaille, which rotates, takes nothing along, and has a refresh token end when its access token does."""

    program = "canaille_server.py"

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, redirect_uris=[f"http://127.0.0.1:{REDIRECT_PORT}/callback"], **options)

    def __enter__(self) -> Self:
        self._port = (HERE / self.program).open()
        fcntl.flock(self._port, fcntl.LOCK_EX)  # one at a time: there is one port for the browsers to come back to
        return super().__enter__()

    def _end(self) -> None:
        super()._end()
        self._port.close()
