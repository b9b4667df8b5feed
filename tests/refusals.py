"""Every refusal in the source, and which of them a run has met.

A refusal is a call that makes an error of :mod:`token_relay.protocol.errors`, a ``TokenRefused`` or argparse's
``ArgumentTypeError``, read from the source of what people run; simulation and the inside of the sandbox are left out.
It is met when that call was evaluated in any process of the run. :func:`record` notes it by wrapping ``__init__`` of
the three roots, and writes the place to a file of its own process at once, since tests kill processes. The directory
of these files goes from process to process in the environment variable :data:`VARIABLE`; a process that does not call
:func:`record` notes nothing.

``-p tests.suite`` holds a whole run to it; what no test can meet stands in ``refusals.toml``, each with its reason.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
HALVES = ("device", "relay")
EXEMPT = Path(__file__).with_name("refusals.toml")
VARIABLE = "TOKEN_RELAY_TESTS_REFUSALS"
ROOTS = ("RelayError", "TokenRefused", "ArgumentTypeError")
LEFT_OUT = ("device/token_relay/simulation/", "relay/token_relay/sandbox/")
# Of the sandbox: what it says to whoever starts it.
KEPT = (
    "relay/token_relay/sandbox/main.py",
    "relay/token_relay/sandbox/server.py",
    "relay/token_relay/sandbox/provider/world/",
)


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """One call in the source. ``text`` is its first argument that is a text, as it is written there."""

    file: str
    line: int
    function: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}: {self.text}"


# -- The list ----------------------------------------------------------------------------------------------


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the product by its path from the root."""
    for half in HALVES:
        for path in sorted((ROOT / half).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def families(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of the roots and of every class below them. A class name stands once in the product."""
    bases: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {_name(base) for base in node.bases}
    found = set(ROOTS)
    while more := {name for name, below in bases.items() if below & found} - found:
        found |= more
    return found


@functools.cache
def refusals() -> tuple[Refusal, ...]:
    """Return every refusal, in the order of the source."""
    all_modules = dict(modules())
    names = families(all_modules.values())
    found: list[Refusal] = []
    for file, tree in all_modules.items():
        if not file.startswith(LEFT_OUT) or file.startswith(KEPT):
            found += _in(tree, file, names)
    return tuple(sorted(found))


def _in(tree: ast.AST, file: str, names: set[str], function: str = "<module>") -> Iterator[Refusal]:
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Call) and _name(node.func) in names:
            yield Refusal(file, node.lineno, inside, _text(node))
        yield from _in(node, file, names, inside)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _text(call: ast.Call) -> str:
    """Return the message: the longest of the arguments that are texts, since a slug may stand before it."""
    texts = [ast.unparse(argument) for argument in call.args]
    return max(texts, key=len, default=ast.unparse(call))


# -- What was met ------------------------------------------------------------------------------------------


def record() -> None:
    """Note from now on what this process refuses, if the environment names a directory; so do its forks."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return
    from argparse import ArgumentTypeError

    from token_relay.agents.token_source import TokenRefused
    from token_relay.protocol.errors import RelayError

    noted: set[tuple[str, int]] = set()
    for root in (RelayError, TokenRefused, ArgumentTypeError):
        wrapped = root.__init__
        if not hasattr(wrapped, "__wrapped__"):
            root.__init__ = _noting(wrapped, noted, directory)  # type: ignore[method-assign]  # until its end


def _noting(wrapped: Callable[..., None], noted: set[tuple[str, int]], directory: str) -> Callable[..., None]:
    @functools.wraps(wrapped)
    def noting(self: object, *args: Any, **options: Any) -> None:
        frame = _outside(sys._getframe(1), self)
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in noted:
            noted.add(place)
            with contextlib.suppress(OSError), Path(directory, str(os.getpid())).open("a", encoding="utf-8") as file:
                file.write(f"{place[0]}:{place[1]}\n")
        wrapped(self, *args, **options)

    return noting


def _outside(frame: FrameType, error: object) -> FrameType:
    """Return the frame that made the error: the first outside the constructors of its classes."""
    while frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is error and frame.f_back is not None:
        frame = frame.f_back
    return frame


def begin() -> Path:
    """Choose a directory for this run, unless a process above us has; it is named in the environment from now on."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="token-relay-refusals-")
        Path(os.environ[VARIABLE]).chmod(0o1777)  # some programs of tests are another user's
    return Path(os.environ[VARIABLE])


def inherited() -> dict[str, str]:
    """Return what a program is told whose environment is otherwise not ours."""
    return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}


def unmet(directory: Path) -> list[Refusal]:
    """Return what no process of the run has met, exemptions included."""
    places = {line for path in directory.iterdir() for line in path.read_text(encoding="utf-8").splitlines()}
    return [one for one in refusals() if f"{ROOT / one.file}:{one.line}" not in places]


# -- Exemptions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exemption:
    """Refusals that no test meets: by the beginning of their path and, where given, a part of their text; no line."""

    file: str
    why: str
    text: str = ""

    def means(self, refusal: Refusal) -> bool:
        """Whether it is this one."""
        return refusal.file.startswith(self.file) and self.text in refusal.text


def exemptions() -> list[Exemption]:
    """Return the exemptions of today."""
    return [Exemption(**entry) for entry in tomllib.loads(EXEMPT.read_text()).get("exempt", [])]


def missing(directory: Path) -> list[Refusal]:
    """Return what no test has met and no exemption names."""
    named = exemptions()
    return [one for one in unmet(directory) if not any(entry.means(one) for entry in named)]
