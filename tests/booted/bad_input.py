"""What may be wrong on a device, and what the journal then says: a clear line, no crash loop, no lost grant."""

from __future__ import annotations

from collections.abc import Callable

from tests.booted.report import Report, expect
from tests.booted.services import CA, STAND_IN, Services

UNIT = "token-relay-companion.service"
HOME = "/var/lib/token-relay/companion"
CREDENTIAL = "/etc/credstore.encrypted/token-relay-companion"
CONFIG = "/etc/token-relay/companion.toml"
POLICY = "/etc/token-relay/policy.toml"
MARK = "/run/systemd/timesync/synchronized"
TRIES_MAX = 2  # by a drop-in, to save time; the story checks the unit's own number
FORGE = """\
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
ca, good, first, last, out = sys.argv[1:]
key = serialization.load_pem_private_key(Path(ca, "ca.key").read_bytes(), None)
old = x509.load_pem_x509_certificate(Path(good).read_bytes())
now = datetime.now(UTC)
new = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer).public_key(old.public_key())
new = new.serial_number(x509.random_serial_number())
new = new.not_valid_before(now + timedelta(days=int(first))).not_valid_after(now + timedelta(days=int(last)))
for extension in old.extensions:
    new = new.add_extension(extension.value, extension.critical)
Path(out).write_bytes(new.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
"""


