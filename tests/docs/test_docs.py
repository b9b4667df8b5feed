"""What the documents say is what the program does: commands, options, settings, slugs, names, links.

The documents are read as text; what they must contain comes from the program's own tables. So a command that is
renamed, an option that is added or a reason that nobody explained fails here, with the line to write.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest

from token_relay.agents.ports import Now
from token_relay.agents.records import Grant, GrantStateName, PhoneHandoff
from token_relay.agents.token_source import RefusalCode
from token_relay.apps.policy import parse_policy
from token_relay.apps.server import PARAMETERS, STATUS
from token_relay.cli import main as cli
from token_relay.cli.parsing import EXIT_CODES, INTERRUPTED, Parser, UsageError
from token_relay.host.config import CompanionConfig, PhoneConfig, settings
from token_relay.host.config_file import check_config
from token_relay.protocol.handoff import PhoneState
from token_relay.provider.profile import PROFILES
from token_relay.sandbox.control.api import _HANDLERS as CONTROL_HANDLERS
from token_relay.sandbox.provider.world.model import (
    CLIENT_ID,
    DEFAULT_WORLD,
    FAULT_NAMES,
    PASSWORD,
    EndpointName,
    PolicyModel,
    parse_world,
)
from token_relay.service.actions import ACTIONS
from token_relay.service.control import AskKind
from token_relay.service.devices import handoff_row
from token_relay.service.status import grant_row

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), ROOT / "certs" / "README.md", *DOCS.rglob("*.md")], key=str)
GROUPS = ("phone", "companion", "provider", "certs", "vault", "sandbox", "sandbox ctl", "demo", "try")
BLANK_NOW = Now(wall_s=1e9, is_synced=True, boot_s=1.0, boot_id="0" * 32)

# Every place that the documents may point to. Anything else is a slip of somebody's own machine or service.
HOSTS = {
    "accounts.google.com", "contoso.ciamlogin.com", "example.eu.auth0.com", "graph.microsoft.com", "keepachangelog.com",
    "semver.org", "other.invalid", "localhost", "127.0.0.1",
}  # fmt: skip
ROOTS = {
    "opt", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var",  # of the file system
    ".well-known", "authorize", "callback", "contoso.onmicrosoft.com", "discovery", "login", "oauth", "oauth2",  # URLs
    "activate", "api", "oidc", "register", "resetpassword", "samlp", "sandbox", "signup", "userinfo", "users", "v1",
    "v2", "v2.0", "wsfed", "redirect.html",
}  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- Command lines -----------------------------------------------------------------------------------------


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def indented(text: str) -> list[str]:
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for line in outside.splitlines() if re.match(r" {4}(\w+=\S+ )*token-relay ", line)]


def command_lines(shell: str) -> Iterator[list[str]]:
    """Yield the arguments of each ``token-relay`` in a shell text: after pipes, ``&``, assignments and in ``$(…)``."""
    lexer = shlex.shlex(shell.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, "#"
    words: list[str] = []
    is_target = False
    for token in [*lexer, "\n"]:
        for inner in re.findall(r"\$\(([^()]*)\)", token):
            yield from command_lines(inner)
        if set(token) <= set("<>"):
            is_target = True
            if words and words[-1] == "2":  # of 2>
                words.pop()
        elif set(token) <= set("();|&\n"):
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words and words[0] == "token-relay":
                yield words[1:]
            words, is_target = [], False
        elif not is_target:
            words.append(token)
        else:
            is_target = False


def shown_commands(text: str) -> list[list[str]]:
    # shlex takes a comment's end of line along with it, which would join two commands
    blocks = [re.sub(r"(^|\s)#.*$", "", block, flags=re.MULTILINE) for block in fenced(text, "sh") + indented(text)]
    return [words for block in blocks for words in command_lines(block)]


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_command_line_that_a_page_shows_is_taken_by_the_parser(path: Path) -> None:
    for words in shown_commands(path.read_text(encoding="utf-8")):
        cli.parse(words)


def test_the_search_for_command_lines_finds_them() -> None:
    assert len(shown_commands(read("README.md"))) >= 15
    assert len(shown_commands(read("certs/README.md"))) >= 5
    shell = 'A=b token-relay x 2>f &\ncurl -H "Bearer $(token-relay y z)" u | token-relay w - < f\n'
    assert list(command_lines(shell)) == [["x"], ["y", "z"], ["w", "-"]]


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_command_named_in_running_text_exists(path: Path) -> None:
    for span in re.findall(
        r"`(?:token-relay )?((?:phone|companion|certs|sandbox|demo) [a-z-][^`…|{]*)`", path.read_text()
    ):
        try:
            for words in command_lines(f"token-relay {span}\n"):
                cli.parse(words)
        except SystemExit as exc:
            assert exc.code == 0  # --help
        except UsageError as exc:
            assert "required" in str(exc), f"{span}: {exc}"


def leaves() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Yield title, help and own options of every command."""
    for group in GROUPS:
        for name, command in cli.commands_of(group).items():
            if group in ("sandbox", "demo", "try") and name != group:
                continue
            parser = Parser(prog="token-relay")
            command.options(parser)
            yield (name if name == group else f"{group} {name}"), command.help, parser


