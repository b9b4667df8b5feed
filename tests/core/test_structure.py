"""The rooms keep their walls: who may import whom, what a pure module may touch, how large a module may be.

Nothing is imported here; the sources are read as syntax trees, late imports inside functions included. A violation
prints ``file:line`` and the rule. Each rule is tried on a planted violation too, for a rule that finds nothing might
look at nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HALVES = ("relay", "device")
DEVICE = tuple(
    f"token_relay.{room}" for room in ("agents", "apps", "ca", "cli", "host", "service", "simulation", "vault")
)
MODULE_LINES_MAX = 530  # a seam is looked for at 500; a few lines are no reason to cut in a hurry

PURE = frozenset(
    {
        "token_relay.protocol.secret",
        "token_relay.protocol.errors",
        "token_relay.protocol.identity",
        "token_relay.protocol.envelope",
        "token_relay.protocol.messages",
        "token_relay.protocol.pairing",
        "token_relay.protocol.delivery",
        "token_relay.protocol.handoff",
        "token_relay.protocol.topics",
        "token_relay.pki.certificates",
        "token_relay.provider.claims",
        "token_relay.provider.native_auth.refusals",
        "token_relay.provider.native_auth.states",
        "token_relay.provider.native_auth.wire",
        "token_relay.provider.profile",
        "token_relay.provider.outcome",
        "token_relay.provider.tokens",
        "token_relay.agents.elapsed",
        "token_relay.apps.policy",
        "token_relay.apps.rate_limit",
        "token_relay.agents.records",
        "token_relay.agents.grants.lease",
        "token_relay.agents.grants.lifecycle",
        "token_relay.agents.grants.schedule",
        "token_relay.agents.grants.serving",
        "token_relay.agents.grants.answers",
        "token_relay.apps.session_transfer",
        "token_relay.vault.errors",
        "token_relay.vault.records",
        "token_relay.vault.sealing",
    }
)

# Ports are declarations: they may say ``async def``, but only as the method of a Protocol.
PORTS = frozenset({"token_relay.agents.ports", "token_relay.agents.token_source", "token_relay.provider.http"})

# All that a pure module may know of the world. A list of what is forbidden would forget something.
PURE_IMPORTS = frozenset(
    {
        "__future__",
        "base64",
        "binascii",
        "collections.abc",
        "cryptography",  # arithmetic only; where it draws random numbers itself, token_relay.pki.certificates says so
        "dataclasses",
        "datetime",  # values; asking it for the present is caught below
        "enum",
        "functools",
        "hashlib",
        "hmac",
        "ipaddress",
        "json",
        "math",
        "nacl.bindings",  # the plain functions: nacl.public and nacl.secret draw nonces by themselves
        "nacl.exceptions",
        "pydantic",
        "pydantic_core",
        "re",
        "tomllib",
        "types",
        "typing",
        "urllib.parse",
        "warnings",
    }
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
        "randombytes",
        "tomllib.load",
        "x509.random_serial_number",
    }
)

AGENTS = frozenset(
    {
        "token_relay.agents.grants.second_attempt",
        "token_relay.agents.grants.keeper",
        "token_relay.agents.grants.pauses",
        "token_relay.agents.grants.revocation",
        "token_relay.agents.grants.transfer",
        "token_relay.agents.link",
    }
)
AGENT_PACKAGES = ("token_relay.agents.phone", "token_relay.agents.companion")
NOT_AGENTS = frozenset(
    {"token_relay.host.loopback_receiver"}
)  # the browser's way back is a socket on loopback, behind a port
AGENT_FORBIDDEN = (
    "aiohttp",
    "aiomqtt",
    "http",
    "io",
    "nacl.public",
    "nacl.secret",
    "nacl.utils",
    "os",
    "paho",
    "pathlib",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    # and what stands behind the ports
    "token_relay.host.clock",
    "token_relay.host.http",
    "token_relay.apps.server",
    "token_relay.vault.database",
    "token_relay.vault.files",
    "token_relay.vault.keys",
    "token_relay.vault.store",
    "token_relay.mqtt.channel",
    "token_relay.mqtt.connection",
)

SANDBOX_IMPORTERS = (
    "token_relay.sandbox",
    "token_relay.simulation",
    "token_relay.cli.demo",
    "token_relay.cli.commands.sandbox",
)
SIMULATION_IMPORTERS = ("token_relay.simulation", "token_relay.cli.demo")
AIOHTTP_IMPORTERS = frozenset({"token_relay.host.http", "token_relay.apps.server", "token_relay.sandbox.server"})
SANDBOX_IO = frozenset(
    {
        "token_relay.sandbox.actions.runner",
        "token_relay.sandbox.actions.worker",
        "token_relay.sandbox.mqtt.broker",
        "token_relay.sandbox.links.connection",
        "token_relay.sandbox.main",
        "token_relay.sandbox.links.network",
        "token_relay.sandbox.server",
    }
)
SANDBOX_CORE_FORBIDDEN = ("aiohttp", "asyncio", "os", "pathlib", "secrets", "socket", "ssl", "time")

# The command line picks its module by name, so that `companion token` need not load the rest on slow hardware.
DYNAMIC_IMPORTERS = frozenset({"token_relay.cli.main"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: ``import a.b`` and ``from a.b import c`` both speak of ``a.b`` (and of ``a.b.c``)."""

    target: str
    line: int
    is_typing: bool  # under ``if TYPE_CHECKING``


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    path: str
    name: str
    is_package: bool
    lines: int
    tree: ast.Module
    imports: tuple[Import, ...]


