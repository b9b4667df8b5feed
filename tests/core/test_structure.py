"""The rooms keep their walls: the folder that a file lies in says whom it may import and what it may touch.

Nothing is imported here; the sources are read as syntax trees, imports inside functions and those for type checkers
included. No list names a module: a new file is under the rules of its folder from its first line. A violation prints
``file:line`` and the rule. Each rule is tried on a planted violation too, for a rule that finds nothing might look at
nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HALVES = ("relay/token_relay", "device/token_relay")
MODULE_LINES_MAX = 500

# The rooms in the order of their imports: each may import what stands in a line above it, never its neighbour.
LAYERS = (
    ("protocol",),
    ("provider", "pki", "mqtt"),
    ("agents",),
    ("vault",),
    ("host",),
    ("apps",),
    ("service", "ca"),
    ("console",),
    ("cli",),
    ("simulation",),
)
RELAY = frozenset(
    {"protocol", "provider", "mqtt", "pki", "sandbox", "pages"}
)  # the half that knows nothing of the other
PURE = ("protocol", "pki", "sandbox/provider")  # no socket, file, clock, randomness, logger, async
# ... and so is a module elsewhere that says so of itself in its docstring; a package says it for all in it.
SAYS_PURE = re.compile(r"\bPure\b|(;|module is) pure\b")
PORTS = ("provider", "agents")  # may await, and reaches the world through the ports given to it
# Who may look into a room that stands beside the order.
LENT = {
    "sandbox": ("sandbox", "simulation", "cli/demo", "cli/commands/sandbox"),
    "simulation": ("simulation",),
    "cli/demo": ("cli/demo", "cli/commands/sandbox", "simulation/testkit"),
    "sandbox/lab": ("sandbox/lab", "cli/commands/sandbox"),
    "pages": ("pages", "sandbox/lab", "console", "cli/commands", "cli/demo"),
}
SANDBOX_IMPORTS = ("sandbox", "protocol", "provider")
APART = (("agents/phone", "agents/companion"),)  # the two ends meet on the wire only

# All that pure code may know of the world. A list of what is forbidden would forget something.
PURE_IMPORTS = (
    "__future__",
    "base64",
    "binascii",
    "collections",
    "cryptography",  # arithmetic only; where it draws random numbers itself, pki says so
    "dataclasses",
    "datetime",  # values; asking it for the present is caught below
    "enum",
    "difflib",
    "functools",
    "hashlib",
    "hmac",
    "html",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "nacl.bindings",  # the plain functions: nacl.public and nacl.secret draw nonces by themselves
    "nacl.exceptions",
    "pydantic",
    "pydantic_core",
    "re",
    "shlex",
    "tomllib",
    "types",
    "typing",
    "unicodedata",
    "urllib.parse",
    "warnings",
)
PORTS_IMPORTS = (*PURE_IMPORTS, "asyncio", "email.utils", "joserfc", "structlog", "traceback")
SAID_IMPORTS = (*PURE_IMPORTS, "http.HTTPStatus", "pathlib.Path", "random.Random", "struct", "textwrap")
CORE_IMPORTS = (*PURE_IMPORTS, "joserfc", "random", "xml.sax.saxutils")  # random.Random(seed) alone
# asyncio without its sockets, processes, threads and clock.
ASYNCIO = frozenset(
    {"CancelledError", "Event", "Future", "Lock", "Queue", "Task", "TaskGroup", "shield", "timeout", "wait"}
)

# Reading a clock, the environment, a file or a source of randomness by a name that the allowed imports offer.
IMPURE_CALLS = frozenset(
    {
        "__import__",
        "breakpoint",
        "date.today",
        "datetime.now",
        "datetime.today",
        "datetime.utcnow",
        "ec.generate_private_key",
        "eval",
        "exec",
        "input",
        "open",
        "print",
        "random.random",
        "random.randbytes",
        "randombytes",
        "rsa.generate_private_key",
        "tomllib.load",
        "x509.random_serial_number",
    }
)
FILE_CALLS = frozenset(  # what a path offers beside its parts
    {
        *("absolute", "chmod", "cwd", "exists", "expanduser", "glob", "home", "is_dir", "is_file", "is_symlink"),
        *("iterdir", "lstat", "mkdir", "read_bytes", "read_text", "rename", "resolve", "rglob", "rmdir", "samefile"),
        *("stat", "symlink_to", "touch", "unlink", "write_bytes", "write_text"),
    }
)
LIBRARIES = {  # by whose rooms alone they are imported
    "aiomqtt": ("mqtt",),
    "paho": ("mqtt",),
    "aiohttp": ("host", "apps", "sandbox", "pages"),
    "jinja2": ("pages",),
    "sqlite3": ("vault", "cli/demo"),
    "tests": (),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: ``import a.b`` and ``from a.b import c`` both speak of ``a.b`` (and of ``a.b.c``)."""

    target: str
    name: str  # what is taken out of it; empty for a module
    line: int


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    path: str
    place: str  # within either half: agents/phone/agent
    tree: ast.Module
    imports: tuple[Import, ...]
    lines: int

    @property
    def room(self) -> str:
        return self.place.partition("/")[0]