def rows_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the row that the table of a command has for each of its options."""
    for group in parser._action_groups:
        for action in () if group.title == "agent" else group._group_actions:
            if isinstance(action, argparse._HelpAction) or action.option_strings == ["--json"]:
                continue
            choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
            name = action.option_strings[0] if action.option_strings else ""
            value = "" if action.nargs == 0 else str(action.metavar or choices)
            required = " (required)" if action.option_strings and action.required else ""
            text = f"| `{f'{name} {value}'.strip()}`{required} | {action.help} |"
            yield text[:2] + text[2:-2].replace(" | ", "\0").replace("|", "\\|").replace("\0", " | ") + text[-2:]


@pytest.mark.parametrize("title", [title for title, _, _ in leaves()])
def test_every_command_has_its_section_with_every_option_as_help_says_it(title: str) -> None:
    help_text, parser = next((text, parser) for name, text, parser in leaves() if name == title)
    page = read("docs/spec/command-line.md")
    found = re.search(rf"^### `{re.escape(title)}`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section ### `{title}`"
    assert f"{help_text[:1].upper()}{help_text[1:]}." in found[1]
    table = re.search(r"^\| \| \|\n\| --- \| --- \|\n((?:\|.*\n)+)", found[1], re.MULTILINE)
    assert (table[1].splitlines() if table else []) == list(rows_of(parser))


def test_every_exit_code_is_documented_as_help_says_it() -> None:
    codes = re.findall(r"^ +(\d)  (.+)$", EXIT_CODES, re.MULTILINE)
    assert len(codes) == 7
    for number, meaning in codes:
        assert f"| {number} | {meaning} |" in read("docs/spec/command-line.md")
        assert f"| {number} | {meaning.partition(';')[0]}" in read("docs/troubleshooting.md")
    assert f"| {INTERRUPTED} |" in read("docs/spec/command-line.md")


def test_help_names_the_environment_that_the_page_explains() -> None:
    page = read("docs/spec/command-line.md")
    for name in re.findall(r"^ +([A-Z_]{6,}) ", cli.ENVIRONMENT, re.MULTILINE):
        assert f"`{name}`" in page


def test_fields_of_json_results_are_explained() -> None:
    page = read("docs/spec/command-line.md")
    grant = Grant(
        grant_id="", pairing_id="", handoff_id="", issuer="", client_id="", token_endpoint="", revocation_endpoint="",
        scope="", audience="", subject="", account="", profile="entra", signed_in_at=0, is_otp=False, stored_at=0,
        refresh_token=None,
    )  # fmt: skip
    handoff = PhoneHandoff(
        handoff_id="", pairing_id="", grant_id="", state="done", reason="", strategy="mint", scope="", lease_days=0,
        created="", created_at=0, expires_at=0,
    )  # fmt: skip
    for key in {**grant_row(grant, [], "", BLANK_NOW), **handoff_row(handoff)}:
        assert f"`{key}`" in page, key


# -- Slugs -------------------------------------------------------------------------------------------------


def calls(*functions: str) -> Iterator[str]:
    """Yield the first text argument of every call of these functions, anywhere in the program."""
    files = [path for room in ("relay", "device") for path in (ROOT / room).rglob("*.py")]
    for path in files:
        if "sandbox" in path.parts or "simulation" in path.parts or "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                if name in functions and texts:
                    yield texts[0]


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_cells(text: str) -> list[str]:
    """Return what stands in backticks in the first column of the tables of a text."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [slug for cell in rows for slug in re.findall(r"`([^`]+)`", cell)]


def test_every_action_of_status_has_its_section_and_no_other() -> None:
    actions = section(read("docs/troubleshooting.md"), "Actions of status")
    assert sorted(re.findall(r"^### `(\w+)`$", actions, re.MULTILINE)) == sorted(ACTIONS)


def test_every_refusal_of_the_token_api_is_explained_with_its_status() -> None:
    assert set(STATUS) == set(get_args(RefusalCode))
    others = set(re.findall(r'refused\(\d+, "(\w+)"', read("device/token_relay/apps/server.py")))
    assert {"unknown_path", "method_not_allowed", "internal_error"} <= others
    for name in ("docs/troubleshooting.md", "docs/spec/local-api.md"):
        page = read(name)
        for code, status in STATUS.items():
            assert f"| `{code}` | {status} |" in page, (name, code)
        for code in others:
            assert f"| `{code}` |" in page, (name, code)
    for parameter in PARAMETERS:
        assert f"| `{parameter}` |" in read("docs/spec/local-api.md")


def test_every_reason_for_dropping_a_message_is_explained_and_none_is_invented() -> None:
    in_code = set(calls("PeerError", "count_reject")) | {"unsupported"}
    in_page = first_cells(section(read("docs/troubleshooting.md"), "Counters of dropped messages"))
    assert sorted(in_page) == sorted(in_code)


def test_every_reason_for_refusing_a_providers_proof_is_explained() -> None:
    page = read("docs/troubleshooting.md")
    for code in set(calls("ProviderError")):
        assert f"`{code}`" in page, code


def test_every_broker_error_is_explained() -> None:
    page = section(read("docs/troubleshooting.md"), "The broker")
    tree = ast.parse(read("relay/token_relay/mqtt/connection.py"))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_REFUSALS"
    )
    describe = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "describe")
    returned = [node.value for node in ast.walk(describe) if isinstance(node, ast.Return)]
    said = [*(table.values if isinstance(table, ast.Dict) else []), *returned]
    words = [node.value for node in said if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert len(words) > 15
    for text in words:
        assert f"`{text}`" in page, text


def test_every_state_is_explained() -> None:
    page = section(read("docs/troubleshooting.md"), "States of a grant and of a handoff")
    states = [kind.__name__.lower() for kind in get_args(PhoneState) if kind.__name__ != "New"]
    grants = get_args(GrantStateName)
    assert len(grants) == 6
    for state in [*states, *grants]:
        assert f"`{state}`" in page, state


def test_every_event_is_explained() -> None:
    page = read("docs/spec/command-line.md")
    names = set(calls("event"))
    names |= {
        "refreshed",
        "refresh_denied",
        "provider_unavailable",
        "refresh_page",
        "refresh_answer_lost",
    }  # by outcome
    names |= {"session_transfer_issued", "session_transfer_refused"}
    assert len(names) > 20
    for name in names:
        assert f"`{name}`" in page or name.startswith("handoff_"), name


# -- Configuration, sandbox, sockets -----------------------------------------------------------------------


def test_every_setting_is_explained_in_its_own_words() -> None:
    page = read("docs/spec/configuration.md")
    both = {key for key, _ in settings(CompanionConfig)}
    for key, description in settings(PhoneConfig):
        title = "Both agents" if key in both else "The phone alone"
        row = re.search(rf"^\| `{re.escape(key)}` \| .*$", section(page, title), re.MULTILINE)
        assert row, f"{key} is not under {title}"
        assert row[0].endswith(f" | {description} |"), f"the row of {key} should end with: {description}"
    shown = re.findall(r"^\| `([a-z_.]+)` \|", section(page, "Both agents") + section(page, "The phone alone"), re.M)
    assert sorted(shown) == sorted(key for key, _ in settings(PhoneConfig))
    phones = {key for key, _ in settings(PhoneConfig)}
    rows = [f" | {description} |" for key, description in settings(CompanionConfig) if key not in phones]
    own = [row for row in section(page, "The companion alone").splitlines() if row.startswith("| `")]
    assert len(own) == len(rows) > 0
    assert all(row.endswith(end) for row, end in zip(own, rows, strict=True))