Modules = Mapping[str, Module]


def dotted(path: str) -> str:
    parts = path.removesuffix(".py").split("/")[1:]  # the half, relay or device, is no part of the name
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(sources: Mapping[str, str]) -> Modules:
    """Read sources by path; an import of a name that is a module itself counts as an import of that module."""
    names = {dotted(path) for path in sources}
    modules = {}
    for path, source in sources.items():
        name, tree = dotted(path), ast.parse(source, path)
        is_package = path.endswith("/__init__.py")
        found = tuple(imports_of(tree, name if is_package else name.rpartition(".")[0], names))
        modules[name] = Module(path, name, is_package, len(source.splitlines()), tree, found)
    return modules


def imports_of(tree: ast.AST, package: str, names: set[str], *, is_typing: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, is_typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in names else base, node.lineno, is_typing)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from imports_of(ast.Module([child], []), package, names, is_typing=True)
            for child in node.orelse:
                yield from imports_of(ast.Module([child], []), package, names, is_typing=is_typing)
        else:
            yield from imports_of(node, package, names, is_typing=is_typing)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def at(module: Module, line: int, rule: str) -> str:
    return f"{module.path}:{line}: {rule}"


# -- The rules: each takes all modules and returns what it found -------------------------------------------


def device_never_goes_back(modules: Modules) -> list[str]:
    return [
        at(module, found.line, "relay never imports device")
        for module in modules.values()
        for found in module.imports
        if module.path.startswith("relay/") and within(found.target, *DEVICE)
    ]


def ends_do_not_meet(modules: Modules) -> list[str]:
    pairs = (
        ("token_relay.agents.phone", "token_relay.agents.companion"),
        ("token_relay.agents.companion", "token_relay.agents.phone"),
    )
    return [
        at(module, found.line, f"{mine} never imports {theirs}")
        for module in modules.values()
        for found in module.imports
        for mine, theirs in pairs
        if within(module.name, mine) and within(found.target, theirs)
    ]


def sandbox_stays_out_of_production(modules: Modules) -> list[str]:
    rules = (
        ("token_relay.sandbox", SANDBOX_IMPORTERS),
        ("token_relay.simulation", SIMULATION_IMPORTERS),
        (
            "token_relay.cli.demo",
            ("token_relay.cli.demo", "token_relay.cli.commands.sandbox", "token_relay.simulation.testkit.sandbox"),
        ),
    )
    return [
        at(module, found.line, f"{kept} is imported by {', '.join(importers)} only")
        for module in modules.values()
        for found in module.imports
        for kept, importers in rules
        if within(found.target, kept) and not within(module.name, *importers)
    ]


def libraries_have_one_door(modules: Modules) -> list[str]:
    violations = []
    for module in modules.values():
        is_mqtt = within(module.name, "token_relay.mqtt")
        for found in module.imports:
            if within(found.target, "aiomqtt", "paho") and not is_mqtt:
                violations.append(at(module, found.line, "only mqtt/ imports the MQTT client"))
            if within(found.target, "aiohttp") and module.name not in AIOHTTP_IMPORTERS:
                violations.append(at(module, found.line, "aiohttp is imported by its three doors only"))
            if within(found.target, "tests"):
                violations.append(at(module, found.line, "nothing that ships imports tests"))
    return violations


