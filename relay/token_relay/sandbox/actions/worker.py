"""The process in which a user's Actions run: one JSON line in, one JSON line out. Standard library only.

It is started by its path, in isolated mode, with an empty environment, and ended from outside when it takes too long.
What an Action prints goes to standard error. This contains mistakes, not malice: the process has the rights of the
sandbox's user, and a file given with ``--actions`` is a program that this user chose to run.

An Action is a plain function ``on_execute_post_login(event, api)``, or each function of a list ``POST_LOGIN``; the
first that denies is the last that runs. ``event`` takes attributes and keys alike and gives None for what is missing;
methods of ``api`` have the documented names (``api.session.setExpiresAt``) and Python's (``set_expires_at``).
"""

from __future__ import annotations

import json
import os
import re
import resource
import runpy
import sys
from collections.abc import Callable
from typing import Any

MEMORY_BYTES_MAX = 1 << 30
FAILURE_CHARS_MAX = 300
ENTRY, ENTRIES = "on_execute_post_login", "POST_LOGIN"


class View(dict[str, Any]):
    """An object of the event."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)


class Speaks:
    """A part of ``api``: turns a documented name into the method with Python's spelling."""

    def __init__(self, commands: list[dict[str, Any]], of: str = "") -> None:
        self._commands, self._of = commands, of

    def __getattr__(self, name: str) -> Any:
        plain = re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", name)
        if plain == name or name.startswith("_"):
            raise AttributeError(f"api has no {name}")
        return getattr(self, plain)

    def _say(self, do: str, **more: Any) -> None:
        self._commands.append({"do": do, **more})


class Access(Speaks):
    """``api.access``."""

    def deny(self, reason: str) -> None:
        """Refuse the login."""
        self._say("deny", reason=str(reason)[:1000])


class Lives(Speaks):
    """``api.session`` and ``api.refreshToken``."""

    def set_expires_at(self, at_ms: float) -> None:
        """Shorten the lifetime; milliseconds since 1970."""
        self._say("set_expires_at", of=self._of, at_ms=float(at_ms))

    def set_idle_expires_at(self, at_ms: float) -> None:
        """Shorten the idle lifetime; milliseconds since 1970."""
        self._say("set_idle_expires_at", of=self._of, at_ms=float(at_ms))

    def revoke(self, reason: str = "") -> None:
        """Revoke the session or the refresh token."""
        self._say("revoke", of=self._of, reason=str(reason)[:1000])

    def set_metadata(self, key: str, value: str | None) -> None:
        """Set a refresh token's metadata entry; None removes it."""
        self._say("set_metadata", key=key, value=value)

    def evict_metadata(self, key: str) -> None:
        """Remove a metadata entry."""
        self._say("set_metadata", key=key, value=None)


class TokenClaims(Speaks):
    """``api.idToken`` and ``api.accessToken``."""

    def set_custom_claim(self, name: str, value: Any) -> None:
        """Add a claim that the provider does not set itself."""
        self._say("set_claim", of=self._of, name=name, value=value)


class Authentication(Speaks):
    """``api.authentication``."""

    def set_actor(self, actor: Any) -> None:
        """Say who acts in the person's name: a subject, or an object with ``sub``."""
        self._say("set_actor", sub=actor["sub"] if isinstance(actor, dict) else str(actor))


class Api(Speaks):
    """What an Action may do."""

    def __init__(self, commands: list[dict[str, Any]]) -> None:
        super().__init__(commands)
        self.access = Access(commands)
        self.session = Lives(commands, "session")
        self.refresh_token = Lives(commands, "refresh_token")
        self.id_token = TokenClaims(commands, "id_token")
        self.access_token = TokenClaims(commands, "access_token")
        self.authentication = Authentication(commands)


def view(value: Any) -> Any:
    """Return JSON as an Action sees it."""
    if isinstance(value, dict):
        return View({name: view(one) for name, one in value.items()})
    return [view(one) for one in value] if isinstance(value, list) else value


def load(path: str) -> list[Callable[[Any, Any], object]]:
    """Return the Actions of a file, in order. Raises whatever the file raises, and TypeError when it has none."""
    found = runpy.run_path(path)
    actions = found.get(ENTRIES) or ([found[ENTRY]] if ENTRY in found else [])
    if not actions or not all(callable(one) for one in actions):
        raise TypeError(f"the file defines neither {ENTRY}(event, api) nor a list {ENTRIES}")
    return list(actions)


def run(actions: list[Callable[[Any, Any], object]], event: Any) -> dict[str, Any]:
    """Return the commands of the Actions for an event."""
    commands: list[dict[str, Any]] = []
    api = Api(commands)
    for action in actions:
        if hasattr(action(view(event), api), "__await__"):
            raise TypeError("an Action must be a plain function, not a coroutine")
        if any(one["do"] == "deny" for one in commands):
            break
    return {"commands": commands}


def main() -> None:
    """Answer events until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # an Action's print() must not look like an answer
    questions = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        actions = load(sys.argv[1])
    except BaseException as exc:  # SystemExit too: the file may do anything
        say({"failure": failure_of(exc)})
        return
    say({})
    for line in questions:
        try:
            say(run(actions, json.loads(line)))
        except BaseException as exc:
            say({"failure": failure_of(exc)})
            if not isinstance(exc, Exception):
                return


def failure_of(exc: BaseException) -> str:
    """Name what was raised, and where; the message may be anything, so it is cut."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in line {trace.tb_lineno}" if trace is not None else ""
    return f"{type(exc).__name__}{where}: {exc}"[:FAILURE_CHARS_MAX]


if __name__ == "__main__":
    main()
