"""A person at Debian's Chromium: it trusts the sandbox's key and no other, and reaches nothing but this machine.

The certificate comes from the project's own CA, made as ``token-relay certs`` makes it.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from playwright.async_api import Browser, BrowserContext, Frame, Page, async_playwright, expect

from tests import needs
from tests.watchdog import HANG_S
from token_relay.ca import store
from token_relay.sandbox.provider.world.model import PASSWORD

CHROMIUM = needs.find("chromium", "chromium-browser", "google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason=needs.missing("chromium"))
QUIET = ("--disable-gpu", "--disable-quic", "--disable-dev-shm-usage")
# A name that leads away fails.
RESOLVER = "--host-resolver-rules={}MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
# Cookies of a provider in a frame of another site are let through, as in Chrome; Debian's Chromium keeps them away.
PREFERENCES = {"profile": {"cookie_controls_mode": 0}}
PASSWORD_USER = "password@contoso.example"
expect.set_options(timeout=HANG_S * 1000)  # else five seconds, which a busy machine meets


@dataclass(frozen=True)
class Certificate:
    """A certificate for ``localhost`` and its key, as files for the sandbox's ``--tls-cert`` and ``--tls-key``."""

    ca: Path
    cert: Path
    key: Path

    @property
    def spki_hash(self) -> str:
        """Return what Chromium knows a key by: the hash of its SubjectPublicKeyInfo. RFC 7469 §2.4."""
        public_key = x509.load_pem_x509_certificate(self.cert.read_bytes()).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(sha256(public_key.public_bytes(serialization.Encoding.DER, form)).digest()).decode()


def certificate(directory: Path) -> Certificate:
    """Do what ``token-relay certs init --host localhost`` does."""
    store.init(directory, hosts=("localhost", "127.0.0.1"))
    return Certificate(
        directory / store.CA_CERTIFICATE,
        directory / store.BROKER / "broker.pem",
        directory / store.BROKER / "broker.key",
    )


@asynccontextmanager
async def chromium(trusted: Certificate | None = None, *, resolves: str = "") -> AsyncIterator[Browser]:
    """Start the browser, headless; ``trusted`` is the one key that it takes without knowing its CA.

    ``resolves``: a name that leads to this machine too, as an attacker's does when it is bound anew.
    """
    trust = [f"--ignore-certificate-errors-spki-list={trusted.spki_hash}"] if trusted else []
    with tempfile.TemporaryDirectory(prefix="chromium") as directory:
        (Path(directory) / "Default").mkdir()
        (Path(directory) / "Default/Preferences").write_text(json.dumps(PREFERENCES))
        async with async_playwright() as playwright:
            window = await playwright.chromium.launch_persistent_context(
                directory,
                executable_path=CHROMIUM,
                chromium_sandbox=False,
                args=[*QUIET, RESOLVER.format(f"MAP {resolves} 127.0.0.1, " if resolves else ""), *trust],
                timeout=HANG_S * 1000,
            )
            try:
                assert window.browser is not None
                yield window.browser
            finally:
                await window.close()


@asynccontextmanager
async def new_profile(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Open a window without cookies and storage; only a hang meets its bound."""
    context = await browser.new_context()
    context.set_default_timeout(HANG_S * 1000)
    try:
        yield context
    finally:
        await context.close()


async def sign_in(page: Page | Frame, username: str = PASSWORD_USER, password: str = PASSWORD) -> None:
    """Fill in the sandbox's form, in a window, a popup or a frame, and press the button."""
    await page.locator("input[name=username]").fill(username)
    await page.locator("input[name=password]").fill(password)
    await page.get_by_role("button", name="Sign in").click()
