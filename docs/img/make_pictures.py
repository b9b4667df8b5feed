"""Takes the pictures of the pages from a real run: ``make pictures`` writes ``docs/img/*.png``.

``token-relay try`` runs a sandbox with its lab, and two agents. Two more companions are paired, and one of them falls
silent. Then a person at Chromium opens consoles and lab, and does what each picture shows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).with_name("token-relay")
SIZE: ViewportSize = {"width": 960, "height": 560}
TO_THE_TOP = "(one) => one.scrollIntoView()"


class Run:
    """The programs of one run, and the browser."""

    def __init__(self, stack: ExitStack, home: Path, browser: Browser) -> None:
        self.stack, self.browser = stack, browser
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
        self.facts = self.start("try")
        self.env |= self.facts["environment"]

    def begin(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Start a program; it ends with the run."""
        process = subprocess.Popen([PROGRAM, *words], env=self.env, **more)  # noqa: S603
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        return process

    def start(self, *words: str) -> dict[str, Any]:
        """Start a program that goes on; return the object that it prints first."""
        process = self.begin(*words, "--json", stdout=subprocess.PIPE)
        assert process.stdout is not None
        found: dict[str, Any] = json.loads(process.stdout.readline())
        return found

    def run(self, *words: str) -> str:
        """Run a command to its end; return what it printed."""
        done = subprocess.run([PROGRAM, *words], env=self.env, check=True, capture_output=True, text=True)  # noqa: S603
        return done.stdout

    def companion(self, name: str, *, is_silent: bool) -> None:
        """Pair one more companion; one that is to be silent gets a grant, and its agent ends the hard way."""
        home = ("--home", str(Path(self.facts["homes"]) / name))
        words = ("--broker", self.facts["broker"], "--provider-host", "127.0.0.1", "--name", name)
        self.run("companion", "init", *words, *home)
        with (Path(self.facts["homes"]) / f"{name}.log").open("wb") as log:
            agent = self.begin("companion", "run", *home, stderr=log)
        while b"agent_started" not in Path(log.name).read_bytes():
            time.sleep(0.1)
        invitation = self.run("companion", "pair", "--no-qr", "--no-wait", *home).split()[-1]
        self.run("phone", "pair", "--yes", invitation)
        if is_silent:
            self.run("phone", "handoff", name)
            agent.kill()

    def page(self, address: str) -> Page:
        """Open an address in a window of its own."""
        page = self.browser.new_context(viewport=SIZE).new_page()
        page.goto(address)
        page.wait_for_url(address.partition("open?")[0])
        return page


def take(run: Run, picture: Callable[[str, Page], object]) -> None:
    """Do what each picture shows."""
    page = run.page(run.start("phone", "console")["address"])
    page.locator("tbody tr", has_text="bike").get_by_text("silent").wait_for()
    picture("devices", page)
    page.get_by_role("link", name=run.facts["device"], exact=True).click()
    picture("device", page)

    page = run.page(run.start("companion", "console")["address"])
    page.get_by_role("link", name="Tokens").click()
    page.get_by_role("button", name="Refresh, and compare").first.click()
    page.get_by_text("Before and after the refresh").first.evaluate(TO_THE_TOP)
    picture("tokens", page)
    page.get_by_role("link", name="Pair", exact=True).click()
    page.get_by_role("button", name="Show the QR code").click()
    page.wait_for_function("() => document.querySelector('img.qr')?.naturalWidth > 0")
    picture("pair", page)

    page = run.page(run.facts["lab"])
    picture("lab-journey", page)
    page.get_by_role("link", name="API", exact=True).first.click()
    page.locator("main a", has_text="/initiate").first.click()
    page.locator("[name=username]").fill(run.facts["account"])
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Send").evaluate(TO_THE_TOP)
    picture("lab-call", page)
    page.get_by_role("link", name="Users", exact=True).first.click()
    picture("lab-users", page)
    page.get_by_role("link", name="Relay", exact=True).first.click()
    page.get_by_role("button", name="Begin with an empty view").click()
    page.get_by_role("button", name="Hand off", exact=True).click()
    page.get_by_role("link", name="Relay", exact=True).first.click()
    page.locator(".four-list > li").nth(8).wait_for()
    page.set_viewport_size({"width": 960, "height": 880})
    page.locator(".four-head").evaluate(TO_THE_TOP)
    picture("handoff", page)


def main() -> None:
    """Take all of them."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp")))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=False
        )
        run = Run(stack, home, browser)
        run.companion("kitchen-radio", is_silent=False)
        run.companion("bike", is_silent=True)
        take(run, lambda name, page: sys.stdout.write(f"{name} {len(page.screenshot(path=HERE / f'{name}.png'))}\n"))


if __name__ == "__main__":
    main()
