"""What every page of the lab may use: the provider, the calls to it, and what this run of the lab remembers.

The lab has one person, who started it, so there is one memory. Tokens are kept as Secret values and the newest few
only; nothing here is written anywhere, and all of it ends with the lab.
"""

from __future__ import annotations

import secrets
import tomllib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from token_relay.pages.conversation import Talks
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import SECRET_CHARS_MAX, AccessToken, Code, IdToken, RefreshToken
from token_relay.sandbox.lab.ends import Ends
from token_relay.sandbox.lab.live import LiveClient
from token_relay.sandbox.provider.memory.state import State
from token_relay.sandbox.server import SandboxServer

TOKENS_MAX = 20
CONTENT = Path(__file__).with_name("content")
Mode = Literal["developer", "person"]
MODES: tuple[Mode, ...] = ("developer", "person")
Content = Mapping[str, Any]  # of a TOML file of ours


@cache
def content(name: str) -> Content:
    """Return one of the files of texts."""
    return tomllib.loads((CONTENT / f"{name}.toml").read_text(encoding="utf-8"))


def secret_in(body: Mapping[str, object], name: str) -> str:
    """Return a secret of an answer; empty when there is none, or what stands there is none."""
    found = body.get(name)
    return found if isinstance(found, str) and len(found) <= SECRET_CHARS_MAX else ""


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """What one answer of the token endpoint gave; ``how`` says by which way, ``client_id`` for whom."""

    number: int
    at: float
    how: str
    username: str
    client_id: str
    scope: str
    trace_id: str
    access_token: AccessToken | None
    id_token: IdToken | None
    refresh_token: RefreshToken | None


@dataclass(slots=True)
class Chain:
    """Calls that belong together: the latest continuation token, and who and where they are about."""

    username: str = ""
    target: str = ""
    continuation_token: Code | None = None


@dataclass(slots=True)
class LabMemory:
    """What this run of the lab remembers."""

    mode: Mode = "developer"
    is_chosen: bool = False  # the mode was chosen in this run, and not only found in the browser
    done: set[str] = field(default_factory=set)  # steps of the journey
    skipped: set[str] = field(default_factory=set)
    chain: Chain = field(default_factory=Chain)  # of single calls
    tokens: deque[KeptTokens] = field(default_factory=lambda: deque(maxlen=TOKENS_MAX))  # the newest first
    issued: int = 0

    def is_person(self) -> bool:
        """Whether the pages are in the words of a person who signs in."""
        return self.mode == "person"

    def keep(
        self, body: Mapping[str, object], *, how: str, username: str, client_id: str, at: float, trace_id: str
    ) -> KeptTokens:
        """Keep the tokens of an answer; a refresh that gives no refresh token leaves the one before in use."""
        self.issued += 1
        found = {name: secret_in(body, name) for name in ("access_token", "id_token", "refresh_token")}
        kept = KeptTokens(
            number=self.issued,
            at=at,
            how=how,
            username=username,
            client_id=client_id,
            scope=str(body.get("scope") or ""),
            trace_id=trace_id,
            access_token=AccessToken(found["access_token"]) if found["access_token"] else None,
            id_token=IdToken(found["id_token"]) if found["id_token"] else None,
            refresh_token=RefreshToken(found["refresh_token"]) if found["refresh_token"] else None,
        )
        self.tokens.appendleft(kept)
        return kept

    def tokens_of(self, number: str) -> KeptTokens:
        """Return the tokens of this number. Raises LocalError: they are gone."""
        found = next((one for one in self.tokens if str(one.number) == number), None)
        if found is None:
            raise LocalError(f"the lab keeps the newest {TOKENS_MAX} token answers, and not this one")
        return found


class LabRoom:
    """The lab as its pages see it. ``client_id`` is the lab's own public client, for sign-in by browser."""

    def __init__(self, sandbox: SandboxServer, ends: Ends | None) -> None:
        self.sandbox, self.ends, self.talks = sandbox, ends, Talks()
        self.live = LiveClient(sandbox.base_url, sandbox.provider.state)
        self.memory = LabMemory()
        self.client_id = f"lab-{secrets.token_hex(4)}"

    @property
    def state(self) -> State:
        """Return the provider's memory."""
        return self.sandbox.provider.state

    @property
    def is_native(self) -> bool:
        """Whether this provider has native authentication."""
        return self.state.rules.is_native

    @property
    def authority(self) -> str:
        """Return the path of the authority, empty for providers that have none."""
        return self.state.urls.authority.removeprefix(self.sandbox.base_url)