class BadInput:
    """Each case breaks one thing, looks, mends it, and makes sure that the grant is as it was."""

    def __init__(self, services: Services, report: Report) -> None:
        self.s = services
        self.report = report

    def all(self) -> None:
        """All cases, after a story that has left the companion with a grant."""
        self.s.drop_in(UNIT, "tries", f"[Unit]\nStartLimitBurst={TRIES_MAX}\n")
        self._certificates()
        self._keys()
        self._policies()
        self.s.drop_in(UNIT, "tries", "")
        self._surroundings()

    def _case(
        self,
        name: str,
        wrong: str,
        mend: str,
        *words: str,
        stays_up: bool,
        also: Callable[[], str] | None = None,
        seconds: float = 30.0,
        environment: str = "",
    ) -> None:
        self.report.check(
            f"bad input: {name}", lambda: self._try(wrong, mend, words, stays_up, also, seconds, environment)
        )

    def _try(
        self,
        wrong: str,
        mend: str,
        words: tuple[str, ...],
        stays_up: bool,
        also: Callable[[], str] | None,
        seconds: float,
        environment: str,
    ) -> str:
        before = self.s.holds_a_grant()
        since = self.s.cursor()
        try:
            self.s.run(wrong)
            if environment:
                self.s.drop_in(UNIT, "case", f"[Service]\n{environment}\n")
            self.s.try_restart("companion")
            line = self.s.said(UNIT, since, *words, seconds=seconds)
            if stays_up:
                expect(self.s.is_active(UNIT), "the companion is not up")
                expect(self.s.show(UNIT, "NRestarts") == "0", "it was restarted")
                self.s.token()
            else:
                self.s.until(lambda: self.s.show(UNIT, "ActiveState") == "failed", "it stays down", 60)
                tries = self.s.journal(UNIT, since).count("Main process exited")
                expect(1 <= tries <= TRIES_MAX, f"{tries} tries")
                line += f" ({tries} tries)"
            if also is not None:
                line += "; " + also()
        finally:
            self.s.run(mend)
            if environment:
                self.s.drop_in(UNIT, "case", "")
            self.s.restart("companion")
            self.s.until(lambda: self.s.is_connected("companion"), "connected again", 60)
        after = self.s.holds_a_grant()
        self.s.token(fresh=True)
        expect(before == after, f"{before}, then {after}")
        return line

    # -- certificates

    def _certificates(self) -> None:
        self.s.run("cat > /root/forge.py", text=FORGE)
        good = f"{CA}/good-companion.pem"
        self.s.run(f"cp {HOME}/device.pem {good}")
        forge = f"/opt/token-relay/bin/python /root/forge.py {CA} {good}"
        put = f"install -m 0644 /root/bad.pem {HOME}/device.pem"
        mend = f"install -m 0644 {good} {HOME}/device.pem"
        self._case(
            "expired certificate",
            f"{forge} -100 -10 /root/bad.pem && {put}",
            mend,
            "certificate",
            "expired",
            stays_up=True,
        )
        self._case(
            "certificate that is not valid yet",
            f"{forge} 10 100 /root/bad.pem && {put}",
            mend,
            "not",
            "valid",
            stays_up=True,
        )
        other = "/var/lib/other-ca"
        self._case(
            "certificate of another CA",
            f"token-relay certs init --dir {other} >/dev/null 2>&1; "
            f"token-relay certs sign --dir {other} {HOME}/device.csr --out /root/bad.pem && {put}",
            mend,
            "is of another CA",
            stays_up=True,
        )
        self._case(
            "revoked certificate",
            f"cp -a {CA} /root/ca-before && token-relay certs revoke --dir {CA} "
            f"$(openssl x509 -in {good} -noout -subject | sed 's/.*CN *= *//') && systemctl restart mosquitto",
            f"rm -rf {CA} && mv /root/ca-before {CA} && systemctl restart mosquitto",
            "revoked, or the broker trusts another CA",
            stays_up=True,
        )
        broker = f"{CA}/broker/broker.pem"
        self._case(
            "expired certificate of the broker",
            f"cp -a {broker} /root/broker.pem && /opt/token-relay/bin/python /root/forge.py {CA} {broker} -100 -10 "
            f"/root/bad.pem && cat /root/bad.pem > {broker} && systemctl restart mosquitto",
            f"cat /root/broker.pem > {broker} && systemctl restart mosquitto",
            "expired",
            "certs renew",
            stays_up=True,
        )
        self._case(
            "broker of another CA",
            f"cp {HOME}/ca.pem /root/ca.pem && install -m 0644 {other}/ca.pem {HOME}/ca.pem",
            f"install -m 0644 /root/ca.pem {HOME}/ca.pem",
            "bring that CA's ca.pem",
            stays_up=True,
        )
        self._case(
            "no certificate at all",
            f"mv {HOME}/device.pem /root/away.pem",
            f"mv /root/away.pem {HOME}/device.pem",
            "device.pem",
            stays_up=True,
        )

    # -- the vault's key

    def _keys(self) -> None:
        is_emulated = self.s.machine.is_emulated  # then systemd passes no credentials, and files stand in for them
        place = f"{STAND_IN}/token-relay-companion" if is_emulated else CREDENTIAL
        seal = f"cat > {place}" if is_emulated else f"systemd-creds encrypt --name=token-relay-companion - {place}"
        away, back = f"mv {place} /root/credential", f"mv -f /root/credential {place}"
        self._case("missing credential", away, back, "credential token-relay-companion is missing", stays_up=False)
        self._case(
            "wrong credential", f"{away} && head -c 32 /dev/urandom | {seal}", back, "wrong vault key", stays_up=False
        )
        self._case("credential that is no key", f"{away} && echo short | {seal}", back, "is not a key", stays_up=False)
        if is_emulated:
            self.report.note("emulated", "not seen: credential of another name, damaged credential")
        else:
            other = f"systemd-creds encrypt --name=other - {place}"
            self._case(
                "credential of another name",
                f"{away} && head -c 32 /dev/urandom | {other}",
                back,
                "credentials",
                stays_up=False,
            )
            self._case("damaged credential", f"{away} && echo nonsense > {place}", back, "credentials", stays_up=False)
        key = f"{HOME}/vault.key"
        config = f"cp -p {CONFIG} /root/companion.toml && sed -i 's|^credential = .*|key_file = \"{key}\"|' {CONFIG}"
        mend = f"rm -f {key} && mv -f /root/companion.toml {CONFIG}"
        make = f"head -c 32 /dev/urandom > {key}; chown --reference={HOME}/vault.db {key}"
        self._case("missing key file", config, mend, "vault.key", stays_up=False)
        self._case(
            "group-readable key file", f"{config}; {make}; chmod 0640 {key}", mend, "vault.key", "chmod", stays_up=False
        )
        self._case(
            "unreadable key file",
            f"{config}; {make}; chown root: {key}; chmod 0600 {key}",
            mend,
            "vault.key",
            stays_up=False,
        )
        self._case("wrong key file", f"{config}; {make}; chmod 0600 {key}", mend, "wrong vault key", stays_up=False)

    # -- policy and configuration

    def _policies(self) -> None:
        save, back = f"cp -p {POLICY} /root/policy.toml", f"rm -f {POLICY}; cp -p /root/policy.toml {POLICY}"
        self._case(
            "policy that everybody may write",
            f"{save}; chmod 0666 {POLICY}",
            back,
            "policy.toml",
            "chmod",
            stays_up=False,
        )
        self._case(
            "policy of another user", f"{save}; chown alice {POLICY}", back, "policy.toml", "uid", stays_up=False
        )
        self._case(
            "policy that is a FIFO",
            f"{save}; rm {POLICY}; mkfifo {POLICY}",
            back,
            "policy.toml",
            "regular",
            stays_up=False,
        )
        self._case(
            "policy with a million brackets",
            f"{save}; python3 -c \"print('a = ' + '[' * 60000)\" > {POLICY}",
            back,
            "policy.toml",
            stays_up=False,
        )
        self._case(
            "policy for everybody whom the kernel cannot name",
            f"{save}; printf '[[allow]]\\nuid = 65534\\n' > {POLICY}",
            back,
            "65534",
            stays_up=False,
        )
        self.report.check("bad input: hostile policy at a reload: refused, the former stays in force", self._reload)
        save, back = f"cp -p {CONFIG} /root/companion.toml", f"cp -p /root/companion.toml {CONFIG}"
        self._case(
            "misspelt setting", f"{save}; sed -i 's|^url = |ulr = |' {CONFIG}", back, "did you mean", stays_up=False
        )
        self._case("configuration that others may write", f"{save}; chmod 0666 {CONFIG}", back, "chmod", stays_up=False)

    def _reload(self) -> str:
        since = self.s.cursor()
        self.s.run(f"cp -p {POLICY} /root/policy.toml; chmod 0666 {POLICY}; systemctl reload {UNIT}")
        try:
            line = self.s.said(UNIT, since, "reload_refused", "policy.toml")
            self.s.token()
            answer = self.s.run("python3 /usr/local/bin/app", user="bob").out
            expect(answer.startswith("200 "), answer)
        finally:
            self.s.run(f"cp -p /root/policy.toml {POLICY}; chmod 0644 {POLICY}; systemctl reload {UNIT}")
        return line

    # -- clock, network, sockets

    def _surroundings(self) -> None:
        library = self.s.run("find /usr/lib -name libfaketime.so.1 | head -1").out.strip()
        self._case(
            "clock in 1970",
            f"rm {MARK}",
            f"touch {MARK}",
            "the clock says 1970",
            stays_up=True,
            environment=f"Environment=LD_PRELOAD={library} FAKETIME_DONT_FAKE_MONOTONIC=1\n"
            'Environment="FAKETIME=@1970-01-02 00:00:00"',
            also=lambda: self.s.command("companion status").out.strip().splitlines()[-1],
        )
        self.report.check("bad input: no network at the start", self._no_network)
        self.report.check("bad input: broker away, long", self._no_broker)
        self.report.check("bad input: sockets of another user", self._socket_of_another)
        self.report.check("bad input: disk full at the start and while it runs", self._full_disk)

    def _no_network(self) -> str:
        self.s.run(f"systemctl stop {UNIT} && ip link set lo down")
        since = self.s.cursor()
        try:
            self.s.run(f"systemctl start {UNIT}")
            self.s.token()
            fresh = self.s.command("companion token --scope openid", check=False)
            line = self.s.said(UNIT, since, "broker", seconds=30)
        finally:
            self.s.run("ip link set lo up")
        self.s.until(lambda: self.s.is_connected("companion"), "connected", 90)
        self.s.token(fresh=True)
        expect(self.s.show(UNIT, "NRestarts") == "0", "restarted")
        return f"{line}; {fresh.text.strip()[:80]}; {self.s.holds_a_grant()}"

    def _no_broker(self) -> str:
        since = self.s.cursor()
        self.s.run("systemctl stop mosquitto")
        try:
            line = self.s.said(UNIT, since, "broker", seconds=20)
            self.s.run("sleep 60", timeout_s=120)
            self.s.token(fresh=True)
            lines = len(self.s.journal(UNIT, since).splitlines())
            expect(lines < 40, f"{lines} lines in a minute")
        finally:
            self.s.run("systemctl start mosquitto")
        self.s.until(lambda: self.s.is_connected("companion"), "connected again", 120)
        return f"{line}; {lines} lines in a minute; {self.s.holds_a_grant()}"

    def _socket_of_another(self) -> str:
        make = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print(1)"
        for place in (
            "/run/token-relay/companion/token.sock",
            "/run/token-relay/phone/x.sock",
            "/run/token-relay/x.sock",
        ):
            ran = self.s.run(f"python3 -c '{make}' {place}", user="alice", check=False)
            expect(ran.code != 0 and ("Permission denied" in ran.err or "in use" in ran.err), ran)
        self.s.run(f"systemctl reset-failed {UNIT}", check=False)
        # A socket already lies where the socket unit wants its own: the service manager replaces it.
        self.s.run(f"systemctl stop {UNIT} token-relay-companion.socket")
        self.s.run(f"python3 -c '{make}' /run/token-relay/companion/token.sock")
        self.s.run(f"systemctl start {UNIT}")
        self.s.token()
        mine = "/home/alice/agent"
        ran = self.s.command(
            f"companion init --home {mine} --broker mqtt://127.0.0.1:1 && token-relay companion run --home {mine} "
            "--socket /run/token-relay/companion",
            user="alice",
            check=False,
        )
        expect(ran.code == 2 and "listen" in ran.err, ran)
        return ran.err.strip().splitlines()[-1]

    def _full_disk(self) -> str:
        self.s.run(f"systemctl stop {UNIT}")
        self.s.run(
            "mkdir -p /run/small && mount -t tmpfs -o size=400k,mode=0700 tmpfs /run/small && "
            f"cp -a {HOME}/. /run/small"
        )
        self.s.run(
            f"chown --reference={HOME}/vault.db /run/small && "
            "mount --bind /run/small /var/lib/private/token-relay/companion"
        )
        self.s.run(f"head -c 1m /dev/zero > {HOME}/filler 2>/dev/null || true; df {HOME}")
        since = self.s.cursor()
        try:
            self.s.try_restart("companion")
            self.s.token(check=False)
            line = self.s.command("companion token --force-refresh", check=False).text
            said = self.s.journal(UNIT, since)
        finally:
            self.s.run(f"rm -f {HOME}/filler")
        self.s.until(lambda: self.s.token(fresh=True, check=False).code == 0, "a token once there is room", 60)
        grant = self.s.holds_a_grant()
        self.s.run(f"systemctl stop {UNIT}")
        self.s.run(f"umount /var/lib/private/token-relay/companion && cp -a /run/small/. {HOME}/ && umount /run/small")
        self.s.restart("companion")
        expect("no room to write" in said, said)
        return f"{line.strip().splitlines()[0][:80]}; no room to write …; {grant}"
