"""The sandbox as the demo uses it: its control interface, its pages, its protected resource, its broker's record.

Standard library: a request here is rare, and nothing may stay open behind it. A URL that comes from a program is
followed only on this machine.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Mapping
from html import unescape

from token_relay.cli.demo.checks import StepFailedError, expect, expect_equal
from token_relay.cli.demo.programs import WITHIN_S
from token_relay.cli.demo.views import BrokerMessage, BrokerMessages, ProviderEvent, ProviderEvents, SandboxFacts, User
from token_relay.protocol.secret import AccessToken

BODY_BYTES_MAX = 1_048_576
POLL_S_MAX = 10.0  # of one long poll
FORM = "application/x-www-form-urlencoded"
Reply = tuple[int, Mapping[str, str], bytes]


class Sandbox:
    """One running sandbox."""

    def __init__(self, facts: SandboxFacts) -> None:
        self.facts = facts

    @property
    def otp_user(self) -> User:
        """The person who signs in with a code by e-mail."""
        return next(user for user in self.facts.users if user.password is None)

    @property
    def password_user(self) -> User:
        """The person who signs in with a password."""
        return next(user for user in self.facts.users if user.password is not None)

    def request(self, method: str, url: str, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request and follow nothing; header names come back in lower case. Raises StepFailedError."""
        parts = urllib.parse.urlsplit(urllib.parse.urljoin(self.facts.http, url))
        expect((parts.scheme, parts.hostname) == ("http", "127.0.0.1"), "an address on this machine", parts.netloc)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WITHIN_S + POLL_S_MAX)
        try:
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(method, target, body=body or None, headers=dict(headers or {}))
            answer = connection.getresponse()
            return (
                answer.status,
                {key.lower(): value for key, value in answer.getheaders()},
                answer.read(BODY_BYTES_MAX),
            )
        except (OSError, http.client.HTTPException) as exc:
            raise StepFailedError(f"an answer from {parts.netloc}{parts.path}", type(exc).__name__) from exc
        finally:
            connection.close()

    def control(self, method: str, path: str, value: Mapping[str, object] | None = None) -> bytes:
        """Use the control interface; returns the body."""
        body = b"" if value is None else json.dumps(value).encode()
        status, _, raw = self.request(
            method, f"/sandbox/{path}", body=body, headers={"Content-Type": "application/json"}
        )
        expect(status in (200, 201), f"the sandbox accepts {method} {path}", f"status {status}")
        return raw

    # -- the provider --------------------------------------------------------------------------------------

    def events(self, after: int = 0, wait_s: float = 0.0) -> ProviderEvents:
        """Return what happened after that event; waits ``wait_s`` for the first."""
        raw = self.control("GET", f"events?after={after}&wait_s={wait_s:.2f}")
        return ProviderEvents.model_validate_json(raw)

    def mark(self) -> int:
        """Return the number of the last event, to look for later ones only."""
        return self.events(2**53 - 1).last_event_id

    def event(self, kind: str, *, after: int) -> ProviderEvent:
        """Wait for the first such event after that number. Raises StepFailedError."""
        ends_at = time.monotonic() + WITHIN_S
        seen: list[str] = []
        while (left_s := ends_at - time.monotonic()) > 0:
            for event in self.events(after, min(left_s, POLL_S_MAX)).events:
                if event.kind == kind:
                    return event
                seen.append(event.kind)
                after = event.id
        raise StepFailedError(f"the provider notes {kind}", ", ".join(seen) or "nothing")

    def hold_next_refresh(self, when: str) -> int:
        """Hold the next refresh ``before_commit`` or ``after_commit``; returns a mark from before it."""
        mark = self.mark()
        self.control("POST", "faults", {"name": f"hold_{when}", "endpoint": "token", "grant_type": "refresh_token"})
        return mark

    def set_access_token_lifetime(self, seconds: int) -> None:
        """Set the lifetime of access tokens from now on."""
        self.control("POST", "policy", {"access_token_lifetime_s": float(seconds)})

    def fill_in_form(self, url: str) -> None:
        """Be the person at the browser: open the login page, sign in, go back to the device."""
        user = self.password_user
        assert user.password is not None, "chosen by it"
        status, _, page = self.request("GET", url)
        text = page.decode(errors="replace")
        action, ticket = re.search(r'action="([^"]+)"', text), re.search(r'name="ticket" value="([^"]+)"', text)
        if status != 200 or action is None or ticket is None:
            raise StepFailedError("a login page with one form", f"status {status}")
        fields = {"ticket": unescape(ticket[1]), "username": user.username, "password": user.password.reveal()}
        body = urllib.parse.urlencode(fields).encode()
        status, headers, _ = self.request("POST", unescape(action[1]), body=body, headers={"Content-Type": FORM})
        expect_equal(status, 303, "the login page sends the browser back")
        status, _, _ = self.request("GET", headers.get("location", ""))
        expect_equal(status, 200, "the device takes the browser back")

    def show_to_resource(self, access_token: AccessToken) -> int:
        """Show an access token to the protected resource, as an app would; returns the status. RFC 6750 §2.1."""
        bearer = {"Authorization": f"Bearer {access_token.reveal()}"}
        return self.request("GET", "/sandbox/resource", headers=bearer)[0]

    # -- the broker ----------------------------------------------------------------------------------------

    def broker_messages(self, after: int = 0) -> list[BrokerMessage]:
        """Return what the broker knows of the messages after that number."""
        return list(BrokerMessages.model_validate_json(self.control("GET", f"broker/messages?after={after}")).messages)

    def broker_mark(self) -> int:
        """Return the number of the broker's last message."""
        return BrokerMessages.model_validate_json(self.control("GET", "broker/messages")).last_number

    def replay(self, messages: list[BrokerMessage]) -> None:
        """Have the broker publish these messages, which follow one another, again."""
        after, until = messages[0].number - 1, messages[-1].number
        self.control("POST", "broker/replay", {"after": after, "until": until})
