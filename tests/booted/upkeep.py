"""What a person does to a service later: another key for the vault, a card that moved, a look with ``doctor``.

The commands are those of docs/raspberry-pi.md, word for word, as they stand under each heading.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TypedDict

from tests.booted.image import ROOT
from tests.booted.machine import Ran
from tests.booted.report import Report, expect
from tests.booted.services import AGENTS, CA, STAND_IN, Services

PAGE = ROOT / "docs" / "raspberry-pi.md"
UNIT = "token-relay-companion.service"
HOME = "/var/lib/token-relay/companion"
CONFIG = "/etc/token-relay/companion.toml"
PENDING = 6  # the exit code of a rekey whose configuration is written by somebody else


# Makes a vault of today what the version before was: what the newest step added is taken away, what it keyed anew is
# keyed as before, by the vault itself and with its key file. The older program is not run.
OLDER_VAULT = """\
import sqlite3, sys
from pathlib import Path
from token_relay.protocol.secret import PrivateKey
from token_relay.vault.schema import Add, ChangedTable, Drop, NewTable, Rekey, SchemaStep, apply
from token_relay.vault.sealing import check_of, kek_of
from token_relay.vault.steps import STEPS
path, newest = Path(sys.argv[1]), STEPS[-1]
KEYS = {"grants": ("grant_id",), "access_tokens": ("grant_id", "scope")}  # the others': ("handoff_id",)
def undo(one):
    now = next((part.sealed_under for part in one.changes if isinstance(part, Rekey)), one.sealed_under)
    dropped = [Drop(part.column.name) for part in one.changes if isinstance(part, Add)]
    keyed = [Rekey(KEYS.get(one.table, ("handoff_id",)), one.sealed_under)] if now != one.sealed_under else []
    return ChangedTable(one.table, (*dropped, *keyed), one.sealed, now)
undone = tuple(undo(one) for one in newest.changes if isinstance(one, ChangedTable))
connection = sqlite3.connect(path, isolation_level=None)
(salt,) = connection.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()
(wrapped,) = connection.execute("SELECT wrapped FROM data_keys WHERE name = 'vault'").fetchone()
connection.execute("BEGIN")
kek = kek_of(PrivateKey(path.with_name("vault.key").read_bytes()), salt)
apply(SchemaStep(newest.version, undone), connection, kek)
for one in newest.changes:
    if isinstance(one, NewTable):
        connection.execute(f"DROP TABLE {one.table}")
check = check_of(schema_version=newest.version - 1, salt=salt, wrapped=wrapped)
connection.execute("UPDATE meta SET value = ? WHERE name = 'check'", (check,))
connection.execute(f"PRAGMA user_version = {newest.version - 1}")
connection.execute("COMMIT")
connection.close()
"""
# And the program says that it is older.
OLDER = (
    OLDER_VAULT
    + """\
for metadata in Path(sys.prefix).glob("lib/python3*/site-packages/token_relay-*.dist-info/METADATA"):
    lines = metadata.read_text().splitlines(keepends=True)
    metadata.write_text("".join("Version: 0.0.1\\n" if line.startswith("Version: ") else line for line in lines))
"""
)
SCHEMA = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone()[0])"


class Finding(TypedDict):
    """One line of doctor's --json."""

    name: str
    ok: bool
    detail: str
    hint: str


