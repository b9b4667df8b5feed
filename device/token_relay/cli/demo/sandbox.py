"""The sandbox as the demo uses it: its control interface, its pages, its protected resource, its broker's record.

It uses the standard library, since requests are rare and no connection may stay open. It follows a program's URL only
to this machine.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Mapping
from contextlib import closing
from html import unescape

from token_relay.cli.demo.checks import Answer, StepFailedError, expect, expect_equal
from token_relay.cli.demo.programs import WITHIN_S
from token_relay.protocol.secret import AccessToken

BODY_BYTES_MAX = 1_048_576
POLL_S_MAX = 10.0  # of one long poll
FORM = "application/x-www-form-urlencoded"
Reply = tuple[int, http.client.HTTPMessage, bytes]


class Sandbox:
    """One running sandbox; ``facts`` is what it announced about itself."""

    def __init__(self, announced: str) -> None:
        self.facts: Answer = json.loads(announced)
        users = self.facts["users"]
        self.password_user: Answer = next(user for user in users if "password" in user)
        self.otp_username = str(next(user["username"] for user in users if "password" not in user))

    def request(self, method: str, url: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request and follow nothing. Raises StepFailedError."""
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(self.facts["http"], url))
        expect((parts.scheme, parts.hostname) == ("http", "127.0.0.1"), "an address on this machine", parts.netloc)
        target = parts._replace(scheme="", netloc="", fragment="").geturl()
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WITHIN_S + POLL_S_MAX)
        with closing(connection):
            try:
                connection.request(method, target, body=body or None, headers=dict(headers or {}))
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read(BODY_BYTES_MAX)
            except (OSError, http.client.HTTPException) as exc:
                raise StepFailedError(f"an answer from {parts.netloc}{parts.path}", type(exc).__name__) from exc

    def control(self, method: str, path: str, value: Mapping[str, object] | None = None) -> bytes:
        """Use the control interface; return the body."""
        body = b"" if value is None else json.dumps(value).encode()
        headers = {"Content-Type": "application/json"}
        status, _, raw = self.request(method, f"/sandbox/{path}", body=body, headers=headers)
        expect(status in (200, 201), f"the sandbox accepts {method} {path}", f"status {status}")
        return raw

    def look(self, path: str) -> Answer:
        """Return what the control interface shows at ``path``."""
        return dict(json.loads(self.control("GET", path)))

    def events(self, after: int = 0, wait_s: float = 0.0) -> list[Answer]:
        """Return the events after that one; wait at most ``wait_s`` for the first."""
        return list(self.look(f"events?after={after}&wait_s={wait_s:.2f}")["events"])

    def kinds(self, after: int) -> list[str]:
        """Return the kinds of the events after that one."""
        return [event["kind"] for event in self.events(after)]

    def mark(self) -> int:
        """Return the number of the last event, to look for later ones only."""
        return int(self.look(f"events?after={2**53 - 1}")["last_event_id"])

    def event(self, kind: str, *, after: int) -> None:
        """Wait for the first such event after that number. Raises StepFailedError."""
        ends_at = time.monotonic() + WITHIN_S
        seen: list[str] = []
        while (left_s := ends_at - time.monotonic()) > 0:
            for event in self.events(after, min(left_s, POLL_S_MAX)):
                if event["kind"] == kind:
                    return
                seen.append(event["kind"])
                after = event["id"]
        raise StepFailedError(f"the provider notes {kind}", ", ".join(seen) or "nothing")

    def let_next_refresh(self, fault: str) -> int:
        """Arm a fault for the next refresh, such as ``hold_before_commit``; return a mark from before it."""
        mark = self.mark()
        self.control("POST", "faults", {"name": fault, "grant_type": "refresh_token"})
        return mark

    def fill_in_form(self, url: str) -> None:
        """Act as the person at the browser: open the login page, sign in, go back to the device."""
        status, _, page = self.request("GET", url)
        text = page.decode(errors="replace")
        action, ticket = re.search(r'action="([^"]+)"', text), re.search(r'name="ticket" value="([^"]+)"', text)
        if status != 200 or action is None or ticket is None:
            raise StepFailedError("a login page with one form", f"status {status}")
        user = self.password_user
        fields = {"ticket": unescape(ticket[1]), "username": user["username"], "password": user["password"]}
        body = urllib.parse.urlencode(fields).encode()
        status, headers, _ = self.request("POST", unescape(action[1]), body=body, headers={"Content-Type": FORM})
        expect_equal(status, 303, "the login page sends the browser back")
        status, _, _ = self.request("GET", headers.get("Location", ""))
        expect_equal(status, 200, "the device takes the browser back")

    def show_to_resource(self, access_token: AccessToken) -> int:
        """Send an access token to the protected resource, as an app would; return the status. RFC 6750 §2.1."""
        bearer = {"Authorization": f"Bearer {access_token.reveal()}"}
        return self.request("GET", "/sandbox/resource", headers=bearer)[0]