def test_the_examples_of_configuration_policy_and_world_are_taken() -> None:
    (config,) = fenced(read("docs/spec/configuration.md"), "toml")
    assert isinstance(check_config(PhoneConfig, config, Path("/etc")), PhoneConfig)
    (policy,) = fenced(read("docs/spec/local-api.md"), "toml")
    assert len(parse_policy(policy, file="policy.toml", owner_uid=1000).rules) == 3
    (world,) = fenced(read("docs/spec/sandbox.md"), "toml")
    assert len(parse_world(world, file="world.toml").users) == 2
    assert tomllib.loads(world)["faults"]


def test_the_faults_of_the_page_are_those_of_the_sandbox() -> None:
    faults = section(read("docs/spec/sandbox.md"), "Faults")
    table = faults.partition("| field |")[0]
    assert sorted(first_cells(table)) == sorted(FAULT_NAMES)
    for endpoint in get_args(EndpointName):
        assert f"`{endpoint}`" in faults
    control = section(read("docs/spec/sandbox.md"), "Control interface")
    for knob in PolicyModel.model_fields:
        assert f"`{knob}`" in control, knob
    for method, path in [*CONTROL_HANDLERS, ("GET", "links"), ("POST", "links")]:
        assert f"`{method} /sandbox/{path}" in control, (method, path)