Modules = Mapping[str, Module]  # by place


def place_of(path: str) -> str:
    return path.partition("/token_relay/")[2].removesuffix(".py").removesuffix("/__init__")


def place_named(target: str) -> str | None:
    """The place that a dotted name means; None for what is not ours."""
    first, _, rest = target.partition(".")
    return rest.replace(".", "/") if first == "token_relay" else None


def parse(sources: Mapping[str, str]) -> Modules:
    """Read sources by path; an import of a name that is a module itself counts as an import of that module."""
    places = {place_of(path) for path in sources}
    modules = {}
    for path, source in sources.items():
        place, tree = place_of(path), ast.parse(source, path)
        package = place if path.endswith("/__init__.py") else place.rpartition("/")[0]
        found = tuple(imports_of(tree, package, places))
        modules[place] = Module(path, place, tree, found, len(source.splitlines()))
    return modules


def imports_of(tree: ast.AST, package: str, places: set[str]) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = ["token_relay", *package.split("/")]
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = (place_named(inner) or "") in places
                yield Import(inner if is_module else base, "" if is_module else alias.name, node.lineno)


def within(place: str, *folders: str) -> bool:
    return any(place == folder or place.startswith((f"{folder}/", f"{folder}.")) for folder in folders)


def ours(modules: Modules) -> Iterator[tuple[Module, Import, str]]:
    for module in modules.values():
        for found in module.imports:
            if (place := place_named(found.target)) is not None:
                yield module, found, place


def foreign(modules: Iterable[Module]) -> Iterator[tuple[Module, Import]]:
    for module in modules:
        for found in module.imports:
            if place_named(found.target) is None:
                yield module, found


def at(module: Module, line: int, rule: str) -> str:
    return f"{module.path}:{line}: {rule}"


# -- The rules: each takes all modules and returns what it found -------------------------------------------


def imports_run_one_way(modules: Modules) -> list[str]:
    above: dict[str, frozenset[str]] = {"sandbox": frozenset(SANDBOX_IMPORTS)}
    known: frozenset[str] = frozenset()
    for layer in LAYERS:
        above |= {room: known | {room, "sandbox"} for room in layer}  # who may see the sandbox: the rule below
        known |= frozenset(layer)
    above["pages"] = frozenset({"pages", "protocol"})
    for room in ("console", "cli", "simulation"):  # and the lab, by the rule below
        above[room] |= {"pages"}
    above["sandbox"] |= {"pages"}
    violations = []
    for module, found, place in ours(modules):
        room = place.partition("/")[0]
        if room not in above.get(module.room, frozenset()):
            violations.append(at(module, found.line, f"{module.room} never imports {room or 'the whole'}"))
    return violations


