"""The story that must hold: installed from the wheel, enrolled, paired, handed off, and what may happen to it."""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial

from tests.booted.report import Report, expect
from tests.booted.services import AGENTS, CA, CLIENT, STAND_IN, Services
from token_relay.sandbox.marked_tokens import find_marked

POLICY = "/etc/token-relay/policy.toml"
APP = """\
import http.client, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/token-relay/companion/token.sock")
connection.request("GET", "/v1/token?scope=openid")
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


class Story:
    """The checks in their order; each relies on those before it."""

    def __init__(self, services: Services, report: Report) -> None:
        self.s = services
        self.report = report
        self.ids: dict[str, str] = {}

    # -- installation

    def install(self) -> bool:
        """Everything without which nothing else can be seen."""
        steps = (
            ("three commands from the wheel install program and units", self._three_commands),
            ("installing once more changes nothing", self._second_time),
            ("systemd-analyze verify finds nothing in the installed units", self._verify),
            ("exposure as systemd scores it: companion <= 1.2, phone <= 0.9", self._exposure),
            ("a start without a key says how to make one, and ends after six tries", self._without_a_key),
            ("broker with mutual TLS from `token-relay certs`", self._broker),
            ("sandbox runs as a unit", self._sandbox),
            ("credentials by systemd-creds; both agents start with an empty home", self._first_start),
            ("signed certificates are taken up without a restart", self._enrol),
        )
        return all([self.report.check(name, act) for name, act in steps])

    def _three_commands(self) -> str:
        run = self.s.run
        # As systemd-timesyncd says that the clock is right: it would ask the Internet.
        run(
            "echo 'f /run/systemd/timesync/synchronized' > /etc/tmpfiles.d/clock.conf && "
            "systemd-tmpfiles --create clock.conf"
        )
        run("useradd -m alice && useradd -m bob && useradd -m carol")
        run("python3 -m venv /opt/token-relay", timeout_s=300)
        run(
            "/opt/token-relay/bin/pip install -q --no-index --find-links /wheels -c /wheels/constraints.txt "
            "token-relay",
            timeout_s=600,
        )
        out = run("/opt/token-relay/bin/token-relay service install").text
        expect("systemctl enable --now token-relay-companion" in out, out)
        expect(run("getent group token-relay", check=False).code == 0, "the group was not made")
        typed = run("ls /opt/token-relay/lib/python3.*/site-packages/*/py.typed").out
        expect("/token_relay/py.typed" in typed, typed)
        return run("token-relay --version").out.strip()

    def _stand_in(self) -> None:
        """Under qemu-user systemd can neither pass credentials nor make user namespaces: clone(2) is not all there."""
        run, report = self.s.run, self.report
        run(f"install -d -m 0755 {STAND_IN}")
        for kind in (*AGENTS, "sandbox"):
            text = "[Service]\nPrivateUsers=no\n"
            if kind != "sandbox":
                text += f"LoadCredentialEncrypted=\nEnvironment=CREDENTIALS_DIRECTORY={STAND_IN}\n"
            if kind == "phone":
                text += f"BindReadOnlyPaths={STAND_IN}\n"
            place = f"/etc/systemd/system/token-relay-{kind}.service.d"
            run(f"mkdir -p {place} && cat > {place}/emulated.conf", text=text)
        run("systemctl daemon-reload")
        report.note(
            "emulated", "by drop-in: PrivateUsers=no, and the credential is a file; not seen: LoadCredentialEncrypted="
        )

    def _second_time(self) -> str:
        tree = "find /etc/token-relay /usr/local /opt/token-relay/bin -printf '%p %m %s %T@ %l\\n' | sort | sha256sum"
        before = self.s.run(tree).out
        out = self.s.run("token-relay service install").out
        expect(self.s.run(tree).out == before, out)
        return out.strip()

    def _verify(self) -> str:
        units = "token-relay-companion.service token-relay-companion.socket token-relay-companion-control.socket"
        ran = self.s.run(
            f"systemd-analyze verify --man=no {units} token-relay-phone.service token-relay-sandbox.service"
        )
        expect(ran.text.strip() == "", ran)
        return "clean"

    def _exposure(self) -> str:
        found = {}
        for kind in (*AGENTS, "sandbox"):
            place = f"/usr/local/lib/systemd/system/token-relay-{kind}.service"
            out = self.s.run(f"systemd-analyze security --offline=true --no-pager {place}").out
            found[kind] = float(re.search(r"Overall exposure level .*: ([0-9.]+)", out)[1])  # type: ignore[index]  # shown if not
        expect(found["companion"] <= 1.2 and found["phone"] <= 0.9, found)
        if self.s.machine.is_emulated:
            self._stand_in()
        return ", ".join(f"{kind} {value}" for kind, value in found.items())

    def _without_a_key(self) -> str:
        since = self.s.cursor()
        self.s.run("sed -i 's|^url = .*|url = \"mqtts://localhost:8883\"|' /etc/token-relay/companion.toml")
        self.s.try_restart("companion")
        line = self.s.said("token-relay-companion.service", since, "credential")
        self.s.said("token-relay-companion.service", since, "Start request repeated too quickly", seconds=40)
        said = self.s.journal("token-relay-companion.service", since)
        expect(said.count("is missing") <= 6, said)
        expect("systemd-creds encrypt" in said, said)
        self.s.run("systemctl stop token-relay-companion.service", check=False)
        expect(
            self.s.run("ls -A /var/lib/token-relay/companion").out.strip() in ("", ".first-start"), "a home was made"
        )
        return line

    def _broker(self) -> str:
        self.s.command(f"certs init --dir {CA} --host localhost --host 127.0.0.1")
        self.s.run("mkdir -p /etc/systemd/system/mosquitto.service.d")
        drop_in = f"[Service]\nExecStart=\nExecStart=/usr/sbin/mosquitto -c {CA}/broker/mosquitto.conf\n"
        self.s.run("cat > /etc/systemd/system/mosquitto.service.d/token-relay.conf", text=drop_in)
        self.s.run(
            "systemctl daemon-reload && systemctl restart mosquitto && sleep 0.5 && systemctl is-active mosquitto"
        )
        return self.s.run("mosquitto -h | head -1", check=False).out.strip()

    def _sandbox(self) -> str:
        self.s.run("systemctl enable --now token-relay-sandbox.service")
        out = self.s.run("curl -fsS http://127.0.0.1:8400/contoso/v2.0/.well-known/openid-configuration").out
        return str(json.loads(out)["issuer"])

    def _first_start(self) -> str:
        run = self.s.run
        settings = {
            'url = "https://provider.invalid"': 'url = "http://127.0.0.1:8400"',
            'url = "mqtts://broker.invalid:8883"': 'url = "mqtts://localhost:8883"',
            "client_id = .*": f'client_id = "{CLIENT}"',
            "# profile =.*": 'profile = "entra"',
            "# tenant =.*": 'tenant = "contoso"',
            "# allow_refresh_token_access = .*": "allow_refresh_token_access = true",
            "# hosts = .*": 'hosts = ["127.0.0.1:8400"]',
        }
        script = "; ".join(f"s|^{old}$|{new}|" for old, new in settings.items())
        run(f"sed -i '{script}' /etc/token-relay/phone.toml /etc/token-relay/companion.toml")
        for kind in AGENTS:
            sealed = f"/etc/credstore.encrypted/token-relay-{kind}"
            run(f"head -c 32 /dev/urandom | systemd-creds encrypt - {sealed}")
            if self.s.machine.is_emulated:
                self.s.stand_in(kind)
            run(f"systemctl reset-failed token-relay-{kind}.service", check=False)
            run(f"systemctl enable --now token-relay-{kind}.service")
            self.ids[kind] = str(self.s.json(f"{kind} status")["device_id"])
            (home,) = run(f"stat -c '%a %U' /var/lib/token-relay/{kind}/").out.split("\n")[:1]
            expect(home.startswith("700 "), home)
        return " ".join(self.ids.values())

    def _enrol(self) -> str:
        for kind in AGENTS:
            home = f"/var/lib/token-relay/{kind}"
            subject = self.s.run(f"openssl req -in {home}/device.csr -noout -subject").out
            expect(self.ids[kind] in subject, subject)
            self.s.command(f"certs sign --dir {CA} {home}/device.csr --out {home}/device.pem")
            self.s.run(f"install -m 0644 {CA}/ca.pem {home}/ca.pem")
        for kind in AGENTS:
            self.s.until(partial(self.s.is_connected, kind), f"{kind} connected", 70)
            expect(
                self.s.show(f"token-relay-{kind}.service", "NRestarts") == "0",
                self.s.run(f"journalctl -u token-relay-{kind} -o cat --no-pager | tail -25").out,
            )
        return "connected"

    # -- the ordinary life

    def life(self) -> None:
        """Pair, hand off, use, refresh; who may and who may not."""
        check = self.report.check
        check("pair", self._pair)
        check("sign in and hand off", self._sign_in_and_hand_off)
        check("a token for root; STATUS= has counts only", self._token)
        check("refresh with the phone away", self._phone_away)
        check("a user outside the group is told why", self._outsider)
        check("a member without a rule is denied; the line to add is named, and works after a reload", self._member)
        check("a rule for one user is none for another", self._other_member)
        check("neither argv nor environment nor other users' eyes: no secret, no access", self._no_secrets)
        check("doctor finds nothing wrong", self._doctor)
        check("no core dumps, not dumpable, no capabilities, no new privileges", self._hardened)
        if self.s.machine.is_emulated:
            self.report.note("emulated", "not seen: IPAddressDeny=, for which qemu-user has no bpf(2)")
        else:
            check("an address outside an IPAddressAllow= drop-in cannot be reached", self._fixed_network)

    def _pair(self) -> str:
        invitation = self.s.command("companion pair --no-wait --no-qr").out.strip().splitlines()[-1]
        out = self.s.command(f"phone pair {invitation} --yes").out
        self.s.until(lambda: self.s.json("companion status")["phones"], "a phone in the companion's status")
        return out

    def _sign_in_and_hand_off(self) -> str:
        self.s.sign_in()
        return f"{self.s.hand_off()}; {self.s.holds_a_grant()}"

    def _token(self) -> str:
        expect(self.s.token().out.count(".") == 2, "that is not a token")
        self.s.restart("companion")
        self.s.token()
        return self.s.until(lambda: self.s.show("token-relay-companion.service", "StatusText"), "a status")

    def _phone_away(self) -> str:
        self.s.run("systemctl stop token-relay-phone.service")
        first, second = self.s.token().out, self.s.token(fresh=True).out
        expect(first != second, "the same token")
        self.s.run("systemctl start token-relay-phone.service")
        return self.s.holds_a_grant()

    def _outsider(self) -> str:
        ran = self.s.command("companion token", user="alice", check=False)
        expect(ran.code == 5 and "join group token-relay" in ran.err, ran)
        ran = self.s.command("companion status", user="alice", check=False)
        expect(ran.code == 5 and "use sudo" in ran.err, ran)
        ran = self.s.run(
            "touch /run/token-relay/companion/x /run/token-relay/x; ls /var/lib/token-relay/companion/",
            user="alice",
            check=False,
        )
        expect(ran.err.count("Permission denied") == 3, ran)
        return self.s.command("companion token", user="alice", check=False).err

    def _member(self) -> str:
        self.s.run("usermod -aG token-relay bob && usermod -aG token-relay carol")
        uid = self.s.run("id -u bob").out.strip()
        self.s.run("cat > /usr/local/bin/app", text=APP)
        answer = self.s.run("python3 /usr/local/bin/app", user="bob").out
        expect(answer.startswith("403 ") and f"uid = {uid}" in answer, answer)
        body = json.loads(answer.split(" ", 1)[1])
        lines = str(body["action"]).split(":\n", 1)[1]
        since = self.s.cursor()
        self.s.run(f"cat >> {POLICY}", text="\n" + lines + "\n")
        self.s.run("systemctl reload token-relay-companion.service")
        self.s.said("token-relay-companion.service", since, "policy_reloaded")
        answer = self.s.run("python3 /usr/local/bin/app", user="bob").out
        expect(answer.startswith("200 "), answer)
        return lines

    def _other_member(self) -> str:
        since = self.s.cursor()
        answer = self.s.run("python3 /usr/local/bin/app", user="carol").out
        uid = self.s.run("id -u carol").out.strip()
        expect(answer.startswith("403 ") and f"uid {uid}" in answer, answer)
        wide = self.s.command("companion token", user="bob", check=False)
        expect(wide.code == 5 and "scope" in wide.err, wide)
        return self.s.said("token-relay-companion.service", since, "token_denied", uid)

    def _no_secrets(self) -> str:
        pid = self.s.show("token-relay-companion.service", "MainPID")
        own = self.s.run(f"tr '\\0' '\\n' < /proc/{pid}/environ; tr '\\0' ' ' < /proc/{pid}/cmdline").out
        expect("CREDENTIALS_DIRECTORY" in own, own)
        for user in ("alice", "bob"):
            ran = self.s.run(f"cat /proc/{pid}/environ /proc/{pid}/mem", user=user, check=False)
            expect(ran.err.count("Permission denied") == 2, ran)
        key = self.s.run(
            "systemd-creds decrypt /etc/credstore.encrypted/token-relay-companion - | xxd -p -c 64 || true"
        ).out
        expect(not key.strip() or key.strip() not in own, "the vault's key stands in the environment")
        return own.splitlines()[-1]

    def _doctor(self) -> str:
        found = []
        for kind in AGENTS:
            ran = self.s.command(f"{kind} doctor", check=False)
            # Outside the unit it asks the kernel about the clock, and that is the host's.
            bad = [line for line in ran.out.splitlines() if line.startswith("FAIL") and line.split()[1] != "clock"]
            expect(not bad and "agent" in ran.out, bad or ran)
            found.append(f"{kind}: {len(ran.out.splitlines())} lines")
        return "; ".join(found)

    def _hardened(self) -> str:
        found = []
        for kind in AGENTS:
            pid = self.s.show(f"token-relay-{kind}.service", "MainPID")
            status = self.s.run(f"cat /proc/{pid}/status").out
            limits = self.s.run(f"grep core /proc/{pid}/limits").out.split()
            expect(limits[4:6] == ["0", "0"], limits)
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            expect(
                fields["NoNewPrivs"] == "1" and int(fields["CapEff"], 16) == 0 and int(fields["CapBnd"], 16) == 0,
                status,
            )
            owner = self.s.run(f"stat -c %u /proc/{pid}/fd").out.strip()
            expect(owner == "0", f"/proc/{pid}/fd belongs to {owner}: the process is dumpable")
            found.append(f"{kind}: uid {fields['Uid'].split()[0]}, seccomp {fields['Seccomp']}")
        return "; ".join(found)

    def _fixed_network(self) -> str:
        unit = "token-relay-companion.service"
        self.s.drop_in(unit, "net", "[Service]\nIPAddressDeny=any\nIPAddressAllow=192.0.2.7\n")
        self.s.restart("companion")
        try:
            cached = self.s.token().out
            expect(self.s.token(fresh=True).out == cached, "the provider was reached")
        finally:
            self.s.drop_in(unit, "net", "")
        self.s.restart("companion")
        self.s.token(fresh=True)
        return self.s.holds_a_grant()

    # -- what comes over it

    def blows(self) -> None:
        """Killed, hanging, stopped, rebooted, revoked."""
        check = self.report.check
        for kind in AGENTS:
            check(f"{kind}: kill -9, back by itself", partial(self._killed, kind))
        for kind in AGENTS:
            check(f"{kind}: hangs (SIGSTOP), the watchdog bites", partial(self._hangs, kind))
        for kind in AGENTS:
            check(f"{kind}: a clean stop within 2 s", partial(self._stops, kind))
        check("stopped: the next question starts the companion (socket activation)", self._activated)
        check("revoke", self._revoke)

    def _killed(self, kind: str) -> str:
        unit = f"token-relay-{kind}.service"
        before, pid = self.s.holds_a_grant(), self.s.show(unit, "MainPID")
        self.s.run(f"systemctl kill -s KILL {unit}")
        self.s.until(lambda: self.s.show(unit, "MainPID") not in ("0", pid) and self.s.is_active(unit), "back")
        self.s.token(fresh=True)
        self.s.until(lambda: self.s.is_connected(kind), "connected")
        return f"{before}; then {self.s.holds_a_grant()}; NRestarts {self.s.show(unit, 'NRestarts')}"

    def _hangs(self, kind: str) -> str:
        unit = f"token-relay-{kind}.service"
        self.s.drop_in(unit, "watchdog", "[Service]\nWatchdogSec=4\n")
        self.s.restart(kind)
        since, pid = self.s.cursor(), self.s.show(unit, "MainPID")
        self.s.run(f"systemctl kill -s STOP {unit}")
        line = self.s.said(unit, since, "Watchdog timeout", seconds=30)
        self.s.until(lambda: self.s.show(unit, "MainPID") not in ("0", pid) and self.s.is_active(unit), "back")
        self.s.token(fresh=True)
        self.s.drop_in(unit, "watchdog", "")
        self.s.restart(kind)
        return f"{line}; {self.s.holds_a_grant()}"

    def _stops(self, kind: str) -> str:
        unit = f"token-relay-{kind}.service"
        self.s.run(f"systemctl restart {unit}")
        self.s.until(lambda: self.s.is_connected(kind), "connected")
        took = self.s.run(f"a=$(date +%s%N); systemctl stop {unit}; echo $(( ($(date +%s%N) - a) / 1000000 ))").out
        result = self.s.show(unit, "Result")
        expect(int(took) <= 2000 * self.s.machine.slowness and result == "success", f"{took} ms, {result}")
        self.s.run(f"systemctl start {unit}")
        return f"{took.strip()} ms"

    def _activated(self) -> str:
        unit = "token-relay-companion.service"
        self.s.run(f"systemctl stop {unit}")
        self.s.token()
        expect(self.s.is_active(unit), "not active")
        return self.s.holds_a_grant()

    def _revoke(self) -> str:
        device = self.s.json("companion status")["device_id"]
        out = self.s.command(f"phone revoke {device} --yes --wait 20").out
        ran = self.s.token(check=False)
        expect(ran.code == 4 and "reauth_required" in ran.text, ran)
        return f"{out.strip()}; then: {ran.err.strip().splitlines()[0]}"

    # -- a reboot, with the provider outside

    def reboot(self, program: list[str]) -> None:
        """The sandbox keeps its state in memory, so for this it runs outside, in the machine's network."""
        self.s.run("systemctl disable --now token-relay-sandbox.service")
        outside = self.s.machine.outside_process(*program, "sandbox", "--mqtt-port", "0")
        try:
            self.report.check("reboot: the grant is there, token from the cache, then a refresh", self._reboot)
            self.report.check("revoke after the reboot", self._revoke)
        finally:
            outside.terminate()
            try:
                outside.wait(10)
            except subprocess.TimeoutExpired:
                outside.kill()
        self.s.run("systemctl enable --now token-relay-sandbox.service")
        self.report.check("no token of the sandbox in the whole journal, nor in clear on the disk", self._no_leaks)

    def _no_leaks(self) -> str:
        """Every token of the sandbox carries a mark, and so do its encodings; the sandbox's own lines have none."""
        journal = self.s.run("journalctl -o export --no-pager | cat", timeout_s=300).out.encode(errors="replace")
        expect(len(journal) > 10_000 and not find_marked(journal), [leak.encoding for leak in find_marked(journal)[:5]])
        seen = 0
        for place in (
            "var/lib/private/token-relay",
            "var/lib/token-relay",
            "var/log",
            "etc/token-relay",
            "var/lib/systemd/coredump",
        ):
            for file in (self.s.machine.root / place).rglob("*"):
                if file.is_file() and not file.is_symlink():
                    seen += 1
                    expect(not find_marked(file.read_bytes()), file)
        return f"{len(journal) >> 10} KiB of journal, {seen} files"

    def _reboot(self) -> str:
        self.s.until(
            lambda: self.s.run("curl -fsS http://127.0.0.1:8400/sandbox/events", check=False).code == 0, "sandbox"
        )
        self.s.sign_in()
        self.s.hand_off()
        before = self.s.token().out
        was, generation = self.s.holds_a_grant(), self._generation()
        self.s.machine.reboot()
        for kind in AGENTS:
            self.s.until(partial(self.s.is_active, f"token-relay-{kind}.service"), f"{kind} active")
        # Without a synchronised clock the time without power is unknown: then, and only then, a refresh is due.
        is_synced = self.s.json("companion status")["clock"]["synced"] is True
        expect(is_synced or self.s.machine.is_emulated, "the clock counts as not synchronised")
        after, asked = self.s.token().out, self._generation() - generation
        expect((after == before, asked) == ((True, 0) if is_synced else (False, 1)), f"{is_synced}, {asked} refreshes")
        self.s.token(fresh=True)
        expect(self._generation() - generation == asked + 1, "no refresh")
        for kind in AGENTS:
            self.s.until(partial(self.s.is_connected, kind), f"{kind} connected", 60)
        clock = "clock synchronised: no refresh" if is_synced else "clock not synchronised (the host's): one refresh"
        return f"{was}; {clock}; after it {self.s.holds_a_grant()}"

    def _generation(self) -> int:
        """Return which refresh token of its chain the companion has: this provider gives a new one at each refresh."""
        (grant,) = [row for row in self.s.grants() if row["state"] == "held"]
        return int(grant["generation"])
