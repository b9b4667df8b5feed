"""Refusals of the command line's own end that no wrong step of a person alone leads to."""

from __future__ import annotations

import argparse
import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.cli_kit import Agent, Shell, context
from tests.cli.test_open_web import GRANTED, URL
from token_relay.agents.token_source import Peer, TokenQuery, TokenRefused, TransferQuery
from token_relay.apps import server
from token_relay.apps.policy import Allowed, Policy, parse_policy
from token_relay.apps.server import TokenApi
from token_relay.cli import client
from token_relay.cli.client import ClientError
from token_relay.cli.commands import browser_redirect, open_web
from token_relay.cli.commands.token import refused
from token_relay.host.clock import SystemClock
from token_relay.protocol.errors import ConfigError, LocalError
from token_relay.protocol.secret import SessionTransferToken
from token_relay.service import phone
from token_relay.service.copied_vault import _Locked
from token_relay.service.device_list import DeviceList
from token_relay.service.runtime import text_of

# -- The agent's end of the socket -------------------------------------------------------------------------


def test_a_socket_that_is_no_place_at_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "control.sock").symlink_to("control.sock")
    with pytest.raises(ClientError, match=r"cannot connect to .*control\.sock: Too many levels"):
        client.connect(tmp_path / "control.sock")


def test_an_answer_without_an_end_is_cut(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LINE_BYTES_MAX", 1000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "control.sock"))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"x" * 2000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ClientError, match="longer than 1000 bytes"):
            client.control_call(short_path / "control.sock", "status")
        thread.join()


def test_an_answer_of_the_token_socket_without_a_reason_is_none() -> None:
    with pytest.raises(ClientError, match="answered 500 without a token or a reason"):
        refused(context(), 500, {})


@contextmanager
def another_program(status: int, body: bytes) -> Iterator[str]:
    """Answer everything like this, at an address of its own."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_what_the_sandbox_refuses_is_told_in_its_words(shell: Shell) -> None:
    with another_program(403, b'{"detail": "from this machine only"}') as url:
        ran = shell("sandbox", "ctl", "links", "--url", url)
    assert (ran.code, ran.err) == (1, "token-relay: from this machine only\n")


# -- Files and browsers ------------------------------------------------------------------------------------


def test_a_working_directory_that_is_no_text_cannot_stand_in_the_configuration(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "\udcff"
    odd.mkdir()
    monkeypatch.chdir(odd)
    ran = shell(
        "companion", "init", "--broker", "mqtts://broker.example", "--ca", "ca.pem", "--home", str(tmp_path / "h")
    )
    assert ran.code == 2 and "not text in this terminal's encoding" in ran.err


def test_a_token_that_fits_no_address_is_not_sent(shell: Shell, agent: Agent) -> None:
    agent.transfer = replace(GRANTED, token=SessionTransferToken("a b"))
    with agent.running():
        ran = shell("phone", "open-web", URL, "--print", "--home", str(agent.directory))
    assert ran.code == 1 and "answered without a session transfer token" in ran.err


def test_a_browser_that_does_not_come_is_waited_for_once(
    shell: Shell, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_web, "VISIT_S_MAX", 0.01)
    monkeypatch.setattr(open_web, "open_graphical", lambda url, env: True)
    agent.transfer = GRANTED
    with agent.running():
        ran = shell("phone", "open-web", URL, "--home", str(agent.directory))
    assert ran.code == 1 and "no browser came within 0.01 s\n  hint: use --print" in ran.err


def test_a_cookie_needs_a_host_and_an_end() -> None:
    with pytest.raises(ClientError, match="without issuer or end"):
        open_web._in_cookie(argparse.Namespace(cookie_domain=None), {"session_transfer_token": "x"})


def test_a_system_without_tables_of_connections_lets_no_browser_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser_redirect, "TABLES", (tmp_path / "tcp",))
    with pytest.raises(LocalError, match="does not tell whose a connection is"):
        browser_redirect.Doorway()


# -- What another program than ours may ask the agent ------------------------------------------------------


async def devices_asked(args: dict[str, Any]) -> object:
    nobody: Any = None
    return await DeviceList(nobody).answer(args)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: phone._strategy("copy"), "strategy must be branch, mint or move"),
        (lambda: phone._sign_in_options({"method": "fax"}), "method must be native or browser"),
        (lambda: phone._attributes([1]), "attributes must be an object"),
        (lambda: phone._attributes({"city": 1}), "the value of an attribute must be text"),
        (lambda: phone._names("mfa_method"), "sign_in_options must be a list"),
        (lambda: asyncio.run(devices_asked({"only": "everything"})), "only must be needs-me"),
        (lambda: text_of({"device": 1}, "device"), "device must be text"),
        (lambda: parse_policy(f"x = {'1' * 5000}", file="p", owner_uid=0), "too many digits"),
    ],
)
def test_arguments_of_another_kind_are_refused(ask: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ask()


class Hanging:
    """An agent that never answers."""

    async def get_token(self, query: TokenQuery) -> TokenRefused:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def get_session_transfer(self, query: TransferQuery) -> TokenRefused:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


def test_a_program_is_told_when_the_agent_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SOURCE_GRACE_S", -1.0)
    source: Any = Hanging()
    api = TokenApi(source, Policy(0), clock=SystemClock(), transfers=source)
    owner = Peer(uid=0, gid=0, pid=1)
    for asked in (
        api._ask_source(owner, TokenQuery(timeout_s=1.0), Allowed("owner")),
        api._transfer(source, owner, b'{"timeout_s": 1}'),
    ):
        reply = asyncio.run(asked)
        assert reply.body["detail"] == "the agent did not answer in time"


def test_a_copied_vault_knows_no_phones() -> None:
    runtime: Any = SimpleNamespace(kind="companion")
    answer = asyncio.run(_Locked(runtime).find_phone("phone"))
    assert (answer.error, "token-relay companion adopt" in answer.action) == ("locked", True)


def test_units_of_a_user_need_to_know_whose(shell: Shell) -> None:
    shell.env = {}
    ran = shell("service", "install", "--user", "--program", "/opt/token-relay")
    assert (ran.code, "HOME is not set" in ran.err) == (2, True)
