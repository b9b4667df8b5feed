"""``open-web``: where the token goes, and where it never stands."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.cookiejar import MozillaCookieJar
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.cli_kit import Agent, Shell
from tests.watchdog import HANG_S
from token_relay.agents.token_source import TokenRefused, TransferGranted, TransferQuery
from token_relay.cli.commands import open_web
from token_relay.cli.commands.browser_redirect import Doorway
from token_relay.cli.commands.open_web import check_url, in_query, put_cookie
from token_relay.cli.parsing import UsageError
from token_relay.protocol.errors import LocalError
from token_relay.protocol.secret import SessionTransferToken

MARK = "S3CRETMARK.st"
URL = "https://shop.example/login?a=1"
GRANTED = TransferGranted(
    SessionTransferToken(MARK), datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), 58.0, "https://idp.example/"
)


@pytest.fixture
def ready(agent: Agent) -> Iterator[Agent]:
    agent.transfer = GRANTED
    with agent.running():
        yield agent


def visit(url: str, **headers: str) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=HANG_S)
    with closing(connection):
        connection.request("GET", parts.path, headers=headers)
        with connection.getresponse() as answer:
            answer.read()
            return answer


@pytest.mark.parametrize("kind", ["phone", "companion"])
def test_print_gives_the_address_with_the_token_as_its_last_parameter(shell: Shell, ready: Agent, kind: str) -> None:
    ran = shell(kind, "open-web", URL, "--print", "--account", "ann", "--home", str(ready.directory))
    assert (ran.code, ran.out, ran.err) == (0, f"{URL}&session_transfer_token={MARK}\n", "")
    assert ready.transfers == [TransferQuery(account="ann")]


@contextmanager
def in_place_of_a_browser(browser: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run ``browser`` beside the command, as a browser runs."""
    started: list[threading.Thread] = []

    def start(url: str, env: Mapping[str, str]) -> bool:
        started.append(threading.Thread(target=browser, args=(url,)))
        started[0].start()
        return True

    monkeypatch.setattr(open_web, "open_graphical", start)
    yield
    started[0].join()


def test_the_browser_is_sent_on_by_loopback_and_no_command_line_has_the_token(
    shell: Shell, ready: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    locations: list[str | None] = []

    def browser(url: str) -> None:
        started.append(url)
        assert not ready.transfers  # asked for only when the browser is there
        ahead = visit(url, **{"Sec-Purpose": "prefetch"})
        elsewhere = visit(url + "x")
        assert (ahead.status, elsewhere.status) == (404, 404)
        answer = visit(url)
        locations.append(answer.getheader("Location"))
        assert (answer.status, answer.getheader("Referrer-Policy")) == (303, "no-referrer")

    with in_place_of_a_browser(browser, monkeypatch):
        ran = shell("companion", "open-web", URL, "--home", str(ready.directory))
    assert ran.code == 0 and MARK not in ran.out + ran.err + started[0]
    assert locations == [f"{URL}&session_transfer_token={MARK}"] and len(ready.transfers) == 1


def test_a_refusal_is_told_to_the_browser_and_in_the_terminal(
    shell: Shell, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.transfer = TokenRefused("transfer_refused", "not this client", action="ask the provider")
    statuses: list[int] = []

    def browser(url: str) -> None:
        statuses.append(visit(url).status)

    with agent.running(), in_place_of_a_browser(browser, monkeypatch):
        ran = shell("companion", "open-web", URL, "--home", str(agent.directory))
        printed = shell("companion", "open-web", URL, "--print", "--json", "--home", str(agent.directory))
    assert (ran.code, statuses) == (1, [503])
    assert ran.err == "token-relay: transfer_refused: not this client\n  hint: ask the provider\n"
    assert (printed.code, json.loads(printed.out)["error"]) == (1, "transfer_refused")


def test_without_a_browser_no_token_is_asked_for(shell: Shell, ready: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_web, "open_graphical", lambda url, env: False)
    ran = shell("companion", "open-web", URL, "--home", str(ready.directory))
    assert ran.code == 1 and "no browser could be opened" in ran.err
    assert not ready.transfers


def test_the_cookie_is_the_providers_alone_and_ends_with_the_token(shell: Shell, ready: Agent) -> None:
    jar = ready.directory / "jar"
    jar.write_text("# Netscape HTTP Cookie File\nother.example\tFALSE\t/\tFALSE\t\tkept\tyes\n")
    options = ("--cookie-jar", str(jar), "--home", str(ready.directory))
    before = int(time.time())
    ran = shell("companion", "open-web", URL, "--json", *options)
    shown = json.loads(ran.out)
    assert ran.code == 0 and MARK not in ran.out + ran.err
    assert shown["url"] == URL
    expires_at = shown["cookie"].pop("expires_at")
    assert before + 58 <= expires_at <= time.time() + 58
    assert shown["cookie"] == {
        "name": "auth0_session_transfer_token",
        "domain": "idp.example",
        "path": "/",
        "secure": True,
        "http_only": True,
        "same_site": "None",
    }
    lines = jar.read_text().splitlines()
    wanted = f"#HttpOnly_idp.example\tFALSE\t/\tTRUE\t{expires_at}\tauth0_session_transfer_token\t{MARK}"
    assert wanted in lines and any(line.startswith("other.example\t") for line in lines)
    assert stat.S_IMODE(jar.stat().st_mode) == 0o600
    assert [path.name for path in jar.parent.iterdir() if path.name.startswith(".cookies-")] == []
    assert shell("companion", "open-web", URL, *options, "--cookie-domain", "id.shop.example").out == f"{URL}\n"
    found = MozillaCookieJar()
    found.load(str(jar))
    assert {cookie.domain for cookie in found if cookie.value == MARK} == {"idp.example", "id.shop.example"}


def test_a_file_that_is_no_cookie_jar_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("dear diary\n")
    with pytest.raises(LocalError, match="not a cookie jar"):
        put_cookie(path, domain="idp.example", token=MARK, expires_at=1)
    assert path.read_text() == "dear diary\n"


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/login",
        "ftp://shop.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://user@shop.example/",
        "https://shop.example/#/route",
        "https://shop.example/?session_transfer_token=x",
        "https:///login",
        "shop.example",
        "--help",
    ],
)
def test_an_address_that_must_not_see_a_token_is_refused_before_one_is_made(
    shell: Shell, ready: Agent, url: str
) -> None:
    ran = shell("companion", "open-web", "--print", "--home", str(ready.directory), "--", url)
    assert ran.code == 2 and not ready.transfers