def pure_modules_are_pure(modules: Modules) -> list[str]:
    violations = []
    for module in (modules[name] for name in sorted(PURE | PORTS) if name in modules):
        for found in module.imports:
            own = within(found.target, "token_relay")
            if own and found.target not in PURE | PORTS:
                violations.append(at(module, found.line, f"a pure module imports {found.target}, which is not pure"))
            if not own and not within(found.target, *PURE_IMPORTS):
                violations.append(at(module, found.line, f"a pure module imports {found.target}"))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                if not (module.name in PORTS and _is_protocol_method(module.tree, node)):
                    violations.append(at(module, node.lineno, "a pure module has no async"))
            elif isinstance(node, ast.Call) and (called := _called(node.func)) in IMPURE_CALLS:
                violations.append(at(module, node.lineno, f"a pure module calls {called}"))
            elif isinstance(node, ast.Global):
                violations.append(at(module, node.lineno, "a pure module has no global state"))
    return violations


def _called(func: ast.expr) -> str:
    """The name of a called function, of an attribute with the name before it: ``datetime.now``."""
    parts: list[str] = []
    while isinstance(func, ast.Attribute):
        parts.append(func.attr)
        func = func.value
    parts.append(func.id if isinstance(func, ast.Name) else "()")  # ``box().open`` is not the builtin
    return ".".join(reversed(parts[:2])) if len(parts) > 1 else "".join(parts)


def _is_protocol_method(tree: ast.Module, node: ast.AST) -> bool:
    return any(
        isinstance(parent, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in parent.bases)
        and node in parent.body
        for parent in ast.walk(tree)
    )


def agents_reach_the_world_through_ports(modules: Modules) -> list[str]:
    violations = []
    for module in modules.values():
        is_agent = module.name in AGENTS or within(module.name, *AGENT_PACKAGES)
        if not is_agent or module.name in NOT_AGENTS:
            continue
        for found in module.imports:
            if within(found.target, *AGENT_FORBIDDEN):
                violations.append(at(module, found.line, f"an agent imports {found.target} instead of using a port"))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _called(node.func) in ("open", "asyncio.sleep", "loop.time"):
                violations.append(at(module, node.lineno, f"an agent calls {_called(node.func)}"))
    return violations


def sandbox_core_has_no_io(modules: Modules) -> list[str]:
    violations = []
    for module in modules.values():
        if not within(module.name, "token_relay.sandbox") or module.name in SANDBOX_IO:
            continue
        for found in module.imports:
            if within(found.target, *SANDBOX_CORE_FORBIDDEN, *SANDBOX_IO):
                violations.append(at(module, found.line, f"the sandbox's core imports {found.target}"))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef):
                violations.append(at(module, node.lineno, "the sandbox's core has no async"))
            elif isinstance(node, ast.Call) and _called(node.func) in IMPURE_CALLS - {"ec.generate_private_key"}:
                violations.append(at(module, node.lineno, f"the sandbox's core calls {_called(node.func)}"))
    return violations


def there_is_no_cycle(modules: Modules) -> list[str]:
    """Late imports count: one inside a function that dodges a cycle is a module in the wrong room."""
    edges = {
        name: [found for found in module.imports if not found.is_typing and found.target in modules]
        for name, module in modules.items()
    }
    violations: list[str] = []
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        path.append(name)
        for found in edges[name]:
            if found.target in path:
                cycle = [*path[path.index(found.target) :], found.target]
                violations.append(at(modules[name], found.line, f"imports in a circle: {' -> '.join(cycle)}"))
            elif found.target not in done:
                visit(found.target)
        path.pop()
        done.add(name)

    for name in sorted(modules):
        if name not in done:
            visit(name)
    return violations


def imports_are_written_out(modules: Modules) -> list[str]:
    """A star or a computed import would hide from all the other rules."""
    violations = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                violations.append(at(module, node.lineno, "no star imports"))
            is_dynamic = isinstance(node, ast.Call) and _called(node.func).endswith(("import_module", "__import__"))
            if is_dynamic and module.name not in DYNAMIC_IMPORTERS:
                assert isinstance(node, ast.Call)
                violations.append(at(module, node.lineno, "no import by a computed name"))
    return violations


def modules_are_small_and_explained(modules: Modules) -> list[str]:
    violations = []
    for module in modules.values():
        if module.lines > MODULE_LINES_MAX:
            violations.append(at(module, module.lines, f"{module.lines} lines, at most {MODULE_LINES_MAX}"))
        if module.tree.body and not ast.get_docstring(module.tree):
            violations.append(at(module, 1, "no docstring"))
        if not module.tree.body and not module.is_package:
            violations.append(at(module, 1, "an empty module"))
    return violations