def test_every_event_of_the_sandbox_is_named() -> None:
    control = section(read("docs/spec/sandbox.md"), "Control interface")
    for path in (ROOT / "relay/token_relay/sandbox").rglob("*.py"):
        for kind in re.findall(r'note\(\s*"(\w+)"', path.read_text(encoding="utf-8")):
            assert f"`{kind}`" in control, kind


def test_the_default_world_is_told_where_a_person_looks_for_it() -> None:
    for name in ("README.md", "docs/spec/sandbox.md"):
        page = read(name)
        assert CLIENT_ID in page and PASSWORD in page and f"`{DEFAULT_WORLD.tenant}`" in page
        for user in DEFAULT_WORLD.users:
            assert user.username in page
        for profile in PROFILES if name == "docs/spec/sandbox.md" else ("entra", "auth0", "strict"):
            assert f"`{profile}`" in page


def handlers(kind: str) -> set[str]:
    """Return the commands that an agent serves on its control socket: its own, and those that both agents share."""
    found: list[ast.Dict] = []
    for node in ast.walk(ast.parse(read(f"device/token_relay/service/{kind}.py"))):
        if isinstance(node, ast.keyword) and node.arg == "handlers" and isinstance(node.value, ast.Dict):
            found.append(node.value)
            assert [ast.unparse(node.value.values[i]) for i, key in enumerate(node.value.keys) if key is None] == [
                "commands.shared"
            ]
    for node in ast.walk(ast.parse(read("device/token_relay/service/commands.py"))):
        if isinstance(node, ast.FunctionDef) and node.name == "shared":
            found += [one for one in ast.walk(node) if isinstance(one, ast.Dict)]
    assert len(found) == 2
    return {str(key.value) for one in found for key in one.keys if isinstance(key, ast.Constant)}