def ends_do_not_meet(modules: Modules) -> list[str]:
    return [
        at(module, found.line, f"{mine} never imports {theirs}")
        for module, found, place in ours(modules)
        for pair in APART
        for mine, theirs in (pair, pair[::-1])
        if within(module.place, mine) and within(place, theirs)
    ]


def worlds_to_try_things_in_stay_out_of_production(modules: Modules) -> list[str]:
    return [
        at(module, found.line, f"{lent} is imported by {', '.join(borrowers)} only")
        for module, found, place in ours(modules)
        for lent, borrowers in LENT.items()
        if within(place, lent) and not within(module.place, lent, *borrowers)
    ]


def libraries_have_their_rooms(modules: Modules) -> list[str]:
    return [
        at(module, found.line, f"{library} is imported by {', '.join(rooms) or 'nothing that ships'} only")
        for module, found in foreign(modules.values())
        for library, rooms in LIBRARIES.items()
        if within(found.target, library) and not within(module.place, *rooms)
    ]


def pure_rooms_are_pure(modules: Modules) -> list[str]:
    pure = [module for module in modules.values() if within(module.place, *PURE)]
    violations = []
    for module, found in foreign(pure):
        allowed = CORE_IMPORTS if within(module.place, "sandbox/provider") else PURE_IMPORTS
        if not within(found.target, *allowed):
            violations.append(at(module, found.line, f"pure code imports {found.target}"))
    violations += _imports_of_other_kinds(pure, PURE, "pure code")
    return violations + [text for module in pure for text in _impurities(module)]


def what_calls_itself_pure_is_pure(modules: Modules) -> list[str]:
    """It may take values from rooms with ports too: without ``await`` no port of theirs leads anywhere."""
    pure = saying_pure(modules)
    violations = [
        at(module, found.line, f"pure code imports {found.target}")
        for module, found in foreign(pure)
        if not within(found.target, *SAID_IMPORTS) and f"{found.target}.{found.name}" not in SAID_IMPORTS
    ]
    places = tuple(module.place for module in pure)
    violations += _imports_of_other_kinds(pure, (*PURE, *PORTS, *places), "pure code")
    for module in pure:
        violations += _impurities(module)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FILE_CALLS:
                violations.append(at(module, node.lineno, f"pure code calls {node.func.attr}"))
    return violations


def saying_pure(modules: Modules) -> list[Module]:
    """The modules outside the pure rooms that call themselves pure."""
    saying = {place for place, module in modules.items() if SAYS_PURE.search(ast.get_docstring(module.tree) or "")}
    folders = [place for place in saying if modules[place].path.endswith("/__init__.py")]
    return [
        module
        for place, module in modules.items()
        if (place in saying or within(place, *folders)) and not within(place, *PURE)
    ]


