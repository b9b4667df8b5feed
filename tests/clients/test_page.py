"""The page on clients: each snippet does what it says as it stands there, and what it says about TLS is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import node_packages
from tests.clients.page_kit import PAGE, REFUSALS, ROOT, SNIPPETS, Sandbox, environment
from tests.needs import missing
from tests.watchdog import HANG_S
from tests.web_js.web_kit import free_port
from token_relay.sandbox.provider.world.model import CLIENT_ID

USER = "password@contoso.example"
PERSON = Path(__file__).with_name("person.py")
CURL = pytest.mark.skipif(bool(missing("curl")), reason=missing("curl"))


def node_script(sandbox: Sandbox, packages: Path, name: str, text: str) -> Path:
    """Put a snippet beside the packages, as somebody would who had installed them."""
    if not (sandbox.directory / "node_modules").exists():
        (sandbox.directory / "node_modules").symlink_to(packages / "node_modules")
    return sandbox.write(name, text)


def test_no_snippet_has_more_than_five_lines_and_each_is_for_a_test() -> None:
    assert set(SNIPPETS) == {
        *("msal-browser", "msal-redirect", "msal-python", "newman", "curl-entra"),
        *("auth0-spa-js", "node-auth0", "auth0-python", "express", "curl-auth0"),
    }
    read = PAGE.partition("## Read, not run")[2]
    unrun = re.findall(r"^```\w+\n(.*?)^```$", read, re.MULTILINE | re.DOTALL)
    assert len(unrun) == 7
    for text in (*SNIPPETS.values(), *unrun):
        assert len(text.splitlines()) <= 5, text


def test_every_version_is_pinned_and_no_lock_file_names_a_registry() -> None:
    here = PERSON.parent
    wanted = json.loads((here / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert not [*here.glob("*lock*"), *here.glob("*shrinkwrap*")]


def test_the_table_of_clients_is_what_the_sandbox_says(entra: Sandbox, auth0: Sandbox) -> None:
    rows = re.findall(r"^\| `(entra|auth0)` \| `([\w-]+)` \| [^|]+ \|(?: `([\w-]+)` | )\|$", PAGE, re.MULTILINE)
    said = {
        (profile, client["client_id"], client.get("client_secret", ""))
        for profile, sandbox in (("entra", entra), ("auth0", auth0))
        for client in sandbox.facts["clients"]
    }
    assert set(rows) <= said and len(rows) == 6
    assert {client for _, client, _ in said} - {client for _, client, _ in rows} == {"sandbox-saml"}


def test_msal_for_python(entra: Sandbox) -> None:
    pytest.importorskip("msal", reason="msal is not installed: MSAL for Python was not run")
    script = entra.write("msal_python.py", entra.snippet("msal-python"))
    browser = f"{sys.executable} {PERSON} %s &"  # webbrowser(3): & for one that goes on beside
    done = entra.run("python", [sys.executable, str(script)], BROWSER=browser)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == USER, done.stdout + done.stderr


def test_auth0_python(auth0: Sandbox) -> None:
    pytest.importorskip("auth0", reason="auth0-python is not installed: it was not run")
    done = auth0.run("python", [sys.executable, str(auth0.write("auth0_python.py", auth0.snippet("auth0-python")))])
    assert done.stdout == "openid offline_access\n", done.stdout + done.stderr


def test_node_auth0(auth0: Sandbox, packages: Path) -> None:
    script = node_script(auth0, packages, "node_auth0.mjs", auth0.snippet("node-auth0"))
    done = auth0.run("node", [node_packages.program(), str(script)])
    assert f"{CLIENT_ID} Native app" in done.stdout.splitlines(), done.stdout + done.stderr


def test_the_postman_collection(entra: Sandbox, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    done = entra.run("node", ["bash", "-ec", entra.snippet("newman")], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@CURL
@pytest.mark.parametrize("name", ["entra", "plain_entra"])
def test_curl_signs_in_natively(name: str, request: pytest.FixtureRequest) -> None:
    sandbox: Sandbox = request.getfixturevalue(name)
    done = sandbox.run("curl", ["bash", "-ec", sandbox.snippet("curl-entra")])
    assert json.loads(done.stdout)["refresh_token"]


@CURL
@pytest.mark.parametrize("name", ["auth0", "plain_auth0"])
def test_curl_signs_in_by_password(name: str, request: pytest.FixtureRequest) -> None:
    sandbox: Sandbox = request.getfixturevalue(name)
    done = sandbox.run("curl", ["bash", "-ec", sandbox.snippet("curl-auth0")])
    assert json.loads(done.stdout)["refresh_token"]


@pytest.mark.parametrize("name", ["auth0", "plain_auth0"])
def test_express_openid_connect(name: str, request: pytest.FixtureRequest, packages: Path) -> None:
    sandbox: Sandbox = request.getfixturevalue(name)
    port = free_port()
    script = node_script(sandbox, packages, "express.mjs", sandbox.snippet("express", app_port=port))
    command = sandbox.command("node", [node_packages.program(), str(script)])
    process = subprocess.Popen(command, cwd=sandbox.directory, env=environment(), stdin=subprocess.DEVNULL)
    try:
        done = sandbox.run("python", [sys.executable, str(PERSON), f"http://localhost:{port}/"])
    finally:
        process.kill()
        process.wait(HANG_S)
    assert done.stdout == f"{USER}\n", done.stdout + done.stderr


@pytest.mark.parametrize("trusting", ["node", "python"])
def test_without_the_line_nobody_trusts_the_sandbox(auth0: Sandbox, packages: Path, trusting: str) -> None:
    if trusting == "node":
        words = [node_packages.program(), str(node_script(auth0, packages, "n.mjs", auth0.snippet("node-auth0")))]
    else:
        words = [sys.executable, str(auth0.write("a.py", auth0.snippet("auth0-python")))]
    done = auth0.run("nobody", words)
    assert done.returncode != 0
    assert re.search("(?i)certificate", done.stderr), done.stderr


def test_what_insists_on_https_says_what_the_page_says(
    plain_entra: Sandbox, plain_auth0: Sandbox, packages: Path
) -> None:
    script = plain_entra.write("msal_python.py", plain_entra.snippet("msal-python"))
    refused = plain_entra.run("python", [sys.executable, str(script)])
    assert refused.returncode != 0 and REFUSALS["MSAL for Python"] in refused.stderr
    script = plain_auth0.write("auth0_python.py", plain_auth0.snippet("auth0-python"))
    failed = plain_auth0.run("python", [sys.executable, str(script)])
    assert failed.returncode != 0 and "ssl" in failed.stderr.lower(), failed.stderr
    script = node_script(plain_auth0, packages, "node_auth0.mjs", plain_auth0.snippet("node-auth0"))
    failed = plain_auth0.run("node", [node_packages.program(), str(script)])
    assert failed.returncode != 0 and "ssl" in failed.stderr.lower(), failed.stderr
