"""Writes the agents' log, and keeps secrets out of it.

Each event is one line on stderr: readable on a terminal, JSON otherwise. The guard is a list of *types*, not a search
for text that looks secret: text, numbers, booleans, moments and enums are rendered, everything else (bytes,
objects, containers) shows its type's name. A :class:`~token_relay.protocol.secret.Secret` is a bug of the caller: it
raises under test and shows ``<secret>`` in production, where a log line must not stop an agent.

An exception is rendered as its type and its places in the code, never with its text or its variables: both may
quote outside input. Only the project's own errors show their text. Records of other libraries arrive through
:mod:`logging` from ``WARNING`` up, with the message as it stands in their source, without its arguments.

Limit: a secret that code reveals and logs as plain text is a str like any other; reviewers and the leak search in
the tests look for that.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal, TextIO, cast

import structlog

from token_relay.agents.failures import where
from token_relay.protocol.errors import RelayError
from token_relay.protocol.secret import Secret

Style = Literal["auto", "console", "json"]
Value = str | int | float | bool | None

TEXT_CHARS_MAX = 512  # a longer text is cut, so that a log line stays readable

# sd-daemon(3): <N> at the start of a line is its priority.
_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_COLOURS = {"critical": "31;1", "error": "31", "warning": "33", "info": "32", "debug": "2"}
_CUT = "…"


def configure(
    stream: TextIO,
    *,
    environment: Mapping[str, str],
    style: Style = "auto",
    level: Literal["debug", "info", "warning", "error"] = "info",
    journal_prefix: bool = False,
    strict: bool = False,
) -> None:
    """Send all log events of this process to ``stream``.

    ``auto`` is plain text on a terminal and JSON lines otherwise; colours only on a terminal and without
    ``NO_COLOR`` (no-color.org). ``journal_prefix`` puts journald's priority first. ``strict`` makes a logged
    secret raise.
    """
    is_terminal = stream.isatty()
    threshold = logging.getLevelNamesMapping()[level.upper()]
    render: structlog.types.Processor
    if style == "console" or (style == "auto" and is_terminal):
        render = _Console(is_coloured=is_terminal and not environment.get("NO_COLOR"))
    else:
        render = _render_json
    processors: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_time,
        places,
        TypeAllowList(strict=strict),
        render,
    ]
    if journal_prefix:
        processors[-1] = _JournalPrefix(render)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [_LibraryRecords(level=logging.WARNING)]
    root.setLevel(logging.WARNING)


class TypeAllowList:
    """The processor that lets only harmless types through; see the module's docstring."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Render every value of the event.

        Raises:
            TypeError: ``strict``, and a value is a secret.
        """
        return {_text(str(key)): self.render(key, value) for key, value in event.items()}

    def render(self, key: str, value: object) -> Value:
        """Return what may be written for ``value``."""
        if isinstance(value, Secret):
            if self._strict:
                raise TypeError(f"a secret was logged under {key!r}")
            return "<secret>"
        if isinstance(value, Enum):  # before str and int: an enum may be both
            value = value.value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, int | float):
            # A huge integer has as many digits as a document; NaN and infinity are not JSON.
            return value if -1e18 < value < 1e18 else f"<{type(value).__name__}>"
        if isinstance(value, str):
            return _text(value)
        return f"<{type(value).__name__}>"


def places(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace ``exc_info`` by ``error_type``, ``where`` and, for our own errors, ``error``."""
    info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error_type"] = type(error).__name__
        event["where"] = where(error.__traceback__)
        if isinstance(error, RelayError):
            event["error"] = str(error)
    return event


class _Lines:
    """The last step: each line is one write. A log that can no longer be written does not stop an agent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(line + "\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


class _LibraryRecords(logging.Handler):
    """Passes other libraries' warnings on: the text in their source, without its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        # Only the first line of the template: asyncio adds the repr of a task and its exception to the rest.
        template = str(record.msg).split("\n", 1)[0]
        level = record.levelno if record.levelno in (logging.WARNING, logging.ERROR) else logging.ERROR
        structlog.get_logger().log(
            level, "library_warned", library=record.name, message=template, exc_info=record.exc_info
        )


class _Console:
    def __init__(self, *, is_coloured: bool) -> None:
        self._is_coloured = is_coloured

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        # In UTC, like the JSON: two logs side by side must not differ by a time zone.
        time = str(event.pop("timestamp", ""))[11:19]
        level = str(event.pop("level", ""))
        name = str(event.pop("event", ""))
        shown = f"\x1b[{_COLOURS.get(level, '0')}m{level:<8}\x1b[0m" if self._is_coloured else f"{level:<8}"
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in event.items())
        return f"{time}Z {shown}{name}{pairs}"


class _JournalPrefix:
    def __init__(self, render: structlog.types.Processor) -> None:
        self._render = render

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        priority = _PRIORITIES.get(str(event.get("level")), 6)
        return f"<{priority}>{cast(str, self._render(logger, method, event))}"


def _render_json(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps(dict(event), ensure_ascii=False, allow_nan=False)


def _add_time(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _text(text: str) -> str:
    """Cut the text to the limit, and escape characters that could move a cursor or fake a second line."""
    cut = str.__str__(text)[:TEXT_CHARS_MAX]
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut)
    return shown + _CUT if len(text) > TEXT_CHARS_MAX else shown


def _quoted(value: Value) -> str:
    if isinstance(value, str):
        return value if value and not set(value) & set(' "=') else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
