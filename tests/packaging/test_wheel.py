"""The wheel in other people's hands: one import name, and manual pages, documents and completion without a checkout.

A relay board on a Raspberry Pi makes ``relay.py`` a likely name for a module of whoever uses the kit.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.watchdog import HANG_S
from token_relay.cli import main as cli
from token_relay.cli.commands.docs import directory, documents

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
CITED = re.compile(r"(?<!/)\b(?:docs|certs|tests)/[\w./]*\w|(?<!/)\b[\w-]+\.md\b")  # a file of the checkout
NAMED = re.compile(r"token-relay docs ([\w./-]*\w)")  # as messages and help name a document


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command away from the checkout; return what it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MANPATH")}
    ran = subprocess.run(
        words, cwd=cwd, env={**kept, **environment}, check=False, capture_output=True, text=True, timeout=HANG_S
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by the backend that pyproject.toml names."""
    place, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source") / "token-relay"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "build", "dist")
    shutil.copytree(ROOT, source, ignore=left_out)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, ".", cwd=source)
    (built,) = place.glob("token_relay-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel. What it depends on is taken from here.

    The checkout itself is in a .pth file of this environment, which is not followed from there.
    """
    place = tmp_path_factory.mktemp("installed") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=place.parent)
    run(*PIP, "--python", place / "bin/python", "install", "--no-deps", "--no-index", wheel, cwd=place.parent)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = "import token_relay.agents.link as link; print(link.__file__)"
    assert str(site) in run(place / "bin/python", "-c", where, cwd=place)
    return place


@pytest.fixture
def command(environment: Path, tmp_path: Path) -> str:
    """The path of the installed program."""
    return str(environment / "bin" / "token-relay")


# -- One import name ---------------------------------------------------------------------------------------


def test_the_wheel_has_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not re.fullmatch(r"token_relay-.*\.(dist-info|data)", top)} == {"token_relay"}
    assert len(names) == len(set(names)), "one file twice"
    assert "token_relay/py.typed" in names and "token_relay/__init__.py" not in names
    rooms = {name.split("/")[1] for name in names if name.startswith("token_relay/")}
    assert {"protocol", "sandbox", "agents", "cli"} <= rooms  # of both halves


PROJECT = {
    "device.py": "def name() -> str:\n    return 'the board that switches the relay'\n",
    "relay.py": "def switch(on: bool) -> str:\n    return 'on' if on else 'off'\n",
    # Called as rooms of ours are: pytest takes these for the top-level packages of a wheel with pytest11.
    "agents.py": "def sold() -> int:\n    return 3\n",
    "vault/__init__.py": "",
    "conftest.py": "import vault\n",
    "test_board.py": """\
import pytest

import agents
import device
import relay


@pytest.mark.asyncio
async def test_the_board_switches_with_a_token(relay_world):
    await relay_world.phone.sign_in()
    await relay_world.phone.hand_off("watch")
    answer = await relay_world.until(relay_world.companion.token)
    assert answer.is_granted
    assert relay.switch(True) == "on" and device.name().startswith("the board") and agents.sold() == 3
""",
}


@pytest.mark.parametrize("conftest", ["", 'pytest_plugins = ["token_relay.simulation.pytest_plugin"]\n'])
def test_a_project_with_names_like_ours_uses_the_kit(environment: Path, tmp_path: Path, conftest: str) -> None:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + (conftest if name == "conftest.py" else ""))
    words = ("-W", "error", "-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider")
    said = run(environment / "bin/python", "-m", "pytest", "-q", *words, cwd=tmp_path, PYTEST_ADDOPTS="")
    assert "1 passed" in said


# -- Manual pages and completion ---------------------------------------------------------------------------


@pytest.mark.skipif(needs.missing("man") != "", reason=needs.missing("man"))
@pytest.mark.parametrize(
    ("words", "page"), [(["token-relay"], "man1/token-relay.1"), (["5", "token-relay-config"], "")]
)
def test_man_finds_the_pages_beside_a_program_on_the_path(environment: Path, words: list[str], page: str) -> None:
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    found = run("man", "-w", *words, cwd=environment, PATH=path)
    assert Path(found.strip()) == environment / "share/man" / (page or "man5/token-relay-config.5")


def test_completion_is_where_shells_look(environment: Path, command: str) -> None:
    bash = (environment / "share/bash-completion/completions/token-relay").read_text()
    zsh = (environment / "share/zsh/site-functions/_token-relay").read_text()
    assert "token-relay completion bash" in bash and zsh.startswith("#compdef token-relay\n")
    assert "complete -o bashdefault -F _shtab_token_relay token-relay" in run(
        command, "completion", "bash", cwd=environment
    )


def test_a_service_is_installed_from_the_wheel_as_from_the_checkout(
    environment: Path, command: str, tmp_path: Path
) -> None:
    where = ("--program", "/opt/token-relay", "--json")
    run(command, "service", "install", "--root", tmp_path / "wheel", *where, cwd=tmp_path)
    checkout = (sys.executable, "-m", "token_relay.cli", "service", "install", "--root", tmp_path / "checkout", *where)
    run(*checkout, cwd=tmp_path)
    trees = []
    for root in (tmp_path / "wheel", tmp_path / "checkout"):
        trees.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()})
    assert trees[0] == trees[1]
    share = Path("usr/local/share")
    for name in (
        "man/man1/token-relay.1",
        "bash-completion/completions/token-relay",
        "zsh/site-functions/_token-relay",
    ):
        assert share / name in trees[0]
    run(command, "service", "install", "--user", cwd=tmp_path, HOME=str(tmp_path / "home"), XDG_CONFIG_HOME="")
    unit = (tmp_path / "home/.config/systemd/user/token-relay-phone.service").read_text()
    assert f"ExecStart={environment}/bin/token-relay phone run" in unit


# -- Documents ---------------------------------------------------------------------------------------------


def test_every_document_is_listed_with_a_line_and_printed_by_its_name(environment: Path, command: str) -> None:
    place = Path(run(command, "docs", "--path", cwd=environment).strip())
    assert environment in place.parents
    listed = json.loads(run(command, "docs", "--json", cwd=environment))["documents"]
    lines = run(command, "docs", cwd=environment).splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [[one["name"], one["about"]] for one in listed]
    names = [one["name"] for one in listed]
    files = {path for path in (*place.rglob("*"), place.parent / "certs/README.md") if path.is_file()}
    assert len(names) == len(set(names)) == len(files) > 30
    assert {
        "troubleshooting",
        "sandbox",
        "native-auth.postman_collection",
        "grafana-dashboard",
        "examples",
        "certs",
    } <= set(names)
    found = {json.loads(run(command, "docs", name, "--json", cwd=environment))["path"] for name in names[::6]}
    assert {Path(path).resolve() for path in found} <= {path.resolve() for path in files} and len(found) == len(
        names[::6]
    )
    assert run(command, "docs", "zoo", cwd=environment) == (ROOT / "docs/zoo.md").read_text()


def test_what_ships_is_all_but_what_is_for_changing_the_program(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        shipped = {
            name.removeprefix("token_relay/") for name in packed.namelist() if name.startswith("token_relay/docs/")
        }
    left_out = ("completion", "decisions", "img", "man", "mutants.md")
    paths = (path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*") if path.is_file())
    kept = (path for path in paths if path.suffix != ".py" and "node_modules" not in path.parts)
    expected = {str(path) for path in kept if path.parts[1] not in left_out}
    assert shipped == expected and len(shipped) > 30
    in_checkout = documents(directory())
    assert {f"docs/{path}" for path in in_checkout} == expected | {"docs/../certs/README.md"}


def test_an_unknown_document_is_refused_with_the_nearest(environment: Path, command: str) -> None:
    ran = subprocess.run([command, "docs", "trubleshooting"], capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "did you mean troubleshooting?" in ran.stderr and "token-relay docs" in ran.stderr


# -- What messages and help cite ---------------------------------------------------------------------------


def texts() -> Iterator[tuple[str, str]]:
    """Yield every text of the product that is no docstring, and where it stands."""
    for path in sorted((*ROOT.glob("relay/**/*.py"), *ROOT.glob("device/**/*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def test_no_message_cites_a_file_of_the_checkout_and_every_document_named_is_there(
    environment: Path, command: str
) -> None:
    names = set()
    for place, text in texts():
        if not place.startswith("device/token_relay/cli/commands/docs.py"):  # it reads them
            assert not CITED.search(text), (place, text)
        names |= set(NAMED.findall(text))
    assert {"sandbox", "zoo", "updating", "configuration"} <= names
    for name in sorted(names):
        assert json.loads(run(command, "docs", name, "--json", cwd=environment))["text"]


def test_no_help_cites_a_file_that_a_wheel_does_not_have(environment: Path) -> None:
    ask = f"""if True:
        import contextlib, io
        from token_relay.cli import main
        for words in {[words for words, _ in commands()]!r}:
            main.main([*words, "--help"])
    """
    help_texts = run(environment / "bin/python", "-c", ask, cwd=environment)
    assert help_texts.count("exit codes:") == len(list(commands()))
    assert not CITED.search(help_texts), CITED.findall(help_texts)


def commands() -> Iterator[tuple[list[str], str]]:
    """Yield every command as it is typed."""
    for group in (*cli.GROUPS, "sandbox ctl"):
        for name, command in cli.commands_of(group).items():
            if name == group or group not in cli.commands_of(group):
                yield [*group.split(), *([name] if name != group else [])], command.help