RULES: tuple[Callable[[Modules], list[str]], ...] = (
    device_never_goes_back,
    ends_do_not_meet,
    sandbox_stays_out_of_production,
    libraries_have_one_door,
    pure_modules_are_pure,
    agents_reach_the_world_through_ports,
    sandbox_core_has_no_io,
    there_is_no_cycle,
    imports_are_written_out,
    modules_are_small_and_explained,
)


# -- The tree ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Modules:
    files = sorted(path for package in HALVES for path in (ROOT / package).rglob("*.py"))
    return parse({path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Callable[[Modules], list[str]], tree: Modules) -> None:
    violations = rule(tree)
    assert not violations, "\n" + "\n".join(violations)


def test_the_lists_name_modules_that_exist(tree: Modules) -> None:
    # A list with a misspelt name would watch over nothing.
    named = PURE | PORTS | AGENTS | NOT_AGENTS | AIOHTTP_IMPORTERS | SANDBOX_IO | DYNAMIC_IMPORTERS
    behind_the_ports = {name for name in AGENT_FORBIDDEN if within(name, "token_relay")}
    assert named | behind_the_ports | {"token_relay.mqtt.channel", "token_relay.cli.commands.sandbox"} <= set(tree)


def test_the_walk_sees_the_whole_tree(tree: Modules) -> None:
    # hmac is imported at the top of protocol/secret.py, pydantic only inside its methods and for type checkers
    secret = {found.target: found.is_typing for found in tree["token_relay.protocol.secret"].imports}
    assert secret["hmac"] is False
    assert secret["pydantic"] is True
    assert secret["pydantic_core"] is False
    assert "token_relay.sandbox.main" in {found.target for found in tree["token_relay.cli.commands.sandbox"].imports}


# -- Planted violations ------------------------------------------------------------------------------------

LATE = '"""Doc."""\n\n\ndef f() -> None:\n    {}\n'
TOP = '"""Doc."""\n\n{}\n'


@pytest.mark.parametrize(
    ("rule", "path", "source", "line"),
    [
        (device_never_goes_back, "relay/token_relay/mqtt/channel.py", TOP.format("import token_relay.agents.link"), 3),
        (
            device_never_goes_back,
            "relay/token_relay/provider/oauth.py",
            LATE.format("from token_relay.agents.ports import Clock"),
            5,
        ),
        (device_never_goes_back, "relay/token_relay/mqtt/channel.py", TOP.format("from ..agents import link"), 3),
        (
            ends_do_not_meet,
            "device/token_relay/agents/phone/agent.py",
            LATE.format("from token_relay.agents.companion.agent import X"),
            5,
        ),
        (
            ends_do_not_meet,
            "device/token_relay/agents/companion/agent.py",
            TOP.format("from token_relay.agents import phone"),
            3,
        ),
        (
            sandbox_stays_out_of_production,
            "device/token_relay/service/runtime.py",
            LATE.format("import token_relay.sandbox.server"),
            5,
        ),
        (
            sandbox_stays_out_of_production,
            "relay/token_relay/mqtt/channel.py",
            TOP.format("from token_relay import sandbox"),
            3,
        ),
        (
            sandbox_stays_out_of_production,
            "device/token_relay/agents/link.py",
            TOP.format("from token_relay.simulation import world"),
            3,
        ),
        (
            sandbox_stays_out_of_production,
            "device/token_relay/cli/main.py",
            LATE.format("from token_relay.cli.demo import run"),
            5,
        ),
        (libraries_have_one_door, "device/token_relay/agents/link.py", TOP.format("from aiomqtt import Client"), 3),
        (libraries_have_one_door, "device/token_relay/agents/link.py", LATE.format("import paho.mqtt.client"), 5),
        (libraries_have_one_door, "relay/token_relay/provider/oauth.py", TOP.format("import aiohttp.web"), 3),
        (libraries_have_one_door, "device/token_relay/host/http.py", TOP.format("from tests.core import opener"), 3),
        (pure_modules_are_pure, "relay/token_relay/protocol/envelope.py", TOP.format("import os"), 3),
        (pure_modules_are_pure, "relay/token_relay/protocol/envelope.py", LATE.format("from time import time"), 5),
        (
            pure_modules_are_pure,
            "relay/token_relay/protocol/envelope.py",
            TOP.format("from nacl.utils import random"),
            3,
        ),
        (pure_modules_are_pure, "relay/token_relay/protocol/envelope.py", TOP.format("import structlog"), 3),
        (
            pure_modules_are_pure,
            "relay/token_relay/protocol/envelope.py",
            TOP.format("from token_relay.mqtt import channel"),
            3,
        ),
        (
            pure_modules_are_pure,
            "device/token_relay/agents/grants/lease.py",
            TOP.format("from token_relay.agents.grants.keeper import X"),
            3,
        ),
        (
            pure_modules_are_pure,
            "relay/token_relay/protocol/handoff.py",
            TOP.format("async def step() -> None: ..."),
            3,
        ),
        (
            pure_modules_are_pure,
            "device/token_relay/agents/ports.py",
            TOP.format("class A:\n    async def now(self) -> None: ..."),
            4,
        ),
        (
            pure_modules_are_pure,
            "relay/token_relay/pki/certificates.py",
            TOP.format("from datetime import datetime\nT = datetime.now()"),
            4,
        ),
        (pure_modules_are_pure, "relay/token_relay/pki/certificates.py", LATE.format("return open('x')"), 5),
        (pure_modules_are_pure, "relay/token_relay/pki/certificates.py", LATE.format("global x"), 5),
        (
            agents_reach_the_world_through_ports,
            "device/token_relay/agents/phone/agent.py",
            LATE.format("import socket"),
            5,
        ),
        (
            agents_reach_the_world_through_ports,
            "device/token_relay/agents/phone/new.py",
            TOP.format("from os import environ"),
            3,
        ),
        (
            agents_reach_the_world_through_ports,
            "device/token_relay/agents/companion/x.py",
            TOP.format("from pathlib import Path"),
            3,
        ),
        (
            agents_reach_the_world_through_ports,
            "device/token_relay/agents/link.py",
            TOP.format("from token_relay.mqtt.channel import X"),
            3,
        ),
        (
            agents_reach_the_world_through_ports,
            "device/token_relay/agents/grants/keeper.py",
            LATE.format("asyncio.sleep(1)"),
            5,
        ),
        (sandbox_core_has_no_io, "relay/token_relay/sandbox/provider/core.py", TOP.format("import time"), 3),
        (
            sandbox_core_has_no_io,
            "relay/token_relay/sandbox/provider/world/rules.py",
            TOP.format("async def f() -> None: ..."),
            3,
        ),
        (
            imports_are_written_out,
            "device/token_relay/agents/link.py",
            TOP.format("from token_relay.protocol.handoff import *"),
            3,
        ),
        (imports_are_written_out, "device/token_relay/agents/link.py", LATE.format("importlib.import_module('x')"), 5),
        (modules_are_small_and_explained, "device/token_relay/agents/link.py", "X = 1\n", 1),
        (modules_are_small_and_explained, "device/token_relay/agents/link.py", '"""Doc."""\n' * 531, 531),
        (modules_are_small_and_explained, "device/token_relay/agents/link.py", "", 1),
    ],
)
def test_a_planted_violation_is_found(rule: Callable[[Modules], list[str]], path: str, source: str, line: int) -> None:
    others = (
        "device/token_relay/agents/__init__.py",
        "device/token_relay/agents/phone/__init__.py",
        "relay/token_relay/sandbox/__init__.py",
        "relay/token_relay/x.py",
        "device/token_relay/agents/link.py",
    )
    sources = (
        {name: '"""Doc."""\n' for name in others}
        | {"relay/token_relay/mqtt/channel.py": '"""Doc."""\n'}
        | {path: source}
    )
    found = rule(parse(sources))
    assert [text.partition(": ")[0] for text in found] == [f"{path}:{line}"], found


def test_a_planted_cycle_is_found_though_one_import_is_late() -> None:
    sources = {
        "device/token_relay/a.py": TOP.format("from token_relay import b"),
        "device/token_relay/b.py": TOP.format("import token_relay.c"),
        "device/token_relay/c.py": LATE.format("from token_relay.a import x"),
        "device/token_relay/d.py": TOP.format("import token_relay.a"),
    }
    found = there_is_no_cycle(parse(sources))
    circle = "token_relay.a -> token_relay.b -> token_relay.c -> token_relay.a"
    assert found == [f"device/token_relay/c.py:5: imports in a circle: {circle}"]


def test_an_import_for_type_checkers_only_makes_no_cycle() -> None:
    typing = "if TYPE_CHECKING:\n    from token_relay import b"
    assert not there_is_no_cycle(
        parse(
            {
                "device/token_relay/a.py": TOP.format(typing),
                "device/token_relay/b.py": TOP.format("import token_relay.a"),
            }
        )
    )