def blocks(heading: str) -> list[str]:
    """Return the shell texts that the page shows under a heading. LookupError."""
    page = PAGE.read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """Return the commands of a shell text, one each, continued lines joined."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


class Upkeep:
    """The checks, after a story that has left the companion with a grant; they leave it so."""

    def __init__(self, services: Services, report: Report) -> None:
        self.s = services
        self.report = report

    def all(self) -> None:
        """All checks."""
        check = self.report.check
        check("vault rekey, as documented: credential to key file", self._to_file)
        check("make install over an older version: the vault is brought up to date, all is there", self._updated)
        check("vault rekey, as documented: key file to a credential sealed anew", self._to_credential)
        check("another board: locked, no token, no refresh, no broker; no restart", self._copied)
        check("companion adopt, as documented: goes on at once", self._adopt)
        check("a renewed certificate is taken up at a reload, without a restart", self._renewed)
        check("doctor's line of the unit: green while it runs, red when stopped", self._unit_line)

    # -- another key

    def _to_file(self) -> str:
        move, edit = blocks("Another key for the vault")[:2]
        before, device = self.s.holds_a_grant(), self.s.json("companion status")["device_id"]
        for command in commands(move):
            ran = self._as_shown(command)
        expect("rekey" in ran.command and ran.code == PENDING and "# key_file =" in ran.out, ran)
        self._in_force(edit, device, "key file")
        mode = self.s.run(f"stat -c '%a %u' {HOME}/vault.key {HOME}/vault.db").out.split("\n")
        expect(mode[0] == mode[1] and mode[0].startswith("600 "), mode)
        return f"{before}; then {self.s.holds_a_grant()}; {ran.out.strip()}"

    def _to_credential(self) -> str:
        (block,) = blocks("Another key for the vault")[2:]
        device = self.s.json("companion status")["device_id"]
        lines = commands(block)
        at = next(number for number, line in enumerate(lines) if "vault rekey" in line)
        for command in lines[:at]:
            ran = self._as_shown(command)
            expect(ran.code == 0, ran)
        if self.s.machine.is_emulated:
            self.s.stand_in("companion")
        ran = self._as_shown(lines[at])
        expect(ran.code == PENDING and 'credential = "token-relay-companion"' in ran.out, ran)
        self._in_force("\n".join(lines[at + 1 :]), device, "credential")
        expect(self.s.run(f"ls -A {HOME}").out.count("vault.key") == 0, "the key file is still there")
        return f"{self.s.holds_a_grant()}; {self._vault_key()}"

    def _in_force(self, block: str, device: str, kind: str) -> None:
        for command in commands(block):
            ran = self._as_shown(command)
            expect(ran.code == 0, ran)
        expect(self.s.show(UNIT, "NRestarts") == "0" and self.s.is_active(UNIT), "it did not start at once")
        expect(self.s.json("companion status")["device_id"] == device, "another identity")
        expect(kind in self._vault_key(), self._vault_key())
        expect("vault-rek" not in self.s.run(f"ls -A {HOME}").out, "a copy is left")
        self.s.token(fresh=True)
        self.s.until(lambda: self.s.is_connected("companion"), "connected", 60)

    def _vault_key(self) -> str:
        return self._doctor("vault key")["detail"]

    def _as_shown(self, command: str) -> Ran:
        """Run a command of the page; on an emulated machine credentials are files, and nothing else differs."""
        if self.s.machine.is_emulated:
            command = re.sub(r"-p LoadCredentialEncrypted=\S+", f"-E CREDENTIALS_DIRECTORY={STAND_IN}", command)
        return self.s.run(command, check=False)

    # -- another board

    def _board(self, name: str) -> None:
        """Say which board this is, as the page tells for one without a serial number."""
        if self.s.machine.is_emulated:
            self.s.run(f"printf %s '{name}' > {STAND_IN}/board-id" if name else f"rm -f {STAND_IN}/board-id")
        else:
            self.s.drop_in(UNIT, "board", f"[Service]\nSetCredential=board-id:{name}\n" if name else "")

    def _copied(self) -> str:
        self._board("first-board")
        self.s.restart("companion")
        self.s.token()
        before = self.s.holds_a_grant()
        self._board("second-board")
        since = self.s.cursor()
        self.s.restart("companion")
        line = self.s.said(UNIT, since, "vault_copied", "companion adopt")
        expect(self.s.show(UNIT, "StatusText").startswith("locked: "), self.s.show(UNIT, "StatusText"))
        for fresh in (False, True):
            ran = self.s.token(fresh=fresh, check=False)
            expect(ran.code == 4 and "locked" in ran.err and ran.out == "", ran)
        answer = self.s.run("python3 /usr/local/bin/app", user="bob").out
        expect(answer.startswith("423 "), answer)
        status = self.s.json("companion status")
        expect(status["action"]["slug"] == "copied", status)
        sockets = self.s.run("ss -Htnp state established '( dport = :8883 )'", check=False).out
        pid = self.s.show(UNIT, "MainPID")
        expect(f"pid={pid}," not in sockets, sockets)
        doctor = self.s.command("companion doctor", check=False)
        expect(re.search(r"^FAIL +action +copied", doctor.out, re.MULTILINE) is not None, doctor)
        expect(self.s.show(UNIT, "NRestarts") == "0", "it was restarted")
        return f"{before}; {line}"

    def _adopt(self) -> str:
        (block,) = blocks("A copied card")
        pid = self.s.show(UNIT, "MainPID")
        for command in commands(block):
            ran = self._as_shown(command)
            expect(ran.code == 0, ran)
        self.s.until(lambda: self.s.is_connected("companion"), "connected", 60)
        expect(self.s.show(UNIT, "MainPID") == pid, "another process")
        self.s.token(fresh=True)
        self.s.restart("companion")
        self.s.token()
        held = self.s.holds_a_grant()
        self._board("")
        self.s.restart("companion")
        self.s.token()
        return f"{ran.text.strip()}; {held}"

    # -- certificates

    def _renewed(self) -> str:
        serial = f"openssl x509 -in {HOME}/device.pem -noout -serial"
        before, pid = self.s.run(serial).out.strip(), self.s.show(UNIT, "MainPID")
        self.s.command(f"certs sign --dir {CA} {HOME}/device.csr --out {HOME}/device.pem")
        after = self.s.run(serial).out.strip()
        expect(after != before, after)
        since = self.s.cursor()
        self.s.run(f"systemctl reload {UNIT}")
        self.s.said(UNIT, since, "certificates_renewed")
        self.s.said("mosquitto.service", since, "New client connected", self.s.json("companion status")["device_id"])
        self.s.until(lambda: self.s.is_connected("companion"), "connected", 60)
        expect(self.s.show(UNIT, "MainPID") == pid, "another process")
        return f"{before}, then {after}; {self.s.holds_a_grant()}"

    # -- a newer version

    def _updated(self) -> str:
        run, python = self.s.run, "/opt/token-relay/bin/python"
        before = {kind: (self._schema(kind), self.s.json(f"{kind} status")["device_id"]) for kind in AGENTS}
        version, held = self.s.command("--version").out, self.s.holds_a_grant()
        run("systemctl stop 'token-relay-companion*' token-relay-phone.service")
        run(f"{python} - {HOME}/vault.db", text=OLDER)
        older = self.s.command("--version").out
        expect("0.0.1" in older and self._schema("companion") == before["companion"][0] - 1, older)
        run("mkdir -p /root/checkout/systemd && cp /wheels/constraints.txt /root/checkout")
        run("cat > /root/checkout/systemd/install.sh", text=(ROOT / "systemd" / "install.sh").read_text())
        since = self.s.cursor()
        # What `make install` runs.
        run(
            f"WHEEL=$(ls /wheels/token_relay-*.whl) WHEELS=/wheels BUILDER={python} "
            "sh /root/checkout/systemd/install.sh",
            timeout_s=600,
        )
        expect(self.s.command("--version").out == version, self.s.command("--version").out)
        run("systemctl start token-relay-companion.socket token-relay-companion-control.socket")
        for kind in AGENTS:
            self.s.restart(kind)
            self.s.until(partial(self.s.is_connected, kind), f"{kind} connected", 60)
            after = (self._schema(kind), self.s.json(f"{kind} status")["device_id"])
            expect(after == before[kind], f"{before[kind]}, then {after}")
        line = self.s.said(UNIT, since, "vault_updated")
        expect(self.s.holds_a_grant() == held, f"{held}, then {self.s.holds_a_grant()}")
        self.s.token(fresh=True)
        expect(bool(self.s.json("companion status")["phones"]), "no phone any more")
        return f"{older.strip()} to {version.strip()}; {line}; {self.s.holds_a_grant()}"

    def _schema(self, kind: str) -> int:
        return int(self.s.run(f'python3 -c "{SCHEMA}" /var/lib/token-relay/{kind}/vault.db').out)

    # -- doctor

    def _unit_line(self) -> str:
        running = self._doctor("unit")
        expect(running["ok"] and running["detail"] == f"{UNIT} is active (running)", running)
        self.s.run("systemctl stop 'token-relay-companion*'")
        stopped = self._doctor("unit", code=3)
        expect(not stopped["ok"] and "enabled but inactive" in stopped["detail"], stopped)
        self.s.run(stopped["hint"])
        again = self._doctor("unit")
        expect(again["ok"], again)
        self.s.until(lambda: self.s.is_connected("companion"), "connected", 60)
        return f"{stopped['detail']}; {stopped['hint']}; {again['detail']}; {self.s.holds_a_grant()}"

    def _doctor(self, name: str, code: int | None = None) -> Finding:
        """Return one line of what doctor finds."""
        ran = self.s.command("companion doctor --json", check=False)
        expect(code is None or ran.code == code, ran)
        found: Finding
        (found,) = (check for check in json.loads(ran.out)["checks"] if check["name"] == name)
        return found