@pytest.mark.parametrize("kind", ["phone", "companion"])
def test_every_command_of_the_control_socket_is_listed(kind: str) -> None:
    page = read("docs/spec/local-api.md")
    rows = re.findall(rf"^\| (?:both|{kind}) \| ([^|]*) \|", page, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(handlers(kind))


def test_every_question_of_an_agent_is_listed() -> None:
    page = read("docs/spec/local-api.md")
    for kind in get_args(AskKind):
        assert f"| `{kind}` |" in page


# -- Links, names, places ----------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Return the anchors that a forge makes of the headings."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{path.name}: {target}"


def test_every_decision_is_in_the_index() -> None:
    index = read("docs/README.md")
    for path in (DOCS / "decisions").glob("*.md"):
        assert f"(decisions/{path.name})" in index
        first, text = path.read_text(encoding="utf-8").split("\n", 1)
        assert first.startswith(f"# {path.name[:4]} ") and "Status: " in text


def test_every_test_that_a_page_names_exists() -> None:
    defined = {
        name for path in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    for path in PAGES:
        for name in re.findall(r"`(test_\w+)`", path.read_text(encoding="utf-8")):
            assert name in defined, f"{path.name}: {name}"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_pages_point_only_to_known_hosts_and_ordinary_places(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for host in re.findall(r"(?:https?|mqtts?)://([\w.-]+)", text):
        assert host in HOSTS or host.endswith(".example") or host in {"HOST", "h"}, host
    for place in re.findall(r"(?<![^\s`\"'(=])/([\w.-]+)", text):
        assert place in ROOTS, place


def test_the_readmes_first_screen_tells_the_story() -> None:
    lines = read("README.md").splitlines()
    first_sentence = " ".join(lines[2:]).partition(": ")[0]
    assert "watch" in first_sentence and "phone is off" in first_sentence
    screen = "\n".join(lines[:40])
    for needed in ("docs/img/story.svg", "make demo", "make test", "stolen SD card gives away everything", "root"):
        assert needed in screen
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {"demo", "test"} <= targets


def test_the_picture_is_well_formed_and_says_in_words_what_it_shows() -> None:
    root = ElementTree.parse(DOCS / "img" / "story.svg").getroot()
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "desc", "text"} <= names
    assert not names & {"script", "image", "foreignObject"}


def test_the_license_is_the_whole_apache_license() -> None:
    text = read("LICENSE")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in read("pyproject.toml")


# -- The first steps ---------------------------------------------------------------------------------------

CONCEPTS = {  # of the project; each is a thing to understand before a line that names it can be typed
    "phone": r"phone", "companion": r"companion", "sandbox": r"sandbox", "sign-in": r"sign(s|ed)?[- ]in\b",
    "grant": r"grant", "handoff": r"hand(s|ed)?[ -]?off|handoff", "agent": r"\bagent", "broker": r"broker|mqtt",
    "provider": r"provider", "home": r"\bhomes?\b|\binit\b", "device id": r"device id", "profile": r"--profile",
    "tenant": r"tenant", "client id": r"client[- ]id", "gate": r"\bgate\b|refresh-token-access",
    "pairing": r"\bpair", "invitation": r"invitation", "check number": r"check number|six digits",
    "strategy": r"strategy|\bbranch\b|\bmint\b", "lease": r"\blease",
}  # fmt: skip


def test_six_words_are_enough_until_the_first_handoff_of_ones_own() -> None:
    page = read("README.md")
    until, _, rest = page.partition("token-relay try ")
    explained = rest.partition("It needs Python")[0]
    listed = set(re.findall(r"\*\*(.+?)\*\*", explained))
    assert explained.count("```") == 1 and "Six words" in explained
    met = {name for name, pattern in CONCEPTS.items() if re.search(pattern, until + explained, re.IGNORECASE)}
    assert met == listed
    assert len(listed) == 6
    assert until.count("\n") <= 24, "the three commands are on the first screen"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_no_page_tells_a_person_to_wait_a_number_of_seconds(path: Path) -> None:
    for block in re.findall(r"^ *```(?:sh|console|)\n(.*?)^ *```$", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        assert not re.search(r"(?:^|[;&|(]|\bdo)\s*sleep\s", block, re.MULTILINE), block