@pytest.mark.parametrize("url", ["http://127.0.0.1:3000/login", "http://localhost/", "https://shop.example"])
def test_https_and_this_machine_are_taken(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    ("url", "with_token"),
    [
        ("https://a.example", "https://a.example/?session_transfer_token=T"),
        ("https://a.example/l?x=%20y", "https://a.example/l?x=%20y&session_transfer_token=T"),
    ],
)
def test_what_stood_in_the_address_stays_as_it_was(url: str, with_token: str) -> None:
    assert in_query(url, "T") == with_token


@pytest.mark.parametrize(
    "options",
    [("--print", "--browser"), ("--print", "--cookie-jar", "f"), ("--cookie-domain", "h"), ()],
)
def test_ways_that_exclude_each_other_are_wrong_usage(shell: Shell, ready: Agent, options: tuple[str, ...]) -> None:
    address = (URL,) if options else ()
    assert shell("companion", "open-web", *address, *options, "--home", str(ready.directory)).code == 2


@pytest.mark.parametrize("host", ["A.example", "a b", "-x", ".a", "a/b", ""])
def test_a_cookie_domain_is_a_host_name(shell: Shell, ready: Agent, host: str) -> None:
    options = ("--cookie-jar", str(ready.directory / "jar"), f"--cookie-domain={host}")
    assert shell("companion", "open-web", URL, *options, "--home", str(ready.directory)).code == 2
    assert not ready.transfers


# -- The doorway -------------------------------------------------------------------------------------------


def test_a_program_of_another_user_is_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    uids = iter([os.geteuid() + 1, os.geteuid()])
    monkeypatch.setattr("token_relay.cli.commands.browser_redirect.os.getuid", lambda: next(uids))
    refused: list[int] = []

    def knock_until_let_in() -> None:
        while (status := visit(doorway.url).status) != 303:
            refused.append(status)

    with Doorway() as doorway:
        visitor = threading.Thread(target=knock_until_let_in)
        visitor.start()
        assert doorway.admit(lambda: "https://a.example/", wait_s=20)
        visitor.join()
    assert refused == [404]


def test_a_program_with_the_port_of_the_persons_browser_at_another_address_is_not_let_through() -> None:
    with Doorway() as doorway, socket.socket() as other, socket.socket() as browser:
        address = urlsplit(doorway.url)
        browser.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.2", browser.getsockname()[1]))  # another user's, say; it comes first
        for one in (other, browser):
            one.connect((address.hostname, address.port))
        for one in (other, browser):
            one.sendall(f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        assert doorway.admit(lambda: "https://a.example/", wait_s=20)
        assert other.recv(12) == b"HTTP/1.1 404"
        assert browser.recv(12) == b"HTTP/1.1 303"


def test_the_doorway_lets_one_through_and_is_closed() -> None:
    with Doorway() as doorway:
        answers: list[http.client.HTTPResponse] = []
        visitor = threading.Thread(target=lambda: answers.append(visit(doorway.url)))
        visitor.start()
        assert doorway.admit(lambda: "https://a.example/", wait_s=20)
        visitor.join()
    assert answers[0].getheader("Location") == "https://a.example/"
    with pytest.raises(ConnectionRefusedError):
        visit(doorway.url)


def test_a_usage_error_names_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="plain http to a host that is not this machine"):
        check_url("http://shop.example/")
