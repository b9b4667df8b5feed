"""The sandbox provider as a test sees it: its control interface, its mailbox, its pages, its protected resource.

Standard library and threads instead of a client session: a request here is rare, and nothing is left open behind it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import time
import urllib.parse
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from tests.watchdog import HANG_S

MAILBOX_S = 60.0  # the longest that the mailbox of the sandbox waits for a code


class Sandbox:
    """One running sandbox; ``facts`` is what it announced with ``--json``."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.http = str(facts["http"])
        self.issuer = str(facts["issuer"])
        self.mqtt = str(facts["mqtt"])
        self.profile = str(facts["profile"])
        self.tenant = str(facts["tenant"])
        self.client_id = str(facts["client_id"])
        self.links: dict[str, str] = dict(facts.get("links", {}))

    # -- requests --------------------------------------------------------------------------------------

    async def request(
        self, method: str, url: str, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request, follow nothing; header names are lower case."""
        return await asyncio.to_thread(_request, method, urllib.parse.urljoin(self.http, url), body, headers or {})

    async def control(self, method: str, path: str, value: dict[str, Any] | None = None) -> dict[str, Any]:
        """Use the control interface."""
        body = b"" if value is None else json.dumps(value).encode()
        status, _, raw = await self.request(
            method, f"/sandbox/{path}", body=body, headers={"Content-Type": "application/json"}
        )
        assert status in (200, 201), f"{method} {path}: {status} {raw!r}"
        found = json.loads(raw)
        assert isinstance(found, dict)
        return found

    async def form(self, path: str, **fields: str) -> dict[str, Any]:
        """Post a form to the provider and return its JSON."""
        body = urllib.parse.urlencode(fields).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        _, _, raw = await self.request("POST", path, body=body, headers=kind)
        found = json.loads(raw)
        assert isinstance(found, dict)
        return found

    # -- events and faults -----------------------------------------------------------------------------

    async def mark(self) -> int:
        """The number of the last event, to look for later ones only."""
        return int((await self.control("GET", "state"))["last_event_id"])

    async def events(self, after: int = 0) -> list[dict[str, Any]]:
        """What has happened since."""
        return list((await self.control("GET", f"events?after={after}"))["events"])

    async def event(self, kind: str, *, after: int = 0, within_s: float = HANG_S, **fields: object) -> dict[str, Any]:
        """Wait for the first such event after that number."""
        ends_at = time.monotonic() + within_s
        while (left_s := ends_at - time.monotonic()) > 0:
            answer = await self.control("GET", f"events?after={after}&wait_s={min(left_s, 10):.2f}")
            for event in answer["events"]:
                if event["kind"] == kind and all(event.get(key) == value for key, value in fields.items()):
                    return dict(event)
                after = event["id"]
        raise AssertionError(f"no event {kind} {fields} within {within_s:g} s: {await self.events()}")

    async def count(self, kind: str, *, after: int = 0) -> int:
        """How many events of this kind there were since."""
        return sum(event["kind"] == kind for event in await self.events(after))

    async def fault(self, name: str, **fields: Any) -> int:
        """Arm a fault; returns a mark from before it."""
        mark = await self.mark()
        await self.control("POST", "faults", {"name": name, **fields})
        return mark

    async def hold_refresh(self, when: str) -> int:
        """Hold the next refresh ``before_commit`` or ``after_commit``."""
        return await self.fault(f"hold_{when}", endpoint="token", grant_type="refresh_token")

    async def held(self, mark: int) -> dict[str, Any]:
        """Wait until a request is held."""
        return await self.event("request_held", after=mark)

    async def release(self) -> None:
        """Disarm all faults and let held requests go on."""
        await self.control("DELETE", "faults")

    async def state(self) -> dict[str, Any]:
        """Counts of what the provider knows."""
        return await self.control("GET", "state")

    # -- as a person and as an API ---------------------------------------------------------------------

    async def code(self, address: str) -> str:
        """Wait for the code in a mailbox."""
        status, _, raw = await self.request("GET", f"/sandbox/mailbox/{address}?wait_s={MAILBOX_S:g}")
        assert status == 200, raw
        return raw.decode()

    async def fill_in_form(self, url: str, username: str, password: str) -> None:
        """Open the login page, sign in, and follow the one redirect back to the device."""
        status, _, page = await self.request("GET", url)
        text = page.decode()
        action, ticket = re.search(r'action="([^"]+)"', text), re.search(r'name="ticket" value="([^"]+)"', text)
        assert status == 200 and action is not None and ticket is not None, text
        fields = {"ticket": unescape(ticket[1]), "username": username, "password": password}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urllib.parse.urlencode(fields).encode()
        status, headers, page = await self.request("POST", unescape(action[1]), body=body, headers=kind)
        assert status == 303, page
        status, _, page = await self.request("GET", headers["location"])
        assert status == 200, page

    async def resource(self, access_token: str) -> tuple[int, dict[str, Any]]:
        """Show an access token to the protected resource, as an app would."""
        bearer = {"Authorization": f"Bearer {access_token}"}
        status, _, raw = await self.request("GET", "/sandbox/resource", headers=bearer)
        return status, json.loads(raw)

    async def refresh_token_of_an_sdk(self, username: str, password: str) -> str:
        """Sign in past the phone, as an SDK with its own opt-in would (auth0 only). RFC 6749 §4.3"""
        answer = await self.form(
            "/oauth/token",
            grant_type="password",
            client_id=self.client_id,
            username=username,
            password=password,
            scope="openid profile offline_access",
        )
        return str(answer["refresh_token"])


def _request(method: str, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    assert parts.scheme == "http" and parts.hostname == "127.0.0.1", f"not the sandbox, not the device: {url}"
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=HANG_S)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, body=body or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
