"""The requests of the Auth0 CLI, as its published source has them, against the sandbox: auth0_cli.toml."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.replays.shapes import problems
from tests.sandbox.transfer_kit import BASE, Browser, Desk, Reply, desk
from token_relay.sandbox.provider.world.auth0_clients import MANAGER_ID, MANAGER_SECRET, WEB_ID, WEB_SECRET
from token_relay.sandbox.provider.world.model import CLIENT_ID

CLI: dict[str, Any] = tomllib.loads((Path(__file__).parent / "auth0_cli.toml").read_text(encoding="utf-8"))
COMMANDS: list[dict[str, Any]] = CLI["command"]
SANDBOX = {
    "host": urlsplit(BASE).netloc,
    "native_id": CLIENT_ID,
    "web_id": WEB_ID,
    "web_secret": WEB_SECRET,
    "manager_id": MANAGER_ID,
    "manager_secret": MANAGER_SECRET,
    "state": "ab-_" * 21,  # base64url of 64 bytes, as the CLI makes it
}


class Cli:
    """Somebody at the CLI, and what it has read so far."""

    def __init__(self) -> None:
        self.desk: Desk = desk()
        self.values = dict(SANDBOX)

    def filled(self, value: Any) -> Any:
        """Put values in, wherever ``{NAME}`` stands."""
        if isinstance(value, dict):
            return {name: self.filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.filled(one) for one in value]
        return re.sub(r"\{(\w+)\}", lambda found: self.values[found[1]], value) if isinstance(value, str) else value

    def run(self, command: dict[str, Any]) -> None:
        """Send all requests of a command, and log in before where it needs that."""
        if needed := command.get("needs"):
            self.run(next(one for one in COMMANDS if one.get("brings") == needed))
        for request in command["request"]:
            if "person" in request:
                self._visit(request)
            else:
                self._check(request, self._send(request))

    def _send(self, request: dict[str, Any]) -> Reply:
        headers = self.filled(request.get("headers", {}))
        if request["path"].startswith("/api/v2/"):
            headers |= self.filled(CLI["management_headers"])
        if basic := self.filled(request.get("basic", [])):
            headers["authorization"] = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
        body = json.loads(request["json"]) if "json" in request else None
        form = self.filled(request["form"]) if "form" in request else None
        return self.desk.send(request["method"], self.filled(request["path"]), form=form, body=body, headers=headers)

    def _check(self, request: dict[str, Any], reply: Reply) -> None:
        where = f"{request['method']} {request['path']}: {reply.text}"
        assert reply.status == request.get("status", reply.status), where
        assert problems(reply.json, request["reads"]) == [], where
        assert self.filled(request.get("answers", {})).items() <= reply.json.items(), where
        for member, wanted in request.get("reads_in", {}).items():
            assert problems(reply.json[member], wanted) == [], where
        for member, wanted in request.get("answers_in", {}).items():
            assert self.filled(wanted).items() <= reply.json[member].items(), where
        for name, member in request.get("saves", {}).items():
            self.values[name] = reply.json[member]

    def _visit(self, request: dict[str, Any]) -> None:
        """Be the person: fill in the form, and say yes where that is asked."""
        self.desk.now += request.get("waits_s", 0)
        address = self.filled(request["person"]).rpartition(" at ")[2].removeprefix(BASE)
        browser = Browser(self.desk)
        reply = browser.submit(browser.send("GET", address))
        if ticket := re.search(r'name="ticket" value="([^"]+)"', reply.text):
            reply = browser.send("POST", "/login", form={"ticket": ticket[1], "action": "accept"})
            assert "signed in on your device" in reply.text, reply.text
            return
        back = dict(reply.headers)["Location"]
        brought = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
        assert back.startswith("http://localhost:8484?"), back
        assert self.filled(request["brought"]).items() <= brought.items(), back
        for name, parameter in request["saves"].items():
            self.values[name] = brought[parameter]


@pytest.mark.parametrize("command", COMMANDS, ids=[re.sub(r"[^\w-]+", "-", one["words"])[:70] for one in COMMANDS])
def test_the_sandbox_answers_as_the_cli_reads(command: dict[str, Any]) -> None:
    Cli().run(command)


def test_the_commands_work_one_after_the_other_in_one_tenant() -> None:
    cli = Cli()
    for command in COMMANDS:
        cli.run(command)
    shown = cli.desk.manage("GET", f"clients/{WEB_ID}").json
    assert shown["callbacks"] == ["http://localhost:8484"]
    assert shown["session_transfer"]["delegation"] == {"allow_delegated_access": True, "enforce_device_binding": "asn"}


@pytest.mark.parametrize("path", [one["path"] for one in CLI["not_played"] if "path" in one])
def test_what_is_not_played_is_not_there_yet(path: str) -> None:
    cli = Cli()
    cli.run(COMMANDS[0])
    reply = cli.desk.send("GET", path, headers=cli.filled(CLI["management_headers"]))
    assert (reply.status, reply.json["errorCode"]) == (404, "not_found"), "it is there: play it, see auth0_cli.toml"


def test_every_request_says_where_it_was_read_and_everything_left_out_says_why() -> None:
    assert all(one["why"] and one["request"] for one in CLI["not_played"])
    assert all(one.get("from") or "waits_s" in one for command in COMMANDS for one in command["request"])