def _impurities(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield at(module, node.lineno, "pure code has no async")
        elif isinstance(node, ast.Call) and (called := _called(node.func)) in IMPURE_CALLS:
            yield at(module, node.lineno, f"pure code calls {called}")
        elif isinstance(node, ast.Global):
            yield at(module, node.lineno, "pure code has no global state")


def ports_lead_to_the_world(modules: Modules) -> list[str]:
    rooms = [module for module in modules.values() if within(module.place, *PORTS)]
    violations = [
        at(module, found.line, f"{module.room} imports {found.target} instead of using a port")
        for module, found in foreign(rooms)
        if not within(found.target, *PORTS_IMPORTS) or (found.target == "asyncio" and found.name)
    ]
    violations += _imports_of_other_kinds(rooms, (*PURE, *PORTS), "a room with ports")
    for module in rooms:
        for node in ast.walk(module.tree):
            called = _called(node.func) if isinstance(node, ast.Call) else ""
            if called in IMPURE_CALLS or called.endswith("loop.time"):
                violations.append(at(module, getattr(node, "lineno", 1), f"{module.room} calls {called}"))
            used = _called(node) if isinstance(node, ast.Attribute) else ""
            if used.startswith("asyncio.") and used.removeprefix("asyncio.") not in ASYNCIO:
                violations.append(at(module, getattr(node, "lineno", 1), f"{module.room} uses {used}"))
    return violations


def _imports_of_other_kinds(modules: list[Module], kinds: tuple[str, ...], who: str) -> list[str]:
    """What of ours is imported without being of these kinds; a module's own folder and what stands above it is."""
    return [
        at(module, found.line, f"{who} imports {place}, which is more than that")
        for module in modules
        for found in module.imports
        if (place := place_named(found.target)) is not None
        and not within(place, *kinds)
        and place != "sandbox/marked_tokens"  # a search in bytes, for tests of whoever uses the sandbox
    ]


def _called(func: ast.expr) -> str:
    """The name of a called function, of an attribute with the name before it: ``datetime.now``."""
    parts: list[str] = []
    while isinstance(func, ast.Attribute):
        parts.append(func.attr)
        func = func.value
    parts.append(func.id if isinstance(func, ast.Name) else "()")  # ``box().open`` is not the builtin
    return ".".join(reversed(parts[:2])) if len(parts) > 1 else "".join(parts)


def nothing_goes_in_a_circle(modules: Modules) -> list[str]:
    """Neither modules nor folders; an import inside a function, or for type checkers, counts like any other."""
    graphs: dict[str, dict[str, dict[str, tuple[Module, Import]]]] = {"": {}}
    for module, found, place in ours(modules):
        if place not in modules or place == module.place:
            continue
        graphs[""].setdefault(module.place, {})[place] = (module, found)
        mine, theirs = module.place.split("/"), place.split("/")
        depth = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
        if depth is not None:  # the two folders, or files, in which the two ways part
            parent = "/".join(mine[:depth]) or "."
            graph = graphs.setdefault(parent, {})
            graph.setdefault(mine[depth], {}).setdefault(theirs[depth], (module, found))
    violations: set[str] = set()
    for graph in graphs.values():
        for names, (module, found) in _circles(graph):
            violations.add(at(module, found.line, f"imports in a circle: {' -> '.join(names)}"))
    return sorted(violations)


def _circles(
    graph: Mapping[str, Mapping[str, tuple[Module, Import]]],
) -> Iterator[tuple[list[str], tuple[Module, Import]]]:
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> Iterator[tuple[list[str], tuple[Module, Import]]]:
        path.append(name)
        for target, where in sorted(graph.get(name, {}).items()):
            if target in path:
                yield [*path[path.index(target) :], target], where
            elif target not in done:
                yield from visit(target)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        if name not in done:
            yield from visit(name)


def names_come_from_where_they_are_defined(modules: Modules) -> list[str]:
    """No module passes on what it has itself from another, so that an import line says where to look."""
    given = {
        place: {found.name for found in module.imports if found.name} - set(_defined(module.tree))
        for place, module in modules.items()
    }
    violations = [
        at(module, found.line, f"{found.name} is not defined in {place}, which imports it")
        for module, found, place in ours(modules)
        if found.name in given.get(place, ())
    ]
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == alias.asname for alias in node.names):
                violations.append(at(module, node.lineno, "a name is imported to be passed on"))
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                listed = set(ast.literal_eval(node.value))
                if any(found.name in listed and place_named(found.target) is not None for found in module.imports):
                    violations.append(at(module, node.lineno, "__all__ passes on a name of ours"))
    return violations


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def imports_are_written_out(modules: Modules) -> list[str]:
    """A star or a computed import would hide from all the other rules."""
    violations = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                violations.append(at(module, node.lineno, "no star imports"))
            # The command line picks its module by name: `companion token` need not load the rest on slow hardware.
            called = _called(node.func) if isinstance(node, ast.Call) and module.room != "cli" else ""
            if called.endswith(("import_module", "__import__")):
                violations.append(at(module, getattr(node, "lineno", 1), "no import by a computed name"))
    return violations


def modules_are_small_and_explained(modules: Modules) -> list[str]:
    violations = []
    for module in modules.values():
        if module.lines > MODULE_LINES_MAX:
            violations.append(at(module, module.lines, f"{module.lines} lines, at most {MODULE_LINES_MAX}"))
        if not ast.get_docstring(module.tree):
            violations.append(at(module, 1, "no docstring"))
    return violations


