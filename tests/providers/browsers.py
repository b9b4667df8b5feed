"""A person at a browser, twice: forms filled in with a cookie jar, and a real Chromium that is told to do the same."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin

import aiohttp

from tests import needs
from tests.watchdog import HANG_S

FORMS_MAX = 8
CHROMIUM = needs.find("chromium", "chromium-browser", "google-chrome")
YES = ("accept", "allow")  # what a button of a consent page is called, by name or value
BACK = "You are back at the device"


class ElsewhereError(AssertionError):
    """The browser did not come back to the device; it says what the page has instead."""


@dataclass
class Form:
    """The first form of a page."""

    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)

    def filled_in(self, username: str, password: str) -> dict[str, str]:
        """Return what a person sends who says yes."""
        sent = dict(self.fields) | dict.fromkeys(self.texts, username) | dict.fromkeys(self.passwords, password)
        for name, value in self.buttons:
            if name in YES or value in YES:
                sent[name] = value
        return sent


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.form: Form | None = None
        self._is_in = False
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form" and self.form is None:
            self.form, self._is_in = Form(found.get("action", "")), True
        elif self._is_in and self.form is not None and tag in ("input", "button") and found.get("name"):
            name, value, kind = found["name"], found.get("value", ""), found.get("type", "text")
            if tag == "button" or kind == "submit":
                self.form.buttons.append((name, value))
            elif kind == "password":
                self.form.passwords.append(name)
            elif kind in ("text", "email"):
                self.form.texts.append(name)
            elif kind != "checkbox":
                self.form.fields[name] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_in = False

    def handle_data(self, data: str) -> None:
        self.text += data


class FormBrowser:
    """A browser without scripts; its cookies stay, as in one window. A new one is a private window."""

    def __init__(self, username: str, password: str) -> None:
        self._who = username, password
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.forms = 0

    async def visit(self, url: str) -> None:
        """Sign in and say yes, until the device has been reached.

        Raises:
            ElsewhereError: the provider's pages lead to somewhere else.
        """
        await asyncio.to_thread(self.open, url)

    def open(self, url: str) -> None:
        """Do what :meth:`visit` does, without a loop."""
        data: bytes | None = None
        for _ in range(FORMS_MAX):
            try:
                with self._opener.open(url, data, timeout=HANG_S) as answer:
                    url, text = answer.url, answer.read().decode()
            except urllib.error.HTTPError as exc:
                with exc:
                    raise ElsewhereError(f"{exc.code} at {url}: {exc.read().decode(errors='replace')}") from None
            page = _Page()
            page.feed(text)
            if BACK in text:
                return
            if page.form is None:
                raise ElsewhereError(f"no form at {url}: {page.text}")
            self.forms += 1
            url, data = urljoin(url, page.form.action), urlencode(page.form.filled_in(*self._who)).encode()
        raise ElsewhereError(f"still a form at {url}: {page.text}")


# The same in a page: fill in and press the button, once for each page; return the page's text.
FILL_IN = """
(() => {
  const form = document.querySelector('form');
  if (form && document.readyState === 'complete' && !form.dataset.sent) {
    form.dataset.sent = 'yes';
    let button = form.querySelector('button, input[type=submit]');
    for (const one of form.elements) {
      if (one.type === 'password') one.value = %(password)s;
      else if (one.type === 'text' || one.type === 'email') one.value = %(username)s;
      else if (one.type === 'submit' && %(yes)s.some((yes) => yes === one.name || yes === one.value)) button = one;
    }
    button.click();
  }
  return document.body ? document.body.innerText : '';
})()
"""


async def visit_with_chromium(url: str, profile: Path, username: str, password: str) -> None:
    """Start Chromium, open the address in it, and be its person by the DevTools protocol."""
    assert CHROMIUM is not None
    browser = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(HANG_S):
            await _sign_in(await _debugging_port(profile), url, username, password)
    finally:
        browser.terminate()
        await browser.wait()


async def _debugging_port(profile: Path) -> int:
    told = profile / "DevToolsActivePort"
    while not (told.is_file() and told.read_text().count("\n")):
        await asyncio.sleep(0.1)
    return int(told.read_text().splitlines()[0])


async def _sign_in(port: int, url: str, username: str, password: str) -> None:
    words = {"username": json.dumps(username), "password": json.dumps(password), "yes": json.dumps(YES)}
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            (page,) = [one for one in await answer.json() if one["type"] == "page"]
        async with session.ws_connect(page["webSocketDebuggerUrl"]) as socket:
            await _call(socket, "Page.navigate", url=url)
            while BACK not in (text := await _call(socket, "Runtime.evaluate", expression=FILL_IN % words)):
                assert "error" not in text.lower() or "127.0.0.1" not in text, text
                await asyncio.sleep(0.2)


async def _call(socket: aiohttp.ClientWebSocketResponse, method: str, **params: Any) -> str:
    """Call one method and return the value of its result as text."""
    await socket.send_json({"id": 1, "method": method, "params": params})
    while True:
        said = await socket.receive_json()
        if said.get("id") == 1:
            return str(said.get("result", {}).get("result", {}).get("value", ""))
