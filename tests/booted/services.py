"""The services inside the machine, as an administrator handles them: files, systemctl, the journal, the commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.booted.machine import Machine, Ran
from tests.booted.report import NotSeenError, expect

T = TypeVar("T")

AGENTS = ("companion", "phone")
CA = "/var/lib/token-relay-ca"
STAND_IN = "/var/lib/stand-in"  # where the credentials lie on an emulated machine
PASSWORD = "correct-horse-7-battery"  # the sandbox's own, in its manual
USER = "password@contoso.example"
CLIENT = "00001111-aaaa-2222-bbbb-3333cccc4444"


class Services:
    """What the checks do to the machine, in words."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run

    # -- waiting

    def until(self, is_so: Callable[[], T], what: str, seconds: float = 20.0) -> T:
        """Wait until the answer is true, and return it. NotSeenError."""
        end = time.monotonic() + seconds * self.machine.slowness
        while not (answer := is_so()):
            if time.monotonic() > end:
                raise NotSeenError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.2)
        return answer

    # -- systemctl

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(f"systemctl show -P {name} {unit}").out.strip()

    def is_active(self, unit: str) -> bool:
        """Whether it runs and has said that it is ready."""
        return self.show(unit, "ActiveState") == "active"

    def restart(self, kind: str) -> None:
        """Start an agent anew, its failures forgotten."""
        self.run(f"systemctl reset-failed token-relay-{kind}.service", check=False)
        self.run(f"systemctl restart token-relay-{kind}.service")

    def try_restart(self, kind: str) -> Ran:
        """The same where the start is meant to fail: returns at once, success or not."""
        self.run(f"systemctl stop token-relay-{kind}.service", check=False)
        self.run(f"systemctl reset-failed token-relay-{kind}.service", check=False)
        return self.run(f"systemctl start token-relay-{kind}.service", check=False)

    def drop_in(self, unit: str, name: str, text: str) -> None:
        """Put a drop-in; an empty text takes it away."""
        place = f"/run/systemd/system/{unit}.d"
        if text:
            self.run(f"mkdir -p {place} && cat > {place}/{name}.conf", text=text)
        else:
            self.run(f"rm -f {place}/{name}.conf")
        self.run("systemctl daemon-reload")

    # -- journal

    def cursor(self) -> str:
        """Return where the journal ends now."""
        self.run("journalctl --sync", check=False)
        text = self.run("journalctl -n 0 --show-cursor --no-pager").out
        return text.rsplit("-- cursor: ", 1)[1].strip()

    def journal(self, unit: str, since: str) -> str:
        """Return what a unit has said since the cursor."""
        self.run("journalctl --sync", check=False)
        return self.run(f"journalctl -u {unit} --after-cursor='{since}' -o cat --no-pager").out

    def said(self, unit: str, since: str, *wanted: str, seconds: float = 20.0) -> str:
        """Wait for a line with all these words in it; return it."""

        def line() -> str:
            for text in self.journal(unit, since).splitlines():
                if all(word in text for word in wanted):
                    return text
            return ""

        try:
            return self.until(line, "", seconds)
        except NotSeenError:
            last = " | ".join(self.journal(unit, since).splitlines()[-6:])
            raise NotSeenError(f"no line in the journal with {wanted}; the last ones: {last}") from None

    # -- the program

    def command(self, line: str, **options: Any) -> Ran:
        """Run `token-relay …`."""
        return self.run(f"token-relay {line}", **options)

    def json(self, line: str, **options: Any) -> Any:
        """Run `token-relay … --json` and return what it says."""
        return json.loads(self.command(f"{line} --json", **options).out)

    def is_connected(self, kind: str) -> bool:
        """Whether the agent says that its broker is connected."""
        ran = self.command(f"{kind} status --json", check=False)
        return ran.code == 0 and json.loads(ran.out)["broker"]["connected"] is True

    def grants(self) -> list[dict[str, Any]]:
        """Return the companion's grants."""
        found: list[dict[str, Any]] = self.json("companion status")["grants"]
        return found

    def holds_a_grant(self) -> str:
        """Make sure that the companion holds one usable grant; say which generation."""
        (grant,) = [row for row in self.grants() if row["state"] not in ("revoked", "dead")] or [{}]
        expect(bool(grant), self.grants())
        return f"{grant['state']}, generation {grant.get('generation')}"

    def token(self, *, fresh: bool = False, check: bool = True) -> Ran:
        """Get an access token as root."""
        return self.command(f"companion token{' --force-refresh' if fresh else ''}", check=check)

    def sign_in(self) -> None:
        """Sign in on the phone, with the password on standard input."""
        self.command(f"phone sign-in --username {USER} --password-file -", text=PASSWORD + "\n")

    def hand_off(self) -> str:
        """Give the companion a grant; the companion's device id is known from its status."""
        device = self.json("companion status")["device_id"]
        done = self.json(f"phone handoff {device} --wait 30")
        expect(done["state"] == "done", done)
        return str(done["message"])

    def stand_in(self, kind: str) -> None:
        """Decrypt a credential into the place where an emulated machine's agents look for it."""
        self.run(
            f"systemd-creds decrypt /etc/credstore.encrypted/token-relay-{kind} {STAND_IN}/token-relay-{kind} && "
            f"chmod 0444 {STAND_IN}/*"
        )

    def serve_certificate(self, kind: str, name: str) -> None:
        """Put another certificate in place of the device's; `good` is the first one."""
        home = f"/var/lib/token-relay/{kind}"
        self.run(f"[ -e {CA}/good-{kind}.pem ] || cp {home}/device.pem {CA}/good-{kind}.pem")
        source = f"{CA}/good-{kind}.pem" if name == "good" else name
        self.run(f"install -m 0644 {source} {home}/device.pem")