def a_class_name_stands_once(modules: Modules) -> list[str]:
    """Two classes of one name make a reader ask which; a test may still name its own as it likes."""
    first: dict[str, Module] = {}
    violations = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and (other := first.setdefault(node.name, module)) is not module:
                violations.append(at(module, node.lineno, f"class {node.name} is also in {other.path}"))
    return violations


RULES: tuple[Callable[[Modules], list[str]], ...] = (
    imports_run_one_way,
    ends_do_not_meet,
    worlds_to_try_things_in_stay_out_of_production,
    libraries_have_their_rooms,
    pure_rooms_are_pure,
    what_calls_itself_pure_is_pure,
    ports_lead_to_the_world,
    nothing_goes_in_a_circle,
    names_come_from_where_they_are_defined,
    imports_are_written_out,
    modules_are_small_and_explained,
    a_class_name_stands_once,
)


# -- The tree ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Modules:
    files = sorted(path for half in HALVES for path in (ROOT / half).rglob("*.py"))
    return parse({path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Callable[[Modules], list[str]], tree: Modules) -> None:
    violations = rule(tree)
    assert not violations, "\n" + "\n".join(violations)


def test_the_rules_know_every_room(tree: Modules) -> None:
    # A folder that no rule knows, or a rule for a folder that is misspelt, would be a wall with a hole.
    rooms = {room for layer in LAYERS for room in layer} | {"sandbox", "pages"}
    assert {module.room for module in tree.values()} | {"console"} == rooms
    folders = {"/".join(place.split("/")[:n]) for place in tree for n in range(1, place.count("/") + 1)}
    assert {*PURE, *PORTS, *(end for pair in APART for end in pair), *LENT} - {"sandbox/lab"} <= folders


def test_each_room_lies_in_one_half_and_neither_half_is_a_package() -> None:
    for half, rooms in zip(HALVES, (RELAY, {room for layer in LAYERS for room in layer} - RELAY), strict=True):
        found = {path.name for path in (ROOT / half).iterdir() if path.is_dir() and path.name != "__pycache__"}
        assert found | ({"console"} & rooms) == rooms
        assert not (ROOT / half / "__init__.py").exists() and not (ROOT / half / "__main__.py").exists()


def test_a_package_says_pure_for_all_in_it_and_others_speak_for_themselves(tree: Modules) -> None:
    said = {module.place for module in saying_pure(tree)}
    assert {"sandbox/control/api", "apps/policy", "service/status"} <= said
    assert (
        not {"sandbox/server", "cli/render", "apps/server", "provider/oauth"} & said
    )  # "the pure core", "`blocks`, pure"


def test_the_walk_sees_the_whole_tree(tree: Modules) -> None:
    # hmac is imported at the top of secret.py, pydantic only inside its methods and for type checkers
    assert {"hmac", "pydantic", "pydantic_core"} <= {found.target for found in tree["protocol/secret"].imports}
    assert "token_relay.sandbox.main" in {found.target for found in tree["cli/commands/sandbox"].imports}


# -- Planted violations ------------------------------------------------------------------------------------

SAYS = '"""Says one thing; pure."""\n\n{}\n'
LATE = '"""Doc."""\n\n\ndef f() -> None:\n    {}\n'
TOP = '"""Doc."""\n\n{}\n'
TYPING = '"""Doc."""\n\nif TYPE_CHECKING:\n    {}\n'
WAY, APART_, LENT_ = imports_run_one_way, ends_do_not_meet, worlds_to_try_things_in_stay_out_of_production
DOOR, CLEAN, PORT = libraries_have_their_rooms, pure_rooms_are_pure, ports_lead_to_the_world
SAID = what_calls_itself_pure_is_pure
OWN = names_come_from_where_they_are_defined
PLANTED = [
    (WAY, "mqtt/channel", TOP, "import token_relay.agents.link", 3),
    (WAY, "provider/oauth", LATE, "from token_relay.agents.ports import Clock", 5),
    (WAY, "mqtt/channel", TOP, "from ..agents import link", 3),
    (WAY, "protocol/messages", TOP, "from token_relay.provider.profile import Strategy", 3),
    (WAY, "pki/certificates", TOP, "from token_relay.mqtt import channel", 3),
    (WAY, "agents/link", TYPING, "from token_relay.host.logs import where", 4),
    (WAY, "vault/new", TOP, "from token_relay.host.paths import X", 3),
    (WAY, "host/systemd", TOP, "from token_relay.apps.policy import Peer", 3),
    (WAY, "ca/store", TOP, "from token_relay.service import control", 3),
    (WAY, "service/new", LATE, "from token_relay.cli.client import X", 5),
    (WAY, "sandbox/server", TOP, "from token_relay.pki import certificates", 3),
    (WAY, "agents/new", TOP, "import token_relay", 3),
    (APART_, "agents/phone/agent", LATE, "from token_relay.agents.companion.agent import X", 5),
    (APART_, "agents/companion/agent", TOP, "from token_relay.agents import phone", 3),
    (LENT_, "service/runtime", LATE, "import token_relay.sandbox.server", 5),
    (LENT_, "mqtt/channel", TOP, "from token_relay import sandbox", 3),
    (LENT_, "agents/link", TOP, "from token_relay.simulation import world", 3),
    (LENT_, "cli/commands/phone", LATE, "from token_relay.cli.demo import run", 5),
    (DOOR, "agents/link", TOP, "from aiomqtt import Client", 3),
    (DOOR, "agents/link", LATE, "import paho.mqtt.client", 5),
    (DOOR, "provider/oauth", TOP, "import aiohttp.web", 3),
    (DOOR, "service/runtime", TOP, "import sqlite3", 3),
    (DOOR, "host/http", TOP, "from tests.core import opener", 3),
    (CLEAN, "protocol/envelope", TOP, "import os", 3),
    (CLEAN, "protocol/envelope", LATE, "from time import time", 5),
    (CLEAN, "protocol/envelope", TOP, "from nacl.utils import random", 3),
    (CLEAN, "protocol/envelope", TOP, "import structlog", 3),
    (CLEAN, "protocol/new", TOP, "from token_relay.mqtt import channel", 3),
    (CLEAN, "protocol/handoff", TOP, "async def step() -> None: ...", 3),
    (CLEAN, "pki/certificates", TOP, "from datetime import datetime\nT = datetime.now()", 4),
    (CLEAN, "pki/certificates", LATE, "return open('x')", 5),
    (CLEAN, "pki/certificates", LATE, "global x", 5),
    (CLEAN, "sandbox/provider/core", TOP, "import time", 3),
    (CLEAN, "sandbox/provider/world/rules", TOP, "async def f() -> None: ...", 3),
    (CLEAN, "sandbox/provider/core", TOP, "from token_relay.sandbox.server import X", 3),
    (SAID, "service/new", SAYS, "import os", 3),
    (SAID, "apps/new", '"""Doc. Pure."""\n\n{}\n', "from random import random", 3),
    (SAID, "cli/new", '"""Doc.\n\nThis module is pure: no one.\n"""\n{}\n', "import structlog", 5),
    (SAID, "sandbox/control/new", SAYS, "async def f() -> None: ...", 3),
    (SAID, "sandbox/links/new", SAYS, "from token_relay.sandbox.server import X", 3),
    (SAID, "agents/grants/new", SAYS, "from datetime import datetime\nT = datetime.now()", 4),
    (SAID, "host/__init__", SAYS, "import time", 3),
    (SAID, "ca/new", SAYS, "from pathlib import Path\nT = Path('x').read_text()", 4),
    (PORT, "agents/phone/agent", LATE, "import socket", 5),
    (PORT, "agents/phone/new", TOP, "from os import environ", 3),
    (PORT, "agents/companion/new", TOP, "from pathlib import Path", 3),
    (PORT, "agents/link", TOP, "from token_relay.mqtt.channel import X", 3),
    (PORT, "agents/grants/keeper", LATE, "asyncio.sleep(1)", 5),
    (PORT, "agents/grants/keeper", TOP, "from asyncio import sleep", 3),
    (PORT, "provider/oauth", LATE, "asyncio.open_connection()", 5),
    (PORT, "provider/oauth", LATE, "return open('x')", 5),
    (OWN, "agents/new", TOP, "from dataclasses import field as field", 3),
    (
        names_come_from_where_they_are_defined,
        "agents/new",
        TOP,
        'from token_relay.agents.link import x\n__all__ = ["x"]',
        4,
    ),
    (imports_are_written_out, "agents/link", TOP, "from token_relay.protocol.handoff import *", 3),
    (imports_are_written_out, "agents/link", LATE, "importlib.import_module('x')", 5),
    (modules_are_small_and_explained, "agents/link", "{}", "X = 1\n", 1),
    (modules_are_small_and_explained, "agents/link", "{}", '"""Doc."""\n' * 501, 501),
    (modules_are_small_and_explained, "agents/link", "{}", "", 1),
]


def path_of(place: str) -> str:
    half = HALVES[0] if place.partition("/")[0] in RELAY else HALVES[1]
    return f"{half}/{place}.py"


@pytest.mark.parametrize(("rule", "place", "form", "source", "line"), PLANTED)
def test_a_planted_violation_is_found(
    rule: Callable[[Modules], list[str]], place: str, form: str, source: str, line: int
) -> None:
    others = ("agents/__init__", "agents/phone/__init__", "sandbox/__init__", "mqtt/channel", "agents/link")
    sources = {path_of(name): '"""Doc."""\n' for name in others} | {path_of(place): form.format(source)}
    found = rule(parse(sources))
    assert [text.partition(": ")[0] for text in found] == [f"{path_of(place)}:{line}"], found


def test_a_class_name_that_stands_twice_is_found_also_inside_a_function() -> None:
    sources = {
        path_of("agents/link"): TOP.format("class Link: ..."),
        path_of("sandbox/links/new"): LATE.format("class Link: ..."),
    }
    assert len(a_class_name_stands_once(parse(sources))) == 1


@pytest.mark.parametrize("last", [TOP, LATE, TYPING])
def test_a_planted_circle_is_found_however_it_is_imported(last: str) -> None:
    sources = {
        path_of("host/a"): TOP.format("from token_relay.host import b"),
        path_of("host/b"): TOP.format("import token_relay.host.c"),
        path_of("host/c"): last.format("from token_relay.host.a import x"),
        path_of("host/d"): TOP.format("import token_relay.host.a"),
    }
    found = nothing_goes_in_a_circle(parse(sources))
    assert any(text.endswith("imports in a circle: host/a -> host/b -> host/c -> host/a") for text in found)


def test_two_folders_that_import_each_other_are_a_circle_though_no_two_files_are() -> None:
    sources = {
        path_of("cli/commands/a"): TOP.format("from token_relay.cli.demo import x"),
        path_of("cli/demo/x"): TOP.format("y = 1"),
        path_of("cli/demo/z"): TOP.format("from token_relay.cli.commands import b"),
        path_of("cli/commands/b"): TOP.format("c = 1"),
    }
    (found,) = nothing_goes_in_a_circle(parse(sources))
    assert found.endswith("imports in a circle: commands -> demo -> commands")


def test_a_name_that_is_passed_on_is_found() -> None:
    sources = {
        path_of("agents/a"): TOP.format("class X: ..."),
        path_of("agents/b"): TOP.format("from token_relay.agents.a import X"),
        path_of("agents/c"): TOP.format("from token_relay.agents.b import X"),
    }
    (found,) = names_come_from_where_they_are_defined(parse(sources))
    assert found == f"{path_of('agents/c')}:3: X is not defined in agents/b, which imports it"
